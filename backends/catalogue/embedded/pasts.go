package embedded

import (
	"context"
	"fmt"
	"iter"
	"sort"
	"strings"

	"tarn/backends"
)

// bury makes the content at h a Past, if it has replicas, and takes its records away.
// The name is the caller's to take. A Past has copies of the metadata and replicas,
// since its inode may go on as another generation.
func (t *tx) bury(h home, replaced bool, attached []uint64) error {
	rs, err := t.replicas(h.Inode)
	if err != nil {
		return err
	}
	var meta []byte
	if h.hasMeta {
		if meta, err = t.get(metaKey(h.Inode)); err != nil {
			return err
		}
		t.del(metaKey(h.Inode))
	}
	p, err := t.placeOf(h.Inode)
	if err != nil || p == nil {
		return errOr(err, fmt.Errorf("inode %d is nowhere: %w", h.Inode, backends.ErrDamaged))
	}
	if len(rs) > 0 {
		t.del(replicasKey(h.Inode))
		k := handle{removed: timeOrder(t.now), seq: t.sequence()}
		past := past{entry: *h.entry, replicas: rs, meta: meta, parent: h.dir.ino, name: h.name,
			until: t.now.Add(t.c.grace), replaced: replaced, attached: attached}
		t.set(pastKey(k), past.encode())
		t.set(pastNameKey(h.dir.ino, h.name, k), nil)
		p.pasts++
	}
	if p.pasts == 0 {
		t.del(placeKey(h.Inode))
		return nil
	}
	p.state = gone
	t.set(placeKey(h.Inode), p.encode())
	return nil
}

// Pasts streams the Past records of a name, newest first; with the zero DID all
// there are, oldest first.
func (c *Catalogue) Pasts(ctx context.Context, d backends.DID) iter.Seq2[backends.Past, error] {
	if d.IsZero() {
		return c.allPasts(ctx)
	}
	return pages(ctx, c, "pasts", d, func() pager[backends.Past] {
		var left []handle
		found := false
		return func(f finder, emit func(backends.Past)) (bool, error) {
			if !found {
				var err error
				if left, err = f.handlesOf(d); err != nil {
					return false, err
				}
				found = true
			}
			page := left[:min(pageSize, len(left))]
			left = left[len(page):]
			for _, h := range page {
				p, err := f.pastAt(h)
				if err != nil {
					return false, err
				}
				if p == nil {
					continue // purged meanwhile
				}
				out, err := f.export(h, p)
				if err != nil {
					return false, err
				}
				emit(out)
			}
			return len(left) > 0, nil
		}
	})
}

func (c *Catalogue) allPasts(ctx context.Context) iter.Seq2[backends.Past, error] {
	return pages(ctx, c, "pasts", backends.DID{}, func() pager[backends.Past] {
		var from []byte
		return func(f finder, emit func(backends.Past)) (bool, error) {
			n := 0
			err := f.scan([]byte{prefixPast}, from, func(key, val []byte) (bool, error) {
				var p past
				if err := p.decode(val); err != nil {
					return false, err
				}
				out, err := f.export(handle{keyInode(key, 0), keyInode(key, 1)}, &p)
				if err != nil {
					return false, err
				}
				emit(out)
				from = append(append(from[:0], key...), 0)
				n++
				return n < pageSize, nil
			})
			return n == pageSize, err
		}
	})
}

// handlesOf lists the Pasts of a name, newest first: of the collection that is there
// now and of removed ones that were.
func (f finder) handlesOf(d backends.DID) (hs []handle, err error) {
	scopes, err := f.collectionsAt(0, d.Scope)
	if err != nil {
		return nil, err
	}
	if len(scopes) == 0 {
		return nil, fmt.Errorf("scope %q: %w", d.Scope, backends.ErrNotExist)
	}
	for _, ino := range scopes {
		p, err := f.placeOf(ino)
		if err != nil || p == nil {
			return nil, err
		}
		if p.flat {
			if hs, err = f.pastsAt(hs, ino, d.Name); err != nil {
				return nil, err
			}
			continue
		}
		if err := checkLFN(d); err != nil {
			return nil, err
		}
		dirs := []uint64{ino}
		elements := strings.Split(d.Name, "/")[2:]
		for i, el := range elements {
			var next []uint64
			for _, dir := range dirs {
				if i == len(elements)-1 {
					if hs, err = f.pastsAt(hs, dir, el); err != nil {
						return nil, err
					}
					continue
				}
				in, err := f.collectionsAt(dir, el)
				if err != nil {
					return nil, err
				}
				next = append(next, in...)
			}
			dirs = next
		}
	}
	sort.Slice(hs, func(i, j int) bool {
		if hs[i].removed != hs[j].removed {
			return hs[i].removed > hs[j].removed
		}
		return hs[i].seq > hs[j].seq
	})
	return hs, nil
}

func (v *view) pastsAt(hs []handle, dir uint64, name string) ([]handle, error) {
	prefix := pastNamePrefix(dir, name)
	err := v.scan(prefix, nil, func(key, _ []byte) (bool, error) {
		if k := append([]byte{0}, key[len(prefix):]...); len(k) == 17 {
			hs = append(hs, handle{keyInode(k, 0), keyInode(k, 1)})
		}
		return true, nil
	})
	return hs, err
}

