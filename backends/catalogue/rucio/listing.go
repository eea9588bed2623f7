package rucio

import (
	"context"
	"errors"
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

// flight is a listing that is under way; got and err are there when done is closed.
type flight struct {
	done chan struct{}
	seq  uint64 // changes when it began
	got  *listing
	err  error
}

// listings are those in memory: as many entries as there is room for, the longest unused go first.
type listings struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[backends.DID, *listing]
	room  int
	used  int
	begun map[backends.DID]*flight // being asked for
}

func (l *listings) init(room int) {
	l.room, l.begun = room, map[backends.DID]*flight{}
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

// drop forgets a listing, and that one is under way: who asks from now on asks anew.
func (l *listings) drop(d backends.DID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.begun, d)
	l.lru.Remove(d)
}

// list gives the content of a collection. One call asks for all who want the same.
func (c *Catalogue) list(ctx context.Context, d backends.DID) (*listing, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.listings.mu.Lock()
	have, _ := c.listings.lru.Get(d)
	if have != nil && (c.now().Sub(have.asked) < c.o.TTL || c.useOld(have.asked)) {
		c.listings.mu.Unlock()
		return have, nil
	}
	f := c.listings.begun[d]
	if f == nil {
		f = &flight{done: make(chan struct{}), seq: c.changes.Load()}
		c.listings.begun[d] = f
		c.run(func() {
			f.got, f.err = c.askContent(c.ctx, d)
			if f.err == nil && !c.changedSince(d, f.seq) {
				c.listings.put(d, f.got)
			}
			c.heard(f.err)
			c.listings.mu.Lock()
			if c.listings.begun[d] == f {
				delete(c.listings.begun, d)
			}
			c.listings.mu.Unlock()
			close(f.done)
		})
	}
	c.listings.mu.Unlock()
	old := have != nil && c.now().Sub(have.asked) < c.o.Stale
	err := c.await(ctx, f.done, old)
	if err == nil {
		if err = f.err; err == nil {
			return f.got, nil
		}
	}
	if old && c.away(err) {
		c.log.Debug("last known listing", "did", d, "of", have.asked, "err", err)
		return have, nil
	}
	return nil, err
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
	note := func(r rest.Child) error {
		dids = append(dids, r.DID())
		return nil
	}
	children := func(of backends.DID, length int64) error {
		return rest.Whole(length, func(f func(rest.Child) error) error { return c.c.Content(ctx, of, f) })(note)
	}
	if d.Name == "" { // a scope
		err = c.c.Orphans(ctx, d.Scope, note)
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
		out.index[child] = 0
		out.infos = append(out.infos, at.info)
	}
	slices.SortFunc(out.infos, func(a, b backends.Info) int { return strings.Compare(c.key(a.DID), c.key(b.DID)) })
	for i, in := range out.infos {
		out.index[in.DID] = i
	}
	return out, nil
}
