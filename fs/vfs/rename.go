package vfs

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"tarn/backends"
	"tarn/cache/journal"
)

// RenameNoReplace is RENAME_NOREPLACE of renameat2(2).
const RenameNoReplace = 1

// place of a rename: what stands at one of its two names.
type spot struct {
	dir   *Node
	name  string
	path  string
	u     *unsent
	cat   backends.Info
	found bool // in the catalogue
}

func (s *spot) exists() bool { return s.u != nil || s.found }
func (s *spot) isDir() bool  { return s.u == nil && s.found && s.cat.IsDir() }
func (s *spot) inode() uint64 {
	if s.u != nil {
		return s.u.inode
	}
	return s.cat.Inode
}

// inodes are those of what stands there: an unsent file may hide a published one.
func (s *spot) inodes() (out []uint64) {
	if s.u != nil {
		out = append(out, s.u.inode)
	}
	if s.found {
		out = append(out, s.cat.Inode)
	}
	return out
}

func (v *FS) look(ctx context.Context, s *spot) (err error) {
	s.path = path.Join(s.dir.Path(), s.name)
	s.u, s.cat, s.found, err = v.lookupLocked(ctx, s.dir, s.name)
	return err
}

// Rename moves a name, replacing a file or an empty directory, as rename(2); flags may
// be RenameNoReplace. A file that is not yet registered moves in the journal, all else
// in the catalogue; where both are touched, an intent finishes it after a crash.
func (v *FS) Rename(ctx context.Context, fromDir *Node, fromName string, toDir *Node, toName string, flags uint32) error {
	if flags&^RenameNoReplace != 0 {
		return fmt.Errorf("rename with flags %#x: %w", flags, backends.ErrName)
	}
	if v.opt.ReadOnly {
		return fmt.Errorf("rename: the mount %w", backends.ErrReadOnly)
	}
	if len(toName) > 255 {
		return backends.ErrNameTooLong
	}
	n, err := v.Lookup(ctx, fromDir, fromName)
	if err != nil {
		return err
	}
	defer n.Forget(1)
	if n.IsDir() {
		v.tree.Lock() // paths of unsent files and live nodes below change together
		defer v.tree.Unlock()
	} else {
		v.tree.RLock()
		defer v.tree.RUnlock()
	}
	defer lockDirs(fromDir, toDir)()
	from, to := &spot{dir: fromDir, name: fromName}, &spot{dir: toDir, name: toName}
	if err := v.look(ctx, from); err != nil {
		return err
	}
	if err := v.look(ctx, to); err != nil {
		return err
	}
	if from.exists() && from.isDir() != n.IsDir() {
		return fmt.Errorf("rename %s: something else has its name by now: %w", from.path, backends.ErrBusy)
	}
	now := v.now()
	if from.u != nil {
		from.u.mu.Lock()
		from.u.born = now // as the directory that it comes into
		from.u.mu.Unlock()
	}
	if err := v.mayRename(from, to, flags); err != nil {
		v.tell(err, n, toDir)
		return fmt.Errorf("rename %s to %s: %w", from.path, to.path, err)
	}
	if to.exists() && to.inode() == from.inode() {
		return nil
	}
	if from.isDir() {
		err = v.renameDir(ctx, from, to)
	} else {
		err = v.renameFile(ctx, from, to)
	}
	if err != nil {
		v.tell(err, n)
		return fmt.Errorf("rename %s to %s: %w", from.path, to.path, err)
	}
	fromDir.changed(now)
	toDir.changed(now)
	return nil
}

func (v *FS) mayRename(from, to *spot, flags uint32) error {
	switch {
	case !from.exists():
		return backends.ErrNotExist
	case from.dir == v.root || to.dir == v.root:
		return fmt.Errorf("scopes are not renamed, and only scopes stand in the root: %w", backends.ErrImmutable)
	case to.exists() && flags&RenameNoReplace != 0:
		return backends.ErrExist
	case from.isDir() && (to.path == from.path || strings.HasPrefix(to.path, from.path+"/")) && to.path != from.path:
		return fmt.Errorf("a directory cannot move into itself: %w", backends.ErrName)
	case to.exists() && from.isDir() && !to.isDir():
		return backends.ErrNotDir
	case to.exists() && !from.isDir() && to.isDir():
		return backends.ErrIsDir
	case to.exists() && !to.isDir():
		if err := v.deletable(to.path); err != nil {
			return err
		}
		if to.found && !v.lake.Catalogue().Traits().Versions {
			// Not EXDEV: mv would delete what is there first, and could not put another content in its place.
			return fmt.Errorf("%s: %w", neverAnother, backends.ErrImmutable)
		}
	case to.isDir():
		v.mu.Lock()
		unsent := len(v.names[to.path])
		v.mu.Unlock()
		if unsent > 0 {
			return backends.ErrNotEmpty
		}
	}
	_, err := v.lake.ChildDID(to.dir.Info(), to.name)
	return err
}

