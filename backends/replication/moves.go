package replication

import (
	"context"
	"errors"
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
	urgent bool // was kicked or is a retry: before what a sweep found
	state  TransferState
	since  time.Time
	ticket *lake.Ticket // the recall of its source, asked for ahead so that many become one request
	done   atomic.Int64
}

// dest is what waits for one RSE. Guarded by Engine.mu.
type dest struct {
	queue   []*move
	workers int
	room    chan struct{} // closed when the queue gets shorter
	sick    int           // failures in a row
	wait    time.Time     // not before, when sick
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

// reserve notes that a copy is wanted; nil when it is already, or has to wait for its retry.
func (e *Engine) reserve(in backends.Info, to *lake.RSE, urgent bool) *move {
	k := key{in.DID, to.Name}
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.trouble[k]; e.moves[k] != nil || t != nil && t.next.After(time.Now()) {
		return nil
	}
	m := &move{key: k, in: in, to: to, urgent: urgent, state: Queued, since: e.o.Now()}
	e.moves[k] = m
	return m
}

// admit puts a reserved copy into its RSE's queue. With wait it waits until there is room,
// unless the RSE fails all the time; without, it finds room for as many again, before
// those that wait. One that finds none is forgotten, and found again by a later sweep.
func (e *Engine) admit(ctx context.Context, m *move, have []backends.Replica, wait bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.dests[m.rse]
	if d == nil {
		d = &dest{room: make(chan struct{})}
		e.dests[m.rse] = d
	}
	limit := e.o.Queue
	if !wait {
		limit *= 2
	}
	for len(d.queue) >= limit {
		if !wait || d.sick > 2 || ctx.Err() != nil {
			delete(e.moves, m.key)
			return
		}
		room := d.room
		e.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
		}
		e.mu.Lock()
	}
	at := len(d.queue)
	if m.urgent {
		if i := slices.IndexFunc(d.queue, func(x *move) bool { return !x.urgent }); i >= 0 {
			at = i
		}
	}
	d.queue = slices.Insert(d.queue, at, m)
	if e.onTapeOnly(have) && m.in.Size > 0 {
		e.stageLocked(ctx, d, m)
	}
	e.workLocked(d)
}

// onTapeOnly tells whether a recall is needed to read the file.
func (e *Engine) onTapeOnly(have []backends.Replica) bool {
	tape := false
	for _, r := range have {
		if rse, ok := e.l.RSE(r.RSE); ok && r.State == backends.Available {
			if rse.Tape == nil {
				return false
			}
			tape = true
		}
	}
	return tape
}

// stageLocked asks for the source's recall; the move is not ready until that has ended.
func (e *Engine) stageLocked(ctx context.Context, d *dest, m *move) {
	t, err := e.l.Recall(ctx, m.in) // returns at once
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

// workLocked starts a worker for d if one is allowed and there is work.
func (e *Engine) workLocked(d *dest) {
	if d.workers >= e.o.Workers || e.ctx == nil || e.ctx.Err() != nil {
		return
	}
	if !slices.ContainsFunc(d.queue, func(m *move) bool { return m.state == Queued }) {
		return
	}
	d.workers++
	ctx := e.ctx
	e.wg.Go(func() { e.work(ctx, d) })
}

// work makes copies until none is ready.
func (e *Engine) work(ctx context.Context, d *dest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer func() { d.workers-- }()
	for ctx.Err() == nil {
		if pause := time.Until(d.wait); d.sick > 0 && pause > 0 {
			e.mu.Unlock()
			sleep(ctx, pause)
			e.mu.Lock()
			continue
		}
		i := slices.IndexFunc(d.queue, func(m *move) bool { return m.state == Queued })
		if i < 0 {
			return
		}
		m := d.queue[i]
		d.queue = slices.Delete(d.queue, i, i+1)
		close(d.room)
		d.room = make(chan struct{})
		m.state, m.since = Running, e.o.Now()
		e.mu.Unlock()

		_, err := e.l.Copy(ctx, m.in, m.to, m.done.Store)
		if m.ticket != nil {
			m.ticket.Close()
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, backends.ErrStale) {
			n := e.failed(m.key, err)
			e.log.Warn("copy", "did", m.did, "to", m.rse, "failures", n, "err", err)
		}
		sick := false // the destination, rather than the file or its source
		if err != nil && ctx.Err() == nil {
			_, _, down := m.to.Storage.Space(ctx)
			sick = down != nil
		}

		e.mu.Lock()
		e.endedLocked(ctx, d, m, err, sick)
	}
}

func (e *Engine) endedLocked(ctx context.Context, d *dest, m *move, err error, sick bool) {
	delete(e.moves, m.key)
	switch {
	case err == nil:
		e.stats.Copied++
		e.stats.CopiedBytes += m.in.Size
		delete(e.trouble, m.key)
		delete(e.trouble, key{m.did, ""})
		d.sick = 0
	case ctx.Err() != nil:
		return
	case errors.Is(err, backends.ErrStale):
		delete(e.trouble, m.key) // of a content that is gone; the new one is looked at
		ring(e.reapWake)
	default:
		e.stats.Failures++
		d.sick++
		d.wait = time.Now().Add(min(e.o.RetryMin<<min(d.sick-1, 20), e.o.RetryMax))
		if !sick {
			d.sick = 0
		}
	}
	if len(e.kicked) < maxKicked {
		e.kicked[m.did] = true
	} else {
		e.sweepNow = true
		ring(e.sweepWake)
	}
	ring(e.kickWake)
}
