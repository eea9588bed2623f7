package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"
)

func TestColdReadFillsAndIsWhole(t *testing.T) {
	for _, size := range []int{0, 1, kb4 - 1, kb4, kb4 + 1, 50*kb4 + 17} {
		data := random(uint64(size), size)
		c := open(t, options(t))
		r := &remote{data: data}
		f := mustOpen(t, c, contentOf(data), r)
		wantBytes(t, f, data)
		if err := f.Fill(timeout(t)); err != nil {
			t.Fatal(err)
		}
		if !f.Whole() || r.opened.Load() > 1 || r.bytes.Load() != int64(size) {
			t.Errorf("size %d: whole %v, %d fetches, %d bytes", size, f.Whole(), r.opened.Load(), r.bytes.Load())
		}
		if size == 0 {
			continue
		}
		p, ok := f.Passthrough()
		if !ok {
			t.Fatalf("size %d: no passthrough of a whole file", size)
		}
		got, err := io.ReadAll(io.NewSectionReader(p, 0, int64(size)+10))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("passthrough gives %d bytes, %v", len(got), err)
		}
		if _, err := p.WriteAt([]byte{1}, 0); err == nil {
			t.Error("passthrough can be written through")
		}
		settled(t, c)
		if r.closed.Load() != r.opened.Load() {
			t.Error("source left open")
		}
	}
}

func TestReadAtEdges(t *testing.T) {
	data := random(1, 3*kb4+5)
	c := open(t, options(t))
	f := mustOpen(t, c, contentOf(data), &remote{data: data})
	for _, c := range []struct {
		off, n, want int
		err          error
	}{{0, 0, 0, nil}, {5, 10, 10, nil}, {kb4 - 1, 2, 2, nil}, {0, len(data), len(data), nil},
		{0, len(data) + 1, len(data), io.EOF}, {len(data) - 1, 5, 1, io.EOF}, {len(data), 1, 0, io.EOF}, {len(data) + 9, 1, 0, io.EOF}, {1, 3 * kb4, 3 * kb4, nil}} {
		p := make([]byte, c.n)
		n, err := f.ReadAt(timeout(t), p, int64(c.off))
		if n != c.want || err != c.err || !bytes.Equal(p[:n], data[min(c.off, len(data)):min(c.off, len(data))+n]) {
			t.Errorf("ReadAt(%d bytes, %d) = %d, %v; want %d, %v", c.n, c.off, n, err, c.want, c.err)
		}
	}
	if _, err := f.ReadAt(timeout(t), make([]byte, 1), -1); err == nil {
		t.Error("negative offset accepted")
	}
	f.Close()
	_, err := f.ReadAt(timeout(t), make([]byte, 1), 0)
	wantErr(t, err, ErrClosed)
}

