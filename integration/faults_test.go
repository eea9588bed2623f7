package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// threeDisks is a lake.local.yaml whose new files go to all three disks.
const threeDisks = `
journal: {delay: 20ms}
write_rules:
  - {copies: 3, expression: rse_type=DISK}
`

// replicaFile is where the replica of a lake path at a disk RSE lies.
func (s *site) replicaFile(path, rse string) string {
	s.t.Helper()
	for _, r := range s.rows("replicas", path) {
		if r["rse"] == rse {
			return filepath.Join(s.dir, "rse", rse, r["pfn"].(string))
		}
	}
	s.t.Fatalf("%s has no replica at %s", path, rse)
	return ""
}

// flip changes one byte of a file.
func flip(t testing.TB, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	_, rerr := f.ReadAt(b, off)
	_, werr := f.WriteAt([]byte{b[0] ^ 0x40}, off)
	if err := errors.Join(rerr, werr, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// reads wants the right bytes of a file, through a descriptor that was not there before.
func (s *site) reads(path string, want []byte) {
	s.t.Helper()
	b, err := os.ReadFile(s.path(path))
	if err != nil || !bytes.Equal(b, want) {
		s.t.Errorf("%s: %d bytes, %v; want %d bytes, the same: %v", path, len(b), err, len(want), bytes.Equal(b, want))
	}
}

// failsToRead wants EIO, within a time that a user waits.
func (s *site) failsToRead(path string) {
	s.t.Helper()
	began := time.Now()
	b, err := os.ReadFile(s.path(path))
	if !errors.Is(err, syscall.EIO) {
		s.t.Errorf("%s: %d bytes, %v; want EIO", path, len(b), err)
	}
	if d := time.Since(began); d > 15*time.Second {
		s.t.Errorf("%s failed after %v", path, d)
	}
}

func (s *site) xattr(path, name string) string {
	s.t.Helper()
	b := make([]byte, 4096)
	n, err := unix.Getxattr(s.path(path), name, b)
	if err != nil {
		s.t.Errorf("%s of %s: %v", name, path, err)
		return ""
	}
	return string(b[:n])
}

// dropCache ends every local copy, heads and tails too: it takes the cache away while
// nothing is mounted.
func (s *site) dropCache() {
	s.t.Helper()
	s.umount()
	if err := os.RemoveAll(s.cache); err != nil {
		s.t.Fatal(err)
	}
	s.mount()
}

// TestBadReplicas: the next one is used, the bad one is declared and replaced; when all
// are bad the read is an error that says so. R5.
func TestBadReplicas(t *testing.T) {
	s := newSite(t, threeDisks)
	s.mount()
	damage := map[string]func(t testing.TB, p string){
		"missing":   func(t testing.TB, p string) { must(t, os.Remove(p)) },
		"truncated": func(t testing.TB, p string) { must(t, os.Truncate(p, 100_001)) },
		"flipped":   func(t testing.TB, p string) { flip(t, p, 200_000) },
		"longer":    func(t testing.TB, p string) { must(t, appendTo(p, "x")) },
		"empty":     func(t testing.TB, p string) { must(t, os.Truncate(p, 0)) },
		"a folder":  func(t testing.TB, p string) { must(t, errors.Join(os.Remove(p), os.Mkdir(p, 0o700))) },
	}
	want := map[string][]byte{}
	for i, how := range slices.Sorted(maps.Keys(damage)) {
		want[how] = content(uint64(i+50), 300_000)
		must(t, os.WriteFile(s.path("ctao/dl3", how), want[how], 0o644))
	}
	lost := content(99, 300_000)
	must(t, os.WriteFile(s.path("ctao/dl3/lost"), lost, 0o644))
	s.drain()
	for how, f := range damage {
		f(t, s.replicaFile("/ctao/dl3/"+how, "LAPALMA-DISK"))
	}
	for _, rse := range []string{"LAPALMA-DISK", "PIC-DISK", "CNAF-DISK"} {
		flip(t, s.replicaFile("/ctao/dl3/lost", rse), 150_000)
	}
	s.expect("replica declared BAD", "msg=read path=/ctao/dl3/flipped", "path=/ctao/dl3/lost")
	s.dropCache()
	for how, b := range want {
		if how == "flipped" {
			// Found at the end only: who has read wrong bytes by then gets an error, not the rest.
			got, err := os.ReadFile(s.path("ctao/dl3", how))
			if err == nil && !bytes.Equal(got, b) || err != nil && !errors.Is(err, syscall.EIO) {
				t.Errorf("first read of %s: %d bytes, %v", how, len(got), err)
			}
		}
		s.reads("ctao/dl3/"+how, b)
	}
	for how := range want {
		if !strings.Contains(s.log.String(), "replica declared BAD") || !strings.Contains(s.log.String(), "/ctao/dl3/"+how) {
			t.Errorf("%s: no replica was declared bad", how)
		}
	}
	// The rule wants three good copies, so the bad one is made again.
	for how := range want {
		s.within(30*time.Second, how+" repaired", func() bool {
			good := 0
			for _, r := range s.rows("replicas", "/ctao/dl3/"+how) {
				if r["state"] == "AVAILABLE" {
					good++
				}
			}
			return good == 3
		})
		if r := s.try("verify", "/ctao/dl3/"+how); r.code != 0 {
			t.Errorf("verify %s after the repair: exit %d\n%s%s", how, r.code, r.out, r.err)
		}
	}

	s.failsToRead("ctao/dl3/lost")
	if why := s.xattr("ctao/dl3/lost", "user.tarn.error"); !strings.Contains(why, "no good replica") {
		t.Errorf("user.tarn.error of lost: %q", why)
	}
	s.fails(13, []string{"/ctao/dl3/lost", "tarn replicas"}, "cat", "/ctao/dl3/lost")
	for _, r := range s.rows("replicas", "/ctao/dl3/lost") {
		if r["state"] != "BAD" {
			t.Errorf("replica of lost: %v", r)
		}
	}
	// One that is put right again is found by verify, and read.
	flip(t, s.replicaFile("/ctao/dl3/lost", "CNAF-DISK"), 150_000)
	s.fails(13, []string{"2 replicas corrupt"}, "verify", "/ctao/dl3/lost")
	s.reads("ctao/dl3/lost", lost)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func appendTo(p, text string) error {
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// cartridgeWith finds the bytes on the cartridges of PIC-TAPE.
func (s *site) cartridgeWith(b []byte) (path string, off int64) {
	s.t.Helper()
	names, err := filepath.Glob(filepath.Join(s.dir, "rse/PIC-TAPE/cartridges/*"))
	must(s.t, err)
	for _, n := range names {
		all, err := os.ReadFile(n)
		must(s.t, err)
		if i := bytes.Index(all, b); i >= 0 {
			return n, int64(i)
		}
	}
	s.t.Fatal("the bytes are on no cartridge")
	return "", 0
}

// TestRecallFailsForGood: bounded, then EIO with the reason, fast from then on, and tried
// again when somebody asks for it.
func TestRecallFailsForGood(t *testing.T) {
	s := newSite(t, "")
	s.mount()
	src := folder(t, map[string]int{"good": 300_000, "bad": 310_000})
	s.onTape(src, "/ctao/tape")
	good, err := os.ReadFile(filepath.Join(src, "good"))
	must(t, err)
	bad, err := os.ReadFile(filepath.Join(src, "bad"))
	must(t, err)
	tape, off := s.cartridgeWith(bad)
	flip(t, tape, off+155_000)
	s.expect("tape library: recall", "replica declared BAD", "recall failed", "path=/ctao/tape/bad")

	readers := make(chan error, 20)
	began := time.Now()
	for range cap(readers) {
		go func() {
			_, err := os.ReadFile(s.path("ctao/tape/bad"))
			readers <- err
		}()
	}
	for range cap(readers) {
		select {
		case err := <-readers:
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("a reader got %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("readers hang on a recall that fails")
		}
	}
	t.Logf("%d readers failed after %v", cap(readers), time.Since(began).Round(time.Millisecond))
	why := s.xattr("ctao/tape/bad", "user.tarn.error")
	if !strings.Contains(why, "PIC-TAPE") || !strings.Contains(why, "no good replica") {
		t.Errorf("user.tarn.error: %q", why)
	}
	s.reads("ctao/tape/good", good)
	began = time.Now()
	s.failsToRead("ctao/tape/bad")
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("a later read failed after %v", d)
	}
	listed := s.rows("recalls", "ls")
	if len(listed) != 1 {
		t.Fatalf("recalls ls: %v", listed)
	}
	failed, _ := listed[0]["recall"].(map[string]any)
	if failed["phase"] != "FAILED" || !strings.Contains(fmt.Sprint(failed["error"]), "no good replica") {
		t.Fatalf("recalls ls: %v", listed)
	}
	if n := strings.Count(s.log.String(), "path=/ctao/tape/bad"); n > 10 {
		t.Errorf("%d lines of log for one bad file", n)
	}
	flip(t, tape, off+155_000) // put right again
	s.ok("recalls", "retry", failed["id"].(string))
	s.within(15*time.Second, "readable again", func() bool {
		b, err := os.ReadFile(s.path("ctao/tape/bad"))
		return err == nil && bytes.Equal(b, bad)
	})
}

// TestCartridgeAway: a cartridge that is not there makes its files unavailable, never
// lost or absent; they come back with it.
func TestCartridgeAway(t *testing.T) {
	s := newSite(t, "")
	s.mount()
	src := folder(t, map[string]int{"f": 300_000})
	s.onTape(src, "/ctao/tape")
	want, err := os.ReadFile(filepath.Join(src, "f"))
	must(t, err)
	tape, _ := s.cartridgeWith(want)
	s.umount()
	must(t, os.Rename(tape, tape+".away"))
	s.expect("cartridge is missing", "path=/ctao/tape/f", "recall failed")
	s.mount()
	s.sh("test -f ctao/tape/f")
	s.failsToRead("ctao/tape/f")
	for _, r := range s.rows("replicas", "/ctao/tape/f") {
		if r["state"] != "AVAILABLE" {
			t.Errorf("a replica that is only away was declared %v", r)
		}
	}
	s.umount()
	must(t, os.Rename(tape+".away", tape))
	s.mount()
	s.reads("ctao/tape/f", want)
}

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

// steps are system calls of the daemon at which TestKillAtSteps ends it: those that make
// something durable or visible.
var steps = []string{"fdatasync", "fsync", "renameat", "renameat2", "unlinkat", "openat", "pwrite64", "ftruncate", "fallocate", "msync", "mkdirat", "flock"}

// TestKillAtSteps kills the daemon in the middle of a system call of its upload path.
func TestKillAtSteps(t *testing.T) {
	needTools(t, "strace")
	if out, err := exec.Command("strace", "-f", "-e", "inject=none", "true").CombinedOutput(); err != nil && !strings.Contains(string(out), "invalid") {
		missing(t, "strace cannot trace here: %s", out)
	}
	n := rounds(t, 10)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	hits := map[string]int{}
	for i := range n {
		call := steps[rnd.IntN(len(steps))]
		when := 1 + rnd.IntN(10) // of one thread
		if call == "openat" {
			when += rnd.IntN(60)
		}
		s := newSite(t, crashLake)
		s.expect("kept among the orphans.*data file without a record")
		inject := []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, when)}
		w := newWorker(s.path("ctao/dl3"), seed<<24+uint64(i)<<16)
		if err := s.tryMount(inject); err != nil {
			hits["start"]++
		} else {
			for range 30 {
				if err := w.step(); err != nil {
					if !dead(err) {
						t.Errorf("%s %d: %v", call, when, err)
					}
					break
				}
			}
			select {
			case <-s.exited:
				s.daemon = nil
				hits[call]++
			case <-time.After(500 * time.Millisecond):
				s.endTraced()
			}
		}
		s.mount()
		w.check(t)
		s.allSafe(w.dir)
		s.down()
		if t.Failed() {
			t.Fatalf("killed at %s number %d", call, when)
		}
	}
	t.Logf("of %d daemons these died at the step: %v", n, hits)
	if len(hits) == 0 {
		t.Error("no step was hit: the test proves nothing")
	}
}

// endTraced kills the daemon under strace, which then ends by itself.
func (s *site) endTraced() {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "run/daemon.json"))
	if err == nil {
		var pid int
		if _, after, ok := strings.Cut(string(b), `"pid":`); ok {
			fmt.Sscan(strings.TrimLeft(after, " "), &pid)
		}
		if pid > 1 {
			syscall.Kill(pid, syscall.SIGKILL) // an error means that it has ended
		}
	}
	select {
	case <-s.exited:
	case <-time.After(10 * time.Second):
		s.t.Fatal("the traced daemon does not end")
	}
	s.daemon = nil
}

