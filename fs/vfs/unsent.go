package vfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/cache/journal"
)

// unsent is a content that was written here and is not yet safe elsewhere: an entry
// of the journal and what of it must be known without reading its record.
type unsent struct {
	fs    *FS
	entry *journal.Entry
	id    string
	inode uint64

	// guarded by FS.mu: where it stands in FS.names; "" once registered or unlinked
	at string

	mu       sync.Mutex // guards the rest; after Node.mu and FS.mu; never held across I/O
	path     string     // where it is to be registered; "" when it lost its name
	last     string     // the path that it had then
	mode     uint32
	uid, gid uint32
	mtime    time.Time
	ctime    time.Time
	born     time.Time // when the name came to be
	written  time.Time // when the content last changed, on the monotonic clock
	state    journal.State
	sums     backends.Checksums // of the sealed content; none until all are known
	sealed   int64              // its size
	dirty    bool               // written to since the last Seal
	sealing  chan struct{}      // closed when the Seal that runs is done; nil: none runs
	known    bool               // the bytes were sealed with all checksums, or compared with what was sealed, in this process
	pending  int                // writes under way
	lazy     bool               // sealed without waiting for the disk, and not synced since
	promised bool               // a Sync or Seal was begun: a crash may bring it back
	frozen   bool               // its upload has begun: a new writer copies
	dropped  bool               // unlinked, superseded or cancelled
	ended    bool               // its entry is no more: removed, or taken into the cache
	reserved int64              // bytes reserved in the cache's limit
	counted  int64              // of these, what the quota that is known has as used: part of FS.counted
	prev     *unsent            // sealed content that this one replaces once it is sealed itself
	why      string             // last error of the upload
	waiters  []chan struct{}    // of close=remote|registered: closed at every change of state
	busy     context.CancelFunc // ends the running upload
	held     bool               // its upload waits until who may write it has closed it
}

// sumsOf are the checksums that are shown of a sealed content: those of a big one that was
// written fast come with the look at it before its upload, and are not shown in part.
func sumsOf(r journal.Record) backends.Checksums {
	if r.SumsLate {
		return backends.Checksums{}
	}
	return checksum.FromMap(r.Sums)
}

func isNotExist(err error) bool { return errors.Is(err, backends.ErrNotExist) }

// newUnsent wraps a journal entry and puts it into the maps, but for its name.
func (v *FS) newUnsent(e *journal.Entry) *unsent {
	r := e.Record()
	u := &unsent{
		fs: v, entry: e, id: r.ID, inode: r.Inode, path: string(r.Path), mode: r.Mode, uid: r.UID, gid: r.GID,
		mtime: r.MTime, ctime: r.Created, born: r.Created, state: r.State, sums: sumsOf(r), sealed: r.Size, why: r.Error,
	}
	u.dirty = r.State == journal.Writing
	if u.mtime.IsZero() {
		u.mtime = r.Created
	}
	v.mu.Lock()
	v.unsent[u.id] = u
	v.byInode[u.inode] = append(v.byInode[u.inode], u)
	v.mu.Unlock()
	return u
}

// setName puts u at a path of the tree.
func (v *FS) setName(u *unsent, p string) {
	v.mu.Lock()
	v.nameLocked(u, p)
	v.mu.Unlock()
	u.mu.Lock()
	u.path = p
	u.mu.Unlock()
}

// nameLocked puts u at a path of the tree, or takes it out with ""; needs v.mu.
func (v *FS) nameLocked(u *unsent, p string) {
	if u.at != "" {
		dir, name := path.Split(u.at)
		dir = path.Clean(dir)
		if v.names[dir][name] == u {
			delete(v.names[dir], name)
			if len(v.names[dir]) == 0 {
				delete(v.names, dir)
			}
		}
	}
	u.at = p
	if p == "" {
		return
	}
	dir, name := path.Split(p)
	dir = path.Clean(dir)
	if v.names[dir] == nil {
		v.names[dir] = map[string]*unsent{}
	}
	if old := v.names[dir][name]; old != nil && old != u {
		old.at = "" // an older content, which u hides
	}
	v.names[dir][name] = u
}

