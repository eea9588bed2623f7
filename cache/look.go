package cache

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// A look is a small read somewhere in a large content, by a reader that jumps about in it: the
// Source is asked for these bytes alone, and they are not stored. Who looks often enough gets
// the whole content fetched, as everybody does who reads on where he stopped.

// lookLimits say what is a look.
type lookLimits struct {
	from  int64         // contents below it are fetched whole
	most  int           // bytes of one
	near  int64         // a read that begins so near the end of the one before goes on from it
	price int64         // a look costs a round trip, in which so much could have come: those of a File that cost as much as the content are the last
	count int           // and there are never more
	cost  time.Duration // contents that it costs more to fetch again are fetched whole
	pause int           // read-ahead pauses after so many in a row
	idle  time.Duration // a fill without anything to do for so long ends
}

var defaultLooks = lookLimits{from: 16 << 20, most: 64 << 10, near: 128 << 10, price: 1 << 20, count: 4096, cost: 10 * time.Second, pause: 8, idle: time.Minute}

// looksAtOnce is how many looks into one content are under way at a time.
const looksAtOnce = 32

// looksInAll is how many are under way in all contents. They have tokens of their own: a server that
// gives none keeps nobody else from his blocks.
const looksInAll = 256

// glance is what a File was given by a look: a part of a block.
type glance struct {
	off, n  int    // in the block
	crc     uint32 // of these bytes
	against uint32 // checksum of the block that they were compared with last
	agreed  bool   // and had them in it
	judged  bool   // they were compared
}

// strays tells whether a read is small and away from where the one before ended. Who jumped before goes on only
// from exactly there: two places that are near one another may be so by chance.
func (f *File) strays(off int64, n int) bool {
	away := off - f.next.Swap(off+int64(n))
	near := f.e.c.look.near
	if f.jumped.Load() {
		near = 0
	}
	stray := n <= f.e.c.look.most && (away > near || away < -near)
	f.jumped.Store(stray)
	return stray
}

// mayLookLocked tells whether f may look into block b, of which nothing is here. What is proved
// about a block cannot be said of a part of it, so such a block is fetched whole.
func (f *File) mayLookLocked(b int) bool {
	e, l := f.e, &f.e.c.look
	done := 0
	if f.seen != nil {
		done = f.seen.looks
	}
	if e.fill != nil && b < e.fill.pos {
		return false // it has gone through the hash: nothing would compare the look with it
	}
	return f.cheap && e.lay.Size >= l.from && int64(done) < min(e.lay.Size/l.price, int64(l.count)) && !e.known.Has(b) && f.allowedLocked(b)
}

// mayLook is mayLookLocked for the block at an offset.
func (f *File) mayLook(off int64) bool {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	return f.mayLookLocked(f.e.lay.Of(off))
}

// look reads the part of p that lies in one block past the cache. False: the block is to be
// asked for.
func (f *File) look(ctx context.Context, p []byte, off int64) (n int, ok bool, err error) {
	e := f.e
	b := e.lay.Of(off)
	p = p[:min(int64(len(p)), e.lay.Off(b)+int64(e.lay.Len(b))-off)]
	if !f.mayLook(off) {
		return 0, false, nil
	}
	m, err := f.await(ctx, want{goal: goalLook, first: b, end: b + 1, off: off, n: len(p)})
	if m == nil || err != nil {
		return 0, false, err
	}
	defer m.back()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := f.judgeLocked(); err != nil {
		return 0, false, err
	}
	if e.satisfiedLocked(want{goal: goalBlocks, first: b}) || !f.mayLookLocked(b) {
		return 0, false, nil // the block has come, or more is known of it
	}
	f.glanceLocked(b, int(off-e.lay.Off(b)), m.data)
	return copy(p, m.data), true, nil
}

// glanceLocked enters what a look gives in the trail.
func (f *File) glanceLocked(b, off int, p []byte) {
	t := f.trailLocked()
	if t.glances == nil {
		t.glances = map[int][]glance{}
	}
	t.glances[b] = append(t.glances[b], glance{off: off, n: len(p), crc: blockSum(p)})
	t.looks++
	t.looked += int64(len(p))
}

