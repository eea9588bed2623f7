package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fails runs a tarn command that must end by itself with an exit code, and say words on
// stderr: what, where, why, and what to do.
func (s *site) fails(code int, words []string, args ...string) result {
	s.t.Helper()
	return s.failsAs(nil, code, words, args...)
}

// failsAs is fails with a command put before tarn.
func (s *site) failsAs(wrap []string, code int, words []string, args ...string) result {
	s.t.Helper()
	began := time.Now()
	r := s.tryAs(wrap, args...)
	what := "tarn " + strings.Join(args, " ")
	if r.code != code {
		s.t.Errorf("%s: exit %d, want %d\n%s%s", what, r.code, code, r.out, r.err)
	}
	for _, w := range words {
		if !strings.Contains(r.err, w) {
			s.t.Errorf("%s: stderr lacks %q:\n%s", what, w, r.err)
		}
	}
	for _, w := range []string{"goroutine ", "panic:", "DATA RACE", "%!"} {
		if strings.Contains(r.err, w) {
			s.t.Errorf("%s: stderr has %q:\n%s", what, w, r.err)
		}
	}
	if d := time.Since(began); d > 30*time.Second {
		s.t.Errorf("%s took %v", what, d)
	}
	return r
}

// tryAs is try with a command put before tarn.
func (s *site) tryAs(wrap []string, args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	argv := append(append(slices.Clone(wrap), tarn), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "TARN_LAKE="+s.dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		s.t.Fatalf("%q: %v", argv, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// needRoot is for what only root can set up.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "only root can set this up")
	}
}

// tmpfs mounts one of so many bytes at a new folder.
func tmpfs(t testing.TB, size string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,size="+size); err != nil {
		missing(t, "mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			syscall.Unmount(dir, syscall.MNT_DETACH)
			t.Errorf("unmount the tmpfs: %v", err)
		}
	})
	return dir
}

func remount(t testing.TB, dir string, flags uintptr) {
	t.Helper()
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|flags, ""); err != nil {
		t.Fatalf("remount %s: %v", dir, err)
	}
}

