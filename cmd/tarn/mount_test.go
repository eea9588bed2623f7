package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
	"tarn/integration/needed"
)

// TestMain lets the test binary be tarn itself: `tarn mount` starts its own program as
// the daemon, and a mount must not be used by the process that serves it.
func TestMain(m *testing.M) {
	if os.Getenv("TARN_TEST_IS_TARN") != "" {
		main()
		return
	}
	syscall.Exit(m.Run()) // as main does
}

// needFUSE skips where mounting is not possible; under CI that is a failure.
func needFUSE(t *testing.T) {
	t.Helper()
	err := checkFUSE(false)
	if err == nil {
		return
	}
	needed.Missing(t, "no FUSE: %v", err)
}

// mounted is a lake that a daemon of its own serves.
type mounted struct {
	tester
	point string
	cfg   *config.Config
}

func mountDemo(t *testing.T, args ...string) mounted {
	t.Helper()
	needFUSE(t)
	return mountLake(t, newDemoLake(t), args...)
}

func mountLake(t *testing.T, lake tester, args ...string) mounted {
	t.Helper()
	m := mounted{tester: lake, point: filepath.Join(t.TempDir(), "mnt")}
	if err := os.Mkdir(m.point, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.cfg, err = config.Load(filepath.Join(m.lake, "lake.yaml")); err != nil {
		t.Fatal(err)
	}
	m.mount(args...)
	t.Cleanup(func() {
		d, err := control.ReadDaemon(m.cfg.Run)
		if t.Failed() {
			b, _ := os.ReadFile(logPath(m.cfg))
			t.Logf("log of the daemon:\n%s", b)
		}
		for unix.Unmount(m.point, unix.MNT_DETACH) == nil {
		}
		if err == nil {
			if p, err := os.FindProcess(d.PID); err == nil {
				_ = p.Signal(syscall.SIGKILL) // it may have ended
			}
		}
	})
	return m
}

// mount gives what is said on stderr.
func (m mounted) mount(args ...string) (said string) {
	m.t.Helper()
	m.t.Setenv("TARN_TEST_IS_TARN", "1")
	_, said, err := m.run(append([]string{"mount", m.lake, m.point}, args...)...)
	if err != nil {
		m.t.Fatalf("mount: %v\n%s", err, said)
	}
	return said
}

// A lake comes up while the host of one of its sites has no name.
func TestMountWithoutAHost(t *testing.T) {
	needFUSE(t)
	lake := newDemoLake(t)
	noHosts(t)
	writeTree(t, lake.lake, map[string]string{"lake.local.yaml": "rses: [{name: AWAY, protocols: [{url: \"davs://no-such-door.example.org/x\"}]}]\n"})
	m := mountLake(t, lake)
	if err := os.WriteFile(filepath.Join(m.point, "user.ada/f"), []byte("hello"), 0o644); err != nil {
		t.Error(err)
	}
	m.ok("umount", m.point)
	said := m.mount()
	if want := "the mount goes on without it: lake.local.yaml:1: rses"; !strings.Contains(said, want) || !strings.Contains(said, "the host no-such-door.example.org does not resolve") {
		t.Errorf("it says %q", said)
	}
	if b, err := os.ReadFile(filepath.Join(m.point, "user.ada/f")); string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	m.ok("umount", m.point)
	m.fails(control.CodeFatal, []string{"does not resolve"}, "config", "check")
}

func TestMountServesAndUnmounts(t *testing.T) {
	m := mountDemo(t)
	out, err := exec.Command("sh", "-c", `cd "$1/user.ada" && echo hello > f && cat f && mkdir d && mv f d/g && ls -R && stat -f -c %T .`, "sh", m.point).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "hello") || !strings.Contains(string(out), "g") {
		t.Fatalf("plain tools: %v\n%s", err, out)
	}
	// The daemon answers the commands, by --lake and by a path in the mount.
	if got := m.ok("cat", "/user.ada/d/g"); got != "hello\n" {
		t.Errorf("cat by lake path gives %q", got)
	}
	c := tester{t: t}
	if got := c.ok("cat", filepath.Join(m.point, "user.ada/d/g")); got != "hello\n" {
		t.Errorf("cat by a path in the mount gives %q", got)
	}
	t.Run("relative path", func(t *testing.T) {
		t.Chdir(filepath.Join(m.point, "user.ada"))
		c := tester{t: t}
		if got := c.ok("cat", "d/g"); got != "hello\n" {
			t.Errorf("cat by a relative path gives %q", got)
		}
		if got := c.ok("ls"); got != "d/\n" {
			t.Errorf("ls of the working directory gives %q", got)
		}
	})
	var st struct {
		Alive  bool
		Status struct{ Daemon control.Daemon }
	}
	if err := json.Unmarshal([]byte(c.ok("status", "--json", m.point)), &st); err != nil || !st.Alive || st.Status.Daemon.Mountpoint != m.point {
		t.Errorf("status gives %+v, %v", st, err)
	}
	if got := c.ok("status"); !strings.Contains(got, m.point) || !strings.Contains(got, "hot cache") {
		t.Errorf("status gives\n%s", got)
	}
	m.fails(control.CodeOther, []string{"is mounted already", "tarn umount"}, "mount", m.lake, m.point)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	m.fails(control.CodeFatal, []string{"process", "mounted at " + m.point}, "mount", m.lake, other)

	// In use: not taken away, and who uses it is named.
	f, err := os.Open(filepath.Join(m.point, "user.ada"))
	if err != nil {
		t.Fatal(err)
	}
	m.fails(control.CodeTemporary, []string{"is in use"}, "umount", m.point)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if got := m.ok("umount", m.point); !strings.Contains(got, "everything is safe") {
		t.Errorf("umount says %q", got)
	}
	for _, p := range []string{"control.sock", "daemon.json"} {
		if _, err := os.Stat(filepath.Join(m.cfg.Run, p)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", p, err)
		}
	}
	if got := m.ok("replicas", "/user.ada/d/g"); strings.Count(got, "AVAILABLE") != 2 {
		t.Errorf("after umount the file has not two copies:\n%s", got)
	}
	if got := m.ok("status", "--lake", m.lake); !strings.Contains(got, "no lake is mounted") {
		t.Errorf("status gives %q", got)
	}
}

