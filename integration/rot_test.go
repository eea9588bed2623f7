package integration

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
