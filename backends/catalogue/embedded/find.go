package embedded

import (
	"context"
	"iter"

	"tarn/backends"
	"tarn/backends/query"
)

// Find streams the DIDs at or below root for which q matches, root included; a nil
// query matches all. It walks the tree page by page: its memory grows with the depth,
// and with the number of members that are attached beside their homes.
func (c *Catalogue) Find(ctx context.Context, root backends.DID, q query.Expr) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		w := &walk{q: q}
		if q != nil {
			for _, k := range query.Keys(q) {
				switch {
				case k == "GUID":
					w.keys = append(w.keys, backends.MetaGUID...)
				case !backends.Builtin(k):
					w.keys = append(w.keys, k)
				}
			}
		}
		if !root.IsZero() {
			w.run(ctx, c, root, yield)
			return
		}
		for in, err := range c.Scopes(ctx) {
			if err != nil {
				yield(backends.Info{}, err)
				return
			}
			if w = w.again(); !w.run(ctx, c, in.DID, yield) {
				return
			}
		}
	}
}

// walk is one Find below one root.
type walk struct {
	q    query.Expr
	keys []string // of metadata that q needs

	stack []frame
	seen  map[uint64]bool // members met that another way may lead to
	extra []uint64        // attached members of lfn collections, walked after their homes
	root  uint64
	flat  bool

	// What is being matched: made once, since a closure for each entry shows in the time of a walk.
	subject backends.Subject
	get     func(key string) (any, bool)
	view    *view
	failed  error
}

// prepare makes the functions that the query and the subject ask.
func (w *walk) prepare() {
	w.get = func(key string) (any, bool) { return w.subject.Value(key) }
	w.subject.Replicas = func() (rs []backends.Replica) {
		if w.failed == nil {
			rs, w.failed = w.view.replicas(w.subject.Info.Inode)
		}
		return rs
	}
}

// frame is a collection whose children are being read.
type frame struct {
	list lister
	ino  uint64
	meta backends.Meta // what applies to all below it
	all  bool          // of a contents scope: all of its DIDs, not the top ones
}

func (w *walk) again() *walk { return &walk{q: w.q, keys: w.keys} }

func (w *walk) run(ctx context.Context, c *Catalogue, root backends.DID, yield func(backends.Info, error) bool) bool {
	w.seen = map[uint64]bool{}
	begun := false
	for in, err := range pages(ctx, c, "find below", root, func() pager[backends.Info] {
		return func(f finder, emit func(backends.Info)) (bool, error) {
			if !begun {
				begun = true
				if err := w.begin(f, root, emit); err != nil {
					return false, err
				}
			} else if err := w.page(f, emit); err != nil {
				return false, err
			}
			return len(w.stack)+len(w.extra) > 0, nil
		}
	}) {
		if !yield(in, err) || err != nil {
			return false
		}
	}
	return true
}

func (w *walk) begin(f finder, root backends.DID, emit func(backends.Info)) error {
	h, err := f.lookup(root, true)
	if err != nil {
		return err
	}
	if h.entry == nil {
		return backends.ErrNotExist
	}
	w.root, w.flat = h.Inode, h.dir.flat
	return w.enter(f, h, emit)
}

// enter matches one DID and, if it is a collection, goes into it.
func (w *walk) enter(f finder, h home, emit func(backends.Info)) error {
	above := backends.Meta{}
	if !h.dir.flat && len(w.keys) > 0 {
		var err error
		if above, err = w.inherited(f.view, h.dir.ino); err != nil {
			return err
		}
	}
	if h.dir.flat && h.dir.ino == 0 {
		emit = func(backends.Info) {} // the collection of a contents scope is no DID
	}
	own, err := w.match(f.view, h.entry, above, emit)
	if err != nil || !h.IsDir() {
		return err
	}
	fr := frame{ino: h.Inode, meta: own}
	fr.list.begin(h)
	if fr.list.scope {
		fr.list.scope, fr.all = false, true
	}
	if h.dir.flat {
		fr.meta = nil
	}
	w.seen[h.Inode] = true
	w.stack = append(w.stack, fr)
	return nil
}

// inherited collects the metadata of a collection and those above it; nearest wins.
func (w *walk) inherited(v *view, ino uint64) (backends.Meta, error) {
	out := backends.Meta{}
	for depth := 0; ino != 0 && depth < maxName; depth++ {
		e, p, err := v.entryOf(ino)
		if err != nil {
			return nil, err
		}
		m, err := v.meta(e)
		if err != nil {
			return nil, err
		}
		for k, val := range m {
			if _, nearer := out[k]; !nearer {
				out[k] = val
			}
		}
		ino = p.parent
	}
	return out, nil
}

