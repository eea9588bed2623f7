package embedded

import (
	"context"
	"iter"
	"strings"
	"time"

	"tarn/backends"
)

// event notes that a child came to a collection or left it. A child that is at home in
// the collection is noted by its name there, which stays right when the collection is
// renamed.
func (t *tx) event(dir ref, op string, child backends.DID, gen backends.Generation) {
	if dir.ino == 0 {
		return
	}
	b := make(enc, 0, 64)
	if name, home := homeName(dir, child); home {
		b.byte(op[0])
		b.string(name)
	} else {
		b.byte(op[0] - 'a' + 'A')
		b.string(child.String())
	}
	b.bareGeneration(gen)
	t.set(historyKey(dir.ino, t.now, t.sequence()), b)
}

// homeName gives the name of a child that is at home in the collection.
func homeName(dir ref, child backends.DID) (string, bool) {
	if child.Scope != dir.did.Scope {
		return "", false
	}
	if dir.flat {
		return child.Name, dir.did.Name == ""
	}
	n := len(dir.did.Name) + 1
	if len(child.Name) <= n || child.Name[:n-1] != dir.did.Name || strings.IndexByte(child.Name[n:], '/') >= 0 {
		return "", false
	}
	return child.Name[n:], true
}

func decodeEvent(dir ref, val []byte) (ev backends.Event, err error) {
	d := dec{b: val}
	op := d.byte()
	child := d.string()
	switch op {
	case 'a', 'A':
		ev.Op = "attach"
	case 'd', 'D':
		ev.Op = "detach"
	default:
		d.fail()
	}
	if op >= 'a' {
		ev.Child = childDID(dir, child)
	} else {
		scope, name, _ := strings.Cut(child, ":")
		ev.Child = backends.DID{Scope: scope, Name: name}
	}
	ev.Gen = d.bareGeneration()
	return ev, d.err("event")
}

// History streams a collection's attach and detach events, oldest first.
func (c *Catalogue) History(ctx context.Context, parent backends.DID, since time.Time) iter.Seq2[backends.Event, error] {
	return pages(ctx, c, "history", parent, func() pager[backends.Event] {
		var prefix, from []byte
		var dir ref
		return func(f finder, emit func(backends.Event)) (bool, error) {
			if prefix == nil {
				h, err := f.mustFind(parent)
				if err != nil {
					return false, err
				}
				if !h.IsDir() {
					return false, backends.ErrNotDir
				}
				dir = ref{ino: h.Inode, did: parent, flat: h.dir.flat}
				prefix = beKey(prefixHistory, h.Inode)
				from = historyKey(h.Inode, earliest(since), 0)
			}
			n := 0
			err := f.scan(prefix, from, func(key, val []byte) (bool, error) {
				ev, err := decodeEvent(dir, val)
				if err != nil {
					return false, err
				}
				ev.Time, ev.Parent = orderTime(keyInode(key, 1)), parent
				emit(ev)
				from = append(append(from[:0], key...), 0)
				n++
				return n < pageSize, nil
			})
			return n == pageSize, err
		}
	})
}

// earliest keeps a time within what keys can hold.
func earliest(t time.Time) time.Time {
	if first := time.Unix(0, -1<<63); t.Before(first) {
		return first
	}
	return t
}

// sweep deletes history of removed collections, a bounded part at a time; more tells
// whether to call it again.
func (c *Catalogue) sweep(ctx context.Context) (more bool, err error) {
	err = c.update(ctx, true, func(t *tx) error {
		more = false
		room := t.c.maxKeys / 4
		var trash []byte
		err := t.scan([]byte{prefixTrash}, nil, func(key, _ []byte) (bool, error) {
			trash = append(trash, key...)
			return false, nil
		})
		if err != nil || trash == nil {
			return err
		}
		more = true
		var keys [][]byte
		err = t.scan(beKey(prefixHistory, keyInode(trash, 0)), nil, func(key, _ []byte) (bool, error) {
			keys = append(keys, append([]byte(nil), key...))
			return len(keys) < room, nil
		})
		if err != nil {
			return err
		}
		for _, k := range keys {
			t.del(k)
		}
		if len(keys) < room {
			t.del(trash)
		}
		return nil
	})
	return more, err
}
