package rucio

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
)

// listing is the content of a collection: in order of the keys, with the loose files of a container.
type listing struct {
	infos   []backends.Info
	index   map[backends.DID]int
	asked   time.Time
	undated bool         // the times of its files were not asked for
	lookUps atomic.Int32 // of files whose times were not known
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
	begun map[wanted]*flight // being asked for
}

// wanted is a listing with or without the times of its files.
type wanted struct {
	d     backends.DID
	dated bool
}

func (l *listings) init(room int) {
	l.room, l.begun = room, map[wanted]*flight{}
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
	l.putLocked(d, v)
}

func (l *listings) putLocked(d backends.DID, v *listing) {
	l.lru.Remove(d)
	if len(v.infos) > l.room {
		return // it is given, and not kept
	}
	l.lru.Add(d, v)
	for l.used += len(v.infos) + 1; l.used > l.room; {
		l.lru.RemoveOldest()
	}
}

// drop has a listing, and one that is under way, not be shown any more: who asks from now on asks anew. The times of its files stay known.
func (l *listings) drop(d backends.DID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.lru.Peek(d)
	l.forgetLocked(d)
	if ok {
		l.putLocked(d, &listing{infos: v.infos, index: v.index})
	}
}

// forget is drop with all that is known.
func (l *listings) forget(d backends.DID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetLocked(d)
}

func (l *listings) forgetLocked(d backends.DID) {
	delete(l.begun, wanted{d, false})
	delete(l.begun, wanted{d, true})
	l.lru.Remove(d)
}

// list gives the content of a collection. One call asks for all who want the same.
// Times that cannot be asked for, since the server is away, are the epoch.
func (c *Catalogue) list(ctx context.Context, d backends.DID) (*listing, error) {
	l, err := c.listing(ctx, wanted{d, true})
	if err != nil || !l.undated {
		return l, err
	}
	out := &listing{infos: make([]backends.Info, len(l.infos)), index: l.index, asked: l.asked}
	for i := range l.infos {
		out.infos[i] = c.shown(l, i)
	}
	return out, nil
}

// listNames is list without the times of the files, unless they are known: those of many files take the server longer than all the rest.
func (c *Catalogue) listNames(ctx context.Context, d backends.DID) (*listing, error) {
	return c.listing(ctx, wanted{d, false})
}

func (c *Catalogue) listing(ctx context.Context, w wanted) (*listing, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.listings.mu.Lock()
	have, _ := c.listings.lru.Get(w.d)
	fresh := have != nil && c.now().Sub(have.asked) < c.o.TTL
	if have != nil && (fresh && !(w.dated && have.undated) || c.useOld(have.asked)) {
		c.listings.mu.Unlock()
		return have, nil
	}
	f := c.listings.begun[w]
	if f == nil {
		f = &flight{done: make(chan struct{}), seq: c.changes.Load()}
		c.listings.begun[w] = f
		c.run(func() {
			switch {
			case !w.dated:
				f.got, f.err = c.askContent(c.ctx, w.d)
			case fresh:
				f.got, f.err = c.askDates(c.ctx, have)
			default:
				if f.got, f.err = c.listNames(c.ctx, w.d); f.err == nil && f.got.undated {
					f.got, f.err = c.askDates(c.ctx, f.got)
				}
			}
			if f.err == nil && !c.changedSince(w.d, f.seq) {
				c.listings.put(w.d, f.got)
			}
			c.heard(f.err)
			c.listings.mu.Lock()
			if c.listings.begun[w] == f {
				delete(c.listings.begun, w)
			}
			c.listings.mu.Unlock()
			close(f.done)
		})
	}
	c.listings.mu.Unlock()
	old := have != nil && c.now().Sub(have.asked) < c.o.Stale
	err := c.await(ctx, f.done, old && !(w.dated && have.undated))
	if err == nil {
		if err = f.err; err == nil {
			return f.got, nil
		}
	}
	if old && c.away(err) {
		c.log.Debug("last known listing", "did", w.d, "of", have.asked, "err", err)
		return have, nil
	}
	return nil, err
}

// fewFiles is of how many files the times are asked for at once, whoever lists them.
const fewFiles = 100

