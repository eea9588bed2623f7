package embedded

import (
	"context"
	"iter"
	"slices"
	"sort"

	"tarn/backends"
)

// pageSize is how many entries a sequence takes from the database at a time. Between
// pages it holds nothing, so a slow reader keeps neither old tables nor Close waiting.
const pageSize = 512

// Stat gives the Info of d. In an lfn scope a path that leads through an attached
// member gives the Info of that member, under the DID it has at home.
func (c *Catalogue) Stat(ctx context.Context, d backends.DID) (in backends.Info, err error) {
	epoch := c.paths.begin()
	err = c.read(ctx, func(v *view) error {
		h, err := finder{view: v, epoch: epoch}.lookup(d, true)
		if err != nil {
			return err
		}
		if h.entry == nil {
			return backends.ErrNotExist
		}
		in = h.Info
		return nil
	})
	if err != nil {
		return backends.Info{}, opError("stat", d, err)
	}
	return in, nil
}

func opError(op string, d backends.DID, err error) error {
	return &backends.OpError{Op: op, DID: d, Err: err}
}

// pager gives the next page of a sequence, until it answers more = false.
type pager[T any] func(f finder, emit func(T)) (more bool, err error)

// pages makes a sequence of what a new pager emits; it is yielded when no view is open.
func pages[T any](ctx context.Context, c *Catalogue, op string, d backends.DID, start func() pager[T]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		next := start()
		var page []T
		longest := 0
		defer func() {
			if cap(page) >= pageSize {
				clear(page[:longest])
				c.rooms.Put(&page)
			}
		}()
		for more := true; more; {
			page = page[:0]
			epoch := c.paths.begin()
			err := c.read(ctx, func(v *view) (err error) {
				more, err = next(finder{view: v, epoch: epoch}, func(t T) { page = append(roomFor(c, page), t) })
				return err
			})
			longest = max(longest, len(page))
			if err != nil {
				var zero T
				yield(zero, opError(op, d, err))
				return
			}
			for _, t := range page {
				if !yield(t, nil) {
					return
				}
			}
		}
	}
}

// roomFor gives a page that has outgrown the few entries of most collections all the room
// that it can need, of another sequence that is over if there is one: growing bit by bit
// makes more garbage than the page is, and the page is the most that a listing leaves behind.
func roomFor[T any](c *Catalogue, page []T) []T {
	const few = 64
	if len(page) != few || cap(page) >= pageSize {
		return page
	}
	if old, ok := c.rooms.Get().(*[]T); ok {
		return append((*old)[:0], page...)
	}
	return slices.Grow(page, pageSize-few)
}

// Contents streams the children of d.
func (c *Catalogue) Contents(ctx context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error] {
	return pages(ctx, c, "contents", d, func() pager[backends.Info] {
		l := lister{after: after}
		return func(f finder, emit func(backends.Info)) (bool, error) {
			if !l.open {
				if err := l.start(f, d); err != nil {
					return false, err
				}
			}
			return l.page(f.view, func(e *entry) { emit(e.Info) })
		}
	})
}

// lister reads the children of one collection page by page.
type lister struct {
	after   string
	open    bool
	dir     ref
	scope   bool // the collection of a contents scope: it shows what is attached nowhere
	members bool // something may be attached to the collection
}

func (l *lister) start(f finder, d backends.DID) error {
	h, err := f.lookup(d, true)
	if err != nil {
		return err
	}
	if h.entry == nil {
		return backends.ErrNotExist
	}
	if !h.IsDir() {
		return backends.ErrNotDir
	}
	l.begin(h)
	return nil
}

func (l *lister) begin(h home) {
	l.open = true
	l.dir = ref{ino: h.Inode, did: h.DID, flat: h.dir.flat}
	l.scope = h.dir.flat && h.dir.ino == 0
	l.members = h.members > 0
}

// named is a child and the name it has in the tree.
type named struct {
	name string
	entry
}

