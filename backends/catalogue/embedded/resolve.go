package embedded

import (
	"encoding/binary"
	"fmt"
	"strings"

	"tarn/backends"
)

// The bounds of names: of one element of a path, as POSIX has it, and of a DID.
const (
	maxElement = 255
	maxName    = 4096
)

// checkLFN tells whether name is a path of the scope: /scope/element/element.
func checkLFN(d backends.DID) error {
	n := len(d.Scope) + 1
	if len(d.Name) > maxName {
		return fmt.Errorf("DID name of %d bytes, at most %d: %w", len(d.Name), maxName, backends.ErrNameTooLong)
	}
	if len(d.Name) < n || d.Name[0] != '/' || d.Name[1:n] != d.Scope || len(d.Name) > n && d.Name[n] != '/' {
		return fmt.Errorf("DID %q: its name must begin with /%s: %w", d, d.Scope, backends.ErrName)
	}
	for rest := d.Name[n:]; rest != ""; {
		rest = rest[1:]
		el := rest
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			el, rest = rest[:i], rest[i:]
		} else {
			rest = ""
		}
		if err := checkElement(el); err != nil {
			return err
		}
	}
	return nil
}

func checkElement(el string) error {
	switch {
	case len(el) > maxElement:
		return fmt.Errorf("name %.40q... of %d bytes, at most %d: %w", el, len(el), maxElement, backends.ErrNameTooLong)
	case el == "" || el == "." || el == ".." || strings.IndexByte(el, 0) >= 0:
		return fmt.Errorf("name %q: %w", el, backends.ErrName)
	}
	return nil
}

// checkFlat tells whether d can be a DID of layout contents.
func checkFlat(d backends.DID) error {
	switch {
	case len(d.Name) > maxName:
		return fmt.Errorf("DID name of %d bytes, at most %d: %w", len(d.Name), maxName, backends.ErrNameTooLong)
	case d.Name == "" || strings.IndexByte(d.Name, 0) >= 0:
		return fmt.Errorf("DID name %q: %w", d.Name, backends.ErrName)
	}
	return nil
}

// finder resolves names on one view.
type finder struct {
	*view
	epoch uint64 // of a reader, for Catalogue.paths
	seen  map[string]ref
}

// find gives the finder of a writer. It has its own memory of paths, which may know
// what is not committed yet; after a collection has moved it has none.
func (t *tx) find() finder {
	if t.moved || t.c.groupMoved {
		return finder{view: &t.view}
	}
	return finder{view: &t.view, seen: t.c.writerPaths}
}

func (f finder) cached(path string) (ref, bool) {
	if f.own == nil {
		return f.c.paths.get(f.epoch, path)
	}
	r, ok := f.seen[path]
	return r, ok
}

func (f finder) remember(path string, r ref) {
	switch {
	case f.own == nil:
		f.c.paths.put(f.epoch, path, r)
	case f.seen != nil:
		if len(f.seen) >= maxWriterPaths {
			clear(f.seen)
		}
		f.seen[path] = r
	}
}

// scope gives the collection of a scope.
func (f finder) scope(name string) (ref, error) {
	if r, ok := f.cached(name); ok { // no path, which begins with a slash
		return r, nil
	}
	e, err := f.entryAt(0, name)
	if err != nil {
		return ref{}, err
	}
	if e == nil {
		return ref{}, fmt.Errorf("scope %q: %w", name, backends.ErrNotExist)
	}
	r := ref{ino: e.Inode, did: scopeDID(name, e.Layout), flat: e.Layout == backends.LayoutContents}
	f.remember(name, r)
	return r, nil
}

func scopeDID(scope string, l backends.Layout) backends.DID {
	if l == backends.LayoutContents {
		return backends.DID{Scope: scope}
	}
	return backends.DID{Scope: scope, Name: "/" + scope}
}

// dir gives the collection that a path of an lfn scope leads to, also by way of
// collections that were attached.
func (f finder) dir(scope ref, path string) (ref, error) {
	if path == scope.did.Name {
		return scope, nil
	}
	if r, ok := f.cached(path); ok {
		return r, nil
	}
	i := strings.LastIndexByte(path, '/')
	up, err := f.dir(scope, path[:i])
	if err != nil {
		return ref{}, err
	}
	e, err := f.step(up, path[i+1:])
	if err != nil {
		return ref{}, err
	}
	if e == nil {
		return ref{}, fmt.Errorf("collection %q: %w", path, backends.ErrNotExist)
	}
	if !e.IsDir() {
		return ref{}, fmt.Errorf("%q: %w", path, backends.ErrNotDir)
	}
	r := ref{ino: e.Inode, did: e.DID}
	f.remember(path, r)
	return r, nil
}

