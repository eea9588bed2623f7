package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestBadMountpoint: each kind is said in words.
func TestBadMountpoint(t *testing.T) {
	s := newSite(t, "")
	dir := t.TempDir()
	file, full := filepath.Join(dir, "file"), filepath.Join(dir, "full")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Mkdir(full, 0o700), os.WriteFile(filepath.Join(full, "x\n"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, f := range [][]string{{"mount"}, {"mount", "-f"}} {
		mount := func(code int, words []string, point string) {
			t.Helper()
			s.fails(code, words, append(f, s.dir, point)...)
		}
		mount(3, []string{"none does not exist", "mkdir -p"}, filepath.Join(dir, "none"))
		mount(3, []string{"file is not a directory"}, file)
		mount(1, []string{"not empty", `x\n`, "nonempty"}, full)
		mount(2, []string{"would hide or lie in", "mount it elsewhere"}, filepath.Join(s.dir, "cache"))
		mount(2, []string{"would hide or lie in"}, s.dir)
	}
	s.fails(9, []string{"not a mount of tarn", "tarn status"}, "umount", dir)
	s.fails(9, []string{"not a mount of tarn"}, "umount", filepath.Join(dir, "none"))

	s.mount()
	s.fails(1, []string{"mounted already", s.dir, "tarn umount"}, "mount", s.dir, s.mnt)
	s.fails(7, []string{"in use", "mounted at " + s.mnt}, "mount", s.dir, dirOf(t, dir, "m2"))
	s.kill()
	if _, err := os.ReadDir(s.mnt); !unserved(err) {
		t.Fatalf("the mount is not dead: %v", err)
	}
	s.mount() // takes the dead one away by itself
	s.sh("test -d ctao")
	s.kill()
	if out := s.try("umount", s.mnt); out.code != 0 || !strings.Contains(out.err, "has died") {
		t.Errorf("umount of a dead mount: %+v", out)
	}
	if _, err := os.ReadDir(s.mnt); err != nil {
		t.Error(err)
	}
}

// unserved tells the errors of a mount whose daemon is gone; the last two are of one over io_uring while its connection goes.
func unserved(err error) bool {
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ECANCELED)
}

func dirOf(t testing.TB, elem ...string) string {
	t.Helper()
	d := filepath.Join(elem...)
	if err := os.Mkdir(d, 0o755); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestMountOverAnother: the file system that is mounted at the point already is hidden, as
// mount(8) does, and is there again afterwards; a dead one that is not ours is named.
func TestMountOverAnother(t *testing.T) {
	s := newSite(t, "")
	dir := tmpfs(t, "1M")
	s.mnt = dir
	s.mount()
	s.sh("test -d ctao")
	s.umount()
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
		t.Error(err)
	}
	s.fails(1, []string{"not empty"}, "mount", s.dir, dir)
}

// TestNoFUSE: said in words, with the cure.
func TestNoFUSE(t *testing.T) {
	needRoot(t)
	needTools(t, "unshare", "setpriv", "mknod")
	s := newSite(t, "")
	if out, err := exec.Command("unshare", "-m", "true").CombinedOutput(); err != nil {
		missing(t, "unshare -m: %v: %s", err, out)
	}
	hidden := func(setup string) []string {
		return []string{"unshare", "-m", "sh", "-c", setup + ` && exec "$0" "$@"`}
	}
	for _, f := range []string{"mount", "mount -f"} {
		args := append(strings.Fields(f), s.dir, s.mnt)
		s.failsAs(hidden("mount -t tmpfs none /dev && mknod /dev/null c 1 3"), 7, []string{"no /dev/fuse", "modprobe fuse", "apt-get install fuse3", "--device /dev/fuse"}, args...)
		s.failsAs([]string{"setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"}, 7, []string{"refuses the mount", "--cap-add SYS_ADMIN", "fusermount3 said"}, args...)
	}
	// Who is not root, with a device that only root may open.
	lake := filepath.Join(t.TempDir(), "lake")
	for p := filepath.Dir(lake); strings.HasPrefix(p, os.TempDir()+"/"); p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	point := dirOf(t, filepath.Dir(lake), "mnt")
	if err := errors.Join(os.Chown(filepath.Dir(lake), 65534, 65534), os.Chown(point, 65534, 65534), os.Chmod(filepath.Dir(tarn), 0o755)); err != nil {
		t.Fatal(err)
	}
	nobody := []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "env", "HOME=" + filepath.Dir(lake), "USER=nobody", "TARN_LAKE="}
	if r := s.tryAs(nobody, "init", "--demo", lake); r.code != 0 {
		t.Fatalf("init as nobody: %s", r.err)
	}
	as := append(hidden("mknod -m 600 /run/fuse-of-root c 10 229 && mount --bind /run/fuse-of-root /dev/fuse && rm /run/fuse-of-root"), nobody...)
	s.failsAs(as, 7, []string{"/dev/fuse may not be opened", "chmod 666 /dev/fuse"}, "mount", lake, point)
	s.failsAs(nobody, 12, []string{"permission denied"}, "ls", "/", "--lake", s.dir)
}

// TestUnmount: with open files, with unsent files, and by a signal.
func TestUnmount(t *testing.T) {
	s := newSite(t, "journal: {delay: 1h, drain: 1s}\n")
	s.mount()
	f, err := os.Create(s.path("ctao/dl3/open"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s.fails(5, []string{s.mnt, "in use", "pid"}, "umount", s.mnt)
	if _, err := f.WriteString("kept"); err != nil {
		t.Errorf("the mount was taken away all the same: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	s.fails(5, []string{"1 file is not safe elsewhere yet", "uploads ls", "--force"}, "umount", "--now", s.mnt)
	s.sh("cat ctao/dl3/open")
	s.umount("--now", "--force")
	if n := len(s.rows("uploads", "ls")); n != 1 {
		t.Errorf("%d uploads in the journal, want 1", n)
	}
	s.mount()
	if got := s.sh("cat ctao/dl3/open"); got != "kept" {
		t.Errorf("after the next mount: %q", got)
	}
	s.umount() // waits, and does not wait for the delay
	if left := s.rows("uploads", "ls"); len(left) != 0 {
		t.Errorf("left after umount: %v", left)
	}

	// SIGTERM: drained within journal.drain, or left in the journal; open files do not stop it.
	s.mount()
	s.sh("echo term > ctao/dl3/term")
	g, err := os.Open(s.path("ctao/dl3/open"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := s.daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.exited:
		if err != nil {
			t.Errorf("daemon after SIGTERM: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the daemon lives 30 s after SIGTERM")
	}
	s.daemon = nil
	g.Close()
	s.mount()
	if got := s.sh("cat ctao/dl3/term"); got != "term\n" {
		t.Errorf("after SIGTERM: %q", got)
	}
	s.umount()
}
