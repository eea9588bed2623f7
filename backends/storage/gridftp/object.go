package gridftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"tarn/backends"
)

const (
	// maxParked is how many transfers of an object wait for the read that goes on where they are.
	maxParked = 4
	// parkedFor is how long they do; the server holds a process and a file for each.
	parkedFor = 10 * time.Second
	// streamFrom is how long a read from the start of a file is that looks as if others follow.
	streamFrom = 256 << 10
)

// object is an open file: its name and what it was at Open. FTP has no handles, so that every transfer asks afterwards whether
// the name still stands for the same content; what was opened once stays itself.
type object struct {
	s    *Storage
	path string
	f    facts

	mu     sync.Mutex       // guards the rest; never held across I/O
	parked []*parked        // oldest first
	under  map[int64]*under // reads under way that others may follow, by where they end
	ends   [8]int64         // where the last reads ended
	reads  int
	closed bool
}

// parked is a transfer that goes on to the end of the file, between two reads.
type parked struct {
	in    *incoming
	pos   int64
	timer *time.Timer
}

// under is a long read under way, or one that goes on to the end of the file.
type under struct {
	parks bool          // it leaves a transfer parked where it ends
	done  chan struct{} // closed when it has
}

// Open looks at the file; no transfer begins.
func (s *Storage) Open(ctx context.Context, path string) (backends.Object, error) {
	o := &object{s: s, path: path, under: map[int64]*under{}}
	err := s.do(ctx, "open", path, func(ss *session, _ bool) (err error) {
		if o.f, err = s.look(ctx, ss, path); err != nil {
			return absent(err)
		}
		switch {
		case o.f.isDir():
			return backends.ErrIsDir
		case o.f.kind != "file":
			return fmt.Errorf("the server calls it %q, which is no plain file: %w", printable(o.f.kind), backends.ErrNotSupported)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}

func (o *object) Size() int64 { return o.f.size }

func (o *object) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, o.s.opError("read", o.path, err)
	}
	if off < 0 {
		return 0, o.s.opError("read", o.path, fmt.Errorf("offset %d: %w", off, backends.ErrNotSupported))
	}
	if off >= o.f.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), o.f.size-off)]
	if len(want) == 0 {
		return 0, nil
	}
	row, err := o.join(off, len(want))
	if err != nil {
		return 0, o.s.opError("read", o.path, err)
	}
	defer row.leave()
	st, err := o.await(ctx, row, off)
	if err != nil {
		return 0, o.s.opError("read", o.path, err)
	}
	n := 0
	if st != nil {
		n, err = o.goOn(ctx, st, want)
	}
	if st == nil || broken(err) && ctx.Err() == nil {
		// A transfer that waited too long for this read says nothing about the server.
		var m int
		m, err = o.transfer(ctx, want[n:], off+int64(n), row.follows)
		n += m
	}
	if err != nil {
		return n, o.s.opError("read", o.path, err)
	}
	o.mu.Lock()
	o.ends[o.reads%len(o.ends)] = off + int64(n)
	o.reads++
	o.mu.Unlock()
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// takeLocked gives the parked transfer that stands at off, or nil.
func (o *object) takeLocked(off int64) *parked {
	for i, st := range o.parked {
		if st.pos == off {
			o.parked = slices.Delete(o.parked, i, i+1)
			st.timer.Stop()
			return st
		}
	}
	return nil
}

// row is the place of a read among those that follow one another.
type row struct {
	st      *parked // the transfer to go on with; nil: none yet
	before  *under  // is to be waited for, since it will leave one
	follows bool    // others will follow
	leave   func()
}

// join gives a read its place. It follows others if it goes on where one ended, or begins the file, or if it is long and
// goes on where another long one will end. That one is waited for: a transfer that goes on is faster than one for each
// read, which has to be asked for and begins slowly, however many of them go side by side.
func (o *object) join(off int64, n int) (row, error) {
	end := off + int64(n)
	long, blocks := n >= blocksFrom || end == o.f.size, o.s.byBlocks(n)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return row{}, backends.ErrClosed
	}
	r := row{st: o.takeLocked(off), leave: func() {}}
	u := o.under[off]
	r.follows = r.st != nil || off == 0 && n >= streamFrom || off > 0 && (slices.Contains(o.ends[:], off) || long && u != nil)
	if u != nil && u.parks && long && !blocks {
		r.before = u
	}
	if o.under[end] == nil && (r.follows || n >= blocksFrom) {
		me := &under{r.follows && !blocks, make(chan struct{})}
		o.under[end] = me
		r.leave = func() {
			o.mu.Lock()
			delete(o.under, end)
			o.mu.Unlock()
			close(me.done)
		}
	}
	return r, nil
}

