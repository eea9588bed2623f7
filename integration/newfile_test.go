package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// view is one of the ways to look at a file of a fixed size.
type view struct {
	name string
	read func() []byte
}

// views are a read of each handle, a read by somebody who opens the file, and a mapping.
func views(t *testing.T, path string, m []byte, handles ...*os.File) []view {
	all := []view{{"the mapping", func() []byte { return bytes.Clone(m) }}}
	read := func(f *os.File) []byte {
		b := make([]byte, len(m))
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, f := range handles {
		all = append(all, view{"a handle", func() []byte { return read(f) }})
	}
	return append(all, view{"who opens it", func() []byte {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return read(f)
	}})
}

// TestNewFileInAllWays: a new file that is open to read and write is written, mapped, cut,
// appended to and read by several at one time, and all see the same (W1), as on the disk
// beside it.
func TestNewFileInAllWays(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 10m}\n")
	s.mount()
	t.Run("disk", func(t *testing.T) { newFileInAllWays(t, t.TempDir()) })
	t.Run("mount", func(t *testing.T) { newFileInAllWays(t, s.path("ctao")) })
	s.umount()
	s.mount()
	for _, name := range []string{"new.bin", "log"} {
		got, err := os.ReadFile(s.path("ctao", name))
		if err != nil || !bytes.Equal(got, newFileEnds(name)) {
			t.Errorf("%s after another mount: %d bytes, %v", name, len(got), err)
		}
	}
}

const newFileSize = 3<<20 + 777

// newFileEnds is what newFileInAllWays leaves.
func newFileEnds(name string) []byte {
	if name == "log" {
		return bytes.Repeat([]byte("first.second."), 100)
	}
	b := bytes.Repeat([]byte("0123456789abcdef"), newFileSize/16+1)[:newFileSize]
	for _, off := range newFileOffsets {
		copy(b[off:], "written")
		copy(b[off+8:], "mapped")
		copy(b[off+16:], "beside")
	}
	return append(b[:2<<20:2<<20], make([]byte, 5000)...) // cut, and grown again
}

var newFileOffsets = []int{0, 100, 4096, 8190, 1<<20 - 4, 3 << 20}

func newFileInAllWays(t *testing.T, dir string) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func(name string, flags int) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), flags, 0o644)
		must(err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	path := filepath.Join(dir, "new.bin")
	f := open("new.bin", os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	want := bytes.Repeat([]byte("0123456789abcdef"), newFileSize/16+1)[:newFileSize]
	for off := 0; off < len(want); {
		n, err := f.Write(want[off:min(off+500_001, len(want))])
		must(err)
		off += n
	}
	m, err := syscall.Mmap(int(f.Fd()), 0, len(want), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	must(err)
	beside := open("new.bin", os.O_RDWR)
	all := views(t, path, m, f, beside)
	check := func(after string) {
		t.Helper()
		for _, v := range all {
			if !bytes.Equal(v.read(), want) {
				t.Fatalf("%s does not see %s", v.name, after)
			}
		}
	}
	check("the new content")
	for _, off := range newFileOffsets {
		copy(want[off:], "written")
		_, err := f.WriteAt([]byte("written"), int64(off))
		must(err)
		check("a write")
		copy(want[off+8:], "mapped")
		copy(m[off+8:], "mapped")
		check("a write into the mapping")
		copy(want[off+16:], "beside")
		_, err = beside.WriteAt([]byte("beside"), int64(off+16))
		must(err)
		check("a write by another handle")
	}
	must(unix.Msync(m, unix.MS_SYNC))
	must(syscall.Munmap(m))
	must(f.Truncate(2 << 20))
	st, err := beside.Stat()
	must(err)
	if st.Size() != 2<<20 {
		t.Fatalf("%d bytes after a cut", st.Size())
	}
	must(f.Truncate(2<<20 + 5000))
	must(f.Sync())
	must(beside.Close())
	must(f.Close())
	got, err := os.ReadFile(path)
	must(err)
	if !bytes.Equal(got, newFileEnds("new.bin")) {
		t.Fatal("closed, it has another content")
	}

	one := open("log", os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND)
	two := open("log", os.O_RDWR|os.O_APPEND)
	for range 100 {
		_, err := one.WriteString("first.")
		must(err)
		_, err = two.WriteString("second.")
		must(err)
	}
	got, err = os.ReadFile(filepath.Join(dir, "log"))
	must(err)
	if !bytes.Equal(got, newFileEnds("log")) {
		t.Fatal("of two who append, one wrote over the other")
	}
}
