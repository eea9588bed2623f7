package integration

import (
	"bytes"
	"os"
	"syscall"
	"testing"
)

// TestReadersSeeWriteOnly: what goes through a descriptor that can only write does not
// pass the page cache; whoever has read or mapped the file before sees it all the same.
func TestReadersSeeWriteOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t, "journal: {delay: 10m}\n")
	s.mount()
	p := s.path("ctao/seen.bin")
	old := bytes.Repeat([]byte("old."), 64<<10)
	if err := os.WriteFile(p, old, 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]byte, len(old))
	m, err := syscall.Mmap(int(r.Fd()), 0, len(old), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(m)
	if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, old) || !bytes.Equal(m, old) {
		t.Fatal("not the old content", err)
	}
	w, err := os.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	want := bytes.Clone(old)
	for _, off := range []int{0, 3, 4096, 70_001, len(old) - 5} { // aligned and not
		copy(want[off:], "NEW!")
		if _, err := w.WriteAt([]byte("NEW!"), int64(off)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("a read does not see the write at %d (%v)", off, err)
		}
		if !bytes.Equal(m, want) {
			t.Fatalf("a mapping does not see the write at %d", off)
		}
	}
}
