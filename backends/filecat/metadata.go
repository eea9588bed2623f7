package filecat

import (
	"context"
	"fmt"
	"iter"
	"path"

	"tarn/backends"
)

// UserMeta gives the metadata of a DID with that of the directories above it, nearest wins
// (getFileUserMetadata, getDirectoryUserMetadata), and its own alone. ErrNotExist.
func (c *Catalogue) UserMeta(ctx context.Context, d backends.DID) (all, own backends.Meta, err error) {
	if own, err = c.o.Catalogue.Meta(ctx, d); err != nil {
		return nil, nil, err
	}
	all = own.Clone()
	if full, ok := c.o.Catalogue.(backends.Inheriting); ok {
		m, err := full.FullMeta(ctx, d)
		inherit(all, m[d])
		return all, own, err
	}
	err = c.above(ctx, d, func(_ backends.DID, m backends.Meta) error {
		inherit(all, m)
		return nil
	})
	return all, own, err
}

// inherit adds what all lacks of m.
func inherit(all, m backends.Meta) {
	for k, v := range m {
		if _, nearer := all[k]; !nearer {
			all[k] = v
		}
	}
}

// above calls f for the directories above d, the nearest first, with their own metadata. In a catalogue that does not say itself
// what is inherited (Inheriting), names that are no paths have none.
func (c *Catalogue) above(ctx context.Context, d backends.DID, f func(backends.DID, backends.Meta) error) error {
	if _, ok := c.o.Catalogue.(backends.Inheriting); ok {
		return c.aboveByParents(ctx, d, f)
	}
	for up := d; c.o.Tree.IsPath(up); {
		if up.Name = path.Dir(up.Name); up.Name == "/" {
			return nil
		}
		m, err := c.o.Catalogue.Meta(ctx, up)
		if isNotExist(err) {
			return nil // a name that is no path in the tree
		}
		if err != nil {
			return err
		}
		if err := f(up, m); err != nil {
			return err
		}
	}
	return nil
}

// maxAbove bounds the collections above one.
const maxAbove = 1000

// aboveByParents climbs as the catalogue has it; a collection can be in several.
func (c *Catalogue) aboveByParents(ctx context.Context, d backends.DID, f func(backends.DID, backends.Meta) error) error {
	seen := map[backends.DID]bool{d: true}
	for next := []backends.DID{d}; len(next) > 0; next = next[1:] {
		for up, err := range c.o.Catalogue.Parents(ctx, next[0]) {
			if err != nil {
				return err
			}
			if seen[up] || up.Name == "" {
				continue
			}
			if len(seen) > maxAbove {
				return fmt.Errorf("%s is in more than %d collections: %w", d, maxAbove, backends.ErrQuota)
			}
			seen[up] = true
			m, err := c.o.Catalogue.Meta(ctx, up)
			if err != nil && !isNotExist(err) {
				return err
			}
			if err := f(up, m); err != nil {
				return err
			}
			next = append(next, up)
		}
	}
	return nil
}

// atOnce is of how many DIDs metadata is asked for together.
const atOnce = 500

// full gives the metadata of one page of DIDs after the other, with what they inherit.
type full struct {
	c    *Catalogue
	dir  string // of the last one, where names are paths
	meta backends.Meta
}

// of is that of a page. What is gone is left out.
func (u *full) of(ctx context.Context, page []backends.Info) (map[backends.DID]backends.Meta, error) {
	dids := make([]backends.DID, len(page))
	for i, in := range page {
		dids[i] = in.DID
	}
	if all, ok := u.c.o.Catalogue.(backends.Inheriting); ok {
		return all.FullMeta(ctx, dids...)
	}
	out := make(map[backends.DID]backends.Meta, len(page))
	for _, d := range dids {
		m, err := u.one(ctx, d)
		if err == nil {
			out[d] = m
		} else if !isNotExist(err) {
			return nil, err
		}
	}
	return out, nil
}

func (u *full) one(ctx context.Context, d backends.DID) (backends.Meta, error) {
	own, err := u.c.o.Catalogue.Meta(ctx, d)
	if err != nil || !u.c.o.Tree.IsPath(d) {
		return own, err
	}
	own = own.Clone()
	if dir := path.Dir(d.Name); dir != u.dir {
		m := backends.Meta{}
		if err := u.c.above(ctx, d, func(_ backends.DID, has backends.Meta) error { inherit(m, has); return nil }); err != nil {
			return nil, err
		}
		u.dir, u.meta = dir, m
	}
	inherit(own, u.meta)
	return own, nil
}

// withMeta adds to each DID of a sequence its metadata with what it inherits. What is gone meanwhile is left out.
func (c *Catalogue) withMeta(ctx context.Context, infos iter.Seq2[backends.Info, error]) iter.Seq2[backends.Entry, error] {
	return func(yield func(backends.Entry, error) bool) {
		up := &full{c: c}
		var page []backends.Info
		flush := func() bool {
			metas, err := up.of(ctx, page)
			if err != nil {
				yield(backends.Entry{}, fmt.Errorf("metadata: %w", err))
				return false
			}
			for _, in := range page {
				if m, ok := metas[in.DID]; ok && !yield(backends.Entry{Info: in, Meta: m}, nil) {
					return false
				}
			}
			page = page[:0]
			return true
		}
		for in, err := range infos {
			if err != nil {
				yield(backends.Entry{}, err)
				return
			}
			if page = append(page, in); len(page) == atOnce && !flush() {
				return
			}
		}
		flush()
	}
}

// ToSet gives metadata in the form in which it is to be set on a DID: each value in the form of its field
// (Schema.Values). A field that is declared for directories cannot be set on one when a directory above has it: DIRAC's
// metadata conflict, which is ErrExist.
func (c *Catalogue) ToSet(ctx context.Context, s Schema, in backends.Info, m backends.Meta) (backends.Meta, error) {
	out, err := s.Values(m)
	if err != nil || !in.IsDir() {
		return out, err
	}
	declared := false
	for k, v := range m {
		declared = declared || v != nil && s[k].For == Directory
	}
	if !declared {
		return out, nil
	}
	return out, c.above(ctx, in.DID, func(up backends.DID, has backends.Meta) error {
		for k, v := range m {
			if _, is := has[k]; is && v != nil && s[k].For == Directory {
				return fmt.Errorf("metadata conflict: %s is set on %s already, and holds for all below it: %w", k, up.Name, backends.ErrExist)
			}
		}
		return nil
	})
}
