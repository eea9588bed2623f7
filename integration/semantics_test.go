package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wantErr wants an error of a system call.
func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func put(t *testing.T, p, text string) {
	t.Helper()
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantText(t *testing.T, p, text string) {
	t.Helper()
	if b, err := os.ReadFile(p); err != nil || string(b) != text {
		t.Errorf("%s: %q, %v, want %q", p, b, err, text)
	}
}

func stat(t *testing.T, p string) syscall.Stat_t {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(p, &st); err != nil {
		t.Fatalf("stat %s: %v", p, err)
	}
	return st
}

// TestNames: which names can be, and that they come back byte by byte, also after a
// restart (N2).
func TestNames(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 50ms}\n")
	s.mount()
	dir := s.path("ctao/dl0")
	names := []string{
		strings.Repeat("n", 255), strings.Repeat("é", 127), "new\nline", "tab\t", " ", "-rf", "a*?[b]", `back\slash`, `"quotes'`, "%2F", "~", ".hidden", "...",
		"invalid \xff\xfe utf-8", "\x01\x7f", "e\u0301", "\u00e9", "日本語", "colon:name", "tarn",
	}
	for _, n := range names {
		put(t, filepath.Join(dir, n), n)
	}
	check := func(when string) {
		t.Helper()
		es, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range es {
			got = append(got, e.Name())
		}
		want := slices.Sorted(slices.Values(names))
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: listed %q, want %q", when, got, want)
		}
		for _, n := range names {
			wantText(t, filepath.Join(dir, n), n)
		}
	}
	check("unsent")
	s.drain()
	check("published")
	s.umount()
	s.mount()
	check("after a restart")
	for _, n := range names {
		if got := s.ok("cat", "/ctao/dl0/"+n); got != n {
			t.Errorf("tarn cat of %q: %q", n, got)
		}
		if err := os.Rename(filepath.Join(dir, n), filepath.Join(dir, "x")); err != nil {
			t.Errorf("rename %q: %v", n, err)
		}
		if err := os.Remove(filepath.Join(dir, "x")); err != nil {
			t.Errorf("remove %q: %v", n, err)
		}
	}
	long := filepath.Join(dir, strings.Repeat("n", 256))
	wantErr(t, "create with 256 bytes", os.WriteFile(long, nil, 0o644), syscall.ENAMETOOLONG)
	wantErr(t, "mkdir with 256 bytes", os.Mkdir(long, 0o755), syscall.ENAMETOOLONG)
	_, err := os.Stat(long)
	wantErr(t, "stat of 256 bytes", err, syscall.ENAMETOOLONG)
	put(t, filepath.Join(dir, "f"), "")
	wantErr(t, "rename to 256 bytes", os.Rename(filepath.Join(dir, "f"), long), syscall.ENAMETOOLONG)
	wantText(t, filepath.Join(dir, "..", "dl0", "f"), "")
	wantErr(t, "mkdir ..", syscall.Mkdir(filepath.Join(dir, "x")+"/..", 0o755), syscall.ENOENT)
}

// TestRoot: scopes and what may stand beside them (N3).
func TestRoot(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	s.mount()
	wantErr(t, "a file in the root", os.WriteFile(s.path("f"), nil, 0o644), syscall.EPERM)
	wantErr(t, "a link in the root", os.Symlink("ctao", s.path("l")), syscall.EPERM)
	wantErr(t, "rename of a scope", os.Rename(s.path("ctao"), s.path("other")), syscall.EPERM)
	wantErr(t, "mkdir of no scope's name", os.Mkdir(s.path("not a scope"), 0o755), syscall.EINVAL)
	wantErr(t, "mkdir of a scope with 26 letters", os.Mkdir(s.path(strings.Repeat("s", 26)), 0o755), syscall.ENAMETOOLONG)
	wantErr(t, "rmdir of a scope with directories", os.Remove(s.path("ctao")), syscall.ENOTEMPTY)
	wantErr(t, "mkdir of .tarn", os.Mkdir(s.path(".tarn"), 0o755), syscall.EEXIST)
	wantErr(t, "a file in .tarn", os.WriteFile(s.path(".tarn/x"), nil, 0o644), syscall.EPERM)
	if err := os.Mkdir(s.path("new"), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, s.path("new/f"), "x")
	wantErr(t, "rmdir of a scope with a file", os.Remove(s.path("new")), syscall.ENOTEMPTY)
	if err := os.Remove(s.path("new/f")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.path("new")); err != nil {
		t.Errorf("rmdir of an empty scope: %v", err)
	}
}

