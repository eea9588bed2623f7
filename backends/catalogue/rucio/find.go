package rucio

import (
	"context"
	"errors"
	"iter"
	"slices"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/query"
)

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
			if err == nil {
				err = f.level(ctx, []backends.Info{in}, meeting{}, 0)
			}
			if err != nil && !errors.Is(err, errEnough) {
				yield(backends.Info{}, edge("find below", root, err))
			}
			return
		}
		for in, err := range c.Scopes(ctx) {
			if err == nil {
				err = f.level(ctx, []backends.Info{in}, meeting{}, 0)
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

// level matches entries and goes into those that are collections. Metadata comes with that of the collections above, from the server.
func (f *finder) level(ctx context.Context, all []backends.Info, in meeting, depth int) error {
	if depth > maxLevels {
		return backends.ErrLoop
	}
	for part := range slices.Chunk(all, rest.Page) {
		var metas map[backends.DID]backends.Meta
		if f.meta {
			var dids []backends.DID
			for _, in := range part {
				if in.DID.Name != "" {
					dids = append(dids, in.DID)
				}
			}
			var err error
			if metas, err = f.c.c.BulkUserMeta(ctx, dids); err != nil {
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
		for _, x := range part {
			if f.seen[x.DID] {
				continue // it is in several collections
			}
			f.seen[x.DID] = true
			if in.in.Name != "" && !f.c.isLFN() {
				f.c.met.Add(x.DID, in)
			}
			subject := backends.Subject{Info: &x, Meta: metas[x.DID], Flat: !f.c.isLFN(), Replicas: func() []backends.Replica { return f.c.replicasOf(f.rses, copies[x.DID]) }}
			if x.DID.Name != "" && (f.q == nil || f.q.Match(subject.Value)) && !f.yield(x, nil) {
				return errEnough
			}
			if !x.IsDir() {
				continue
			}
			l, err := f.c.list(ctx, x.DID)
			if errors.Is(err, backends.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				return err
			}
			if err := f.level(ctx, l.infos, meeting{x.DID, l.asked}, depth+1); err != nil {
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
