package filecat

import (
	"context"
	"fmt"
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

// above calls f for the directories above d, the nearest first, with their own metadata. Names that are no paths have none.
func (c *Catalogue) above(ctx context.Context, d backends.DID, f func(backends.DID, backends.Meta) error) error {
	for up := d; isPath(up); {
		up.Name = path.Dir(up.Name)
		if !isPath(up) && up.Name != "/"+d.Scope {
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

// isPath tells whether a DID's name is a path below its scope.
func isPath(d backends.DID) bool {
	n := len(d.Scope) + 2
	return len(d.Name) > n && d.Name[:n] == "/"+d.Scope+"/"
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