// TestKinds: hard links and special files are refused, symbolic links are kept (N8).
func TestKinds(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 50ms}\n")
	s.mount()
	dir := s.path("ctao/dl0")
	put(t, filepath.Join(dir, "f"), "x")
	wantErr(t, "hard link", os.Link(filepath.Join(dir, "f"), filepath.Join(dir, "h")), syscall.EPERM)
	wantErr(t, "fifo", syscall.Mkfifo(filepath.Join(dir, "p"), 0o644), syscall.EPERM)
	wantErr(t, "device", syscall.Mknod(filepath.Join(dir, "d"), syscall.S_IFCHR|0o644, 0x103), syscall.EPERM)
	for _, target := range []string{"f", "../dl0/f", "/nowhere/at/all", strings.Repeat("x/", 1000) + "y"} {
		l := filepath.Join(dir, fmt.Sprint("l", len(target)))
		if err := os.Symlink(target, l); err != nil {
			t.Errorf("symlink to %.20q: %v", target, err)
			continue
		}
		if got, err := os.Readlink(l); err != nil || got != target {
			t.Errorf("readlink: %.20q, %v, want %.20q", got, err, target)
		}
	}
	wantText(t, filepath.Join(dir, "l1"), "x")
	s.umount()
	s.mount()
	wantText(t, filepath.Join(dir, "l1"), "x")
	if st := stat(t, filepath.Join(dir, "l1")); st.Mode&syscall.S_IFMT != syscall.S_IFLNK || st.Size != 1 {
		t.Errorf("a link after a restart: mode %o, %d bytes", st.Mode, st.Size)
	}
}

// TestAttributes: what stat shows is kept from the journal to the catalogue and over a
// restart (N5, N6).
func TestAttributes(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 300ms}\n")
	s.mount()
	dir := s.path("ctao/dl0/d")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(dir, "f")
	put(t, p, strings.Repeat("x", 5000))
	when := time.Date(2001, 2, 3, 4, 5, 6, 789012345, time.UTC)
	if err := errors.Join(os.Chmod(p, 0o604), os.Chtimes(p, time.Time{}, when)); err != nil {
		t.Fatal(err)
	}
	first := stat(t, p)
	check := func(when string) {
		t.Helper()
		st := stat(t, p)
		if st.Ino != first.Ino || st.Mode != syscall.S_IFREG|0o604 || st.Size != 5000 || st.Blocks != 10 || st.Nlink != 1 || st.Mtim != first.Mtim {
			t.Errorf("%s: %+v, was %+v", when, st, first)
		}
		if st := stat(t, filepath.Dir(p)); st.Mode != syscall.S_IFDIR|0o750 || st.Nlink != 1 {
			t.Errorf("%s: the directory has mode %o, %d links", when, st.Mode, st.Nlink)
		}
	}
	if first.Mtim.Nsec != int64(when.Nanosecond()) || first.Mtim.Sec != when.Unix() {
		t.Errorf("mtime %v, want %v", first.Mtim, when)
	}
	check("unsent")
	s.drain()
	check("published")
	s.umount()
	s.mount()
	check("after a restart")
	moved := s.path("ctao/dl1/moved")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	p = filepath.Join(moved, "f")
	check("after a rename of the directory")
	if err := os.Chmod(p, 0o604); err != nil {
		t.Fatal(err)
	}
	s.ok("evict", "/ctao/dl1/moved")
	check("evicted")
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if off, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_HOLE); err != nil || off != 5000 {
		t.Errorf("a hole at %d, %v in a file that is not here", off, err)
	}
	if off, err := unix.Seek(int(f.Fd()), 10, unix.SEEK_DATA); err != nil || off != 10 {
		t.Errorf("data at %d, %v, want 10", off, err)
	}
}