// TestSharedFaultChecks runs the fault scripts that lie beside the project, where they are.
func TestSharedFaultChecks(t *testing.T) {
	checks, err := filepath.Abs("../../shared/checks")
	must(t, err)
	if _, err := os.Stat(filepath.Join(checks, "f-crash.sh")); err != nil {
		t.Skip("the shared checks are not here")
	}
	needRoot(t)
	rel := filepath.Join(t.TempDir(), "rel")
	for p := filepath.Dir(rel); strings.HasPrefix(p, os.TempDir()+"/"); p = filepath.Dir(p) {
		must(t, os.Chmod(p, 0o755))
	}
	adapter, err := filepath.Abs("adapter-tarn.sh")
	must(t, err)
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command("bash", append([]string{filepath.Join(checks, name)}, args...)...)
		cmd.Env = append(os.Environ(), "REL="+rel, "TMPDIR="+filepath.Dir(rel), "TARN="+tarn, "ADAPTER="+adapter, "STRICT=1", "LOGDIR="+filepath.Join(rel, "logs"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			log, _ := os.ReadFile(filepath.Join(rel, "logs", strings.TrimSuffix(name, ".sh")+".log"))
			t.Errorf("%s %v: %v\n%s\n%s", name, args, err, out, lastLines(string(log), 30))
		}
		return string(out)
	}
	// What setup.sh builds, but for the helpers that only other scripts use.
	must(t, os.MkdirAll(filepath.Join(rel, "scratch"), 0o755))
	build := exec.Command("go", "build", "-o", filepath.Join(rel, "build/fscheck"), ".")
	build.Dir = filepath.Join(checks, "src/fscheck")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build fscheck: %v\n%s", err, out)
	}
	for _, out := range []string{run("f-crash.sh", "1"), run("f-crash.sh", "1", "fsync"), run("f-isolation.sh")} {
		t.Log(strings.TrimSpace(out))
	}
}

