// Package vfs is the lake as a file system, without FUSE: one tree that merges the
// catalogue with the files that were written here and are not yet registered, reads
// through the hot cache with recalls from tape, writes through the journal, and
// uploads until each file is safe where its rules want it. Package fs shows it to
// the kernel, and the control API of cmd/tarn serves it to the commands.
//
//	v, err := vfs.New(vfs.Options{Lake: l, Cache: c, Journal: j})
//	n, err := v.Resolve(ctx, "/ctao/dl3/crab/run.fits")
//	defer n.Forget(1)
//	h, err := v.Open(ctx, n, os.O_RDONLY, vfs.Caller{})
//
// Locks, outermost first: FS.tree (shared by everything that edits or lists names,
// exclusive for the rename of a directory), Node.dir (one directory's names, in inode
// order where two are needed), Node.mu (one node's content and attributes), FS.mu
// (the maps). FS.tree and Node.dir are held across catalogue calls, as the kernel
// holds a directory's lock across ours; the other two never are.
package vfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/query"
	"tarn/cache"
	"tarn/cache/journal"
)

// CloseMode is what close(2) of a written file waits for.
type CloseMode string

// The close contracts: durable on the local disk; with the journal, which makes a small
// file durable soon after (kill -9 loses nothing, a power cut may); verified at the first
// storage; registered in the catalogue.
const (
	CloseLocal      CloseMode = "local"
	CloseFast       CloseMode = "fast"
	CloseRemote     CloseMode = "remote"
	CloseRegistered CloseMode = "registered"
)

// waits tells whether close waits for the upload.
func (m CloseMode) waits() bool { return m == CloseRemote || m == CloseRegistered }

// Options is what an FS stands on. Zero values mean the defaults named here.
type Options struct {
	Lake    *lake.Lake
	Cache   *cache.Cache
	Journal *journal.Journal

	ReadOnly bool          // every write is refused with backends.ErrReadOnly
	NoDelete bool          // unlink, rmdir and rename over a file are refused with backends.ErrImmutable
	Delay    time.Duration // from the last close to the upload; default 1 s
	Close    CloseMode     // default CloseLocal
	Uploads  int           // of large files at one time, and of small ones at least; default 4
	Nodes    int           // beyond so many the kernel is asked to forget files that nobody uses; default 200,000
	Policy   Policy        // which reads may recall
	// ReadAhead bounds the recall of following siblings when files of a directory are
	// read one after another.
	ReadAhead ReadAhead
	// RecallTimeout ends a read that waits for tape (backends.ErrTimeout as a
	// deadline); 0: no limit but the tape system's own.
	RecallTimeout time.Duration

	// OnSafe is told of each file whose copies are all made, so that its rules can be
	// looked at. It must not block.
	OnSafe func(backends.DID)
	// CheckMeta gives metadata in the form in which it is to be set on a DID, or an error that says why it cannot be; the
	// DID of a file that is not registered is zero. nil: it stays as it is.
	CheckMeta func(ctx context.Context, in backends.Info, m backends.Meta) (backends.Meta, error)
	// Quota tells how much new files may take where somebody else counts; nil: as much as there is room for. It is asked in the
	// background.
	Quota func(ctx context.Context) (Quota, error)
	// Query reads a query with what is known of its keys. nil: query.Parse.
	Query func(ctx context.Context, text string) (query.Expr, error)

	Log *slog.Logger
	Now func() time.Time
}

// Notifier drops what the kernel keeps of a node; package fs provides it. It is
// called without locks, since the kernel may hold a directory's while it waits for
// one of ours.
type Notifier interface {
	// Content: the bytes or attributes of the inode changed.
	Content(inode uint64)
	// Entry: the name in the directory appeared, changed or went.
	Entry(parent uint64, name string)
	// Idle: none of these is in use as far as we know. What the kernel does not use either
	// it shall forget; it may do so after the call.
	Idle(nodes []Idle)
}

// FS is the lake as a file system. All methods may be called in parallel.
type FS struct {
	opt   Options
	lake  *lake.Lake
	cache *cache.Cache
	jrnl  *journal.Journal
	log   *slog.Logger
	now   func() time.Time

	root   *Node
	tree   sync.RWMutex // see the package comment
	policy *policy
	ahead  *readAhead
	up     *uploader
	notify atomic.Value // Notifier

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	rooms sync.Pool     // pages that Free was given
	crowd chan struct{} // there are more than Options.Nodes

	forgotten struct {
		sync.Mutex
		refs []refs
		some chan struct{}
	}

	stats stats
	free  atomic.Int64          // bytes free for new files, as last asked
	quota atomic.Pointer[Quota] // as last asked; nil: none is known

	asks    chan struct{} // for the quota
	counted atomic.Int64  // bytes that are unsent and that the quota has as used

	closing struct {
		sync.Mutex
		begun bool
	}

	mu      sync.Mutex
	nodes   map[uint64]*Node              // live ones by inode
	ages    ages                          // of all of them but the root
	names   map[string]map[string]*unsent // unsent files not yet registered: directory path, name
	byInode map[uint64][]*unsent          // the unsent contents of a file until they are safe, the newest last
	unsent  map[string]*unsent            // all of them, by journal id
	touched *lru.Cache[uint64, time.Time] // Node.touched of directories that nobody holds
}

