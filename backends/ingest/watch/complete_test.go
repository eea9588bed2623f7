package watch

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func rule(t *testing.T, s string) Rule {
	t.Helper()
	r, err := ParseRule(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWithoutLeasesAFileIsLeftAloneForLonger(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.w.leases = func(int) (bool, error) { return false, errNoLease }
	r.w.unleased = 3 * r.w.settle
	r.write("old", "1")
	begun := time.Now()
	r.run()
	until(t, "it is told", func() bool { return r.count() == 1 })
	if d := time.Since(begun); d < r.w.unleased {
		t.Errorf("told after %v", d)
	}
	if r.stop(); !r.w.said["lease"] {
		t.Error("nothing was logged")
	}
}

// A lease that is broken while it is held sends SIGIO, and lets the writer wait. Neither may be felt.
func TestLeaseDisturbsNobody(t *testing.T) {
	t.Parallel()
	p := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(p, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := lease(int(r.Fd())); errors.Is(err, errNoLease) {
		t.Skip("no leases here")
	}
	// Broken for certain: the writer comes while the lease is held.
	if _, err := unix.FcntlInt(r.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Open(p, unix.O_WRONLY|unix.O_NONBLOCK, 0); err != unix.EAGAIN {
		t.Errorf("a writer that does not wait: %v", err)
	}
	if _, err := unix.FcntlInt(r.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := lease(int(r.Fd())); err != nil {
					t.Errorf("lease: %v", err)
				}
			}
		}
	})
	for range 2000 {
		begun := time.Now()
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if held, err := lease(int(r.Fd())); err != nil || !held {
			t.Fatalf("open for writing: %v, %v", held, err)
		}
		f.Close()
		if d := time.Since(begun); d > 3*time.Second {
			t.Errorf("a writer waited %v", d)
		}
	}
	close(stop)
	wg.Wait()
}

// A write between the first look and the end of the probe makes another version.
func TestChangeDuringTheProbe(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.write("f", "1")
	changes := 0
	r.w.leases = func(fd int) (bool, error) {
		if changes++; changes == 1 {
			r.write("f", "22")
		}
		return lease(fd)
	}
	for r.scan() > 0 {
	}
	if r.count() != 1 || r.told[0].Size != 2 || changes != 2 {
		t.Errorf("%+v, %d probes", r.told, changes)
	}
}

// A file that was written a moment ago is left alone for a moment, also by a single look at everything.
func TestScanLeavesAMoment(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	begun := time.Now()
	r.write("f", "1")
	r.scan()
	if d := time.Since(begun); d < r.w.settle || r.count() != 1 {
		t.Errorf("%q after %v", r.paths(), d)
	}
	begun = time.Now()
	if r.scan(); time.Since(begun) > r.w.settle {
		t.Errorf("a look at nothing new took %v", time.Since(begun))
	}
}

// A file that is mapped for writing is open, also when its descriptor is closed.
func TestMappedFileIsOpen(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.write("f", "1234")
	f, err := os.OpenFile(filepath.Join(r.dir, "f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if n := r.scan(); n != 1 || r.count() != 0 {
		t.Errorf("%d incomplete, told %q", n, r.paths())
	}
	if err := unix.Munmap(m); err != nil {
		t.Fatal(err)
	}
	until(t, "it is told", func() bool { return r.scan() == 0 && r.count() == 1 })
}

func TestTrigger(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Complete = rule(t, "trigger:.trigger"); o.Pattern = []string{"*.fits"} })
	r.write("a.fits", "1")
	r.write("b.fits", "2")
	r.write("b.fits.trigger", "")
	r.write("c.txt", "3")
	r.write("c.txt.trigger", "")
	r.run()
	until(t, "the one with a trigger is told", func() bool { return r.count() == 1 })
	// A link that leads nowhere is a trigger too.
	if err := os.Symlink("nowhere", filepath.Join(r.dir, "a.fits.trigger")); err != nil {
		t.Fatal(err)
	}
	until(t, "the other is told", func() bool { return r.count() == 2 })
	equal(t, r.paths(), "b.fits", "a.fits")
	r.write("sub/d.fits.trigger", "")
	r.write("sub/d.fits", "4")
	until(t, "a trigger that comes first counts", func() bool { return r.count() == 3 })
	r.write("b.fits", "22")
	until(t, "another version is told", func() bool { return r.count() == 4 })
	if n, _ := r.w.Incomplete(); n != 0 {
		t.Errorf("%d incomplete", n)
	}
}

