package fs

import (
	"bytes"
	"encoding/binary"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tarn/fs/uring"
)

// Operations of the protocol that may be answered from memory (include/uapi/linux/fuse.h).
const (
	opLookup      = 1
	opGetAttr     = 3
	opReadlink    = 5
	opOpen        = 14
	opWrite       = 16
	opStatFs      = 17
	opRelease     = 18
	opGetXAttr    = 22
	opOpenDir     = 27
	opReadDir     = 28
	opReleaseDir  = 29
	opCreate      = 35
	opReadDirPlus = 44
)

// smallWrite is what a local disk takes without waiting.
const smallWrite = 64 << 10

// IOURingAllowed gives an error that says what to do where the machine's owner has not
// allowed requests over io_uring.
func IOURingAllowed() error { return uring.Allowed() }

// newRing makes what serves requests over io_uring; nil where it is not wanted or not to be had.
func (r *rawFS) newRing() *uring.Server {
	if r.o.IOURing == IOURingOff {
		return nil
	}
	u, err := uring.New(uring.Options{Quick: r.quick, Log: r.log})
	if err != nil {
		if r.o.IOURing == IOURingOn {
			r.log.Warn("the mount goes on without io_uring", "why", err)
		}
		return nil
	}
	return u
}

// quick tells whether a request is answered from memory and the local catalogue: it waits
// neither for storage, tape or the disk's sync, nor for what another request does. What is special to
// a write or release begins with the handle, to an open with the flags (fuse.h).
func (r *rawFS) quick(h *fuse.InHeader, op, data []byte) bool {
	if isDot(h.NodeId) && h.Opcode != opStatFs { // queries
		return false
	}
	switch h.Opcode {
	case opStatFs:
		return true
	case opLookup, opGetAttr, opReadlink, opOpenDir, opReleaseDir, opCreate:
		return true
	case opWrite:
		if len(op) < 8 || len(data) > smallWrite {
			return false
		}
		f := r.file(binary.NativeEndian.Uint64(op))
		return f != nil && f.Node().Unsent()
	case opReadDir, opReadDirPlus:
		return !r.prunes.Load()
	case opGetXAttr:
		return bytes.HasPrefix(data, []byte("security.")) || bytes.HasPrefix(data, []byte("system."))
	case opOpen:
		if len(op) < 4 || binary.NativeEndian.Uint32(op)&(syscall.O_ACCMODE|syscall.O_TRUNC) != syscall.O_RDONLY {
			return false
		}
		n := r.node(h.NodeId)
		if n == nil {
			return true
		}
		defer n.Forget(1)
		return n.Here()
	case opRelease:
		if len(op) < 8 {
			return false
		}
		f := r.file(binary.NativeEndian.Uint64(op))
		return f != nil && !f.Seals()
	}
	return false
}
