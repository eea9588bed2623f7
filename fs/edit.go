package fs

import (
	"context"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tarn/fs/vfs"
)

const estale = syscall.ESTALE

// in is what the calls that change names begin with: the directory's node.
func (r *rawFS) in(id uint64, name string) (*vfs.Node, fuse.Status) {
	if isDot(id) || id == fuse.FUSE_ROOT_ID && name == dotName {
		return nil, fuse.EPERM
	}
	if n := r.node(id); n != nil {
		return n, fuse.OK
	}
	return nil, fuse.Status(estale)
}

func (r *rawFS) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	p, st := r.in(in.NodeId, name)
	if st != fuse.OK {
		return st
	}
	defer p.Forget(1)
	n, err := r.vfs.Mkdir(context.Background(), p, name, in.Mode, caller(&in.InHeader))
	if err != nil {
		return r.fail("mkdir", p, name, err)
	}
	return r.entry(n, out)
}

func (r *rawFS) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if in.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return fuse.EPERM // a lake holds no devices, pipes or sockets
	}
	p, st := r.in(in.NodeId, name)
	if st != fuse.OK {
		return st
	}
	defer p.Forget(1)
	ctx, stop := waiting(cancel, in.Pid)
	defer stop()
	n, err := r.vfs.Mknod(ctx, p, name, in.Mode, caller(&in.InHeader))
	if err != nil {
		return r.fail("mknod", p, name, err)
	}
	return r.entry(n, out)
}

func (r *rawFS) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	p, st := r.in(h.NodeId, name)
	if st != fuse.OK {
		return st
	}
	defer p.Forget(1)
	n, err := r.vfs.Symlink(context.Background(), p, name, target, caller(h))
	if err != nil {
		return r.fail("symlink", p, name, err)
	}
	return r.entry(n, out)
}

// Link is refused as on file systems without hard links: a DID has one name.
func (r *rawFS) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

func (r *rawFS) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	p, st := r.in(h.NodeId, name)
	if st != fuse.OK {
		return st
	}
	defer p.Forget(1)
	return r.fail("unlink", p, name, r.vfs.Unlink(context.Background(), p, name))
}

func (r *rawFS) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	p, st := r.in(h.NodeId, name)
	if st != fuse.OK {
		return st
	}
	defer p.Forget(1)
	return r.fail("rmdir", p, name, r.vfs.Rmdir(context.Background(), p, name))
}

func (r *rawFS) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	p, st := r.in(in.NodeId, oldName)
	if st != fuse.OK {
		return st
	}
	defer p.Forget(1)
	q, st := r.in(in.Newdir, newName)
	if st != fuse.OK {
		return st
	}
	defer q.Forget(1)
	return r.fail("rename", p, oldName, r.vfs.Rename(context.Background(), p, oldName, q, newName, in.Flags))
}

func (r *rawFS) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	switch {
	case !strings.HasPrefix(name, "user."):
		// security.*, system.*: answered before any look-up. ENODATA would be an answer for
		// one file; after this one ls and cp ask for no other file of the mount.
		return 0, fuse.Status(syscall.EOPNOTSUPP)
	case isDot(h.NodeId):
		return 0, fuse.ENODATA
	}
	n := r.node(h.NodeId)
	if n == nil {
		return 0, fuse.Status(estale)
	}
	defer n.Forget(1)
	v, err := r.vfs.GetXattr(context.Background(), n, name)
	if err != nil {
		return 0, r.fail("getxattr", n, "", err)
	}
	return sized(dest, v)
}

// sized copies v into dest, or tells the size that dest needs.
func sized(dest, v []byte) (uint32, fuse.Status) {
	if len(dest) < len(v) {
		return uint32(len(v)), fuse.ERANGE
	}
	return uint32(copy(dest, v)), fuse.OK
}

func (r *rawFS) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if isDot(h.NodeId) {
		return 0, fuse.OK
	}
	n := r.node(h.NodeId)
	if n == nil {
		return 0, fuse.Status(estale)
	}
	defer n.Forget(1)
	names, err := r.vfs.ListXattr(context.Background(), n)
	if err != nil {
		return 0, r.fail("listxattr", n, "", err)
	}
	var b []byte
	for _, s := range names {
		b = append(append(b, s...), 0)
	}
	return sized(dest, b)
}

// The flags of setxattr(2).
const (
	xattrCreate  = 1
	xattrReplace = 2
)

func (r *rawFS) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	n, st := r.in(in.NodeId, "")
	if st != fuse.OK {
		return st
	}
	defer n.Forget(1)
	err := r.vfs.SetXattr(context.Background(), n, name, data, in.Flags&xattrCreate != 0, in.Flags&xattrReplace != 0)
	return r.fail("setxattr", n, "", err)
}

func (r *rawFS) RemoveXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	n, st := r.in(h.NodeId, "")
	if st != fuse.OK {
		return st
	}
	defer n.Forget(1)
	return r.fail("removexattr", n, "", r.vfs.RemoveXattr(context.Background(), n, name))
}
