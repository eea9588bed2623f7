package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// daemonState is what `tarn status --json` tells of the two processes.
type daemonState struct {
	alive           bool
	pid, supervisor int
	restarts        int
	state, why      string
}

func (s *site) state() (d daemonState) {
	s.t.Helper()
	rows := s.rows("status", s.mnt)
	if len(rows) != 1 {
		s.t.Fatalf("status gives %d mounts", len(rows))
	}
	num := func(m map[string]any, k string) int { f, _ := m[k].(float64); return int(f) }
	d.alive, _ = rows[0]["alive"].(bool)
	if v, ok := rows[0]["supervisor"].(map[string]any); ok {
		d.supervisor, d.restarts = num(v, "pid"), num(v, "restarts")
		d.state, _ = v["state"].(string)
		d.why, _ = v["why"].(string)
	}
	if st, ok := rows[0]["status"].(map[string]any); ok {
		dm := st["daemon"].(map[string]any)
		d.pid = num(dm, "pid")
		if d.supervisor != 0 && num(dm, "supervisor") != d.supervisor {
			s.t.Errorf("the daemon says its supervisor is %d, the supervisor says %d", num(dm, "supervisor"), d.supervisor)
		}
	}
	return d
}

// supervisedSite is mounted by two processes, of which the harness knows the supervisor.
func supervisedSite(t *testing.T, local string, args ...string) *site {
	t.Helper()
	s := newSite(t, local)
	s.supervised = true
	t.Cleanup(func() { s.end() }) // before down
	s.mount(args...)
	s.serving()
	return s
}

// serving waits until the supervisor knows that its daemon serves: the mount is usable a
// moment before.
func (s *site) serving() (d daemonState) {
	s.t.Helper()
	s.within(time.Minute, "serving", func() bool { d = s.state(); return d.alive && d.state == "serving" })
	return d
}

// end takes the daemon of a supervisor away that may be dead: nothing else would.
func (s *site) end() {
	if s.daemon != nil {
		s.daemon.Process.Signal(syscall.SIGTERM) // what has ended is seen below
		select {
		case err := <-s.exited:
			s.exited <- err
		case <-time.After(30 * time.Second):
			s.t.Errorf("the supervisor lives 30 s after SIGTERM")
		}
	}
	b, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(b), " "+s.mnt+" ") {
		exec.Command("umount", "-f", "-l", s.mnt).Run() // down says what is left
	}
}

func signalTo(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no process %d", pid)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// gone waits for the end of a process that is no child of this one.
func (s *site) gone(pid int) {
	s.t.Helper()
	s.within(30*time.Second, "ended", func() bool { return gone(pid) })
}

// A daemon that is killed is started again, with what was written before; the dead mount
// is replaced, never stacked, and umount ends both processes.
func TestSupervisorStartsAgain(t *testing.T) {
	s := supervisedSite(t, crashLake)
	s.expect("the daemon died; it is started again")
	a := s.state()
	if !a.alive || a.supervisor != s.daemon.Process.Pid || a.pid == a.supervisor || a.restarts != 0 {
		t.Fatalf("status gives %+v, the supervisor is %d", a, s.daemon.Process.Pid)
	}
	for n := 1; n <= 3; n++ {
		want := content(uint64(n), 300_000)
		if err := os.WriteFile(s.path("ctao", "f"+strconv.Itoa(n)), want, 0o644); err != nil {
			t.Fatal(err)
		}
		old := s.state().pid
		began := time.Now()
		signalTo(t, old, syscall.SIGKILL)
		s.gone(old)
		s.within(30*time.Second, "usable again", s.mounted)
		t.Logf("usable %v after kill -9", time.Since(began).Round(time.Millisecond))
		got, err := os.ReadFile(s.path("ctao", "f"+strconv.Itoa(n)))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("after kill -9 number %d: %d bytes, %v", n, len(got), err)
		}
		b := s.serving()
		if b.pid == old || b.supervisor != a.supervisor || b.restarts != n || !strings.Contains(b.why, "killed") {
			t.Errorf("after kill -9 number %d: %+v", n, b)
		}
	}
	if out := s.ok("status", s.mnt); !strings.Contains(out, "3 restarts") {
		t.Errorf("status does not tell of the restarts:\n%s", out)
	}
	m, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Count(string(m), " "+s.mnt+" ") != 1 {
		t.Errorf("%d mounts at the mountpoint, %v", strings.Count(string(m), " "+s.mnt+" "), err)
	}
	last := s.state().pid
	s.umount()
	s.gone(last)
	if _, err := os.Stat(s.dir + "/run/supervisor.json"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("supervisor.json is left: %v", err)
	}
}