// TestRenames: files and directories over each other, unsent and published (N7).
func TestRenames(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 50ms}\n")
	s.mount()
	for _, published := range []bool{false, true} {
		dir := s.path("ctao/dl0", fmt.Sprint("published-", published))
		j := func(n string) string { return filepath.Join(dir, n) }
		settle := func() {
			if published {
				s.drain()
			}
		}
		for _, d := range []string{"", "a", "a/b", "empty", "full"} {
			if err := os.Mkdir(j(d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		put(t, j("f"), "f")
		put(t, j("g"), "g")
		put(t, j("a/b/deep"), "deep")
		put(t, j("full/x"), "x")
		settle()
		ino := stat(t, j("f")).Ino
		if err := syscall.Rename(j("f"), j("g")); err != nil {
			t.Fatal(err)
		}
		wantText(t, j("g"), "f")
		if got := stat(t, j("g")).Ino; got != ino {
			t.Errorf("inode %d after the rename, was %d", got, ino)
		}
		_, err := os.Lstat(j("f"))
		wantErr(t, "the old name", err, syscall.ENOENT)
		if err := syscall.Rename(j("a"), j("empty")); err != nil {
			t.Errorf("a directory over an empty one: %v", err)
		}
		wantText(t, j("empty/b/deep"), "deep")
		wantErr(t, "a directory over a full one", syscall.Rename(j("empty"), j("full")), syscall.ENOTEMPTY)
		wantErr(t, "a directory over a file", syscall.Rename(j("empty"), j("g")), syscall.ENOTDIR)
		wantErr(t, "a file over a directory", syscall.Rename(j("g"), j("full")), syscall.EISDIR)
		wantErr(t, "a directory into itself", syscall.Rename(j("empty"), j("empty/b/c")), syscall.EINVAL)
		put(t, j("h"), "h")
		settle()
		wantErr(t, "no replace", unix.Renameat2(unix.AT_FDCWD, j("h"), unix.AT_FDCWD, j("g"), unix.RENAME_NOREPLACE), syscall.EEXIST)
		wantErr(t, "exchange", unix.Renameat2(unix.AT_FDCWD, j("h"), unix.AT_FDCWD, j("g"), unix.RENAME_EXCHANGE), syscall.EINVAL)
		if err := unix.Renameat2(unix.AT_FDCWD, j("h"), unix.AT_FDCWD, j("i"), unix.RENAME_NOREPLACE); err != nil {
			t.Errorf("no replace to a free name: %v", err)
		}
		wantErr(t, "unlink of a directory", syscall.Unlink(j("full")), syscall.EISDIR)
		wantErr(t, "rmdir of a file", syscall.Rmdir(j("g")), syscall.ENOTDIR)
		wantErr(t, "rmdir of a full directory", syscall.Rmdir(j("full")), syscall.ENOTEMPTY)
	}
	s.drain()
	s.umount()
	s.mount()
	wantText(t, s.path("ctao/dl0/published-false/g"), "f")
	wantText(t, s.path("ctao/dl0/published-true/empty/b/deep"), "deep")
}

// TestWrites: sizes, holes, appends, exclusive creation, and handles on what is unlinked
// (W1, W7, W9).
func TestWrites(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 50ms}\n")
	s.mount()
	j := func(n string) string { return s.path("ctao/dl0", n) }
	for _, published := range []bool{false, true} {
		p := j(fmt.Sprint("f", published))
		put(t, p, "0123456789")
		if published {
			s.drain()
		}
		_, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		wantErr(t, "exclusive creation", err, syscall.EEXIST)
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		old, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("ab"), 3); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("end"), 100000); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(100002); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		old.Close()
		want := "012ab56789" + strings.Repeat("\x00", 99990) + "en"
		wantText(t, p, want)
		if published {
			s.drain()
			wantText(t, p, want)
		}
		if err := os.Truncate(p, 4); err != nil {
			t.Fatal(err)
		}
		wantText(t, p, "012a")
		f, err = os.OpenFile(p, os.O_RDWR|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("+"); err != nil {
			t.Fatal(err)
		}
		wantText(t, p, "012a+") // by another handle, before the close
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("more"); err != nil {
			t.Errorf("write to what is unlinked: %v", err)
		}
		b := make([]byte, 20)
		if n, _ := f.ReadAt(b, 0); string(b[:n]) != "012a+more" {
			t.Errorf("read of what is unlinked: %q", b[:n])
		}
		var st syscall.Stat_t
		if err := syscall.Fstat(int(f.Fd()), &st); err != nil || st.Nlink != 0 || st.Size != 9 {
			t.Errorf("stat of what is unlinked: %v, %d links, %d bytes", err, st.Nlink, st.Size)
		}
		if err := f.Close(); err != nil {
			t.Errorf("close of what is unlinked: %v", err)
		}
	}
	s.drain()
	if es, err := os.ReadDir(s.path("ctao/dl0")); err != nil || len(es) != 0 {
		t.Errorf("left: %v, %v", es, err)
	}
}

// TestProtectedMounts: a mount that does not delete, and one that does not write (W9).
func TestProtectedMounts(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 10ms}\nmount: {delete: false}\n")
	s.mount()
	p := s.path("ctao/dl0/f")
	put(t, p, "x")
	s.drain()
	wantErr(t, "unlink", os.Remove(p), syscall.EPERM)
	put(t, s.path("ctao/dl0/g"), "y")
	s.drain()
	wantErr(t, "rename over a file", os.Rename(s.path("ctao/dl0/g"), p), syscall.EPERM)
	wantErr(t, "rmdir", os.Remove(s.path("ctao/dl1")), syscall.EPERM)
	wantText(t, p, "x")
	s.umount()
	s.mount("-o", "ro")
	wantText(t, p, "x")
	wantErr(t, "write", os.WriteFile(p, nil, 0o644), syscall.EROFS)
	wantErr(t, "mkdir", os.Mkdir(s.path("ctao/dl0/d"), 0o755), syscall.EROFS)
	wantErr(t, "chmod", os.Chmod(p, 0o600), syscall.EROFS)
}