// 200 readers of one content share one Fetch; one that is killed returns at once and
// harms nobody.
func TestManyReadersOneFetch(t *testing.T) {
	data := random(2, 24*kb4)
	c := open(t, options(t))
	gate := make(chan struct{})
	r := &remote{data: data, onFetch: func(ctx context.Context, n int, bad error) error {
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	killed, kill := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	errs := make(chan error, 200)
	for i := range 200 {
		f := mustOpen(t, c, contentOf(data), r)
		wg.Add(1)
		go func() {
			defer wg.Done()
			if i == 7 {
				_, err := readAll(killed, f, kb4)
				if !errors.Is(err, context.Canceled) {
					errs <- err
				}
				return
			}
			got, err := readAll(timeout(t), f, 3*kb4)
			if err != nil || !bytes.Equal(got, data) {
				errs <- errors.Join(errors.New("wrong bytes"), err)
			}
		}()
	}
	eventually(t, "all wait", func() bool { return waiting(c, contentOf(data).Key) == 200 })
	kill()
	eventually(t, "one is gone while the fetch still waits", func() bool { return waiting(c, contentOf(data).Key) == 199 })
	close(gate)
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if n := r.opened.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func waiting(c *Cache, k Key) int {
	c.mu.Lock()
	e := c.entries[k]
	c.mu.Unlock()
	if e == nil {
		return 0
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.waiters)
}

func TestLastWaiterGoneCancelsFetch(t *testing.T) {
	data := random(3, 64*kb4)
	for _, how := range []string{"cancel", "close", "cancel fill", "cache"} {
		t.Run(how, func(t *testing.T) {
			c := open(t, options(t))
			ended := make(chan error, 1)
			r := &remote{data: data, onFetch: func(ctx context.Context, n int, bad error) error {
				if n > 0 {
					return nil
				}
				<-ctx.Done()
				ended <- context.Cause(ctx)
				return ctx.Err()
			}}
			f1, f2 := mustOpen(t, c, contentOf(data), r), mustOpen(t, c, contentOf(data), r)
			ctx, cancel := context.WithCancel(context.Background())
			results := make(chan error, 2)
			for _, f := range []*File{f1, f2} {
				go func() {
					var err error
					if how == "cancel fill" {
						err = f.Fill(ctx)
					} else {
						_, err = f.ReadAt(ctx, make([]byte, 10), 0)
					}
					results <- err
				}()
			}
			eventually(t, "both wait", func() bool { return waiting(c, contentOf(data).Key) == 2 })
			want := ErrClosed
			switch how {
			case "cancel", "cancel fill":
				want = context.Canceled
				cancel()
			case "close":
				f1.Close()
				select {
				case <-ended:
					t.Fatal("cancelled while one still waits")
				case <-time.After(20 * time.Millisecond):
				}
				f2.Close()
			case "cache":
				c.Close()
			}
			wantErr(t, <-results, want)
			wantErr(t, <-results, want)
			<-ended
			cancel()
			if how == "cancel" {
				wantBytes(t, f1, data) // a later reader fetches again
				if r.opened.Load() != 2 {
					t.Errorf("%d fetches", r.opened.Load())
				}
			}
		})
	}
}

// What a cancelled fill brought stays, and only the rest is fetched later, also after a
// restart.
func TestPartialStaysAndIsResumed(t *testing.T) {
	data := random(4, 64*kb4)
	for _, restart := range []bool{false, true} {
		o := options(t)
		c := open(t, o)
		r := &remote{data: data}
		r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
			if n == 0 && off >= 16*kb4 {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			return r.plain(p, off)
		}
		f := mustOpen(t, c, contentOf(data), r)
		p := make([]byte, 10*kb4)
		for off := 0; off < 16*kb4; off += kb4 {
			if _, err := f.ReadAt(timeout(t), p[:kb4], int64(off)); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		settled(t, c)
		s, ok := c.Status(contentOf(data).Key)
		if !ok || s.Whole || s.Resident < 16*kb4 || s.Resident > 20*kb4 {
			t.Fatalf("status %+v, %v", s, ok)
		}
		if restart {
			shut(t, c)
			c = open(t, o)
		}
		before := r.bytes.Load()
		f = mustOpen(t, c, contentOf(data), r)
		wantBytes(t, f, data)
		if got := r.bytes.Load() - before; got != s.Size-s.Resident {
			t.Errorf("restart %v: %d bytes fetched, only %d were missing", restart, got, s.Size-s.Resident)
		}
	}
}

// A random read at the end of a cold content does not wait behind the fill, even when all
// read-ahead is stuck.
func TestDemandedBlocksComeFirst(t *testing.T) {
	data := random(5, 1024*kb4)
	c := open(t, options(t))
	r := &remote{data: data}
	stuck := make(chan struct{})
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		if len(p) > kb4 { // read-ahead
			select {
			case <-stuck:
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		return r.plain(p, off)
	}
	f := mustOpen(t, c, contentOf(data), r)
	for _, off := range []int64{0, int64(len(data)) - 100, 700 * kb4, 300*kb4 + 7} {
		f := mustOpen(t, c, contentOf(data), r) // its own: one that goes through the content does not get the end
		p := make([]byte, 100)
		if _, err := f.ReadAt(timeout(t), p, off); err != nil || !bytes.Equal(p, data[off:off+100]) {
			t.Fatalf("at %d: %v", off, err)
		}
	}
	close(stuck)
	wantBytes(t, f, data)
}

func TestReadResident(t *testing.T) {
	data := random(6, 20*kb4)
	o := options(t)
	o.Head, o.Tail = kb4, kb4
	c := open(t, o)
	ct := contentOf(data)
	if err := c.Seed(ct, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	f, err := c.Open(ct, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		off, n, want int
		err          error
	}{{0, 10, 10, nil}, {0, 2 * kb4, kb4, nil}, {kb4, 1, 0, ErrNotResident}, {19*kb4 - 1, 5, 0, ErrNotResident},
		{19 * kb4, kb4, kb4, nil}, {19 * kb4, kb4 + 1, kb4, io.EOF}, {20 * kb4, 1, 0, io.EOF}} {
		p := make([]byte, c.n)
		n, err := f.ReadResident(p, int64(c.off))
		if n != c.want || !errors.Is(err, c.err) || !bytes.Equal(p[:n], data[c.off:c.off+n]) {
			t.Errorf("ReadResident(%d bytes, %d) = %d, %v; want %d, %v", c.n, c.off, n, err, c.want, c.err)
		}
	}
	// Without a Fetch a missing block is an error, not a hang.
	_, err = f.ReadAt(timeout(t), make([]byte, 10), 5*kb4)
	wantErr(t, err, ErrNotResident)
}

func TestUseAfterCacheClose(t *testing.T) {
	data := random(7, 5*kb4)
	c := open(t, options(t))
	ct := contentOf(data)
	cached(t, c, ct, data)
	f := mustOpen(t, c, ct, &remote{data: data})
	shut(t, c)
	_, err := f.ReadAt(timeout(t), make([]byte, 1), 0)
	wantErr(t, err, ErrClosed)
	wantErr(t, f.Fill(timeout(t)), ErrClosed)
	if _, ok := f.Passthrough(); ok {
		t.Error("passthrough of a closed cache")
	}
	_, err = c.Open(ct, nil)
	wantErr(t, err, ErrClosed)
	wantErr(t, c.Pin(ct.Key, time.Now().Add(time.Hour)), ErrClosed)
}
