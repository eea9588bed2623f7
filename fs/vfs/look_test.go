package vfs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"tarn/fs/vfs"
)

// TestLooks: who jumps about in a large file on disk gets the bytes that he asks for, and nothing else is fetched (R2).
func TestLooks(t *testing.T) {
	w := newWorld(t, vfs.Options{})
	b := random(20 << 20)
	w.write("/ctao/f", b)
	w.drain()
	w.close()
	must(t, os.RemoveAll(filepath.Join(w.dir, "hot")))
	w.open()
	h := w.openFile("/ctao/f", os.O_RDONLY)
	defer w.shut(h)
	before := w.hot.Stats().FetchedBytes
	for _, off := range []int64{12 << 20, 5 << 20, 9<<20 + 4096, 3 << 20} {
		p := make([]byte, 4096)
		if _, err := h.ReadAt(ctx, p, off, vfs.Caller{}); err != nil || !bytes.Equal(p, b[off:off+4096]) {
			t.Fatalf("at %d: %v", off, err)
		}
	}
	if s := w.hot.Stats(); s.FetchedBytes-before != 4*4096 || s.Reserved != 0 {
		t.Errorf("%d bytes were fetched, %+v", s.FetchedBytes-before, s)
	}
}
