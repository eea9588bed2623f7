package vfs

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

// Node is one file, directory or symbolic link that somebody holds. There is one
// Node for an inode, under however many names it is reached.
type Node struct {
	fs *FS

	// never change
	ino    uint64
	isDir  bool
	isLink bool

	// dir guards the names in this directory; see the package comment.
	dir sync.RWMutex
	// names counts the changes of what is in this directory, so that an entry that was
	// listed before one is looked at again. It changes under dir.
	names atomic.Uint64

	// guarded by FS.mu
	parent   *Node // nil for the root and for what has lost its name
	name     string
	children map[string]*Node
	path     string // of a directory: the lake path
	refs     int64
	older    *Node // see ages
	newer    *Node

	// mu guards what follows; never held across remote I/O.
	mu       sync.Mutex
	info     backends.Info
	work     *unsent               // content written here that is not yet safe, nil: published only
	making   chan struct{}         // closed when the copy for a new work is done
	writers  int                   // open handles that may write
	open     map[*Handle]time.Time // of these, and since when
	keeper   *keeper               // while reads wait for the published content
	handles  int                   // open handles
	unlinked bool                  // no name is left
	lastErr  string                // for user.tarn.error
	touched  time.Time             // of a directory: when a name in it last changed here
	above    any                   // see Above
}

// Caller is the process on whose behalf a call runs; zero for the control API.
type Caller struct{ UID, GID, PID uint32 }

// Attr is what stat(2) shows.
type Attr struct {
	Inode  uint64
	Mode   uint32 // with the file type bits
	Size   int64
	Blocks int64 // of 512 bytes: never 0 for a file that has bytes, wherever they are
	UID    uint32
	GID    uint32
	NLink  uint32
	MTime  time.Time
	CTime  time.Time
}

const (
	modeDir  = 0o040000
	modeReg  = 0o100000
	modeLink = 0o120000
)

// newInode allots an inode number for a file that no catalogue knows yet: random in
// the upper half, where catalogues that count upwards never arrive.
func newInode() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand
	return binary.BigEndian.Uint64(b[:])>>2 | 1<<62
}

// Inode is the node's inode number.
func (n *Node) Inode() uint64 { return n.ino }

// IsDir tells whether n is a directory.
func (n *Node) IsDir() bool { return n.isDir }

// IsSymlink tells whether n is a symbolic link.
func (n *Node) IsSymlink() bool { return n.isLink }

// Info is what is known of n, with the attributes of its newest content.
func (n *Node) Info() backends.Info {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.infoLocked()
}

// infoLocked needs n.mu.
func (n *Node) infoLocked() backends.Info {
	in := n.info
	if n.work != nil {
		n.work.fill(&in)
	}
	if n.touched.After(in.MTime) {
		in.MTime, in.CTime = n.touched, n.touched
	}
	return in
}

// Attr is what stat shows of n, from memory.
func (n *Node) Attr() Attr {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := AttrOf(n.infoLocked())
	if n.unlinked {
		a.NLink = 0
	}
	return a
}

// AttrOf is what stat shows of in.
func AttrOf(in backends.Info) Attr {
	a := Attr{Inode: in.Inode, Size: in.Size, UID: in.UID, GID: in.GID, NLink: 1, MTime: in.MTime, CTime: in.CTime, Mode: ModeOf(&in)}
	switch {
	case in.IsDir():
		a.Size = 4096
	case in.IsSymlink():
		a.Size = int64(len(in.Target))
	}
	a.Blocks = (a.Size + 511) / 512
	return a
}

// ModeOf is Attr.Mode of in.
func ModeOf(in *backends.Info) uint32 {
	switch {
	case in.IsDir():
		return modeDir | in.Mode&0o7777
	case in.IsSymlink():
		return modeLink | 0o777
	}
	return modeReg | in.Mode&0o7777
}

// Path is a lake path of n, for messages; an unlinked node has the one it had.
func (n *Node) Path() string {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	return n.pathLocked()
}

func (n *Node) pathLocked() string {
	if n.path != "" {
		return n.path
	}
	if n.parent == nil {
		return n.name // it lost its place, and keeps the last name for messages
	}
	return path.Join(n.parent.pathLocked(), n.name)
}

// Parent is the directory that n was last reached through, nil for the root.
func (n *Node) Parent() *Node {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	return n.parent
}

// Forget gives back count references that Lookup and its kin gave.
func (n *Node) Forget(count int64) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	n.forgetLocked(count)
}

func (n *Node) forgetLocked(count int64) {
	for n != nil && n != n.fs.root {
		n.refs -= count
		if n.refs > 0 {
			return
		}
		if n.fs.nodes[n.ino] == n {
			delete(n.fs.nodes, n.ino)
			n.fs.ages.end(n)
			if !n.touched.IsZero() { // nobody changes it any more
				n.fs.touched.Add(n.ino, n.touched)
			}
		}
		p := n.parent
		if p != nil && p.children[n.name] == n {
			delete(p.children, n.name)
		}
		n.parent = nil
		n, count = p, 1 // a child holds its parent
	}
}

// hold adds a reference.
func (n *Node) hold() *Node {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	n.refs++
	return n
}

// Known gives the live node of an inode with one more reference, or nil.
func (v *FS) Known(inode uint64) *Node {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.nodes[inode]
	if n != nil {
		n.refs++
	}
	return n
}

func newNode(v *FS, info backends.Info) *Node {
	return &Node{fs: v, ino: info.Inode, isDir: info.IsDir(), isLink: info.IsSymlink(), info: info}
}

