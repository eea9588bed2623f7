package fs

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tarn/backends"
	"tarn/fs/vfs"
)

// dir is an open directory: a cursor over pages of its entries, in name order, so that
// memory does not grow with the directory.
type dir struct {
	node *vfs.Node
	list *listing

	mu      sync.Mutex // one read at a time; held across the listing
	page    []vfs.Entry
	offs    []uint64    // of page
	nodes   []*vfs.Node // of entries that are given to the kernel now
	loaded  bool
	after   string // page follows this name
	base    int    // entries before page; negative when that is not known
	end     bool   // nothing follows page
	undated bool   // times of some of page are not known
	names   int    // entries given without attributes
	changes uint64 // of node, before page was read
	told    uint64 // of list, when the reading began
}

// lister is List or Names of a vfs.FS.
type lister func(ctx context.Context, n *vfs.Node, after string) ([]vfs.Entry, error)

// offDotDot is the offset behind the two dots, from which names begin; see positions for
// theirs.
const offDotDot = 2

func (r *rawFS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if isDot(in.NodeId) {
		return r.dot.opendir(in.NodeId, out)
	}
	n := r.node(in.NodeId)
	if n == nil {
		return fuse.Status(estale)
	}
	l := listingOf(n)
	out.OpenFlags = l.opened(n.Children(), r.o.EntryTimeout, r.lookers.is(in.Pid))
	out.Fh = r.keep(&dir{node: n, list: l})
	return fuse.OK
}

func (r *rawFS) ReleaseDir(in *fuse.ReleaseIn) {
	if d, ok := r.drop(in.Fh).(*dir); ok {
		d.mu.Lock()
		r.vfs.Free(d.page)
		d.page, d.offs, d.loaded = nil, nil, false
		d.mu.Unlock()
		d.list.closed()
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
	r.awaitPruned()
	return r.readDir(in, out, true)
}

func (r *rawFS) readDir(in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) fuse.Status {
	r.mu.Lock()
	d, ok := r.fhs[in.Fh].(*dir)
	r.mu.Unlock()
	if !ok {
		return fuse.EBADF
	}
	skims := plus && r.lookers.skims(in.Pid)
	st := r.readInto(d, in.Offset, out, int(in.Size), plus, skims)
	if st == fuse.OK && len(out.Bytes()) == 0 {
		if d.names >= looks {
			r.lookers.listed(in.Pid)
		}
		if d.ended() {
			r.forgetListing(d.node.Inode())
		}
	}
	return st
}

// readInto fills out, which holds room bytes. Who skims is given the nodes of directories
// only, into which it may go.
func (r *rawFS) readInto(d *dir, off uint64, out *fuse.DirEntryList, room int, plus, skims bool) fuse.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off == 0 {
		d.told = d.list.toldNow()
	}
	for off < offDotDot {
		name := [...]string{".", ".."}[off]
		if !addDot(out, fuse.DirEntry{Name: name, Mode: fuse.S_IFDIR, Ino: d.node.Inode(), Off: off + 1}, plus) {
			return fuse.OK
		}
		off++
	}
	// The beginning is asked for with attributes by everybody, what follows by those who look at them.
	list := r.vfs.Names
	if dated := plus && !skims && off > offDotDot; dated {
		list = r.vfs.List
		d.loaded = d.loaded && !d.undated
	}
	i, err := d.seek(r.vfs, list, off)
	for err == nil {
		if i == len(d.page) {
			if d.end {
				return fuse.OK
			}
			err = d.load(r.vfs, list, d.page[i-1].Name, d.base+i)
			i = 0
			continue
		}
		n := d.fit(i, room-len(out.Bytes()), plus)
		if n == 0 {
			return fuse.OK
		}
		d.nodes = d.nodes[:0]
		switch {
		case skims:
			for k := range n {
				var m *vfs.Node
				if e := &d.page[i+k]; e.Info.IsDir() {
					m = r.vfs.Place(context.Background(), d.node, *e)
				}
				d.nodes = append(d.nodes, m)
			}
		case plus:
			d.nodes = r.vfs.PlaceAll(context.Background(), d.node, d.page[i:i+n], d.nodes)
		}
		if skims || !plus {
			d.names += n
		}
		for k := range n {
			e := &d.page[i+k]
			de := fuse.DirEntry{Name: e.Name, Mode: vfs.ModeOf(&e.Info), Ino: e.Info.Inode, Off: d.offs[i+k]}
			if !plus {
				out.AddDirEntry(de)
				continue
			}
			if eo, m := out.AddDirLookupEntry(de), d.nodes[k]; m != nil {
				r.entry(m, eo)
				out.FixMode(eo.Attr.Mode)
			}
		}
		i += n
	}
	if len(out.Bytes()) > 0 {
		return fuse.OK // the next call says so
	}
	return r.fail("readdir", d.node, "", err)
}

// The sizes of struct fuse_entry_out and struct fuse_dirent, without the name.
const (
	entryOutSize = 128
	direntSize   = 24
)

// fit is how many entries of the page from i on have room.
func (d *dir) fit(i, room int, plus bool) (n int) {
	for ; i < len(d.page); i++ {
		room -= direntSize + (len(d.page[i].Name)+7)&^7
		if plus {
			room -= entryOutSize
		}
		if room < 0 {
			break
		}
		n++
	}
	return n
}

// seek finds the entry behind the offset: its index in the page, which may be a new one.
// A page that was read before a change is not gone on with: through the kernel it could
// reach a reader that began after the change.
func (d *dir) seek(v *vfs.FS, list lister, off uint64) (int, error) {
	name, base := "", 0
	fresh := d.loaded && d.changes == d.node.Changes()
	if off == offDotDot {
		if fresh && d.after == "" {
			return 0, nil
		}
	} else if i := slices.Index(d.offs, off); i >= 0 {
		if fresh {
			return i + 1, nil
		}
		name, base = d.page[i].Name, d.base+i+1
	} else {
		var ok bool
		if name, ok = d.list.after(off); !ok {
			return 0, fmt.Errorf("offset %#x: %w", off, backends.ErrName)
		}
		base = math.MinInt
	}
	return 0, d.load(v, list, name, base)
}

// load reads the page that follows the name, and base entries.
func (d *dir) load(v *vfs.FS, list lister, after string, base int) error {
	changes := d.node.Changes()
	page, err := list(context.Background(), d.node, after)
	if err != nil {
		return err
	}
	end, next := len(page) < vfs.Page, ""
	if !end { // the last one only tells where the one before it ends
		next = page[len(page)-1].Name
		page = page[:len(page)-1]
	}
	offs, err := d.list.of(page, next)
	if err != nil {
		return err
	}
	v.Free(d.page)
	d.page, d.offs, d.loaded, d.after, d.base, d.end, d.changes = page, offs, true, after, base, end, changes
	d.undated = slices.ContainsFunc(page, func(e vfs.Entry) bool { return e.Info.Undated() })
	d.list.read(d.node, page)
	return nil
}

// ended notes that the directory was read to its end; true when the kernel must not keep
// what it has of it.
func (d *dir) ended() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.list.ended(d.base+len(d.page), d.node.Changes(), d.told)
}

// addDot adds an entry that gives the kernel no reference.
func addDot(out *fuse.DirEntryList, e fuse.DirEntry, plus bool) bool {
	if plus {
		return out.AddDirLookupEntry(e) != nil
	}
	return out.AddDirEntry(e)
}
