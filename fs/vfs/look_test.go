package vfs_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/lake"
	"tarn/cache"
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

// halting is a disk whose large reads beyond an offset wait until their reader goes, while it halts.
type halting struct {
	backends.Storage
	end  int64
	halt *atomic.Bool
}

func (s halting) Open(ctx context.Context, p string) (backends.Object, error) {
	o, err := s.Storage.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	return haltingObject{o, s}, nil
}

type haltingObject struct {
	backends.Object
	s halting
}

func (o haltingObject) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if o.s.halt.Load() && len(p) > 64<<10 && off+int64(len(p)) > o.s.end {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return o.Object.ReadAt(ctx, p, off)
}

// TestTapeOnlyIsNotLookedInto: a file whose last copy on disk is gone costs a recall from then on, though the hot cache
// knows it as one that costs little: who jumps about in it has it recalled and fetched whole, once (R2).
func TestTapeOnlyIsNotLookedInto(t *testing.T) {
	var halt atomic.Bool
	w := (&world{t: t, dir: t.TempDir(), tune: func(_ *embedded.Options, o *lake.Options) {
		for _, r := range o.RSEs {
			if r.Kind == backends.DiskKind {
				r.Storage = halting{r.Storage, 1 << 20, &halt}
			}
		}
	}}).start()
	b := random(20 << 20)
	w.write("/ctao/f", b)
	w.drain()
	w.close()
	must(t, os.RemoveAll(filepath.Join(w.dir, "hot")))
	w.open()
	read := func(off int64, n int) (fetched int64) {
		t.Helper()
		h := w.openFile("/ctao/f", os.O_RDONLY)
		defer w.shut(h)
		before := w.hot.Stats().FetchedBytes
		p := make([]byte, n)
		if _, err := h.ReadAt(ctx, p, off, vfs.Caller{}); err != nil || !bytes.Equal(p, b[off:off+int64(n)]) {
			t.Fatalf("at %d: %v", off, err)
		}
		return w.hot.Stats().FetchedBytes - before
	}
	halt.Store(true)
	read(0, 1<<20) // its beginning is cached then
	until(t, "the fetch is given up", func() bool { return w.hotOpen("/ctao/f") == 0 })
	halt.Store(false)
	if n := read(12<<20, 4096); n != 4096 {
		t.Errorf("on disk a look fetched %d bytes", n)
	}
	key := cache.Key(w.stat("/ctao/f").Generation)
	if st, ok := w.hot.Status(key); !ok || st.Resident == 0 || st.Cost == 0 || st.Cost > time.Second {
		t.Fatalf("on disk the hot cache knows it as %+v", st)
	}
	w.offDisk("/ctao/f")
	if n := read(5<<20, 4096); n <= 4096 {
		t.Errorf("on tape a look fetched %d bytes", n)
	}
	if st, ok := w.hot.Status(key); !ok || st.Cost < time.Minute {
		t.Errorf("on tape the hot cache knows it as %+v", st)
	}
	if s := w.lake.Stats(); s.FilesRecalled != 1 {
		t.Errorf("%d files were recalled", s.FilesRecalled)
	}
}
