package lake

import (
	"context"
	"io"
	"time"

	"tarn/backends"
)

const (
	// leastHedge is what a read may take before another replica races it, however fast the RSE is as a rule.
	leastHedge = time.Second
	// mostHedges bounds how often the wait doubles.
	mostHedges = 6
)

// rival is a second read of the same bytes, at another replica.
type rival struct {
	h    *opened // nil: none could be opened
	buf  []byte
	won  bool
	done chan struct{}
}

// hedgeAfter tells after what time a read of n bytes in h is raced; 0: never. Each race that the first replica has won
// doubles it.
func (o *Object) hedgeAfter(h *opened, n int) time.Duration {
	k := o.l.o.Hedge
	if k <= 0 {
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

// rivalLocked is which of next may race the present replica, -1 for none: a good one, and not on tape.
func (o *Object) rivalLocked() int {
	for i, s := range o.next {
		if s.good() && !s.tape() {
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
			if o.run(other, r, len(p), off); r.won {
				cancel()
			}
		})
	}
	measure, began := o.l.meter.begin(h.RSE, len(p)), time.Now()
	err = attemptWithin(own, o.timeout(), func(ctx context.Context) (err error) {
		n, err = h.ReadAt(ctx, p, off)
		return err
	})
	good := n == len(p) && (err == nil || err == io.EOF)
	took := time.Since(began)
	if t == nil || t.Stop() {
		measure(took, good)
		return n, h, err
	}
	if good {
		end()
	}
	<-r.done
	switch {
	case good:
		measure(took, true)
		o.vain(r)
		return n, h, err
	case r.won:
		measure(took, true) // it is at least as slow as that
		copy(p, r.buf)
		o.change(h, r.h)
		return len(p), r.h, nil
	}
	measure(0, false)
	o.vain(r)
	return n, h, err
}

// run reads at another replica. One race an Object has at a time; others who wait hear of its end.
func (o *Object) run(ctx context.Context, r *rival, n int, off int64) {
	o.mu.Lock()
	i := o.rivalLocked()
	if o.racing || o.closed || i < 0 {
		o.mu.Unlock()
		return
	}
	s := o.next[i]
	o.racing = true
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		o.racing = false
		o.mu.Unlock()
	}()
	h, err := o.l.openSource(ctx, o.in, s)
	if err != nil {
		return // it is tried again when its turn comes
	}
	r.h, r.buf = newOpened(s, h), make([]byte, n)
	measure, began := o.l.meter.begin(s.RSE, n), time.Now()
	got := 0
	err = o.l.attempt(ctx, func(ctx context.Context) (err error) {
		got, err = h.ReadAt(ctx, r.buf, off)
		return err
	})
	r.won = got == n && (err == nil || err == io.EOF)
	measure(time.Since(began), r.won)
}

// vain ends a race that did not help.
func (o *Object) vain(r *rival) {
	if r.h == nil {
		return
	}
	o.mu.Lock()
	o.inVain++
	o.mu.Unlock()
	o.close(r.h)
}

// change puts the winner in the place of the one that was too slow, which is tried again after all others.
func (o *Object) change(slow, fast *opened) {
	o.mu.Lock()
	if o.cur != slow || o.closed { // it has failed meanwhile, and the next is open
		fast.gone = true
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
