package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRenameIsAtomic: while a file is saved again and again by rename, its readers never
// miss it and never see half of it (N7).
func TestRenameIsAtomic(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 10ms}\n")
	s.mount()
	p, tmp := s.path("ctao/dl0/f"), s.path("ctao/dl0/.f.tmp")
	text := func(i int) string { return strings.Repeat(fmt.Sprintf("%06d\n", i), 3000) }
	put(t, p, text(0))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			last := ""
			for {
				select {
				case <-stop:
					return
				default:
				}
				b, err := os.ReadFile(p)
				if err != nil || len(b) != len(text(0)) || !bytes.Equal(b, bytes.Repeat(b[:7], 3000)) {
					t.Errorf("a reader sees %d bytes, %v", len(b), err)
					return
				}
				if now := string(b[:7]); now < last {
					t.Errorf("a reader sees %q after %q", now, last)
					return
				} else {
					last = now
				}
			}
		})
	}
	n := 150
	for i := 1; i <= n; i++ {
		put(t, tmp, text(i))
		if err := os.Rename(tmp, p); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	s.drain()
	wantText(t, p, text(n))
	s.umount()
	if got := s.ok("cat", "/ctao/dl0/f"); got != text(n) {
		t.Error("the catalogue has another content than the last one")
	}
}

// TestAppenders: processes that append lines to one file lose none (W1).
func TestAppenders(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 10ms}\n")
	s.mount()
	s.sh(`cd ctao/dl0; for p in 1 2 3 4; do (for i in $(seq 100); do echo "$p $i" >>log; done) & done; wait; test $(sort -u log | wc -l) = 400`)
	s.drain()
	s.sh(`cd ctao/dl0; test $(sort -u log | wc -l) = 400`)
}

// TestLocks: flock and fcntl locks hold between processes (N9).
func TestLocks(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	s.mount()
	p := s.path("ctao/dl0/lock")
	f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other := func(script string) error {
		return exec.Command("python3", "-c", "import fcntl,sys\nf=open(sys.argv[1],'r+')\n"+script, p).Run()
	}
	needTools(t, "python3")
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if other("fcntl.flock(f, fcntl.LOCK_EX|fcntl.LOCK_NB)") == nil {
		t.Error("another process gets the flock too")
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := other("fcntl.flock(f, fcntl.LOCK_EX|fcntl.LOCK_NB)"); err != nil {
		t.Errorf("flock after the unlock: %v", err)
	}
	lock := func(typ int16) error {
		return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: typ, Start: 10, Len: 10})
	}
	if err := lock(unix.F_WRLCK); err != nil {
		t.Fatal(err)
	}
	if other("fcntl.lockf(f, fcntl.LOCK_EX|fcntl.LOCK_NB, 5, 15)") == nil {
		t.Error("another process gets the same range too")
	}
	if err := other("fcntl.lockf(f, fcntl.LOCK_EX|fcntl.LOCK_NB, 5, 20)"); err != nil {
		t.Errorf("another range: %v", err)
	}
	if err := lock(unix.F_UNLCK); err != nil {
		t.Fatal(err)
	}
	if err := other("fcntl.lockf(f, fcntl.LOCK_EX|fcntl.LOCK_NB, 5, 15)"); err != nil {
		t.Errorf("the range after the unlock: %v", err)
	}
}

// TestListingWhileChanging: who lists a large directory sees each name that stays exactly
// once, whatever comes, goes and is registered meanwhile (N4).
func TestListingWhileChanging(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 1ms}\n")
	s.mount()
	dir := s.path("ctao/dl0/d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	stay := 600
	for i := range stay {
		put(t, filepath.Join(dir, fmt.Sprintf("stay%04d", i)), "x")
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			p := filepath.Join(dir, fmt.Sprintf("come%d-%d", i%7, i))
			if err := os.WriteFile(p, nil, 0o644); err != nil {
				t.Error(err)
				return
			}
			if err := os.Remove(p); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 15 {
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for {
			names, err := d.Readdirnames(37)
			for _, n := range names {
				seen[n]++
			}
			if err != nil {
				break
			}
		}
		d.Close()
		n := 0
		for name, times := range seen {
			if times != 1 {
				t.Errorf("%s is listed %d times", name, times)
			}
			if strings.HasPrefix(name, "stay") {
				n++
			}
		}
		if n != stay {
			t.Errorf("%d of %d names are listed", n, stay)
		}
	}
	close(stop)
	wg.Wait()
}

// TestSignals: signals that a program means for itself fail none of its calls, as on a
// local disk.
func TestSignals(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 1ms}\n")
	s.mount()
	p := s.path("ctao/dl0/f")
	tids := make(chan int)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		tids <- unix.Gettid()
		done <- func() error {
			for i := range 400 {
				fd, err := unix.Open(p+".tmp", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o644)
				if err != nil {
					return fmt.Errorf("open %d: %w", i, err)
				}
				if _, err := unix.Write(fd, []byte("some bytes")); err != nil {
					return fmt.Errorf("write %d: %w", i, err)
				}
				if err := errors.Join(unix.Ftruncate(fd, 5), unix.Fchmod(fd, 0o600), unix.Close(fd)); err != nil {
					return fmt.Errorf("truncate, chmod or close %d: %w", i, err)
				}
				if err := unix.Rename(p+".tmp", p); err != nil {
					return fmt.Errorf("rename %d: %w", i, err)
				}
				if fd, err = unix.Open(p, unix.O_RDONLY, 0); err != nil {
					return fmt.Errorf("open to read %d: %w", i, err)
				}
				b := make([]byte, 10)
				if n, err := unix.Read(fd, b); err != nil || string(b[:n]) != "some " {
					return fmt.Errorf("read %d: %q, %w", i, b[:n], err)
				}
				unix.Close(fd)
			}
			return nil
		}()
	}()
	tid, sent := <-tids, 0
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			t.Logf("%d signals", sent)
			return
		default:
			if unix.Tgkill(os.Getpid(), tid, unix.SIGURG) == nil {
				sent++
			}
			time.Sleep(20 * time.Microsecond)
		}
	}
}

// TestLocksOfOpeners: of those that open a published file at one time, some only to read,
// one gets the lock (N9). They must not be told of different inodes behind one name.
func TestLocksOfOpeners(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 10ms}\n")
	s.mount()
	for round := range 40 {
		p := s.path("ctao/dl0", fmt.Sprint("f", round%8))
		put(t, p, strings.Repeat(fmt.Sprintln(round), 4000))
		time.Sleep(time.Duration(round%10) * 10 * time.Millisecond) // unsent, uploading, published
		fds, got := make([]int, 6), make([]bool, 6)
		var wg sync.WaitGroup
		for i := range fds {
			wg.Go(func() {
				if b, err := os.ReadFile(p); err != nil || !strings.HasPrefix(string(b), fmt.Sprintln(round)) {
					t.Errorf("round %d: read %.10q, %v", round, b, err)
				}
				fd, err := unix.Open(p, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
				if fds[i] = fd; err != nil {
					t.Errorf("round %d: open: %v", round, err)
					return
				}
				got[i] = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1}) == nil
			})
		}
		wg.Wait()
		holders := 0
		for i, fd := range fds {
			if got[i] {
				holders++
			}
			unix.Close(fd)
		}
		if holders != 1 {
			t.Errorf("round %d: %d hold an exclusive lock", round, holders)
		}
	}
}
