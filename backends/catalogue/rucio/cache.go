package rucio

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"tarn/backends"
)

// errSlow: there was no answer in time, and an older one is at hand.
var errSlow = fmt.Errorf("no answer in time: %w: %w", backends.ErrUnavailable, backends.ErrTemporary)

// slow is how long an answer is waited for where an older one is at hand.
const slow = 5 * time.Second

// await waits for an answer, and where an older one is at hand no longer than slow: errSlow.
func (c *Catalogue) await(ctx context.Context, done <-chan struct{}, old bool) error {
	var limit <-chan time.Time
	if old {
		t := time.NewTimer(slow)
		defer t.Stop()
		limit = t.C
	}
	select {
	case <-done:
		return nil
	case <-limit:
		c.heard(errSlow)
		return errSlow
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ctx.Done():
		return backends.ErrClosed
	}
}

// away tells whether an error says that the server cannot be asked, and nothing of what was asked for.
func (c *Catalogue) away(err error) bool {
	return errors.Is(err, backends.ErrUnavailable) && !errors.Is(err, context.Canceled)
}

// awayFor is how long a server that could not be asked is not asked again where an older answer is at hand.
const awayFor = 10 * time.Second

// heard notes whether the server answered.
func (c *Catalogue) heard(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.awayAt = time.Time{}
	case c.away(err):
		c.awayAt = c.now()
	}
}

// useOld tells whether an answer of that time is shown without a question: the server could not be asked a moment ago, and may let
// everybody wait.
func (c *Catalogue) useOld(asked time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.awayAt.IsZero() && c.now().Sub(c.awayAt) < awayFor && c.now().Sub(asked) < c.o.Stale
}

// changed forgets what is known of DIDs, and of the collections they are in.
func (c *Catalogue) changed(dids ...backends.DID) {
	for _, d := range dids {
		c.marks.Add(d, c.changes.Add(1)) // first, so that no older answer is put in
		c.attrs.Remove(d)
		c.met.Remove(d)
		c.listings.drop(d)
		c.replicas.Remove(d)
		up := backends.DID{Scope: d.Scope}
		if c.isLFN() {
			if c.isRoot(d) || d.Name == "" {
				continue
			}
			up = c.home(d)
		}
		c.marks.Add(up, c.changes.Load())
		c.listings.drop(up)
	}
}

// changedSince tells whether something of d was changed here after so many changes: an answer that was asked for before that is not kept.
func (c *Catalogue) changedSince(d backends.DID, seq uint64) bool {
	at, ok := c.marks.Peek(d)
	return ok && at > seq
}

// know keeps what was asked for after seq changes.
func (c *Catalogue) know(d backends.DID, a attr, seq uint64) {
	if c.changedSince(d, seq) {
		return
	}
	c.attrs.Add(d, a)
	if c.changedSince(d, seq) { // meanwhile
		c.attrs.Remove(d)
	}
}

// Refresh forgets what is known of d and all that is below it; the zero DID: everything.
func (c *Catalogue) Refresh(d backends.DID) {
	below := func(x backends.DID) bool {
		return d.IsZero() || x == d || x.Scope == d.Scope && d.Name == "" || c.isLFN() && strings.HasPrefix(x.Name, d.Name+"/")
	}
	if !c.isLFN() { // no name tells what is below d, and not all of it need be in a listing here
		c.dropBelow(d, map[backends.DID]bool{})
		c.attrs.Purge()
		c.replicas.Purge()
	}
	for _, x := range c.attrs.Keys() {
		if below(x) {
			c.attrs.Remove(x)
		}
	}
	for _, x := range c.replicas.Keys() {
		if below(x) {
			c.replicas.Remove(x)
		}
	}
	c.listings.mu.Lock()
	for _, x := range c.listings.lru.Keys() {
		if below(x) {
			c.listings.lru.Remove(x)
		}
	}
	c.listings.mu.Unlock()
	c.met.Purge()
	c.joined.Purge()
	c.within.Purge()
	c.ruled.Purge()
	c.mu.Lock()
	c.scoped, c.names, c.rses = time.Time{}, nil, nil
	c.mu.Unlock()
}

// dropBelow forgets the listings of d and of the collections below it, as far as they are known.
func (c *Catalogue) dropBelow(d backends.DID, met map[backends.DID]bool) {
	l := c.listings.get(d)
	if l == nil || met[d] {
		return
	}
	met[d] = true
	c.listings.forget(d)
	for _, in := range l.infos {
		if in.IsDir() {
			c.dropBelow(in.DID, met)
		}
	}
}

// AsOf tells of when what is shown of d is, when that is older than it should be since the server cannot be asked; else zero.
func (c *Catalogue) AsOf(d backends.DID) time.Time {
	c.mu.Lock()
	answers := c.awayAt.IsZero()
	c.mu.Unlock()
	if answers {
		return time.Time{}
	}
	if a, ok := c.attrs.Peek(d); ok && !c.fresh(a) {
		return a.asked
	}
	if l := c.listings.get(d); l != nil && c.now().Sub(l.asked) >= c.o.TTL {
		return l.asked
	}
	if _, asked, ok := c.listed(d); ok && c.now().Sub(asked) >= c.o.TTL {
		return asked
	}
	return time.Time{}
}
