package integration

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
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
