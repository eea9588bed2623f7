// Package fs shows the lake to the kernel: a FUSE file system of the raw protocol on
// package vfs, and the only importer of go-fuse. It keeps no state of the lake; what
// it knows is which handles are open in which I/O mode, and what the kernel may keep.
//
//	srv, err := fs.Mount(fs.Options{VFS: v, Mountpoint: "/lake", Source: "/data/lake/lake.yaml"})
//	srv.Wait()
//
// A file that is whole in the hot cache is opened with kernel passthrough (root, Linux
// 6.9 or newer): its reads never come here. Everything else is read through the page
// cache, which is kept from one open to the next; package vfs tells when it must go.
package fs

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tarn/backends"
	"tarn/fs/vfs"
)

// Options describes a mount. Zero durations mean the defaults named here.
type Options struct {
	VFS        *vfs.FS
	Mountpoint string
	Source     string // shown by df and mount: the lake file, by which commands find the lake

	ReadOnly        bool
	AllowOther      bool
	NoXattr         bool          // extended attributes off: `ls -l` over many files is much faster
	NoPassthrough   bool          // read everything through the daemon
	IOURing         IOURing       // default IOURingAuto
	AttrTimeout     time.Duration // default 1 h: changes are told to the kernel
	EntryTimeout    time.Duration // default 1 h
	NegativeTimeout time.Duration // default 1 h
	Extra           []string      // further mount options for the kernel
	UID, GID        *uint32       // every owner and group is shown as these
	Umask           uint32        // taken off every mode shown
	Debug           bool

	// Config and Recalls are the texts of .tarn/config and .tarn/recalls.
	Config  func() []byte
	Recalls func() []byte
	Ingests func() any // becomes JSON in .tarn/stats; may be nil, and give nil

	Log *slog.Logger
}

// IOURing tells whether requests come over io_uring, which needs Linux 6.14 and the permission
// of the machine's owner.
type IOURing string

// Auto takes it where it is to be had; On warns where it is not.
const (
	IOURingAuto IOURing = "auto"
	IOURingOn   IOURing = "on"
	IOURingOff  IOURing = "off"
)

// Server is a mounted file system.
type Server struct {
	raw     *rawFS
	srv     *fuse.Server
	ioURing bool
}

// Mount mounts and serves in the background; it returns when the mount is usable.
func Mount(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []*time.Duration{&o.AttrTimeout, &o.EntryTimeout, &o.NegativeTimeout} {
		if *d == 0 {
			*d = time.Hour
		}
	}
	r := newRawFS(o)
	ring := r.newRing()
	mo := &fuse.MountOptions{
		AllowOther:    o.AllowOther,
		FsName:        o.Source,
		Name:          "tarn",
		Options:       append([]string{"default_permissions"}, o.Extra...),
		MaxWrite:      1 << 20,
		MaxReadAhead:  1 << 20,
		MaxBackground: 256, // readers that wait for tape must not keep others from reading
		DisableXAttrs: o.NoXattr,
		// vfs tells when content changes; mtimes are not a sign of it.
		ExplicitDataCacheControl: true,
		EnableSymlinkCaching:     true,
		ExtraCapabilities:        fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_DIRECT_IO_ALLOW_MMAP,
		MaxStackDepth:            1,
		DirectMount:              os.Geteuid() == 0,
		Debug:                    o.Debug,
		Logger:                   log.New(logWriter{o.Log}, "", 0),
	}
	if o.ReadOnly {
		mo.Options = append(mo.Options, "ro")
	}
	if ring != nil {
		mo.ExtraCapabilities |= fuse.CAP_OVER_IO_URING
	}
	srv, err := fuse.NewServer(r, o.Mountpoint, mo)
	if ring != nil && (err != nil || srv.KernelSettings().Flags64()&fuse.CAP_OVER_IO_URING == 0) {
		ring.Cancel()
		ring = nil
	}
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", o.Mountpoint, err)
	}
	r.mapsDirect = srv.KernelSettings().Flags64()&fuse.CAP_DIRECT_IO_ALLOW_MMAP != 0
	r.passthrough = !o.NoPassthrough && os.Geteuid() == 0 && srv.KernelSettings().Flags64()&fuse.CAP_PASSTHROUGH != 0
	o.VFS.SetNotifier(r)
	// NewServer has answered the kernel's INIT, so the mount is usable once this runs; it
	// ends with Unmount, which waits for it. WaitMount would open a file of the mount, and
	// a daemon that is killed within a call to itself cannot die: nobody answers it.
	if ring == nil {
		go srv.Serve()
		return &Server{r, srv, false}, nil
	}
	if err := ring.Start(fuse.NewProtocolServer(r, mo)); err != nil {
		o.Log.Warn("the mount is made again without io_uring", "why", err)
		go srv.Serve()
		if err := srv.Unmount(); err != nil {
			return nil, fmt.Errorf("mount %s: %w", o.Mountpoint, err)
		}
		o.IOURing = IOURingOff
		return Mount(o)
	}
	go func() {
		ring.Wait()
		srv.Serve() // sees the end
	}()
	return &Server{r, srv, true}, nil
}

