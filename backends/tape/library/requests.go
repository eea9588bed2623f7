package library

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"tarn/backends"
)

// maxRequests bounds the memory of ended requests; the oldest are forgotten first.
const maxRequests = 10000

// request is one call of Stage.
type request struct {
	id      backends.RecallID
	expires time.Time
	items   []*item
	byPath  map[string][]*item // made when first needed
}

// item is one file of a request.
type item struct {
	path     string
	phase    backends.RecallPhase
	why      string
	r        *recall // what it waits for
	held     *copied // what it keeps in the buffer
	released bool    // before it arrived
}

// recall is one file on its way from tape, for any number of requests.
type recall struct {
	f       *file
	since   time.Time
	reading bool
	gone    bool // nobody waits for it any more: sweep takes it out of the queue
	items   []*item
}

// end gives all items of r their last phase.
func (r *recall) end(p backends.RecallPhase, why string) {
	for _, it := range r.items {
		it.phase, it.why, it.r = p, why, nil
	}
	r.items = nil
}

// takeRecall claims the next file to read.
func (l *Library) takeRecall(c *cart, head int64, wrap bool) *recall {
	i := c.next(head, l.spare(), wrap)
	if i < 0 {
		return nil
	}
	r := c.recalls[i]
	c.recalls = slices.Delete(c.recalls, i, i+1)
	r.reading = true
	for _, it := range r.items {
		it.phase = backends.RecallStarted
	}
	l.changed()
	return r
}

func (l *Library) backToQueue(c *cart, r *recall) {
	r.reading = false
	for _, it := range r.items {
		it.phase = backends.RecallSubmitted
	}
	if len(r.items) == 0 || r.f.dead {
		r.end(backends.RecallFailed, "removed")
		delete(l.recalls, r.f)
		return
	}
	c.queueRecall(r)
}

// Locality answers from memory.
func (l *Library) Locality(ctx context.Context, paths ...string) ([]backends.Locality, error) {
	if err := l.begin(ctx, "locality", ""); err != nil {
		return nil, err
	}
	defer l.unlock()
	out := make([]backends.Locality, len(paths))
	for i, p := range paths {
		out[i] = backends.NoLocality
		if checkPath(p) == nil {
			if f, _ := l.find(p); f != nil {
				out[i] = l.locality(f)
			}
		}
	}
	return out, nil
}

func (l *Library) locality(f *file) backends.Locality {
	switch {
	case f.buf != nil && f.cart < 0:
		return backends.Online
	case f.buf != nil:
		return backends.OnlineAndNearline
	case f.cart < 0 || f.bad:
		return backends.Lost
	case l.carts[f.cart].f == nil:
		return backends.Unavailable
	}
	return backends.Nearline
}

// Stage queues what is not in the buffer. What does not exist, is lost or is larger than
// the whole buffer is FAILED at once; a file that failed before is tried again.
func (l *Library) Stage(ctx context.Context, paths ...string) (backends.RecallID, error) {
	if err := l.begin(ctx, "stage", ""); err != nil {
		return "", err
	}
	defer l.unlock()
	l.expire()
	now := l.o.Now()
	req := &request{id: backends.RecallID(rand.Text()), expires: now.Add(l.o.Lifetime), items: make([]*item, len(paths))}
	touched := map[*cart]bool{}
	for i, p := range paths {
		it := &item{path: p}
		req.items[i] = it
		if c := l.stageOne(it, now); c != nil {
			touched[c] = true
		}
	}
	for c := range touched {
		slices.SortFunc(c.recalls, byPosition)
	}
	l.requests[req.id] = req
	l.order = append(l.order, req)
	if len(l.order) > maxRequests {
		l.forgetEnded()
	}
	l.stats.Requests++
	l.changed()
	return req.id, nil
}

// stageOne gives the cartridge whose queue it has put something at the end of.
func (l *Library) stageOne(it *item, now time.Time) *cart {
	no := func(why error) *cart {
		it.phase, it.why = backends.RecallFailed, why.Error()
		return nil
	}
	if err := checkPath(it.path); err != nil {
		return no(err)
	}
	f, d := l.find(it.path)
	if f == nil {
		if d != nil {
			return no(backends.ErrIsDir)
		}
		return no(backends.ErrNotExist)
	}
	if f.buf != nil {
		it.phase, it.held = backends.RecallCompleted, f.buf
		f.buf.holds++
		l.settle(f.buf)
		return nil
	}
	switch {
	case f.cart < 0:
		return no(fmt.Errorf("neither on tape nor in the buffer: %w", backends.ErrLost))
	case l.carts[f.cart].f == nil:
		return no(fmt.Errorf("cartridge %s is missing: %w", l.carts[f.cart].name, backends.ErrUnavailable))
	case f.size > l.o.BufferSize:
		return no(fmt.Errorf("%d bytes, the disk buffer has %d: %w", f.size, l.o.BufferSize, backends.ErrNoSpace))
	}
	it.phase = backends.RecallSubmitted
	var c *cart
	r := l.recalls[f]
	if r == nil {
		r = &recall{f: f, since: now}
		l.recalls[f] = r
		c = l.carts[f.cart]
		c.recalls = append(c.recalls, r)
	}
	if r.reading {
		it.phase = backends.RecallStarted
	}
	it.r = r
	r.items = append(r.items, it)
	return c
}

