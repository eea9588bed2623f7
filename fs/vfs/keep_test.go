package vfs_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"tarn/backends"
	"tarn/fs/vfs"
)

// TestRecallOutlivesItsReader: a reader that dies does not take the recall with it when
// another one comes at once, as the kernel makes it come; when none does, it is cancelled
// soon (R3).
func TestRecallOutlivesItsReader(t *testing.T) {
	w := newWorld(t, vfs.Options{})
	b := random(3 << 20)
	w.write("/ctao/f", b)
	w.write("/ctao/g", b[1:])
	w.drain()
	w.tapeOnly("/ctao/f")
	w.tapeOnly("/ctao/g")
	dies := func(p string) {
		t.Helper()
		n, err := w.v.Resolve(ctx, p)
		must(t, err)
		defer n.Forget(1)
		h, err := w.v.Open(ctx, n, os.O_RDONLY, vfs.Caller{})
		must(t, err)
		defer h.Release()
		c, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		if _, err := h.ReadAt(c, make([]byte, 10), 0, vfs.Caller{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a read that waits: %v", err)
		}
	}
	dies("/ctao/f")
	time.Sleep(100 * time.Millisecond)
	got, err := w.read("/ctao/f")
	must(t, err)
	if !bytes.Equal(got, b) {
		t.Error("wrong bytes")
	}
	if s := w.lake.Stats(); s.Recalls != 1 || s.Cancelled != 0 {
		t.Errorf("%+v, want one recall and none cancelled", s)
	}
	until(t, "nothing keeps it open after the read", func() bool {
		_, err := w.v.Evict(ctx, w.stat("/ctao/f"))
		if err != nil && !errors.Is(err, backends.ErrBusy) {
			t.Fatalf("evict after the read: %v", err)
		}
		return err == nil
	})

	dies("/ctao/g")
	for end := time.Now().Add(3 * time.Second); w.hotOpen("/ctao/g") > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the file of a dead reader stays open in the cache")
		}
	}
}

// hotOpen is how many have a file open in the hot cache.
func (w *world) hotOpen(p string) int {
	w.t.Helper()
	st, _ := w.v.Cached(w.stat(p))
	return st.Open
}