// A daemon that stands still is replaced, its stacks or its death are in the log, and who
// waited for an answer gets an error.
func TestWatchdog(t *testing.T) {
	s := supervisedSite(t, "mount: {watchdog: 3s}\n")
	s.expect("the daemon hangs", "the kernel has ended the connection", "the daemon died; it is started again")
	old := s.state().pid
	signalTo(t, old, syscall.SIGSTOP)
	reader := exec.Command("ls", "-la", s.path("ctao", "nosuch"))
	answered := make(chan error, 1)
	go func() { answered <- reader.Run() }()
	s.within(2*time.Minute, "replaced", func() bool { return strings.Contains(s.log.String(), "the daemon hangs") })
	select {
	case err := <-answered:
		if err == nil {
			t.Error("a call that the daemon never answered succeeded")
		}
	case <-time.After(30 * time.Second):
		t.Error("a caller is kept after the daemon was found to hang")
	}
	s.gone(old)
	s.within(time.Minute, "usable again", s.mounted)
	if b := s.serving(); b.restarts < 1 || b.pid == old || !strings.Contains(b.why, "hung") {
		t.Errorf("after the hang: %+v", b)
	}
	if !strings.Contains(s.log.String(), "SIGQUIT: quit") || !strings.Contains(s.log.String(), "goroutine ") {
		t.Error("the log has no stacks")
	}
	s.sh("echo again > ctao/g && test \"$(cat ctao/g)\" = again")
	s.umount()
}

// Who waits for tape is no sign of a hang, however long it takes.
func TestWaitingForTapeIsNoHang(t *testing.T) {
	s := newSite(t, tapeWith("speed: 100000x")+"mount: {watchdog: 1s}\n")
	dir := folder(t, map[string]int{"a": 200_000})
	s.onTape(dir, "/ctao/slow")
	// The same tape, in real time: a recall takes minutes.
	local := tapeWith("speed: 1x, robot: 1h") + "mount: {watchdog: 1s}\n"
	if err := os.WriteFile(s.dir+"/lake.local.yaml", []byte(local), 0o600); err != nil {
		t.Fatal(err)
	}
	s.supervised = true
	t.Cleanup(s.end)
	s.mount()
	a := s.serving()
	reader := exec.Command("cat", s.path("ctao", "slow", "a"))
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { reader.Process.Kill(); reader.Wait() }()
	s.within(time.Minute, "waiting for tape", func() bool { return len(s.rows("recalls", "ls")) > 0 })
	// As many questions and answers as fill the watchdog's time more than three times over.
	for began := time.Now(); time.Since(began) < 4*time.Second; {
		if !s.mounted() {
			t.Fatal("the mount does not answer")
		}
	}
	if b := s.serving(); b.pid != a.pid || b.restarts != 0 {
		t.Errorf("the daemon was replaced while a reader waited for tape: %+v\n%s", b, s.log)
	}
	if syscall.Kill(reader.Process.Pid, 0) != nil {
		t.Error("the reader has ended")
	}
}

// The end of the supervisor alone is not the end of the mount; a daemon that dies then
// stays dead until the next `tarn mount`.
func TestSupervisorKilled(t *testing.T) {
	s := supervisedSite(t, crashLake)
	a := s.state()
	t.Cleanup(func() { syscall.Kill(a.pid, syscall.SIGKILL) }) // if the test did not
	s.sh("echo x > ctao/f")
	signalTo(t, a.supervisor, syscall.SIGKILL)
	s.gone(a.supervisor)
	s.within(30*time.Second, "noticed", func() bool { return strings.Contains(s.log.String(), "supervisor has ended") })
	if !s.mounted() {
		t.Fatal("the mount ended with its supervisor")
	}
	b := s.state()
	if b.pid != a.pid || b.supervisor != 0 {
		t.Errorf("status gives %+v", b)
	}
	if out := s.ok("status", s.mnt); !strings.Contains(out, "supervisor has ended") {
		t.Errorf("status says\n%s", out)
	}
	if r := s.try("mount", s.dir, s.mnt); r.code != 1 || !strings.Contains(r.err, "mounted already") {
		t.Errorf("mount over a living one: %d %s", r.code, r.err)
	}
	signalTo(t, a.pid, syscall.SIGKILL)
	s.gone(a.pid)
	<-s.exited
	s.daemon = nil
	s.within(10*time.Second, "dead", func() bool { return !s.mounted() })
	s.mount()
	if got := s.sh("cat ctao/f"); got != "x\n" {
		t.Errorf("the repaired mount has %q", got)
	}
	s.umount()
}