// neverAnother is why a published file of a catalogue without versions stays as it is.
const neverAnother = "the catalogue never gives the name of a published file to another content; write it under another name"

// catRename renames in the catalogue.
func (v *FS) catRename(ctx context.Context, from, to *spot) error {
	ns := v.lake.Namespace()
	if ns == nil || !v.lake.Catalogue().Traits().Rename {
		return fmt.Errorf("the catalogue never changes a published name; a copy can have another one: %w", backends.ErrCrossDevice)
	}
	did, err := v.lake.ChildDID(to.dir.Info(), to.name)
	if err != nil {
		return err
	}
	return ns.Rename(ctx, from.cat.DID, did)
}

func (v *FS) renameDir(ctx context.Context, from, to *spot) error {
	below := v.unsentBelow(from.path + "/")
	done := func() {}
	if len(below) > 0 {
		var err error
		if done, err = v.putIntent(intent{From: from.path, To: to.path, Tree: true}); err != nil {
			return err
		}
	}
	if err := v.catRename(ctx, from, to); err != nil {
		done()
		return err
	}
	if to.found {
		v.unname(to.dir, to.name, nil)
	}
	v.reposition(from, to)
	for _, u := range below {
		rest, ok := strings.CutPrefix(u.where(), from.path+"/")
		if !ok {
			continue // replaced meanwhile by a newer content
		}
		if err := v.move(u, to.path+"/"+rest); err != nil {
			return fmt.Errorf("the directory is renamed, but the journal of a file below is not: %w", err)
		}
	}
	done()
	return nil
}

// unsentBelow lists the unsent contents whose path begins with prefix.
func (v *FS) unsentBelow(prefix string) (out []*unsent) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, u := range v.unsent {
		if strings.HasPrefix(u.where(), prefix) {
			out = append(out, u)
		}
	}
	return out
}

// where is u's path, "" when it lost its name.
func (u *unsent) where() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.path
}

// move gives u another path, durably.
func (v *FS) move(u *unsent, p string) error {
	v.mu.Lock()
	if u.at != "" {
		v.nameLocked(u, p)
	}
	v.mu.Unlock()
	u.mu.Lock()
	u.path = p
	u.mu.Unlock()
	return u.noteIfKept(true, nil)
}

// noteIfKept is note for what may become safe, or be replaced, at the same time: then the
// journal has no record of it any more, and needs none.
func (u *unsent) noteIfKept(durable bool, more func(*journal.Record)) error {
	if err := u.note(durable, more); !errors.Is(err, journal.ErrRemoved) {
		return err
	}
	return nil
}

// renameFile moves a file with all its unsent contents, and ends those of the file that
// it replaces. What takes more than one durable step is noted before the first.
func (v *FS) renameFile(ctx context.Context, from, to *spot) error {
	moved, lost := v.contents(from.inodes()...), v.contents(to.inodes()...)
	steps := len(moved) + len(lost)
	if from.found {
		steps++
	}
	done := func() {}
	if steps > 1 {
		in := intent{From: from.path, To: to.path}
		for _, u := range moved {
			in.Move = append(in.Move, u.id)
		}
		for _, u := range lost {
			in.Drop = append(in.Drop, u.id)
		}
		var err error
		if done, err = v.putIntent(in); err != nil {
			return err
		}
	}
	if from.found {
		if err := v.catRename(ctx, from, to); err != nil {
			done()
			return err
		}
	}
	if to.exists() {
		v.unname(to.dir, to.name, lost)
	}
	var failed error
	for _, u := range moved {
		if err := v.move(u, to.path); err != nil {
			failed = err
		}
	}
	v.reposition(from, to)
	if failed != nil {
		return fmt.Errorf("the file is renamed, but the journal does not have it yet: %w", failed)
	}
	done()
	return nil
}

// reposition moves the live node from one name to the other, and brings the paths and
// DIDs of it and of all live nodes below up to date.
func (v *FS) reposition(from, to *spot) {
	n := from.dir.child(from.name)
	if n == nil {
		return
	}
	v.mu.Lock()
	v.linkLocked(n, to.dir, to.name)
	var all []*Node
	var walk func(n *Node)
	walk = func(n *Node) {
		if n.isDir {
			n.path = path.Join(n.parent.pathLocked(), n.name)
			n.names.Add(1) // what is below has other DIDs
		}
		all = append(all, n)
		for _, c := range n.children {
			walk(c)
		}
	}
	walk(n)
	paths := make([]string, len(all))
	for i, n := range all {
		paths[i] = n.pathLocked()
	}
	v.mu.Unlock()
	for i, n := range all {
		n.mu.Lock()
		if n.info.DID.Scope != "" && strings.HasPrefix(n.info.DID.Name, "/") {
			n.info.DID = v.lake.PathDID(paths[i])
		}
		n.mu.Unlock()
	}
}