// New builds the FS, takes up what the journal holds, and starts the uploads.
func New(o Options) (*FS, error) {
	if o.Delay == 0 {
		o.Delay = time.Second
	}
	if o.Close == "" {
		o.Close = CloseLocal
	}
	if o.Uploads <= 0 {
		o.Uploads = 4
	}
	if o.Nodes <= 0 {
		o.Nodes = 200_000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	touched, _ := lru.New[uint64, time.Time](1 << 16) // fails on a size below 1 only
	v := &FS{
		opt: o, lake: o.Lake, cache: o.Cache, jrnl: o.Journal, log: o.Log, now: o.Now,
		crowd:   make(chan struct{}, 1),
		touched: touched,
		nodes:   map[uint64]*Node{},
		names:   map[string]map[string]*unsent{},
		byInode: map[uint64][]*unsent{},
		unsent:  map[string]*unsent{},
		asks:    make(chan struct{}, 1),
	}
	v.forgotten.some = make(chan struct{}, 1)
	v.ctx, v.cancel = context.WithCancelCause(context.Background())
	root := o.Lake.Root()
	root.UID, root.GID = uint32(os.Getuid()), uint32(os.Getgid())
	v.root = newNode(v, root)
	v.root.refs, v.root.path = 1, "/"
	v.nodes[v.root.ino] = v.root
	v.policy = newPolicy(o.Policy, o.Now)
	v.ahead = newReadAhead(v, o.ReadAhead)
	v.up = newUploader(v, o.Uploads)
	if err := v.recover(v.ctx); err != nil {
		v.cancel(err)
		return nil, err
	}
	v.up.start()
	v.goDo(v.watchSpace)
	if o.Quota != nil {
		v.goDo(v.watchQuota)
	}
	v.goDo(v.forgets)
	v.goDo(v.giveBack)
	return v, nil
}

// Root is the tree's root directory; it needs no Forget.
func (v *FS) Root() *Node { return v.root }

// SetNotifier tells the FS who drops what the kernel keeps. It is called once, before
// the mount serves.
func (v *FS) SetNotifier(n Notifier) { v.notify.Store(n) }

func (v *FS) notifyContent(inode uint64) {
	if n, ok := v.notify.Load().(Notifier); ok {
		n.Content(inode)
	}
}

func (v *FS) notifyEntry(parent uint64, name string) {
	if n, ok := v.notify.Load().(Notifier); ok {
		n.Entry(parent, name)
	}
}

func (v *FS) notifyIdle(idle []Idle) {
	if n, ok := v.notify.Load().(Notifier); ok {
		n.Idle(idle)
	}
}

// Close stops uploads and recalls where they are and waits for them; what is unsent
// stays in the journal. The lake, the cache and the journal are the caller's.
func (v *FS) Close() error {
	v.closing.Lock()
	v.closing.begun = true
	v.closing.Unlock()
	v.cancel(backends.ErrClosed)
	v.wg.Wait()
	return nil
}

// goDo runs f on a goroutine that Close waits for; not at all once Close has begun.
func (v *FS) goDo(f func(ctx context.Context)) {
	v.closing.Lock()
	defer v.closing.Unlock()
	if !v.closing.begun {
		v.wg.Go(func() { f(v.ctx) })
	}
}

// local translates an error of the local disk, from the journal or the cache, into
// the lake's words, so that the writer hears ENOSPC as ENOSPC. What it does not know
// stays as it is.
func local(err error) error {
	if err == nil {
		return nil
	}
	for _, m := range []struct{ from, to error }{
		{syscall.ENOSPC, backends.ErrNoSpace}, {syscall.EDQUOT, backends.ErrQuota}, {syscall.EROFS, backends.ErrReadOnly},
		{syscall.EMFILE, backends.ErrTooManyFiles}, {syscall.ENFILE, backends.ErrTooManyFiles},
		{cache.ErrNoSpace, backends.ErrNoSpace}, {cache.ErrCorrupt, backends.ErrCorrupt}, {cache.ErrBusy, backends.ErrBusy},
		{cache.ErrNotCached, backends.ErrNotExist}, {cache.ErrClosed, backends.ErrClosed},
	} {
		if errors.Is(err, m.from) {
			return fmt.Errorf("%w (%w)", m.to, err)
		}
	}
	return err
}
