package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pid is the process that serves the mount.
func (s *site) pid() int {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "run/daemon.json"))
	must(s.t, err)
	var d struct {
		PID int `json:"pid"`
	}
	must(s.t, json.Unmarshal(b, &d))
	if d.PID <= 1 {
		s.t.Fatalf("no pid in %s", b)
	}
	return d.PID
}

// traced asks for an strace that can follow other processes.
func traced(t testing.TB) {
	t.Helper()
	needTools(t, "strace")
	if out, err := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		missing(t, "strace cannot trace here: %v: %s", err, out)
	}
}

// inject makes system calls of the running daemon fail until stop is called, which tells
// how many did.
func (s *site) inject(calls, errno string) (stop func() int) {
	s.t.Helper()
	return s.trace(s.pid(), calls, "error="+errno)
}

// trace does to the system calls of a process what strace's inject= takes after their names,
// until stop is called, which tells to how many it did.
func (s *site) trace(pid int, calls, what string) (stop func() int) {
	s.t.Helper()
	log := filepath.Join(s.t.TempDir(), "strace")
	cmd := owned(exec.Command("strace", "-f", "-o", log, "-e", "trace="+calls, "-e", "signal=none", "-e", "inject="+calls+":"+what, "-p", fmt.Sprint(pid)), syscall.SIGTERM)
	errs, err := cmd.StderrPipe()
	must(s.t, err)
	must(s.t, cmd.Start())
	attached := make(chan string, 1)
	go func() {
		var said []string
		told := false
		sc := bufio.NewScanner(errs)
		for sc.Scan() {
			if strings.Contains(sc.Text(), " attached") && !told {
				close(attached)
				told = true
			}
			said = append(said, sc.Text())
		}
		if !told {
			attached <- strings.Join(said, "\n")
		}
	}()
	select {
	case why, failed := <-attached:
		if failed {
			cmd.Wait() // it has said why it failed
			missing(s.t, "strace cannot attach: %s", why)
		}
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		s.t.Fatal("strace does not attach")
	}
	var once sync.Once
	hits := 0
	stop = func() int {
		once.Do(func() {
			cmd.Process.Signal(syscall.SIGINT) // it lets the daemon go; an error means that both have ended
			cmd.Wait()                         // by our signal
			b, err := os.ReadFile(log)
			must(s.t, err)
			hits = bytes.Count(b, []byte("(INJECTED)"))
		})
		return hits
	}
	s.t.Cleanup(func() { stop() })
	return stop
}

// heard is what the caller of each step was told.
type heard struct{ create, write, fsync, close, rename error }

func (h heard) first() error {
	for _, err := range []error{h.create, h.write, h.fsync, h.close, h.rename} {
		if err != nil {
			return err
		}
	}
	return nil
}

func (h heard) String() string {
	word := func(err error) string {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return unix.ErrnoName(errno)
		}
		return fmt.Sprint(err)
	}
	return fmt.Sprintf("create %s, write %s, fsync %s, close %s, rename %s", word(h.create), word(h.write), word(h.fsync), word(h.close), word(h.rename))
}

// TestErrno: every error of the local disk reaches whoever wrote, as it is, or nothing was
// lost; an error of fsync stays for that file; the daemon goes on, and so do the files of
// before. W2, W3.
func TestErrno(t *testing.T) {
	traced(t)
	const syncs = "fsync,fdatasync,sync_file_range,msync"
	const opens = "openat,openat2"
	const names = "rename,renameat,renameat2"
	type row struct {
		calls, errno string
		sync         bool // fsync must fail, for good
	}
	rows := []row{
		{"pwrite64,pwritev,pwritev2", "EIO", false}, {"pwrite64,pwritev,pwritev2", "ENOSPC", false}, {"pwrite64,pwritev,pwritev2", "EROFS", false},
		{syncs, "EIO", true}, {syncs, "ENOSPC", true}, {syncs, "EROFS", true},
		{opens, "EMFILE", false}, {opens, "ENFILE", false}, {opens, "EIO", false}, {opens, "EROFS", false}, {opens, "ENOSPC", false},
		{names, "EIO", false}, {names, "ENOSPC", false}, {names, "EROFS", false},
		{"ftruncate", "EIO", false}, {"ftruncate", "ENOSPC", false},
		{"fallocate", "EIO", false}, {"fallocate", "ENOSPC", false},
		{"unlink,unlinkat", "EIO", false}, {"unlink,unlinkat", "EROFS", false},
	}
	for part := range 2 {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "journal: {delay: 50ms}\n")
			s.expect(".") // each row makes some part complain
			s.mount()
			kept := map[string][]byte{} // what was promised, by path
			keep := func(name string, b []byte) {
				t.Helper()
				if err := os.WriteFile(s.path(name), b, 0o644); err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				kept[name] = b
			}
			keep("ctao/dl3/published", content(1, 300_000))
			s.drain()
			for i, r := range rows {
				if i%2 != part {
					continue
				}
				t.Run(r.calls[:strings.IndexByte(r.calls+",", ',')]+"/"+r.errno, func(t *testing.T) {
					s.errnoRow(t, i, r.calls, r.errno, r.sync, kept)
				})
				if t.Failed() {
					break
				}
				if r.sync { // a catalogue whose commit failed opens itself again
					s.within(30*time.Second, "the catalogue serves again", func() bool {
						return os.Mkdir(s.path(fmt.Sprintf("ctao/dl3/dir%02d", i)), 0o755) == nil
					})
				}
				keep(fmt.Sprintf("ctao/dl3/after%02d", i), content(uint64(i)+100, 50_000))
				for name, b := range kept {
					s.reads(name, b)
				}
			}
			s.sealedSafe(kept)
			s.kill()
			s.dropCacheOf()
			s.mount()
			for name, b := range kept {
				s.reads(name, b)
			}
			s.sealedSafe(kept)
		})
	}
}