// TestBadLakeFile: all faults at once, with their lines, and nothing is begun.
func TestBadLakeFile(t *testing.T) {
	s := newSite(t, "")
	good, err := os.ReadFile(filepath.Join(s.dir, "lake.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(good), "cache:\n", "cachee:\n", 1)
	bad = strings.Replace(bad, "name: PIC-DISK", "name: LAPALMA-DISK", 1)
	bad = strings.Replace(bad, "delay: 1s", "delay: [1]", 1)
	if err := os.WriteFile(filepath.Join(s.dir, "lake.yaml"), []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	line := func(text string) string {
		return fmt.Sprintf("lake.yaml:%d: ", strings.Count(bad[:strings.LastIndex(bad, text)], "\n")+1)
	}
	words := []string{"3 faults", line("cachee:"), `cachee: unknown key; did you mean "cache"?`,
		`duplicate RSE "LAPALMA-DISK", first in line`, line("delay: [1]"), "journal.delay", "correct the lines above"}
	s.fails(7, words, "mount", s.dir, s.mnt)
	s.fails(7, words, "mount", "-f", s.dir, s.mnt)
	s.fails(7, words, "config", "check", s.dir)
	s.fails(7, words, "ls", "/")
	for _, text := range []string{"", "\x00\x01", "- a\n- b\n", "name: x\n---\nname: y\n", "a: &a [*a]\n", strings.Repeat("[", 10000)} {
		if err := os.WriteFile(filepath.Join(s.dir, "lake.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.fails(7, []string{"lake.yaml"}, "ls", "/")
	}
}

// TestBadFolders: folders of the lake that are missing or cannot be written.
func TestBadFolders(t *testing.T) {
	s := newSite(t, "")
	if err := os.RemoveAll(filepath.Join(s.dir, "cache")); err != nil {
		t.Fatal(err)
	}
	s.mount() // the cache's is made again
	s.umount()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"cache.path", "journal.path"} {
		s.fails(7, []string{file, "not a directory", key}, "mount", s.dir, s.mnt, "--set", key+"="+file)
		s.fails(7, []string{file, "not a directory", key}, "ls", "/", "--set", key+"="+file)
	}
	for _, where := range []string{filepath.Join(dir, "none"), dir} {
		s.fails(7, []string{where, "is its disk mounted?", "tarn init"}, "mount", s.dir, s.mnt, "--set", "catalogue.path="+where)
	}

	ro := tmpfs(t, "4M")
	dirOf(t, ro, "c")
	remount(t, ro, syscall.MS_RDONLY)
	for _, key := range []string{"cache.path", "journal.path"} {
		for _, p := range []string{ro, ro + "/c", ro + "/none"} {
			s.fails(12, []string{p, "read-only file system", key, "lake.yaml"}, "mount", s.dir, s.mnt, "--set", key+"="+p)
		}
	}
	s.fails(12, []string{"read-only file system"}, "mount", s.dir, s.mnt, "--set", "run="+ro+"/run")
}

// TestHeldLake: another process has the catalogue, the cache or the journal.
func TestHeldLake(t *testing.T) {
	t.Parallel() // it waits for 10 s
	s := newSite(t, "")
	f, err := os.OpenFile(filepath.Join(s.dir, "catalogue/LOCK"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.fails(7, []string{"catalogue", "in use", "another"}, "mount", s.dir, s.mnt)
	}()
	s.fails(7, []string{"waiting for another process", "catalogue", "in use", "another"}, "ls", "/")
	<-done
}

// TestDamagedCatalogue: a clear error with exit code 7, and what is there stays as it is.
func TestDamagedCatalogue(t *testing.T) {
	s := newSite(t, "")
	s.mount()
	s.sh("for i in $(seq 30); do echo $i > ctao/dl3/f$i; done")
	s.drain()
	s.umount()
	db := filepath.Join(s.dir, "catalogue/db")
	names, err := os.ReadDir(db)
	if err != nil {
		t.Fatal(err)
	}
	spare := filepath.Join(t.TempDir(), "db")
	if out, err := exec.Command("cp", "-a", db, spare).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, n := range names {
		p := filepath.Join(db, n.Name())
		good, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		ext := filepath.Ext(n.Name())
		if n.Name() != "MANIFEST" && ext != ".sst" || len(good) == 0 {
			continue
		}
		flipped := bytes.Clone(good)
		for i := len(flipped) / 3; i < min(len(flipped), len(flipped)/3+64); i++ {
			flipped[i] ^= 0x5a
		}
		for how, b := range map[string][]byte{"truncated": good[:len(good)/2], "empty": {}, "flipped": flipped, "missing": nil} {
			if b == nil {
				err = os.Remove(p)
			} else {
				err = os.WriteFile(p, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s %s", n.Name(), how)
			s.fails(7, []string{"catalogue", "damaged"}, "ls", "/ctao/dl3")
			s.fails(7, []string{"catalogue", "damaged", "kept as it is"}, "mount", s.dir, s.mnt)
			if err := os.RemoveAll(db); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("cp", "-a", spare, db).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	if got := len(s.rows("ls", "/ctao/dl3")); got != 30 {
		t.Errorf("after all was put back: %d files", got)
	}

	// The logs, as a kill leaves them: what was acknowledged is there, or the damage is told.
	s.mount()
	s.sh("for i in $(seq 30); do echo $i > ctao/dl3/g$i; done")
	s.drain()
	s.kill()
	must(t, os.RemoveAll(spare))
	if out, err := exec.Command("cp", "-a", db, spare).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	logs, err := filepath.Glob(filepath.Join(db, "*.mem"))
	must(t, err)
	vlogs, err := filepath.Glob(filepath.Join(db, "*.vlog"))
	must(t, err)
	if len(logs) == 0 {
		t.Fatal("a killed daemon left no log")
	}
	for _, p := range append(logs, vlogs...) {
		for _, off := range []int64{8, 40, 2000} {
			if st, err := os.Stat(p); err != nil || st.Size() <= off {
				continue
			}
			flip(t, p, off)
			r := s.try("ls", "/ctao/dl3")
			if n := strings.Count(r.out, "\n"); r.code != 0 && (r.code != 7 || !strings.Contains(r.err, "damaged")) || r.code == 0 && n != 60 {
				t.Errorf("%s flipped at %d: exit %d, %d files\n%s", filepath.Base(p), off, r.code, n, r.err)
			}
			must(t, os.RemoveAll(db))
			if out, err := exec.Command("cp", "-a", spare, db).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
}

// TestOddNames: the names that POSIX allows work, and others are refused with the right
// errno, in the mount and on the command line.
func TestOddNames(t *testing.T) {
	s := newSite(t, "")
	s.mount()
	long := strings.Repeat("x", 255)
	names := []string{"with\nnewline", "trailing\n", long, strings.Repeat("ü", 127) + "y", "\xff\xfe invalid \x80", "-rf", "*?[a]", `back\slash`, `"quoted"`, "\x01\x7f", " ", "...", "a:b", "{}", "%2F"}
	for i, n := range names {
		if err := os.WriteFile(s.path("ctao/dl3", n), []byte(fmt.Sprint(i)), 0o644); err != nil {
			t.Errorf("%q: %v", n, err)
		}
	}
	for n, want := range map[string]error{long + "x": syscall.ENAMETOOLONG, "nul\x00": syscall.EINVAL} {
		if err := os.WriteFile(s.path("ctao/dl3", n), nil, 0o644); !errors.Is(err, want) {
			t.Errorf("%.20q...: %v, want %v", n, err, want)
		}
	}
	if err := os.Rename(s.path("ctao/dl3", long), s.path("ctao/dl3", long+"x")); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("rename to 256 bytes: %v", err)
	}
	s.drain()
	// On the command line, and at the storage.
	if rows := s.rows("ls", "/ctao/dl3"); len(rows) != len(names) {
		t.Errorf("%d names, want %d", len(rows), len(names))
	}
	for i, n := range names {
		if r := s.try("cat", "/ctao/dl3/"+n); r.code != 0 || r.out != fmt.Sprint(i) {
			t.Errorf("cat %q: %+v", n, r)
		}
	}
	for _, line := range strings.Split(strings.TrimSuffix(s.ok("ls", "/ctao/dl3"), "\n"), "\n") {
		if hasAny(line, 0x01, 0x7f, 0xff) {
			t.Errorf("ls prints raw %q", line)
		}
	}
	if n := strings.Count(s.ok("ls", "/ctao/dl3"), "\n"); n != len(names) {
		t.Errorf("ls prints %d lines for %d names", n, len(names))
	}
	err := filepath.WalkDir(filepath.Join(s.dir, "rse"), func(p string, d fs.DirEntry, err error) error {
		if hasAny(d.Name(), '\n', 0xff, 0x01) {
			t.Errorf("at the storage: %q", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	s.umount()
	if r := s.try("cat", "/ctao/dl3/"+names[0]); r.code != 0 || r.out != "0" {
		t.Errorf("cat %q without a mount: %+v", names[0], r)
	}
	s.mount()
	for i, n := range names {
		if b, err := os.ReadFile(s.path("ctao/dl3", n)); err != nil || string(b) != fmt.Sprint(i) {
			t.Errorf("%q after a restart: %q, %v", n, b, err)
		}
		if err := os.Remove(s.path("ctao/dl3", n)); err != nil {
			t.Errorf("%q: %v", n, err)
		}
	}
	// `..` never leads out of the lake.
	if r := s.try("ls", "/ctao/../../../"); r.code != 0 || !strings.Contains(r.out, "ctao") {
		t.Errorf("ls above the root: %+v", r)
	}
	s.fails(3, []string{"there is no etc in /"}, "cat", "/../../etc/passwd")
	s.fails(2, []string{"name"}, "put", "../integration/doc.go", "/ctao/dl3/"+long+"x")
}

// TestUsage: wrong flags, arguments and types end with exit code 2 and a pointer to the
// help; what is not there ends with 3 or 4, for every command that takes a path.
func TestUsage(t *testing.T) {
	s := newSite(t, "")
	s.mount()
	for _, args := range []string{
		"nosuch", "lss /", "mount", "mount a b c", "mount --nosuch a b", "mount -o nosuch a b", "ls --nosuch /", "stage", "pin", "put x",
		"pin /ctao --for xx", "cache limit abc", "recalls", "uploads nosuch", "find a==", "find", "rule add /ctao rse=(", "rule add /ctao", "umount", "umount --timeout x a",
		"import x", "--set", "--set x ls /", "meta set /ctao x", "stage --wait=perhaps /ctao", "ls relative",
	} {
		s.fails(2, []string{"tarn: "}, strings.Fields(args)...)
	}
	for _, args := range []string{
		"ls", "stat", "du", "cat", "stage", "stage --wait", "stage --dry-run", "evict", "pin", "unpin", "replicas", "verify", "explain", "rule ls", "meta get", "undelete",
	} {
		code := 4
		if args == "ls" || args == "du" {
			code = 0 // either will do
		}
		r := s.fails(max(code, s.try(append(strings.Fields(args), "/ctao/none")...).code), []string{"/ctao/none"}, append(strings.Fields(args), "/ctao/none")...)
		if r.code != 3 && r.code != 4 {
			t.Errorf("tarn %s of what is not there: exit %d", args, r.code)
		}
		r = s.try(append(strings.Fields(args), "/ctao/none/below")...)
		if r.code != 3 && r.code != 4 {
			t.Errorf("tarn %s below what is not there: exit %d: %s", args, r.code, r.err)
		}
	}
	for _, args := range []string{"uploads retry", "uploads cancel", "recalls retry", "recalls cancel", "rule rm"} {
		s.fails(4, []string{"nosuch"}, append(strings.Fields(args), "nosuch")...)
	}
	s.fails(4, []string{"/nofile"}, "put", "/nofile", "/ctao/x")
	s.fails(3, []string{"none"}, "put", "doc.go", "/ctao/none/x")
	s.fails(4, []string{"/nofile"}, "import", "/nofile", "/ctao/x", "--rse", "PIC-DISK")
	if r := s.try("import", ".", "/ctao/x", "--rse", "NOPE"); r.code == 0 || !strings.Contains(r.err, `"NOPE"`) {
		t.Errorf("import to an RSE that is not there: %+v", r)
	}
	for _, args := range [][]string{{"stat", "/ctao/none", "--json"}, {"ls", "/none", "--json"}} {
		s.fails(s.try(args...).code, []string{`{"error":{"code":`, `"kind":"`, `"message":"`}, args...)
	}
}

// hasAny tells whether s holds one of the bytes.
func hasAny(s string, bytes ...byte) bool {
	for _, b := range bytes {
		if strings.IndexByte(s, b) >= 0 {
			return true
		}
	}
	return false
}
