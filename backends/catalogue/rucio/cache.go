package rucio

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
)

// listing is the content of a collection: in order of the keys, with the loose files of a container.
type listing struct {
	infos []backends.Info
	index map[backends.DID]int
	asked time.Time
}

// listings are those in memory: as many entries as there is room for, the longest unused go first.
type listings struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[backends.DID, *listing]
	room  int
	used  int
	begun map[backends.DID]chan struct{} // being asked for
}

func (l *listings) init(room int) {
	l.room, l.begun = room, map[backends.DID]chan struct{}{}
	l.lru, _ = simplelru.NewLRU(1<<30, func(_ backends.DID, v *listing) { l.used -= len(v.infos) + 1 })
}

func (l *listings) get(d backends.DID) *listing {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, _ := l.lru.Get(d)
	return v
}

func (l *listings) put(d backends.DID, v *listing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lru.Remove(d)
	if len(v.infos) > l.room {
		return // it is given, and not kept
	}
	l.lru.Add(d, v)
	for l.used += len(v.infos) + 1; l.used > l.room; {
		l.lru.RemoveOldest()
	}
}

func (l *listings) drop(d backends.DID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lru.Remove(d)
}

// list gives the content of a collection. One call asks for all who want the same.
func (c *Catalogue) list(ctx context.Context, d backends.DID) (*listing, error) {
	for {
		c.listings.mu.Lock()
		have, _ := c.listings.lru.Get(d)
		if have != nil && c.now().Sub(have.asked) < c.o.TTL {
			c.listings.mu.Unlock()
			return have, nil
		}
		wait := c.listings.begun[d]
		if wait == nil {
			done := make(chan struct{})
			c.listings.begun[d] = done
			c.listings.mu.Unlock()
			got, err := c.askContent(ctx, d)
			if err == nil {
				c.listings.put(d, got)
			}
			c.listings.mu.Lock()
			delete(c.listings.begun, d)
			c.listings.mu.Unlock()
			close(done)
			if err != nil && have != nil && c.away(err) && c.now().Sub(have.asked) < c.o.Stale {
				c.log.Debug("last known listing", "did", d, "of", have.asked, "err", err)
				return have, nil
			}
			return got, err
		}
		c.listings.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// away tells whether an error says that the server cannot be asked, and nothing of what was asked for.
func (c *Catalogue) away(err error) bool {
	return errors.Is(err, backends.ErrUnavailable) && !errors.Is(err, context.Canceled)
}

// askContent lists a collection: its children in one stream, what is known of them in pages.
func (c *Catalogue) askContent(ctx context.Context, d backends.DID) (*listing, error) {
	asked := c.now()
	a, err := c.look(ctx, d)
	if err != nil {
		return nil, err
	}
	if !a.info.IsDir() {
		return nil, backends.ErrNotDir
	}
	var dids []backends.DID
	children := func(of backends.DID, length int64) error {
		n := int64(0)
		err := c.c.Content(ctx, of, func(r rest.Child) error {
			dids = append(dids, r.DID())
			n++
			return nil
		})
		if err == nil && length >= 0 && n < length {
			return fmt.Errorf("the server gave %d of %d entries: %w: %w", n, length, backends.ErrUnavailable, backends.ErrTemporary)
		}
		return err
	}
	if d.Name == "" { // a scope
		err = c.c.Orphans(ctx, d.Scope, func(r rest.Child) error {
			dids = append(dids, r.DID())
			return nil
		})
	} else {
		err = children(d, a.length)
	}
	if err != nil {
		return nil, err
	}
	if i := slices.Index(dids, loose(d)); i >= 0 && a.info.Type == backends.Container {
		dids = slices.Delete(dids, i, i+1)
		if err := children(loose(d), -1); err != nil && !errors.Is(err, backends.ErrNotExist) {
			return nil, err
		}
	}
	rows, err := c.c.BulkMeta(ctx, dids)
	if err != nil {
		return nil, err
	}
	out := &listing{infos: make([]backends.Info, 0, len(dids)), index: make(map[backends.DID]int, len(dids)), asked: asked}
	for _, child := range dids {
		m, ok := rows[child]
		_, twice := out.index[child]
		if !ok || twice {
			continue // gone meanwhile
		}
		at := c.attr(m, asked)
		if d.Name == "" && at.hidden {
			continue // removed: it is in no collection because of that
		}
		at.hidden = false // it stands in one
		out.index[child] = 0
		out.infos = append(out.infos, at.info)
	}
	slices.SortFunc(out.infos, func(a, b backends.Info) int { return strings.Compare(c.key(a.DID), c.key(b.DID)) })
	for i, in := range out.infos {
		out.index[in.DID] = i
	}
	return out, nil
}

// batch collects look-ups into bulk calls: while some are under way, the others wait for each other.
type batch struct {
	mu      sync.Mutex
	waiting map[backends.DID][]chan<- looked
	running int
}

type looked struct {
	attr attr
	err  error
}

// atOnce is how many bulk calls of look-ups are under way at a time.
const atOnce = 2

// look gives what is known of a DID, from the server if need be. ErrNotExist.
func (c *Catalogue) look(ctx context.Context, d backends.DID) (attr, error) {
	if c.ctx.Err() != nil {
		return attr{}, backends.ErrClosed
	}
	if d.Name == "" {
		return c.lookScope(ctx, d)
	}
	have, ok := c.attrs.Get(d)
	if !ok || !c.fresh(have) {
		got, err := c.ask(ctx, d)
		switch {
		case err == nil:
			have = got
		case ok && c.away(err) && c.now().Sub(have.asked) < c.o.Stale:
		default:
			return attr{}, err
		}
	}
	if have.none {
		return have, backends.ErrNotExist
	}
	return have, nil
}

// ask gets one DID's row, together with those of others that are wanted at the same time.
func (c *Catalogue) ask(ctx context.Context, d backends.DID) (attr, error) {
	ch := make(chan looked, 1)
	b := &c.batch
	b.mu.Lock()
	if c.ctx.Err() != nil {
		b.mu.Unlock()
		return attr{}, backends.ErrClosed
	}
	if b.waiting == nil {
		b.waiting = map[backends.DID][]chan<- looked{}
	}
	b.waiting[d] = append(b.waiting[d], ch)
	if b.running < atOnce {
		b.running++
		c.wg.Go(c.lookUps)
	}
	b.mu.Unlock()
	select {
	case l := <-ch:
		return l.attr, l.err
	case <-ctx.Done():
		return attr{}, ctx.Err()
	}
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
		part := map[backends.DID][]chan<- looked{}
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
		asked := c.now()
		rows, err := c.c.BulkMeta(c.ctx, dids)
		for d, waiters := range part {
			l := looked{err: err}
			if err == nil {
				if m, ok := rows[d]; ok {
					l.attr = c.attr(m, asked)
				} else {
					l.attr = attr{none: true, length: -1, asked: asked}
				}
				c.attrs.Add(d, l.attr)
			}
			for _, ch := range waiters {
				ch <- l
			}
		}
	}
}

// lookScope is for the virtual collection of a scope in layout contents.
func (c *Catalogue) lookScope(ctx context.Context, d backends.DID) (attr, error) {
	names, err := c.scopeNames(ctx)
	if err != nil {
		return attr{}, err
	}
	if !slices.Contains(names, d.Scope) {
		return attr{}, backends.ErrNotExist
	}
	return attr{info: c.scopeInfo(d.Scope), length: -1}, nil
}

// scopeInfo is the Info of a scope's collection.
func (c *Catalogue) scopeInfo(name string) backends.Info {
	d := backends.DID{Scope: name}
	return backends.Info{DID: d, Type: backends.Container, Mode: 0o755, UID: c.o.UID, GID: c.o.GID, MTime: epoch, CTime: epoch, Inode: inode(d), Layout: backends.LayoutContents}
}

// epoch is the time of what Rucio tells no time of.
var epoch = time.Unix(0, 0).UTC()

// scopeNames lists the scopes.
func (c *Catalogue) scopeNames(ctx context.Context) ([]string, error) {
	c.mu.Lock()
	have, asked := c.scopes, c.scoped
	c.mu.Unlock()
	if have != nil && c.now().Sub(asked) < c.o.TTL {
		return have, nil
	}
	names, err := c.c.Scopes(ctx)
	if err != nil {
		if have != nil && c.away(err) && c.now().Sub(asked) < c.o.Stale {
			return have, nil
		}
		return nil, err
	}
	if c.o.Scopes != nil {
		names = slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(c.o.Scopes, n) })
	}
	if names == nil {
		names = []string{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scopes, c.scoped = names, c.now()
	return names, nil
}

// changed forgets what is known of DIDs, and of the collections they are in.
func (c *Catalogue) changed(dids ...backends.DID) {
	for _, d := range dids {
		c.attrs.Remove(d)
		c.listings.drop(d)
		c.replicas.Remove(d)
		if c.isLFN() && !c.isRoot(d) && d.Name != "" {
			c.listings.drop(c.home(d))
		} else if !c.isLFN() {
			c.listings.drop(backends.DID{Scope: d.Scope})
		}
	}
}

// Refresh forgets what is known of d and all that is below it; the zero DID: everything.
func (c *Catalogue) Refresh(d backends.DID) {
	below := func(x backends.DID) bool {
		return d.IsZero() || x == d || x.Scope == d.Scope && d.Name == "" || c.isLFN() && strings.HasPrefix(x.Name, d.Name+"/")
	}
	if l := c.listings.get(d); l != nil {
		for _, in := range l.infos {
			c.attrs.Remove(in.DID)
			c.replicas.Remove(in.DID)
		}
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
	c.joined.Purge()
	c.ruled.Purge()
	c.mu.Lock()
	c.scoped, c.rsesAt = time.Time{}, time.Time{}
	c.mu.Unlock()
}

// AsOf tells of when what is shown of d is, when that is older than it should be since the server cannot be asked; else zero.
func (c *Catalogue) AsOf(d backends.DID) time.Time {
	if a, ok := c.attrs.Peek(d); ok && !c.fresh(a) {
		return a.asked
	}
	if l := c.listings.get(d); l != nil && c.now().Sub(l.asked) >= c.o.TTL {
		return l.asked
	}
	return time.Time{}
}
