package fs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tarn/fs/vfs"
)

// ioMode is how the kernel does a handle's I/O.
type ioMode uint8

const (
	// direct: each call comes here; fits any state of the inode.
	direct ioMode = iota
	// cached: through the page cache of the FUSE inode.
	cached
	// passthrough: from the cache file, without us.
	passthrough
)

// ioState counts the open handles of an inode by mode. The kernel has an inode in one
// of the modes cached and passthrough at a time, with one backing file, and answers an
// open that does not fit with EIO; direct handles fit both (fs/fuse/iomode.c).
type ioState struct {
	cached  int
	pass    int
	backing int32
	content string // what backing shows
}

// enter chooses the mode of a new handle, with the flags that tell it the kernel.
func (r *rawFS) enter(h *vfs.Handle, flags uint32) (ioMode, uint32, int32) {
	if h.Resident() {
		return direct, fuse.FOPEN_DIRECT_IO, 0 // no read-ahead: it would ask for what is not here
	}
	ino := h.Node().Inode()
	readOnly := flags&syscall.O_ACCMODE == syscall.O_RDONLY
	var fd int
	whole := false
	if r.passthrough && readOnly {
		if f, ok := h.Whole(); ok {
			fd, whole = int(f.Fd()), true
		}
	}
	gen := string(h.Node().Info().Generation)
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.io[ino]
	if st == nil {
		st = &ioState{}
		r.io[ino] = st
	}
	switch {
	case st.pass > 0 && whole && st.content == gen:
		st.pass++
		return passthrough, fuse.FOPEN_PASSTHROUGH | fuse.FOPEN_NOFLUSH, st.backing
	case st.pass > 0:
		return direct, fuse.FOPEN_DIRECT_IO, 0
	case st.cached == 0 && whole:
		// A quick ioctl, no I/O; under the lock, so that no second handle registers too.
		id, errno := r.srv.RegisterBackingFd(&fuse.BackingMap{Fd: int32(fd)})
		if errno == 0 {
			st.pass, st.backing, st.content = 1, id, gen
			return passthrough, fuse.FOPEN_PASSTHROUGH | fuse.FOPEN_NOFLUSH, id
		}
		r.log.Debug("passthrough", "path", h.Node().Path(), "errno", errno)
	}
	st.cached++
	out := uint32(fuse.FOPEN_KEEP_CACHE)
	if whole {
		out |= fuse.FOPEN_NOFLUSH // its reads never wait: nothing to learn from a close
	}
	return cached, out, 0
}

// leave takes a handle out of the count.
func (r *rawFS) leave(f *file) {
	ino := f.Node().Inode()
	r.mu.Lock()
	st := r.io[ino]
	var close int32
	switch f.mode {
	case passthrough:
		if st.pass--; st.pass == 0 {
			close = st.backing
			st.backing, st.content = 0, ""
		}
	case cached:
		st.cached--
	}
	if st != nil && st.cached == 0 && st.pass == 0 {
		delete(r.io, ino)
	}
	r.mu.Unlock()
	if close != 0 {
		if errno := r.srv.UnregisterBackingFd(close); errno != 0 {
			r.log.Debug("unregister backing file", "id", close, "errno", errno)
		}
	}
}
