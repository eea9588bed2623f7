package fs

import (
	"context"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tarn/fs/vfs"
)

// dir is an open directory: a cursor over pages of its entries, in name order, so that
// memory does not grow with the directory. Offsets count entries; 0 and 1 are the dots.
type dir struct {
	node *vfs.Node

	mu    sync.Mutex // one read at a time; held across the listing
	page  []vfs.Entry
	base  uint64 // offset of page[0]
	after string // last name of page
	end   bool
}

func (r *rawFS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if isDot(in.NodeId) {
		return r.dot.opendir(in.NodeId, out)
	}
	n := r.node(in.NodeId)
	if n == nil {
		return fuse.Status(estale)
	}
	out.Fh = r.keep(&dir{node: n, base: 2})
	return fuse.OK
}

func (r *rawFS) ReleaseDir(in *fuse.ReleaseIn) {
	if d, ok := r.drop(in.Fh).(*dir); ok {
		d.node.Forget(1)
	}
}

func (r *rawFS) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fuse.OK // names are durable when the call that made them returned
}

func (r *rawFS) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if isDot(in.NodeId) {
		return r.dot.readdir(in.Fh, in.Offset, out)
	}
	return r.readDir(in, out, false)
}

func (r *rawFS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if isDot(in.NodeId) {
		return r.dot.readdirplus(in.Fh, in.Offset, out)
	}
	return r.readDir(in, out, true)
}

func (r *rawFS) readDir(in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) fuse.Status {
	r.mu.Lock()
	d, ok := r.fhs[in.Fh].(*dir)
	r.mu.Unlock()
	if !ok {
		return fuse.EBADF
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	off := in.Offset
	if off < d.base && (off == 0 || d.base > 2) {
		d.page, d.base, d.after, d.end = nil, 2, "", false // rewound
	}
	for off < 2 {
		name := [...]string{".", ".."}[off]
		if !addDot(out, fuse.DirEntry{Name: name, Mode: fuse.S_IFDIR, Ino: d.node.Inode(), Off: off + 1}, plus) {
			return fuse.OK
		}
		off++
	}
	added := 0
	for {
		for off >= d.base+uint64(len(d.page)) {
			if d.end {
				return fuse.OK
			}
			next, err := r.vfs.List(context.Background(), d.node, d.after)
			if err != nil {
				if added > 0 {
					return fuse.OK // the next call says so
				}
				return r.fail("readdir", d.node, "", err)
			}
			d.base += uint64(len(d.page))
			if d.page = next; len(next) == 0 {
				d.end = true
				return fuse.OK
			}
			d.after = next[len(next)-1].Name
		}
		e := &d.page[off-d.base]
		de := fuse.DirEntry{Name: e.Name, Mode: vfs.AttrOf(e.Info).Mode, Ino: e.Info.Inode, Off: off + 1}
		if !plus {
			if !out.AddDirEntry(de) {
				return fuse.OK
			}
		} else {
			eo := out.AddDirLookupEntry(de)
			if eo == nil {
				return fuse.OK
			}
			if n := r.vfs.Place(context.Background(), d.node, *e); n != nil {
				r.entry(n, eo)
				out.FixMode(eo.Attr.Mode)
			}
		}
		off++
		added++
	}
}

// addDot adds an entry that gives the kernel no reference.
func addDot(out *fuse.DirEntryList, e fuse.DirEntry, plus bool) bool {
	if plus {
		return out.AddDirLookupEntry(e) != nil
	}
	return out.AddDirEntry(e)
}
