package fs_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tarn/fs"
)

// requests counts what the kernel asks, by the lines that go-fuse logs of each request.
type requests struct {
	slog.Handler
	mu sync.Mutex
	n  map[string]int
}

func (c *requests) Enabled(context.Context, slog.Level) bool { return true }
func (c *requests) WithAttrs([]slog.Attr) slog.Handler       { return c }

func (c *requests) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if f := strings.Fields(a.Value.String()); r.Message == "fuse" && len(f) > 2 && f[0] == "rx" {
			c.mu.Lock()
			c.n[f[2]]++
			c.mu.Unlock()
		}
		return true
	})
	if r.Level < slog.LevelError {
		return nil
	}
	return c.Handler.Handle(ctx, r)
}

// mountCounted is a mount whose requests are counted.
func mountCounted(t *testing.T, o fs.Options) (*mounted, *requests) {
	t.Helper()
	c := &requests{Handler: slog.NewTextHandler(os.Stderr, nil), n: map[string]int{}}
	o.Debug, o.Log = true, slog.New(c)
	return mount(t, o), c
}

// of runs a program and tells the requests that it caused.
func (c *requests) of(t *testing.T, name string, args ...string) map[string]int {
	t.Helper()
	return c.during(func() {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	})
}

// during tells the requests that do causes.
func (c *requests) during(do func()) map[string]int {
	take := func() map[string]int {
		c.mu.Lock()
		defer c.mu.Unlock()
		out := c.n
		c.n = map[string]int{}
		return out
	}
	take()
	do()
	return take()
}

// TestNewFileGoesPastPageCache: no second copy is kept of what is written into a file that is
// wanted new. The pages of others are kept: of those that were there, and of databases.
func TestNewFileGoesPastPageCache(t *testing.T) {
	m, c := mountCounted(t, fs.Options{})
	b := random(64 * 4096) // whole pages
	for i, at := range []struct {
		flags int
		past  bool
	}{
		{os.O_CREATE | os.O_TRUNC, true},
		{os.O_CREATE | os.O_EXCL, true},
		{os.O_CREATE, false},
	} {
		path := fmt.Sprint("/ctao/f", i)
		for _, again := range []bool{false, true} {
			flags, past := at.flags, at.past
			if again {
				flags, past = 0, false
			}
			f := m.open(path, os.O_RDWR|flags)
			_, err := f.WriteAt(b, 0)
			must(t, err)
			n := c.during(func() { want(t, path, f, b) })["READ"]
			if (n > 0) != past {
				t.Errorf("open flags %#x, there before: %v: %d requests to read what was written", flags, again, n)
			}
		}
	}
}

// TestXattrOfOthers: attributes that are not user.* are not supported, which programs
// remember of a file system, unlike that a file has none (N10).
func TestXattrOfOthers(t *testing.T) {
	m, c := mountCounted(t, fs.Options{})
	m.fill("/ctao/d", 100)
	f := m.at("/ctao/d/f00000")
	for _, p := range []string{f, m.at("/ctao/d"), m.at("/"), m.at("/.tarn/stats")} {
		for _, name := range []string{"security.selinux", "security.capability", "system.posix_acl_access", "trusted.x"} {
			if _, err := unix.Lgetxattr(p, name, make([]byte, 100)); err != unix.EOPNOTSUPP {
				t.Errorf("%s of %s: %v", name, p, err)
			}
		}
		if _, err := unix.Lgetxattr(p, "user.none", make([]byte, 100)); err != unix.ENODATA {
			t.Errorf("user.none of %s: %v", p, err)
		}
	}
	for _, name := range []string{"security.foo", "trusted.x"} {
		if err := unix.Lsetxattr(f, name, []byte("x"), 0); err != unix.EOPNOTSUPP {
			t.Errorf("set %s: %v", name, err)
		}
		if err := unix.Lremovexattr(f, name); err != unix.EOPNOTSUPP {
			t.Errorf("remove %s: %v", name, err)
		}
	}
	// coreutils 9.1 ask two attributes, until they hear that there are none.
	if n := c.of(t, "ls", "-l", m.at("/ctao/d"))["GETXATTR"]; n > 3 {
		t.Errorf("ls -l of 100 files asked %d attributes", n)
	}
	c.of(t, "sh", "-c", fmt.Sprintf("cp -a %[1]s %[1]s.copy && cat %[1]s.copy", f))
}

