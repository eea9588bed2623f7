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
		c.wg.Go(func() {
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
	switch err := c.await(ctx, f.done, old); {
	case err == nil:
		err = f.err
		if err == nil || !old || !c.away(err) {
			return f.got, err
		}
		fallthrough
	case errors.Is(err, errSlow):
		c.log.Debug("last known listing", "did", d, "of", have.asked, "err", err)
		return have, nil
	default:
		return nil, err
	}
}

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
	if c.ctx.Err() != nil {
		return attr{}, backends.ErrClosed
	}
	if d.Name == "" {
		return c.lookScope(ctx, d)
	}
	have, ok := c.attrs.Get(d)
	old := ok && !have.none && c.now().Sub(have.asked) < c.o.Stale
	if !ok || !c.fresh(have) && !(old && c.useOld(have.asked)) {
		got, err := c.asked(ctx, d, old)
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
			in, asked, ok = v.infos[i], v.asked, true
		}
	}
	return in, asked, ok
}

// lookAll is look of many, in pages; what does not exist is missing.
func (c *Catalogue) lookAll(ctx context.Context, dids []backends.DID) (map[backends.DID]attr, error) {
	if len(dids) == 1 {
		a, err := c.look(ctx, dids[0])
		if errors.Is(err, backends.ErrNotExist) {
			return nil, nil
		}
		return map[backends.DID]attr{dids[0]: a}, err
	}
	asked := c.now()
	rows, err := c.c.BulkMeta(ctx, dids)
	out := make(map[backends.DID]attr, len(rows))
	for d, m := range rows {
		out[d] = c.attr(m, asked)
	}
	return out, err
}

// ask gets one DID's row from the server.
func (c *Catalogue) ask(ctx context.Context, d backends.DID) (attr, error) {
	return c.asked(ctx, d, false)
}

// asked gets one DID's row, together with those of others that are wanted at the same time. Where an older one is at hand it does not
// wait for long.
func (c *Catalogue) asked(ctx context.Context, d backends.DID, old bool) (attr, error) {
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
	if b.running < atOnce {
		b.running++
		c.wg.Go(c.lookUps)
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
		c.marks.Add(d, c.changes.Add(1)) // first, so that no older answer is put in
		c.attrs.Remove(d)
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
	c.joined.Purge()
	c.ruled.Purge()
	c.mu.Lock()
	c.scoped, c.names, c.rses = time.Time{}, nil, nil
	c.mu.Unlock()
}

// dropBelow drops the listings of d and of the collections below it, as far as they are known.
func (c *Catalogue) dropBelow(d backends.DID, met map[backends.DID]bool) {
	l := c.listings.get(d)
	if l == nil || met[d] {
		return
	}
	met[d] = true
	c.listings.drop(d)
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
