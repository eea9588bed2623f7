package vfs_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"tarn/backends"
	"tarn/fs/vfs"
)

// limited is a world whose files wait here for long, with so many bytes of quota left.
func limited(t *testing.T, left int64) *world {
	t.Helper()
	asked := make(chan struct{}, 1)
	w := &world{t: t, dir: t.TempDir(), opt: vfs.Options{Delay: time.Hour, Quota: func(context.Context) (vfs.Quota, error) {
		select {
		case asked <- struct{}{}:
		default:
		}
		return vfs.Quota{Limit: left, Left: left}, nil
	}}}
	w.start()
	<-asked
	for end := time.Now().Add(10 * time.Second); w.v.StatFS().Total != left; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the quota is not known")
		}
	}
	return w
}

// fill opens a file that is there, and writes its content anew.
func (w *world) fill(p string, flags int, size int) error {
	w.t.Helper()
	n, err := w.v.Resolve(ctx, p)
	must(w.t, err)
	defer n.Forget(1)
	h, err := w.v.Open(ctx, n, os.O_WRONLY|flags, vfs.Caller{})
	must(w.t, err)
	defer h.Release()
	for off := 0; off < size && err == nil; off += 1 << 20 {
		_, err = h.WriteAt(ctx, make([]byte, min(1<<20, size-off)), int64(off))
	}
	return errors.Join(err, h.Flush(ctx, vfs.Caller{}))
}

// What a file that waits here has now counts, and not what it had before.
func TestQuotaOfAFileThatIsWrittenAnew(t *testing.T) {
	w := limited(t, 10<<20)
	w.write("/ctao/a", make([]byte, 6<<20))
	for range 2 {
		if err := w.fill("/ctao/a", os.O_TRUNC, 7<<20); err != nil {
			t.Errorf("7 MiB in place of 6 or 7, where 10 are left: %v", err)
		}
	}
	if err := w.fill("/ctao/a", 0, 9<<20); err != nil {
		t.Errorf("9 MiB over 7: %v", err)
	}
	if err := w.fill("/ctao/a", os.O_TRUNC, 16<<20); !errors.Is(err, backends.ErrQuota) {
		t.Errorf("16 MiB where 10 are left: %v", err)
	}
}

// Room is reserved in steps; the quota is of what files have.
func TestQuotaIsOfBytes(t *testing.T) {
	w := limited(t, 31<<20)
	for _, p := range []string{"/ctao/a", "/ctao/b", "/ctao/c", "/ctao/d", "/ctao/e", "/ctao/f"} {
		w.write(p, make([]byte, 5<<20))
	}
	if n := w.hot.Stats().Unsent; n != 30<<20 {
		t.Errorf("%d bytes are reserved for 30 MiB that are closed", n)
	}
}
