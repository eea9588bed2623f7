package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cacheFiles lists what the hot cache has on disk with this ending.
func (s *site) cacheFiles(ending string) (out []string) {
	s.t.Helper()
	must(s.t, filepath.WalkDir(s.cache, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(p, ending) {
			out = append(out, p)
		}
		return err
	}))
	return out
}

// TestCorruptCache: a byte flipped in every file of the hot cache, while the daemon is up
// and while it is down; the readers get the right bytes all the same. R6.
func TestCorruptCache(t *testing.T) {
	s := newSite(t, "journal: {delay: 20ms}\n")
	s.mount()
	want := map[string][]byte{}
	for i := range 8 {
		name := fmt.Sprintf("ctao/dl3/f%d", i)
		want[name] = content(uint64(i+1), 20_000+i*40_000)
		must(t, os.WriteFile(s.path(name), want[name], 0o644))
	}
	s.drain()
	all := func(what string) {
		t.Helper()
		for name, b := range want {
			s.reads(name, b)
		}
		if t.Failed() {
			t.Fatal(what)
		}
	}
	all("at first")
	damage := map[string]func(p string, size int64){
		"a byte flipped": func(p string, size int64) { flip(t, p, size/2) },
		"the end cut":    func(p string, size int64) { must(t, os.Truncate(p, size/2)) },
		"emptied":        func(p string, size int64) { must(t, os.Truncate(p, 0)) },
		"removed":        func(p string, size int64) { must(t, os.Remove(p)) },
	}
	each := func(ending string, f func(p string, size int64)) {
		t.Helper()
		files := s.cacheFiles(ending)
		if len(files) < len(want) {
			t.Fatalf("only %d files %s in the cache", len(files), ending)
		}
		for _, p := range files {
			st, err := os.Stat(p)
			must(t, err)
			if st.Size() > 0 {
				f(p, st.Size())
			}
		}
	}
	s.expect("cache", "corrupt") // that is what this is about
	for how, f := range damage {
		each(".dat", f)
		dropPageCache(t)
		all(how + " in the data while the daemon is up")
		for _, ending := range []string{".dat", ".idx"} {
			s.umount()
			each(ending, f)
			dropPageCache(t)
			s.mount()
			all(how + " in " + ending + " while the daemon is down")
		}
	}
	s.try("cache", "scrub") // it tells of the side files that the start found damaged
	if r := s.try("cache", "scrub"); r.code != 0 {
		t.Errorf("scrub of a sound cache: exit %d\n%s%s", r.code, r.out, r.err)
	}
	for _, r := range s.rows("replicas", "/ctao") {
		if r["state"] != "AVAILABLE" {
			t.Errorf("damage of the cache made a replica %v", r)
		}
	}
}

// dropPageCache makes the kernel ask for everything again, where that is permitted.
func dropPageCache(t testing.TB) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Logf("the page cache stays: %v", err)
	}
}

// TestCorruptJournal: what rots in the journal is never uploaded and never served as if it
// were right; it is kept and listed, and all else goes on. W10.
func TestCorruptJournal(t *testing.T) {
	s := newSite(t, "journal: {delay: 1h}\n")
	s.mount()
	want := map[string][]byte{}
	for i, name := range []string{"whole", "down", "up", "cut", "slot", "record"} {
		want[name] = content(uint64(i+1), 100_000)
		must(t, os.WriteFile(s.path("ctao/dl3", name), want[name], 0o644))
	}
	ids := map[string]string{}
	for _, u := range s.rows("uploads", "ls") {
		ids[filepath.Base(u["path"].(string))] = u["id"].(string)
	}
	data := func(name string) string { return filepath.Join(s.dir, "journal", ids[name]+".data") }
	record := func(name string) string {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(s.dir, "journal", ids[name]+".*"))
		must(t, err)
		all = slices.DeleteFunc(all, func(p string) bool { return strings.HasSuffix(p, ".data") })
		if len(all) != 1 {
			t.Fatalf("records of %s: %v", name, all)
		}
		return all[0]
	}
	flip(t, data("up"), 50_000)
	s.kill()
	flip(t, data("down"), 50_000)
	must(t, os.Truncate(data("cut"), 50_000))
	st, err := os.Stat(record("slot"))
	must(t, err)
	for off := int64(0); off < st.Size()/2; off += 64 {
		flip(t, record("slot"), off) // one of its two slots; the other may be older
	}
	for off := int64(0); off < st.Size(); off += 16 {
		flip(t, record("record"), off)
	}
	s.expect("journal", "unsent file", "upload failed", "changed on disk", "path=/ctao/dl3/")
	s.mount()
	s.reads("ctao/dl3/whole", want["whole"])
	for _, u := range s.rows("uploads", "ls") {
		s.try("uploads", "retry", u["id"].(string)) // those that are damaged refuse
	}
	s.within(30*time.Second, "the whole one safe", func() bool {
		return !slices.ContainsFunc(s.rows("uploads", "ls"), func(u map[string]any) bool { return u["path"] == "/ctao/dl3/whole" })
	})
	listed := s.ok("uploads", "ls", "--json")
	for _, name := range []string{"up", "down", "cut"} {
		if !strings.Contains(listed, `"path":"/ctao/dl3/`+name+`"`) {
			t.Errorf("%s is not listed:\n%s", name, listed)
		}
		b, err := os.ReadFile(s.path("ctao/dl3", name))
		if err == nil {
			t.Errorf("%s is read without an error: %d bytes, right: %v", name, len(b), bytes.Equal(b, want[name]))
		}
	}
	// Whatever became of the two with damaged records, wrong bytes are not among it.
	for _, name := range []string{"slot", "record"} {
		b, err := os.ReadFile(s.path("ctao/dl3", name))
		if err == nil && !bytes.Equal(b, want[name]) {
			t.Errorf("%s: wrong bytes", name)
		}
		if err != nil && !s.kept(want[name]) {
			t.Errorf("%s: %v, and its bytes are nowhere in the journal", name, err)
		}
	}
	for p, got := range tree(t, filepath.Join(s.dir, "rse/LAPALMA-DISK")) {
		name, _, _ := strings.Cut(filepath.Base(p), ".")
		if got != sumOf(want[name]) {
			t.Errorf("wrong bytes of %s were uploaded", name)
		}
	}
}

