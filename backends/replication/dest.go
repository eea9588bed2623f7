package replication

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/tune"
)

// class is a queue of copies that are alike. Activities share a destination by their weights; within an
// activity, each priority has three times the share of the one below it, and what was kicked four times that of what
// a sweep has found. So urgent copies go first as long as they are few, and nothing waits for ever.
type class struct {
	activity string
	priority int
}

// lane is the urgent ones of a class, or the others.
type lane struct {
	class
	urgent bool
}

func (l lane) weight() float64 {
	w := math.Pow(3, float64(l.priority-backends.LowestPriority))
	if l.urgent {
		w *= 4
	}
	return w
}

// dest is what waits for one RSE. Guarded by Engine.mu.
type dest struct {
	name    string
	lanes   map[lane][]*move
	acts    shares[string]
	within  map[string]*shares[lane]
	active  map[*move]bool // RUNNING
	links   map[string]int // how many of these come from an RSE
	workers int
	tune    tune.Tuner
	fixed   int           // copies at a time, 0: what tune finds
	bytes   int64         // of all copies to it that are wanted
	room    chan struct{} // closed when the queue gets shorter
	sick    int           // failures in a row
	wait    time.Time     // not before, when sick
}

func newDest(name string, o Options) *dest {
	return &dest{name: name, lanes: map[lane][]*move{}, within: map[string]*shares[lane]{}, active: map[*move]bool{}, links: map[string]int{},
		tune: tune.New(o.MinWorkers, o.MaxWorkers), fixed: o.Workers, room: make(chan struct{})}
}

func (d *dest) limit() int {
	if d.fixed > 0 {
		return d.fixed
	}
	return d.tune.Limit()
}

// limitLocked is how many copies may run to d now: what is best for it, and not more than its part of all.
func (e *Engine) limitLocked(d *dest) int {
	if d.fixed > 0 {
		return d.fixed
	}
	busy := 1
	for _, x := range e.dests {
		if x != d && (x.workers > 0 || len(x.lanes) > 0) {
			busy++
		}
	}
	return min(d.limit(), max(e.o.MinWorkers, e.o.AllWorkers/busy))
}

func (d *dest) waiting(c class) int {
	return len(d.lanes[lane{c, true}]) + len(d.lanes[lane{c, false}])
}

func (d *dest) put(m *move) {
	l := lane{m.class, m.urgent}
	d.lanes[l] = append(d.lanes[l], m)
}

// take takes m out of its queue, if it is in one.
func (d *dest) take(m *move) {
	l := lane{m.class, m.urgent}
	if d.lanes[l] = without(d.lanes[l], m); len(d.lanes[l]) == 0 {
		delete(d.lanes, l)
	}
	close(d.room)
	d.room = make(chan struct{})
}

// reclass puts m into another queue, if it waits in one.
func (d *dest) reclass(m *move, c class) {
	if slices.Contains(d.lanes[lane{m.class, m.urgent}], m) {
		d.take(m)
		m.class = c
		d.put(m)
		return
	}
	m.class = c
}

// ready gives the copies of each lane that may run now: one for each link, the oldest. Lanes come by activity, then the more
// urgent ones first.
func (d *dest) ready(links *links) (lanes []lane, moves map[lane][]*move) {
	moves = map[lane][]*move{}
	for l, queue := range d.lanes {
		var seen []string
		for _, m := range queue {
			if m.state != Queued || slices.Contains(seen, m.source) {
				continue
			}
			seen = append(seen, m.source)
			if n, limited := links.limit(m.source, d.name); limited && d.links[m.source] >= n {
				continue
			}
			moves[l] = append(moves[l], m)
		}
		if moves[l] != nil {
			lanes = append(lanes, l)
		}
	}
	slices.SortFunc(lanes, func(a, b lane) int {
		return cmp.Or(cmp.Compare(a.activity, b.activity), cmp.Compare(b.weight(), a.weight()))
	})
	return lanes, moves
}

// next takes the copy whose turn it is; nil when none may run.
func (d *dest) next(links *links, weight func(activity string) float64) *move {
	lanes, moves := d.ready(links)
	if len(lanes) == 0 {
		return nil
	}
	costOf := func(m *move) float64 { return float64(m.in.Size + tune.PerFile) }
	first := map[string]lane{}
	var acts []string
	for _, l := range lanes {
		if _, ok := first[l.activity]; !ok {
			first[l.activity] = l
			acts = append(acts, l.activity)
		}
	}
	act := d.acts.next(acts, func(a string) float64 { return costOf(moves[first[a]][0]) / weight(a) })
	lanes = slices.DeleteFunc(lanes, func(l lane) bool { return l.activity != act })
	own := d.within[act]
	if own == nil {
		if len(d.within) >= maxShares {
			clear(d.within)
		}
		own = &shares[lane]{}
		d.within[act] = own
	}
	l := own.next(lanes, func(l lane) float64 { return costOf(moves[l][0]) / l.weight() })
	// Of several links the one on which least is under way.
	m := slices.MinFunc(moves[l], func(a, b *move) int { return cmp.Compare(d.links[a.source], d.links[b.source]) })
	d.acts.charge(act, costOf(m)/weight(act))
	own.charge(l, costOf(m)/l.weight())
	d.take(m)
	return m
}

