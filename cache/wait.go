package cache

import "context"

// goal is what a waiter waits for.
type goal int

const (
	goalBlocks goal = iota // the first of some blocks
	goalProof              // the whole verified
	goalWhole              // the whole verified and resident
	goalLook               // some bytes of a block, which need not stay
	goalStay               // nothing, but that others get what they wait for
)

// want is what a waiter asks for; blocks [first, end) of which first is missing.
type want struct {
	goal       goal
	first, end int
	off        int64 // of a look, which is for n bytes
	n          int
}

// waiter is one blocked ReadAt or Fill. Guarded by entry.mu until done is closed.
type waiter struct {
	want
	f    *File
	done chan struct{}
	err  error
	mem  *memBlock // the block first, when it is not stored; or what a look found

	taken bool // a look that is under way
}

// await waits until what is wanted may be there (look again), the fill ends with an
// error, the caller's own context ends, or the File is closed.
func (f *File) await(ctx context.Context, w want) (*memBlock, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e := f.e
	e.mu.Lock()
	if e.satisfiedLocked(w) {
		e.mu.Unlock()
		return nil, nil
	}
	if f.isClosed() {
		e.mu.Unlock()
		return nil, ErrClosed
	}
	if f.fetch == nil {
		e.mu.Unlock()
		return nil, ErrNotResident
	}
	if fl := e.fill; w.goal == goalWhole && fl != nil && !fl.stopped && !fl.store && fl.whyNot != nil {
		err := fl.whyNot
		e.mu.Unlock()
		return nil, err
	}
	wt := &waiter{want: w, f: f, done: make(chan struct{})}
	e.waiters[wt] = struct{}{}
	f.wants = true
	if e.fill == nil {
		e.startFillLocked()
	} else if w.goal == goalLook {
		e.fill.serveLooksLocked()
	} else {
		e.fill.wanted = e.fill.wanted || e.wantedLocked()
		e.fill.cond.Broadcast()
	}
	e.mu.Unlock()
	select {
	case <-wt.done:
		return wt.mem, wt.err
	case <-ctx.Done():
		e.abandon(wt)
		return nil, ctx.Err()
	case <-f.closed:
		e.abandon(wt)
		return nil, ErrClosed
	}
}

// satisfiedLocked tells whether a want has come true between looking and waiting.
func (e *entry) satisfiedLocked(w want) bool {
	switch w.goal {
	case goalProof:
		return e.known.Full()
	case goalWhole, goalStay:
		return e.whole
	}
	return e.have.Has(w.first) || e.fill != nil && (e.fill.recentLocked(w.first) != nil || e.fill.memLocked(w.first) != nil)
}

// abandon takes a waiter away that stopped waiting. The last one to go cancels the fill,
// unless another File has read from it and not given up.
func (e *entry) abandon(w *waiter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.waiters, w)
	if e.fill != nil {
		e.fill.cond.Broadcast() // read-ahead may have waited for what it wanted: see firstLocked
	}
	for o := range e.waiters {
		if o.f == w.f {
			return
		}
	}
	w.f.wants = false
	if e.fill == nil || len(e.waiters) > 0 {
		return
	}
	for f := range e.files {
		if f.wants {
			return
		}
	}
	e.fill.stopLocked(errUnwanted)
}

// wakeLocked lets a waiter look again, or fail. e.mu is held.
func (e *entry) wakeLocked(w *waiter, err error) {
	if _, ok := e.waiters[w]; !ok {
		return
	}
	delete(e.waiters, w)
	w.err = err
	close(w.done)
}

// wakeReadersLocked lets those look again who wait for block b, which is m if it is not stored.
func (e *entry) wakeReadersLocked(b int, m *memBlock) {
	for w := range e.waiters {
		switch {
		case w.first != b:
		case w.goal == goalBlocks:
			w.mem = m
			e.wakeLocked(w, nil)
		case w.goal == goalLook:
			e.wakeLocked(w, nil)
		}
	}
}

func (e *entry) wakeAllLocked(err error) {
	for w := range e.waiters {
		e.wakeLocked(w, err)
	}
}

func (e *entry) failWaiters(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wakeAllLocked(err)
}

// fetchOfLocked is whom the fill asks for a Source: a File that waits, else one that is
// open.
func (e *entry) fetchOfLocked() (*File, error) {
	for w := range e.waiters {
		return w.f, nil
	}
	var any *File
	for f := range e.files {
		if f.fetch == nil {
			continue
		}
		if f.wants {
			return f, nil
		}
		any = f
	}
	if any == nil {
		return nil, errUnwanted
	}
	return any, nil
}
