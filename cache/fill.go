package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/cache/ranges"
)

// fill is the one task that fetches a content. It runs from the first reader that misses
// something until the content is whole, nobody wants it any more, or Fetch gives up.
//
// It has two ways. Storing (store): space for all that is missing is reserved, blocks go
// to the data file, demanded ones first and then all others in order. Past the cache (not
// store): there is no room, or the cache's disk fails; only what is demanded is fetched,
// handed over in memory and forgotten.
type fill struct {
	e      *entry
	c      *Cache
	ctx    context.Context
	cancel context.CancelCauseFunc
	cond   *sync.Cond    // on entry.mu: there may be work for a stream or the prover
	pen    chan struct{} // token: who has it writes to the data file
	ended  chan struct{} // closed at the very end

	// Guarded by entry.mu:
	store   bool
	whyNot  error             // store is false because of this
	stopped bool              // cancelled or ending; a waiter that comes now gets a new fill
	done    bool              // the content is whole
	busy    ranges.Set        // blocks being fetched
	cursor  int               // read-ahead goes on here
	pos     int               // blocks before it went through the hash
	gained  int               // blocks that came from the present Source
	blend   bool              // unverified blocks of several Sources are mixed: none can be blamed
	fresh   int64             // bytes stored since the side file was written
	window  map[int]*memBlock // past the cache: what the hash needs next
	recent  recent
	pieced  []bool   // blocks of which pieces has Quick.Piece
	pieces  []uint32 // nil when the content is not compared by Quick

	wanted   bool          // somebody waited for more than a look
	prepared bool          // room was made, or not found
	serve    func(*waiter) // begins a look; nil while there is no Source
	looking  int           // looks under way
	looks    int           // done since a block was demanded

	asked *File // gave the present Source

	reserved int64 // guarded by Cache.mu: what is left of the reservation

	proof           // of the prover alone
	file  *dataFile // for writing; nil when not store. Set before the streams start
}

// startFillLocked starts the fill of an entry that has none. e.mu is held.
func (e *entry) startFillLocked() {
	c := e.c
	fl := &fill{e: e, c: c, pen: make(chan struct{}, 1), ended: make(chan struct{}), busy: ranges.NewSet(e.lay.Count()), window: map[int]*memBlock{}}
	fl.recent.blocks = map[int]*memBlock{}
	if q := c.o.Quick; q.Alg != "" && e.sums[q.Alg] != "" && e.lay.Count() > 1 {
		fl.pieces, fl.pieced = make([]uint32, e.lay.Count()), make([]bool, e.lay.Count())
	}
	fl.cond = sync.NewCond(&e.mu)
	fl.ctx, fl.cancel = context.WithCancelCause(c.ctx)
	c.mu.Lock()
	e.refs++
	c.mu.Unlock()
	e.fill, fl.wanted = fl, e.wantedLocked()
	if !c.spawn(fl.run) {
		e.fill = nil
		c.mu.Lock()
		e.refs-- // the cache is closing; nothing is evicted any more
		c.mu.Unlock()
		e.wakeAllLocked(ErrClosed)
	}
}

// stopLocked ends the fill soon. e.mu is held.
func (fl *fill) stopLocked(why error) {
	fl.stopped = true
	fl.cancel(why)
	fl.cond.Broadcast()
}

func (fl *fill) run() {
	e := fl.e
	fl.work()
	fl.cancel(nil)
	e.mu.Lock()
	e.fill = nil
	if fl.c.ctx.Err() != nil {
		e.wakeAllLocked(ErrClosed)
	} else if len(e.waiters) > 0 { // they came while it was ending
		e.startFillLocked()
	}
	e.mu.Unlock()
	e.closeFiles(true)
	fl.c.put(e)
	close(fl.ended)
}

// endingTime is how long an operation waits for a fill that was told to end: a Source may
// be slow to hear it.
const endingTime = 5 * time.Second

// awaitEnding waits for a fill that nobody wants any more, or that only tidies up.
func (e *entry) awaitEnding() {
	e.mu.Lock()
	fl := e.fill
	ending := fl != nil && fl.stopped
	e.mu.Unlock()
	if !ending {
		return
	}
	t := time.NewTimer(endingTime)
	defer t.Stop()
	select {
	case <-fl.ended:
	case <-t.C:
	}
}

