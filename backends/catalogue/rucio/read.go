package rucio

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/query"
)

// Stat gives the Info of d. A name that was removed is found only where it is in a collection again.
func (c *Catalogue) Stat(ctx context.Context, d backends.DID) (backends.Info, error) {
	a, err := c.stat(ctx, d)
	return a.info, edge("stat", d, err)
}

func (c *Catalogue) stat(ctx context.Context, d backends.DID) (attr, error) {
	if d.Name != "" || c.isLFN() {
		if err := c.checkName(d); err != nil {
			return attr{}, err
		}
	}
	a, err := c.look(ctx, d)
	if err == nil && (isLoose(d) && a.info.Type == backends.Dataset) {
		return attr{}, backends.ErrNotExist // the tree shows what is in it
	}
	if err == nil && a.hidden {
		parents, perr := c.c.Parents(ctx, d)
		if perr == nil && len(parents) == 0 {
			perr = backends.ErrNotExist
		}
		return a, perr
	}
	if !errors.Is(err, backends.ErrNotExist) || !c.isLFN() || c.isRoot(d) || strings.Count(d.Name, "/") < 2 {
		return a, err
	}
	// A file in the middle of the path is another error.
	for up := c.home(d); ; up = c.home(up) {
		switch p, perr := c.look(ctx, up); {
		case perr == nil && !p.info.IsDir():
			return attr{}, backends.ErrNotDir
		case perr == nil, !errors.Is(perr, backends.ErrNotExist):
			return attr{}, err
		case c.isRoot(up) || strings.Count(up.Name, "/") < 2:
			return attr{}, err
		}
	}
}

// Contents streams the children of d in the order of their names.
func (c *Catalogue) Contents(ctx context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		a, err := c.stat(ctx, d)
		if err == nil && !a.info.IsDir() {
			err = backends.ErrNotDir
		}
		var l *listing
		if err == nil {
			l, err = c.list(ctx, d)
		}
		if err != nil {
			yield(backends.Info{}, edge("list", d, err))
			return
		}
		i := sort.Search(len(l.infos), func(i int) bool { return c.key(l.infos[i].DID) > after })
		if after == "" {
			i = 0
		}
		for _, in := range l.infos[i:] {
			if c.ctx.Err() != nil {
				yield(backends.Info{}, edge("list", d, backends.ErrClosed))
				return
			}
			if !yield(in, nil) {
				return
			}
		}
	}
}

// Member gives the Info of child if it is in the collection dir; ErrNotExist. What is known of dir's content answers, else two
// calls do.
func (c *Catalogue) Member(ctx context.Context, dir, child backends.DID) (backends.Info, error) {
	if l := c.listings.get(dir); dir.Name == "" || l != nil && c.now().Sub(l.asked) < c.o.TTL {
		l, err := c.list(ctx, dir)
		if err != nil {
			return backends.Info{}, edge("look up", child, err)
		}
		i, ok := l.index[child]
		if !ok {
			return backends.Info{}, edge("look up", child, backends.ErrNotExist)
		}
		return l.infos[i], nil
	}
	a, err := c.look(ctx, child)
	if err == nil {
		var parents []backends.DID
		parents, err = c.c.Parents(ctx, child)
		if err == nil && !slices.Contains(parents, dir) && !slices.Contains(parents, loose(dir)) {
			err = backends.ErrNotExist
		}
	}
	if l := c.listings.get(dir); err != nil && c.away(err) && l != nil && c.now().Sub(l.asked) < c.o.Stale { // as it was seen last
		if i, ok := l.index[child]; ok {
			return l.infos[i], nil
		}
	}
	return a.info, edge("look up", child, err)
}