// moved gives the bytes that have moved since the last time.
func (d *dest) moved() (n int64) {
	for m := range d.active {
		now := m.done.Load()
		n += max(now-m.told, 0)
		m.told = now
	}
	return n
}

// workLocked starts workers for d as long as they are allowed and there is work for them.
func (e *Engine) workLocked(d *dest) {
	if e.ctx == nil || e.ctx.Err() != nil {
		return
	}
	n, limit := 0, e.limitLocked(d)
	for _, queue := range d.lanes {
		for _, m := range queue {
			if m.state == Queued {
				n++
			}
		}
		if n > limit {
			break
		}
	}
	idle := d.workers - len(d.active)
	for ; d.workers < limit && idle < n; idle++ {
		d.workers++
		ctx := e.ctx
		e.wg.Go(func() { e.work(ctx, d) })
	}
}

// work makes copies until none is ready, or there are enough others who do.
func (e *Engine) work(ctx context.Context, d *dest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer func() { d.workers-- }()
	for ctx.Err() == nil {
		if pause := time.Until(d.wait); d.sick > 0 && pause > 0 {
			d.tune.Idle()
			e.mu.Unlock()
			sleep(ctx, min(pause, time.Second)) // Retry may end it
			e.mu.Lock()
			continue
		}
		if d.workers > e.limitLocked(d) {
			return
		}
		m := d.next(e.links, e.weightOf)
		if m == nil {
			d.tune.Idle()
			return
		}
		own, cancel := context.WithCancel(ctx)
		m.state, m.since, m.cancel = Running, e.o.Now(), cancel
		d.active[m] = true
		d.links[m.source]++
		e.mu.Unlock()

		_, err := e.l.CopyFrom(own, m.in, m.to, m.from, m.done.Store)
		if m.ticket != nil {
			m.ticket.Close()
		}
		called := own.Err() != nil && ctx.Err() == nil // off
		cancel()
		if err != nil && ctx.Err() == nil && !called && !isNoFailure(err) {
			n := e.failed(m.key, err)
			e.log.Warn("copy", "did", m.did, "to", m.rse, "failures", n, "err", err)
		}
		if called {
			if err := e.l.Abandon(ctx, m.in, m.to); err != nil && ctx.Err() == nil {
				e.log.Warn("what was made of a cancelled copy stays", "did", m.did, "to", m.rse, "err", err)
			}
		}
		sick := false // the destination, rather than the file or its source
		if err != nil && ctx.Err() == nil && !called {
			_, _, down := e.l.Space(ctx, m.to)
			sick = down != nil
		}

		e.mu.Lock()
		e.endedLocked(ctx, d, m, err, sick, called)
		e.workLocked(d) // another link may have room, or more may run
	}
}

// isNoFailure tells of an error of a copy that is nobody's fault: the file was replaced, or what it was to be made of is gone.
func isNoFailure(err error) bool {
	return errors.Is(err, backends.ErrStale) || errors.Is(err, lake.ErrNoSource)
}

func (e *Engine) endedLocked(ctx context.Context, d *dest, m *move, err error, sick, called bool) {
	files, bytes := 0, d.moved()
	if err == nil {
		files = 1
	}
	if len(d.active) < d.limit() {
		d.tune.Idle()
	} else {
		d.tune.Note(time.Now(), files, bytes)
	}
	delete(d.active, m)
	if d.links[m.source]--; d.links[m.source] <= 0 {
		delete(d.links, m.source)
	}
	if e.moves[m.key] == m {
		e.dropLocked(m)
	}
	switch {
	case err == nil:
		e.stats.Copied++
		e.stats.CopiedBytes += m.in.Size
		delete(e.trouble, m.key)
		delete(e.trouble, key{m.did, ""})
		d.sick = 0
	case ctx.Err() != nil:
		return
	case called:
	case errors.Is(err, backends.ErrStale):
		delete(e.trouble, m.key) // of a content that is gone; the new one is looked at
		ring(e.reapWake)
	case errors.Is(err, lake.ErrNoSource):
	default:
		e.stats.Failures++
		d.sick++
		d.wait = time.Now().Add(min(e.o.RetryMin<<min(d.sick-1, 20), e.o.RetryMax))
		if !sick {
			d.sick = 0
		}
	}
	e.kickLocked(m.did)
	ring(e.kickWake)
}
