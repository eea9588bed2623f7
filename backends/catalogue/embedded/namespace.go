package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	"tarn/backends"
)

// Scopes streams the scopes in ascending order.
func (c *Catalogue) Scopes(ctx context.Context) iter.Seq2[backends.Info, error] {
	return pages(ctx, c, "scopes", backends.DID{}, func() pager[backends.Info] {
		prefix := entryKey(0, "")
		var from []byte
		return func(f finder, emit func(backends.Info)) (bool, error) {
			n := 0
			err := f.scan(prefix, from, func(key, val []byte) (bool, error) {
				var e entry
				if err := e.decode(val); err != nil {
					return false, err
				}
				e.DID = scopeDID(string(key[len(prefix):]), e.Layout)
				emit(e.Info)
				from = append(append(from[:0], key...), 0)
				n++
				return n < pageSize, nil
			})
			return n == pageSize, err
		}
	})
}

// AddScope creates a scope; its layout is lfn unless in says contents.
func (c *Catalogue) AddScope(ctx context.Context, in backends.Info) error {
	scope := in.DID.Scope
	err := c.update(ctx, false, func(t *tx) error {
		if err := backends.CheckScope(scope); err != nil {
			return err
		}
		switch in.Layout {
		case "":
			in.Layout = backends.LayoutLFN
		case backends.LayoutLFN, backends.LayoutContents:
		default:
			return fmt.Errorf("layout %q: %w", in.Layout, backends.ErrNotSupported)
		}
		if exists, err := t.has(entryKey(0, scope)); err != nil || exists {
			return errOr(err, backends.ErrExist)
		}
		layout := in.Layout
		in.Type = backends.Container
		if err := t.complete(&in, nil); err != nil {
			return err
		}
		e := &entry{Info: in}
		e.Layout = layout
		if err := t.allot(e); err != nil {
			return err
		}
		p := place{name: scope, flat: layout == backends.LayoutContents}
		t.set(placeKey(e.Inode), p.encode())
		t.set(entryKey(0, scope), e.encode())
		return nil
	})
	if err != nil {
		return opError("add scope", backends.DID{Scope: scope}, err)
	}
	return nil
}

// RemoveScope deletes an empty scope.
func (c *Catalogue) RemoveScope(ctx context.Context, scope string) error {
	err := c.update(ctx, true, func(t *tx) error {
		e, err := t.entryAt(0, scope)
		if err != nil || e == nil {
			return errOr(err, backends.ErrNotExist)
		}
		e.DID = scopeDID(scope, e.Layout)
		return t.removeDir(home{dir: ref{flat: e.Layout == backends.LayoutContents}, name: scope, entry: e})
	})
	if err != nil {
		return opError("remove scope", backends.DID{Scope: scope}, err)
	}
	return nil
}

// Remove drops a name.
func (c *Catalogue) Remove(ctx context.Context, d backends.DID) error {
	err := c.update(ctx, true, func(t *tx) error {
		h, err := t.find().mustFind(d)
		if err != nil {
			return err
		}
		if h.dir.ino == 0 {
			return fmt.Errorf("a scope is removed by RemoveScope: %w", backends.ErrNotSupported)
		}
		if h.IsDir() {
			err = t.removeDir(h)
		} else {
			err = t.removeFile(h)
		}
		if err != nil {
			return err
		}
		t.event(h.dir, "detach", d, h.Generation)
		return t.touch(h.dir, t.now)
	})
	if err != nil {
		return opError("remove", d, err)
	}
	return nil
}

func (t *tx) removeFile(h home) error {
	from, err := t.unlinkAll(h)
	if err != nil {
		return err
	}
	if err := t.bury(h, false, from); err != nil {
		return err
	}
	t.vacate(h)
	t.count(h.entry, -1)
	if kept, err := t.has(placeKey(h.Inode)); err != nil || kept {
		return err
	}
	return t.dropRules(h.Inode)
}

// vacate takes the name from what is at home there.
func (t *tx) vacate(h home) {
	t.del(entryKey(h.dir.ino, h.name))
	if h.dir.flat && h.dir.ino != 0 {
		t.del(topKey(h.dir.ino, h.name))
	}
}

// removeDir removes a collection, or scope, that must be empty. When Pasts lie below
// it, it stays as a tomb, so that they have a name and can come back to it.
func (t *tx) removeDir(h home) error {
	if full, err := t.any(entryKey(h.Inode, "")); err != nil || full {
		return errOr(err, backends.ErrNotEmpty)
	}
	if full, err := t.any(memberKey(h.Inode, "")); err != nil || full {
		return errOr(err, backends.ErrNotEmpty)
	}
	if _, err := t.unlinkAll(h); err != nil {
		return err
	}
	t.moved = true
	t.vacate(h)
	if err := t.dropRules(h.Inode); err != nil {
		return err
	}
	if pasts, err := t.hasPasts(h.Inode); err != nil {
		return err
	} else if pasts {
		return t.entomb(h)
	}
	t.del(placeKey(h.Inode))
	if h.hasMeta {
		t.del(metaKey(h.Inode))
	}
	t.set(trashKey(h.Inode), nil)
	return nil
}

// Rename moves a DID of an lfn scope with all that is below it.
func (c *Catalogue) Rename(ctx context.Context, from, to backends.DID) error {
	err := c.update(ctx, false, func(t *tx) error { return t.rename(from, to) })
	if err != nil {
		return opError(fmt.Sprintf("rename to %q:", to), from, err)
	}
	return nil
}