func (fl *fill) work() {
	e := fl.e
	select {
	case e.owner <- struct{}{}:
	case <-fl.ctx.Done():
		return
	}
	defer func() { <-e.owner }()
	e.mu.Lock()
	whole, wanted := e.whole, fl.wanted
	fl.stopped = fl.stopped || whole
	for w := range e.waiters { // who owned it before may have brought what they wait for
		if e.satisfiedLocked(w.want) {
			e.wakeLocked(w, nil)
		}
	}
	e.mu.Unlock()
	if whole {
		return
	}
	if wanted {
		fl.prepare()
	}
	err := fl.fetchAll()
	e.mu.Lock()
	if fl.c.ctx.Err() != nil {
		err = ErrClosed
	}
	if !fl.stopped {
		e.wakeAllLocked(err)
		fl.stopped = true
	}
	e.mu.Unlock()
	fl.finish()
}

// prepare reserves space for what is missing and opens the data file, or decides to read
// past the cache. A fill that begins with looks does it when more is wanted.
func (fl *fill) prepare() {
	e, c := fl.e, fl.c
	e.mu.Lock()
	var need int64
	for first, end := range e.have.Gaps() {
		for b := first; b < end; b++ {
			need += pages(int64(e.lay.Len(b)))
		}
	}
	fl.prepared = true
	fl.blend = fl.blend || e.unverifiedLocked()
	need += pages(sideSize(e.key, e.lay, e.sums)) // at most this; what is not used is released
	e.mu.Unlock()
	err := c.reserve(need)
	if err == nil {
		c.mu.Lock()
		fl.reserved = need
		c.mu.Unlock()
		if fl.file, err = e.openForWrite(); err == nil {
			e.mu.Lock()
			fl.store = true
			e.mu.Unlock()
			return
		}
		c.diskFailed("create", err)
	} else {
		c.log.Info("no room in the cache; reading past it", "key", e.key, "size", e.lay.Size, "err", err)
	}
	fl.passBy(err)
}

// passBy goes on past the cache. Who waits for the content to be stored is told why not.
func (fl *fill) passBy(why error) {
	if !errors.Is(why, ErrNoSpace) && errors.Is(why, syscall.ENOSPC) {
		why = fmt.Errorf("%w: %w", ErrNoSpace, why)
	}
	e := fl.e
	fl.giveBack()
	e.mu.Lock()
	fl.store, fl.whyNot = false, why
	for w := range e.waiters {
		if w.goal == goalWhole {
			e.wakeLocked(w, why)
		}
	}
	fl.cond.Broadcast()
	e.mu.Unlock()
}

// giveBack releases what is left of the reservation.
func (fl *fill) giveBack() {
	fl.c.mu.Lock()
	n := fl.reserved
	fl.reserved = 0
	fl.c.mu.Unlock()
	fl.c.release(n)
}

// finish writes down what there is now.
func (fl *fill) finish() {
	e := fl.e
	if fl.file != nil {
		if err := fl.file.Close(); err != nil {
			fl.c.diskFailed("close", err)
		}
	}
	e.mu.Lock()
	fl.store = false // from here on a dropped block gives its space back
	e.mu.Unlock()
	fl.giveBack()
	e.settle()
	e.mu.Lock()
	if fl.fresh > 0 || e.whole {
		e.dirty = true
	}
	e.mu.Unlock()
	e.tidy()
	e.mu.Lock()
	fl.forgetMemLocked(true)
	e.mu.Unlock()
}

