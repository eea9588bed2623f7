package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends/servertest"
)

// gridRig is several lakes that are mounted side by side as users do: demo lakes A and B, and what else a test names.
type gridRig struct {
	*site
	file string
	run  string
}

const gridLocal = "journal: {delay: 20ms}\n"

// newGrid writes the file; more are lines of its list.
func newGrid(s *site, more string) *gridRig {
	s.t.Helper()
	top := filepath.Dir(s.mnt)
	g := &gridRig{site: s, file: filepath.Join(top, "grid.yaml"), run: filepath.Join(top, "grid/run")}
	for _, name := range []string{"a", "b"} {
		s.ok("init", "--demo", filepath.Join(top, name))
		writeFiles(s.t, filepath.Join(top, name), map[string]string{"lake.local.yaml": gridLocal})
	}
	writeFiles(s.t, top, map[string]string{"grid.yaml": "lakes:\n  - {name: A, lake: a}\n  - {name: B, lake: b}\n" + more})
	s.t.Cleanup(g.clear)
	return g
}

// clear ends whatever a test left.
func (g *gridRig) clear() {
	for _, pid := range g.pids() {
		syscall.Kill(pid, syscall.SIGKILL) // what has ended is not there
	}
	for range 4 {
		exec.Command("umount", "-l", g.mnt).Run() // what is left is seen by the site
	}
}

// pids are all processes of the mounts, as they are on record.
func (g *gridRig) pids() (out []int) {
	g.t.Helper()
	dirs := []string{g.run}
	for _, l := range g.lakes() {
		dirs = append(dirs, filepath.Join(filepath.Dir(l.Lake), "run"))
	}
	for _, dir := range dirs {
		for _, name := range []string{"supervisor.json", "daemon.json", "lakes.json"} {
			var v struct {
				PID, Root, Daemon int
				Mountpoint        string
			}
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || json.Unmarshal(b, &v) != nil {
				continue
			}
			for _, pid := range []int{v.PID, v.Root, v.Daemon} {
				if pid > 1 {
					out = append(out, pid)
				}
			}
		}
	}
	return out
}

type gridLake struct {
	Name, Lake, State, Why string
	PID, Attempts          int
}

func (g *gridRig) record() (v struct {
	PID, Root int
	Lakes     []gridLake
}) {
	g.t.Helper()
	if b, err := os.ReadFile(filepath.Join(g.run, "lakes.json")); err == nil {
		if err := json.Unmarshal(b, &v); err != nil {
			g.t.Error(err)
		}
	}
	return v
}

func (g *gridRig) lakes() []gridLake { return g.record().Lakes }

func (g *gridRig) lake(name string) gridLake {
	g.t.Helper()
	for _, l := range g.lakes() {
		if l.Name == name {
			return l
		}
	}
	return gridLake{}
}

// processes gives the pids of the daemon of a lake and of its supervisor.
func (g *gridRig) processes(name string) (daemon, supervisor int) {
	g.t.Helper()
	s := *g.site
	s.mnt = g.path(name)
	d := s.state()
	return d.pid, d.supervisor
}

// shows waits until a lake is there and answers.
func (g *gridRig) shows(name string) {
	g.t.Helper()
	g.within(time.Minute, "mounted: "+name, func() bool {
		b, err := os.ReadFile(g.path(name, ".tarn/stats"))
		return err == nil && len(b) > 0
	})
}

// nothing wants no process of these and no mount, and no record of any.
func (g *gridRig) nothing(pids []int) {
	g.t.Helper()
	for _, pid := range pids {
		if !gone(pid) {
			b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
			g.t.Errorf("process %d is left: %s", pid, bytes.ReplaceAll(b, []byte{0}, []byte(" ")))
		}
	}
	if b, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(b), g.mnt) {
		g.t.Errorf("a mount is left:\n%s", b)
	}
	if left, _ := filepath.Glob(g.run + "/*.json"); len(left) > 0 {
		g.t.Errorf("left are %v", left)
	}
	if names, err := os.ReadDir(g.mnt); err != nil || len(names) > 0 {
		g.t.Errorf("below the mount there are %v, %v", names, err)
	}
}

