package vfs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/query"
	"tarn/cache"
	"tarn/cache/journal"
)

// Walked is one name met by Walk.
type Walked struct {
	Path string
	Info backends.Info
}

// Walk streams what stands at p and below it, directories before what they hold, in
// bounded memory for wide trees. A directory that contains itself ends in ErrLoop.
func (v *FS) Walk(ctx context.Context, p string) iter.Seq2[Walked, error] {
	return func(yield func(Walked, error) bool) {
		n, err := v.Resolve(ctx, p)
		if err != nil {
			yield(Walked{}, err)
			return
		}
		defer n.Forget(1)
		v.walk(ctx, n, nil, yield)
	}
}

func (v *FS) walk(ctx context.Context, n *Node, above []uint64, yield func(Walked, error) bool) bool {
	p := n.Path()
	for _, ino := range above {
		if ino == n.ino {
			return yield(Walked{}, fmt.Errorf("walk %s: %w", p, backends.ErrLoop))
		}
	}
	if !yield(Walked{p, n.Info()}, nil) {
		return false
	}
	if !n.IsDir() {
		return true
	}
	above = append(above, n.ino)
	for after := ""; ; {
		entries, err := v.List(ctx, n, after)
		if err != nil {
			return yield(Walked{}, err)
		}
		if len(entries) == 0 {
			return true
		}
		after = entries[len(entries)-1].Name
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return yield(Walked{}, err)
			}
			if !e.Info.IsDir() {
				if !yield(Walked{path.Join(p, e.Name), e.Info}, nil) {
					return false
				}
				continue
			}
			c := v.Place(ctx, n, e)
			if c == nil {
				continue
			}
			ok := v.walk(ctx, c, above, yield)
			c.Forget(1)
			if !ok {
				return false
			}
		}
	}
}

// Query reads a query for Find.
func (v *FS) Query(ctx context.Context, text string) (query.Expr, error) {
	if v.opt.Query == nil {
		return query.Parse(text)
	}
	return v.opt.Query(ctx, text)
}

// Find streams what matches the query (nil: everything) at or below the lake path root. Files that are
// not registered yet are matched on what the journal knows of them.
func (v *FS) Find(ctx context.Context, root string, q query.Expr) iter.Seq2[Walked, error] {
	return func(yield func(Walked, error) bool) {
		n, err := v.Resolve(ctx, root)
		if err != nil {
			yield(Walked{}, err)
			return
		}
		did := n.did()
		n.Forget(1)
		known := map[backends.DID]string{} // of collections
		for in, err := range v.lake.Catalogue().Find(ctx, did, q) {
			var p string
			if err == nil {
				if p, err = v.lake.PathOf(ctx, in.DID, known); isNotExist(err) {
					continue // removed meanwhile
				}
			}
			if err != nil {
				yield(Walked{}, err)
				return
			}
			if len(known) > maxKnown {
				clear(known)
			}
			if !yield(Walked{p, in}, nil) {
				return
			}
		}
		prefix := strings.TrimSuffix(root, "/") + "/"
		for _, u := range v.unsentBelow(prefix) {
			if u.registered() || u.aside() || q != nil && !q.Match(u.lookup) {
				continue
			}
			if !yield(Walked{u.where(), u.info()}, nil) {
				return
			}
		}
	}
}

// maxKnown bounds the paths of collections that a Find keeps.
const maxKnown = 100_000

// aside tells whether u is an unfinished file that a crash left: not in the tree.
func (u *unsent) aside() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.state == journal.Abandoned
}

// lookup gives a key of an unsent file to a query.
func (u *unsent) lookup(key string) (any, bool) {
	in := u.info()
	p := u.where()
	in.DID = u.fs.lake.PathDID(p)
	return backends.Subject{Info: &in, Meta: u.entry.Record().Meta}.Value(key)
}

// Evict drops the local copies of the file in: from the hot cache (head and tail stay)
// and from the disk buffers of tape RSEs, where the tape system lets it. What is unsent,
// open or pinned stays: backends.ErrBusy.
func (v *FS) Evict(ctx context.Context, in backends.Info) (freed int64, err error) {
	if v.unsentOf(in.Inode) != nil {
		return 0, fmt.Errorf("evict %s: it is not safe elsewhere yet: %w", in.DID, backends.ErrBusy)
	}
	if in.Generation != "" {
		freed, err = v.cache.Evict(cache.Key(in.Generation))
		if err != nil && !errors.Is(err, cache.ErrNotCached) {
			if st, ok := v.Cached(in); ok && errors.Is(err, cache.ErrBusy) && st.Pinned.After(v.now()) {
				return 0, fmt.Errorf("evict %s: it is pinned until %s: %w", in.DID, st.Pinned.Local().Format(time.DateTime), backends.ErrBusy)
			}
			return 0, fmt.Errorf("evict %s: %w", in.DID, local(err))
		}
		v.notifyContent(in.Inode)
	}
	reps, err := v.lake.Catalogue().Replicas(ctx, in.DID)
	if err != nil {
		return freed, err
	}
	for _, r := range reps {
		rse, ok := v.lake.RSE(r.RSE)
		if !ok || rse.Tape == nil {
			continue
		}
		b, ok := rse.Tape.(interface {
			EvictBuffer(ctx context.Context, paths ...string) error
		})
		if !ok {
			continue
		}
		if err := b.EvictBuffer(ctx, r.PFN); err != nil && !errors.Is(err, backends.ErrBusy) && !isNotExist(err) {
			return freed, fmt.Errorf("evict %s from the disk buffer of %s: %w", in.DID, r.RSE, err)
		}
	}
	return freed, nil
}

