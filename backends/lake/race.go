package lake

import (
	"context"
	"io"
	"slices"
	"time"

	"tarn/backends"
)

const (
	// leastHedge is what a read may take before another replica races it, however fast the RSE is as a rule.
	leastHedge = time.Second
	// mostHedges bounds how often the wait doubles.
	mostHedges = 6
	// mostRaces is how many rivals a Lake has at a time, those included that still end.
	mostRaces = 8
	// raceEnding is how long Close waits for them.
	raceEnding = 5 * time.Second
)

// rival is a second read of the same bytes, at another replica. Object.mu guards it until done.
type rival struct {
	ran  bool    // there was one
	rse  string  // where
	left bool    // its bytes are of no use any more
	won  bool    // it has them all, and h is the reader's to close
	h    *opened // if it won
	buf  []byte
	done chan struct{}
}

// hedgeAfter tells after what time a read of n bytes in h is raced; 0: never. Each race that the first replica has won
// doubles it.
func (o *Object) hedgeAfter(h *opened, n int) time.Duration {
	k := o.l.o.Hedge
	if k <= 0 || o.without != "" { // nobody waits for the bytes of a copy
		return 0
	}
	after := o.l.o.ReadTimeout / 3 // nothing is known of the RSE
	if usual := o.l.meter.speed(h.RSE).expect(n); usual > 0 {
		after = max(time.Duration(k*float64(usual)), leastHedge)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.rivalLocked() < 0 {
		return 0
	}
	return after << min(o.inVain, mostHedges)
}

// rivalLocked is which of next may race the present replica, -1 for none: a good one, not on tape, and not in a folder:
// a read there hears of no end.
func (o *Object) rivalLocked() int {
	for i, s := range o.next {
		if s.good() && !s.tape() && !s.rse.Storage.Traits().Local {
			return i
		}
	}
	return -1
}

// read reads all of p from h or, when that takes much longer than it should, from another replica, which then takes
// the place of h. by is who gave the bytes.
func (o *Object) read(ctx context.Context, h *opened, p []byte, off int64) (n int, by *opened, err error) {
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)() // h has lost a race of another reader
	var t *time.Timer
	r := &rival{done: make(chan struct{})}
	other, end := context.WithCancel(ctx)
	defer end()
	if after := o.hedgeAfter(h, len(p)); after > 0 {
		t = time.AfterFunc(after, func() {
			defer close(r.done)
			if o.run(other, r, len(p), off) {
				cancel()
			}
		})
	}
	measure, began := o.l.meter.begin(h.RSE, len(p)), time.Now()
	err = attemptWithin(own, o.timeout(h), func(ctx context.Context) (err error) {
		n, err = h.ReadAt(ctx, p, off)
		return err
	})
	good := n == len(p) && (err == nil || err == io.EOF)
	took := time.Since(began)
	if t == nil || t.Stop() {
		measure(took, good)
		return n, h, err
	}
	if !good && o.await(ctx, r) {
		measure(took, true) // it is at least as slow as that
		copy(p, r.buf)
		o.change(h, r.h)
		return len(p), r.h, nil
	}
	measure(took, good)
	o.leave(r, good) // without waiting for it: not every storage ends when its context does
	return n, h, err
}

// await tells whether r wins; after a failure it is not waited for any longer than a read should take.
func (o *Object) await(ctx context.Context, r *rival) bool {
	t := time.NewTimer(leastHedge)
	defer t.Stop()
	select {
	case <-r.done:
		return r.won
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// run reads at another replica, and tells whether it won. One race an Object has at a time; others who wait hear of its
// end.
func (o *Object) run(ctx context.Context, r *rival, n int, off int64) bool {
	o.mu.Lock()
	i := o.rivalLocked()
	if o.racing || o.closed || r.left || i < 0 || !o.l.beginRace() {
		o.mu.Unlock()
		return false
	}
	defer o.l.endRace()
	s := o.next[i]
	o.racing, r.ran, r.rse = true, true, s.RSE
	o.mu.Unlock()
	buf := make([]byte, n)
	h, ok := o.runAt(ctx, s, buf, off)
	o.mu.Lock()
	o.racing = false
	if !ok && !r.left {
		o.lastLocked(s.RSE)
	}
	won := ok && !r.left
	if won {
		r.won, r.h, r.buf = true, h, buf
	}
	o.mu.Unlock()
	if h != nil && !won {
		o.close(h)
	}
	return won
}

// runAt opens s and reads all of p there; h is nil when it could not be opened, which is tried again when its turn
// comes.
func (o *Object) runAt(ctx context.Context, s source, p []byte, off int64) (h *opened, ok bool) {
	b, err := o.l.openSource(ctx, o.in, s)
	if err != nil {
		return nil, false
	}
	h = newOpened(s, b)
	measure, began := o.l.meter.begin(s.RSE, len(p)), time.Now()
	got := 0
	err = o.l.attempt(ctx, func(ctx context.Context) (err error) {
		got, err = h.ReadAt(ctx, p, off)
		return err
	})
	ok = got == len(p) && (err == nil || err == io.EOF)
	measure(time.Since(began), ok)
	return h, ok
}

// lastLocked lets a replica be tried after the others.
func (o *Object) lastLocked(rse string) {
	i := slices.IndexFunc(o.next, func(s source) bool { return s.RSE == rse })
	if i < 0 {
		return
	}
	s := o.next[i]
	o.next = append(slices.Delete(slices.Clone(o.next), i, i+1), s)
}

// leave ends a race that did not help; if the rival still reads, it closes what it opened when it ends. Without the
// reader having its bytes it is tried after the others.
func (o *Object) leave(r *rival, good bool) {
	o.mu.Lock()
	r.left = true
	if r.ran {
		o.inVain++
		if !good {
			o.lastLocked(r.rse)
		}
	}
	won := r.won
	o.mu.Unlock()
	if won {
		o.close(r.h)
	}
}

// beginRace tells whether there may be one more rival, which calls endRace when it has closed all.
func (l *Lake) beginRace() bool {
	select {
	case l.races <- struct{}{}:
		return true
	default:
		return false
	}
}

func (l *Lake) endRace() { <-l.races }

// awaitRaces keeps new races from beginning and waits for those under way, but not long for one that hangs.
func (l *Lake) awaitRaces() {
	t := time.NewTimer(raceEnding)
	defer t.Stop()
	for range cap(l.races) {
		select {
		case l.races <- struct{}{}:
		case <-t.C:
			l.log.Warn("a read of a slow storage does not end")
			return
		}
	}
}

// change puts the winner in the place of the one that was too slow, which is tried again after all others.
func (o *Object) change(slow, fast *opened) {
	o.mu.Lock()
	if o.cur != slow || o.closed { // it has failed meanwhile, and the next is open
		o.mu.Unlock()
		o.close(fast)
		return
	}
	o.leaveLocked() // its reader has yet to release it
	o.cur = fast
	rest := make([]source, 0, len(o.next)+1)
	for _, s := range o.next {
		if s.RSE != fast.RSE {
			rest = append(rest, s)
		}
	}
	o.next = append(rest, slow.source)
	o.mu.Unlock()
	slow.lost()
	o.l.log.Info("a slow replica is left", "did", o.in.DID, "rse", slow.RSE, "for", fast.RSE)
}

// newOpened is a replica that is open; lost ends the reads that are under way in it.
func newOpened(s source, h backends.Object) *opened {
	o := &opened{source: s, Object: h}
	o.ctx, o.lost = context.WithCancel(context.Background())
	return o
}
