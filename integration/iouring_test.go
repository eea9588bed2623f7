package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tarn/integration/needed"
)

const ioURingParameter = "/sys/module/fuse/parameters/enable_uring"

// allowIOURing lets mounts of this test have their requests over io_uring.
func allowIOURing(t *testing.T) {
	t.Helper()
	needed.Root(t)
	was, err := os.ReadFile(ioURingParameter)
	if err != nil {
		needed.Missing(t, "no FUSE over io_uring (Linux 6.14): %v", err)
	}
	must(t, os.WriteFile(ioURingParameter, []byte("Y"), 0))
	t.Cleanup(func() { must(t, os.WriteFile(ioURingParameter, was, 0)) })
}

// overIOURing asks status.
func (s *site) overIOURing() bool { return strings.Contains(s.ok("status", s.mnt), "over io_uring") }

// TestIOURing: what is promised holds for a mount whose requests come over io_uring.
func TestIOURing(t *testing.T) {
	allowIOURing(t)
	s := newSite(t, "")
	s.mount()
	if !s.overIOURing() {
		t.Fatalf("the mount does without, although the kernel allows it:\n%s", s.log)
	}
	s.umount()
	for _, x := range []struct {
		name string
		test func(*testing.T)
	}{
		{"Posix", TestPosix}, {"SharedChecks", TestSharedChecks}, {"Errno", TestErrno}, {"Kinds", TestKinds}, {"Renames", TestRenames}, {"Writes", TestWrites},
		{"Mmap", TestMmap}, {"Locks", TestLocks}, {"Signals", TestSignals}, {"NewFile", TestNewFile}, {"Leaks", TestNoLeaks},
		{"ManyReaders", TestManyReaders}, {"KilledReaders", TestKilledReaders}, {"KilledWriter", TestKilledWriter},
		{"Unmount", TestUnmount}, {"Abort", TestAbort}, {"SupervisorStartsAgain", TestSupervisorStartsAgain}, {"Watchdog", TestWatchdog},
	} {
		t.Run(x.name, x.test)
	}
}

// TestIOURingRefused: a mount that may not have it goes on without, and says what to do if
// it was wanted.
func TestIOURingRefused(t *testing.T) {
	needed.Root(t)
	was, err := os.ReadFile(ioURingParameter)
	if err != nil {
		needed.Missing(t, "no FUSE over io_uring (Linux 6.14): %v", err)
	}
	if bytes.HasPrefix(was, []byte("Y")) {
		allowIOURing(t) // puts it back
		must(t, os.WriteFile(ioURingParameter, []byte("N"), 0))
	}
	for word, want := range map[string]bool{"auto": false, "on": true, "off": false} {
		s := newSite(t, "")
		s.mount("-o", "io_uring="+word)
		if s.overIOURing() {
			t.Errorf("io_uring=%s: requests come over it all the same", word)
		}
		s.sh("ls ctao >/dev/null")
		if got := strings.Contains(s.log.String(), "echo 1 > "+ioURingParameter); got != want {
			t.Errorf("io_uring=%s: told what to do: %v\n%s", word, got, s.log)
		}
		s.umount()
	}
	s := newSite(t, "mount: {io_uring: on}\n")
	cmd := exec.Command(tarn, "mount", s.dir, s.mnt)
	out, err := cmd.CombinedOutput()
	must(t, err)
	if !strings.Contains(string(out), "echo 1 > "+ioURingParameter) {
		t.Errorf("tarn mount does not say what to do: %s", out)
	}
	s.ok("umount", s.mnt)
}

// TestIOURingTaskset: a daemon that may not run on every CPU does without, as it must.
func TestIOURingTaskset(t *testing.T) {
	allowIOURing(t)
	if runtime.NumCPU() < 2 {
		t.Skip("one CPU")
	}
	s := newSite(t, "")
	s.mountWith([]string{"taskset", "-c", "0"}, "-o", "io_uring=on")
	if s.overIOURing() {
		t.Error("requests come over io_uring")
	}
	s.sh("ls ctao >/dev/null")
	if !strings.Contains(s.log.String(), "may not run on CPU") {
		t.Errorf("the log does not say why:\n%s", s.log)
	}
	s.umount()
}

