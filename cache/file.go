package cache

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Content names a content and says what is known of it before a byte is here.
type Content struct {
	Key  Key
	Size int64
	Sums map[string]string // by algorithm, in hex; without any, only the size is checked
	Cost time.Duration     // what fetching it again costs: eviction weighs it
}

// Source is an open remote content. ReadAt may run in parallel, reads short only at the
// end, with io.EOF, or with an error, and returns soon after its context has ended: a
// fill that was cancelled waits for it.
type Source interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	Close() error
}

// Blamed is a Source that is told when all that it gave is proved not to be the content's, before it is closed and
// also when no reader is left by then.
type Blamed interface {
	Source
	Blame(why error)
}

// Fetch opens a Source for the whole content. It is called on the cache's own context,
// cancelled when nobody wants the content any more, at most one at a time per content,
// and may wait for hours (tape). bad is non-nil when the previous Source failed, or gave
// bytes that are not the content's (ErrCorrupt; what came from it is dropped by then, and
// is best dropped from the kernel's page cache too): give another, or the error that
// readers shall get.
type Fetch func(ctx context.Context, bad error) (Source, error)

// File is an open content, and a pin of it. Its methods may be called in parallel.
type File struct {
	e      *entry
	fetch  Fetch
	once   sync.Once
	closed chan struct{}
	cheap  bool         // fetching it again costs little: see look
	next   atomic.Int64 // where the read that came last ended
	jumped atomic.Bool  // and it was a stray one

	// Guarded by entry.mu:
	wants  bool   // it has waited for a fill, and not given up since
	seen   *trail // what it was given unverified
	poison error  // it was given bytes that turned out to be wrong
}

// Open opens a content. No remote I/O happens, and no local one.
func (c *Cache) Open(ct Content, fetch Fetch) (*File, error) {
	e, err := c.get(ct)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	f := &File{e: e, fetch: fetch, closed: make(chan struct{}), cheap: ct.Cost <= c.look.cost}
	e.mu.Lock()
	e.files[f] = struct{}{}
	e.mu.Unlock()
	c.mu.Lock()
	e.open++
	c.mu.Unlock()
	return f, nil
}

// Close ends the pin. Reads that still wait get ErrClosed; when no other File of the
// content is open its fetch is cancelled. What has arrived stays. Idempotent.
func (f *File) Close() error {
	f.once.Do(func() {
		e := f.e
		close(f.closed)
		e.mu.Lock()
		delete(e.files, f)
		f.wants, f.seen = false, nil
		last := len(e.files) == 0
		if last && e.fill != nil {
			e.fill.stopLocked(errUnwanted)
		}
		dirty := last && e.fill == nil && (e.dirty || e.litter)
		e.mu.Unlock()
		if last {
			e.closeFiles(true)
		}
		if dirty && e.c.ctx.Err() == nil {
			select {
			case e.owner <- struct{}{}:
				e.tidy()
				<-e.owner
			default: // who has it tidies up
			}
		}
		e.c.mu.Lock()
		e.open--
		e.c.mu.Unlock()
		e.c.put(e)
	})
	return nil
}

// Whole tells whether the content is all there and verified.
func (f *File) Whole() bool {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	return f.e.whole
}

// passthroughCheck is how many bytes Passthrough checks at most: an open must not wait
// until a large file is read.
const passthroughCheck = 64 << 20

// Passthrough gives the content's own file, for reading only, if the content is whole and
// its file unchanged since it was verified; a changed one is verified again first. Of a
// large one that is done in parts: each call checks at most 64 MiB, and ReadAt, which
// checks what it reads, serves meanwhile. The file is valid until Close, which closes it.
func (f *File) Passthrough() (*os.File, bool) {
	if f.isClosed() {
		return nil, false
	}
	d, done, ok := f.e.trusted(context.Background(), passthroughCheck)
	if !ok {
		return nil, false
	}
	f.e.mu.Lock()
	kept := f.e.fd == d
	f.e.mu.Unlock()
	done()
	if !kept { // beyond the budget of descriptors
		return nil, false
	}
	f.e.c.hits.Add(1)
	return d.File, true
}

// Fill makes the content whole and waits for it; it counts as a waiting reader.
// ErrNoSpace when it does not fit.
func (f *File) Fill(ctx context.Context) error {
	for {
		if f.isClosed() {
			return fmt.Errorf("fill: %w", ErrClosed)
		}
		if f.Whole() {
			// Checked once more where that takes moments, so that it can be passed through.
			if _, done, ok := f.e.trusted(ctx, settleMax); ok {
				done()
				return nil
			}
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("fill: %w", err)
			}
			if f.Whole() {
				return nil
			}
		}
		if _, err := f.await(ctx, want{goal: goalWhole}); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
}

