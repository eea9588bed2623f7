package vfs

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"tarn/backends"
	"tarn/cache/journal"
)

const modeSetgid = 0o2000

// newAttrs gives mode and owner of something new in the directory parent, with the
// group inherited where the directory's setgid bit asks for it.
func (n *Node) newAttrs(mode uint32, c Caller, dir bool) (uint32, uint32, uint32) {
	in := n.Info()
	mode &= 0o7777
	gid := c.GID
	if in.Mode&modeSetgid != 0 {
		gid = in.GID
		if dir {
			mode |= modeSetgid
		}
	}
	return mode, c.UID, gid
}

// editing takes the locks for a change of the names in dir, and in the directories with.
func (v *FS) editing(dir *Node, with ...*Node) (done func(), err error) {
	if v.opt.ReadOnly {
		return nil, fmt.Errorf("change %s: the mount %w", dir.Path(), backends.ErrReadOnly)
	}
	if !dir.IsDir() {
		return nil, fmt.Errorf("change %s: %w", dir.Path(), backends.ErrNotDir)
	}
	v.tree.RLock()
	locked := lockDirs(append(with, dir)...)
	return func() {
		locked()
		v.tree.RUnlock()
	}, nil
}

// lockDirs locks directories in the order in which they must be.
func lockDirs(dirs ...*Node) (unlock func()) {
	slices.SortFunc(dirs, func(a, b *Node) int { return cmp.Compare(a.ino, b.ino) })
	dirs = slices.Compact(dirs)
	for _, d := range dirs {
		d.dir.Lock()
	}
	return func() {
		for _, d := range dirs {
			d.dir.Unlock()
		}
	}
}

// changed notes that a name in n changed at this time.
func (n *Node) changed(at time.Time) {
	n.names.Add(1)
	n.mu.Lock()
	n.touched = at
	n.mu.Unlock()
}

// Create makes an empty file, private to this node until it is closed, and opens it.
// A file that is there already is opened, or is ErrExist with O_EXCL.
func (v *FS) Create(ctx context.Context, dir *Node, name string, flags int, mode uint32, c Caller) (*Node, *Handle, error) {
	n, made, err := v.create(ctx, dir, name, flags, mode, c)
	if err != nil {
		return nil, nil, err
	}
	if made {
		h := &Handle{node: n.hold(), flags: flags, caller: c, made: true}
		n.mu.Lock()
		n.handles++
		n.writesLocked(h, time.Time{})
		n.mu.Unlock()
		return n, h, nil
	}
	h, err := v.Open(ctx, n, flags, c)
	if err != nil {
		n.Forget(1)
		return nil, nil, err
	}
	return n, h, nil
}

func (v *FS) create(ctx context.Context, dir *Node, name string, flags int, mode uint32, c Caller) (*Node, bool, error) {
	done, err := v.editing(dir)
	if err != nil {
		return nil, false, err
	}
	defer done()
	u, cat, found, err := v.lookupLocked(ctx, dir, name)
	if err != nil {
		return nil, false, err
	}
	if u != nil || found {
		if flags&os.O_EXCL != 0 {
			return nil, false, fmt.Errorf("create %s: %w", path.Join(dir.Path(), name), backends.ErrExist)
		}
		return v.nodeOf(dir, name, u, cat), false, nil
	}
	if dir == v.root {
		return nil, false, fmt.Errorf("create /%s: files live below a scope; make one with mkdir: %w", name, backends.ErrImmutable)
	}
	if _, err := v.lake.ChildDID(dir.Info(), name); err != nil {
		return nil, false, err
	}
	mode, uid, gid := dir.newAttrs(mode, c, false)
	now := v.now()
	e, err := v.newEntry(journal.Record{
		Path: []byte(path.Join(dir.Path(), name)), Inode: newInode(), Mode: mode, UID: uid, GID: gid, MTime: now, Created: now,
	})
	if err != nil {
		return nil, false, fmt.Errorf("create %s: %w", path.Join(dir.Path(), name), local(err))
	}
	nu := v.newUnsent(e)
	v.setName(nu, path.Join(dir.Path(), name))
	dir.changed(now)
	v.stats.created.Add(1)
	return v.place(dir, name, nu.info(), nu), true, nil
}

