package rucio

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"
	"strings"
	"time"

	"tarn/backends"
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
	return c.contents(ctx, d, after, c.list)
}

// Names is Contents without the times of files that are not known.
func (c *Catalogue) Names(ctx context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error] {
	return c.contents(ctx, d, after, c.listNames)
}

func (c *Catalogue) contents(ctx context.Context, d backends.DID, after string, list func(context.Context, backends.DID) (*listing, error)) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		a, err := c.stat(ctx, d)
		if err == nil && !a.info.IsDir() {
			err = backends.ErrNotDir
		}
		var l *listing
		if err == nil {
			l, err = list(ctx, d)
		}
		if err != nil {
			yield(backends.Info{}, edge("list", d, err))
			return
		}
		i := sort.Search(len(l.infos), func(i int) bool { return c.key(l.infos[i].DID) > after })
		if after == "" {
			i = 0
		}
		for ; i < len(l.infos); i++ {
			if c.ctx.Err() != nil {
				yield(backends.Info{}, edge("list", d, backends.ErrClosed))
				return
			}
			if !yield(c.known(l, i), nil) {
				return
			}
		}
	}
}

// Member gives the Info of child if it is in the collection dir; ErrNotExist. What is known of dir's content answers, else two
// calls do.
func (c *Catalogue) Member(ctx context.Context, dir, child backends.DID) (backends.Info, error) {
	if l := c.listings.get(dir); l != nil {
		i, ok := l.index[child]
		switch age := c.now().Sub(l.asked); {
		case ok && age < c.o.TTL:
			if in := c.known(l, i); !in.Undated() {
				return in, nil
			}
			a, err := c.lookIn(ctx, child, l)
			return a.info, edge("look up", child, err)
		case !ok && age < c.o.NegativeTTL: // it may have come since
			return backends.Info{}, edge("look up", child, backends.ErrNotExist)
		}
	}
	a, err := c.stat(ctx, child)
	if err == nil {
		var parents []backends.DID
		parents, err = c.c.Parents(ctx, child)
		if err == nil && !slices.Contains(parents, dir) && !slices.Contains(parents, loose(dir)) {
			err = backends.ErrNotExist
		}
	}
	if l := c.listings.get(dir); err != nil && c.away(err) && l != nil && c.now().Sub(l.asked) < c.o.Stale { // as it was seen last
		if i, ok := l.index[child]; ok {
			return c.shown(l, i), nil
		}
	}
	return a.info, edge("look up", child, err)
}

// meeting is where a DID was seen in its collection.
type meeting struct {
	in    backends.DID
	asked time.Time // for the content of that
}

// Parents streams the collections that d is in, a container for its loose files. The one that a query came by is the first, and costs
// no call.
func (c *Catalogue) Parents(ctx context.Context, d backends.DID) iter.Seq2[backends.DID, error] {
	return func(yield func(backends.DID, error) bool) {
		m, met := c.met.Get(d)
		if met = met && c.now().Sub(m.asked) < c.o.TTL; met && !yield(m.in, nil) {
			return
		}
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
			if slices.Contains(all[:i], p) || met && p == m.in {
				continue
			}
			if !yield(p, nil) {
				return
			}
		}
	}
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

// FullMeta gives what users have set on each DID and on the collections above it, in ceil(n/rest.Page) calls.
func (c *Catalogue) FullMeta(ctx context.Context, dids ...backends.DID) (map[backends.DID]backends.Meta, error) {
	named := make([]backends.DID, 0, len(dids))
	for _, d := range dids {
		if d.Name != "" {
			named = append(named, d)
		}
	}
	all, err := c.c.BulkUserMeta(ctx, named)
	if err != nil {
		return nil, &backends.OpError{Op: "metadata", At: fmt.Sprintf("%d DIDs", len(dids)), Err: err}
	}
	for _, d := range dids {
		if d.Name == "" { // a scope has none
			all[d] = backends.Meta{}
		}
	}
	return all, nil
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
