package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// posixRow is one system call on what furnish makes, and its answer on any local disk.
type posixRow struct {
	name string
	call func(at func(string) string) error
	want error
}

var long = strings.Repeat("n", 256)

// posixRows are the errors of the calls that pjdfstest has areas for.
func posixRows() (rows []posixRow) {
	add := func(name string, want error, call func(at func(string) string) error) {
		rows = append(rows, posixRow{name, call, want})
	}
	paths := map[string]func(p string) error{
		"chmod":       func(p string) error { return unix.Chmod(p, 0o644) },
		"chown":       func(p string) error { return unix.Chown(p, 0, 0) },
		"open":        func(p string) error { return closed(unix.Open(p, unix.O_RDONLY, 0)) },
		"create":      func(p string) error { return closed(unix.Open(p, unix.O_RDWR|unix.O_CREAT, 0o644)) },
		"truncate":    func(p string) error { return unix.Truncate(p, 3) },
		"mkdir":       func(p string) error { return unix.Mkdir(p, 0o755) },
		"rmdir":       unix.Rmdir,
		"unlink":      unix.Unlink,
		"symlink":     func(p string) error { return unix.Symlink("x", p) },
		"utimensat":   func(p string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, p, make([]unix.Timespec, 2), 0) },
		"rename-from": func(p string) error { return unix.Rename(p, filepath.Dir(strings.SplitN(p, "/d/", 2)[0])+"/moved") },
	}
	makes := map[string]bool{"create": true, "mkdir": true, "symlink": true}
	for name, call := range paths {
		add(name+" below a file", unix.ENOTDIR, func(at func(string) string) error { return call(at("f/x")) })
		add(name+" with a name of 256 bytes", unix.ENAMETOOLONG, func(at func(string) string) error { return call(at(long)) })
		add(name+" with a path of 4096 bytes", unix.ENAMETOOLONG, func(at func(string) string) error { return call(at(strings.Repeat("x/", 2048))) })
		add(name+" below nothing", unix.ENOENT, func(at func(string) string) error { return call(at("no/x")) })
		add(name+" through a loop", unix.ELOOP, func(at func(string) string) error { return call(at("loop1/x")) })
		if !makes[name] {
			add(name+" of nothing", unix.ENOENT, func(at func(string) string) error { return call(at("no")) })
		}
		switch name {
		case "chmod", "chown", "open", "truncate", "utimensat", "create":
			add(name+" of a loop", unix.ELOOP, func(at func(string) string) error { return call(at("loop1")) })
		}
	}
	rename := func(from, to string) func(at func(string) string) error {
		return func(at func(string) string) error { return unix.Rename(at(from), at(to)) }
	}
	open := func(name string, flags int) func(at func(string) string) error {
		return func(at func(string) string) error { return closed(unix.Open(at(name), flags, 0o644)) }
	}
	one := func(call func(string) error, name string) func(at func(string) string) error {
		return func(at func(string) string) error { return call(at(name)) }
	}
	add("rename to below a file", unix.ENOTDIR, rename("f", "g/x"))
	add("rename to 256 bytes", unix.ENAMETOOLONG, rename("f", long))
	add("rename to below nothing", unix.ENOENT, rename("f", "no/x"))
	add("rename file over directory", unix.EISDIR, rename("f", "empty"))
	add("rename directory over file", unix.ENOTDIR, rename("empty", "f"))
	add("rename over a full directory", unix.ENOTEMPTY, rename("empty", "full"))
	add("rename below itself", unix.EINVAL, rename("full", "full/sub"))
	add("rename of dot", unix.EBUSY, rename("full/.", "x"))
	add("rename to itself", nil, rename("f", "f"))
	add("mkdir of a file", unix.EEXIST, one(paths["mkdir"], "f"))
	add("mkdir of a directory", unix.EEXIST, one(paths["mkdir"], "empty"))
	add("mkdir of a link", unix.EEXIST, one(paths["mkdir"], "link"))
	add("symlink over a file", unix.EEXIST, one(paths["symlink"], "f"))
	add("symlink with a long target", unix.ENAMETOOLONG, func(at func(string) string) error { return unix.Symlink(strings.Repeat("x", 4096), at("new")) })
	add("symlink without a target", unix.ENOENT, func(at func(string) string) error { return unix.Symlink("", at("new")) })
	add("rmdir of a file", unix.ENOTDIR, one(unix.Rmdir, "f"))
	add("rmdir of a link", unix.ENOTDIR, one(unix.Rmdir, "link"))
	add("rmdir of a full directory", unix.ENOTEMPTY, one(unix.Rmdir, "full"))
	add("rmdir of dot", unix.EINVAL, one(unix.Rmdir, "full/."))
	add("rmdir of dot dot", unix.ENOTEMPTY, one(unix.Rmdir, "full/sub/.."))
	add("unlink of a directory", unix.EISDIR, one(unix.Unlink, "empty"))
	add("open directory to write", unix.EISDIR, open("empty", unix.O_WRONLY))
	add("open directory to create", unix.EISDIR, open("empty", unix.O_RDWR|unix.O_CREAT))
	add("open file as directory", unix.ENOTDIR, open("f", unix.O_DIRECTORY))
	add("open exclusively", unix.EEXIST, open("f", unix.O_CREAT|unix.O_EXCL))
	add("open a link exclusively", unix.EEXIST, open("dangling", unix.O_CREAT|unix.O_EXCL))
	add("open a link itself", unix.ELOOP, open("link", unix.O_NOFOLLOW))
	add("open a dangling link", unix.ENOENT, open("dangling", unix.O_RDONLY))
	add("truncate a directory", unix.EISDIR, one(paths["truncate"], "empty"))
	add("truncate to less than nothing", unix.EINVAL, func(at func(string) string) error { return unix.Truncate(at("f"), -1) })
	add("ftruncate of a reader", unix.EINVAL, func(at func(string) string) error {
		fd, err := unix.Open(at("f"), unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Ftruncate(fd, 1)
	})
	add("write by a reader", unix.EBADF, func(at func(string) string) error {
		fd, err := unix.Open(at("f"), unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.Write(fd, []byte("x"))
		return err
	})
	add("utimensat with a bad time", unix.EINVAL, func(at func(string) string) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, at("f"), []unix.Timespec{{Nsec: 2_000_000_000}, {}}, 0)
	})
	return rows
}

