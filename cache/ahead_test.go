package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// stalled is a remote of which the first read waits for goOn, and then fails with err if that
// is not nil.
func stalled(t *testing.T, data []byte, err error) (r *remote, goOn func()) {
	r = &remote{data: data}
	gate := make(chan struct{})
	goOn = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(goOn)
	var begun atomic.Bool
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		if begun.CompareAndSwap(false, true) {
			<-gate
			if err != nil {
				return 0, err
			}
		}
		return r.plain(p, off)
	}
	return r, goOn
}

func (r *remote) reads() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ranges)
}

// firstRead has a reader wait for the first bytes of a content that another File wants whole.
func firstRead(t *testing.T, c *Cache, ct Content, r *remote) (stop context.CancelFunc, read, filled <-chan error) {
	t.Helper()
	ctx, stop := context.WithCancel(timeout(t))
	f, g := mustOpen(t, c, ct, r), mustOpen(t, c, ct, r)
	one, two := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := f.ReadAt(ctx, make([]byte, 100), 20*kb4)
		one <- err
	}()
	eventually(t, "the source is read", func() bool { return r.reads() > 0 })
	go func() { two <- g.Fill(timeout(t)) }()
	time.Sleep(50 * time.Millisecond)
	if n := r.reads(); n != 1 {
		t.Errorf("%d reads beside that of the first reader", n-1)
	}
	return stop, one, two
}

// While a reader waits for the first bytes of all nothing is read beside them, and afterwards
// all the rest is, also when the source of the first bytes fails.
func TestReadAheadWaitsForTheFirstBytes(t *testing.T) {
	for name, err := range map[string]error{"they come": nil, "the source fails": errors.New("broken")} {
		t.Run(name, func(t *testing.T) {
			c := open(t, options(t))
			ct, data := numbered(0, 100*kb4)
			r, goOn := stalled(t, data, err)
			stop, read, filled := firstRead(t, c, ct, r)
			defer stop()
			goOn()
			if err := errors.Join(<-read, <-filled); err != nil {
				t.Fatal(err)
			}
			if r.reads() < 3 {
				t.Errorf("%d reads in all", r.reads())
			}
		})
	}
}

// When the reader of the first bytes goes away read-ahead begins, though they have not come.
func TestReadAheadBeginsWhenTheFirstReaderLeaves(t *testing.T) {
	c := open(t, options(t))
	ct, data := numbered(0, 100*kb4)
	r, goOn := stalled(t, data, nil)
	stop, read, filled := firstRead(t, c, ct, r)
	stop()
	wantErr(t, <-read, context.Canceled)
	eventually(t, "all but the first run is resident", func() bool { return resident(c, ct.Key) == int64(len(data))-kb4 })
	goOn()
	if err := <-filled; err != nil {
		t.Fatal(err)
	}
}
