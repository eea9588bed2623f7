package rootdir

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// refused is what every change hears.
const refused = fuse.Status(syscall.EROFS)

// SetAttr and the rest are all the ways to change something.
func (r *root) SetAttr(<-chan struct{}, *fuse.SetAttrIn, *fuse.AttrOut) fuse.Status { return refused }

// Mknod is refused.
func (r *root) Mknod(<-chan struct{}, *fuse.MknodIn, string, *fuse.EntryOut) fuse.Status {
	return refused
}

// Mkdir is refused.
func (r *root) Mkdir(<-chan struct{}, *fuse.MkdirIn, string, *fuse.EntryOut) fuse.Status {
	return refused
}

// Unlink is refused.
func (r *root) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return refused }

// Rmdir is refused.
func (r *root) Rmdir(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return refused }

// Rename is refused.
func (r *root) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status { return refused }

// Link is refused.
func (r *root) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return refused
}

// Symlink is refused.
func (r *root) Symlink(<-chan struct{}, *fuse.InHeader, string, string, *fuse.EntryOut) fuse.Status {
	return refused
}

// Create is refused.
func (r *root) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return refused
}

// Tmpfile is refused.
func (r *root) Tmpfile(<-chan struct{}, *fuse.CreateIn, *fuse.CreateOut) fuse.Status { return refused }
