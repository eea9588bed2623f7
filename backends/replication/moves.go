package replication

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

// key is one copy: a file to an RSE. Without an RSE it stands for the choice of one.
type key struct {
	did backends.DID
	rse string
}

// move is a copy that is wanted. Guarded by Engine.mu, but for done.
type move struct {
	key
	in     backends.Info
	to     *lake.RSE
	from   lake.From // what it may be made of
	source string    // what it was to be made of when it was chosen; "": nothing is there
	class  class
	urgent bool // was kicked or is a retry: before what a sweep found
	state  TransferState
	since  time.Time
	ticket *lake.Ticket // the recall of its source, asked for ahead so that many become one request
	done   atomic.Int64

	told   int64              // of done, what the tuner was told of
	cancel context.CancelFunc // while it is RUNNING
	given  bool               // it was cancelled
}

// trouble is a copy that failed.
type trouble struct {
	attempts int
	err      error
	next     time.Time
	asked    bool // the retry was given to the kick loop
}

// failed notes a failure and when to try again; it gives the number of failures so far.
// One that is noted before its retry is due counts once.
func (e *Engine) failed(k key, err error) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.trouble[k]
	if t == nil {
		if len(e.trouble) >= e.o.MaxTrouble {
			var first key
			for x, y := range e.trouble {
				if e.trouble[first] == nil || y.next.Before(e.trouble[first].next) {
					first = x
				}
			}
			delete(e.trouble, first)
		}
		t = &trouble{}
		e.trouble[k] = t
	}
	t.err = err
	if time.Now().Before(t.next) {
		return t.attempts
	}
	t.attempts++
	wait := e.o.RetryMax
	if n := t.attempts - 1; n < 30 {
		wait = min(e.o.RetryMin<<n, e.o.RetryMax)
	}
	if t.attempts >= e.o.Failures {
		wait = e.o.StuckRetry
	}
	t.next, t.asked = time.Now().Add(wait/2+rand.N(wait/2+1)), false
	ring(e.kickWake)
	return t.attempts
}

// forget drops what is known of failures.
func (e *Engine) forget(k key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.trouble, k)
}

// reserve notes that a copy is wanted; nil when it is already, or has to wait for its retry. One that waits for its
// turn for a less urgent rule takes the place that this one gives it.
func (e *Engine) reserve(in backends.Info, to *lake.RSE, r backends.Rule, from lake.From, source *lake.RSE, urgent bool) *move {
	k := key{in.DID, to.Name}
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.classLocked(r, in.DID)
	if m := e.moves[k]; m != nil {
		if c.priority > m.class.priority {
			e.destLocked(m.rse).reclass(m, c)
		}
		return nil
	}
	if t := e.trouble[k]; t != nil && t.next.After(time.Now()) {
		return nil
	}
	m := &move{key: k, in: in, to: to, from: from, class: c, urgent: urgent, state: Queued, since: e.o.Now()}
	if source != nil {
		m.source = source.Name
	}
	e.moves[k] = m
	e.under[k.did]++
	e.destLocked(m.rse).bytes += in.Size
	return m
}

// dropLocked forgets a copy.
func (e *Engine) dropLocked(m *move) {
	delete(e.moves, m.key)
	if e.under[m.did]--; e.under[m.did] <= 0 {
		delete(e.under, m.did)
	}
	e.destLocked(m.rse).bytes -= m.in.Size
}

func (e *Engine) destLocked(rse string) *dest {
	d := e.dests[rse]
	if d == nil {
		d = newDest(rse, e.o)
		e.dests[rse] = d
	}
	return d
}

// admit puts a reserved copy into its RSE's queue. With wait it waits until there is room for its
// class, unless the RSE fails all the time; without, it finds room for as many again, before
// those that wait. One that finds none is forgotten, and found again later; full tells so of one that did not wait.
func (e *Engine) admit(ctx context.Context, m *move, have []backends.Replica, wait bool) (waited time.Duration, full bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.destLocked(m.rse)
	limit := e.o.Queue
	if !wait {
		limit *= 2
	}
	for d.waiting(m.class) >= limit && !m.given {
		if !wait || d.sick > 2 || ctx.Err() != nil {
			e.dropLocked(m)
			return waited, !wait
		}
		room := d.room
		e.mu.Unlock()
		began := time.Now()
		unpark := e.park(ctx)
		select {
		case <-room:
		case <-ctx.Done():
		}
		unpark()
		waited += time.Since(began)
		e.mu.Lock()
	}
	if m.given {
		return waited, false // and it was forgotten
	}
	d.put(m)
	if tape, only := e.onTapeOnly(have, m); only && m.in.Size > 0 {
		e.stageLocked(ctx, d, m, tape)
	}
	e.workLocked(d)
	return waited, false
}

// onTapeOnly tells whether a recall is needed to make the copy, and from which RSE it must be; "" for any.
func (e *Engine) onTapeOnly(have []backends.Replica, m *move) (rse string, only bool) {
	for _, r := range have {
		x, ok := e.l.RSE(r.RSE)
		if !ok || r.State != backends.Available || m.from != nil && !m.from(x.RSE) {
			continue
		}
		if x.Tape == nil {
			return "", false
		}
		only = true
	}
	if m.from != nil {
		rse = m.source
	}
	return rse, only
}

// stageLocked asks for the source's recall; the move is not ready until that has ended.
func (e *Engine) stageLocked(ctx context.Context, d *dest, m *move, rse string) {
	t, err := e.l.RecallAt(ctx, m.in, rse) // returns at once
	if err != nil {
		return // the copy fails, with the reason
	}
	m.ticket, m.state = t, Staging
	e.wg.Go(func() {
		select {
		case <-t.Done():
		case <-ctx.Done():
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if m.state == Staging {
			m.state = Queued
			e.workLocked(d)
		}
	})
}

// mayComeFrom tells what a copy to an RSE may be made of, by its rule and the links there are; nil: of all.
func (e *Engine) mayComeFrom(from lake.From, to *lake.RSE) lake.From {
	if !e.links.forbids(to.Name) {
		return from
	}
	return func(r backends.RSE) bool {
		n, limited := e.links.limit(r.Name, to.Name)
		return (from == nil || from(r)) && !(limited && n == 0)
	}
}

// classLocked is the queue that the copies of a file for a rule wait in.
func (e *Engine) classLocked(r backends.Rule, d backends.DID) class {
	c := class{activity: r.Activity, priority: r.Urgency()}
	if n, ok := e.priorityLocked(d); ok {
		c.priority = n
	}
	if _, known := e.o.Activities[c.activity]; !known && !e.activities[c.activity] {
		if len(e.activities) >= maxActivities {
			c.activity = ""
		} else {
			e.activities[c.activity] = true
		}
	}
	return c
}

// maxActivities bounds those that have a share of their own without being in the options; further ones have one
// together.
const maxActivities = 64

func (e *Engine) weightOf(activity string) float64 {
	if w := e.o.Activities[activity]; w > 0 {
		return w
	}
	return 1
}

// without deletes x from a queue.
func without(queue []*move, x *move) []*move {
	if i := slices.Index(queue, x); i >= 0 {
		return slices.Delete(queue, i, i+1)
	}
	return queue
}