// usage counts descriptors and threads of the daemon.
func (s *site) usage() (fds int, names []string) {
	s.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", s.daemon.Process.Pid)
	all, err := os.ReadDir(dir)
	must(s.t, err)
	for _, e := range all {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			names = append(names, to)
		}
	}
	slices.Sort(names)
	return len(names), names
}

// TestNoLeaks: after a day's work in small the daemon holds no more than before it.
func TestNoLeaks(t *testing.T) {
	s := newSite(t, "journal: {delay: 10ms}\n")
	s.mount()
	src := folder(t, map[string]int{"a": 50_000, "b": 60_000, "c": 70_000})
	work := func(i int) {
		t.Helper()
		at := fmt.Sprintf("/ctao/work%d", i)
		s.onTape(src, at)
		s.sh(fmt.Sprintf(`cd ctao/work%d; cat a b c >/dev/null; for i in $(seq 20); do echo $i > f$i; done; mv f1 g1; cp f2 f3; echo x >> f4; rm f5
			find . >/dev/null; getfattr -d . a >/dev/null; sha256sum * >/dev/null; timeout 0.05 sleep 1 || true`, i))
		s.ok("stat", at)
		s.ok("verify", at)
		s.ok("evict", at)
		s.drain()
		s.sh(fmt.Sprintf("cat ctao/work%d/* >/dev/null; rm -r ctao/work%d", i, i))
	}
	work(0)
	s.within(20*time.Second, "quiet", func() bool { time.Sleep(200 * time.Millisecond); return true })
	before, was := s.usage()
	for i := 1; i <= 3; i++ {
		work(i)
	}
	var after int
	var now []string
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if after, now = s.usage(); after <= before+3 {
			break
		}
	}
	t.Logf("descriptors %d, then %d", before, after)
	if after > before+3 {
		t.Errorf("descriptors %d, then %d:\n%q\n%q", before, after, was, now)
	}
	if n, ok := s.stats()["goroutines"].(float64); ok && n > 200 {
		t.Errorf("%v goroutines", n)
	}
	s.umount()
}