func TestAgeIsMeasuredByTwoLooks(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) {
		o.Complete = rule(t, "age:600ms")
		// A clock that is anywhere makes nothing old.
		o.Now = func() time.Time { return time.Now().Add(1000 * time.Hour) }
	})
	r.write("f", "1")
	if err := os.Chtimes(filepath.Join(r.dir, "f"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if n := r.scan(); n != 1 || r.count() != 0 {
		t.Fatalf("told at first sight: %d incomplete", n)
	}
	if tr := r.w.Trouble(); len(tr) != 0 {
		t.Errorf("%v", tr)
	}
	begun := time.Now()
	r.run()
	for range 4 { // a file that grows stays incomplete
		time.Sleep(200 * time.Millisecond)
		f, err := os.OpenFile(filepath.Join(r.dir, "f"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = f.WriteString("more")
		f.Close()
	}
	until(t, "it is told", func() bool { return r.count() == 1 })
	if d := time.Since(begun); d < 1400*time.Millisecond {
		t.Errorf("told after %v", d)
	}
	if r.told[0].Size != 17 {
		t.Errorf("told with %d bytes", r.told[0].Size)
	}
}

// A clock that jumps makes nothing complete that is held, and loses nothing.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	jump := time.Duration(0)
	r := newRig(t, func(o *Options) {
		o.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			jump = -jump*2 - time.Hour
			return time.Now().Add(jump)
		}
	})
	f, err := os.Create(filepath.Join(r.dir, "held"))
	if err != nil {
		t.Fatal(err)
	}
	r.write("free", "1")
	r.run()
	until(t, "the free one is told", func() bool { return r.count() == 1 })
	for range 20 {
		r.w.Kick()
		_, _ = f.WriteString("x")
		time.Sleep(20 * time.Millisecond)
	}
	if r.count() != 1 {
		t.Fatalf("told %q", r.paths())
	}
	f.Close()
	until(t, "the other one is told", func() bool { return r.count() == 2 })
	if r.told[1].Size != 20 {
		t.Errorf("%+v", r.told[1])
	}
}

func TestWhatIsLeftAlone(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(o *Options) { o.Pattern = []string{"*.fits", "[s]ecret", "pipe", "socket", "link*"} })
	for _, n := range []string{"a.fits", ".b.fits", ".hidden/c.fits", Own + "d.fits", "e.txt", "in/f.fits"} {
		r.write(n, n)
	}
	for link, to := range map[string]string{"link": filepath.Join(outside, "secret"), "linked": outside, "link.fits": "a.fits", "in/up": ".."} {
		if err := os.Symlink(to, filepath.Join(r.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(r.dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(r.dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if n := r.scan(); n != 0 {
		t.Errorf("%d incomplete", n)
	}
	equal(t, r.paths(), "a.fits", "in/f.fits")
	for _, p := range []string{"linked/secret", "../x", "in/../a.fits", "in/up/a.fits", "in//f.fits"} {
		folder, _ := split(p)
		if f, err := r.w.openFolder(folder); err == nil && folder != "in/" {
			t.Errorf("%s was entered: %s", folder, f.Name())
		}
	}
	// What takes the place of a file between two looks is not opened through a link.
	dir, err := r.w.openFolder("")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	f := r.told[0]
	if err := os.Remove(filepath.Join(r.dir, "a.fits")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "secret"), filepath.Join(r.dir, "a.fits")); err != nil {
		t.Fatal(err)
	}
	if held, changed, err := probe(dir, "a.fits", f, lease); held || !changed || err != nil {
		t.Errorf("a link: %v, %v, %v", held, changed, err)
	}
	hidden := newRig(t, func(o *Options) { o.Hidden = true })
	hidden.write(".b", "b")
	hidden.write(Own+"d", "d")
	hidden.scan()
	equal(t, hidden.paths(), ".b")
}

// What cannot be read is incomplete, with its reason, until it can be.
func TestTrouble(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("wants another user than the files' owner")
	}
	r := newRig(t, nil)
	for p := r.dir; strings.HasPrefix(p, os.TempDir()+"/"); p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.write("fine", "1")
	r.write("shut", "22")
	r.write("folder/in", "333")
	for n, mode := range map[string]os.FileMode{"shut": 0o600, "folder": 0o700} {
		if err := os.Chmod(filepath.Join(r.dir, n), mode); err != nil {
			t.Fatal(err)
		}
	}
	asNobody := func(do func()) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Setfsuid(0) }()
		do()
	}
	asNobody(func() {
		if n, err := r.w.Scan(context.Background(), r.found); err != nil || n != 1 {
			t.Errorf("%d incomplete, %v", n, err)
		}
	})
	equal(t, r.paths(), "fine")
	got := r.w.Trouble()
	if len(got) != 2 || got[0].Path != "folder" || got[1].Path != "shut" || got[1].Reason == "" {
		t.Errorf("%+v", got)
	}
	if err := os.RemoveAll(filepath.Join(r.dir, "folder")); err != nil {
		t.Fatal(err)
	}
	if n := r.scan(); n != 0 || r.count() != 2 || len(r.w.Trouble()) != 0 {
		t.Errorf("%d incomplete, told %q, %v", n, r.paths(), r.w.Trouble())
	}
}