// heldReads is a process that reads, on one CPU, n blocks of a file at once, past the page
// cache, each by a request of its own. It says when it is open, and begins when its stdin ends.
func heldReads(name string, n int) error {
	runtime.LockOSThread()
	var one unix.CPUSet
	one.Set(0)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin) // its end is the signal, however it comes
	errs := make(chan error, n)
	for i := range n {
		go func() {
			runtime.LockOSThread()
			if err := unix.SchedSetaffinity(0, &one); err != nil {
				errs <- err
				return
			}
			b := make([]byte, 8192)
			b = b[4096-uintptr(unsafe.Pointer(&b[0]))%4096:][:4096]
			_, err := f.ReadAt(b, int64(1<<20+i*4096))
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

func init() {
	roles["heldreads"] = func(args []string) error {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return heldReads(args[0], n)
	}
}

// heldReads starts such a process, for a file that is on tape.
func (s *site) heldReads(n int) (cmd *exec.Cmd, begin func()) {
	s.t.Helper()
	cmd = helper("heldreads", s.path("ctao/dl3/crab/run.fits"), strconv.Itoa(n))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	in, err := cmd.StdinPipe()
	must(s.t, err)
	out, err := cmd.StdoutPipe()
	must(s.t, err)
	must(s.t, cmd.Start())
	s.t.Cleanup(func() { cmd.Process.Kill() }) // an error means that it has ended
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		s.t.Fatalf("the reader did not open: %q, %v: %s", line, err, errs.String())
	}
	return cmd, func() { in.Close() }
}

// waiting is how many requests of the mount are not answered.
func (s *site) waiting(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.connection(t), "waiting"))
	must(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(t, err)
	return n
}

// TestIOURingHeld: requests that wait, more than the kernel was given room for and all from
// one CPU, keep no other from being answered; and they end when their process is killed.
func TestIOURingHeld(t *testing.T) {
	allowIOURing(t)
	s := farTape(t, fits(1, 8<<20), "8x")
	if !s.overIOURing() {
		t.Fatal("the mount does without io_uring")
	}
	cmd, begin := s.heldReads(1000)
	begin()
	s.within(10*time.Second, "1,000 requests", func() bool { return s.waiting(t) >= 1000 })
	began := time.Now()
	for range 20 {
		s.sh("taskset -c 0 ls -l ctao/dl3/crab >/dev/null; taskset -c 0 cat ctao/dl3/crab/other.fits >/dev/null; echo x > ctao/new; rm ctao/new")
	}
	d := time.Since(began)
	if n := s.waiting(t); n < 1000 {
		t.Fatalf("%d requests wait still; the tape must be slower", n)
	}
	t.Logf("20 listings, reads and new files beside 1,000 waiting requests took %v", d.Round(time.Millisecond))
	if d > 10*time.Second {
		t.Errorf("what does not wait took %v", d)
	}
	began = time.Now()
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // by that signal
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("1,000 reads that wait ended %v after kill -9", d)
	}
	s.within(10*time.Second, "nothing waits", func() bool { return s.waiting(t) == 0 })
}

// TestIOURingBurst: what waits in the kernel, behind requests that take all the room there
// is, comes out of it although none of them is answered and no other request is made.
func TestIOURingBurst(t *testing.T) {
	allowIOURing(t)
	s := farTape(t, fits(1, 8<<20), "8x")
	if !s.overIOURing() {
		t.Fatal("the mount does without io_uring")
	}
	const held = 200
	_, begin := s.heldReads(held)
	must(t, s.daemon.Process.Signal(syscall.SIGSTOP))
	begin()
	s.within(10*time.Second, "held requests", func() bool { return s.waiting(t) >= held })
	df := exec.Command("taskset", "-c", "0", "stat", "-f", s.mnt)
	must(t, df.Start())
	ended := make(chan error, 1)
	go func() { ended <- df.Wait() }()
	s.within(10*time.Second, "the last request", func() bool { return s.waiting(t) > held })
	must(t, s.daemon.Process.Signal(syscall.SIGCONT))
	select {
	case err := <-ended:
		must(t, err)
	case <-time.After(5 * time.Second):
		t.Error("a request that waits for nothing is not answered")
	}
	if n := s.waiting(t); n < held {
		t.Fatalf("%d requests wait still; the tape must be slower", n)
	}
}
