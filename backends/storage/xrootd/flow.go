//go:build xrdcl && cgo

package xrootd

import (
	"cmp"
	"context"
	"sync"
	"time"

	"tarn/backends"
)

// flow is writes to one open file from an offset on: some are out side by side, and the next one is being filled. It is used from one
// goroutine.
type flow struct {
	s    *Storage
	file *counted
	most int     // bytes of a write
	fill *buffer // n bytes of it are used
	sent int64   // offset of the first byte of fill

	room chan *buffer // a token for each write that is not out, with its buffer or nil
	left int          // tokens that await did not take yet

	mu     sync.Mutex     // guards the rest
	out    map[int64]bool // offsets of the writes that the server did not say it has
	failed answer         // the first that says so
	broke  error          // the first write that could not even be sent
	dead   bool           // nobody takes tokens any more
}

// flow begins one over the upload's file.
func (u *upload) flow(off int64) *flow {
	w := &flow{s: u.s, file: u.file, most: writeSize, sent: off, room: make(chan *buffer, window), left: window, out: map[int64]bool{}}
	if u.size >= 0 {
		w.most = int(min(u.size, writeSize))
	}
	for range window {
		w.room <- nil
	}
	return w
}

// write copies p to where the library takes it from.
func (w *flow) write(ctx context.Context, p []byte) (n int, err error) {
	for n < len(p) {
		if w.fill == nil {
			if err := w.next(ctx); err != nil {
				return n, err
			}
		}
		used := w.fill.n
		w.fill.n = min(used+len(p)-n, w.fill.size)
		n += copy(w.fill.bytes()[used:], p[n:])
		if w.fill.n == w.fill.size {
			if err := w.send(ctx); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// next waits for a buffer to fill.
func (w *flow) next(ctx context.Context) error {
	b, err := w.wait(ctx)
	if err != nil {
		return err
	}
	if err := w.failure(); err != nil {
		w.room <- b // await counts on it
		return err
	}
	if b == nil {
		b = newBuffer(w.most)
	}
	b.n, w.fill = 0, b
	return nil
}

// wait is for one of the writes that are out, or for none when there is room; how it went is in failure.
func (w *flow) wait(ctx context.Context) (*buffer, error) {
	t := time.NewTimer(w.s.o.Timeout)
	defer t.Stop()
	select {
	case b := <-w.room:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-w.s.ctx.Done():
		return nil, backends.ErrClosed
	case <-t.C:
		return nil, silent(w.s.o.Timeout)
	}
}

func (w *flow) failure() error {
	w.mu.Lock()
	a, err := w.failed, w.broke
	w.mu.Unlock()
	if err != nil {
		return err
	}
	return w.s.failed(a)
}

// send lets the buffer that was filled go.
func (w *flow) send(ctx context.Context) error {
	b, off := w.fill, w.sent
	w.fill, w.sent = nil, off+int64(b.n)
	w.mu.Lock()
	w.out[off] = true
	w.mu.Unlock()
	err := w.s.start(ctx, w.file, func(f done) { w.file.write(off, b, w.s.o.Timeout, f) }, func(a answer) { w.back(off, b, a, nil) })
	if err != nil {
		w.back(off, b, answer{}, err)
	}
	return err
}

// back is what becomes of a buffer when its write is over.
func (w *flow) back(off int64, b *buffer, a answer, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.code == 0 && err == nil {
		delete(w.out, off)
	}
	if w.failed.code == 0 {
		w.failed = a
	}
	w.broke = cmp.Or(w.broke, err)
	if w.dead {
		b.free()
	} else {
		w.room <- b // has room for all
	}
}

// settle sends what is left, and waits until the server has all.
func (w *flow) settle(ctx context.Context) error {
	if w.fill != nil {
		if err := w.send(ctx); err != nil {
			return err
		}
	}
	return w.await(ctx)
}

// await waits until no write is out, and frees the buffers.
func (w *flow) await(ctx context.Context) error {
	for ; w.left > 0 && !w.ended(); w.left-- {
		if w.fill != nil && w.left == 1 {
			break // its token is with it
		}
		b, err := w.wait(ctx)
		if err != nil {
			return err
		}
		if b != nil {
			b.free()
		}
	}
	return w.failure()
}

func (w *flow) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

// had is up to where the server has said that it has everything.
func (w *flow) had() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	off := w.sent
	for o := range w.out {
		off = min(off, o)
	}
	return off
}

// end leaves the buffers of writes that are still out to these.
func (w *flow) end() {
	if w.fill != nil {
		w.fill.free()
		w.fill = nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = true
	for {
		select {
		case b := <-w.room:
			if b != nil {
				b.free()
			}
		default:
			return
		}
	}
}