// match emits e if the query holds, and gives the metadata that applies below it.
func (w *walk) match(v *view, e *entry, above backends.Meta, emit func(backends.Info)) (backends.Meta, error) {
	meta := above
	if len(w.keys) > 0 && e.hasMeta {
		own, err := v.meta(e)
		if err != nil {
			return nil, err
		}
		if e.IsDir() && len(above) > 0 {
			meta = above.Clone()
			for k, val := range own {
				meta[k] = val
			}
		} else if len(above) > 0 {
			for _, k := range w.keys { // a file: only what is asked for, in its own map
				if _, has := own[k]; !has {
					if val, has := above[k]; has {
						own[k] = val
					}
				}
			}
			meta = own
		} else {
			meta = own
		}
	}
	if w.q == nil {
		emit(e.Info)
		return meta, nil
	}
	if w.get == nil {
		w.prepare()
	}
	w.view, w.failed = v, nil
	w.subject.Info, w.subject.Meta, w.subject.Flat = &e.Info, meta, w.flat
	if w.q.Match(w.get) && w.failed == nil {
		emit(e.Info)
	}
	return meta, w.failed
}

// page reads one page of the innermost collection.
func (w *walk) page(f finder, emit func(backends.Info)) error {
	if len(w.stack) == 0 {
		return w.nextExtra(f, emit)
	}
	top := len(w.stack) - 1
	fr := &w.stack[top]
	var inner []frame
	var failed error
	visit := func(e *entry) {
		if failed == nil {
			var sub *frame
			if sub, failed = w.child(f, fr, e, emit); sub != nil {
				inner = append(inner, *sub)
			}
		}
	}
	var more bool
	var err error
	if fr.all {
		more, err = fr.list.flatAll(f.view, visit)
	} else {
		more, err = fr.list.page(f.view, visit)
	}
	if err == nil {
		err = failed
	}
	if err != nil {
		return err
	}
	if !more {
		w.stack = w.stack[:top]
	}
	w.stack = append(w.stack, inner...)
	return nil
}

// child matches one child of the collection in fr, and gives the frame of one that is
// a collection.
func (w *walk) child(f finder, fr *frame, e *entry, emit func(backends.Info)) (*frame, error) {
	attachedHere := false
	if !fr.all && (w.flat || e.attached > 0 || len(w.seen) > 1) {
		if w.seen[e.Inode] && (w.flat || e.Inode != fr.ino) {
			return nil, nil
		}
		if !w.flat && e.attached > 0 {
			p, err := f.placeOf(e.Inode)
			if err != nil || p == nil {
				return nil, err
			}
			attachedHere = p.parent != fr.ino
		}
	}
	if attachedHere {
		w.extra = append(w.extra, e.Inode)
		return nil, nil
	}
	if w.flat && !fr.all && (e.IsDir() || e.attached > 1) {
		w.seen[e.Inode] = true
	}
	meta, err := w.match(f.view, e, fr.meta, emit)
	if err != nil || !e.IsDir() || fr.all {
		return nil, err
	}
	sub := &frame{ino: e.Inode, meta: meta}
	if w.flat {
		sub.meta = nil
	}
	sub.list.begin(home{dir: ref{ino: fr.ino, flat: w.flat}, entry: e})
	return sub, nil
}

// nextExtra goes into a member that is attached somewhere below root but not at home
// below it, nor below a member met before.
func (w *walk) nextExtra(f finder, emit func(backends.Info)) error {
	if len(w.extra) == 0 {
		return nil
	}
	ino := w.extra[0]
	w.extra = w.extra[1:]
	for at, depth := ino, 0; at != 0 && depth < maxName; depth++ {
		if w.seen[at] {
			return nil
		}
		p, err := f.placeOf(at)
		if err != nil {
			return err
		}
		if p == nil || p.state != live {
			return nil // removed meanwhile
		}
		at = p.parent
	}
	h, err := f.homeOf(ino)
	if err != nil {
		return err
	}
	w.seen[ino] = true
	return w.enter(f, h, emit)
}

// flatAll reads all DIDs of a contents scope.
func (l *lister) flatAll(v *view, emit func(*entry)) (more bool, err error) {
	prefix := entryKey(l.dir.ino, "")
	n := 0
	var e entry
	err = v.scan(prefix, afterKey(prefix, l.after), func(key, val []byte) (bool, error) {
		e = entry{}
		if err := e.decode(val); err != nil {
			return false, err
		}
		l.after = string(key[len(prefix):])
		e.DID = backends.DID{Scope: l.dir.did.Scope, Name: l.after}
		emit(&e)
		n++
		return n < pageSize, nil
	})
	return n == pageSize, err
}
