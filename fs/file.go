package fs

import (
	"errors"
	"io"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tarn/fs/vfs"
)

// file is an open file with the way the kernel does its I/O.
type file struct {
	*vfs.Handle
	id   uint64 // of the FUSE inode
	mode ioMode
}

func (r *rawFS) keep(h any) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastFh++
	r.fhs[r.lastFh] = h
	return r.lastFh
}

func (r *rawFS) drop(fh uint64) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.fhs[fh]
	delete(r.fhs, fh)
	return h
}

func (r *rawFS) file(fh uint64) *file {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, _ := r.fhs[fh].(*file)
	return f
}

// opened fills out for a new handle of the FUSE inode id; false when id cannot have it.
func (r *rawFS) opened(h *vfs.Handle, id uint64, flags uint32, out *fuse.OpenOut) bool {
	f := &file{Handle: h, id: id}
	var ok bool
	if f.mode, out.OpenFlags, out.BackingID, ok = r.enter(h, id, flags); ok {
		out.Fh = r.keep(f)
	}
	return ok
}

func (r *rawFS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if isDot(in.NodeId) {
		return r.dot.open(in.NodeId, out)
	}
	n := r.node(in.NodeId)
	if n == nil {
		return fuse.Status(estale)
	}
	defer n.Forget(1)
	ctx, stop := waiting(cancel, in.Pid)
	defer stop()
	h, err := r.vfs.Open(ctx, n, int(in.Flags), caller(&in.InHeader))
	if err != nil {
		return r.fail("open", n, "", err)
	}
	for !r.opened(h, in.NodeId, in.Flags, out) {
		r.double(n.Inode(), in.NodeId)
		if r.idOf(n.Inode()) != in.NodeId {
			r.sweepTwins()
			h.Release()
			return fuse.Status(estale)
		}
	}
	return fuse.OK
}

func (r *rawFS) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	p, st := r.in(in.NodeId, name)
	if st != fuse.OK {
		return st
	}
	defer p.Forget(1)
	ctx, stop := waiting(cancel, in.Pid)
	defer stop()
	n, h, err := r.vfs.Create(ctx, p, name, int(in.Flags), in.Mode, caller(&in.InHeader))
	if err != nil {
		return r.fail("create", p, name, err)
	}
	id := r.idOf(n.Inode())
	for !r.opened(h, id, in.Flags, &out.OpenOut) { // a file that was there already
		r.double(n.Inode(), id)
		id = r.idOf(n.Inode())
	}
	return r.entryAs(n, id, &out.EntryOut)
}

func (r *rawFS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if isDot(in.NodeId) {
		return r.dot.read(in.Fh, buf, int64(in.Offset))
	}
	f := r.file(in.Fh)
	if f == nil {
		return nil, fuse.EBADF
	}
	ctx, stop := waiting(cancel, in.Pid)
	defer stop()
	data, done, err := f.Read(ctx, buf, int64(in.Offset), caller(&in.InHeader))
	if err != nil && !errors.Is(err, io.EOF) {
		done()
		return nil, r.fail("read", f.Node(), "", err)
	}
	if len(data) == 0 { // go-fuse calls Done for what it has to send only
		done()
		return fuse.ReadResultData(nil), fuse.OK
	}
	return &lent{data, done}, fuse.OK
}

// lent are bytes that are given back when the kernel has them.
type lent struct {
	data []byte
	done func()
}

func (l *lent) Bytes([]byte) ([]byte, fuse.Status) { return l.data, fuse.OK }
func (l *lent) Size() int                          { return len(l.data) }
func (l *lent) Done()                              { l.done() }

// Slices is what go-fuse asks for to write from memory; without it a pipe is tried first.
func (l *lent) Slices() ([][]byte, fuse.Status) { return [][]byte{l.data}, fuse.OK }

func (r *rawFS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	f := r.file(in.Fh)
	if f == nil {
		return 0, fuse.EBADF
	}
	ctx, stop := waiting(cancel, in.Pid)
	defer stop()
	n, err := f.WriteAt(ctx, data, int64(in.Offset))
	return uint32(n), r.fail("write", f.Node(), "", err)
}

// Writev answers ENOSYS, so that Write is called.
func (r *rawFS) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

func (r *rawFS) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	f := r.file(in.Fh)
	if f == nil {
		return fuse.OK // of .tarn
	}
	ctx, stop := waiting(cancel, in.Pid)
	defer stop()
	return r.fail("close", f.Node(), "", f.Flush(ctx, caller(&in.InHeader)))
}

func (r *rawFS) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	f := r.file(in.Fh)
	if f == nil {
		return fuse.EBADF
	}
	return r.fail("fsync", f.Node(), "", f.Fsync())
}

func (r *rawFS) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	f := r.file(in.Fh)
	if f == nil {
		return fuse.EBADF
	}
	ctx, stop := waiting(cancel, in.Pid)
	defer stop()
	return r.fail("fallocate", f.Node(), "", f.Allocate(ctx, in.Mode, int64(in.Offset), int64(in.Length)))
}

func (r *rawFS) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	f, ok := r.drop(in.Fh).(*file)
	if !ok {
		return // of .tarn
	}
	r.leave(f)
	f.Handle.Release()
}

// The whence values of lseek(2) that reach a FUSE server.
const (
	seekData = 3
	seekHole = 4
)

// Lseek never shows a hole in what is not here: copying tools would make zeros of it.
func (r *rawFS) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	f := r.file(in.Fh)
	if f == nil {
		return fuse.EBADF
	}
	size := f.Node().Info().Size
	off := int64(in.Offset)
	if off < 0 || off >= size {
		return fuse.Status(syscall.ENXIO)
	}
	switch in.Whence {
	case seekData:
		out.Offset = in.Offset
	case seekHole:
		out.Offset = uint64(size)
	default:
		return fuse.EINVAL
	}
	return fuse.OK
}

// CopyFileRange answers ENOSYS once: the kernel copies through reads and writes.
func (r *rawFS) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}
