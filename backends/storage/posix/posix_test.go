package posix

import (
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/integration/needed"
)

func open(t *testing.T, o Options) *Storage {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(s *Storage, path string, data []byte) error {
	u, err := s.Create(context.Background(), path, int64(len(data)))
	if err != nil {
		return err
	}
	defer u.Abort()
	if _, err := u.Write(data); err != nil {
		return err
	}
	_, err = u.Commit(context.Background(), backendstest.Sums(data))
	return err
}

func want(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got %v, want %v", what, err, target)
	}
	for _, e := range []error{iofs.ErrNotExist, iofs.ErrPermission, iofs.ErrExist, iofs.ErrClosed} {
		if errors.Is(err, e) {
			t.Errorf("%s: %v leaks %v", what, err, e)
		}
	}
}

func names(t *testing.T, s *Storage, dir string) (out []string) {
	t.Helper()
	for a, err := range s.List(t.Context(), dir) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a.Path)
	}
	return out
}

func TestNothingOutsideIsReached(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "rse")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "in"), 0o755),
		os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o644),
		os.WriteFile(filepath.Join(dir, "in/f"), []byte("inside"), 0o644),
		os.Symlink("../secret", filepath.Join(dir, "rel")),
		os.Symlink(filepath.Join(top, "secret"), filepath.Join(dir, "abs")),
		os.Symlink("..", filepath.Join(dir, "up")),
		os.Symlink("in/f", filepath.Join(dir, "link")),
		os.Symlink("in", filepath.Join(dir, "dirlink")),
		os.Symlink("nowhere", filepath.Join(dir, "dangling")),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, Options{Dir: dir})
	for _, p := range []string{"rel", "abs", "up/secret", "up"} {
		_, err := s.Stat(t.Context(), p)
		want(t, "stat "+p, err, backends.ErrPermission)
		_, err = s.Open(t.Context(), p)
		want(t, "open "+p, err, backends.ErrPermission)
	}
	want(t, "put up/x", put(s, "up/x", []byte("x")), backends.ErrPermission)
	if _, err := os.Stat(filepath.Join(top, "x")); err == nil {
		t.Error("an upload left the folder")
	}
	if got := names(t, s, ""); !slices.Equal(got, []string{"dirlink", "in", "link"}) {
		t.Errorf("list: %q", got)
	}
	for _, p := range []string{"link", "dirlink/f"} {
		if b, err := backendstest.Get(t.Context(), s, p); err != nil || string(b) != "inside" {
			t.Errorf("%s: %q, %v", p, b, err)
		}
	}
	_, err := s.Open(t.Context(), "fifo")
	want(t, "open fifo", err, backends.ErrNotSupported)
	// An upload replaces the link, not what it leads to.
	if err := put(s, "rel", []byte("mine")); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(top, "secret")); string(b) != "secret" {
		t.Errorf("secret is now %q", b)
	}
}

func TestFolderGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rse")
	s := open(t, Options{Dir: dir}) // not there yet: no error
	away := func(when string) {
		t.Helper()
		_, err := s.Stat(t.Context(), "f")
		want(t, when+": stat", err, backends.ErrUnavailable)
		want(t, when+": stat", err, backends.ErrTemporary)
		_, err = s.Open(t.Context(), "f")
		want(t, when+": open", err, backends.ErrUnavailable)
		want(t, when+": put", put(s, "f", nil), backends.ErrUnavailable)
		want(t, when+": remove", s.Remove(t.Context(), "f"), backends.ErrUnavailable)
		_, _, err = s.Space(t.Context())
		want(t, when+": space", err, backends.ErrUnavailable)
		n := 0
		for _, err := range s.List(t.Context(), "") {
			want(t, when+": list", err, backends.ErrUnavailable)
			n++
		}
		if n != 1 {
			t.Errorf("%s: list gave %d results", when, n)
		}
	}
	away("before it was made")
	os.Mkdir(dir, 0o755)
	if err := put(s, "f", []byte("x")); err != nil {
		t.Fatal(err)
	}
	u, err := s.Create(t.Context(), "g", -1)
	if err != nil {
		t.Fatal(err)
	}
	os.Rename(dir, dir+".away")
	away("renamed")
	_, err = u.Commit(t.Context(), backendstest.Sums(nil))
	want(t, "commit while away", err, backends.ErrUnavailable)
	os.Rename(dir+".away", dir)
	if _, err := s.Stat(t.Context(), "f"); err != nil {
		t.Errorf("back again: %v", err)
	}
	os.RemoveAll(dir)
	away("removed")
}

