package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// mountsAt counts the mounts at one mountpoint.
func mountsAt(mounts []config.MountOf, point string) (n int) {
	for _, m := range mounts {
		if m.Point == point {
			n++
		}
	}
	return n
}

// mostLinks bounds the symbolic links of a path.
const mostLinks = 40

// realPoint is an absolute path as the kernel shows it in its list of mounts: without symbolic links. What is mounted at the path
// itself is asked nothing; what does not exist, and all that is below one of the points, stays as it is.
func realPoint(path string, points ...config.MountOf) string {
	at, rest := "/", strings.TrimPrefix(filepath.Clean(path), "/")
	for links := 0; rest != ""; {
		name, more, _ := strings.Cut(rest, "/")
		at, rest = filepath.Join(at, name), more
		if mountsAt(points, at) > 0 {
			return filepath.Join(at, rest)
		}
		target, err := os.Readlink(at)
		if err != nil || links == mostLinks {
			continue // it is none
		}
		links++
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(at), target)
		}
		at, rest = "/", strings.TrimPrefix(filepath.Join(target, rest), "/")
	}
	return at
}

// checkMount finds out beforehand what would make the mount fail, and says it in words;
// what a dead daemon left at the mountpoint is taken away. With o.later it stays for now:
// who writes there meanwhile must not find the folder below it.
func checkMount(ctx context.Context, o *mountOptions) error {
	mounts, err := config.SystemMounts()
	if err != nil {
		return err
	}
	for {
		m, rel, ok := config.Within(mounts, o.point)
		if !ok || rel != "/" {
			break
		}
		dead, hangs := lookAt(o.point)
		if hangs {
			return errHangs(o)
		}
		if !dead {
			return control.Fail(backends.ErrExist, "`tarn umount "+shellWord(o.point)+"` takes it away", "%s is mounted already, from %s", control.Text(o.point).Quote(), m.Lake)
		}
		if o.later {
			return checkFUSE(o.cfg.Mount.AllowOther) // what is below it is seen when it is gone
		}
		if err := detach(ctx, o.point, true); err != nil {
			return fmt.Errorf("take away the dead mount at %s: %w", o.point, err)
		}
		before := mountsAt(mounts, m.Point) // others come and go meanwhile
		if mounts, err = config.SystemMounts(); err != nil {
			return err
		}
		if mountsAt(mounts, m.Point) >= before {
			return control.Fail(control.ErrFatal, "`umount -l "+shellWord(o.point)+"` may help", "the dead mount at %s cannot be taken away", control.Text(o.point).Quote())
		}
	}
	if err := checkPoint(o); err != nil {
		return err
	}
	return checkFUSE(o.cfg.Mount.AllowOther)
}

// deadWait is how long a daemon may take to tell that it lives: it answers from memory.
const deadWait = 5 * time.Second

// deadMount tells whether nobody serves what is mounted at point.
func deadMount(point string) bool {
	dead, _ := lookAt(point)
	return dead
}

// lookAt tells whether a mount is dead, and whether it hangs: whoever serves it does not
// answer, and neither would anything else that is asked of it.
func lookAt(point string) (dead, hangs bool) {
	answer := make(chan error, 1)
	go func() { // it stays for as long as the mount hangs
		var st unix.Statfs_t
		answer <- unix.Statfs(point, &st)
	}()
	select {
	case err := <-answer:
		return unserved(err), false
	case <-time.After(deadWait):
		return false, true
	}
}

// unserved tells the errors of a mount whose daemon, or whose connection, is gone; over io_uring what is asked while
// the connection goes is cancelled.
func unserved(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ECANCELED)
}

// errHangs says what helps where a daemon hangs that nobody supervises.
func errHangs(o *mountOptions) error {
	hint := "end its daemon with `kill -9`, and mount again: what was closed is safe in the journal"
	if d, err := control.ReadDaemon(o.cfg.Run); err == nil && d.Mountpoint == o.point {
		hint = fmt.Sprintf("end its daemon with `kill -9 %d`, and mount again: what was closed is safe in the journal", d.PID)
	}
	return control.Fail(backends.ErrTemporary, hint, "%s is mounted already, and who serves it has not answered for %v", control.Text(o.point).Quote(), deadWait)
}

func checkPoint(o *mountOptions) error {
	name := control.Text(o.point).Quote()
	st, err := os.Stat(o.point)
	switch {
	case errors.Is(err, syscall.ENOTCONN):
		return control.Fail(control.ErrFatal, "`umount -l "+shellWord(o.point)+"` takes it away", "%s is the dead mount of another file system", name)
	case errors.Is(err, os.ErrNotExist):
		return control.Fail(control.ErrNoDirectory, "make it first: `mkdir -p "+shellWord(o.point)+"`", "the mountpoint %s does not exist", name)
	case err != nil:
		return fmt.Errorf("look at the mountpoint: %w", err)
	case !st.IsDir():
		return control.Fail(backends.ErrNotDir, "", "the mountpoint %s is not a directory", name)
	}
	for _, p := range o.places() {
		if o.point == p || strings.HasPrefix(o.point, p+"/") || strings.HasPrefix(p, o.point+"/") {
			return control.Fail(control.ErrUsage, "mount it elsewhere", "the mountpoint %s would hide or lie in %s, which the lake needs", name, p)
		}
	}
	if o.nonempty {
		return nil
	}
	d, err := os.Open(o.point)
	if err != nil {
		return fmt.Errorf("look at the mountpoint: %w", err)
	}
	defer d.Close()
	if names, _ := d.Readdirnames(1); len(names) > 0 {
		return control.Fail(backends.ErrNotEmpty, "mount it elsewhere, or hide what is there with -o nonempty", "the mountpoint %s is not empty: there is %s", name, control.Text(names[0]).Quote())
	}
	return nil
}

