package index

import (
	"context"
	"iter"
	"slices"

	"tarn/backends"
)

// pageSize is how many DIDs one question is about: Rucio's own bulk.
const pageSize = 1000

// describe asks for all that is known of the DIDs that are to be described. Those that are gone are dropped.
func (a *applier) describe() error {
	for len(a.todo)+len(a.relist) > 0 {
		if n := len(a.relist); n > 0 {
			d := a.relist[n-1]
			a.relist = a.relist[:n-1]
			i, err := a.idOf(d)
			if err == nil && i != 0 {
				err = a.level(d, nil)
			}
			if err != nil {
				return err
			}
			continue
		}
		slices.SortFunc(a.todo, compareDIDs)
		todo := slices.Compact(a.todo)
		a.todo = nil
		for part := range slices.Chunk(todo, pageSize) {
			infos, err := a.x.stats(a.ctx, part)
			if err != nil {
				return err
			}
			var all []backends.Info
			for _, d := range part {
				if in, ok := infos[d]; ok {
					all = append(all, in)
				} else if err := a.gone(d); err != nil {
					return err
				}
			}
			if err := a.fill(a.ctx, a.met, all); err != nil {
				return err
			}
		}
	}
	return nil
}

// stats asks for Infos; those that do not exist are missing.
func (x *Index) stats(ctx context.Context, dids []backends.DID) (map[backends.DID]backends.Info, error) {
	if x.o.Stats != nil {
		return x.o.Stats(ctx, dids)
	}
	out := make(map[backends.DID]backends.Info, len(dids))
	for _, d := range dids {
		in, err := x.o.Catalogue.Stat(ctx, d)
		switch {
		case isGone(err):
		case err != nil:
			return nil, err
		default:
			out[d] = in
		}
	}
	return out, nil
}

// fill stores what is known of DIDs that are in the cover: their Infos, and their metadata, which is asked for.
func (v *view) fill(ctx context.Context, met *metas, all []backends.Info) error {
	for part := range slices.Chunk(all, pageSize) {
		var dids []backends.DID
		for _, in := range part {
			if in.DID.Name != "" {
				dids = append(dids, in.DID)
			}
		}
		ms, err := met.of(ctx, dids)
		if err != nil {
			return err
		}
		for _, in := range part {
			i, err := v.idOf(in.DID)
			if err != nil {
				return err
			}
			if i == 0 {
				continue
			}
			if err := v.put(i, &record{info: in, meta: ms[in.DID], flat: v.x.o.Flat}); err != nil {
				return err
			}
		}
	}
	return nil
}

// subtree reads what is at and below d. What is in the cover is described, and so is what is found to be in its collections;
// what is in them no more leaves them.
func (a *applier) subtree(d backends.DID) error {
	in, err := a.x.o.Catalogue.Stat(a.ctx, d)
	if isGone(err) {
		return a.gone(d)
	}
	if err != nil {
		return err
	}
	if err := a.later(d); err != nil || !in.IsDir() {
		return err
	}
	seen := map[backends.DID]bool{d: true} // collections
	for stack := []backends.DID{d}; len(stack) > 0; {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if err := a.level(at, func(in backends.Info) {
			if in.IsDir() && !seen[in.DID] {
				seen[in.DID] = true
				stack = append(stack, in.DID)
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

// level lists one collection. What is in the cover of it is described, all is if the collection is. each, which may be nil, is told of
// what is met; without it what is new is read with all that is below it.
func (a *applier) level(at backends.DID, each func(backends.Info)) error {
	i, err := a.idOf(at)
	if err != nil {
		return err
	}
	met := map[id]bool{}
	err = a.x.contents(a.ctx, at, func(page []backends.Info) error {
		var known []backends.Info
		for _, in := range page {
			var c id
			var fresh bool
			var err error
			if i == 0 {
				c, err = a.idOf(in.DID)
			} else if c, fresh, err = a.ensure(in.DID); err == nil {
				a.link(i, c)
				met[c] = true
			}
			if err != nil {
				return err
			}
			switch {
			case c == 0:
			case each == nil && !fresh:
				continue
			default:
				known = append(known, in)
			}
			if each != nil {
				each(in)
			} else if fresh && in.IsDir() {
				if err := a.subtree(in.DID); err != nil {
					return err
				}
			}
		}
		return a.fill(a.ctx, a.met, known)
	})
	if err != nil || i == 0 {
		return err
	}
	return a.missing(i, met)
}

// missing takes out of a collection what was not met in it.
func (a *applier) missing(i id, met map[id]bool) error {
	had, err := a.children(i)
	if err != nil {
		return err
	}
	for _, c := range had {
		if met[c] {
			continue
		}
		r, err := a.record(c)
		if err != nil {
			return err
		}
		if r == nil {
			a.unlink(i, c)
			continue
		}
		if err := a.leave(i, r.info.DID); err != nil {
			return err
		}
	}
	return nil
}

// contents gives what is in a collection, the zero DID being the whole lake, in pages. One that is gone is empty.
func (x *Index) contents(ctx context.Context, d backends.DID, f func([]backends.Info) error) error {
	var seq iter.Seq2[backends.Info, error]
	if d.IsZero() {
		seq = x.o.Catalogue.Scopes(ctx)
	} else {
		seq = x.o.Catalogue.Contents(ctx, d, "")
	}
	page := make([]backends.Info, 0, pageSize)
	for in, err := range seq {
		if isGone(err) {
			break
		}
		if err != nil {
			return err
		}
		if page = append(page, in); len(page) == pageSize {
			if err := f(page); err != nil {
				return err
			}
			page = page[:0]
		}
	}
	if len(page) == 0 {
		return nil
	}
	return f(page)
}

// metas gives metadata with what is inherited. Where names tell from whom, it remembers that of directories.
type metas struct {
	x    *Index
	dirs map[backends.DID]backends.Meta
}

func (x *Index) newMetas() *metas { return &metas{x: x, dirs: map[backends.DID]backends.Meta{}} }

// mostDirs bounds the directories that are remembered.
const mostDirs = 10_000

func (m *metas) of(ctx context.Context, dids []backends.DID) (map[backends.DID]backends.Meta, error) {
	if len(dids) == 0 {
		return nil, nil
	}
	if m.x.o.Metas != nil {
		return m.x.o.Metas(ctx, dids)
	}
	out := make(map[backends.DID]backends.Meta, len(dids))
	for _, d := range dids {
		own, err := m.x.o.Catalogue.Meta(ctx, d)
		if isGone(err) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		if up, ok := m.x.o.Home(d); ok {
			above, err := m.dir(ctx, up)
			if err != nil {
				return nil, err
			}
			own = nearest(own, above)
		}
		out[d] = own
	}
	return out, nil
}

// dir is what holds for all in a directory.
func (m *metas) dir(ctx context.Context, d backends.DID) (backends.Meta, error) {
	if all, ok := m.dirs[d]; ok {
		return all, nil
	}
	all, err := m.x.o.Catalogue.Meta(ctx, d)
	if isGone(err) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	if up, ok := m.x.o.Home(d); ok {
		above, err := m.dir(ctx, up)
		if err != nil {
			return nil, err
		}
		all = nearest(all, above)
	}
	if len(m.dirs) >= mostDirs {
		clear(m.dirs)
	}
	m.dirs[d] = all
	return all, nil
}

// nearest adds to own metadata what is inherited.
func nearest(own, above backends.Meta) backends.Meta {
	if len(above) == 0 {
		return own
	}
	all := above.Clone()
	for k, v := range own {
		all[k] = v
	}
	return all
}
