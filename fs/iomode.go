package fs

import (
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tarn/backends"
	"tarn/fs/vfs"
)

// ioMode is how the kernel does a handle's I/O.
type ioMode uint8

const (
	// direct: each call comes here; fits an inode in cached mode too.
	direct ioMode = iota
	// cached: through the page cache of the FUSE inode.
	cached
	// passthrough: from the cache file, without us.
	passthrough
)

// ioState counts the open handles of a FUSE inode by mode. The kernel has an inode in one
// of the modes cached and passthrough at a time; one in passthrough has one backing file,
// and every open that is not passthrough to that file is EIO, also a direct one
// (fs/fuse/iomode.c). What does not fit gets a FUSE inode of its own: see twin.
type ioState struct {
	cached  int // and direct
	pass    int
	backing int32
	content backends.Generation // what backing shows
}

// enter chooses the mode of a new handle of the FUSE inode id, with the flags that tell it
// the kernel; false when id is bound to another content, or to reading only, or is not the
// one that is shown: all that open a file share one FUSE inode, or their locks would not meet.
func (r *rawFS) enter(h *vfs.Handle, id uint64, flags uint32) (mode ioMode, out uint32, backing int32, ok bool) {
	readOnly := flags&syscall.O_ACCMODE == syscall.O_RDONLY && !h.Resident()
	var fd int
	var gen backends.Generation
	whole := false
	if r.passthrough && readOnly && h.Node().Info().Size > 0 { // empty ones are there to be locked
		var f *os.File
		if f, gen, whole = h.Whole(); whole {
			fd = int(f.Fd())
		}
	}
	pastCache := r.writesPastCache(h, flags)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.idOfLocked(h.Node().Inode()) != id {
		return direct, 0, 0, false
	}
	if t := r.twins[id]; t != nil && time.Since(t.made) < r.rest {
		whole = false
	}
	st := r.io[id]
	if st == nil {
		st = &ioState{}
	}
	switch {
	case st.pass > 0 && whole && st.content == gen:
		st.pass++
		return passthrough, fuse.FOPEN_PASSTHROUGH | fuse.FOPEN_NOFLUSH, st.backing, true
	case st.pass > 0:
		return direct, 0, 0, false
	}
	r.io[id] = st
	if h.Resident() {
		st.cached++                                  // mapping it makes it that
		return direct, fuse.FOPEN_DIRECT_IO, 0, true // no read-ahead: it would ask for what is not here
	}
	if pastCache {
		st.cached++
		return direct, fuse.FOPEN_DIRECT_IO, 0, true
	}
	if st.cached == 0 && whole {
		// A quick ioctl, no I/O; under the lock, so that no second handle registers too.
		backing, errno := r.srv.RegisterBackingFd(&fuse.BackingMap{Fd: int32(fd)})
		if errno == 0 {
			st.pass, st.backing, st.content = 1, backing, gen
			return passthrough, fuse.FOPEN_PASSTHROUGH | fuse.FOPEN_NOFLUSH, backing, true
		}
		r.log.Debug("passthrough", "path", h.Node().Path(), "errno", errno)
	}
	st.cached++
	out = fuse.FOPEN_KEEP_CACHE
	if whole {
		out |= fuse.FOPEN_NOFLUSH // its reads never wait: nothing to learn from a close
	}
	return cached, out, 0, true
}

// writesPastCache tells whether what a new handle writes goes past the page cache of the
// FUSE inode. A copy of it there, beside that of the journal's file, costs more than all the
// rest of a big write. Where the handle cannot read or map it would serve nobody, and hardly
// anybody where the program wants a file that is new: it has all of it to write. What it reads
// back comes from us, a request each time. Databases read much of what they write, and ask for
// a file that is there or else made. Mapping such a handle needs a kernel that can (6.6).
func (r *rawFS) writesPastCache(h *vfs.Handle, flags uint32) bool {
	switch flags & syscall.O_ACCMODE {
	case syscall.O_WRONLY:
		return true
	case syscall.O_RDWR:
		anew := flags&(syscall.O_TRUNC|syscall.O_EXCL) != 0
		return anew && r.mapsDirect && h.Node().Info().Size == 0
	}
	return false
}