func closed(fd int, err error) error {
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// furnish makes what the rows work on.
func furnish(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{"", "empty", "full", "full/sub"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	for _, f := range []string{"f", "g", "full/f"} {
		put(t, filepath.Join(dir, f), "content of "+f)
	}
	for name, to := range map[string]string{"loop1": "loop2", "loop2": "loop1", "link": "f", "dangling": "nowhere"} {
		must(t, os.Symlink(to, filepath.Join(dir, name)))
	}
}

// posixTimes is which times of a file and its directory a call moves: m, c of the file, and
// d of the directory (modification).
func posixTimes(t *testing.T, dir string) {
	p := filepath.Join(dir, "f")
	for _, r := range []struct {
		name, moves string
		call        func() error
	}{
		{"chmod", "c", func() error { return os.Chmod(p, 0o600) }},
		{"chown", "c", func() error { return os.Chown(p, 0, 0) }},
		{"truncate", "mc", func() error { return os.Truncate(p, 5) }},
		{"truncate to the same size", "mc", func() error { return os.Truncate(p, 5) }},
		{"write", "mc", func() error { return appendTo(p, "x") }},
		{"utimensat", "mc", func() error { return os.Chtimes(p, time.Time{}, time.Unix(1_000_000_000, 0)) }},
		{"create beside", "d", func() error { return os.WriteFile(p+".new", nil, 0o644) }},
		{"mkdir beside", "d", func() error { return os.Mkdir(p+".dir", 0o755) }},
		{"rmdir beside", "d", func() error { return os.Remove(p + ".dir") }},
		{"symlink beside", "d", func() error { return os.Symlink("x", p+".link") }},
		{"unlink beside", "d", func() error { return os.Remove(p + ".new") }},
		{"rename", "d", func() error { return errors.Join(os.Rename(p, p+".away"), os.Rename(p+".away", p)) }},
		{"read", "", func() error { _, err := os.ReadFile(p); return err }},
		{"chmod that fails", "", func() error {
			if err := os.Chmod(p+"/x", 0o600); !errors.Is(err, syscall.ENOTDIR) {
				return err
			}
			return nil
		}},
	} {
		f, d := stat(t, p), stat(t, dir)
		time.Sleep(12 * time.Millisecond) // the clock of a local disk is that coarse
		if err := r.call(); err != nil {
			t.Errorf("%s: %v", r.name, err)
			continue
		}
		moved := ""
		nf, nd := stat(t, p), stat(t, dir)
		if nf.Mtim != f.Mtim {
			moved += "m"
		}
		if nf.Ctim != f.Ctim && r.moves != "d" { // a rename may move it or not
			moved += "c"
		}
		if nd.Mtim != d.Mtim {
			moved += "d"
		}
		if moved != r.moves {
			t.Errorf("%s moves the times %q, want %q", r.name, moved, r.moves)
		}
	}
}

// TestPosixErrors: the errors and times of the calls that change names and attributes, on
// a local disk first, which proves the table, then on unsent and on published files.
func TestPosixErrors(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, dir string, settle func()) {
		furnish(t, dir)
		settle()
		at := func(name string) string { return dir + "/" + name }
		for _, r := range posixRows() {
			if err := r.call(at); !errors.Is(err, r.want) {
				t.Errorf("%s: %v, want %v", r.name, err, r.want)
			}
		}
		posixTimes(t, dir)
	}
	t.Run("local", func(t *testing.T) { check(t, filepath.Join(t.TempDir(), "d"), func() {}) })
	t.Run("unsent", func(t *testing.T) {
		s := newSite(t, "journal: {delay: 1h}\n")
		s.mount()
		check(t, s.path("ctao/dl0/d"), func() {})
	})
	t.Run("published", func(t *testing.T) {
		s := newSite(t, "journal: {delay: 20ms}\n")
		s.mount()
		check(t, s.path("ctao/dl0/d"), s.drain)
	})
}
