//go:build xrdcl && cgo

package xrootd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"tarn/backends"
)

// object is an open file. When the server is lost the file is opened again, which only goes on if it is still the same.
type object struct {
	s    *Storage
	path string
	was  info // at Open

	opening chan struct{} // holds one: who opens the file again

	mu     sync.Mutex // guards the rest; never held across I/O
	file   *counted   // nil: lost
	closed bool
}

// Open opens a file, unless it is offline: that would bring it from tape, without an end in sight.
func (s *Storage) Open(ctx context.Context, p string) (backends.Object, error) {
	o := &object{s: s, path: p, opening: make(chan struct{}, 1)}
	err := s.do(ctx, "open", p, func() (err error) {
		i, err := s.look(ctx, p)
		if err != nil {
			return err
		}
		switch {
		case i.flags&isDir != 0:
			return backends.ErrIsDir
		case i.flags&offline != 0:
			return backends.ErrOffline
		case i.flags&isOther != 0:
			return fmt.Errorf("it is no plain file: %w", backends.ErrNotSupported)
		}
		for try := range 3 {
			o.file, o.was, err = s.openFile(ctx, s.url(s.remote(p)), reading, s.o.Timeout)
			if nowhere(err) && try == 0 && s.refresh(ctx, s.remote(p)) == nil {
				continue
			}
			if err != nil {
				return err
			}
			// It may have been replaced meanwhile, or the server gives the file that somebody has open and that had the
			// name before. But caches and managers may have another id and time for a name than for what they open.
			if o.was.size == i.size && (o.was.same(i) || try > 0) {
				return nil
			}
			o.file.drop()
			if i, err = s.look(ctx, p); err != nil {
				return err
			}
		}
		return fmt.Errorf("the server opens another file than the one of this name: %w, %w", backends.ErrBusy, backends.ErrTemporary)
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}

// openFile opens a URL of the library.
func (s *Storage) openFile(ctx context.Context, url string, how int, d time.Duration) (*counted, info, error) {
	file := newFile()
	_, err := s.request(ctx, file, d, func(f done) { file.open(url, how, d, f) })
	var a answer
	if err == nil {
		a, err = s.request(ctx, file, d, func(f done) { file.stat(d, f) })
	}
	if err != nil {
		file.drop()
		return nil, info{}, err
	}
	return file, a.info, nil
}

func (o *object) Size() int64 { return o.was.size }

func (o *object) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, o.s.edge("read", o.path, fmt.Errorf("offset %d: %w", off, backends.ErrNotSupported))
	}
	if err := ctx.Err(); err != nil {
		return 0, o.s.edge("read", o.path, err)
	}
	if off >= o.was.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), o.was.size-off)]
	if len(want) == 0 {
		return 0, nil
	}
	end := time.Now().Add(o.s.o.Timeout)
	err := o.readOnce(ctx, want, off, end)
	if broken(err) && ctx.Err() == nil {
		// What was lost may be no more than a connection, or a server that is there again. One that stays away is for
		// those to wait for who know of other copies.
		err = o.readOnce(ctx, want, off, end)
	}
	if err != nil {
		return 0, o.s.edge("read", o.path, err)
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(want), nil
}

// readOnce reads by the open file, or opens it again. A file that is lost is let go.
func (o *object) readOnce(ctx context.Context, p []byte, off int64, end time.Time) error {
	file, err := o.take(ctx, end)
	if err != nil {
		return err
	}
	defer file.drop()
	err = o.s.read(ctx, file, p, off, end)
	if broken(err) {
		o.mu.Lock()
		lost := o.file == file
		if lost {
			o.file = nil
		}
		o.mu.Unlock()
		if lost {
			o.s.leave(file)
		}
	}
	return err
}

// take gives the open file, with a share for the caller to drop.
func (o *object) take(ctx context.Context, end time.Time) (*counted, error) {
	share := func() (*counted, error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.closed {
			return nil, backends.ErrClosed
		}
		if o.file != nil {
			o.file.take()
		}
		return o.file, nil
	}
	if file, err := share(); file != nil || err != nil {
		return file, err
	}
	select {
	case o.opening <- struct{}{}:
		defer func() { <-o.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-o.s.ctx.Done():
		return nil, backends.ErrClosed
	}
	if file, err := share(); file != nil || err != nil {
		return file, err
	}
	file, now, err := o.s.openFile(ctx, o.s.url(o.s.remote(o.path)), reading, max(time.Until(end), time.Second))
	switch {
	case errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrIsDir):
		// Not there, or not there yet: a server that comes up may be quicker than its disks.
		if away := o.s.present(ctx); away != nil {
			return nil, away
		}
		return nil, fmt.Errorf("the file: %w", backends.ErrStale)
	case err != nil:
		return nil, err
	}
	if !now.same(o.was) {
		o.s.leave(file)
		if now.size == o.was.size && now.mtime.Equal(o.was.mtime) { // it may be another copy of it
			return nil, fmt.Errorf("the server has another file of this size and time now: %w", backends.ErrUnavailable)
		}
		return nil, fmt.Errorf("the file: %w", backends.ErrStale)
	}
	o.mu.Lock()
	closed := o.closed
	if !closed {
		file.take()
		o.file = file
	}
	o.mu.Unlock()
	if closed {
		o.s.leave(file)
		return nil, backends.ErrClosed
	}
	return file, nil
}

// Close gives the file back to the server, after the reads that are still out, and waits for neither.
func (o *object) Close() error {
	o.mu.Lock()
	file := o.file
	o.file, o.closed = nil, true
	o.mu.Unlock()
	if file != nil {
		o.s.leave(file)
	}
	return nil
}

// part is one request of a read. Its buffer has two owners, the request and who waits; the last one frees it.
type part struct {
	b      *buffer
	owners atomic.Int32
	got    chan answer
}

func (p *part) leave() {
	if p.owners.Add(-1) == 0 {
		p.b.free()
	}
}

// read fills p, all of it, by requests side by side.
func (s *Storage) read(ctx context.Context, file *counted, p []byte, off int64, end time.Time) (err error) {
	d := max(time.Until(end), time.Second)
	var parts []*part
	defer func() {
		for _, w := range parts {
			w.leave()
		}
	}()
	for at := 0; at < len(p); at += maxBuffer {
		w := &part{b: newBuffer(min(maxBuffer, len(p)-at)), got: make(chan answer, 1)}
		w.owners.Store(2)
		err := s.start(ctx, file, func(f done) { file.read(off+int64(at), w.b, d, f) }, func(a answer) {
			w.got <- a
			w.leave()
		})
		parts = append(parts, w)
		if err != nil {
			w.leave() // for the request, which is not out
			return err
		}
	}
	for i, w := range parts {
		a, err := s.await(ctx, d, w.got)
		if err != nil {
			return err
		}
		if a.info.size != int64(w.b.n) {
			return fmt.Errorf("%d bytes came of %d at %d: the file: %w", a.info.size, w.b.n, off+int64(i)*maxBuffer, backends.ErrStale)
		}
		copy(p[i*maxBuffer:], w.b.bytes())
	}
	return nil
}
