package lake

import (
	"container/heap"
	"context"
	"errors"
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

// ScopeOf gives the scope of a path of layout lfn: by Options.ScopeOf, or its first element.
func (l *Lake) ScopeOf(p string) string {
	if l.o.ScopeOf != nil {
		return l.o.ScopeOf(p)
	}
	s, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	return s
}

// lfnDID is the DID that the path has in layout lfn.
func (l *Lake) lfnDID(p string) backends.DID { return backends.DID{Scope: l.ScopeOf(p), Name: p} }

// PathDID is the DID that a new file would have at a lake path, by the path alone: in layout contents its last element
// names it, and the elements before that tell the scope. It needs no I/O; a scope that nobody asked for yet counts as lfn.
func (l *Lake) PathDID(p string) backends.DID {
	elems := strings.Split(strings.TrimPrefix(p, "/"), "/")
	if len(elems) < 2 || l.knownLayout(elems[0]) != backends.LayoutContents {
		return l.lfnDID(p)
	}
	d := backends.DID{Scope: elems[0]}
	for _, e := range elems[1:] {
		if isCut(e) { // its scope stands before a colon, all others are escaped
			if s, _, ok := strings.Cut(e, ":"); ok && backends.CheckScope(s) == nil {
				d.Scope = s
			}
			continue
		}
		next, err := DecodeName(d.Scope, e)
		if err != nil {
			return l.lfnDID(p)
		}
		d = next
	}
	return d
}

// DIDPath is a lake path at which the DID stands: its name in layout lfn, the entry of its scope in layout contents.
func (l *Lake) DIDPath(d backends.DID) string {
	if l.knownLayout(d.Scope) != backends.LayoutContents && strings.HasPrefix(d.Name, "/") {
		return d.Name
	}
	if d.Name == "" {
		return "/" + d.Scope
	}
	return "/" + d.Scope + "/" + EncodeName(d.Scope, d)
}

// PathOf is a lake path at which d can be found: that of DIDPath in layout lfn, and else the first way up through the collections that it is
// in, for which the catalogue is asked; known keeps those of collections. ErrNotExist when it is gone.
func (l *Lake) PathOf(ctx context.Context, d backends.DID, known map[backends.DID]string) (string, error) {
	if d.Name == "" || l.knownLayout(d.Scope) != backends.LayoutContents && strings.HasPrefix(d.Name, "/") {
		return l.DIDPath(d), nil
	}
	var below []backends.DID // d and those above it that have no path yet
	for at := d; ; {
		p, ok := known[at]
		if at.Name == "" {
			p, ok = "/"+at.Scope, true
		}
		if ok {
			up := at
			for i, x := range slices.Backward(below) {
				p += "/" + EncodeName(up.Scope, x)
				if up = x; i > 0 { // a collection
					known[x] = p
				}
			}
			return p, nil
		}
		if len(below) > maxDepth {
			return "", fmt.Errorf("path of %s: %w", d, backends.ErrLoop)
		}
		below = append(below, at)
		parent := backends.DID{Scope: at.Scope} // who is in no collection stands below its scope
		for p, err := range l.o.Catalogue.Parents(ctx, at) {
			if err != nil {
				return "", fmt.Errorf("path of %s: %w", d, err)
			}
			parent = p
			break
		}
		at = parent
	}
}

// knownLayout is the layout of what stands in the root, without asking for it: "" when it is not known.
func (l *Lake) knownLayout(top string) backends.Layout {
	if l.o.Layout != "" {
		return l.o.Layout
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.layouts[top]
}

// Named tells whether a DID at the path is in its directory by its name alone (layout lfn), and needs no attachment.
func (l *Lake) Named(dir backends.Info, d backends.DID) bool {
	return dir.DID.Name == "" || l.knownLayout(dir.DID.Scope) != backends.LayoutContents && strings.HasPrefix(d.Name, dir.DID.Name+"/")
}

// layoutOf gives the layout of a scope; ErrNotExist when there is no such scope.
func (l *Lake) layoutOf(ctx context.Context, scope string) (backends.Layout, error) {
	if l.o.Layout != "" {
		return l.o.Layout, nil
	}
	return l.layoutOfTop(ctx, scope)
}

// top is the name of what Namespace.Scopes gives in the root: the scope's, or with Options.ScopeOf that of the path.
func (l *Lake) top(d backends.DID) string {
	if l.o.ScopeOf != nil {
		return strings.TrimPrefix(d.Name, "/")
	}
	return d.Scope
}

// checkTop tells whether something can stand in the root under this name.
func (l *Lake) checkTop(name string) error {
	if l.o.ScopeOf != nil {
		return checkElement(name)
	}
	return backends.CheckScope(name)
}

// layoutOfTop gives the layout of what stands in the root; ErrNotExist.
func (l *Lake) layoutOfTop(ctx context.Context, scope string) (backends.Layout, error) {
	l.mu.Lock()
	layout, ok := l.layouts[scope]
	l.mu.Unlock()
	if ok {
		return layout, nil
	}
	in, err := l.findScope(ctx, scope)
	return in.Layout, err
}

// findScope looks for a scope among all there are, and remembers its layout.
func (l *Lake) findScope(ctx context.Context, scope string) (backends.Info, error) {
	for in, err := range l.o.Namespace.Scopes(ctx) {
		if err != nil {
			return backends.Info{}, fmt.Errorf("list scopes: %w", err)
		}
		if l.top(in.DID) == scope {
			return l.remember(in), nil
		}
	}
	return backends.Info{}, fmt.Errorf("%s: %w", l.rootWord(scope), backends.ErrNotExist)
}

func (l *Lake) rootWord(name string) string {
	if l.o.ScopeOf != nil {
		return "/" + name
	}
	return "scope " + name
}

func (l *Lake) remember(in backends.Info) backends.Info {
	if in.Layout == "" {
		in.Layout = backends.LayoutLFN
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.layouts[l.top(in.DID)] = in.Layout
	return in
}

func (l *Lake) forgetLayout(scope string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.layouts, scope)
}

// scopeInfo is the Info of a directory in the root: a scope's, or with Options.ScopeOf one of the paths there.
func (l *Lake) scopeInfo(ctx context.Context, scope string) (backends.Info, error) {
	if err := l.checkTop(scope); err != nil {
		return backends.Info{}, fmt.Errorf("scope %q: %w", scope, backends.ErrNotExist)
	}
	layout, err := l.layoutOfTop(ctx, scope)
	if err != nil {
		return backends.Info{}, err
	}
	in, err := l.o.Catalogue.Stat(ctx, l.scopeDID(scope, layout))
	if errors.Is(err, backends.ErrNotExist) { // removed meanwhile, or made anew in another layout
		l.forgetLayout(scope)
		return l.findScope(ctx, scope)
	}
	if err != nil {
		return backends.Info{}, err
	}
	in.Layout = layout
	return in, nil
}

func (l *Lake) scopeDID(scope string, layout backends.Layout) backends.DID {
	if layout == backends.LayoutContents {
		return backends.DID{Scope: scope}
	}
	return l.lfnDID("/" + scope)
}

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
			l.listSorted(ctx, dir, after, yield)
			return
		}
		for in, err := range l.o.Catalogue.Contents(ctx, dir.DID, after) {
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

// sortBatch is how many entries of a directory of layout contents are in memory at a time.
const sortBatch = 1 << 15

// listSorted yields the entries in the order of their encoded names.
func (l *Lake) listSorted(ctx context.Context, dir backends.Info, after string, yield func(Named, error) bool) {
	for {
		var batch largestFirst // the smallest names above after
		more := false
		for in, err := range l.o.Catalogue.Contents(ctx, dir.DID, "") {
			if err != nil {
				yield(Named{}, fmt.Errorf("list %s: %w", dir.DID, err))
				return
			}
			name := EncodeName(dir.DID.Scope, in.DID)
			if name <= after {
				continue
			}
			if len(batch) < sortBatch {
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