// step finds a name in a collection of an lfn scope: at home there, or attached.
func (f finder) step(up ref, name string) (*entry, error) {
	e, err := f.entryAt(up.ino, name)
	if err != nil {
		return nil, err
	}
	if e != nil {
		e.DID = backends.DID{Scope: up.did.Scope, Name: up.did.Name + "/" + name}
		return e, nil
	}
	val, err := f.get(memberKey(up.ino, name))
	if err != nil || val == nil {
		return nil, err
	}
	return f.member(val)
}

// member gives the entry that the value of a member key stands for.
func (v *view) member(val []byte) (*entry, error) {
	if len(val) != 8 {
		return nil, fmt.Errorf("member record: %w", backends.ErrDamaged)
	}
	ino := binary.BigEndian.Uint64(val)
	e, _, err := v.entryOf(ino)
	if err != nil {
		return nil, err
	}
	e.DID, err = v.didOf(ino)
	return e, err
}

// home is where a DID is or would be.
type home struct {
	dir  ref    // the collection; of a scope itself, inode 0
	name string // in it
	*entry
}

// lookup finds a DID. With attached, paths by way of attached members count too and
// the DID found may be another than the one asked for. Without an error entry may
// still be nil: then the DID does not exist, but its parent does.
func (f finder) lookup(d backends.DID, attached bool) (home, error) {
	s, err := f.scope(d.Scope)
	if err != nil {
		return home{}, err
	}
	if d.Name == s.did.Name {
		e, err := f.entryAt(0, d.Scope)
		if err == nil && e == nil {
			err = backends.ErrNotExist
		}
		if err != nil {
			return home{}, err
		}
		e.DID = s.did
		return home{dir: ref{flat: s.flat}, name: d.Scope, entry: e}, nil
	}
	if s.flat {
		if err := checkFlat(d); err != nil {
			return home{}, err
		}
		e, err := f.entryAt(s.ino, d.Name)
		if e != nil {
			e.DID = d
		}
		return home{dir: s, name: d.Name, entry: e}, err
	}
	if err := checkLFN(d); err != nil {
		return home{}, err
	}
	i := strings.LastIndexByte(d.Name, '/')
	dir, err := f.dir(s, d.Name[:i])
	if err != nil {
		return home{}, err
	}
	h := home{dir: dir, name: d.Name[i+1:]}
	if attached {
		h.entry, err = f.step(dir, h.name)
		return h, err
	}
	if dir.did.Name != d.Name[:i] {
		return home{}, backends.ErrNotExist // its parent is elsewhere at home
	}
	h.entry, err = f.entryAt(dir.ino, h.name)
	if h.entry != nil {
		h.entry.DID = d
	}
	return h, err
}

// mustFind is lookup of what must exist at its home.
func (f finder) mustFind(d backends.DID) (home, error) {
	h, err := f.lookup(d, false)
	if err == nil && h.entry == nil {
		err = backends.ErrNotExist
	}
	return h, err
}

// didOf gives the name of an inode, from the chain of its parents; of one that is
// gone or whose collections are, the name it had.
func (v *view) didOf(ino uint64) (backends.DID, error) {
	var names []string
	for depth := 0; depth < maxName; depth++ {
		p, err := v.placeOf(ino)
		if err != nil {
			return backends.DID{}, err
		}
		if p == nil {
			return backends.DID{}, fmt.Errorf("inode %d is nowhere: %w", ino, backends.ErrDamaged)
		}
		if p.parent != 0 {
			names = append(names, p.name)
			ino = p.parent
			continue
		}
		if p.flat {
			if len(names) == 0 {
				return backends.DID{Scope: p.name}, nil
			}
			return backends.DID{Scope: p.name, Name: names[0]}, nil
		}
		var b strings.Builder
		b.WriteByte('/')
		b.WriteString(p.name)
		for i := len(names) - 1; i >= 0; i-- {
			b.WriteByte('/')
			b.WriteString(names[i])
		}
		return backends.DID{Scope: p.name, Name: b.String()}, nil
	}
	return backends.DID{}, fmt.Errorf("inode %d lies in itself: %w", ino, backends.ErrDamaged)
}

// childDID is the DID of a name in a collection.
func childDID(dir ref, name string) backends.DID {
	if dir.flat {
		return backends.DID{Scope: dir.did.Scope, Name: name}
	}
	return backends.DID{Scope: dir.did.Scope, Name: dir.did.Name + "/" + name}
}

// treeName is the name that a DID has below collections it is attached to.
func treeName(flat bool, d backends.DID) string {
	if flat {
		return d.String()
	}
	return d.Name[strings.LastIndexByte(d.Name, '/')+1:]
}
