package lake

import (
	"container/heap"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"tarn/backends"
)

// Named is one entry of a directory.
type Named struct {
	Name string
	Info backends.Info
}

// maxDepth bounds how deep a path of layout contents may go.
const maxDepth = 128

// Root is the Info of "/": a container with inode 1 that no catalogue holds. It needs no I/O.
func (l *Lake) Root() backends.Info {
	return backends.Info{Type: backends.Container, Mode: 0o755, Inode: 1, MTime: l.started, CTime: l.started}
}

func isRoot(in backends.Info) bool { return in.DID.IsZero() && in.Inode == 1 }

// Resolve gives the Info of a lake path. Symbolic links are given as such, and are
// ErrNotDir in the middle of a path. ErrNotExist, ErrNotDir, ErrName, ErrNameTooLong;
// ErrLoop when the path passes the same collection twice.
func (l *Lake) Resolve(ctx context.Context, p string) (backends.Info, error) {
	p, err := CleanPath(p)
	if err != nil {
		return backends.Info{}, fmt.Errorf("resolve %s: %w", p, err)
	}
	if p == "/" {
		return l.Root(), nil
	}
	elems := strings.Split(p[1:], "/")
	in, err := l.scopeInfo(ctx, elems[0])
	if err == nil && len(elems) > 1 {
		if in.Layout == backends.LayoutContents {
			in, err = l.walk(ctx, in, elems[1:])
		} else {
			in, err = l.o.Catalogue.Stat(ctx, l.lfnDID(p))
		}
	}
	if err != nil {
		return backends.Info{}, fmt.Errorf("resolve %s: %w", p, err)
	}
	return in, nil
}

// walk goes down from a scope of layout contents.
func (l *Lake) walk(ctx context.Context, in backends.Info, elems []string) (backends.Info, error) {
	if len(elems) > maxDepth {
		return in, fmt.Errorf("%d levels deep: %w", len(elems), backends.ErrLoop)
	}
	passed := []backends.DID{in.DID}
	for _, e := range elems {
		next, err := l.Lookup(ctx, in, e)
		if err != nil {
			return next, err
		}
		if next.IsDir() && slices.Contains(passed, next.DID) {
			return backends.Info{}, fmt.Errorf("%s stands below itself: %w", next.DID, backends.ErrLoop)
		}
		passed = append(passed, next.DID)
		in = next
	}
	return in, nil
}

// Lookup gives the child of dir that has this name. ErrNotExist, ErrNotDir, ErrName.
// A DID that exists but is not attached to dir is ErrNotExist.
func (l *Lake) Lookup(ctx context.Context, dir backends.Info, name string) (backends.Info, error) {
	if err := checkElement(name); err != nil {
		return backends.Info{}, fmt.Errorf("look up: %w", err)
	}
	if isRoot(dir) {
		in, err := l.scopeInfo(ctx, name)
		if err != nil {
			return backends.Info{}, fmt.Errorf("look up: %w", err)
		}
		return in, nil
	}
	if !dir.IsDir() {
		return backends.Info{}, fmt.Errorf("look up %q in %s: %w", name, dir.DID, backends.ErrNotDir)
	}
	layout, err := l.layoutOf(ctx, dir.DID.Scope)
	if err != nil {
		return backends.Info{}, fmt.Errorf("look up %q: %w", name, err)
	}
	if layout == backends.LayoutContents {
		return l.lookupAttached(ctx, dir, name)
	}
	return l.o.Catalogue.Stat(ctx, l.lfnDID(dir.DID.Name+"/"+name))
}

func (l *Lake) lookupAttached(ctx context.Context, dir backends.Info, name string) (backends.Info, error) {
	notThere := fmt.Errorf("look up %q in %s: %w", name, dir.DID, backends.ErrNotExist)
	if isCut(name) {
		return l.lookupByListing(ctx, dir, name)
	}
	d, err := DecodeName(dir.DID.Scope, name)
	if err != nil {
		return backends.Info{}, notThere
	}
	if dir.DID.Name == "" && l.o.Layout != "" {
		// The listing shows what has no parent; by its name every DID of the scope can be reached, so that it has a path.
		in, err := l.o.Catalogue.Stat(ctx, d)
		if err == nil && d.Scope != dir.DID.Scope {
			return backends.Info{}, notThere
		}
		return in, err
	}
	if dir.DID.Name == "" { // a scope's virtual collection is nobody's parent on record
		for in, err := range l.o.Catalogue.Contents(ctx, dir.DID, before(d.String())) {
			if err != nil {
				return backends.Info{}, fmt.Errorf("look up %q in %s: %w", name, dir.DID, err)
			}
			if in.DID == d {
				return in, nil
			}
			if in.DID.String() > d.String() {
				break
			}
		}
		return backends.Info{}, notThere
	}
	if l.o.Cached != nil {
		return l.o.Cached.Member(ctx, dir.DID, d)
	}
	in, err := l.o.Catalogue.Stat(ctx, d)
	if err != nil {
		return backends.Info{}, err
	}
	for parent, err := range l.o.Catalogue.Parents(ctx, d) {
		if err != nil {
			return backends.Info{}, fmt.Errorf("look up %q in %s: %w", name, dir.DID, err)
		}
		if parent == dir.DID {
			return in, nil
		}
	}
	return backends.Info{}, notThere
}

