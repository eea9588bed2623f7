package embedded

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"tarn/backends"
)

// Add creates a DID, or replaces the content of a file.
//
// The times of the collection it comes into move to the CTime of the new DID, unless
// they were changed since: a registration that comes late does not undo a utimes(2).
func (c *Catalogue) Add(ctx context.Context, in backends.Info, meta backends.Meta, at ...backends.Replica) error {
	err := c.update(ctx, false, func(t *tx) error {
		_, err := t.add(t.find(), in, meta, at, true)
		return err
	})
	if err != nil {
		return opError("add", in.DID, err)
	}
	return nil
}

// add is Add in a transaction; new tells whether anything but replicas and metadata
// of what existed was written. touch moves the times of the collection.
func (t *tx) add(f finder, in backends.Info, meta backends.Meta, at []backends.Replica, touch bool) (fresh bool, err error) {
	h, err := f.lookup(in.DID, false)
	if err != nil {
		return false, err
	}
	if err := t.complete(&in, at); err != nil {
		return false, err
	}
	if h.entry != nil {
		return t.addOver(h, in, meta, at)
	}
	if taken, err := t.has(memberKey(h.dir.ino, h.name)); err != nil || taken {
		return false, errOr(err, fmt.Errorf("a member of that name is attached: %w", backends.ErrExist))
	}
	e := &entry{Info: in}
	if err := t.allot(e); err != nil {
		return false, err
	}
	here := place{parent: h.dir.ino, name: h.name}
	t.set(placeKey(e.Inode), here.encode())
	if h.dir.flat {
		t.set(topKey(h.dir.ino, h.name), nil)
	}
	if err := t.putMeta(e, nil, meta); err != nil {
		return false, err
	}
	t.set(entryKey(h.dir.ino, h.name), e.encode())
	if len(at) > 0 {
		if err := t.putReplicas(e.Inode, at); err != nil {
			return false, err
		}
	}
	t.count(e, 1)
	t.event(h.dir, "attach", in.DID, in.Generation)
	if touch {
		if !in.Born.IsZero() {
			return true, t.touch(h.dir, in.Born)
		}
		return true, t.touch(h.dir, e.CTime)
	}
	return true, nil
}

func errOr(err, or error) error {
	if err != nil {
		return err
	}
	return or
}

// complete checks what a caller gave and fills in what Add promises to.
func (t *tx) complete(in *backends.Info, at []backends.Replica) error {
	switch {
	case in.Type < backends.File || in.Type > backends.Container:
		return fmt.Errorf("%s: %w", in.Type, backends.ErrNotSupported)
	case in.IsDir() && (len(at) > 0 || in.Target != ""):
		return fmt.Errorf("a collection has no replicas and no target: %w", backends.ErrNotSupported)
	case in.Target != "" && len(at) > 0:
		return fmt.Errorf("a symbolic link has no replicas: %w", backends.ErrNotSupported)
	case len(in.Target) > maxName:
		return fmt.Errorf("target of %d bytes: %w", len(in.Target), backends.ErrNameTooLong)
	case len(at) > maxReplicas:
		return fmt.Errorf("%d replicas, at most %d: %w", len(at), maxReplicas, backends.ErrQuota)
	case in.Size < 0:
		return fmt.Errorf("size %d: %w", in.Size, backends.ErrNotSupported)
	}
	if in.CTime.IsZero() {
		in.CTime = t.now
	}
	if in.MTime.IsZero() {
		in.MTime = in.CTime
	}
	in.Mode &= 07777
	in.Layout = ""
	switch {
	case in.IsDir():
		in.Size, in.Checksums, in.Generation = 0, backends.Checksums{}, ""
	case in.IsSymlink():
		in.Size, in.Checksums, in.Generation = int64(len(in.Target)), backends.Checksums{}, ""
	case in.Generation == "":
		in.Generation = backends.GenerationOf(in.DID, in.Size, in.Checksums)
	}
	return nil
}

// allot gives e an inode, or checks the one that the caller chose.
func (t *tx) allot(e *entry) (err error) {
	if e.Inode == 0 {
		e.Inode, err = t.newInode()
		return err
	}
	if used, err := t.has(placeKey(e.Inode)); err != nil || used {
		return errOr(err, fmt.Errorf("inode %d: %w", e.Inode, backends.ErrExist))
	}
	t.given = max(t.given, e.Inode)
	return nil
}

// place notes where an inode is; the count of its Pasts stays.
func (t *tx) place(e *entry, parent uint64, name string) error {
	p, err := t.placeOf(e.Inode)
	if err != nil {
		return err
	}
	n := place{parent: parent, name: name}
	if p != nil {
		n.pasts = p.pasts
	}
	t.set(placeKey(e.Inode), n.encode())
	return nil
}