func (v *view) pastAt(h handle) (*past, error) {
	val, err := v.get(pastKey(h))
	if err != nil || val == nil {
		return nil, err
	}
	p := &past{}
	return p, p.decode(val)
}

// export turns a record into what callers see.
func (v *view) export(h handle, p *past) (backends.Past, error) {
	out := backends.Past{Info: p.entry.Info, Replicas: p.replicas, Removed: orderTime(h.removed), Until: p.until, Replaced: p.replaced, Handle: h.String()}
	dir, err := v.didOf(p.parent)
	if err != nil {
		return out, err
	}
	out.Info.DID = childDID(ref{did: dir, flat: dir.Name == ""}, p.name)
	if p.meta != nil {
		out.Meta, err = decodeMeta(p.meta)
	}
	return out, err
}

// Undelete makes the Past current again, in the collection it was in: where that was
// removed since, it comes back too.
func (c *Catalogue) Undelete(ctx context.Context, handle string) error {
	err := c.update(ctx, false, func(t *tx) error { return t.undelete(handle) })
	if err != nil {
		return opError("undelete "+handle, backends.DID{}, err)
	}
	return nil
}

func (t *tx) undelete(name string) error {
	h, p, err := t.takePast(name)
	if err != nil {
		return err
	}
	dir, err := t.revive(p.parent)
	if err != nil {
		return err
	}
	e := p.entry
	e.DID = childDID(dir, p.name)
	e.CTime, e.attached, e.members, e.hasMeta = t.now, 0, 0, false
	members := p.attached
	now, err := t.entryAt(dir.ino, p.name)
	if err != nil {
		return err
	}
	if now != nil {
		now.DID = e.DID
		standing := home{dir: dir, name: p.name, entry: now}
		if now.IsDir() {
			return fmt.Errorf("%q: %w", now.DID, backends.ErrIsDir)
		}
		more, err := t.unlinkAll(standing)
		if err != nil {
			return err
		}
		members = append(more, members...)
		if err := t.bury(standing, true, nil); err != nil {
			return err
		}
		t.count(now, -1)
		t.event(dir, "detach", e.DID, now.Generation)
	} else if taken, err := t.has(memberKey(dir.ino, p.name)); err != nil || taken {
		return errOr(err, fmt.Errorf("a member of that name is attached: %w", backends.ErrExist))
	}
	// Its inode may be that of a newer generation, which has another name by now.
	pl, err := t.placeOf(e.Inode)
	if err != nil {
		return err
	}
	if pl != nil && pl.state == live {
		if e.Inode, err = t.newInode(); err != nil {
			return err
		}
	}
	if err := t.place(&e, dir.ino, p.name); err != nil {
		return err
	}
	if now != nil && now.Inode != e.Inode {
		if err := t.moveRules(now.Inode, e.Inode); err != nil {
			return err
		}
	}
	if p.meta != nil {
		t.set(metaKey(e.Inode), p.meta)
		e.hasMeta = true
	}
	if err := t.putReplicas(e.Inode, p.replicas); err != nil {
		return err
	}
	t.set(entryKey(dir.ino, p.name), e.encode())
	if dir.flat {
		t.set(topKey(dir.ino, p.name), nil)
	}
	t.count(&e, 1)
	t.event(dir, "attach", e.DID, e.Generation)
	if err := t.linkAgain(members, home{dir: dir, name: p.name, entry: &e}); err != nil {
		return err
	}
	if err := t.touch(dir, t.now); err != nil {
		return err
	}
	return t.forget(h, p)
}

// Purge forgets the Past.
func (c *Catalogue) Purge(ctx context.Context, handle string) error {
	err := c.update(ctx, true, func(t *tx) error {
		h, p, err := t.takePast(handle)
		if err != nil {
			return err
		}
		return t.forget(h, p)
	})
	if err != nil {
		return opError("purge "+handle, backends.DID{}, err)
	}
	return nil
}

// takePast finds the Past and takes its records away; forget must follow.
func (t *tx) takePast(name string) (handle, *past, error) {
	h, err := parseHandle(name)
	if err != nil {
		return h, nil, err
	}
	p, err := t.pastAt(h)
	if err != nil || p == nil {
		return h, nil, errOr(err, fmt.Errorf("handle %q of a past: %w", name, backends.ErrNotExist))
	}
	t.del(pastKey(h))
	t.del(pastNameKey(p.parent, p.name, h))
	pl, err := t.placeOf(p.entry.Inode)
	if err != nil || pl == nil || pl.pasts == 0 {
		return h, nil, errOr(err, fmt.Errorf("inode %d of a past is nowhere: %w", p.entry.Inode, backends.ErrDamaged))
	}
	pl.pasts--
	t.set(placeKey(p.entry.Inode), pl.encode())
	return h, p, t.letGo(p.replicas)
}

// forget drops the inode of a Past if nothing of it is left, and tombs that were kept
// for it.
func (t *tx) forget(_ handle, p *past) error {
	pl, err := t.placeOf(p.entry.Inode)
	if err != nil {
		return err
	}
	if pl != nil && pl.state == gone && pl.pasts == 0 {
		t.del(placeKey(p.entry.Inode))
		if err := t.dropRules(p.entry.Inode); err != nil {
			return err
		}
	}
	return t.closeTombs(p.parent)
}