// before gives a string below s with next to nothing between the two.
func before(s string) string {
	last := len(s) - 1
	if s[last] == 0 {
		return s[:last]
	}
	return s[:last] + string([]byte{s[last] - 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
}

func (l *Lake) lookupByListing(ctx context.Context, dir backends.Info, name string) (backends.Info, error) {
	for in, err := range l.o.Catalogue.Contents(ctx, dir.DID, "") {
		if err != nil {
			return backends.Info{}, fmt.Errorf("look up %q in %s: %w", name, dir.DID, err)
		}
		if EncodeName(dir.DID.Scope, in.DID) == name {
			return in, nil
		}
	}
	return backends.Info{}, fmt.Errorf("look up %q in %s: %w", name, dir.DID, backends.ErrNotExist)
}

// List streams the entries of dir whose name is above after, in ascending byte order of
// the names, in bounded memory: layout lfn as the catalogue pages it, layout contents
// (where encoding changes the order) by picking the next sortBatch names in one pass
// over the contents. The sequence ends after the first error.
func (l *Lake) List(ctx context.Context, dir backends.Info, after string) iter.Seq2[Named, error] {
	return l.list(ctx, dir, after, l.o.Catalogue.Contents)
}

// Names is List for those who want to see the names first: files may be without their times (Info.Undated).
func (l *Lake) Names(ctx context.Context, dir backends.Info, after string) iter.Seq2[Named, error] {
	if l.o.Cached == nil {
		return l.List(ctx, dir, after)
	}
	return l.list(ctx, dir, after, l.o.Cached.Names)
}

// contentsFunc is Catalogue's Contents, or Cached's Names.
type contentsFunc func(ctx context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error]

func (l *Lake) list(ctx context.Context, dir backends.Info, after string, contents contentsFunc) iter.Seq2[Named, error] {
	return func(yield func(Named, error) bool) {
		fail := func(err error) { yield(Named{}, fmt.Errorf("list %s: %w", dir.DID, err)) }
		if isRoot(dir) {
			l.listScopes(ctx, after, yield)
			return
		}
		if !dir.IsDir() {
			fail(backends.ErrNotDir)
			return
		}
		layout, err := l.layoutOf(ctx, dir.DID.Scope)
		if err != nil {
			fail(err)
			return
		}
		if layout == backends.LayoutContents {
			l.listSorted(ctx, dir, after, contents, yield)
			return
		}
		for in, err := range contents(ctx, dir.DID, after) {
			if err != nil {
				fail(err)
				return
			}
			name, ok := l.lfnName(dir.DID, in.DID)
			if !ok {
				l.log.Debug("not shown: the name does not stand below the directory", "did", in.DID, "dir", dir.DID)
				continue
			}
			if !yield(Named{name, in}, nil) {
				return
			}
		}
	}
}

func (l *Lake) listScopes(ctx context.Context, after string, yield func(Named, error) bool) {
	for in, err := range l.o.Namespace.Scopes(ctx) {
		if err != nil {
			yield(Named{}, fmt.Errorf("list scopes: %w", err))
			return
		}
		name := l.top(in.DID)
		if name <= after || l.checkTop(name) != nil {
			continue
		}
		if !yield(Named{name, l.remember(in)}, nil) {
			return
		}
	}
}

// sortFirst and sortBatch are how many entries of a directory of layout contents are put in order at a time, at first and at most: who lists
// by pages wants no more than one.
const (
	sortFirst = 1 << 11
	sortBatch = 1 << 15
)

// listSorted yields the entries in the order of their encoded names.
func (l *Lake) listSorted(ctx context.Context, dir backends.Info, after string, contents contentsFunc, yield func(Named, error) bool) {
	for most := sortFirst; ; most = min(4*most, sortBatch) {
		var batch largestFirst // the smallest names above after
		more := false
		for in, err := range contents(ctx, dir.DID, "") {
			if err != nil {
				yield(Named{}, fmt.Errorf("list %s: %w", dir.DID, err))
				return
			}
			name := EncodeName(dir.DID.Scope, in.DID)
			if name <= after {
				continue
			}
			if len(batch) < most {
				heap.Push(&batch, Named{name, in})
				continue
			}
			more = true
			if name < batch[0].Name {
				batch[0] = Named{name, in}
				heap.Fix(&batch, 0)
			}
		}
		slices.SortFunc(batch, func(a, b Named) int { return strings.Compare(a.Name, b.Name) })
		for _, n := range batch {
			if !yield(n, nil) {
				return
			}
		}
		if !more {
			return
		}
		after = batch[len(batch)-1].Name
	}
}

// largestFirst is a heap with the largest name on top.
type largestFirst []Named

func (h largestFirst) Len() int           { return len(h) }
func (h largestFirst) Less(i, j int) bool { return h[i].Name > h[j].Name }
func (h largestFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *largestFirst) Push(x any)        { *h = append(*h, x.(Named)) }
func (h *largestFirst) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// ChildDID gives the DID that a new child of dir with this name would get. At the root
// it is that of a scope of layout lfn. ErrName when no DID can have the name.
func (l *Lake) ChildDID(dir backends.Info, name string) (backends.DID, error) {
	if err := checkElement(name); err != nil {
		return backends.DID{}, err
	}
	if isRoot(dir) {
		if err := l.checkTop(name); err != nil {
			return backends.DID{}, err
		}
		return l.scopeDID(name, backends.LayoutLFN), nil
	}
	layout := l.knownLayout(dir.DID.Scope)
	if dir.Layout != "" {
		layout = dir.Layout
	}
	// Without a word on the layout the name tells: a path begins with its scope.
	if layout == backends.LayoutContents || layout == "" && !strings.HasPrefix(dir.DID.Name+"/", "/"+dir.DID.Scope+"/") {
		d, err := DecodeName(dir.DID.Scope, name)
		if err != nil {
			return d, fmt.Errorf("name %q: no DID is shown so: %w", name, backends.ErrName)
		}
		return d, nil
	}
	return l.lfnDID(dir.DID.Name + "/" + name), nil
}
