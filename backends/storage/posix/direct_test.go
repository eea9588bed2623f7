package posix

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tarn/backends"
	"tarn/integration/needed"
)

// uncached makes a file of random bytes of which no page is in memory.
func uncached(t *testing.T, n int) (s *Storage, data []byte, path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "direct") // t.TempDir may be in memory as well, but says less
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data = make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(data)
	path = filepath.Join(dir, "f")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	drop(t, path)
	return open(t, Options{Dir: dir}), data, path
}

func drop(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

// Whatever way a range is read, the bytes are the file's, also at its ragged end, and what was
// written a moment ago and is not on the disk yet is seen.
func TestDirectReadsGiveTheFilesBytes(t *testing.T) {
	const n = 9<<20 + 1234
	s, data, path := uncached(t, n)
	o, err := s.Open(context.Background(), "f")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if o.(*object).direct.open(o.(*object).f) == nil {
		needed.Missing(t, "a file system below the temporary folder that can read directly")
	}
	check := func(off int64, length int) {
		p := make([]byte, length)
		k, err := o.ReadAt(context.Background(), p, off)
		if want := data[off:min(off+int64(length), n)]; !bytes.Equal(p[:k], want) || (err == io.EOF) != (k < length) || err != nil && err != io.EOF {
			t.Errorf("%d bytes at %d: got %d, %v", length, off, k, err)
		}
	}
	if got := o.(*object).readDirect(make([]byte, 4<<20), 4<<20); got != 4<<20 {
		t.Errorf("%d bytes of 4 MiB read directly", got)
	}
	if cached(o.(*object).f, 4<<20, 4<<20) {
		t.Error("a direct read left pages")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 40 {
				off := rand.Int64N(n)
				check(off&^4095, 1<<20+rand.IntN(3<<20))
				check(off, 1+rand.IntN(2<<20))
			}
			check(8<<20, 4<<20)
			check(0, n)
		})
	}
	wg.Wait()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	drop(t, path)
	copy(data[5<<20:], "written now")
	if _, err := f.WriteAt([]byte("written now"), 5<<20); err != nil {
		t.Fatal(err)
	}
	check(4<<20, 4<<20)
	if err := f.Truncate(6 << 20); err != nil {
		t.Fatal(err)
	}
	drop(t, path)
	if _, err := o.ReadAt(context.Background(), make([]byte, 4<<20), 4<<20); !errors.Is(err, backends.ErrStale) {
		t.Errorf("read of a file that was cut: %v", err)
	}
	o.Close()
	if _, err := o.ReadAt(context.Background(), make([]byte, 4<<20), 0); !errors.Is(err, backends.ErrClosed) && err == nil {
		t.Error("read after Close")
	}
}