// Mknod makes an empty regular file that nobody has open; it is sealed at once.
func (v *FS) Mknod(ctx context.Context, dir *Node, name string, mode uint32, c Caller) (*Node, error) {
	n, made, err := v.create(ctx, dir, name, os.O_EXCL, mode, c)
	if err != nil || !made {
		return nil, err
	}
	if err := v.closeIdle(ctx, n); err != nil {
		n.Forget(1)
		return nil, err
	}
	return n, nil
}

// Mkdir makes a directory: a container of the catalogue, or a scope in the root.
func (v *FS) Mkdir(ctx context.Context, dir *Node, name string, mode uint32, c Caller) (*Node, error) {
	return v.MkdirAs(ctx, dir, name, mode, c, backends.Container)
}

// MkdirAs is Mkdir of a collection of that type: a Dataset holds files only, where the catalogue makes a difference.
func (v *FS) MkdirAs(ctx context.Context, dir *Node, name string, mode uint32, c Caller, typ backends.Type) (*Node, error) {
	done, err := v.editing(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	if dir.Info().Type == backends.Dataset && v.lake.Served() {
		return nil, fmt.Errorf("mkdir %s: %s is a dataset, which holds nothing but files in Rucio; make the directory beside it: %w", path.Join(dir.Path(), name), dir.Path(), backends.ErrImmutable)
	}
	if v.unsentAt(dir.Path(), name) != nil {
		return nil, fmt.Errorf("mkdir %s: %w", path.Join(dir.Path(), name), backends.ErrExist)
	}
	mode, uid, gid := dir.newAttrs(mode, c, true)
	now := v.now()
	in := backends.Info{Type: typ, Mode: mode, UID: uid, GID: gid, MTime: now, CTime: now}
	if err := v.addName(ctx, dir, name, in); err != nil {
		v.tell(err, dir)
		return nil, fmt.Errorf("mkdir %s: %w", path.Join(dir.Path(), name), err)
	}
	dir.changed(now)
	got, err := v.lake.Lookup(ctx, dir.Info(), name)
	if err != nil {
		return nil, err
	}
	return v.place(dir, name, got, nil), nil
}

// Symlink makes a symbolic link.
func (v *FS) Symlink(ctx context.Context, dir *Node, name, target string, c Caller) (*Node, error) {
	done, err := v.editing(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	p := path.Join(dir.Path(), name)
	if dir == v.root {
		return nil, fmt.Errorf("symlink %s: only scopes stand in the root: %w", p, backends.ErrImmutable)
	}
	if !v.lake.Catalogue().Traits().Symlinks {
		return nil, fmt.Errorf("symlink %s: this catalogue has no symbolic links: %w", p, backends.ErrImmutable)
	}
	if target == "" {
		return nil, fmt.Errorf("symlink %s: empty target: %w", p, backends.ErrNotExist)
	}
	if v.unsentAt(dir.Path(), name) != nil {
		return nil, fmt.Errorf("symlink %s: %w", p, backends.ErrExist)
	}
	if _, err := v.lake.Lookup(ctx, dir.Info(), name); !isNotExist(err) {
		if err == nil {
			err = backends.ErrExist
		}
		return nil, fmt.Errorf("symlink %s: %w", p, err)
	}
	_, uid, gid := dir.newAttrs(0, c, false)
	now := v.now()
	in := backends.Info{Type: backends.File, Target: target, Size: int64(len(target)), Mode: 0o777, UID: uid, GID: gid, MTime: now, CTime: now}
	if err := v.addName(ctx, dir, name, in); err != nil {
		return nil, fmt.Errorf("symlink %s: %w", p, err)
	}
	dir.changed(now)
	got, err := v.lake.Lookup(ctx, dir.Info(), name)
	if err != nil {
		return nil, err
	}
	return v.place(dir, name, got, nil), nil
}

// addName adds a DID to the catalogue under (dir, name).
func (v *FS) addName(ctx context.Context, dir *Node, name string, in backends.Info) error {
	if dir == v.root {
		ns := v.lake.Namespace()
		if ns == nil {
			return fmt.Errorf("scopes are made by the catalogue's administrators: %w", backends.ErrPermission)
		}
		if err := backends.CheckScope(name); err != nil {
			return err
		}
		in.DID = backends.DID{Scope: name, Name: "/" + name}
		in.Layout = backends.LayoutLFN
		return ns.AddScope(ctx, in)
	}
	did, err := v.lake.ChildDID(dir.Info(), name)
	if err != nil {
		return err
	}
	in.DID = did
	if err := v.lake.Catalogue().Add(ctx, in, nil); err != nil {
		return err
	}
	return v.attach(ctx, dir.Info(), did)
}

// attach makes did a member of dir where its name does not say so by itself: in layout
// contents, below the scope.
func (v *FS) attach(ctx context.Context, dir backends.Info, did backends.DID) error {
	if v.lake.Named(dir, did) {
		return nil
	}
	return v.lake.Catalogue().Attach(ctx, dir.DID, did)
}

// deletable refuses what the mount must not delete.
func (v *FS) deletable(p string) error {
	if v.opt.NoDelete {
		return fmt.Errorf("delete %s: the mount has delete=false: %w", p, backends.ErrImmutable)
	}
	return nil
}

// Unlink drops a file's name. Its replicas go by their rules after the grace period;
// open handles keep the content.
func (v *FS) Unlink(ctx context.Context, dir *Node, name string) error {
	done, err := v.editing(dir)
	if err != nil {
		return err
	}
	defer done()
	p := path.Join(dir.Path(), name)
	u, cat, found, err := v.lookupLocked(ctx, dir, name)
	if err != nil {
		return err
	}
	if u == nil && !found {
		return fmt.Errorf("unlink %s: %w", p, backends.ErrNotExist)
	}
	if found && cat.IsDir() {
		return fmt.Errorf("unlink %s: %w", p, backends.ErrIsDir)
	}
	if err := v.deletable(p); err != nil {
		return err
	}
	s := &spot{u: u, cat: cat, found: found}
	gone := v.contents(s.inodes()...)
	if found {
		if err := v.remove(ctx, cat.DID); err != nil {
			v.tell(err, dir)
			return fmt.Errorf("unlink %s: %w", p, err)
		}
	}
	v.unname(dir, name, gone)
	dir.changed(v.now())
	return nil
}

func (v *FS) remove(ctx context.Context, did backends.DID) error {
	ns := v.lake.Namespace()
	if ns == nil {
		return fmt.Errorf("this catalogue has no delete: %w", backends.ErrNotSupported)
	}
	return ns.Remove(ctx, did)
}

// unname is the end of a name and of the unsent contents that had it: the live node
// becomes nameless, and what its handles have open goes with the last of them.
func (v *FS) unname(dir *Node, name string, gone []*unsent) {
	var kept *unsent
	if n := dir.child(name); n != nil {
		n.hold()
		defer n.Forget(1)
		n.mu.Lock()
		n.unlinked = true
		if n.handles > 0 {
			kept = n.work
		} else {
			n.work = nil
		}
		n.mu.Unlock()
		v.mu.Lock()
		if n.parent != nil && n.parent.children[n.name] == n {
			n.name = n.pathLocked()
			delete(n.parent.children, name)
			p := n.parent
			n.parent = nil
			p.forgetLocked(1)
		}
		v.mu.Unlock()
	}
	for _, u := range gone {
		if u != kept {
			v.drop(u)
		}
	}
	if kept != nil {
		v.orphan(kept)
	}
}

// Rmdir removes an empty directory, or an empty scope.
func (v *FS) Rmdir(ctx context.Context, dir *Node, name string) error {
	n, err := v.Lookup(ctx, dir, name)
	if err != nil {
		return err
	}
	defer n.Forget(1)
	p := path.Join(dir.Path(), name)
	if !n.IsDir() {
		return fmt.Errorf("rmdir %s: %w", p, backends.ErrNotDir)
	}
	if err := v.deletable(p); err != nil {
		return err
	}
	done, err := v.editing(dir, n)
	if err != nil {
		return err
	}
	defer done()
	v.mu.Lock()
	unsent := len(v.names[n.path])
	v.mu.Unlock()
	if unsent > 0 {
		return fmt.Errorf("rmdir %s: %w", p, backends.ErrNotEmpty)
	}
	if dir == v.root {
		ns := v.lake.Namespace()
		if ns == nil {
			return fmt.Errorf("rmdir %s: %w", p, backends.ErrPermission)
		}
		err = ns.RemoveScope(ctx, name)
	} else {
		err = v.remove(ctx, n.did())
	}
	if err != nil {
		v.tell(err, n)
		return fmt.Errorf("rmdir %s: %w", p, err)
	}
	v.unname(dir, name, nil)
	n.mu.Lock()
	n.touched = time.Time{}
	n.mu.Unlock()
	dir.changed(v.now())
	return nil
}