// Wait returns when the file system is unmounted.
func (s *Server) Wait() { s.srv.Wait() }

// Unmount takes the file system away; it fails while files are open.
func (s *Server) Unmount() error { return s.srv.Unmount() }

// Passthrough tells whether the kernel reads whole cached files by itself.
func (s *Server) Passthrough() bool { return s.raw.passthrough }

// IOURing tells whether requests come over io_uring.
func (s *Server) IOURing() bool { return s.ioURing }

// logWriter passes go-fuse's lines on.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Debug("fuse", "line", string(p))
	return len(p), nil
}

// rawFS is the file system as go-fuse calls it. A node's id is its inode number, but for
// twins.
type rawFS struct {
	fuse.RawFileSystem
	o          Options
	vfs        *vfs.FS
	log        *slog.Logger
	complaints *slog.Logger // errors that users see, each once a minute
	srv        *fuse.Server
	dot        *dotTree

	passthrough bool
	mapsDirect  bool          // the kernel maps handles of mode direct, shared
	rest        time.Duration // twinRest, but in tests
	lookers     lookers
	noPrune     atomic.Bool // the kernel does not know NOTIFY_PRUNE
	// pruning is held while the kernel forgets. It takes no attributes of a READDIRPLUS that
	// was on its way then (evict_ctr in fs/fuse/inode.c) and asks for each file's again; so
	// these wait until it is done.
	pruning chan struct{} // a token
	prunes  atomic.Bool   // it is held by Idle
	paused  atomic.Int64  // when pause last ended

	mu     sync.Mutex // guards the rest; never held across I/O
	fhs    map[uint64]any
	lastFh uint64
	io     map[uint64]*ioState // by node id, of those with open files

	twins    map[uint64]*twin // by id
	shown    map[uint64]*twin // by inode number: the one that look-ups give
	swept    time.Time        // when idle ones were looked for
	lastTwin uint64
}

func newRawFS(o Options) *rawFS {
	r := &rawFS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), o: o, vfs: o.VFS, log: o.Log, complaints: newSeldom(o.Log),
		pruning: make(chan struct{}, 1), fhs: map[uint64]any{}, io: map[uint64]*ioState{}, rest: twinRest, twins: map[uint64]*twin{}, shown: map[uint64]*twin{},
	}
	r.dot = newDotTree(r)
	return r
}

// String names the file system type.
func (r *rawFS) String() string { return "tarn" }

// Init keeps the server for notifications.
func (r *rawFS) Init(s *fuse.Server) { r.srv = s }

// Content drops the kernel's pages and attributes of an inode.
func (r *rawFS) Content(inode uint64) {
	if n := r.vfs.Known(inode); n != nil {
		if l, ok := n.Above(nil).(*listing); ok {
			l.tell()
		}
		n.Forget(1)
	}
	ids := []uint64{inode}
	r.mu.Lock()
	for id, t := range r.twins {
		if t.inode == inode {
			ids = append(ids, id)
		}
	}
	r.mu.Unlock()
	for _, id := range ids {
		if st := r.srv.InodeNotify(id, 0, 0); st != fuse.OK && st != fuse.ENOENT {
			r.log.Debug("notify inode", "inode", inode, "status", st)
		}
	}
}