// Parents streams the collections that d is in, a container for its loose files.
func (c *Catalogue) Parents(ctx context.Context, d backends.DID) iter.Seq2[backends.DID, error] {
	return func(yield func(backends.DID, error) bool) {
		if _, err := c.look(ctx, d); err != nil {
			yield(backends.DID{}, edge("parents", d, err))
			return
		}
		all, err := c.c.Parents(ctx, d)
		if err != nil {
			yield(backends.DID{}, edge("parents", d, err))
			return
		}
		for i, p := range all {
			if isLoose(p) {
				p.Name = strings.TrimSuffix(p.Name, "/"+filesName)
			}
			if slices.Contains(all[:i], p) {
				continue
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

// copies is what is known of a file's replicas.
type copies struct {
	list  []backends.Replica
	asked time.Time
}

// replicaTTL is how long the replicas of a file are taken for what they were.
const replicaTTL = 30 * time.Second

// badness is what was wrong with a copy. The server may take no note of it, so it is not read for badFor; after that it is tried again, for
// Rucio may have repaired it.
type badness struct {
	why   string
	since time.Time
}

const badFor = time.Hour

// Replicas lists the copies of the file d.
func (c *Catalogue) Replicas(ctx context.Context, d backends.DID) ([]backends.Replica, error) {
	have, ok := c.replicas.Get(d)
	if !ok || c.now().Sub(have.asked) >= min(c.o.TTL, replicaTTL) && !c.useOld(have.asked) {
		seq := c.changes.Load()
		got, err := c.askReplicas(ctx, d)
		switch {
		case err == nil:
			if have = got; !c.changedSince(d, seq) {
				c.replicas.Add(d, got)
			}
		case ok && c.away(err) && c.now().Sub(have.asked) < c.o.Stale:
		default:
			return nil, edge("replicas", d, err)
		}
	}
	out := slices.Clone(have.list)
	for i := range out {
		if b, bad := c.bad.Get(at{d, out[i].RSE}); bad && c.now().Sub(b.since) < badFor {
			out[i].State, out[i].Error = backends.Bad, b.why
		}
	}
	return out, nil
}

func (c *Catalogue) askReplicas(ctx context.Context, d backends.DID) (copies, error) {
	asked := c.now()
	a, err := c.stat(ctx, d)
	switch {
	case err != nil:
		return copies{}, err
	case a.info.IsDir():
		return copies{}, backends.ErrIsDir
	}
	rows, err := c.c.ListReplicas(ctx, []backends.DID{d})
	if err != nil {
		return copies{}, err
	}
	rses, err := c.rsesOf(ctx, slices.Collect(maps.Keys(rows[d].States)))
	if err != nil {
		return copies{}, err
	}
	return copies{c.replicasOf(rses, rows[d]), asked}, nil
}

// states are tarn's words for Rucio's.
var states = map[string]backends.ReplicaState{
	"AVAILABLE": backends.Available, "COPYING": backends.Copying, "BAD": backends.Bad, "BEING_DELETED": backends.BeingDeleted,
}

// replicasOf reads a row, in the order of the RSEs' names.
func (c *Catalogue) replicasOf(rses map[string]rest.RSE, row rest.Replicas) []backends.Replica {
	var out []backends.Replica
	for _, name := range slices.Sorted(maps.Keys(row.States)) {
		r := backends.Replica{RSE: name, State: states[row.States[name]]}
		if r.State == "" {
			r.State, r.Error = backends.Bad, "Rucio says "+row.States[name]
		}
		for _, pfn := range row.RSEs[name] {
			if p, ok := rses[name].Below(pfn); ok {
				r.PFN = p
				break
			}
		}
		if r.PFN == "" { // e.g. all its protocols are of schemes that are not asked for
			if r.PFN, _ = place(rses[name], row.DID()); r.PFN == "" {
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// Meta gives what users have set, in columns or as JSON.
func (c *Catalogue) Meta(ctx context.Context, d backends.DID) (backends.Meta, error) {
	if _, err := c.stat(ctx, d); err != nil {
		return nil, edge("metadata", d, err)
	}
	if d.Name == "" {
		return backends.Meta{}, nil
	}
	m, err := c.c.UserMeta(ctx, d)
	return m, edge("metadata", d, err)
}

// SetMeta sets keys, and deletes those whose value is nil.
func (c *Catalogue) SetMeta(ctx context.Context, d backends.DID, m backends.Meta) error {
	if _, err := c.stat(ctx, d); err != nil {
		return edge("set metadata", d, err)
	}
	if d.Name == "" {
		return edge("set metadata", d, fmt.Errorf("a scope has none in Rucio: %w", backends.ErrNotSupported))
	}
	set := map[string]any{}
	for k, v := range m {
		if v != nil {
			set[k] = v
			continue
		}
		if err := c.c.DeleteMeta(ctx, d, k); err != nil && !errors.Is(err, backends.ErrNotExist) {
			return edge("delete metadata "+k, d, err)
		}
	}
	if len(set) == 0 {
		return nil
	}
	return edge("set metadata", d, c.c.SetMeta(ctx, d, set))
}

// Find streams the DIDs at or below root for which q matches: it walks the tree, and asks for metadata in pages.
func (c *Catalogue) Find(ctx context.Context, root backends.DID, q query.Expr) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		f := &finder{c: c, q: q, seen: map[backends.DID]bool{}, yield: yield}
		for _, k := range keysOf(q) {
			f.meta = f.meta || !backends.Builtin(k) || k == "GUID"
			f.copies = f.copies || k == "SE" || k == "Status"
		}
		if !root.IsZero() {
			in, err := c.Stat(ctx, root)
			var above backends.Meta
			if err == nil && f.meta {
				above, err = c.inherited(ctx, root)
			}
			if err == nil {
				err = f.level(ctx, []backends.Info{in}, above, 0)
			}
			if err != nil && !errors.Is(err, errEnough) {
				yield(backends.Info{}, edge("find below", root, err))
			}
			return
		}
		for in, err := range c.Scopes(ctx) {
			if err == nil {
				err = f.level(ctx, []backends.Info{in}, nil, 0)
			}
			if errors.Is(err, errEnough) {
				return
			}
			if err != nil {
				yield(backends.Info{}, err)
				return
			}
		}
	}
}

func keysOf(q query.Expr) []string {
	if q == nil {
		return nil
	}
	return query.Keys(q)
}

var errEnough = errors.New("enough")

// finder is one Find.
type finder struct {
	c      *Catalogue
	q      query.Expr
	meta   bool // it asks for metadata
	copies bool // it asks for replicas
	rses   map[string]rest.RSE
	seen   map[backends.DID]bool
	yield  func(backends.Info, error) bool
}

// maxLevels bounds how deep collections may stand in one another.
const maxLevels = 128

// level matches entries and goes into those that are collections; above is the metadata of those above.
func (f *finder) level(ctx context.Context, all []backends.Info, above backends.Meta, depth int) error {
	if depth > maxLevels {
		return backends.ErrLoop
	}
	for part := range slices.Chunk(all, rest.Page) {
		own := map[backends.DID]backends.Meta{}
		if f.meta {
			var dids []backends.DID
			for _, in := range part {
				if in.DID.Name != "" {
					dids = append(dids, in.DID)
				}
			}
			var err error
			if own, err = f.c.c.BulkUserMeta(ctx, dids); err != nil {
				return err
			}
		}
		var copies map[backends.DID]rest.Replicas
		if f.copies {
			var err error
			if copies, err = f.replicas(ctx, part); err != nil {
				return err
			}
		}
		for _, in := range part {
			if f.seen[in.DID] {
				continue // it is in several collections
			}
			f.seen[in.DID] = true
			m := own[in.DID]
			if len(above) > 0 {
				m = above.Clone()
				maps.Copy(m, own[in.DID])
			}
			subject := backends.Subject{Info: &in, Meta: m, Flat: !f.c.isLFN(), Replicas: func() []backends.Replica { return f.c.replicasOf(f.rses, copies[in.DID]) }}
			if in.DID.Name != "" && (f.q == nil || f.q.Match(subject.Value)) && !f.yield(in, nil) {
				return errEnough
			}
			if !in.IsDir() {
				continue
			}
			l, err := f.c.list(ctx, in.DID)
			if errors.Is(err, backends.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				return err
			}
			if !f.c.isLFN() {
				m = nil // metadata goes down paths only
			}
			if err := f.level(ctx, l.infos, m, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// replicas asks for those of the files among all.
func (f *finder) replicas(ctx context.Context, all []backends.Info) (map[backends.DID]rest.Replicas, error) {
	var err error
	if f.rses == nil {
		if f.rses, err = f.c.RSEs(ctx); err != nil {
			return nil, err
		}
	}
	var dids []backends.DID
	for _, in := range all {
		if !in.IsDir() {
			dids = append(dids, in.DID)
		}
	}
	return f.c.c.ListReplicas(ctx, dids)
}

// inherited is the metadata of the collections above d; nearest wins.
func (c *Catalogue) inherited(ctx context.Context, d backends.DID) (backends.Meta, error) {
	if !c.isLFN() || c.isRoot(d) {
		return nil, nil
	}
	var ups []backends.DID
	for up := c.home(d); up.Name != "/"; up = c.home(up) {
		ups = append(ups, up)
		if c.isRoot(up) {
			break
		}
	}
	all, err := c.c.BulkUserMeta(ctx, ups)
	out := backends.Meta{}
	for _, up := range slices.Backward(ups) {
		maps.Copy(out, all[up])
	}
	return out, err
}
