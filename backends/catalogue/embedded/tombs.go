package embedded

import (
	"fmt"

	"tarn/backends"
)

// A tomb is a removed collection that is kept, unseen, because Pasts lie below it:
// they have their names by it, and come back to it when they are undeleted.

// hasPasts tells whether Pasts, or tombs which have some below, lie in a collection.
func (v *view) hasPasts(ino uint64) (bool, error) {
	if found, err := v.any(beKey(prefixPastName, ino)); err != nil || found {
		return found, err
	}
	return v.any(beKey(prefixTomb, ino))
}

// entomb keeps the removed collection h as a tomb.
func (t *tx) entomb(h home) error {
	e := *h.entry
	e.attached, e.members = 0, 0
	p := place{state: tomb, parent: h.dir.ino, name: h.name, removed: t.sequence(), flat: h.dir.flat && h.dir.ino == 0}
	t.set(placeKey(h.Inode), p.encode())
	t.set(tombKey(h.dir.ino, h.name, p.removed), e.encode())
	return nil
}

// collectionsAt lists the collections of that name in a collection: the live one and
// its tombs.
func (v *view) collectionsAt(dir uint64, name string) (in []uint64, err error) {
	e, err := v.entryAt(dir, name)
	if err != nil {
		return nil, err
	}
	if e != nil && e.IsDir() {
		in = append(in, e.Inode)
	}
	prefix := tombPrefix(dir, name)
	err = v.scan(prefix, nil, func(key, val []byte) (bool, error) {
		var e entry
		if len(key) != len(prefix)+8 {
			return true, nil
		}
		if err := e.decode(val); err != nil {
			return false, err
		}
		in = append(in, e.Inode)
		return true, nil
	})
	return in, err
}

// revive gives the collection of an inode. Where it is a tomb, the collection that has
// its name now takes its place, or it comes back to life, as do those above it.
func (t *tx) revive(ino uint64) (ref, error) {
	p, err := t.placeOf(ino)
	if err != nil || p == nil {
		return ref{}, errOr(err, fmt.Errorf("inode %d is nowhere: %w", ino, backends.ErrDamaged))
	}
	if p.state == live {
		did, err := t.didOf(ino)
		return ref{ino: ino, did: did, flat: did.Name == ""}, err
	}
	up := ref{}
	if p.parent != 0 {
		if up, err = t.revive(p.parent); err != nil {
			return ref{}, err
		}
	}
	now, err := t.entryAt(up.ino, p.name)
	if err != nil {
		return ref{}, err
	}
	if now != nil {
		did := backends.DID{Scope: p.name, Name: "/" + p.name}
		if up.ino != 0 {
			did = childDID(up, p.name)
		}
		switch {
		case !now.IsDir():
			return ref{}, fmt.Errorf("%q: %w", did, backends.ErrNotDir)
		case up.ino == 0 && p.flat != (now.Layout == backends.LayoutContents):
			return ref{}, fmt.Errorf("scope %q has another layout now: %w", p.name, backends.ErrNotSupported)
		case p.flat:
			did = backends.DID{Scope: p.name}
		}
		return ref{ino: now.Inode, did: did, flat: p.flat}, nil
	}
	return t.exhume(ino, p, up)
}

// exhume makes the tomb of an inode live again, in the collection up.
func (t *tx) exhume(ino uint64, p *place, up ref) (ref, error) {
	key := tombKey(p.parent, p.name, p.removed)
	val, err := t.get(key)
	if err != nil || val == nil {
		return ref{}, errOr(err, fmt.Errorf("tomb of inode %d: %w", ino, backends.ErrDamaged))
	}
	if up.ino != 0 {
		if taken, err := t.has(memberKey(up.ino, p.name)); err != nil || taken {
			return ref{}, errOr(err, fmt.Errorf("a member %q is attached: %w", p.name, backends.ErrExist))
		}
	}
	t.del(key)
	back := place{parent: up.ino, name: p.name, flat: p.flat}
	t.set(placeKey(ino), back.encode())
	t.set(entryKey(up.ino, p.name), val)
	did, err := t.didOf(ino)
	if err != nil {
		return ref{}, err
	}
	if up.ino != 0 {
		t.event(up, "attach", did, "")
		if err := t.touch(up, t.now); err != nil {
			return ref{}, err
		}
	}
	return ref{ino: ino, did: did, flat: did.Name == ""}, nil
}

// closeTombs drops the tomb of an inode, and those above it, when nothing lies below.
func (t *tx) closeTombs(ino uint64) error {
	for ino != 0 {
		p, err := t.placeOf(ino)
		if err != nil || p == nil || p.state != tomb {
			return err
		}
		if some, err := t.hasPasts(ino); err != nil || some {
			return err
		}
		t.del(tombKey(p.parent, p.name, p.removed))
		t.del(placeKey(ino))
		t.del(metaKey(ino))
		t.set(trashKey(ino), nil)
		ino = p.parent
	}
	return nil
}