// TestSeveralLakes: two lakes of this machine and one of a real Rucio server in one mount, which nobody can write beside.
func TestSeveralLakes(t *testing.T) {
	r := newRucio(t, servertest.RucioOptions{})
	rse, _ := r.folderDisk()
	known := r.upload(rse, "known.dat", 50000)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	g := newGrid(r.site, "  - {name: R, rucio: \""+r.r.URL+"\", set: {write_rules: [{expression: "+rse+"}], journal: {delay: 50ms}}}\n")
	g.ok("config", "check", g.file)
	if out := g.ok("mount", g.file, g.mnt); !strings.Contains(out, "3 of 3 lakes are mounted") {
		t.Errorf("mount says %s", out)
	}
	if out := g.sh("ls"); out != "A\nB\nR\n" {
		t.Errorf("the root shows %q", out)
	}
	for what, err := range map[string]error{
		"mkdir": os.Mkdir(g.path("new"), 0o755), "create": os.WriteFile(g.path("new"), nil, 0o644), "symlink": os.Symlink("x", g.path("new")), "chmod": os.Chmod(g.mnt, 0o777),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s in the root: %v, want EROFS", what, err)
		}
	}
	if _, err := os.Stat(g.path("none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a name that is not there: %v", err)
	}

	// Each is read and written, and files go from one to another.
	want := content(3, 200_000)
	if err := os.WriteFile(g.path("A/ctao/f"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	g.sh("cp A/ctao/f B/ctao/g && cmp A/ctao/f B/ctao/g && cp B/ctao/g R/" + r.scope + "/h.dat && cmp A/ctao/f R/" + r.scope + "/h.dat && cp R/" + r.scope + "/known.dat A/ctao/known")
	if got, err := os.ReadFile(g.path("A/ctao/known")); err != nil || !bytes.Equal(got, known) {
		t.Errorf("the file of the Rucio server: %d bytes, %v", len(got), err)
	}
	g.within(time.Minute, "registered", func() bool {
		return g.try("stat", g.path("R", r.scope, "h.dat")).code == 0 && len(r.replicas("h.dat")) == 1
	})
	if got := r.download(rse, "h.dat"); !bytes.Equal(got, want) {
		t.Errorf("the server has %d other bytes", len(got))
	}

	// The commands find the lake by the path.
	for path, holds := range map[string]string{"A/ctao": "known", "B/ctao": "g", "R/" + r.scope: "h.dat"} {
		if out := g.ok("ls", g.path(path)); !strings.Contains(out, holds) {
			t.Errorf("ls %s: %s", path, out)
		}
		if out := g.ok("find", g.path(path), "name="+holds); !strings.Contains(out, holds) {
			t.Errorf("find below %s: %q", path, out)
		}
		if out := g.ok("stat", g.path(path, holds)); !strings.Contains(out, holds) {
			t.Errorf("stat %s: %s", path, out)
		}
	}
	if out := g.ok("replicas", g.path("R", r.scope, "h.dat")); !strings.Contains(out, rse) {
		t.Errorf("replicas: %s", out)
	}
	g.fails(2, []string{"root of several lakes", "A, B, R"}, "ls", g.mnt)
	g.fails(2, []string{"several lakes", g.file}, "ls", "/", "--lake", g.file)
	g.fails(4, []string{"there is no lake", "none"}, "ls", g.path("none/x"))
	if out := g.ok("status", g.mnt); strings.Count(out, "mounted for") != 3 || !strings.Contains(out, g.path("R")+": lake") {
		t.Errorf("status: %s", out)
	}

	// It is mounted once.
	g.fails(1, []string{"mounted already", g.file}, "mount", g.file, g.mnt)
	other := t.TempDir()
	g.fails(7, []string{"are mounted at " + g.mnt + " already", "tarn umount"}, "mount", g.file, other)

	pids := g.pids()
	if len(pids) < 9 {
		t.Errorf("only %d processes are on record", len(pids))
	}
	g.ok("umount", g.mnt)
	g.nothing(pids)
}

// TestSeveralLakesOneDies: the daemon of one lake dies, then all its processes; the others are read all the time.
func TestSeveralLakesOneDies(t *testing.T) {
	g := newGrid(bareSite(t), "")
	g.ok("mount", g.file, g.mnt)
	want := content(5, 3_000_000)
	for _, p := range []string{"A/ctao/f", "B/ctao/f"} {
		if err := os.WriteFile(g.path(p), want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	held, err := os.Open(g.path("B/ctao/f"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	var stop atomic.Bool
	reads := make(chan int, 1)
	go func() {
		n := 0
		for ; !stop.Load(); n++ {
			_, err := held.Seek(0, io.SeekStart)
			got, rerr := io.ReadAll(held)
			again, oerr := os.ReadFile(g.path("B/ctao/f"))
			if err = errors.Join(err, rerr, oerr); err != nil || !bytes.Equal(got, want) || !bytes.Equal(again, want) {
				t.Errorf("read %d of the other lake: %d and %d bytes, %v", n, len(got), len(again), err)
				break
			}
		}
		reads <- n
	}()
	daemon, supervisor := g.processes("A")
	signalTo(t, daemon, syscall.SIGKILL)
	g.gone(daemon)
	g.shows("A")
	again, same := g.processes("A")
	if again == daemon || same != supervisor {
		t.Errorf("the daemon is %d after %d, the supervisor %d after %d", again, daemon, same, supervisor)
	}
	// Its supervisor, too: now the mount's own does it.
	signalTo(t, supervisor, syscall.SIGKILL)
	signalTo(t, again, syscall.SIGKILL)
	g.gone(again)
	g.shows("A")
	g.within(time.Minute, "supervised", func() bool { _, sup := g.processes("A"); return sup != 0 && sup != supervisor })
	if got, err := os.ReadFile(g.path("A/ctao/f")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after two deaths: %d bytes, %v", len(got), err)
	}
	stop.Store(true)
	t.Logf("the other lake was read %d times", <-reads)

	// In use: nothing is taken away, of no lake.
	g.fails(5, []string{"in use", "pid"}, "umount", g.mnt)
	for _, name := range []string{"A", "B"} {
		g.shows(name)
	}
	held.Close()
	if os.Geteuid() == 0 { // what no process tells of is seen when some lakes have gone already, which come again
		must(t, unix.Mount("none", g.path("B/ctao/dl0"), "tmpfs", 0, ""))
		g.fails(5, []string{"lake B", "in use"}, "umount", g.mnt)
		for _, name := range []string{"A", "B"} {
			g.shows(name)
		}
		must(t, unix.Unmount(g.path("B/ctao/dl0"), 0))
	}
	pids := g.pids()
	g.ok("umount", g.mnt)
	g.nothing(pids)
}

// TestSeveralLakesOneAway: a Rucio server that is away when the lakes are mounted. Its directory is no empty one, and it
// comes by itself.
func TestSeveralLakesOneAway(t *testing.T) {
	r := newRucio(t, servertest.RucioOptions{Own: true})
	rse, _ := r.folderDisk()
	known := r.upload(rse, "known.dat", 50000)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	g := newGrid(r.site, "  - {name: R, rucio: \""+r.r.URL+"\"}\n")
	r.r.Stop()
	began := time.Now()
	res := g.try("mount", g.file, g.mnt)
	if res.code != 0 || !strings.Contains(res.out, "2 of 3 lakes") || !strings.Contains(res.err, "goes on without lake R") {
		t.Fatalf("mount: exit %d\n%s%s", res.code, res.out, res.err)
	}
	t.Logf("mount took %v", time.Since(began))
	if out := g.sh("ls"); out != "A\nB\nR\n" {
		t.Errorf("the root shows %q", out)
	}
	within(t, 5*time.Second, "looking into a lake that is away", func() {
		if names, err := os.ReadDir(g.path("R")); !errors.Is(err, syscall.EIO) {
			t.Errorf("its directory: %v, %v, want EIO", names, err)
		}
		if _, err := os.Stat(g.path("R", r.scope, "known.dat")); !errors.Is(err, syscall.EIO) {
			t.Errorf("a file in it: %v, want EIO", err)
		}
		if err := os.WriteFile(g.path("R/f"), nil, 0o644); !errors.Is(err, syscall.EIO) {
			t.Errorf("a new file in it: %v, want EIO", err)
		}
	})
	g.sh("echo x > A/ctao/f && cmp A/ctao/f <(echo x)")
	g.fails(5, []string{"lake R is not mounted", "does not answer", r.r.URL}, "ls", g.path("R", r.scope))
	if out := g.ok("status", g.mnt); !strings.Contains(out, "R: not mounted: ") || !strings.Contains(out, "does not answer") {
		t.Errorf("status: %s", out)
	}
	// It can be taken away and mounted while the server is away.
	pids := g.pids()
	g.ok("umount", g.mnt)
	g.nothing(pids)
	g.ok("mount", g.file, g.mnt)
	r.r.Start()
	g.shows("R")
	if got, err := os.ReadFile(g.path("R", r.scope, "known.dat")); err != nil || !bytes.Equal(got, known) {
		t.Errorf("when it is back: %d bytes, %v", len(got), err)
	}
	if l := g.lake("R"); l.State != "mounted" || l.Attempts != 0 || l.Why != "" {
		t.Errorf("on record is %+v", l)
	}
	// Unsent files of one lake keep all there, unless they may stay behind.
	writeFiles(t, filepath.Join(filepath.Dir(g.mnt), "b"), map[string]string{"lake.local.yaml": "journal: {delay: 1h}\n"})
	g.ok("umount", g.mnt)
	g.ok("mount", g.file, g.mnt)
	if err := os.WriteFile(g.path("B/ctao/unsent"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	g.fails(5, []string{"lake B", "1 file is not safe elsewhere"}, "umount", "--now", g.mnt)
	for _, name := range []string{"A", "B", "R"} {
		g.shows(name)
	}
	pids = g.pids()
	if out := g.ok("umount", "--now", "--force", g.mnt); !strings.Contains(out, "1 file stays in the journal") {
		t.Errorf("umount by force: %s", out)
	}
	g.nothing(pids)
}

// TestSeveralLakesRootDies: what serves the root is killed, with its supervisor and without.
func TestSeveralLakesRootDies(t *testing.T) {
	g := newGrid(bareSite(t), "")
	g.ok("mount", g.file, g.mnt)
	g.sh("echo x > A/ctao/f")
	was := g.record()
	signalTo(t, was.Root, syscall.SIGKILL)
	g.gone(was.Root)
	g.within(time.Minute, "shown again", func() bool {
		names, err := os.ReadDir(g.mnt)
		return err == nil && len(names) == 2
	})
	for _, name := range []string{"A", "B"} {
		g.shows(name)
	}
	wantText(t, g.path("A/ctao/f"), "x\n")
	now := g.record()
	if now.PID != was.PID || now.Root == was.Root {
		t.Errorf("on record are %+v after %+v", now, was)
	}

	// The supervisor first: all go on, and can be taken away.
	signalTo(t, now.PID, syscall.SIGKILL)
	g.gone(now.PID)
	g.sh("ls && cat A/ctao/f")
	if out := g.ok("status", g.mnt); !strings.Contains(out, "supervisor has ended") {
		t.Errorf("status: %s", out)
	}
	// Then the root, too: a new mount takes away what is dead, and ends who served there.
	held, err := os.Open(g.path("B/ctao"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	old := g.pids()
	signalTo(t, now.Root, syscall.SIGKILL)
	g.gone(now.Root)
	if out := g.ok("status", g.mnt); !strings.Contains(out, "has died") {
		t.Errorf("status: %s", out)
	}
	g.ok("mount", g.file, g.mnt)
	for _, name := range []string{"A", "B"} {
		g.shows(name)
	}
	for _, pid := range old {
		g.gone(pid)
	}
	wantText(t, g.path("A/ctao/f"), "x\n")
	if b, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Count(string(b), g.mnt) != 3 {
		t.Errorf("mounts are %s, %v", b, err)
	}

	// Both dead, and nobody mounts: umount cleans up.
	last := g.record()
	pids := g.pids()
	signalTo(t, last.PID, syscall.SIGKILL)
	signalTo(t, last.Root, syscall.SIGKILL)
	g.gone(last.Root)
	g.ok("umount", g.mnt)
	for _, pid := range pids {
		g.gone(pid)
	}
	if b, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(b), g.mnt) {
		t.Errorf("a mount is left:\n%s", b)
	}
}

// TestSeveralLakesInForeground: as a service; SIGTERM ends all, also while files are open.
func TestSeveralLakesInForeground(t *testing.T) {
	g := newGrid(bareSite(t), "")
	g.dir, g.supervised, g.below = g.file, true, "B"
	g.mount()
	g.shows("A")
	g.sh("echo x > A/ctao/f")
	held, err := os.Open(g.path("A/ctao/f"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	pids := g.pids()
	signalTo(t, g.daemon.Process.Pid, syscall.SIGTERM)
	select {
	case err := <-g.exited:
		g.daemon = nil
		if err != nil {
			t.Errorf("it ended with %v\n%s", err, g.log)
		}
	case <-time.After(time.Minute):
		t.Fatalf("it lives a minute after SIGTERM\n%s", g.log)
	}
	g.nothing(pids)
	// umount of one lake is the wish to have it away; the others stay.
	g.mount()
	g.shows("A")
	wantText(t, g.path("A/ctao/f"), "x\n")
	g.ok("umount", g.path("A"))
	time.Sleep(2 * time.Second)
	if _, err := os.ReadDir(g.path("A")); !errors.Is(err, syscall.EIO) {
		t.Errorf("a lake that was unmounted: %v", err)
	}
	g.shows("B")
	// As systemd does: the lakes, then the root.
	pids = g.pids()
	if err := errors.Join(unix.Unmount(g.path("B"), 0), unix.Unmount(g.mnt, 0)); err != nil {
		t.Fatal(err)
	}
	if err := <-g.exited; err != nil {
		t.Errorf("it ended with %v\n%s", err, g.log)
	}
	g.daemon = nil
	g.nothing(pids)
}

// TestSeveralLakesOfAnOrdinaryUser: fusermount3 mounts lakes on the root's directories, and takes all away. It has a device
// of its own that everybody may open.
func TestSeveralLakesOfAnOrdinaryUser(t *testing.T) {
	needRoot(t)
	needTools(t, "setpriv", "unshare", "mknod")
	g := newGrid(bareSite(t), "")
	top := filepath.Dir(g.mnt)
	for p := top; strings.HasPrefix(p, os.TempDir()+"/"); p = filepath.Dir(p) {
		must(t, os.Chmod(p, 0o755))
	}
	must(t, os.Chmod(filepath.Dir(tarn), 0o755))
	if out, err := exec.Command("chown", "-R", "65534:65534", top).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	device := filepath.Join(top, "fuse")
	script := `set -e
root() { sed -n 's/.*"root": \([0-9]*\).*/\1/p' grid/run/lakes.json; }
trap '"$0" umount --now --force mnt >/dev/null 2>&1; kill -9 $(root) 2>/dev/null' EXIT
rm -r a b && "$0" init --demo a >/dev/null && "$0" init --demo b >/dev/null # the scopes are the user's own
"$0" mount grid.yaml mnt
test "$(cd mnt && echo *)" = "A B"
echo x > mnt/A/ctao/f && cp mnt/A/ctao/f mnt/B/ctao/f
mkdir mnt/new 2>&1 | grep 'Read-only file system'
was=$(root)
kill -9 $was
for i in $(seq 300); do sleep 0.1; now=$(root); test "$now" -gt 0 && test $now != $was && test -d mnt/A/.tarn && test -d mnt/B/.tarn && break; done 2>/dev/null
test "$(cd mnt && echo *)" = "A B"
cat mnt/A/ctao/f mnt/B/ctao/f
"$0" ls mnt/A/ctao mnt/A/ctao/dl3 | grep -x f && "$0" status mnt/B | grep 'lake b'
"$0" umount mnt/A && ls mnt/A 2>&1 | grep 'Input/output error' && ls mnt/B
"$0" umount mnt
if grep "$PWD" /proc/mounts | grep -v "$PWD/fuse"; then exit 1; fi
trap - EXIT
`
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mknod -m 666 "$1" c 10 229 && mount --bind "$1" /dev/fuse && cd "$2" && shift 2 && exec "$@"`, "sh", device, top,
		"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "env", "HOME="+top, "USER=nobody", "TARN_LAKE=", "LC_ALL=C", "sh", "-c", script, tarn)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "mnt unmounted\n") {
		log, _ := os.ReadFile(filepath.Join(g.run, "tarn.log"))
		t.Errorf("%v\n%s\n%s", err, out, log)
	}
	g.nothing(g.pids())
}

// TestSeveralLakesThroughALink: the kernel knows a mount by the path without symbolic links, and so do the processes.
func TestSeveralLakesThroughALink(t *testing.T) {
	g := newGrid(bareSite(t), "")
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(filepath.Dir(g.mnt), link))
	point := filepath.Join(link, filepath.Base(g.mnt))
	g.ok("mount", g.file, point)
	g.shows("A")
	g.sh("echo x > A/ctao/f")
	if out := g.ok("stat", filepath.Join(point, "A/ctao/f")); !strings.Contains(out, "/ctao/f") {
		t.Errorf("stat: %s", out)
	}
	if out := g.ok("status", point); strings.Count(out, "mounted for") != 2 || strings.Contains(out, "died") {
		t.Errorf("status: %s", out)
	}
	// The daemon of a lake dies: it comes again at the same place.
	daemon, _ := g.processes("A")
	signalTo(t, daemon, syscall.SIGKILL)
	g.gone(daemon)
	g.shows("A")
	pids := g.pids()
	if out := g.ok("umount", point); !strings.Contains(out, "everything is safe") {
		t.Errorf("umount: %s", out)
	}
	g.nothing(pids)
}

// TestSeveralLakesRefusedThenOne: an umount of all that was refused is no wish to have a lake back that is taken away later.
func TestSeveralLakesRefusedThenOne(t *testing.T) {
	g := newGrid(bareSite(t), "")
	g.ok("mount", g.file, g.mnt)
	held, err := os.Open(g.path("A/ctao"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	g.fails(5, []string{"in use"}, "umount", g.mnt)
	held.Close()
	g.ok("umount", g.path("B"))
	time.Sleep(2 * time.Second)
	if _, err := os.ReadDir(g.path("B")); !errors.Is(err, syscall.EIO) {
		t.Errorf("a lake that was unmounted: %v, want EIO", err)
	}
	g.shows("A")
	pids := g.pids()
	g.ok("umount", g.mnt)
	g.nothing(pids)
}

// TestSeveralLakesMountedTwiceAtOnce: of two mounts of the same file that begin together at two places one is refused.
func TestSeveralLakesMountedTwiceAtOnce(t *testing.T) {
	g := newGrid(bareSite(t), "")
	other := filepath.Join(filepath.Dir(g.mnt), "other")
	must(t, os.Mkdir(other, 0o755))
	points := []string{g.mnt, other}
	var codes [2]int
	var wg sync.WaitGroup
	for i, p := range points {
		wg.Go(func() { codes[i] = g.try("mount", g.file, p).code })
	}
	wg.Wait()
	if codes[0]+codes[1] != 7 || codes[0]*codes[1] != 0 {
		t.Errorf("the mounts end with %d, want 0 and 7", codes)
	}
	for i, p := range points {
		if codes[i] != 0 {
			continue
		}
		g.mnt = p
		g.shows("A")
		pids := g.pids()
		g.ok("umount", p)
		g.nothing(pids)
	}
}

// TestSeveralLakesOneComesBack: a lake that was unmounted by itself comes back when the whole is mounted again where it is, by mount(8) as well,
// which calls its helper as it does for a line in fstab.
func TestSeveralLakesOneComesBack(t *testing.T) {
	g := newGrid(bareSite(t), "")
	helper := filepath.Join(t.TempDir(), "mount.fuse.tarn")
	must(t, os.Symlink(tarn, helper))
	fstab := func() (string, error) {
		out, err := exec.Command(helper, g.file, g.mnt, "-n", "-o", "rw,_netdev,nofail", "-t", "fuse.tarn").CombinedOutput()
		return string(out), err
	}
	if out, err := fstab(); err != nil || !strings.Contains(out, "2 of 2 lakes are mounted") {
		t.Fatalf("the helper of mount(8): %v\n%s", err, out)
	}
	g.sh("echo x > A/ctao/f")
	_, other := g.processes("B")
	for name, again := range map[string]func() (string, error){
		"tarn mount": func() (string, error) { r := g.try("mount", g.file, g.mnt); return r.out + r.err, codeError(r.code) },
		"mount(8)":   fstab,
	} {
		g.ok("umount", g.path("A"))
		g.within(time.Minute, "unmounted", func() bool { return g.lake("A").State == "unmounted" })
		if out := g.ok("status", g.mnt); !strings.Contains(out, "`tarn mount "+g.file+" "+g.mnt+"` brings it back") {
			t.Errorf("status: %s", out)
		}
		if out, err := again(); err != nil || !strings.Contains(out, "2 of 2 lakes are mounted") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		wantText(t, g.path("A/ctao/f"), "x\n")
	}
	if _, same := g.processes("B"); same != other {
		t.Errorf("the other lake's supervisor is %d after %d", same, other)
	}
	g.fails(1, []string{"mounted already"}, "mount", g.file, g.mnt) // nothing is missing
	pids := g.pids()
	g.ok("umount", g.mnt)
	g.nothing(pids)
}

// codeError is an exit code that is no success.
func codeError(code int) error {
	if code == 0 {
		return nil
	}
	return fmt.Errorf("exit code %d", code)
}