// umount --now does not wait, and does not lose anything.
func TestUmountNow(t *testing.T) {
	m := mountDemo(t, "-o", "journal.delay=1h")
	if err := os.WriteFile(filepath.Join(m.point, "user.ada/f"), []byte("unsent"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := m.ok("uploads", "ls"); !strings.Contains(got, "SEALED") {
		t.Errorf("uploads ls gives %q", got)
	}
	m.fails(control.CodeTemporary, []string{"1 file is not safe elsewhere yet", "uploads ls"}, "umount", "--now", m.point)
	if got := m.ok("umount", "--now", "--force", m.point); !strings.Contains(got, "1 file stays in the journal") {
		t.Errorf("umount --now --force says %q", got)
	}
	if !holds(t, m.cfg.Journal.Path, "unsent") {
		t.Error("it is not in the journal")
	}
	m.mount()
	b, err := os.ReadFile(filepath.Join(m.point, "user.ada/f"))
	if err != nil || string(b) != "unsent" {
		t.Errorf("after mounting again: %q, %v", b, err)
	}
	m.ok("umount", m.point)
	if got := m.ok("uploads", "ls"); got != "" {
		t.Errorf("umount left unsent files:\n%s", got)
	}
}

// holds tells whether a file below dir has this content.
func holds(t *testing.T, dir, text string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		found = found || string(b) == text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A mount whose daemon was killed is said to be dead, taken away, or replaced; never
// stacked.
func TestDeadMount(t *testing.T) {
	m := mountDemo(t, "--supervise=false")
	kill := func() {
		t.Helper()
		d, err := control.ReadDaemon(m.cfg.Run)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(d.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for i := 0; !deadMount(m.point); i++ {
			if i == 500 {
				t.Fatal("the mount of a killed daemon does not die")
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	kill()
	if got := m.ok("status", m.point); !strings.Contains(got, "its daemon has died") {
		t.Errorf("status of a dead mount gives %q", got)
	}
	if got := m.ok("ls", "/"); got != "ctao/\nuser.ada/\n" {
		t.Errorf("without its daemon the lake lists %q", got)
	}
	m.mount("--supervise=false") // over the dead one
	mounts, err := config.SystemMounts()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, x := range mounts {
		if x.Point == m.point {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d mounts at the mountpoint", n)
	}
	if _, err := os.ReadDir(m.point); err != nil {
		t.Errorf("the new mount: %v", err)
	}
	kill()
	m.ok("umount", m.point)
	if deadMount(m.point) {
		t.Error("umount left a dead mount")
	}
}

// TestHungMount: a daemon that hangs, and has no supervisor, does not make tarn mount hang too.
func TestHungMount(t *testing.T) {
	m := mountDemo(t, "--supervise=false")
	d, err := control.ReadDaemon(m.cfg.Run)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(d.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(d.PID, syscall.SIGCONT)
	allStopped(t, d.PID)
	began := time.Now()
	m.fails(control.CodeTemporary, []string{"has not answered", "kill -9 " + strconv.Itoa(d.PID)}, "mount", m.lake, m.point)
	if took := time.Since(began); took > 6*deadWait {
		t.Errorf("it took %v to say so", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var out strings.Builder
	if err := run(ctx, []string{"tarn", "status", m.point}, strings.NewReader(""), &out, io.Discard); err != nil || !strings.Contains(out.String(), "does not answer; nobody supervises it") || !strings.Contains(out.String(), "tarn.log") {
		t.Errorf("status of it: %v, %q", err, out.String())
	}
	// What it advises helps.
	if err := syscall.Kill(d.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.mount("--supervise=false")
	if _, err := os.ReadDir(m.point); err != nil {
		t.Error(err)
	}
}

// allStopped waits until no thread of a process runs any more.
func allStopped(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		running := 0
		for _, f := range stats {
			b, err := os.ReadFile(f)
			if err == nil && !strings.Contains(string(b[strings.LastIndexByte(string(b), ')')+1:]), " T ") {
				running++
			}
		}
		if running == 0 && len(stats) > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d threads still run", running, len(stats))
		}
	}
}

// SIGTERM is a clean end: what was written is sent first.
func TestTerminate(t *testing.T) {
	m := mountDemo(t, "-o", "journal.delay=1h")
	if err := os.WriteFile(filepath.Join(m.point, "user.ada/f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := control.ReadDaemon(m.cfg.Run)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(d.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := waitGone(t.Context(), d.PID); err != nil {
		t.Fatal(err)
	}
	if got := m.ok("replicas", "/user.ada/f"); strings.Count(got, "AVAILABLE") != 2 {
		t.Errorf("after SIGTERM the file has not two copies:\n%s", got)
	}
}

// A stage without --wait is accepted and goes on in the daemon.
func TestStageInTheBackground(t *testing.T) {
	m := mountDemo(t)
	src := t.TempDir()
	writeTree(t, src, map[string]string{"a": strings.Repeat("a", 100_000), "b": strings.Repeat("b", 100_000)})
	m.ok("import", src, "/ctao/s", "--rse", "PIC-TAPE")
	out, _, err := m.run("stage", "/ctao/s")
	if e := control.Describe(err); e == nil || e.Code != control.CodeStaging || out != "stage-1\n" {
		t.Fatalf("stage gives %q, %v; want a token and exit code 11", out, err)
	}
	for range 500 {
		if out = m.ok("recalls", "ls"); strings.Contains(out, "stage-1") && strings.Contains(out, "ended") {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !strings.Contains(out, "2 of 2 files online, 0 failed") {
		t.Errorf("recalls ls gives\n%s", out)
	}
	if out := m.ok("ls", "-l", "/ctao/s"); strings.Count(out, "ONLINE_AND_NEARLINE") != 2 {
		t.Errorf("after staging:\n%s", out)
	}
	if out, _, err := m.run("stage", "/ctao/s"); err != nil || !strings.Contains(out, "all of 2 files online already") {
		t.Errorf("a second time: %q, %v", out, err)
	}
	m.ok("cache", "limit", "1G")
	m.ok("pin", "--for", "1h", "/ctao/s")
	m.fails(control.CodePartial, []string{"2 files failed"}, "evict", "/ctao/s")
	m.ok("unpin", "/ctao/s")
	m.ok("evict", "/ctao/s")
	if out := m.ok("cache", "scrub"); !strings.Contains(out, "0 damaged") {
		t.Errorf("scrub says %q", out)
	}
	m.ok("umount", m.point) // its supervisor would start the daemon again that the cleanup kills
}

// The foreground daemon says why it cannot start, and so does the one behind.
func TestMountReportsWhatIsWrong(t *testing.T) {
	needFUSE(t)
	c := newDemoLake(t)
	t.Setenv("TARN_TEST_IS_TARN", "1")
	point := t.TempDir()
	writeTree(t, point, map[string]string{"data/in.fits": "x", "data/mnt/gone": ""})
	data := filepath.Join(point, "data")
	if err := os.Remove(filepath.Join(data, "mnt/gone")); err != nil {
		t.Fatal(err)
	}
	c.ok("ingest", "add", "live", "--watch", data, "--to", "/ctao/dl0/live", "--rule", "rse=PIC-DISK", "--paused")
	c.fails(control.CodeUsage, []string{"lies in " + data + ", the folder of ingest live", "tarn ingest rm live"}, "mount", c.lake, filepath.Join(data, "mnt"))
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(c.lake, "catalogue")); err != nil {
		t.Fatal(err)
	}
	c.fails(control.CodeFatal, []string{"catalogue's folder", "is not there", "tarn init"}, "mount", c.lake, point)
	if err := os.WriteFile(filepath.Join(c.lake, "catalogue"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := c.run("mount", c.lake, point)
	if err == nil {
		t.Error("a catalogue folder that is a file is accepted")
	}
}