// Poll gives positions and times from an estimate that assumes nothing new comes in.
func (l *Library) Poll(ctx context.Context, id backends.RecallID) ([]backends.RecallState, error) {
	if err := l.begin(ctx, "poll", ""); err != nil {
		return nil, err
	}
	defer l.unlock()
	l.expire()
	req := l.requests[id]
	if req == nil {
		return nil, l.fail("poll", string(id), backends.ErrNotExist)
	}
	out := make([]backends.RecallState, len(req.items))
	for i, it := range req.items {
		out[i] = backends.RecallState{Path: it.path, Phase: it.phase, Error: it.why}
		if it.r != nil {
			e := l.estimateOf(it.r)
			out[i].Position, out[i].ETA = e.position, e.eta
		}
	}
	return out, nil
}

// Cancel leaves a file that is being read to the drive; it is kept by nobody then.
func (l *Library) Cancel(ctx context.Context, id backends.RecallID, paths ...string) error {
	return l.eachItem(ctx, "cancel", id, paths, l.cancelItem)
}

func (l *Library) cancelItem(it *item) {
	if it.r != nil {
		l.leaveRecall(it)
		it.phase = backends.RecallCancelled
	}
	l.releaseItem(it)
}

// leaveRecall takes it off what it waits for; a queued recall nobody waits for goes.
func (l *Library) leaveRecall(it *item) {
	r := it.r
	it.r = nil
	r.items = slices.DeleteFunc(r.items, func(o *item) bool { return o == it })
	if len(r.items) == 0 && !r.reading {
		l.unqueue(r)
	}
}

// unqueue forgets a recall that has not begun; sweep must follow before mu is given up.
func (l *Library) unqueue(r *recall) {
	delete(l.recalls, r.f)
	r.gone = true
	l.carts[r.f.cart].gone = true
}

// sweep takes what unqueue has marked out of the queues, in one go: a request may have 100,000 files.
func (l *Library) sweep() {
	for _, c := range l.carts {
		if c.gone {
			c.gone = false
			c.recalls = slices.DeleteFunc(c.recalls, func(r *recall) bool { return r.gone })
		}
	}
}

// Release of a file that has not arrived yet lets it arrive, but keeps it no longer.
func (l *Library) Release(ctx context.Context, id backends.RecallID, paths ...string) error {
	return l.eachItem(ctx, "release", id, paths, l.releaseItem)
}

func (l *Library) releaseItem(it *item) {
	it.released = true
	if c := it.held; c != nil {
		it.held = nil
		c.holds--
		l.settle(c)
	}
}

// eachItem calls fn for the named items, or all. ErrNotExist, and nothing is done, when the
// request or one of the paths is not known.
func (l *Library) eachItem(ctx context.Context, op string, id backends.RecallID, paths []string, fn func(*item)) error {
	if err := l.begin(ctx, op, ""); err != nil {
		return err
	}
	defer l.unlock()
	l.expire()
	req := l.requests[id]
	if req == nil {
		return l.fail(op, string(id), backends.ErrNotExist)
	}
	items := req.items
	if len(paths) > 0 {
		if req.byPath == nil {
			req.byPath = map[string][]*item{}
			for _, it := range req.items {
				req.byPath[it.path] = append(req.byPath[it.path], it)
			}
		}
		items = nil
		for _, p := range paths {
			its := req.byPath[p]
			if its == nil {
				return l.fail(op, p, fmt.Errorf("not in request %s: %w", id, backends.ErrNotExist))
			}
			items = append(items, its...)
		}
	}
	for _, it := range items {
		fn(it)
	}
	l.sweep()
	l.changed()
	return nil
}

// expire ends the requests whose lifetime is over.
func (l *Library) expire() {
	now := l.o.Now()
	for len(l.order) > 0 && !l.order[0].expires.After(now) {
		l.forget(l.order[0])
		l.order = l.order[1:]
	}
}

func (l *Library) forget(req *request) {
	for _, it := range req.items {
		l.cancelItem(it)
	}
	delete(l.requests, req.id)
	l.sweep()
	l.changed()
}

// forgetEnded drops the oldest requests that wait for nothing and keep nothing, or, if there are
// none, the oldest of all: memory is bounded before everything else.
func (l *Library) forgetEnded() {
	drop := len(l.order) - maxRequests + maxRequests/10
	l.order = slices.DeleteFunc(l.order, func(req *request) bool {
		if drop == 0 || slices.ContainsFunc(req.items, func(it *item) bool { return it.r != nil || it.held != nil }) {
			return false
		}
		drop--
		l.forget(req)
		return true
	})
	for len(l.order) > maxRequests {
		l.forget(l.order[0])
		l.order = l.order[1:]
	}
}
