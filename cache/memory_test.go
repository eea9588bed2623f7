package cache

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// However many contents are read at a time, the buffers of their fetches stay within
// Options.Memory, and every reader gets on.
func TestMemoryOfManyStreams(t *testing.T) {
	const readers, size = 60, 2 << 20
	o := options(t)
	o.Block, o.Memory = 128<<10, 7<<20
	c := open(t, o)
	data := random(1, size)
	var now, most atomic.Int64
	src := func(ctx context.Context, p []byte, off int64) (int, error) {
		n := now.Add(int64(len(p)))
		defer now.Add(-int64(len(p)))
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(2 * time.Millisecond) // a storage takes its time: requests pile up
		return copy(p, data[off:]), nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			ct := contentOf(data)
			ct.Key = Key(fmt.Sprint("many-", i))
			f, err := c.Open(ct, func(context.Context, error) (Source, error) { return sourceFunc(src), nil })
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if _, err := readAll(ctx, f, 1<<20); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if m := most.Load(); m > o.Memory {
		t.Errorf("%d bytes of buffers at a time, want at most %d", m, o.Memory)
	}
}

type sourceFunc func(ctx context.Context, p []byte, off int64) (int, error)

func (f sourceFunc) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return f(ctx, p, off)
}
func (f sourceFunc) Close() error { return nil }