// TestListedXattrs: what listxattr names can be read, or rsync -X fails.
func TestListedXattrs(t *testing.T) {
	m := mount(t, fs.Options{})
	m.fill("/ctao/d", 1)
	f := m.at("/ctao/d/f00000")
	for _, safe := range []bool{false, true} {
		if safe {
			m.drain()
		}
		list := make([]byte, 1000)
		n, err := unix.Llistxattr(f, list)
		must(t, err)
		for _, name := range strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 }) {
			if _, err := unix.Lgetxattr(f, name, make([]byte, 1000)); err != nil {
				t.Errorf("safe=%v: %s is listed: %v", safe, name, err)
			}
		}
	}
}

// TestListingIsKept: the kernel answers for a directory that it has listed, until a name
// comes or goes; a process that looks at the files of many gets them with their names.
func TestListingIsKept(t *testing.T) {
	m, c := mountCounted(t, fs.Options{})
	for i := range 4 {
		m.fill(fmt.Sprintf("/ctao/d%d", i), 1500)
	}
	find := func() map[string]int { return c.of(t, "find", m.at("/ctao"), "-type", "f") }
	reads := func(n map[string]int) int { return n["READDIR"] + n["READDIRPLUS"] }
	// The kernel drops what it keeps when it is short of memory, or is told to by others on
	// this machine; so some attempts may fail.
	kept := func(what string, run func() map[string]int, asked func(n map[string]int) int) {
		t.Helper()
		var n map[string]int
		for range 20 {
			if n = run(); asked(n) == 0 {
				return
			}
		}
		t.Errorf("%s: %v", what, n)
	}
	if n := find(); reads(n) == 0 || n["LOOKUP"] > 10 {
		t.Errorf("find, nothing known: %v", n)
	}
	kept("find again", find, reads)
	n, err := m.v.Resolve(ctx, "/ctao/d1")
	must(t, err)
	defer n.Forget(1)
	for _, what := range []string{"a create", "a removal past the mount"} {
		if what == "a create" {
			must(t, os.WriteFile(m.at("/ctao/d1/new"), nil, 0o644))
		} else {
			must(t, m.v.Unlink(ctx, n, "new"))
			m.v.Changed(ctx, "/ctao/d1/new")
		}
		if n := find(); reads(n) == 0 {
			t.Errorf("find after %s: %v", what, n)
		}
		kept("find again after "+what, find, reads)
	}
	// Names only are known now. The first directory costs a look-up a file, at most.
	ls := func() map[string]int { return c.of(t, "ls", "-lR", m.at("/ctao")) }
	if n := ls(); n["LOOKUP"] > 1600 {
		t.Errorf("ls -lR after find: %v", n)
	}
	kept("ls -lR again", ls, func(n map[string]int) int { return reads(n) + n["LOOKUP"] + max(0, n["GETATTR"]-5) })
}

// TestSkimming: a process that reads names only is given names only, but for the beginning
// of the first directory.
func TestSkimming(t *testing.T) {
	m, c := mountCounted(t, fs.Options{})
	const dirs, each = 6, 600
	for i := range dirs {
		m.fill(fmt.Sprintf("/ctao/d%d", i), each)
	}
	n := c.of(t, "find", m.at("/ctao"), "-type", "f")
	if known := m.v.Stats().Nodes; known > each || n["LOOKUP"] > 4 {
		t.Errorf("%d nodes, %v after a find over %d directories", known, n, dirs)
	}
}

// TestRequestsOfAFile: what is known is not asked again: a file that is read again costs its
// open and its release, one that is not there nothing.
func TestRequestsOfAFile(t *testing.T) {
	m, c := mountCounted(t, fs.Options{})
	f := m.at("/ctao/f")
	must(t, os.WriteFile(f, []byte("content"), 0o644))
	m.drain()
	c.of(t, "cat", f)
	n := c.of(t, "cat", f)
	delete(n, "GETATTR") // a read by passthrough makes the kernel forget the access time
	// Nobody waits for a release: that of the first cat may be among them.
	if n["RELEASE"] > 2 || n["OPEN"] != 1 || len(n) > 2 {
		t.Errorf("a file read again: %v", n)
	}
	absent := func() map[string]int { return c.of(t, "sh", "-c", "test ! -e "+f+".not") }
	absent()
	if n := absent(); len(n) > 0 {
		t.Errorf("a look for what is not there, again: %v", n)
	}
	must(t, os.WriteFile(f+".not", nil, 0o644))
	if _, err := os.Stat(f + ".not"); err != nil {
		t.Error(err)
	}
}