// SIGTERM to the supervisor is the daemon's: what is unsent is sent, then both end.
func TestSupervisorTerminated(t *testing.T) {
	s := supervisedSite(t, "journal: {delay: 1h, drain: 2m}\n")
	s.sh("echo x > ctao/f")
	a := s.state()
	signalTo(t, a.supervisor, syscall.SIGTERM)
	select {
	case err := <-s.exited:
		if err != nil {
			t.Errorf("the supervisor ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it lives a minute after SIGTERM")
	}
	s.daemon = nil
	s.gone(a.pid)
	if left := s.rows("uploads", "ls"); len(left) != 0 {
		t.Errorf("unsent after SIGTERM: %v", left)
	}
}

// A daemon that cannot start again is tried again, later and later; status and umount
// work meanwhile, and the next that can start is used.
func TestSupervisorBacksOff(t *testing.T) {
	s := supervisedSite(t, crashLake)
	s.expect("the daemon died; it is started again")
	a := s.state()
	hidden := s.dir + "/catalogue.hidden"
	if err := os.Rename(s.dir+"/catalogue", hidden); err != nil {
		t.Fatal(err)
	}
	signalTo(t, a.pid, syscall.SIGKILL)
	s.within(time.Minute, "tried twice", func() bool { return s.state().restarts >= 2 })
	b := s.state()
	if b.alive || b.supervisor != a.supervisor || !strings.Contains(b.why, "catalogue") {
		t.Errorf("status of a lake that cannot be served: %+v", b)
	}
	// Nobody writes into the folder below: the dead mount is kept in front of it.
	if err := os.WriteFile(s.path("stray"), nil, 0o644); err == nil {
		t.Error("a file was made below the mountpoint")
	}
	if err := os.Rename(hidden, s.dir+"/catalogue"); err != nil {
		t.Fatal(err)
	}
	s.within(2*time.Minute, "usable again", s.mounted)
	if err := os.Rename(s.dir+"/catalogue", hidden); err != nil {
		t.Fatal(err)
	}
	signalTo(t, s.serving().pid, syscall.SIGKILL)
	s.within(time.Minute, "waiting", func() bool { return s.state().state == "waiting" })
	s.umount()
}

// fusermount3 -u of a mount in use says so, and leaves it as it is.
func TestFusermountInUse(t *testing.T) {
	s := supervisedSite(t, "")
	f, err := os.Open(s.path("ctao"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("fusermount3", "-u", s.mnt).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "busy") {
		t.Errorf("fusermount3 -u with an open file: %v\n%s", err, out)
	}
	if r := s.try("umount", s.mnt); r.code != 5 || !strings.Contains(r.err, "is in use") {
		t.Errorf("tarn umount with an open file: exit %d\n%s", r.code, r.err)
	}
	if !s.mounted() {
		t.Error("the mount is gone")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	a := s.state()
	if out, err := exec.Command("fusermount3", "-u", s.mnt).CombinedOutput(); err != nil {
		t.Errorf("fusermount3 -u: %v\n%s", err, out)
	}
	select {
	case err := <-s.exited:
		if err != nil {
			t.Errorf("after fusermount3 -u the supervisor ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the supervisor lives a minute after fusermount3 -u")
	}
	s.daemon = nil
	s.gone(a.pid)
}

// Another FUSE file system that is mounted over ours, and does not answer or has died, is no
// sign that our daemon hangs or has lost its connection: it serves who stands in the mount.
func TestMountedOverAndDead(t *testing.T) {
	needRoot(t)
	s := supervisedSite(t, "mount: {watchdog: 2s}\n")
	a := s.state()
	inside, err := os.Open(s.path("ctao"))
	must(t, err)
	defer inside.Close()
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() {
		fuse.Close()
		unix.Unmount(s.mnt, unix.MNT_DETACH) // an error means that the test has done it
	})
	must(t, unix.Mount("over", s.mnt, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse.Fd())))
	time.Sleep(4 * time.Second) // it answers nothing
	must(t, fuse.Close())
	time.Sleep(5 * time.Second) // it is dead
	if _, err := inside.ReadDir(-1); err != nil {
		t.Errorf("in the mount below: %v", err)
	}
	must(t, unix.Unmount(s.mnt, unix.MNT_DETACH))
	s.within(time.Minute, "seen again", s.mounted)
	if b := s.serving(); b.pid != a.pid || b.restarts != 0 {
		t.Errorf("the daemon was replaced: %+v\n%s", b, s.log)
	}
	// Ours is watched again.
	s.expect("the daemon hangs", "the kernel has ended the connection", "the daemon died; it is started again")
	signalTo(t, a.pid, syscall.SIGSTOP)
	s.gone(a.pid)
	s.within(time.Minute, "usable again", s.mounted)
	s.umount()
}
