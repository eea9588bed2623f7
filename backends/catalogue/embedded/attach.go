package embedded

import (
	"context"
	"encoding/binary"
	"fmt"

	"tarn/backends"
)

// maxAttach bounds the children of one call: it is one transaction.
const maxAttach = 1000

// Attach makes children part of the collection parent, beside their homes. Parent and
// children must be in scopes of one layout.
func (c *Catalogue) Attach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	return c.members(ctx, "attach", false, parent, children, (*tx).attach)
}

// Detach takes children out of parent.
func (c *Catalogue) Detach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	return c.members(ctx, "detach", true, parent, children, (*tx).detach)
}

func (c *Catalogue) members(ctx context.Context, op string, frees bool, parent backends.DID, children []backends.DID, f func(*tx, home, home) (bool, error)) error {
	if len(children) > maxAttach {
		return opError(op, parent, fmt.Errorf("%d children in one call, at most %d: %w", len(children), maxAttach, backends.ErrNotSupported))
	}
	err := c.update(ctx, frees, func(t *tx) error {
		p, err := t.find().mustFind(parent)
		if err != nil {
			return err
		}
		if !p.IsDir() {
			return backends.ErrNotDir
		}
		changed := false
		for _, d := range children {
			ch, err := t.find().mustFind(d)
			if err != nil {
				return fmt.Errorf("%q: %w", d, err)
			}
			did, err := f(t, p, ch)
			if err != nil {
				return fmt.Errorf("%q: %w", d, err)
			}
			changed = changed || did
		}
		if !changed {
			return nil
		}
		p.MTime, p.CTime = t.now, t.now
		t.set(entryKey(p.dir.ino, p.name), p.encode())
		return nil
	})
	if err != nil {
		return opError(op, parent, err)
	}
	return nil
}

// attach makes ch a member of p; p's entry is the caller's to write.
func (t *tx) attach(p, ch home) (bool, error) {
	switch {
	case p.dir.flat != ch.dir.flat:
		return false, fmt.Errorf("attaching between scopes of layouts lfn and contents: %w", backends.ErrNotSupported)
	case p.dir.flat && (p.dir.ino == 0 || ch.dir.ino == 0), ch.dir.ino == 0:
		return false, fmt.Errorf("attaching a scope, or to a scope of layout contents: %w", backends.ErrNotSupported)
	case !p.dir.flat && ch.dir.ino == p.Inode:
		return false, nil // it is at home there
	}
	if has, err := t.has(parentKey(ch.Inode, p.Inode)); err != nil || has {
		return false, err
	}
	if ch.IsDir() {
		if over, err := t.isAbove(ch.Inode, p.Inode); err != nil || over {
			return false, errOr(err, backends.ErrLoop)
		}
	}
	name := treeName(p.dir.flat, ch.DID)
	if taken, err := t.nameTaken(p, name); err != nil || taken {
		return false, errOr(err, fmt.Errorf("%q has another child %q: %w", p.DID, name, backends.ErrExist))
	}
	t.link(p, ch, name)
	t.event(ref{ino: p.Inode, did: p.DID}, "attach", ch.DID, ch.Generation)
	return true, nil
}

// link writes the records of an attachment and ch's entry.
func (t *tx) link(p, ch home, name string) {
	t.set(memberKey(p.Inode, name), binary.BigEndian.AppendUint64(nil, ch.Inode))
	t.set(parentKey(ch.Inode, p.Inode), nil)
	p.members++
	ch.attached++
	if ch.dir.flat {
		t.del(topKey(ch.dir.ino, ch.name))
	}
	t.set(entryKey(ch.dir.ino, ch.name), ch.encode())
}

func (t *tx) nameTaken(p home, name string) (bool, error) {
	if taken, err := t.has(memberKey(p.Inode, name)); err != nil || taken {
		return taken, err
	}
	if p.dir.flat {
		return false, nil
	}
	return t.has(entryKey(p.Inode, name))
}

// detach takes ch out of p; p's entry is the caller's to write.
func (t *tx) detach(p, ch home) (bool, error) {
	if !p.dir.flat && ch.dir.ino == p.Inode {
		return false, fmt.Errorf("it is at home in %q: %w", p.DID, backends.ErrNotSupported)
	}
	if has, err := t.has(parentKey(ch.Inode, p.Inode)); err != nil || !has {
		return false, err
	}
	t.unlink(p, ch)
	t.set(entryKey(ch.dir.ino, ch.name), ch.encode())
	t.event(ref{ino: p.Inode, did: p.DID}, "detach", ch.DID, ch.Generation)
	return true, nil
}