// Entry drops the kernel's knowledge of a name, and what it keeps of the listing.
func (r *rawFS) Entry(parent uint64, name string) {
	if st := r.srv.EntryNotify(parent, name); st != fuse.OK && st != fuse.ENOENT {
		r.log.Debug("notify entry", "parent", parent, "name", name, "status", st)
	}
	r.Content(parent)
}

// Idle asks the kernel to forget what it does not use of these nodes, by one request where
// it knows that (Linux 6.18). An older one is told name by name that the entry is another
// now, which makes it forget the file if nobody uses it; directories it must not be told
// so, for a process may stand in them.
func (r *rawFS) Idle(nodes []vfs.Idle) {
	ids := make([]uint64, 0, len(nodes))
	for _, n := range nodes {
		ids = append(ids, r.idOf(n.Inode))
	}
	if !r.noPrune.Load() {
		r.pruning <- struct{}{}
		r.prunes.Store(true)
		st := r.srv.PruneNotify(ids)
		r.prunes.Store(false)
		<-r.pruning
		if st != fuse.ENOSYS {
			if st != fuse.OK {
				r.log.Debug("notify prune", "status", st)
			}
			return
		}
		r.noPrune.Store(true)
	}
	for _, n := range nodes {
		if n.IsDir {
			continue
		}
		if st := r.srv.EntryNotify(n.Parent, n.Name); st != fuse.OK && st != fuse.ENOENT {
			r.log.Debug("notify entry", "parent", n.Parent, "name", n.Name, "status", st)
		}
	}
}

// awaitPruned waits while the kernel forgets; not for long, since it may itself be waiting for
// a read that waits for tape.
func (r *rawFS) awaitPruned() {
	select {
	case r.pruning <- struct{}{}:
		<-r.pruning
	case <-time.After(100 * time.Millisecond):
	}
}

// pause lets forgets gather while the kernel makes thousands of them: it wakes a reader for
// each, and hands out all there are in one request. The pause is short, since others wait
// for a reader too, and there is none within such a request.
func (r *rawFS) pause() {
	const pause, apart = 500 * time.Microsecond, 50 * time.Microsecond
	if r.prunes.Load() && time.Now().UnixNano()-r.paused.Load() > int64(apart) {
		time.Sleep(pause)
		r.paused.Store(time.Now().UnixNano())
	}
}

func caller(h *fuse.InHeader) vfs.Caller {
	return vfs.Caller{UID: h.Uid, GID: h.Gid, PID: h.Pid}
}

// node gives the live node of an id with a reference, or nil for one that the kernel
// should not know (ESTALE).
func (r *rawFS) node(id uint64) *vfs.Node {
	return r.vfs.Known(r.inode(id))
}

// fail is errno with the node's path.
func (r *rawFS) fail(op string, n *vfs.Node, name string, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	p := n.Path()
	if name != "" {
		p += "/" + name
	}
	return errno(r.complaints, op, p, err)
}

func (r *rawFS) attr(a vfs.Attr, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: a.Inode, Size: uint64(a.Size), Blocks: uint64(a.Blocks), Mode: a.Mode, Nlink: a.NLink,
		Owner:   fuse.Owner{Uid: a.UID, Gid: a.GID},
		Blksize: 4096, // wc and buffered readers of headers ask for that much at the ends
	}
	out.Mode &^= r.o.Umask & 0o777
	if r.o.UID != nil {
		out.Uid = *r.o.UID
	}
	if r.o.GID != nil {
		out.Gid = *r.o.GID
	}
	out.SetTimes(&a.MTime, &a.MTime, &a.CTime)
}

// entry fills out for a node whose reference becomes the kernel's.
func (r *rawFS) entry(n *vfs.Node, out *fuse.EntryOut) fuse.Status {
	return r.entryAs(n, r.idOf(n.Inode()), out)
}