func TestUnmountedDisk(t *testing.T) {
	needed.Root(t)
	dir := t.TempDir()
	mount := func() {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
			needed.Missing(t, "no tmpfs: %v", err)
		}
	}
	for _, marker := range []string{"", "disk-id"} {
		mount()
		if marker != "" {
			os.WriteFile(filepath.Join(dir, marker), nil, 0o644)
		}
		s := open(t, Options{Dir: dir, Marker: marker})
		if err := put(s, "f", []byte("x")); err != nil {
			t.Fatal(err)
		}
		unix.Unmount(dir, unix.MNT_DETACH)
		_, err := s.Stat(t.Context(), "f")
		want(t, "stat on an unmounted disk", err, backends.ErrUnavailable)
		want(t, "put on an unmounted disk", put(s, "f", nil), backends.ErrUnavailable)
		if es, _ := os.ReadDir(dir); len(es) != 0 {
			t.Errorf("the mount point was written to: %v", es)
		}
		s.Close()
	}
}

func TestDiskFull(t *testing.T) {
	needed.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		needed.Missing(t, "no tmpfs: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s := open(t, Options{Dir: dir})
	want(t, "announced too much", put(s, "big", make([]byte, 5<<20)), backends.ErrNoSpace)
	u, err := s.Create(t.Context(), "unknown", -1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = u.Write(make([]byte, 5<<20))
	want(t, "write", err, backends.ErrNoSpace)
	_, err = u.Commit(t.Context(), backendstest.Sums(nil))
	want(t, "commit after a failed write", err, backends.ErrNoSpace)
	// Announced bytes are taken: two uploads cannot both have the last megabytes.
	a, err := s.Create(t.Context(), "a", 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Create(t.Context(), "b", 3<<20)
	want(t, "second of two", err, backends.ErrNoSpace)
	a.Abort()
	if err := put(s, "fits", make([]byte, 3<<20)); err != nil {
		t.Errorf("space did not come back: %v", err)
	}
	if s.pending != 0 {
		t.Errorf("%d bytes are still announced", s.pending)
	}

	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	want(t, "put on a read-only disk", put(s, "f", nil), backends.ErrReadOnly)
	want(t, "remove on a read-only disk", s.Remove(t.Context(), "fits"), backends.ErrReadOnly)
}

func TestFreeFloor(t *testing.T) {
	s := open(t, Options{FreeFloor: 1 << 60})
	want(t, "put", put(s, "f", []byte("x")), backends.ErrNoSpace)
	if _, free, err := s.Space(t.Context()); free != 0 || err != nil {
		t.Errorf("free %d, %v", free, err)
	}
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644)
	s := open(t, Options{Dir: dir, ReadOnly: true})
	_, err := s.Create(t.Context(), "g", 1)
	want(t, "create", err, backends.ErrReadOnly)
	want(t, "remove", s.Remove(t.Context(), "f"), backends.ErrReadOnly)
	if es, _ := os.ReadDir(dir); len(es) != 1 {
		t.Errorf("something was written: %v", es)
	}
}

// TestDurableInOrder watches the fsyncs: the file before its name, and the name of each
// new folder.
func TestDurableInOrder(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "old"), 0o755)
	var synced []string
	var putting string
	s := open(t, Options{Dir: dir})
	s.fsync = func(f *os.File) error {
		p, err := os.Readlink(filepath.Join("/proc/self/fd", strconv.Itoa(int(f.Fd()))))
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if strings.HasPrefix(rel, uploads) {
			rel = "data"
			if _, err := os.Stat(filepath.Join(dir, putting)); err == nil {
				t.Error("visible before its data were durable")
			}
		}
		synced = append(synced, rel)
		return f.Sync()
	}
	for i, c := range []struct {
		path string
		want []string
	}{
		{"old/n1/n2/f", []string{"data", "old/n1/n2", "old/n1", "old", "."}},
		{"old/n1/n2/g", []string{"data", "old/n1/n2"}},
		{"old/n1/n3/g", []string{"data", "old/n1/n3", "old/n1"}},
		{"top", []string{"data", "."}},
	} {
		synced, putting = nil, c.path
		if err := put(s, c.path, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(synced, c.want) {
			t.Errorf("%d: %s synced %q, want %q", i, c.path, synced, c.want)
		}
	}
	// A folder that was removed and made again is new again.
	s.Remove(t.Context(), "old/n1/n3/g")
	s.Remove(t.Context(), "old/n1/n3")
	synced, putting = nil, "old/n1/n3/g"
	put(s, "old/n1/n3/g", []byte("x"))
	if !slices.Equal(synced, []string{"data", "old/n1/n3", "old/n1"}) {
		t.Errorf("remade folder: %q", synced)
	}
}

func TestFailedFsyncShowsNothing(t *testing.T) {
	for fail := 1; fail <= 3; fail++ {
		s := open(t, Options{})
		n := 0
		s.fsync = func(f *os.File) error {
			if n++; n == fail {
				return &os.PathError{Op: "sync", Path: "x", Err: syscall.EIO}
			}
			return f.Sync()
		}
		err := put(s, "d/f", []byte("x"))
		want(t, "put", err, backends.ErrUnavailable)
		want(t, "put", err, backends.ErrTemporary)
		_, err = s.Stat(t.Context(), "d/f")
		want(t, "stat", err, backends.ErrNotExist)
		if got := leftovers(t, s); len(got) != 0 {
			t.Errorf("left %q", got)
		}
	}
}

func leftovers(t *testing.T, s *Storage) (out []string) {
	es, err := os.ReadDir(filepath.Join(s.o.Dir, uploads))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}

func TestStaleUploadsGo(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, uploads), 0o755)
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "young": 23 * time.Hour} {
		p := filepath.Join(dir, uploads, name)
		os.WriteFile(p, nil, 0o644)
		os.Chtimes(p, time.Time{}, time.Now().Add(-age))
	}
	now := time.Now()
	s := open(t, Options{Dir: dir, Now: func() time.Time { return now }})
	if got := leftovers(t, s); !slices.Equal(got, []string{"young"}) {
		t.Errorf("after Open: %q", got)
	}
	now = now.Add(2 * time.Hour)
	if n, err := s.Clean(t.Context()); n != 1 || err != nil {
		t.Errorf("clean: %d, %v", n, err)
	}
	_, err := s.Stat(t.Context(), uploads+"/young")
	want(t, "stat of an upload", err, backends.ErrName)
}