// sealedSafe waits until none of these is unsent.
func (s *site) sealedSafe(kept map[string][]byte) {
	s.t.Helper()
	s.within(time.Minute, "safe what was promised", func() bool {
		return !slices.ContainsFunc(s.rows("uploads", "ls"), func(u map[string]any) bool {
			_, ok := kept[strings.TrimPrefix(fmt.Sprint(u["path"]), "/")]
			return ok
		})
	})
}

// errnoRow does to the daemon what one row says and adds to kept what was promised.
func (s *site) errnoRow(t *testing.T, i int, calls, errno string, sync bool, kept map[string][]byte) {
	want := map[string]syscall.Errno{"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC, "EROFS": syscall.EROFS, "EMFILE": syscall.EMFILE, "ENFILE": syscall.EMFILE}[errno] // one word for both
	name := func(what string) string { return fmt.Sprintf("ctao/dl3/%s%02d", what, i) }
	// Begun before: only its writes, fsync and close can fail.
	begun := content(uint64(i)+1000, 400_000)
	f, err := os.Create(s.path(name("begun")))
	must(t, err)
	_, err = f.Write(begun[:200_000])
	must(t, err)
	// A name to be replaced, as editors do.
	old, anew := content(uint64(i)+2000, 30_000), content(uint64(i)+3000, 31_000)
	must(t, os.WriteFile(s.path(name("old")), old, 0o644))
	kept[name("old")] = old

	stop := s.inject(calls, errno)
	var h heard
	_, h.write = f.Write(begun[200_000:])
	h.fsync = f.Sync()
	began := time.Now()
	var e heard
	var g *os.File
	if g, e.create = os.Create(s.path(name("tmp"))); e.create == nil {
		_, e.write = g.Write(anew)
		e.fsync = g.Sync()
		e.close = g.Close()
		if e.first() == nil {
			e.rename = os.Rename(s.path(name("tmp")), s.path(name("old")))
		}
	}
	// Neither a wrong byte nor an absent file is a way to say it.
	for n, b := range kept {
		if n == name("old") {
			continue
		}
		if got, err := os.ReadFile(s.path(n)); errors.Is(err, os.ErrNotExist) || err == nil && !bytes.Equal(got, b) {
			t.Errorf("meanwhile %s: %d bytes, %v", n, len(got), err)
		}
	}
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("the callers waited %v", d)
	}
	hits := stop()
	t.Logf("%d calls failed; file begun before: %v; file replaced: %v", hits, h, e)
	if s.pid(); !s.mounted() {
		t.Fatal("the daemon is gone")
	}
	if sync {
		if h.fsync == nil {
			t.Error("fsync heard nothing")
		}
		if err := f.Sync(); err == nil && h.fsync != nil {
			t.Error("an fsync that failed succeeds later")
		}
		if _, err := f.WriteAt([]byte("x"), 0); err == nil {
			if err := f.Sync(); err == nil {
				t.Error("an fsync that failed succeeds after another write")
			}
		}
	}
	h.close = f.Close()
	if sync && h.close == nil {
		t.Error("close heard nothing of the fsync that failed")
	}
	for _, err := range []error{h.write, h.fsync, h.close, e.create, e.write, e.fsync, e.close, e.rename} {
		if err != nil && !errors.Is(err, want) && !errors.Is(err, syscall.EIO) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if h.first() == nil {
		kept[name("begun")] = begun
	}
	// The name holds the old content or the new, whole; the new if all was well.
	got, err := os.ReadFile(s.path(name("old")))
	switch {
	case err != nil:
		t.Errorf("the replaced file: %v", err)
	case bytes.Equal(got, anew):
		kept[name("old")] = anew
	case e.first() == nil || !bytes.Equal(got, old):
		t.Errorf("the replaced file: %d bytes %.8x", len(got), got)
	}
}