func (r *rawFS) entryAs(n *vfs.Node, id uint64, out *fuse.EntryOut) fuse.Status {
	r.lookedUp(id)
	out.NodeId = id
	out.SetEntryTimeout(r.o.EntryTimeout)
	out.SetAttrTimeout(r.o.AttrTimeout)
	r.attr(n.Attr(), &out.Attr)
	return fuse.OK
}

func (r *rawFS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if isDot(h.NodeId) || h.NodeId == fuse.FUSE_ROOT_ID && name == dotName {
		return r.dot.lookup(h.NodeId, name, out)
	}
	p := r.node(h.NodeId)
	if p == nil {
		return fuse.Status(estale)
	}
	defer p.Forget(1)
	n, err := r.vfs.Lookup(context.Background(), p, name)
	if errors.Is(err, backends.ErrNotExist) && errno(r.log, "lookup", name, err) == fuse.ENOENT {
		out.NodeId = 0 // the kernel may keep that it is not there
		out.SetEntryTimeout(r.o.NegativeTimeout)
		return fuse.OK
	}
	if err != nil {
		return r.fail("lookup", p, name, err)
	}
	if !n.IsDir() {
		r.looked(p, h.Pid)
	}
	return r.entry(n, out)
}

func (r *rawFS) Forget(id, count uint64) {
	if isDot(id) {
		r.dot.forget(id, count)
		return
	}
	if id == fuse.FUSE_ROOT_ID {
		return
	}
	r.pause()
	if !r.twinned(id) {
		r.vfs.Forget(id, int64(count))
		return
	}
	inode := r.inode(id)
	if n := r.vfs.Known(inode); n != nil {
		n.Forget(int64(count) + 1) // at once: unshow asks whether the kernel knows it still
	}
	r.forgetTwin(id, count)
	r.unshow(inode)
}

func (r *rawFS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if isDot(in.NodeId) {
		return r.dot.getattr(in.NodeId, out)
	}
	n := r.node(in.NodeId)
	if n == nil {
		return fuse.Status(estale)
	}
	defer n.Forget(1)
	r.attr(n.Attr(), &out.Attr)
	out.SetTimeout(r.o.AttrTimeout)
	return fuse.OK
}

func (r *rawFS) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if isDot(in.NodeId) {
		return fuse.EPERM
	}
	n := r.node(in.NodeId)
	if n == nil {
		return fuse.Status(estale)
	}
	defer n.Forget(1)
	var s vfs.SetAttr
	if x, ok := in.GetSize(); ok {
		size := int64(x)
		s.Size = &size
	}
	if x, ok := in.GetMode(); ok {
		x &= 0o7777
		s.Mode = &x
	}
	if x, ok := in.GetUID(); ok {
		s.UID = &x
	}
	if x, ok := in.GetGID(); ok {
		s.GID = &x
	}
	if x, ok := in.GetMTime(); ok {
		s.MTime = &x
	}
	ctx, stop := waiting(cancel, in.Pid)
	defer stop()
	if err := r.vfs.SetAttr(ctx, n, s); err != nil {
		return r.fail("setattr", n, "", err)
	}
	r.attr(n.Attr(), &out.Attr)
	out.SetTimeout(r.o.AttrTimeout)
	return fuse.OK
}

func (r *rawFS) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	if isDot(h.NodeId) {
		return r.dot.readlink(h.NodeId)
	}
	n := r.node(h.NodeId)
	if n == nil {
		return nil, fuse.Status(estale)
	}
	defer n.Forget(1)
	t, err := n.Readlink()
	return []byte(t), r.fail("readlink", n, "", err)
}

func (r *rawFS) StatFs(cancel <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s := r.vfs.StatFS()
	const bsize = 4096
	out.Bsize, out.Frsize, out.NameLen = bsize, bsize, 255
	out.Blocks = uint64(s.Total) / bsize
	out.Bfree, out.Bavail = uint64(s.Free)/bsize, uint64(s.Free)/bsize
	out.Files = uint64(s.Files) + 1<<32
	out.Ffree = 1 << 32
	return fuse.OK
}