// openForWrite opens the data file, making it, with the size of the content.
func (e *entry) openForWrite() (*dataFile, error) {
	if err := e.c.makeFolder(e.stem); err != nil {
		return nil, err
	}
	d, err := openData(e.c.path(e.stem, dataSuffix), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	err = e.change(d, 0, 0, func() error {
		st, err := d.stamp()
		if err == nil && st.Size != e.lay.Size {
			err = d.Truncate(e.lay.Size)
		}
		return err
	})
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// fetchAll goes from Source to Source until the content is whole.
func (fl *fill) fetchAll() error {
	var bad error
	idle, rotten := 0, 0
	for {
		src, err := fl.open(bad)
		if err != nil {
			return err
		}
		for again := true; again; {
			err = fl.drain(src)
			again = err != nil && errors.Is(err, errBlend)
			if errors.Is(err, ErrCorrupt) {
				if !again {
					rotten++
				}
				fl.c.corrupt.Add(1)
				fl.c.log.Warn("fetched content is corrupt", "key", fl.e.key, "again from the same source", again, "err", err)
				// When a second fetch disagrees with block checksums held for proved, it is
				// their turn to be doubted.
				fl.reset(rotten > 1)
				if b, ok := src.(Blamed); ok && !again {
					b.Blame(err)
				}
			}
		}
		closeErr := src.Close()
		if err == nil || fl.ctx.Err() != nil {
			if closeErr != nil && fl.ctx.Err() == nil {
				fl.c.log.Debug("close source", "key", fl.e.key, "err", closeErr)
			}
			if err != nil {
				err = context.Cause(fl.ctx)
			}
			return err
		}
		if idle++; fl.progress() && !errors.Is(err, ErrCorrupt) {
			idle = 1
		}
		if idle >= maxSources || rotten >= maxSources {
			return fmt.Errorf("giving up after %d sources: %w", max(idle, rotten), err)
		}
		bad = err
	}
}

// open asks a File for a Source.
func (fl *fill) open(bad error) (Source, error) {
	fl.e.mu.Lock()
	f, err := fl.e.fetchOfLocked()
	if _, open := fl.e.files[fl.asked]; err == nil && open && bad != nil {
		f = fl.asked // it gave the Source that was bad, and knows what that was
	}
	fl.asked = f
	fl.e.mu.Unlock()
	if err != nil {
		return nil, err
	}
	src, err := f.fetch(fl.ctx, bad)
	if err == nil && src == nil {
		err = errors.New("fetch gave no source")
	}
	if err == nil && fl.ctx.Err() != nil {
		src.Close()
		err = context.Cause(fl.ctx)
	}
	return src, err
}

// progress tells whether the last Source gave anything, and begins to count anew.
func (fl *fill) progress() bool {
	fl.e.mu.Lock()
	defer fl.e.mu.Unlock()
	got := fl.gained > 0
	fl.gained = 0
	fl.blend = fl.blend || fl.pos > 0 || fl.e.unverifiedLocked()
	return got
}

// reset drops everything unverified, and everything at all if doubt.
func (fl *fill) reset(doubt bool) {
	e := fl.e
	fl.proof = proof{}
	e.mu.Lock()
	defer e.mu.Unlock()
	if doubt {
		e.known.Clear()
	}
	for b := e.have.NextSet(0); b < e.lay.Count(); b = e.have.NextSet(b + 1) {
		if !e.known.Has(b) {
			e.dropBlockLocked(b)
		}
	}
	fl.forgetMemLocked(true)
	fl.pos, fl.gained, fl.blend = 0, 0, false
}

// unverifiedLocked tells whether blocks are resident that no checksum proves yet.
func (e *entry) unverifiedLocked() bool {
	for b := e.have.NextSet(0); b < e.lay.Count(); b = e.have.NextSet(b + 1) {
		if !e.known.Has(b) {
			return true
		}
	}
	return false
}

// drain takes what is missing from one Source. nil: the content is whole.
func (fl *fill) drain(src Source) error {
	g, ctx := errgroup.WithContext(fl.ctx)
	stop := context.AfterFunc(ctx, func() {
		fl.e.mu.Lock()
		fl.cond.Broadcast()
		fl.e.mu.Unlock()
	})
	defer stop()
	g.Go(func() error { return fl.lookAfter(ctx, src, g) })
	g.Go(func() error {
		if !fl.untilWanted(ctx) {
			return context.Cause(ctx)
		}
		fl.e.mu.Lock()
		prepared := fl.prepared
		fl.e.mu.Unlock()
		if !prepared {
			fl.prepare()
		}
		for i := range fl.c.o.Streams {
			s := &stream{fill: fl, src: src, ctx: ctx, demandOnly: i == 0}
			g.Go(s.run)
		}
		return fl.prove(ctx)
	})
	return g.Wait()
}