// forget takes u out of all maps.
func (v *FS) forget(u *unsent) {
	v.mu.Lock()
	v.nameLocked(u, "")
	delete(v.unsent, u.id)
	left := slices.DeleteFunc(v.byInode[u.inode], func(w *unsent) bool { return w == u })
	if v.byInode[u.inode] = left; len(left) == 0 {
		delete(v.byInode, u.inode)
	}
	v.mu.Unlock()
	u.release()
}

// release gives back what is reserved for u.
func (u *unsent) release() {
	u.mu.Lock()
	n := u.reserved
	u.fs.counted.Add(-u.counted)
	u.reserved, u.counted = 0, 0
	u.mu.Unlock()
	u.fs.cache.ReleaseUnsent(n)
}

// unsentAt is the unsent file at (dir, name), or nil.
func (v *FS) unsentAt(dir, name string) *unsent {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.names[dir][name]
}

// unsentOf is the newest unsent content of an inode, or nil.
func (v *FS) unsentOf(inode uint64) *unsent {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.newestLocked(inode)
}

func (v *FS) newestLocked(inode uint64) *unsent {
	if all := v.byInode[inode]; len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// contents lists the unsent contents of the inodes, the newest of each last.
func (v *FS) contents(inodes ...uint64) (out []*unsent) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, inode := range inodes {
		if !slices.Contains(inodes[:i], inode) {
			out = append(out, v.byInode[inode]...)
		}
	}
	return out
}

func registeredState(s journal.State) bool {
	return s == journal.Registered || s == journal.Attached || s == journal.Ruled || s == journal.Safe
}

func (u *unsent) registered() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return registeredState(u.state)
}

// unhold tells whether the upload waited for a close.
func (u *unsent) unhold() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	was := u.held
	u.held = false
	return was
}

func (u *unsent) gone() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.dropped || u.ended
}

// fill puts u's attributes into in.
func (u *unsent) fill(in *backends.Info) {
	size := u.entry.Size()
	u.mu.Lock()
	defer u.mu.Unlock()
	if registeredState(u.state) && !u.dirty {
		return // the catalogue has them, and may have changed them since
	}
	in.Type, in.Target = backends.File, ""
	in.Size, in.Mode, in.UID, in.GID, in.MTime, in.CTime = size, u.mode, u.uid, u.gid, u.mtime, u.ctime
	in.Checksums, in.Generation = backends.Checksums{}, ""
	if !u.dirty && u.state != journal.Writing && u.state != journal.Abandoned {
		in.Checksums = u.sums
	}
}

// info is the Info of a file that only the journal knows.
func (u *unsent) info() backends.Info {
	in := backends.Info{Inode: u.inode, Type: backends.File}
	u.fill(&in)
	u.mu.Lock()
	in.DID = backends.DID{Name: u.path}
	u.mu.Unlock()
	return in
}

// write stores p at off.
func (u *unsent) write(p []byte, off int64) (int, error) {
	defer u.wrote()
	if err := u.grow(off + int64(len(p))); err != nil {
		return 0, err
	}
	u.touch()
	n, err := u.entry.WriteAt(p, off)
	if u.fs.roomier(err, int64(len(p))) {
		n, err = u.entry.WriteAt(p, off)
	}
	return n, local(err)
}

// wrote ends a write that workFor let begin. A seal that came between the two covers it
// or does not: there is something to be sealed again.
func (u *unsent) wrote() {
	u.mu.Lock()
	u.pending--
	u.dirty = true
	u.mu.Unlock()
}

// touch marks the content as changed now.
func (u *unsent) touch() {
	now := u.fs.now()
	u.mu.Lock()
	u.dirty, u.written = true, time.Now()
	u.mtime, u.ctime = now, now
	u.mu.Unlock()
}

