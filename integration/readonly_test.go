package integration

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// readOnlyRows are calls and their answers on any read-only file system that has what
// furnish makes.
func readOnlyRows() (rows []posixRow) {
	add := func(name string, want error, call func(at func(string) string) error) {
		rows = append(rows, posixRow{name, call, want})
	}
	one := func(name string, want error, file string, call func(p string) error) {
		add(name, want, func(at func(string) string) error { return call(at(file)) })
	}
	open := func(flags int) func(string) error {
		return func(p string) error { return closed(unix.Open(p, flags, 0o644)) }
	}
	for _, name := range []string{"f", "full/f"} {
		one("open to write "+name, unix.EROFS, name, open(unix.O_WRONLY))
		one("open to read and write "+name, unix.EROFS, name, open(unix.O_RDWR))
		one("open to append "+name, unix.EROFS, name, open(unix.O_WRONLY|unix.O_APPEND))
		one("open and truncate "+name, unix.EROFS, name, open(unix.O_RDONLY|unix.O_TRUNC))
		one("truncate "+name, unix.EROFS, name, func(p string) error { return unix.Truncate(p, 1) })
		one("unlink "+name, unix.EROFS, name, unix.Unlink)
		one("chmod "+name, unix.EROFS, name, func(p string) error { return unix.Chmod(p, 0o600) })
		one("chown "+name, unix.EROFS, name, func(p string) error { return unix.Chown(p, 1, 1) })
		one("utimensat "+name, unix.EROFS, name, func(p string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, p, make([]unix.Timespec, 2), 0)
		})
		one("setxattr "+name, unix.EROFS, name, func(p string) error { return unix.Setxattr(p, "user.x", []byte("y"), 0) })
		one("removexattr "+name, unix.EROFS, name, func(p string) error { return unix.Removexattr(p, "user.x") })
		one("access to write "+name, unix.EROFS, name, func(p string) error { return unix.Access(p, unix.W_OK) })
		one("open to read "+name, nil, name, open(unix.O_RDONLY))
		one("open with O_CREAT what is there "+name, nil, name, open(unix.O_RDONLY|unix.O_CREAT))
	}
	one("create", unix.EROFS, "new", open(unix.O_WRONLY|unix.O_CREAT))
	one("create exclusively", unix.EROFS, "new", open(unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL))
	one("create what is there", unix.EEXIST, "f", open(unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL))
	one("mkdir", unix.EROFS, "new", func(p string) error { return unix.Mkdir(p, 0o755) })
	one("mkdir of what is there", unix.EEXIST, "full", func(p string) error { return unix.Mkdir(p, 0o755) })
	one("rmdir", unix.EROFS, "empty", unix.Rmdir)
	one("rmdir of a full directory", unix.EROFS, "full", unix.Rmdir)
	one("symlink", unix.EROFS, "new", func(p string) error { return unix.Symlink("x", p) })
	one("mkfifo", unix.EROFS, "new", func(p string) error { return unix.Mkfifo(p, 0o644) })
	one("chmod of a directory", unix.EROFS, "full", func(p string) error { return unix.Chmod(p, 0o700) })
	one("access to read", nil, "f", func(p string) error { return unix.Access(p, unix.R_OK) })
	two := func(name, from, to string, call func(from, to string) error) {
		add(name, unix.EROFS, func(at func(string) string) error { return call(at(from), at(to)) })
	}
	two("rename", "f", "new", unix.Rename)
	two("rename over", "f", "g", unix.Rename)
	two("rename a directory", "full", "new", unix.Rename)
	two("link", "f", "new", unix.Link)
	return rows
}

// TestReadOnly: a read-only mount answers every change with EROFS, as a local disk does that
// is mounted so, and reads go on.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, dir string) {
		t.Helper()
		at := func(name string) string { return dir + "/" + name }
		for _, r := range readOnlyRows() {
			if err := r.call(at); !errors.Is(err, r.want) {
				t.Errorf("%s: %v, want %v", r.name, err, r.want)
			}
		}
		wantText(t, at("full/f"), "content of full/f")
		if names, err := os.ReadDir(dir); err != nil || len(names) != 8 {
			t.Errorf("%d names, %v", len(names), err)
		}
	}
	t.Run("local", func(t *testing.T) {
		disk := tmpfs(t, "4m")
		dir := filepath.Join(disk, "d")
		furnish(t, dir)
		remount(t, disk, unix.MS_RDONLY)
		defer remount(t, disk, 0)
		check(t, dir)
	})
	t.Run("mount", func(t *testing.T) {
		s := newSite(t, "journal: {delay: 1ms}\n")
		s.mount()
		furnish(t, s.path("ctao/dl0/d"))
		s.drain()
		for _, flags := range [][]string{{"--read-only"}, {"-o", "ro"}, {"--set", "mount.read_only=true"}} {
			s.umount()
			s.mount(flags...)
			check(t, s.path("ctao/dl0/d"))
			if err := os.Mkdir(s.path("newscope"), 0o755); !errors.Is(err, unix.EROFS) {
				t.Errorf("%v: mkdir of a scope: %v", flags, err)
			}
			if err := unix.Rmdir(s.path("ctao")); !errors.Is(err, unix.EROFS) {
				t.Errorf("%v: rmdir of a scope: %v", flags, err)
			}
		}
		// The unsent files of before go on being sent: it is users who may not write.
		s.umount()
		s.mount()
		put(t, s.path("ctao/dl0/late"), "late")
		s.kill()
		s.mount("--read-only")
		s.drain()
		wantText(t, s.path("ctao/dl0/late"), "late")
	})
	// A lake whose own disk is read-only cannot be served, and says so instead of half of it.
	t.Run("lake", func(t *testing.T) {
		disk := tmpfs(t, "64m")
		s := newSite(t, onDisk(disk))
		s.ok("init", s.dir) // the demo's catalogue is elsewhere
		remount(t, disk, unix.MS_RDONLY)
		defer remount(t, disk, 0)
		s.fails(12, []string{disk, "read-only"}, "mount", "-f", s.dir, s.mnt)
	})
}
