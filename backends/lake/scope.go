package lake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarn/backends"
)

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

// IsPath tells whether the name of a DID is its path, as in layout lfn. It needs no I/O.
func (l *Lake) IsPath(d backends.DID) bool {
	return l.knownLayout(d.Scope) != backends.LayoutContents && strings.HasPrefix(d.Name, "/") && l.ScopeOf(d.Name) == d.Scope
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