// attrs copies the attributes into a record.
func (u *unsent) attrs(r *journal.Record) {
	r.Path = []byte(u.path)
	r.Mode, r.UID, r.GID, r.MTime = u.mode, u.uid, u.gid, u.mtime
	if u.path == "" && u.last != "" {
		r.Meta = map[string]any{lastPath: u.last}
	}
}

// note writes the attributes into the record, durably or lazily.
func (u *unsent) note(durable bool, more func(*journal.Record)) error {
	f := func(r *journal.Record) {
		u.mu.Lock()
		u.attrs(r)
		u.mu.Unlock()
		if more != nil {
			more(r)
		}
	}
	if durable {
		return local(u.entry.Update(f))
	}
	return local(u.entry.UpdateLazy(f))
}

// sync makes what was written so far durable, without completing it.
func (u *unsent) sync() error {
	u.mu.Lock()
	u.promised = true
	u.mu.Unlock()
	if err := u.note(false, nil); err != nil {
		return err
	}
	return local(u.entry.Sync())
}

// isRotten tells whether the bytes were found not to be those that were sealed.
func (u *unsent) isRotten() bool { return u.entry.Damaged() }

// read is ReadAt of the entry, of bytes that are not known to be wrong.
func (u *unsent) read(p []byte, off int64) (int, error) {
	if u.isRotten() {
		return 0, fmt.Errorf("%w: %w", backends.ErrCorrupt, errRotten)
	}
	k, err := u.entry.ReadAt(p, off)
	if u.isRotten() && !errors.Is(err, journal.ErrRemoved) { // found by this read, or meanwhile
		return 0, fmt.Errorf("%w: %w", backends.ErrCorrupt, errRotten)
	}
	return k, err
}

// leaving tells whether a read failed because u's bytes go into the cache just now, or
// were given up: gone says when that is done.
func (u *unsent) leaving(err error) bool {
	return err != nil && err != io.EOF && (errors.Is(err, journal.ErrRemoved) || u.entry.State() == journal.Safe)
}

// changedLocked wakes those who wait for a state; needs u.mu.
func (u *unsent) changedLocked() {
	for _, c := range u.waiters {
		close(c)
	}
	u.waiters = nil
}

// drop ends u's life: its upload is stopped, its bytes and the copies that only it knows
// are deleted.
func (v *FS) drop(u *unsent) {
	u.mu.Lock()
	if u.ended {
		u.mu.Unlock()
		return
	}
	u.dropped, u.ended = true, true
	u.loseNameLocked()
	stop := u.busy
	prev := u.prev
	u.prev = nil
	u.changedLocked()
	u.mu.Unlock()
	if stop != nil {
		stop()
	}
	v.up.forget(u)
	v.forget(u)
	if prev != nil {
		v.drop(prev)
	}
	if stop == nil {
		v.up.discard(u)
		return
	}
	// The upload that ends discards it. A crash before that must not bring it back.
	if err := u.noteIfKept(true, nil); err != nil {
		v.log.Error("note a dropped file in the journal", "id", u.id, "err", err)
	}
}

func (u *unsent) loseNameLocked() {
	if u.path != "" {
		u.last, u.path = u.path, ""
	}
}

// orphan takes u's name away while handles are open: nothing of it will be uploaded,
// and a crash does not bring it back.
func (v *FS) orphan(u *unsent) {
	u.mu.Lock()
	u.loseNameLocked()
	u.dropped = true
	stop, promised := u.busy, u.promised
	u.changedLocked()
	u.mu.Unlock()
	if stop != nil {
		stop()
	}
	v.up.forget(u)
	v.mu.Lock()
	v.nameLocked(u, "")
	v.mu.Unlock()
	// What promised nothing is not brought back anyway.
	if err := u.noteIfKept(promised, nil); err != nil {
		v.log.Error("note an unlinked file in the journal", "id", u.id, "err", err)
	}
}