// addOver is add where the name exists already.
func (t *tx) addOver(h home, in backends.Info, meta backends.Meta, at []backends.Replica) (fresh bool, err error) {
	old := h.entry
	if in.IsDir() || old.IsDir() {
		return false, backends.ErrExist
	}
	if in.Generation == old.Generation && in.Target == old.Target {
		return false, t.addAgain(h, meta, at)
	}
	e := &entry{Info: in, attached: old.attached}
	if in.Inode == 0 {
		e.Inode = old.Inode
	}
	var record []byte // of the metadata: that of the same file stays, another file has its own
	if e.Inode == old.Inode {
		if record, err = t.get(metaKey(old.Inode)); err != nil {
			return false, err
		}
	} else if err := t.allot(e); err != nil {
		return false, err
	}
	var members []uint64
	if e.Inode != old.Inode {
		if members, err = t.unlinkAll(h); err != nil {
			return false, err
		}
		e.attached = 0
	}
	if err := t.bury(h, true, nil); err != nil {
		return false, err
	}
	if err := t.place(e, h.dir.ino, h.name); err != nil {
		return false, err
	}
	if err := t.putMeta(e, record, meta); err != nil {
		return false, err
	}
	t.set(entryKey(h.dir.ino, h.name), e.encode())
	if err := t.putReplicas(e.Inode, at); err != nil {
		return false, err
	}
	t.count(old, -1)
	t.count(e, 1)
	t.event(h.dir, "detach", in.DID, old.Generation)
	t.event(h.dir, "attach", in.DID, in.Generation)
	if e.Inode == old.Inode {
		return true, nil
	}
	// It is the same DID still: its rules and memberships go on.
	if err := t.moveRules(old.Inode, e.Inode); err != nil {
		return false, err
	}
	return true, t.linkAgain(members, home{dir: h.dir, name: h.name, entry: e})
}

// addAgain adds what the same content lacks.
func (t *tx) addAgain(h home, meta backends.Meta, at []backends.Replica) error {
	rs, err := t.replicas(h.Inode)
	if err != nil {
		return err
	}
	n := len(rs)
	for _, r := range at {
		if !slices.ContainsFunc(rs, func(have backends.Replica) bool { return have.RSE == r.RSE }) {
			rs = append(rs, r)
		}
	}
	if len(rs) > n {
		if err := t.putReplicas(h.Inode, rs); err != nil {
			return err
		}
	}
	if len(meta) == 0 {
		return nil
	}
	return t.mergeMeta(h, meta)
}

// count changes the usage by one file.
func (t *tx) count(e *entry, n int64) {
	if e.Type == backends.File {
		t.files += n
		t.bytes += n * e.Size
	}
}

// touch moves the times of a collection whose children changed.
func (t *tx) touch(dir ref, at time.Time) error {
	if dir.ino == 0 {
		return nil
	}
	e, p, err := t.entryOf(dir.ino)
	if err != nil || !at.After(e.CTime) {
		return err
	}
	e.MTime, e.CTime = at, at
	t.set(entryKey(p.parent, p.name), e.encode())
	return nil
}

// Import adds many DIDs. Collections and files that exist with the same generation
// are skipped, and the times of collections stay as they were imported.
func (c *Catalogue) Import(ctx context.Context, entries iter.Seq2[backends.Entry, error]) (added int64, err error) {
	perEntry := 8 + len(c.o.Places) // records that one DID takes at most, its replicas being one
	var batch []backends.Entry
	size := 0
	flush := func() error {
		n, err := c.importBatch(ctx, batch)
		added += n
		clear(batch)
		batch, size = batch[:0], 0
		return err
	}
	for e, err := range entries {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return added, errOr(flushed(ctx, flush), err)
		}
		n := 560 + 3*len(e.Info.DID.Name) + len(e.Info.Target)
		for _, r := range e.Replicas {
			n += 64 + len(r.PFN) + len(r.Error)
			if c.keeps(r.RSE) {
				n += 96 + len(r.RSE)
			}
		}
		if len(e.Meta) > 0 {
			m, err := encodeMeta(e.Meta)
			if err != nil {
				return added, errOr(flushed(ctx, flush), opError("import", e.Info.DID, err))
			}
			n += len(m)
		}
		if len(batch) > 0 && ((len(batch)+1)*perEntry > c.maxKeys/2 || size+n > c.maxTxn/2) {
			if err := flush(); err != nil {
				return added, err
			}
		}
		batch = append(batch, e)
		size += n
	}
	return added, flush()
}

// checkDir tells whether a collection that is imported again is one.
func (t *tx) checkDir(f finder, d backends.DID) error {
	h, err := f.mustFind(d)
	if err == nil && !h.IsDir() {
		err = backends.ErrExist
	}
	return err
}

// flushed writes what was read before an error, unless it is that ctx ended.
func flushed(ctx context.Context, flush func() error) error {
	if ctx.Err() != nil {
		return nil
	}
	return flush()
}

// importBatch adds a batch as one transaction. When one entry fails, those before it
// are added, as a second transaction.
func (c *Catalogue) importBatch(ctx context.Context, batch []backends.Entry) (added int64, err error) {
	if len(batch) == 0 {
		return 0, nil
	}
	good := 0
	err = c.update(ctx, false, func(t *tx) error {
		added, good = 0, 0
		f := t.find()
		for _, e := range batch {
			fresh, err := t.add(f, e.Info, e.Meta, e.Replicas, false)
			if errors.Is(err, backends.ErrExist) && e.Info.IsDir() {
				err = t.checkDir(f, e.Info.DID)
			}
			if err != nil {
				return opError("import", e.Info.DID, err)
			}
			if fresh {
				added++
			}
			good++
		}
		return nil
	})
	if err == nil {
		return added, nil
	}
	if good == len(batch) || ctx.Err() != nil {
		return 0, err
	}
	n, again := c.importBatch(ctx, batch[:good])
	return n, errOr(again, err)
}
