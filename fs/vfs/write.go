package vfs

import (
	"context"
	"fmt"
	"io"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/cache"
	"tarn/cache/journal"
)

// workFor gives the unsent content of n that may be written now, until wrote is called.
// Where there is none yet, or its upload has begun, a copy of the current content is made,
// of which only the first size bytes are wanted (all with -1). The copy may recall.
func (v *FS) workFor(ctx context.Context, n *Node, size int64) (*unsent, error) {
	for {
		n.mu.Lock()
		if wait := n.making; wait != nil {
			n.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		u := n.work
		if u != nil && u.claim(size == 0) {
			n.mu.Unlock()
			return u, nil
		}
		info := n.infoLocked()
		made := make(chan struct{})
		n.making = made
		n.mu.Unlock()

		nu, err := v.copyForWriting(ctx, n, info, u, size)

		n.mu.Lock()
		n.making = nil
		n.mu.Unlock()
		close(made)
		return nu, err
	}
}

// claim marks u as written to, if its bytes may still be changed in place: its upload
// has not begun. A sealed content that is to be emptied is better replaced: a crash
// before the new one is sealed then leaves the old one.
func (u *unsent) claim(emptied bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.frozen || u.ended || emptied && !u.dirty {
		return false
	}
	u.dirty = true
	u.pending++
	return true
}

// copyForWriting makes a new content of n, a copy of from or else of the published one,
// with a first write begun.
func (v *FS) copyForWriting(ctx context.Context, n *Node, info backends.Info, from *unsent, size int64) (*unsent, error) {
	if size < 0 || size > info.Size {
		size = info.Size
	}
	meta, err := v.metaOf(ctx, n)
	if err != nil {
		return nil, err
	}
	e, err := v.newEntry(journal.Record{
		Path: []byte(n.Path()), Inode: n.ino, Mode: info.Mode, UID: info.UID, GID: info.GID,
		MTime: info.MTime, Meta: meta, Base: string(info.Generation), Created: v.now(),
	})
	if err != nil {
		return nil, fmt.Errorf("begin a new content of %s: %w", n.Path(), local(err))
	}
	reserved := false
	fail := func(err error) (*unsent, error) {
		if reserved {
			v.cache.ReleaseUnsent(size)
		}
		if rerr := e.Remove(); rerr != nil {
			v.log.Error("remove an unfinished copy", "err", rerr)
		}
		return nil, err
	}
	if size > 0 {
		if err := v.withinQuota(size); err != nil {
			return fail(fmt.Errorf("a new content of %s: %w", n.Path(), err))
		}
		if err := v.cache.ReserveUnsent(size); err != nil {
			return fail(fmt.Errorf("room for a new content of %s: %w", n.Path(), local(err)))
		}
		reserved = true
		src, done, err := v.contentReader(ctx, n, info, from)
		if err != nil {
			return fail(err)
		}
		err = e.CopyFrom(src, size)
		done()
		if err != nil {
			return fail(fmt.Errorf("copy %s for writing: %w", n.Path(), local(err)))
		}
	}

	// From here on it is seen.
	defer v.holdName(n)()
	u := v.newUnsent(e)
	n.mu.Lock()
	n.work = u
	unlinked := n.unlinked
	n.mu.Unlock()
	replaced := unlinked && from != nil
	u.mu.Lock()
	u.reserved, u.dirty, u.pending = size, true, 1
	if from != nil {
		from.mu.Lock()
		replaced = replaced || !from.frozen
		from.mu.Unlock()
	}
	if replaced {
		u.prev = from
	}
	u.mu.Unlock()
	if replaced {
		v.up.forget(from)
		v.mu.Lock()
		v.nameLocked(from, "")
		v.mu.Unlock()
	}
	if unlinked {
		v.orphan(u)
	} else {
		v.setName(u, n.Path())
	}
	return u, nil
}

// holdName keeps n's name as it is, and n from being registered, until the function that
// it returns is called.
func (v *FS) holdName(n *Node) (release func()) {
	v.tree.RLock()
	for {
		p := n.Parent()
		if p == nil {
			return v.tree.RUnlock
		}
		p.dir.RLock()
		if n.Parent() == p {
			return func() {
				p.dir.RUnlock()
				v.tree.RUnlock()
			}
		}
		p.dir.RUnlock() // it was moved while we waited
	}
}

// contentReader reads the current content of n from its first byte.
func (v *FS) contentReader(ctx context.Context, n *Node, info backends.Info, from *unsent) (io.ReaderAt, func(), error) {
	var f *cache.File
	if from == nil {
		var err error
		if f, err = v.openCached(n, info); err != nil {
			return nil, nil, err
		}
	}
	read := func(p []byte, off int64) (int, error) {
		if f == nil {
			k, err := from.read(p, off)
			if !from.leaving(err) || !from.registered() {
				return k, err
			}
			for !from.gone() { // it becomes safe just now
				select {
				case <-time.After(time.Millisecond):
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}
			if f, err = v.openCached(n, from.published()); err != nil {
				return 0, err
			}
		}
		return f.ReadAt(ctx, p, off)
	}
	return readerAt(read), func() {
		if f != nil {
			f.Close()
		}
	}, nil
}

// published is what the catalogue knew of u's content when it was registered.
func (u *unsent) published() backends.Info {
	if n := u.fs.Known(u.inode); n != nil {
		defer n.Forget(1)
		n.mu.Lock()
		in := n.info
		n.mu.Unlock()
		if in.Generation != "" && u.sameAs(in) {
			return in
		}
	}
	r := u.entry.Record()
	in := backends.Info{Type: backends.File, Inode: u.inode, Size: r.Size, Checksums: checksum.FromMap(r.Sums)}
	in.DID = u.fs.lake.PathDID(string(r.Path))
	in.Generation = backends.GenerationOf(in.DID, in.Size, in.Checksums)
	return in
}

type readerAt func(p []byte, off int64) (int, error)

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return r(p, off) }

// truncate sets the size of n's content; it does not seal.
func (v *FS) truncate(ctx context.Context, n *Node, size int64) error {
	if err := v.writable(n); err != nil {
		return err
	}
	u, err := v.workFor(ctx, n, size)
	if err != nil {
		return err
	}
	defer u.wrote()
	if err := u.grow(size); err != nil {
		return err
	}
	u.touch()
	return local(u.entry.Truncate(size))
}

// SetAttr is what chmod, chown, utimensat and truncate change; nil stays.
type SetAttr struct {
	backends.Change
	Size *int64
}

// SetAttr changes attributes, in the journal for a file that is not yet registered, in
// the catalogue otherwise. A truncate without an open writer is sealed at once.
func (v *FS) SetAttr(ctx context.Context, n *Node, s SetAttr) error {
	if v.opt.ReadOnly {
		return fmt.Errorf("change %s: the mount %w", n.Path(), backends.ErrReadOnly)
	}
	if s.Size != nil {
		if n.IsDir() {
			return fmt.Errorf("truncate %s: %w", n.Path(), backends.ErrIsDir)
		}
		err := v.truncate(ctx, n, *s.Size)
		// Also after an error: what is there must not stay unsealed with nobody to close it.
		if cerr := v.closeIdle(ctx, n); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	if s.Change == (backends.Change{}) {
		return nil
	}
	defer v.holdName(n)()
	n.mu.Lock()
	u := n.work
	unlinked := n.unlinked
	n.mu.Unlock()
	if u != nil && !u.registered() || unlinked {
		if u != nil {
			return u.setAttr(s.Change, v.now())
		}
	} else if n != v.root && !v.lake.Catalogue().Traits().Attributes {
		return v.attrsStay(n, s.Change)
	} else if n != v.root {
		ns := v.lake.Namespace()
		if ns == nil {
			return fmt.Errorf("change %s: %w", n.Path(), backends.ErrImmutable)
		}
		did := n.did()
		if err := ns.Update(ctx, did, s.Change); err != nil {
			return err
		}
		if p := n.Parent(); p != nil {
			p.names.Add(1)
		}
		if u != nil { // dirty again after its registration: both have them
			if err := u.setAttr(s.Change, v.now()); err != nil {
				return err
			}
		}
	}
	n.mu.Lock()
	apply(&n.info, s.Change, v.now())
	if s.MTime != nil && n.isDir {
		n.touched = time.Time{}
	}
	n.mu.Unlock()
	return nil
}

// attrsStay is SetAttr where the catalogue keeps no attributes: those that would be others are refused, in words, but for times,
// which every copying program sets.
func (v *FS) attrsStay(n *Node, c backends.Change) error {
	in := n.Info()
	if c.Mode != nil && *c.Mode&0o7777 != in.Mode || c.UID != nil && *c.UID != in.UID || c.GID != nil && *c.GID != in.GID {
		err := fmt.Errorf("change %s: the catalogue keeps no modes and owners of published files and directories: %w", n.Path(), backends.ErrImmutable)
		v.tell(err, n)
		return err
	}
	return nil
}

// closeIdle seals n's content when nobody has it open for writing.
func (v *FS) closeIdle(ctx context.Context, n *Node) error {
	n.mu.Lock()
	open := n.writers > 0
	n.mu.Unlock()
	if open {
		return nil // their close promises, not this
	}
	return v.closeWriter(ctx, n, 0)
}

func apply(in *backends.Info, c backends.Change, now time.Time) {
	if c.Mode != nil {
		in.Mode = *c.Mode & 0o7777
	}
	if c.UID != nil {
		in.UID = *c.UID
	}
	if c.GID != nil {
		in.GID = *c.GID
	}
	if c.MTime != nil {
		in.MTime = *c.MTime
	}
	in.CTime = now
}

func (u *unsent) setAttr(c backends.Change, now time.Time) error {
	u.mu.Lock()
	if c.Mode != nil {
		u.mode = *c.Mode & 0o7777
	}
	if c.UID != nil {
		u.uid = *c.UID
	}
	if c.GID != nil {
		u.gid = *c.GID
	}
	if c.MTime != nil {
		u.mtime = *c.MTime
	}
	u.ctime = now
	u.mu.Unlock()
	return u.noteIfKept(false, nil)
}

// did is the DID of n's place in the catalogue.
func (n *Node) did() backends.DID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.info.DID
}