// await gives the transfer to go on with, for which it waits if it must; nil: there is none.
func (o *object) await(ctx context.Context, r row, off int64) (*parked, error) {
	if r.st != nil || r.before == nil {
		return r.st, nil
	}
	select {
	case <-r.before.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, backends.ErrClosed
	}
	return o.takeLocked(off), nil
}

// byBlocks tells whether a read of n bytes goes over several connections.
func (s *Storage) byBlocks(n int) bool { return s.o.Active && s.o.Streams > 1 && n >= blocksFrom }

// transfer reads by a transfer of its own: of just these bytes, or, when more reads are expected to follow, to the end of the file.
func (o *object) transfer(ctx context.Context, p []byte, off int64, follows bool) (n int, err error) {
	s := o.s
	var rest *parked
	err = s.do(ctx, "read", o.path, func(ss *session, _ bool) error {
		remote := s.remote(o.path)
		if s.byBlocks(len(p)) {
			if n, err = s.retrieveBlocks(ctx, ss, remote, off, p); err != nil {
				return err
			}
			return o.check(ctx, ss)
		}
		length := int64(len(p))
		if follows {
			length = o.f.size - off
		}
		in, err := s.retrieve(ctx, ss, remote, off, length)
		if err != nil {
			return o.gone(err)
		}
		if length == int64(len(p)) {
			if n, err = in.read(ctx, p); err == nil {
				err = in.end(ctx, ss.has("ERET") || off+length == o.f.size)
			}
			if err != nil {
				in.data.Close()
				return err
			}
			return o.check(ctx, ss)
		}
		s.detach(ss)
		// The server has the file open: what the name stands for now is what comes. Asking needs another session.
		if err := s.do(ctx, "read", o.path, func(other *session, _ bool) error { return o.check(ctx, other) }); err != nil {
			in.data.Close()
			ss.bad = true
			return err
		}
		if n, err = in.read(ctx, p); err != nil {
			in.data.Close()
			return err
		}
		ss.detached = true
		rest = &parked{in: in, pos: off + int64(n)}
		return nil
	})
	if rest != nil { // not before: another read may take it at once
		o.park(rest)
	}
	return n, err
}

// check tells whether the name stands for what was opened.
func (o *object) check(ctx context.Context, ss *session) error {
	f, err := o.s.look(ctx, ss, o.path)
	if err != nil {
		return o.gone(err)
	}
	if !f.same(o.f) {
		return fmt.Errorf("the file: %w", backends.ErrStale)
	}
	return nil
}

// gone turns "not there" into what it is for an open file.
func (o *object) gone(err error) error {
	if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) || errors.Is(err, backends.ErrIsDir) {
		return fmt.Errorf("%v: %w", err, backends.ErrStale)
	}
	return err
}

// goOn reads from a parked transfer.
func (o *object) goOn(ctx context.Context, st *parked, p []byte) (int, error) {
	ss := st.in.ss
	stop := ss.watch(ctx)
	n, err := st.in.read(ctx, p)
	st.pos += int64(n)
	last := err == nil && st.pos == o.f.size
	if last {
		err = st.in.end(ctx, true)
	}
	stop()
	if err == nil && !last && !ss.bad {
		o.park(st)
		return n, nil
	}
	st.in.data.Close()
	ss.detached = false
	o.s.keep(ss)
	return n, err
}

// park keeps a transfer for the read that follows.
func (o *object) park(st *parked) {
	o.mu.Lock()
	var out *parked
	switch {
	case o.closed || st.in.ss.bad:
		out = st
	case len(o.parked) == maxParked:
		out = o.parked[0]
		o.parked = slices.Delete(o.parked, 0, 1)
	}
	if out != st {
		st.timer = time.AfterFunc(parkedFor, func() { o.expire(st) })
		o.parked = append(o.parked, st)
	}
	o.mu.Unlock()
	if out != nil {
		o.s.leave(out)
	}
}

func (o *object) expire(st *parked) {
	o.mu.Lock()
	i := slices.Index(o.parked, st)
	if i >= 0 {
		o.parked = slices.Delete(o.parked, i, i+1)
	}
	o.mu.Unlock()
	if i >= 0 {
		o.s.leave(st)
	}
}

// leave ends a parked transfer and keeps its session.
func (s *Storage) leave(st *parked) {
	if st.timer != nil {
		st.timer.Stop()
	}
	st.in.leave(context.Background())
	st.in.ss.detached = false
	s.keep(st.in.ss)
}

func (o *object) Close() error {
	o.mu.Lock()
	o.closed = true
	all := o.parked
	o.parked = nil
	o.mu.Unlock()
	for _, st := range all {
		o.s.leave(st)
	}
	return nil
}