// page emits the children after l.after, in order; more tells whether to call again.
func (l *lister) page(v *view, emit func(*entry)) (more bool, err error) {
	switch {
	case l.scope:
		return l.tops(v, emit)
	case l.dir.flat:
		list, more, err := l.attached(v)
		for i := range list {
			emit(&list[i].entry)
		}
		return more, err
	case !l.members:
		return l.homes(v, func(_ string, e *entry) { emit(e) })
	}
	from := *l // homes moves l.after, and so does attached
	var list []named
	more, err = l.homes(v, func(name string, e *entry) { list = append(list, named{name, *e}) })
	if err != nil {
		return false, err
	}
	extra, moreExtra, err := from.attached(v)
	if err != nil {
		return false, err
	}
	list = append(list, extra...)
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	// Beyond the last name of a cut page the other kind may hold names not read yet.
	end := ""
	if more {
		end = l.after
	}
	if moreExtra && (end == "" || from.after < end) {
		end = from.after
	}
	for i := range list {
		if end != "" && list[i].name > end {
			break
		}
		l.after = list[i].name
		emit(&list[i].entry)
	}
	return more || moreExtra, nil
}

// homes reads entries that are at home in the collection.
func (l *lister) homes(v *view, emit func(string, *entry)) (more bool, err error) {
	prefix := entryKey(l.dir.ino, "")
	path := []byte(l.dir.did.Name + "/")
	base := len(path)
	n := 0
	var e entry
	var last []byte
	err = v.scan(prefix, afterKey(prefix, l.after), func(key, val []byte) (bool, error) {
		e = entry{}
		if err := e.decode(val); err != nil {
			return false, err
		}
		name := key[len(prefix):]
		path = append(path[:base], name...)
		full := string(path)
		e.DID = backends.DID{Scope: l.dir.did.Scope, Name: full}
		last = append(last[:0], name...)
		emit(full[base:], &e)
		n++
		return n < pageSize, nil
	})
	if n > 0 {
		l.after = string(last)
	}
	return n == pageSize, err
}

// attached reads members that are at home elsewhere.
func (l *lister) attached(v *view) (list []named, more bool, err error) {
	prefix := memberKey(l.dir.ino, "")
	err = v.scan(prefix, afterKey(prefix, l.after), func(key, val []byte) (bool, error) {
		e, err := v.member(val)
		if err != nil {
			return false, err
		}
		list = append(list, named{string(key[len(prefix):]), *e})
		return len(list) < pageSize, nil
	})
	if len(list) > 0 {
		l.after = list[len(list)-1].name
	}
	return list, len(list) == pageSize, err
}

// tops reads what of a contents scope is attached nowhere.
func (l *lister) tops(v *view, emit func(*entry)) (more bool, err error) {
	prefix := topKey(l.dir.ino, "")
	scope := l.dir.did.Scope
	from := prefix
	if l.after != "" {
		switch s := scope + ":"; {
		case len(l.after) >= len(s) && l.after[:len(s)] == s:
			from = afterKey(prefix, l.after[len(s):])
			if l.after == s {
				from = prefix
			}
		case l.after > s:
			return false, nil
		}
	}
	n := 0
	err = v.scan(prefix, from, func(key, _ []byte) (bool, error) {
		name := string(key[len(prefix):])
		e, err := v.entryAt(l.dir.ino, name)
		if err != nil || e == nil {
			return err == nil, err
		}
		e.DID = backends.DID{Scope: scope, Name: name}
		l.after = e.DID.String()
		emit(e)
		n++
		return n < pageSize, nil
	})
	return n == pageSize, err
}

// afterKey is the first key behind that of the name.
func afterKey(prefix []byte, name string) []byte {
	if name == "" {
		return prefix
	}
	return append(append(append(make([]byte, 0, len(prefix)+len(name)+1), prefix...), name...), 0)
}

// Parents streams the collections that d is attached to, its home first.
func (c *Catalogue) Parents(ctx context.Context, d backends.DID) iter.Seq2[backends.DID, error] {
	return pages(ctx, c, "parents", d, func() pager[backends.DID] {
		var ino uint64
		var from []byte
		return func(f finder, emit func(backends.DID)) (bool, error) {
			if ino == 0 {
				h, err := f.mustFind(d)
				if err != nil {
					return false, err
				}
				ino = h.Inode
				if h.dir.ino != 0 && !h.dir.flat {
					emit(h.dir.did)
				}
				if h.attached == 0 {
					return false, nil
				}
			}
			n := 0
			err := f.scan(beKey(prefixParent, ino), from, func(key, _ []byte) (bool, error) {
				p, err := f.didOf(keyInode(key, 1))
				if err != nil {
					return false, err
				}
				from = append(append(from[:0], key...), 0)
				emit(p)
				n++
				return n < pageSize, nil
			})
			return n == pageSize, err
		}
	})
}