// kept tells whether some file of the journal holds b.
func (s *site) kept(b []byte) bool {
	sums := tree(s.t, filepath.Join(s.dir, "journal"))
	return slices.Contains(slices.Collect(maps.Values(sums)), sumOf(b))
}

// wrongAtSites names files at the disk storages whose bytes are none of those.
func (s *site) wrongAtSites(want map[string][]byte) (wrong []string) {
	s.t.Helper()
	right := map[string]bool{}
	for _, b := range want {
		right[sumOf(b)] = true
	}
	for _, rse := range []string{"LAPALMA-DISK", "PIC-DISK", "CNAF-DISK"} {
		for p, got := range tree(s.t, filepath.Join(s.dir, "rse", rse)) {
			if !right[got] {
				wrong = append(wrong, filepath.Join(rse, p))
			}
		}
	}
	return wrong
}

// TestRotUnderTheJournal: one bit flips in the log, in data files and in records of unsent
// files while the daemon runs. Readers of what is in the log get the right bytes or EIO;
// those of a data file may get what the disk has until the look before the upload, and EIO
// from then on. The storages never get wrong bytes, before and after kill -9, and what did
// not rot gets safe. W10.
func TestRotUnderTheJournal(t *testing.T) {
	s := newSite(t, "journal: {delay: 3s}\n")
	s.expect("journal", "unsent file", "upload failed", "changed on disk", "path=/ctao/dl3/", "orphans")
	s.mount()
	want := map[string][]byte{}
	write := func(kind string, n, size int) {
		t.Helper()
		for i := range n {
			name := fmt.Sprintf("ctao/dl3/%s%03d", kind, i)
			want[name] = content(uint64(len(want)+1), size+i)
			must(t, os.WriteFile(s.path(name), want[name], 0o644))
		}
	}
	write("small", 200, 3000) // enough for the log to be made
	write("big", 6, 200_000)
	// What lies where: the bytes of a file in the log or in a file of its own.
	flipped := map[string]string{}
	names, err := filepath.Glob(filepath.Join(s.dir, "journal", "*"))
	must(t, err)
	for _, p := range names {
		b, err := os.ReadFile(p)
		if err != nil || len(b) == 0 {
			continue
		}
		for name, x := range want {
			if i := bytes.Index(b, x); i >= 0 && (len(flipped)%2 == 0 || strings.Contains(name, "big")) {
				flip(t, p, int64(i+len(x)/2))
				flipped[name] = filepath.Base(p)
			} else if i >= 0 && strings.HasPrefix(filepath.Base(p), "log-") && flipped[name] == "" {
				flip(t, p, int64(i)-10) // the end of its record
				flipped[name] = filepath.Base(p) + " record"
			}
			if len(flipped) > 60 {
				break
			}
		}
		if strings.HasSuffix(p, ".rec") {
			flip(t, p, 100)
		}
	}
	if len(flipped) < 10 {
		t.Fatalf("only %v could be flipped in %d files", flipped, len(names))
	}
	rotten := map[string]bool{} // in a data file
	for name, where := range flipped {
		rotten[name] = strings.HasSuffix(where, ".data")
	}
	look := func(when string) {
		t.Helper()
		dropPageCache(t)
		right, eio, absent, unseen := 0, 0, 0, 0
		for name, b := range want {
			got, err := os.ReadFile(s.path(name))
			switch {
			case err == nil && bytes.Equal(got, b):
				right++
			case err == nil && rotten[name] && when != "after kill -9":
				unseen++
			case err == nil:
				t.Errorf("%s: %s (flipped in %q): wrong bytes", when, name, flipped[name])
			case errors.Is(err, syscall.EIO):
				eio++
			case errors.Is(err, os.ErrNotExist):
				absent++
			default:
				t.Errorf("%s: %s: %v", when, name, err)
			}
			if err != nil && flipped[name] == "" {
				t.Errorf("%s: %s, which did not rot: %v", when, name, err)
			}
			if absent > 0 && when == "up" {
				t.Errorf("%s: %s is gone", when, name)
			}
		}
		if wrong := s.wrongAtSites(want); len(wrong) > 0 {
			t.Errorf("%s: wrong bytes at the storages: %v", when, wrong)
		}
		t.Logf("%s: %d right, %d EIO, %d absent, %d not yet looked at; %d bits flipped", when, right, eio, absent, unseen, len(flipped))
	}
	look("up")
	s.within(time.Minute, "safe what did not rot", func() bool {
		return !slices.ContainsFunc(s.rows("uploads", "ls"), func(u map[string]any) bool {
			return flipped[strings.TrimPrefix(fmt.Sprint(u["path"]), "/")] == "" && u["state"] != "ABANDONED"
		})
	})
	look("after the uploads")
	s.kill()
	s.mount()
	for _, u := range s.rows("uploads", "ls") {
		s.try("uploads", "retry", u["id"].(string)) // those that are damaged refuse
	}
	s.within(30*time.Second, "a look at every data file that rotted", func() bool {
		for name := range rotten {
			if _, err := os.ReadFile(s.path(name)); rotten[name] && err == nil {
				return false
			}
		}
		return true
	})
	look("after kill -9")
}