// leave takes a handle out of the count.
func (r *rawFS) leave(f *file) {
	r.mu.Lock()
	st := r.io[f.id]
	var close int32
	switch f.mode {
	case passthrough:
		if st.pass--; st.pass == 0 {
			close = st.backing
			st.backing, st.content = 0, ""
		}
	default:
		st.cached--
	}
	if st.cached == 0 && st.pass == 0 {
		delete(r.io, f.id)
	}
	r.mu.Unlock()
	if close != 0 {
		if errno := r.srv.UnregisterBackingFd(close); errno != 0 {
			r.log.Debug("unregister backing file", "id", close, "errno", errno)
		}
	}
}

// twin is a further id of an inode number, a FUSE inode of its own for what a file has
// become while handles of an older content bind the first one. An open that does not fit
// is ESTALE, whereupon the kernel looks the name up again and is given the twin. What the
// older handles read, and the locks they hold, is not seen through the twin.
type twin struct {
	id      uint64
	inode   uint64
	lookups uint64 // references of the kernel
	made    time.Time
}

// twinRest is how long a twin is shown whatever the kernel forgets, and not opened by
// passthrough. The kernel tries an open that was ESTALE once more only, and in between it
// may forget all it knows of the file: then the twin must still be there, and not be bound.
const twinRest = 5 * time.Second

// twinBits marks the ids of twins; see isDot.
const twinBits = 3 << 62

// inode is the inode number of a node id.
func (r *rawFS) inode(id uint64) uint64 {
	if id < dotBit {
		return id
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.twins[id]; t != nil {
		return t.inode
	}
	return id
}

// twinned tells whether an id is a twin, or its inode is shown as one.
func (r *rawFS) twinned(id uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.twins[id] != nil || r.shown[id] != nil
}

// idOf is the id under which a file is shown now.
func (r *rawFS) idOf(inode uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.idOfLocked(inode)
}

func (r *rawFS) idOfLocked(inode uint64) uint64 {
	if t := r.shown[inode]; t != nil {
		return t.id
	}
	return inode
}

// double shows a file under a new id, if it is still shown under the one that is bound, and
// that is still bound.
func (r *rawFS) double(inode, bound uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.shown[inode]
	switch {
	case old == nil && bound != inode, old != nil && old.id != bound:
		return
	case r.io[bound] == nil || r.io[bound].pass == 0:
		return
	case old != nil && old.lookups == 0:
		delete(r.twins, old.id)
	}
	r.lastTwin++
	t := &twin{id: twinBits | r.lastTwin, inode: inode, made: time.Now()}
	r.twins[t.id], r.shown[inode] = t, t
}

// sweepTwins drops the twins of inodes that the kernel forgot while they rested.
func (r *rawFS) sweepTwins() {
	r.mu.Lock()
	var idle []uint64
	if time.Since(r.swept) > r.rest {
		r.swept = time.Now()
		for inode, t := range r.shown {
			if t.lookups == 0 && time.Since(t.made) > r.rest {
				idle = append(idle, inode)
			}
		}
	}
	r.mu.Unlock()
	for _, inode := range idle {
		r.unshow(inode)
	}
}

// lookedUp counts a reference that the kernel gets to id.
func (r *rawFS) lookedUp(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.twins[id]; t != nil {
		t.lookups++
	}
}

// forgetTwin takes back what lookedUp counted. The id that is shown stays until the node
// goes: the kernel forgets it between two look-ups of one open.
func (r *rawFS) forgetTwin(id, count uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.twins[id]
	if t == nil {
		return
	}
	if t.lookups -= min(count, t.lookups); t.lookups == 0 && r.shown[t.inode] != t {
		delete(r.twins, id)
	}
}

// unshow drops the id of an inode that the kernel does not know any more.
func (r *rawFS) unshow(inode uint64) {
	r.mu.Lock()
	t := r.shown[inode]
	rests := t != nil && time.Since(t.made) < r.rest
	r.mu.Unlock()
	if t == nil || rests {
		return
	}
	if n := r.vfs.Known(inode); n != nil {
		n.Forget(1)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shown[inode] == t && t.lookups == 0 {
		delete(r.shown, inode)
		delete(r.twins, t.id)
	}
}