// Stay keeps a fetch going that readers wait for, also when they leave, until ctx ends or the fetch does. It asks for
// no bytes itself.
func (f *File) Stay(ctx context.Context) {
	_, _ = f.await(ctx, want{goal: goalStay}) // its error is that of the readers too
}

// ReadAt reads like io.ReaderAt and waits only for the blocks it needs. Blocks that are
// to be withheld until the whole is verified are waited for too. The errors are those of
// Fetch, of ctx, ErrCorrupt when bytes that this File was given before turned out wrong,
// and ErrClosed.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return f.readAt(ctx, p, off, f.strays(off, len(p)))
}

func (f *File) readAt(ctx context.Context, p []byte, off int64, stray bool) (int, error) {
	p, eof, err := f.clip(p, off)
	if err != nil {
		return 0, err
	}
	n, missed := 0, false
	for n < len(p) {
		m, waited, err := f.readRun(ctx, p[n:], off+int64(n), stray)
		n += m
		missed = missed || waited
		if err != nil {
			return n, fmt.Errorf("read: %w", err)
		}
	}
	if missed {
		f.e.c.misses.Add(1)
	} else {
		f.e.c.hits.Add(1)
	}
	return n, eof
}

// ReadShared is ReadAt that copies only where it must: data is of p, or of memory of the cache,
// which is not to be changed, and not to be used after done.
func (f *File) ReadShared(ctx context.Context, p []byte, off int64) (data []byte, done func(), err error) {
	stray := f.strays(off, len(p))
	data, done, err = f.share(ctx, true, stray, len(p), off)
	if data == nil && err == nil {
		var n int
		n, err = f.readAt(ctx, p, off, stray)
		data, done = p[:n], func() {}
	}
	return data, done, err
}

// Share is ReadShared for n bytes that are in memory; it never waits. False: they are not.
func (f *File) Share(n int, off int64) (data []byte, done func(), ok bool) {
	data, done, err := f.share(context.Background(), false, false, n, off)
	if ok = data != nil && err == nil; ok {
		f.next.Store(off + int64(n))
	}
	return data, done, ok
}

// share gives a range of one block that is in memory, or nil. It waits for it if wait, unless a
// stray read may do with a look.
func (f *File) share(ctx context.Context, wait, stray bool, n int, off int64) (data []byte, done func(), err error) {
	lay := f.e.lay
	if n <= 0 || off < 0 || off > lay.Size-int64(n) || lay.Of(off) != lay.Of(off+int64(n)-1) || f.isClosed() {
		return nil, nil, nil
	}
	count := &f.e.c.hits
	v := f.viewAs(off, n, true)
	if wait && !v.there && !v.proof && v.err == nil && !(stray && f.mayLook(off)) {
		count = &f.e.c.misses
		m, err := f.await(ctx, want{goal: goalBlocks, first: v.first, end: v.wantEnd})
		if err != nil {
			return nil, nil, fmt.Errorf("read: %w", err)
		}
		ok := false
		if m != nil {
			v, ok = f.accept(m)
		}
		if !ok {
			v = f.viewAs(off, n, true)
		}
	}
	if v.mem == nil || v.err != nil {
		return nil, nil, nil
	}
	at := off - lay.Off(v.first)
	count.Add(1)
	return v.mem.data[at : at+int64(n)], v.mem.back, nil
}

// ReadResident reads what is here of the range and never fetches: the resident beginning
// of it, or ErrNotResident if not even its first byte can be given.
func (f *File) ReadResident(p []byte, off int64) (int, error) {
	p, eof, err := f.clip(p, off)
	if err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) {
		v := f.view(off+int64(n), len(p)-n)
		if v.err != nil {
			return n, fmt.Errorf("read: %w", v.err)
		}
		m := 0
		if v.there {
			if m, err = f.readView(v, p[n:], off+int64(n)); err != nil {
				return n, fmt.Errorf("read: %w", err)
			}
		}
		n += m
		if m == 0 {
			if n == 0 {
				return 0, fmt.Errorf("read: %w", ErrNotResident)
			}
			return n, nil
		}
	}
	f.next.Store(off + int64(n))
	return n, eof
}

// clip cuts p to the content; the second result is what to return when all of it is read.
func (f *File) clip(p []byte, off int64) ([]byte, error, error) {
	if f.isClosed() {
		return nil, nil, fmt.Errorf("read: %w", ErrClosed)
	}
	if off < 0 {
		return nil, nil, fmt.Errorf("read: negative offset %d", off)
	}
	if size := f.e.lay.Size; off >= size && len(p) > 0 {
		return nil, nil, io.EOF
	} else if int64(len(p)) > size-off {
		return p[:max(0, size-off)], io.EOF, nil
	}
	return p, nil, nil
}

func (f *File) isClosed() bool {
	select {
	case <-f.closed:
		return true
	case <-f.e.c.ctx.Done():
		return true
	default:
		return false
	}
}