// compareLocked compares blocks that came with what looks have given of them.
func (e *entry) compareLocked(blocks []*memBlock) {
	for f := range e.files {
		if f.seen == nil || f.seen.glances == nil {
			continue
		}
		for _, m := range blocks {
			gs := f.seen.glances[m.b]
			for i := range gs {
				g := &gs[i]
				g.against, g.judged = m.crc, true
				g.agreed = blockSum(m.data[g.off:g.off+g.n]) == g.crc
			}
		}
	}
}

// wrongGlanceLocked gives a block of which a look gave other bytes than the verified ones, or -1.
func (f *File) wrongGlanceLocked() int {
	for b, gs := range f.seen.glances {
		for _, g := range gs {
			if g.judged && !g.agreed && g.against == f.e.crc[b] {
				return b
			}
		}
	}
	return -1
}

// wantedLocked tells whether somebody waits for more than a look.
func (e *entry) wantedLocked() bool {
	for w := range e.waiters {
		if w.goal != goalLook && w.goal != goalStay {
			return true
		}
	}
	return false
}

// untilWanted waits until somebody wants more than a look: only then is room made in the cache.
func (fl *fill) untilWanted(ctx context.Context) bool {
	e := fl.e
	e.mu.Lock()
	defer e.mu.Unlock()
	for !fl.wanted {
		if ctx.Err() != nil {
			return false
		}
		fl.cond.Wait()
	}
	return ctx.Err() == nil
}

// pausedLocked tells whether readers jump about, so that read-ahead would bring what nobody asks for.
func (fl *fill) pausedLocked() bool {
	if fl.looks < fl.c.look.pause {
		return false
	}
	for w := range fl.e.waiters {
		if w.goal == goalWhole || w.goal == goalProof {
			return false
		}
	}
	return true
}

// lookAfter lets looks be served from one Source, each in a goroutine of the group, until the content is here
// or the Source is done with.
func (fl *fill) lookAfter(ctx context.Context, src Source, g *errgroup.Group) error {
	idle := time.AfterFunc(fl.c.look.idle, fl.endIdle)
	defer idle.Stop()
	e := fl.e
	e.mu.Lock()
	defer e.mu.Unlock()
	fl.serve = func(w *waiter) {
		g.Go(func() error {
			err := fl.lookFor(ctx, src, w)
			idle.Reset(fl.c.look.idle)
			return err
		})
	}
	defer func() { fl.serve = nil }()
	fl.serveLooksLocked()
	for !fl.done && ctx.Err() == nil {
		fl.cond.Wait()
	}
	if fl.done {
		return nil
	}
	return context.Cause(ctx)
}

// serveLooksLocked begins looks that wait, as far as there may be more of them. e.mu is held.
func (fl *fill) serveLooksLocked() {
	if fl.serve == nil {
		return
	}
	for w := range fl.e.waiters {
		if fl.looking >= looksAtOnce {
			return
		}
		if w.goal == goalLook && !w.taken {
			w.taken = true
			fl.looking++
			fl.serve(w)
		}
	}
}

// lookFor does one look; when it fails its reader stays for the next Source.
func (fl *fill) lookFor(ctx context.Context, src Source, w *waiter) (err error) {
	buf := lendBuf(w.n)
	defer buf.back()
	select {
	case fl.c.looks <- struct{}{}:
		var n int
		n, err = readFull(ctx, src, buf.data, w.off)
		<-fl.c.looks
		fl.c.fetched.Add(int64(n))
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	e := fl.e
	e.mu.Lock()
	defer e.mu.Unlock()
	fl.looking--
	w.taken = false
	if err != nil && fl.done {
		return nil // nobody needs it, and it says nothing of what was proved
	}
	if err != nil {
		return err
	}
	fl.gained++
	fl.looks++
	if _, waits := e.waiters[w]; waits {
		buf.hold()
		w.mem = &memBlock{b: w.first, data: buf.data, buf: buf}
		e.wakeLocked(w, nil)
	}
	fl.serveLooksLocked()
	return nil
}

// endIdle ends a fill that only waits for looks, and none come.
func (fl *fill) endIdle() {
	e := fl.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.waiters) == 0 && fl.looking == 0 && (!fl.prepared || fl.pausedLocked()) {
		fl.stopLocked(errUnwanted)
	}
}