// What a crash of this machine's own process left goes at once, what is being written stays.
func TestOwnUnfinishedUploadsGo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	u, err := s.Create(t.Context(), "f", 5)
	if err != nil {
		t.Fatal(err)
	}
	dead := host() + "DEAD"
	if err := os.WriteFile(filepath.Join(dir, uploads, dead), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := open(t, Options{Dir: dir}).Clean(t.Context()); n != 0 || err != nil { // Open has done it
		t.Errorf("clean: %d, %v", n, err)
	}
	if got := leftovers(t, s); len(got) != 1 || got[0] == dead {
		t.Errorf("left %q", got)
	}
	if _, err := u.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context(), backends.Checksums{Adler32: "062c0215"}); err != nil {
		t.Error(err)
	}
}

func TestFileOfObject(t *testing.T) {
	s := open(t, Options{})
	put(s, "f", []byte("hello"))
	o, err := s.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	f := o.(interface{ File() *os.File }).File()
	b := make([]byte, 5)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	// Cut behind our back: an error, never a clean end.
	os.Truncate(filepath.Join(s.o.Dir, "f"), 2)
	_, err = o.ReadAt(t.Context(), b, 0)
	want(t, "read of a cut file", err, backends.ErrStale)
	o.Close()
	_, err = o.ReadAt(t.Context(), b, 0)
	want(t, "read after close", err, backends.ErrClosed)
}

func TestErrnos(t *testing.T) {
	for errno, word := range map[syscall.Errno]error{
		syscall.ENOENT: backends.ErrNotExist, syscall.ENOSPC: backends.ErrNoSpace, syscall.EROFS: backends.ErrReadOnly,
		syscall.EACCES: backends.ErrPermission, syscall.EIO: backends.ErrTemporary, syscall.ESTALE: backends.ErrUnavailable,
		syscall.EMFILE: backends.ErrTooManyFiles, syscall.ENFILE: backends.ErrTemporary, syscall.EDQUOT: backends.ErrQuota, syscall.ENAMETOOLONG: backends.ErrNameTooLong,
	} {
		err := translate("op", "at", &os.PathError{Op: "x", Path: "y", Err: errno})
		want(t, errno.Error(), err, word)
		if errors.Is(err, errno) {
			t.Errorf("%v leaks", errno)
		}
	}
	if translate("op", "at", nil) != nil {
		t.Error("nil is no error")
	}
}

func TestBadOptions(t *testing.T) {
	_, err := Open(Options{})
	want(t, "no folder", err, backends.ErrName)
	_, err = Open(Options{Dir: "/", Checksums: []string{"crc32"}})
	want(t, "unknown checksum", err, backends.ErrNotSupported)
}

func TestLongNames(t *testing.T) {
	s := open(t, Options{})
	want(t, "element of 256 bytes", put(s, strings.Repeat("x", 256), nil), backends.ErrNameTooLong)
	want(t, "path of 5000 bytes", put(s, strings.Repeat("x/", 2500)+"x", nil), backends.ErrNameTooLong)
	if err := put(s, strings.Repeat("x", 255), nil); err != nil {
		t.Error(err)
	}
}

// A file of mode 0600 in the lake must not be readable at its storage, whatever the umask.
func TestMadeFilesArePrivate(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := t.TempDir()
	ctx := context.Background()
	u, err := open(t, Options{Dir: dir}).Create(ctx, "a/b/f", 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(ctx, backends.Checksums{Adler32: "00790079"}); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(p string, d iofs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", p, fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