// unlink takes back what link wrote; ch's entry is the caller's to write.
func (t *tx) unlink(p, ch home) {
	t.del(memberKey(p.Inode, treeName(p.dir.flat, ch.DID)))
	t.del(parentKey(ch.Inode, p.Inode))
	p.members--
	ch.attached--
	if ch.dir.flat && ch.attached == 0 {
		t.set(topKey(ch.dir.ino, ch.name), nil)
	}
	if ch.IsDir() {
		t.moved = true // paths may have led through it
	}
}

// unlinkAll takes ch out of everything it is attached to and gives the inodes of that.
func (t *tx) unlinkAll(ch home) (from []uint64, err error) {
	if ch.attached == 0 {
		return nil, nil
	}
	from, err = t.attachedTo(ch.Inode)
	if err != nil {
		return nil, err
	}
	for _, ino := range from {
		p, err := t.homeOf(ino)
		if err != nil {
			return nil, err
		}
		t.unlink(p, ch)
		p.MTime, p.CTime = t.now, t.now
		t.set(entryKey(p.dir.ino, p.name), p.encode())
		t.event(ref{ino: ino, did: p.DID}, "detach", ch.DID, ch.Generation)
	}
	return from, nil
}

// linkAgain attaches ch to those of the collections that still exist and have room
// for its name.
func (t *tx) linkAgain(to []uint64, ch home) error {
	for _, ino := range to {
		pl, err := t.placeOf(ino)
		if err != nil {
			return err
		}
		if pl == nil || pl.state != live || !ch.dir.flat && ch.dir.ino == ino {
			continue
		}
		p, err := t.homeOf(ino)
		if err != nil {
			return err
		}
		name := treeName(p.dir.flat, ch.DID)
		if taken, err := t.nameTaken(p, name); err != nil {
			return err
		} else if taken {
			continue
		}
		if ch.IsDir() {
			if over, err := t.isAbove(ch.Inode, ino); err != nil {
				return err
			} else if over {
				continue
			}
		}
		t.link(p, ch, name)
		p.MTime, p.CTime = t.now, t.now
		t.set(entryKey(p.dir.ino, p.name), p.encode())
		t.event(ref{ino: ino, did: p.DID}, "attach", ch.DID, ch.Generation)
	}
	return nil
}

// attachedTo lists the collections that an inode is attached to beside its home.
func (v *view) attachedTo(ino uint64) (in []uint64, err error) {
	err = v.scan(beKey(prefixParent, ino), nil, func(key, _ []byte) (bool, error) {
		in = append(in, keyInode(key, 1))
		return true, nil
	})
	return in, err
}

// homeOf finds a live inode.
func (v *view) homeOf(ino uint64) (home, error) {
	e, p, err := v.entryOf(ino)
	if err != nil {
		return home{}, err
	}
	if e.DID, err = v.didOf(ino); err != nil {
		return home{}, err
	}
	h := home{dir: ref{ino: p.parent}, name: p.name, entry: e}
	s, err := v.entryAt(0, e.DID.Scope)
	if err != nil {
		return home{}, err
	}
	h.dir.flat = s != nil && s.Layout == backends.LayoutContents
	if p.parent != 0 {
		h.dir.did, err = v.didOf(p.parent)
	}
	return h, err
}

// isAbove tells whether the collection "over" is ino or one of the collections that
// ino is in, at home or attached.
func (v *view) isAbove(over, ino uint64) (found bool, err error) {
	err = v.above(ino, func(x uint64) bool {
		found = found || x == over
		return !found
	})
	return found, err
}

// above calls f for ino and each collection that it is in, directly or not, once,
// nearest first, until f answers false.
func (v *view) above(ino uint64, f func(ino uint64) bool) error {
	seen := map[uint64]bool{ino: true}
	for queue := []uint64{ino}; len(queue) > 0; queue = queue[1:] {
		if !f(queue[0]) {
			return nil
		}
		p, err := v.placeOf(queue[0])
		if err != nil {
			return err
		}
		var up []uint64
		if p != nil && p.parent != 0 {
			up = append(up, p.parent)
		}
		more, err := v.attachedTo(queue[0])
		if err != nil {
			return err
		}
		for _, x := range append(up, more...) {
			if !seen[x] {
				seen[x] = true
				queue = append(queue, x)
			}
		}
	}
	return nil
}