func (t *tx) rename(from, to backends.DID) error {
	f := t.find()
	src, err := f.mustFind(from)
	if err != nil {
		return err
	}
	dst, err := f.lookup(to, false)
	if err != nil {
		return err
	}
	switch {
	case src.dir.flat || dst.dir.flat:
		return fmt.Errorf("layout contents: %w", backends.ErrNotSupported)
	case src.dir.ino == 0 || dst.dir.ino == 0:
		return fmt.Errorf("a scope: %w", backends.ErrNotSupported)
	case from == to:
		return nil
	}
	if src.IsDir() {
		if err := t.checkMove(src, dst); err != nil {
			return err
		}
	}
	var members []uint64
	if dst.entry != nil {
		if members, err = t.displace(src, dst); err != nil {
			return err
		}
	} else if member, err := t.get(memberKey(dst.dir.ino, dst.name)); err != nil {
		return err
	} else if member != nil && !bytes.Equal(member, binary.BigEndian.AppendUint64(nil, src.Inode)) {
		return fmt.Errorf("a member of that name is attached: %w", backends.ErrExist)
	}
	moved := *src.entry
	moved.DID, moved.CTime = to, t.now
	h := home{dir: dst.dir, name: dst.name, entry: &moved}
	if err := t.renameMember(src, h); err != nil {
		return err
	}
	t.vacate(src)
	if err := t.place(&moved, h.dir.ino, h.name); err != nil {
		return err
	}
	t.set(entryKey(h.dir.ino, h.name), moved.encode())
	if moved.IsDir() {
		t.moved = true
	}
	t.event(src.dir, "detach", from, moved.Generation)
	t.event(h.dir, "attach", to, moved.Generation)
	if err := t.linkAgain(members, h); err != nil {
		return err
	}
	if err := t.touch(src.dir, t.now); err != nil {
		return err
	}
	return t.touch(h.dir, t.now)
}

// checkMove refuses what would make a collection lie in itself.
func (t *tx) checkMove(src, dst home) error {
	if len(dst.dir.did.Name) >= len(src.DID.Name) && (dst.dir.did.Name + "/")[:len(src.DID.Name)+1] == src.DID.Name+"/" {
		return fmt.Errorf("a collection into itself: %w", backends.ErrName)
	}
	if over, err := t.isAbove(src.Inode, dst.dir.ino); err != nil || over {
		return errOr(err, backends.ErrLoop)
	}
	return nil
}

// displace takes away what stands at the new name of src, and gives what that was
// attached to: the DID stays a member there.
func (t *tx) displace(src, dst home) (members []uint64, err error) {
	switch {
	case dst.IsDir() && !src.IsDir():
		return nil, backends.ErrIsDir
	case !dst.IsDir() && src.IsDir():
		return nil, backends.ErrNotDir
	case dst.IsDir():
		if members, err = t.attachedTo(dst.Inode); err != nil {
			return nil, err
		}
		return members, t.removeDir(dst)
	}
	if members, err = t.unlinkAll(dst); err != nil {
		return nil, err
	}
	if err := t.bury(dst, true, nil); err != nil {
		return nil, err
	}
	t.count(dst.entry, -1)
	t.event(dst.dir, "detach", dst.DID, dst.Generation)
	return members, t.moveRules(dst.Inode, src.Inode)
}

// renameMember gives what src is attached to its new name.
func (t *tx) renameMember(src, h home) error {
	if src.attached == 0 {
		return nil
	}
	in, err := t.attachedTo(src.Inode)
	if err != nil {
		return err
	}
	for _, ino := range in {
		if ino == h.dir.ino { // it comes home to where it was attached
			p, err := t.homeOf(ino)
			if err != nil {
				return err
			}
			t.unlink(p, home{dir: src.dir, name: src.name, entry: src.entry})
			h.attached--
			t.set(entryKey(p.dir.ino, p.name), p.encode())
			continue
		}
		if src.name == h.name {
			continue
		}
		key, val := memberKey(ino, src.name), memberKey(ino, h.name)
		if taken, err := t.has(val); err != nil || taken {
			return errOr(err, fmt.Errorf("inode %d has another member %q: %w", ino, h.name, backends.ErrExist))
		}
		if taken, err := t.has(entryKey(ino, h.name)); err != nil || taken {
			return errOr(err, fmt.Errorf("inode %d has another child %q: %w", ino, h.name, backends.ErrExist))
		}
		member, err := t.get(key)
		if err != nil {
			return err
		}
		t.del(key)
		t.set(val, member)
	}
	return nil
}

// Update changes attributes; CTime becomes now.
func (c *Catalogue) Update(ctx context.Context, d backends.DID, ch backends.Change) error {
	err := c.update(ctx, false, func(t *tx) error {
		h, err := t.find().mustFind(d)
		if err != nil {
			return err
		}
		if ch.Mode != nil {
			h.Mode = *ch.Mode & 07777
		}
		if ch.UID != nil {
			h.UID = *ch.UID
		}
		if ch.GID != nil {
			h.GID = *ch.GID
		}
		if ch.MTime != nil {
			h.MTime = *ch.MTime
		}
		h.CTime = t.now
		t.set(entryKey(h.dir.ino, h.name), h.encode())
		return nil
	})
	if err != nil {
		return opError("update", d, err)
	}
	return nil
}
