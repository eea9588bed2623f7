package vfs_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"tarn/cache/journal"
	"tarn/fs/vfs"
)

// lazy lists the entries of the journal that wait for the disk.
func (w *world) lazy() (out []*journal.Entry) {
	for _, e := range w.jrnl.Entries() {
		if e.Lazy() {
			out = append(out, e)
		}
	}
	return out
}

// TestCloseFast: with close=fast a close does not wait for the disk, fsync(2) and rename do
// (W2), and with close=local each close does.
func TestCloseFast(t *testing.T) {
	for _, mode := range []vfs.CloseMode{vfs.CloseLocal, vfs.CloseFast} {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, vfs.Options{Close: mode, Delay: time.Hour})
			// The journal has a log only after some small files, and makes it beside them.
			deadline := time.Now().Add(time.Minute)
			for i := 0; i < 100 || mode == vfs.CloseFast && len(w.lazy()) == 0; i++ {
				w.write(fmt.Sprintf("/ctao/f%d", i), []byte("hello"))
				if time.Now().After(deadline) {
					t.Fatal("no log after a minute: are 1.3 GB free in the temporary folder?")
				}
			}
			if mode == vfs.CloseLocal {
				if n := len(w.lazy()); n != 0 {
					t.Fatalf("%d files wait for the disk", n)
				}
				return
			}
			for _, e := range w.lazy() {
				must(t, e.Sync())
			}
			n, h, err := w.v.Create(ctx, w.mkdir("/ctao"), "synced", os.O_RDWR, 0o644, vfs.Caller{})
			must(t, err)
			defer n.Forget(1)
			_, err = h.WriteAt(ctx, []byte("hello"), 0)
			must(t, err)
			must(t, h.Flush(ctx, vfs.Caller{}))
			if n := len(w.lazy()); n != 1 {
				t.Fatalf("%d files wait for the disk after the close of one", n)
			}
			must(t, h.Fsync())
			if n := len(w.lazy()); n != 0 {
				t.Fatalf("%d files wait for the disk after fsync", n)
			}
			h.Release()
			w.write("/ctao/renamed", []byte("hello"))
			must(t, w.v.Rename(ctx, w.mkdir("/ctao"), "renamed", w.mkdir("/ctao"), "new", 0))
			if n := len(w.lazy()); n != 0 {
				t.Fatalf("%d files wait for the disk after a rename", n)
			}
		})
	}
}