// Pin keeps the cached content of in until a time; ErrNotExist when it is not cached.
func (v *FS) Pin(in backends.Info, until time.Time) error {
	return local(v.cache.Pin(cache.Key(in.Generation), until))
}

// Unpin drops the pin.
func (v *FS) Unpin(in backends.Info) error { return local(v.cache.Unpin(cache.Key(in.Generation))) }

// Cached tells what the hot cache has of in.
func (v *FS) Cached(in backends.Info) (cache.Status, bool) {
	if in.Generation == "" {
		return cache.Status{}, false
	}
	return v.cache.Status(cache.Key(in.Generation))
}

// Upload is one unsent file, as `tarn uploads ls` shows it.
type Upload struct {
	ID       string         `json:"id"`
	Path     string         `json:"path"`
	State    journal.State  `json:"state"`
	Size     int64          `json:"size"`
	Copies   []journal.Copy `json:"copies"`
	Attempts int            `json:"attempts"`
	Error    string         `json:"error,omitempty"`
	Since    time.Time      `json:"since"`
	Running  bool           `json:"running"`
}

// Uploads lists what is not yet safe, oldest first.
func (v *FS) Uploads() []Upload {
	v.mu.Lock()
	all := make([]*unsent, 0, len(v.unsent))
	for _, u := range v.unsent {
		all = append(all, u)
	}
	v.mu.Unlock()
	out := make([]Upload, 0, len(all))
	for _, u := range all {
		r := u.entry.Record()
		x := Upload{ID: u.id, Size: u.entry.Size(), Copies: r.Copies, Attempts: r.Attempts, Since: r.Created}
		u.mu.Lock()
		x.Path, x.State, x.Error, x.Running = u.path, u.state, u.why, u.busy != nil
		if u.dirty {
			x.State = journal.Writing
		}
		if u.dropped && x.Path == "" {
			x.Path = "(unlinked, still open)"
		}
		u.mu.Unlock()
		out = append(out, x)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Since.Before(out[j].Since) })
	return out
}

func (v *FS) upload(id string) (*unsent, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if u := v.unsent[id]; u != nil {
		return u, nil
	}
	return nil, fmt.Errorf("upload %s: %w", id, backends.ErrNotExist)
}

// RetryUpload tries an upload again now. An unfinished file that was kept aside after a
// crash is taken as it is, and published.
func (v *FS) RetryUpload(ctx context.Context, id string) error {
	u, err := v.upload(id)
	if err != nil {
		return err
	}
	u.mu.Lock()
	aside, p := u.state == journal.Abandoned, u.path
	u.mu.Unlock()
	if aside {
		if err := v.adopt(ctx, u, p); err != nil {
			return err
		}
	}
	u.mu.Lock()
	u.why = ""
	u.mu.Unlock()
	v.up.add(u, 0)
	return nil
}

// adopt gives a file that was kept aside its name.
func (v *FS) adopt(ctx context.Context, u *unsent, p string) error {
	dir, err := v.Resolve(ctx, path.Dir(p))
	if err != nil {
		return fmt.Errorf("the directory of %s: %w", p, err)
	}
	defer dir.Forget(1)
	defer v.notifyEntry(dir.ino, path.Base(p)) // after the locks: the kernel holds its own
	done, err := v.editing(dir)
	if err != nil {
		return err
	}
	defer done()
	other, _, found, err := v.lookupLocked(ctx, dir, path.Base(p))
	if err != nil {
		return err
	}
	if other != nil || found {
		return fmt.Errorf("%s exists by now; move it away first: %w", p, backends.ErrExist)
	}
	u.mu.Lock()
	u.dirty = true
	u.mu.Unlock()
	if err := u.seal(false); err != nil {
		return err
	}
	if err := u.grow(u.entry.Size()); err != nil {
		v.log.Warn("unsent files exceed the cache's limit", "err", err)
	}
	v.mu.Lock()
	if !slices.Contains(v.byInode[u.inode], u) {
		v.byInode[u.inode] = append(v.byInode[u.inode], u)
	}
	v.mu.Unlock()
	v.setName(u, p)
	dir.changed(v.now())
	return nil
}

