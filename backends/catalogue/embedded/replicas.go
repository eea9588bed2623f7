package embedded

import (
	"context"
	"fmt"
	"slices"

	"tarn/backends"
)

// maxReplicas bounds the copies of one file, so that their record fits a transaction.
const maxReplicas = 1000

func (v *view) replicas(ino uint64) ([]backends.Replica, error) {
	val, err := v.get(replicasKey(ino))
	if err != nil || val == nil {
		return nil, err
	}
	return decodeReplicas(val)
}

// putReplicas writes the copies of an inode; of two at one RSE the later counts.
func (t *tx) putReplicas(ino uint64, rs []backends.Replica) error {
	if len(t.c.o.Places) > 0 {
		old, err := t.replicas(ino)
		if err != nil {
			return err
		}
		if err := t.letGo(old); err != nil {
			return err
		}
	}
	if len(rs) == 0 {
		t.del(replicasKey(ino))
		return nil
	}
	if len(rs) > 1 {
		at := map[string]int{}
		once := make([]backends.Replica, 0, len(rs))
		for _, r := range rs {
			if i, twice := at[r.RSE]; twice {
				once[i] = r
				continue
			}
			at[r.RSE] = len(once)
			once = append(once, r)
		}
		rs = once
	}
	t.set(replicasKey(ino), encodeReplicas(rs))
	return t.hold(rs)
}

// file finds d, which must be a file.
func (f finder) file(d backends.DID) (home, error) {
	h, err := f.mustFind(d)
	if err == nil && h.IsDir() {
		err = backends.ErrIsDir
	}
	return h, err
}

// Replicas lists the copies of the file d.
func (c *Catalogue) Replicas(ctx context.Context, d backends.DID) (rs []backends.Replica, err error) {
	epoch := c.paths.begin()
	err = c.read(ctx, func(v *view) error {
		h, err := finder{view: v, epoch: epoch}.file(d)
		if err != nil {
			return err
		}
		rs, err = v.replicas(h.Inode)
		return err
	})
	if err != nil {
		return nil, opError("replicas", d, err)
	}
	return rs, nil
}

// PutReplica adds the replica, or replaces the one at the same RSE.
func (c *Catalogue) PutReplica(ctx context.Context, d backends.DID, gen backends.Generation, r backends.Replica) error {
	err := c.update(ctx, false, func(t *tx) error {
		h, err := t.find().file(d)
		if err != nil {
			return err
		}
		if gen != "" && gen != h.Generation {
			return fmt.Errorf("its generation is %s, not %s: %w", h.Generation, gen, backends.ErrStale)
		}
		if h.IsSymlink() {
			return fmt.Errorf("a symbolic link has no replicas: %w", backends.ErrNotSupported)
		}
		rs, err := t.replicas(h.Inode)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(rs, func(x backends.Replica) bool { return x.RSE == r.RSE }); i >= 0 {
			rs[i] = r
		} else if len(rs) == maxReplicas {
			return fmt.Errorf("more than %d replicas: %w", maxReplicas, backends.ErrQuota)
		} else {
			rs = append(rs, r)
		}
		return t.putReplicas(h.Inode, rs)
	})
	if err != nil {
		return opError("put replica at "+r.RSE+" of", d, err)
	}
	return nil
}

// DropReplica forgets the replica at the RSE, if it has this path.
func (c *Catalogue) DropReplica(ctx context.Context, d backends.DID, rse, pfn string) error {
	err := c.update(ctx, true, func(t *tx) error {
		h, err := t.find().file(d)
		if err != nil {
			return err
		}
		rs, err := t.replicas(h.Inode)
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(rs, func(x backends.Replica) bool { return x.RSE == rse && (pfn == "" || x.PFN == pfn) })
		if len(left) == len(rs) {
			return nil
		}
		return t.putReplicas(h.Inode, left)
	})
	if err != nil {
		return opError("drop replica at "+rse+" of", d, err)
	}
	return nil
}

// Meta gives d's own metadata.
func (c *Catalogue) Meta(ctx context.Context, d backends.DID) (m backends.Meta, err error) {
	epoch := c.paths.begin()
	err = c.read(ctx, func(v *view) error {
		h, err := finder{view: v, epoch: epoch}.mustFind(d)
		if err != nil {
			return err
		}
		m, err = v.meta(h.entry)
		return err
	})
	if err != nil {
		return nil, opError("metadata", d, err)
	}
	return m, nil
}

// meta reads the metadata of an entry; none is an empty map.
func (v *view) meta(e *entry) (backends.Meta, error) {
	if !e.hasMeta {
		return backends.Meta{}, nil
	}
	val, err := v.get(metaKey(e.Inode))
	if err != nil || val == nil {
		return backends.Meta{}, err
	}
	return decodeMeta(val)
}

// SetMeta merges m into d's metadata. CTime becomes now, as for extended attributes.
func (c *Catalogue) SetMeta(ctx context.Context, d backends.DID, m backends.Meta) error {
	err := c.update(ctx, false, func(t *tx) error {
		h, err := t.find().mustFind(d)
		if err != nil || len(m) == 0 {
			return err
		}
		h.CTime = t.now
		return t.mergeMeta(h, m)
	})
	if err != nil {
		return opError("set metadata", d, err)
	}
	return nil
}

// mergeMeta merges m into what h has, and writes h's entry.
func (t *tx) mergeMeta(h home, m backends.Meta) error {
	var old []byte
	if h.hasMeta {
		var err error
		if old, err = t.get(metaKey(h.Inode)); err != nil {
			return err
		}
	}
	if err := t.putMeta(h.entry, old, m); err != nil {
		return err
	}
	t.set(entryKey(h.dir.ino, h.name), h.entry.encode())
	return nil
}

// putMeta writes old merged with m as the metadata of e, and notes in e that it has
// some; e's entry is the caller's to write.
func (t *tx) putMeta(e *entry, old []byte, m backends.Meta) error {
	val, err := old, error(nil)
	if len(m) > 0 {
		if val, err = mergeMeta(old, m); err != nil {
			return err
		}
	}
	switch {
	case val != nil:
		t.set(metaKey(e.Inode), val)
	case old != nil || e.hasMeta:
		t.del(metaKey(e.Inode))
	}
	e.hasMeta = val != nil
	return nil
}