// place gives the node of the inode in info at (parent, name), with one more
// reference: a new one, or the live one brought up to date.
func (v *FS) place(parent *Node, name string, info backends.Info, u *unsent) *Node {
	v.mu.Lock()
	n, born := v.placeLocked(parent, name, info, u)
	v.mu.Unlock()
	if !born {
		n.update(info, u)
	}
	return n
}

// placeLocked is place with v.mu held; a node that is not born now needs an update when it
// is not held.
func (v *FS) placeLocked(parent *Node, name string, info backends.Info, u *unsent) (n *Node, born bool) {
	n = v.nodes[info.Inode]
	if n == nil {
		n = newNode(v, info)
		if u != nil && !u.gone() {
			n.work = u
		}
		if info.IsDir() {
			n.path = path.Join(parent.pathLocked(), name)
			n.touched, _ = v.touched.Peek(n.ino)
			v.touched.Remove(n.ino)
		}
		v.linkLocked(n, parent, name)
		n.refs++
		v.bornLocked(n)
		return n, true
	}
	n.refs++
	v.ages.renew(n)
	if n.parent != parent || n.name != name {
		v.linkLocked(n, parent, name)
		if info.IsDir() && n.path != path.Join(parent.pathLocked(), name) {
			n.path = path.Join(parent.pathLocked(), name)
		}
	}
	return n, false
}

// update brings a live node up to date with what was looked up.
func (n *Node) update(info backends.Info, u *unsent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.work == nil && u != nil && !u.gone() {
		n.work = u
	}
	if (n.work == nil || n.work.registered()) && !info.CTime.Before(n.info.CTime) {
		n.info = info // what was read before a change here is older than it
	}
}

// linkLocked makes n the child name of parent; needs v.mu.
func (v *FS) linkLocked(n, parent *Node, name string) {
	if n.parent != nil {
		if n.parent.children[n.name] == n {
			delete(n.parent.children, n.name)
		}
		old := n.parent
		n.parent = nil
		defer old.forgetLocked(1)
	}
	parent.refs++
	n.parent, n.name = parent, name
	if parent.children == nil {
		parent.children = map[string]*Node{}
	}
	parent.children[name] = n
}

// child is the live child of n under name, without a reference, or nil.
func (n *Node) child(name string) *Node {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	return n.children[name]
}

// lookupLocked finds what stands at (parent, name): the unsent file, the catalogue's
// entry, or both. Needs parent.dir. Both empty with a nil error: nothing is there.
func (v *FS) lookupLocked(ctx context.Context, parent *Node, name string) (u *unsent, cat backends.Info, found bool, err error) {
	u = v.unsentAt(parent.Path(), name)
	cat, err = v.lake.Lookup(ctx, parent.Info(), name)
	switch {
	case err == nil:
		return u, cat, true, nil
	case isNotExist(err):
		return u, backends.Info{}, false, nil
	case u != nil: // the catalogue is away: what is here can still be used
		return u, backends.Info{}, false, nil
	}
	return nil, backends.Info{}, false, err
}

// Lookup finds name in the directory parent and gives its node with a reference.
func (v *FS) Lookup(ctx context.Context, parent *Node, name string) (*Node, error) {
	if !parent.IsDir() {
		return nil, fmt.Errorf("look up %q in %s: %w", name, parent.Path(), backends.ErrNotDir)
	}
	if len(name) > 255 {
		return nil, backends.ErrNameTooLong
	}
	v.tree.RLock()
	defer v.tree.RUnlock()
	parent.dir.RLock()
	defer parent.dir.RUnlock()
	u, cat, found, err := v.lookupLocked(ctx, parent, name)
	if err != nil {
		return nil, err
	}
	if u == nil && !found {
		return nil, fmt.Errorf("%s: %w", path.Join(parent.Path(), name), backends.ErrNotExist)
	}
	return v.nodeOf(parent, name, u, cat), nil
}

// nodeOf places the node for what lookupLocked found.
func (v *FS) nodeOf(parent *Node, name string, u *unsent, cat backends.Info) *Node {
	if u != nil {
		return v.place(parent, name, u.info(), u)
	}
	return v.place(parent, name, cat, v.unsentOf(cat.Inode))
}

// Resolve walks a lake path; symbolic links on the way are not followed.
func (v *FS) Resolve(ctx context.Context, p string) (*Node, error) {
	p, err := lake.CleanPath(p)
	if err != nil {
		return nil, err
	}
	n := v.root.hold()
	for _, name := range strings.Split(strings.Trim(p, "/"), "/") {
		if name == "" {
			continue
		}
		c, err := v.Lookup(ctx, n, name)
		n.Forget(1)
		if err != nil {
			return nil, err
		}
		n = c
	}
	return n, nil
}

// Children is how many of a directory's entries have a live Node.
func (n *Node) Children() int {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	return len(n.children)
}

// Above keeps what the layer above knows of n, for as long as n lives: what the first
// call made.
func (n *Node) Above(make func() any) any {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.above == nil && make != nil {
		n.above = make()
	}
	return n.above
}

// Readlink gives a symbolic link's text.
func (n *Node) Readlink() (string, error) {
	if t := n.Info().Target; t != "" {
		return t, nil
	}
	return "", fmt.Errorf("readlink %s: not a symbolic link: %w", n.Path(), backends.ErrName)
}

// canWrite tells whether flags ask for writing.
func canWrite(flags int) bool {
	return flags&(os.O_WRONLY|os.O_RDWR) != 0 || flags&os.O_TRUNC != 0
}