// CancelUpload gives an unsent file up: its bytes are deleted here, and its name goes if
// it was not registered yet. ErrBusy when it is open.
func (v *FS) CancelUpload(ctx context.Context, id string) error {
	u, err := v.upload(id)
	if err != nil {
		return err
	}
	p := u.where()
	if u.registered() {
		return fmt.Errorf("upload %s of %s is registered already; remove the file instead: %w", id, p, backends.ErrImmutable)
	}
	n := v.Known(u.inode)
	if n != nil {
		defer n.Forget(1)
		n.mu.Lock()
		open := n.handles > 0
		n.mu.Unlock()
		if open {
			return fmt.Errorf("upload %s: %s is open: %w", id, p, backends.ErrBusy)
		}
	}
	dir, err := v.Resolve(ctx, path.Dir(p))
	if err != nil && !isNotExist(err) {
		return err
	}
	if dir != nil {
		defer dir.Forget(1)
		defer v.notifyEntry(dir.ino, path.Base(p))
		done, err := v.editing(dir)
		if err != nil {
			return err
		}
		defer done()
	}
	if u.registered() {
		return fmt.Errorf("upload %s of %s is registered meanwhile: %w", id, p, backends.ErrImmutable)
	}
	if n != nil {
		n.mu.Lock()
		open := n.handles > 0
		if n.work == u && !open {
			n.work = nil
		}
		n.mu.Unlock()
		if open {
			return fmt.Errorf("upload %s: %s is open: %w", id, p, backends.ErrBusy)
		}
	}
	v.drop(u)
	if dir != nil {
		dir.changed(v.now())
	}
	return nil
}

// Held lists the processes that the recall policy refused.
func (v *FS) Held() []Held { return v.policy.list() }

// AllowRecalls lets a process recall from now on; false when it does not exist.
func (v *FS) AllowRecalls(pid uint32) bool { return v.policy.allow(pid) }

// Undelete makes a replaced or removed content current again.
func (v *FS) Undelete(ctx context.Context, p, handle string) error {
	if v.lake.Versions() == nil {
		return fmt.Errorf("undelete: this catalogue keeps no old contents: %w", backends.ErrNotSupported)
	}
	dir, err := v.Resolve(ctx, path.Dir(p))
	if err != nil {
		return err
	}
	defer dir.Forget(1)
	var changed uint64
	defer func() { // after the locks: the kernel holds its own while it waits for ours
		v.notifyEntry(dir.ino, path.Base(p))
		if changed != 0 {
			v.notifyContent(changed)
		}
	}()
	done, err := v.editing(dir)
	if err != nil {
		return err
	}
	defer done()
	if v.unsentAt(dir.Path(), path.Base(p)) != nil {
		return fmt.Errorf("undelete %s: a newer content is not uploaded yet: %w", p, backends.ErrBusy)
	}
	if in, err := v.lake.Lookup(ctx, dir.Info(), path.Base(p)); err == nil && v.unsentOf(in.Inode) != nil {
		return fmt.Errorf("undelete %s: the content that is there is not safe yet: %w", p, backends.ErrBusy)
	}
	if err := v.lake.Undelete(ctx, handle); err != nil {
		return err
	}
	dir.changed(v.now())
	if c := dir.child(path.Base(p)); c != nil {
		in, err := v.lake.Lookup(ctx, dir.Info(), path.Base(p))
		if err == nil && in.Inode == c.ino {
			c.mu.Lock()
			c.info = in
			c.mu.Unlock()
		}
		changed = c.ino
	}
	return nil
}

// Changed drops what the kernel keeps of a name and of all below it, after a change that
// was not made through this FS.
func (v *FS) Changed(ctx context.Context, p string) {
	if p == "/" {
		for _, inode := range v.changedBelow(v.root) {
			v.notifyContent(inode)
		}
		return
	}
	dir, err := v.Resolve(ctx, path.Dir(p))
	if err != nil {
		return
	}
	defer dir.Forget(1)
	dir.names.Add(1)
	below := v.changedBelow(dir.child(path.Base(p)))
	v.notifyEntry(dir.ino, path.Base(p))
	v.notifyContent(dir.ino)
	for _, inode := range below { // those in use outlive the name's end
		v.notifyContent(inode)
	}
}

// Refresh makes the catalogue's server be asked again for a path and all below it, by us and by the kernel. False: the
// catalogue remembers nothing, so what it shows is what there is.
func (v *FS) Refresh(ctx context.Context, p string) (bool, error) {
	p, err := lake.CleanPath(p)
	if err != nil {
		return false, err
	}
	var did backends.DID
	if p != "/" {
		did = v.lake.PathDID(p) // also of what is said not to be there
		if in, err := v.lake.Resolve(ctx, p); err == nil {
			did = in.DID
		}
	}
	v.askQuota()
	if !v.lake.Refresh(did) {
		return false, nil
	}
	v.Changed(ctx, p)
	return true, nil
}

// changedBelow notes a change in every live directory from n (nil: none) downwards, and
// gives their inodes.
func (v *FS) changedBelow(n *Node) (out []uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var walk func(n *Node)
	walk = func(n *Node) {
		if n == nil || !n.isDir {
			return
		}
		n.names.Add(1)
		out = append(out, n.ino)
		for _, c := range n.children {
			walk(c)
		}
	}
	walk(n)
	return out
}

// Lake, Cache and Journal are what the FS stands on.
func (v *FS) Lake() *lake.Lake { return v.lake }

// Cache is the hot cache.
func (v *FS) Cache() *cache.Cache { return v.cache }