// askContent lists a collection: its children in one stream, and what is known of them in pages. Of many files it does not ask for the
// times, which are not in the stream.
func (c *Catalogue) askContent(ctx context.Context, d backends.DID) (*listing, error) {
	asked := c.now()
	a, err := c.look(ctx, d)
	if err != nil {
		return nil, err
	}
	if !a.info.IsDir() {
		return nil, backends.ErrNotDir
	}
	var all []rest.Child
	note := func(r rest.Child) error {
		all = append(all, r)
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
	if i := slices.IndexFunc(all, func(r rest.Child) bool { return r.DID() == loose(d) }); i >= 0 && a.info.Type == backends.Container {
		all = slices.Delete(all, i, i+1)
		if err := children(loose(d), -1); err != nil && !errors.Is(err, backends.ErrNotExist) {
			return nil, err
		}
	}
	out := &listing{infos: make([]backends.Info, 0, len(all)), index: make(map[backends.DID]int, len(all)), asked: asked}
	files := 0
	for _, r := range all {
		if r.Type == rest.TypeFile {
			files++
		}
	}
	late := d.Name != "" && files > fewFiles // what is removed stands in a scope: its row tells
	have := c.listings.get(d)
	var ask []backends.DID
	for _, r := range all {
		child := r.DID()
		if _, twice := out.index[child]; twice {
			continue
		}
		out.index[child] = 0
		in := c.info(rest.Meta{Scope: r.Scope, Name: r.Name, Type: r.Type, Bytes: r.Bytes, Adler32: r.Adler32, MD5: r.MD5})
		if !late || r.Type != rest.TypeFile {
			ask = append(ask, child)
		} else {
			in.MTime, in.CTime = have.times(in)
			out.undated = out.undated || in.Undated()
		}
		out.infos = append(out.infos, in)
	}
	if err := c.fill(ctx, out, ask, d.Name == ""); err != nil {
		return nil, err
	}
	return out, nil
}

// askDates gives a listing with the times of its files.
func (c *Catalogue) askDates(ctx context.Context, l *listing) (*listing, error) {
	out := &listing{infos: slices.Clone(l.infos), index: maps.Clone(l.index), asked: l.asked}
	var ask []backends.DID
	for i := range out.infos {
		in := &out.infos[i]
		if !in.Undated() {
			continue
		}
		if a, ok := c.attrs.Peek(in.DID); ok && !a.none && c.fresh(a) {
			*in = a.info
			continue
		}
		ask = append(ask, in.DID)
	}
	return out, c.fill(ctx, out, ask, false)
}

// fill puts the rows of some of its DIDs into a listing, and takes out those that are gone, with visible those that were removed by
// their names as well. Then it is in order.
func (c *Catalogue) fill(ctx context.Context, l *listing, ask []backends.DID, visible bool) error {
	rows, err := c.c.BulkMeta(ctx, ask)
	if err != nil {
		return err
	}
	asked := make(map[backends.DID]bool, len(ask))
	for _, d := range ask {
		asked[d] = true
	}
	kept := l.infos[:0]
	for _, in := range l.infos {
		if asked[in.DID] {
			m, ok := rows[in.DID]
			if !ok {
				continue // gone meanwhile
			}
			at := c.attr(m, l.asked)
			if visible && at.hidden {
				continue // removed: it is in no collection because of that
			}
			in = at.info
		}
		kept = append(kept, in)
	}
	l.infos = kept
	slices.SortFunc(l.infos, func(a, b backends.Info) int { return strings.Compare(c.key(a.DID), c.key(b.DID)) })
	clear(l.index)
	for i, in := range l.infos {
		l.index[in.DID] = i
	}
	return nil
}

// times are those that an older listing has of the same file: its bytes are those of that time for ever.
func (l *listing) times(in backends.Info) (m, c time.Time) {
	if l == nil {
		return m, c
	}
	i, ok := l.index[in.DID]
	if !ok || l.infos[i].Generation != in.Generation {
		return m, c
	}
	return l.infos[i].MTime, l.infos[i].CTime
}

// known gives entry i of a listing as it is known now. The times of a file are zero where nobody asked for them.
func (c *Catalogue) known(l *listing, i int) backends.Info {
	in := l.infos[i]
	if in.Undated() && l.lookUps.Load() > 0 {
		if a, ok := c.attrs.Peek(in.DID); ok && !a.none && c.fresh(a) {
			return a.info
		}
	}
	return in
}

// shown is known with the epoch for times that are not.
func (c *Catalogue) shown(l *listing, i int) backends.Info {
	in := c.known(l, i)
	if in.Undated() {
		in.MTime, in.CTime = time.Unix(0, 0), time.Unix(0, 0)
	}
	return in
}

// mostAhead is of how many files that follow in a listing the rows are asked for with that of one.
const mostAhead = rest.Page - 1

// ahead are files that follow d in the listing, and whose times are not known: who looks one up after the other gets more of them each
// time, up to a page.
func (c *Catalogue) ahead(l *listing, d backends.DID) []backends.DID {
	i, ok := l.index[d]
	if !ok || !l.undated {
		return nil
	}
	most := 0
	switch n := l.lookUps.Add(1); {
	case n == 2:
		most = fewFiles
	case n > 2:
		most = mostAhead
	}
	var out []backends.DID
	for i++; i < len(l.infos) && len(out) < most; i++ {
		if in := c.known(l, i); in.Undated() {
			out = append(out, in.DID)
		}
	}
	return out
}