// places are the folders that what is mounted needs.
func (o *mountOptions) places() (out []string) {
	for _, c := range append(o.lakes(), o.cfg) {
		out = append(out, c.Catalogue.Path, c.Cache.Path, c.Journal.Path, c.Ingest.Path, c.Run)
		for _, r := range c.RSEs {
			out = append(out, r.Path)
		}
	}
	return slices.DeleteFunc(out, func(p string) bool { return p == "" })
}

// checkFUSE says in words what is missing for FUSE, and the cure.
func checkFUSE(allowOther bool) error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil {
		err = f.Close()
	}
	container := "in a container it needs --device /dev/fuse --cap-add SYS_ADMIN"
	switch {
	case errors.Is(err, os.ErrNotExist):
		return control.Fail(control.ErrFatal, "load the module with `modprobe fuse`, and install fuse3 (apt-get install fuse3); "+container, "this machine has no /dev/fuse")
	case errors.Is(err, os.ErrPermission):
		return control.Fail(control.ErrFatal, "its mode should be 0666 (`chmod 666 /dev/fuse`); "+container, "/dev/fuse may not be opened: %v", err)
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return control.Fail(control.ErrFatal, "load the module with `modprobe fuse`; "+container, "the kernel has no FUSE: %v", err)
	case err != nil:
		return fmt.Errorf("open /dev/fuse: %w", err)
	case os.Geteuid() == 0:
		return nil
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		if _, err := exec.LookPath("fusermount"); err != nil {
			return control.Fail(control.ErrFatal, "install it: apt-get install fuse3", "who is not root needs the program fusermount3 to mount, and it is not there")
		}
	}
	if allowOther {
		b, err := os.ReadFile("/etc/fuse.conf")
		if err != nil || !hasLine(string(b), "user_allow_other") {
			return control.Fail(backends.ErrPermission, "root can add the line user_allow_other to /etc/fuse.conf", "allow_other is not permitted on this machine to who is not root")
		}
	}
	return nil
}

func hasLine(text, want string) bool {
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == want {
			return true
		}
	}
	return false
}

// detach takes a mount away; lazy also while it is used, or dead.
func detach(ctx context.Context, point string, lazy bool) error {
	if os.Geteuid() == 0 {
		flags := 0
		if lazy {
			flags = unix.MNT_DETACH
		}
		err := unix.Unmount(point, flags)
		if errors.Is(err, unix.EBUSY) {
			return errInUse(point)
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
		return nil
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	name := "fusermount3"
	if _, err := exec.LookPath(name); err != nil {
		name = "fusermount"
	}
	out, err := exec.CommandContext(ctx, name, append(args, "--", point)...).CombinedOutput()
	if err == nil {
		return nil
	}
	if users := usersOf(point); len(users) > 0 {
		return errInUse(point)
	}
	return fmt.Errorf("unmount %s: %s: %w", point, strings.TrimSpace(string(out)), err)
}

func errInUse(point string) error {
	hint := "`fuser -vm " + shellWord(point) + "` shows by whom"
	if users := usersOf(point); len(users) > 0 {
		hint = "by " + strings.Join(users, ", ")
	}
	e := control.Fail(backends.ErrBusy, hint, "%s is in use", control.Text(point).Quote())
	e.Code = control.CodeTemporary // unlike a lake that another daemon has: users go
	return e
}

// usersOf names processes with files or their working directory below point.
func usersOf(point string) (out []string) {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, p := range procs {
		links, _ := filepath.Glob(p + "/fd/*")
		for _, l := range append(links, p+"/cwd", p+"/root") {
			t, err := os.Readlink(l)
			if err == nil && (t == point || strings.HasPrefix(t, point+"/")) {
				comm, _ := os.ReadFile(p + "/comm")
				out = append(out, fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), filepath.Base(p)))
				break
			}
		}
		if len(out) == 5 {
			break
		}
	}
	return out
}

// waitGone waits for a daemon to end after its mount is gone, so that the lake can be
// opened by who comes next.
func waitGone(ctx context.Context, pid int) error {
	for range 1200 {
		if !running(pid) {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return control.Fail(backends.ErrTemporary, "", "the daemon (pid %d) is still ending after a minute", pid)
}

// running tells whether the process exists and has not ended: one that has ended and
// was not waited for by its parent is a zombie.
func running(pid int) bool {
	f := statOf(pid)
	return len(f) > 0 && f[0] != "Z" && f[0] != "X"
}
