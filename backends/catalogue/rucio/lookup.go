package rucio

import (
	"context"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
)

// batch collects look-ups into bulk calls: while some are under way, the others wait for each other.
type batch struct {
	mu      sync.Mutex
	waiting map[backends.DID]*looked
	running int
}

// looked is one look-up; attr and err are there when done is closed.
type looked struct {
	done chan struct{}
	attr attr
	err  error
}

// atOnce is how many bulk calls of look-ups are under way at a time.
const atOnce = 2

// look gives what is known of a DID, from the server if need be. ErrNotExist.
func (c *Catalogue) look(ctx context.Context, d backends.DID) (attr, error) {
	if !c.isLFN() || d.Name == "" || c.isRoot(d) {
		return c.lookIn(ctx, d, nil)
	}
	return c.lookIn(ctx, d, c.listings.get(c.home(d)))
}

// lookIn is look for one of a listing, if that is not nil: the files beside it are likely to be the next.
func (c *Catalogue) lookIn(ctx context.Context, d backends.DID, l *listing) (attr, error) {
	if c.ctx.Err() != nil {
		return attr{}, backends.ErrClosed
	}
	if d.Name == "" {
		return c.lookScope(ctx, d)
	}
	have, ok := c.attrs.Get(d)
	old := ok && !have.none && c.now().Sub(have.asked) < c.o.Stale
	if !ok || !c.fresh(have) && !(old && c.useOld(have.asked)) {
		var with []backends.DID
		if l != nil && c.now().Sub(l.asked) < c.o.TTL {
			with = c.ahead(l, d)
		}
		got, err := c.asked(ctx, d, old, with...)
		switch {
		case err == nil:
			have = got
		case !c.away(err):
			return attr{}, err
		case !old: // it may have been seen in a directory
			in, asked, ok := c.listed(d)
			if !ok {
				return attr{}, err
			}
			have = attr{info: in, length: -1, asked: asked}
		}
	}
	if have.none {
		return have, backends.ErrNotExist
	}
	return have, nil
}

// listed is what the newest listing in memory that has d says of it, if it is not older than Stale.
func (c *Catalogue) listed(d backends.DID) (in backends.Info, asked time.Time, ok bool) {
	c.listings.mu.Lock()
	defer c.listings.mu.Unlock()
	for _, v := range c.listings.lru.Values() {
		if i, has := v.index[d]; has && v.asked.After(asked) && c.now().Sub(v.asked) < c.o.Stale {
			in, asked, ok = c.shown(v, i), v.asked, true
		}
	}
	return in, asked, ok
}

// ask gets one DID's row from the server.
func (c *Catalogue) ask(ctx context.Context, d backends.DID) (attr, error) {
	return c.asked(ctx, d, false)
}

// asked gets one DID's row, together with those of others that are wanted at the same time, or may soon be. Where an older one is at hand
// it does not wait for long.
func (c *Catalogue) asked(ctx context.Context, d backends.DID, old bool, with ...backends.DID) (attr, error) {
	if err := ctx.Err(); err != nil {
		return attr{}, err
	}
	l := &looked{done: make(chan struct{})}
	b := &c.batch
	b.mu.Lock()
	if b.waiting == nil {
		b.waiting = map[backends.DID]*looked{}
	}
	if with := b.waiting[d]; with != nil {
		l = with
	} else {
		b.waiting[d] = l
	}
	for _, x := range with {
		if len(b.waiting) < rest.Page && b.waiting[x] == nil {
			b.waiting[x] = &looked{done: make(chan struct{})}
		}
	}
	if b.running < atOnce {
		b.running++
		c.run(c.lookUps)
	}
	b.mu.Unlock()
	if err := c.await(ctx, l.done, old); err != nil {
		return attr{}, err
	}
	return l.attr, l.err
}

// lookUps makes bulk calls as long as somebody waits.
func (c *Catalogue) lookUps() {
	b := &c.batch
	for {
		b.mu.Lock()
		if len(b.waiting) == 0 {
			b.running--
			b.mu.Unlock()
			return
		}
		part := map[backends.DID]*looked{}
		var dids []backends.DID
		for d, w := range b.waiting {
			if len(dids) == rest.Page {
				break
			}
			part[d] = w
			dids = append(dids, d)
			delete(b.waiting, d)
		}
		b.mu.Unlock()
		asked, seq := c.now(), c.changes.Load()
		rows, err := c.c.BulkMeta(c.ctx, dids)
		c.heard(err)
		for d, l := range part {
			if l.err = err; err == nil {
				if m, ok := rows[d]; ok {
					l.attr = c.attr(m, asked)
				} else {
					l.attr = attr{none: true, length: -1, asked: asked}
				}
				c.know(d, l.attr, seq)
			}
			close(l.done)
		}
	}
}

// warm asks for what is not known of DIDs, in one call a thousand, so that look answers from memory.
func (c *Catalogue) warm(ctx context.Context, dids []backends.DID) error {
	var ask []backends.DID
	for _, d := range dids {
		if a, ok := c.attrs.Peek(d); d.Name != "" && (!ok || !c.fresh(a)) {
			ask = append(ask, d)
		}
	}
	if len(ask) < 2 {
		return nil
	}
	asked, seq := c.now(), c.changes.Load()
	rows, err := c.c.BulkMeta(ctx, ask)
	if err != nil {
		return err
	}
	for _, d := range ask {
		if m, ok := rows[d]; ok {
			c.know(d, c.attr(m, asked), seq)
		} else {
			c.know(d, attr{none: true, length: -1, asked: asked}, seq)
		}
	}
	return nil
}
