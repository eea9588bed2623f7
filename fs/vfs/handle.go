package vfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"tarn/backends"
	"tarn/cache"
	"tarn/cache/journal"
)

// Handle is an open file.
type Handle struct {
	node   *Node
	flags  int
	caller Caller

	// resident: only bytes that are here already are served (a nearline file opened
	// with O_NONBLOCK); the rest is ErrRefused.
	resident bool
	nearline bool // it was on tape only when it was opened
	made     bool // the open made the file

	mu     sync.Mutex // guards the rest; never held across I/O
	file   *cache.File
	gen    backends.Generation // of file
	reads  map[*pending]struct{}
	bytes  int64 // read through this handle
	asked  bool  // the recall read-ahead was told
	judged bool  // the policy was told what was read
	told   bool  // the policy was told that a resident handle does not do
	closed bool
}

// Seals tells whether the close of h may complete a content: one that is open for
// writing, or was made by an open that could not write.
func (h *Handle) Seals() bool { return h.made || canWrite(h.flags) }

// Node is the file that h has open; it is held by h.
func (h *Handle) Node() *Node { return h.node }

// Open opens a file with the flags of open(2). It never waits for tape and moves no
// bytes, but for O_TRUNC, which begins a new content. A file that is on tape only is
// subject to the recall policy: ErrRefused (hold back this process), or ErrOffline
// for O_NONBLOCK where the policy wants that.
func (v *FS) Open(ctx context.Context, n *Node, flags int, caller Caller) (*Handle, error) {
	if n.IsDir() {
		return nil, fmt.Errorf("open %s: %w", n.Path(), backends.ErrIsDir)
	}
	if n.IsSymlink() {
		return nil, fmt.Errorf("open %s: a symbolic link: %w", n.Path(), backends.ErrLoop)
	}
	h := &Handle{node: n.hold(), flags: flags, caller: caller}
	if err := v.admit(ctx, h); err != nil {
		n.Forget(1)
		return nil, err
	}
	n.mu.Lock()
	dead := n.unlinked && n.handles == 0 // between the look-up of its name and now
	if !dead {
		n.handles++
		if canWrite(flags) {
			n.writesLocked(h, time.Now())
		}
	}
	n.mu.Unlock()
	if dead {
		n.Forget(1)
		return nil, fmt.Errorf("open %s: unlinked meanwhile: %w", n.Path(), backends.ErrStale)
	}
	if flags&os.O_TRUNC != 0 && n.Info().Size != 0 {
		if err := v.truncate(ctx, n, 0); err != nil {
			h.Release()
			return nil, err
		}
	}
	return h, nil
}

// Unsent tells whether the content of n is one that is written here.
func (n *Node) Unsent() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.work != nil
}

// Here tells whether opening n for reading asks nobody but this machine.
func (n *Node) Here() bool {
	n.mu.Lock()
	here, info := n.work != nil, n.info
	n.mu.Unlock()
	if here || info.Size == 0 {
		return true
	}
	st, ok := n.fs.cache.Status(cache.Key(info.Generation))
	return ok && st.Whole
}

// admit applies what may refuse an open.
func (v *FS) admit(ctx context.Context, h *Handle) error {
	n := h.node
	if canWrite(h.flags) {
		if err := v.writable(n); err != nil {
			return err
		}
		if h.flags&os.O_TRUNC != 0 || h.flags&syscall.O_ACCMODE == os.O_WRONLY {
			return nil // no byte of it is read
		}
	}
	if n.Here() {
		return nil
	}
	n.mu.Lock()
	info := n.info
	n.mu.Unlock()
	locs, err := v.lake.Localities(ctx, info)
	if err != nil || len(locs) != 1 || locs[0] != backends.Nearline {
		return nil // the read says what is wrong
	}
	h.nearline = true
	if h.flags&syscall.O_NONBLOCK != 0 && !v.policy.allowed(h.caller) {
		if v.policy.opt.NonBlock == NonBlockEAGAIN {
			return fmt.Errorf("open %s without waiting: %w", n.Path(), backends.ErrOffline)
		}
		h.resident = true
		return nil
	}
	if why := v.policy.refuse(h.caller); why != "" {
		v.stats.refused.Add(1)
		n.setErr(why)
		v.log.Warn("recall refused", "path", n.Path(), "pid", h.caller.PID, "uid", h.caller.UID, "why", why)
		return fmt.Errorf("open %s: %w: %s", n.Path(), backends.ErrRefused, why)
	}
	return nil
}

// writable tells why n's content cannot be changed, if so.
func (v *FS) writable(n *Node) error {
	if v.opt.ReadOnly {
		return fmt.Errorf("write %s: the mount %w", n.Path(), backends.ErrReadOnly)
	}
	n.mu.Lock()
	published := n.work == nil || n.work.registered()
	n.mu.Unlock()
	if published && !v.lake.Catalogue().Traits().Versions {
		n.setErr(neverAnother)
		return fmt.Errorf("write %s: %s: %w", n.Path(), neverAnother, backends.ErrImmutable)
	}
	return nil
}

// tell keeps what an error number says too little of where user.tarn.error shows it.
func (v *FS) tell(err error, nodes ...*Node) {
	for _, is := range []error{backends.ErrImmutable, backends.ErrCrossDevice, backends.ErrNotSupported, backends.ErrQuota, backends.ErrPermission, backends.ErrName, backends.ErrUnavailable} {
		if errors.Is(err, is) {
			for _, n := range nodes {
				n.setErr(err.Error())
			}
			return
		}
	}
}

func (n *Node) setErr(s string) {
	n.mu.Lock()
	n.lastErr = s
	n.mu.Unlock()
}

// Resident tells whether only bytes at hand are served through h.
func (h *Handle) Resident() bool { return h.resident }

// WriteAt writes into the file's unsent content, making it first where the file is
// published: a copy, so that readers elsewhere keep the generation they have.
func (h *Handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if !canWrite(h.flags) {
		return 0, fmt.Errorf("write %s: not open for writing: %w", h.node.Path(), backends.ErrClosed)
	}
	u, err := h.node.fs.workFor(ctx, h.node, -1)
	if err != nil {
		return 0, err
	}
	n, err := u.write(p, off)
	h.node.fs.stats.written.Add(int64(n))
	if err != nil {
		h.node.setErr(err.Error())
	}
	return n, err
}

// Allocate is fallocate(2) with its modes.
func (h *Handle) Allocate(ctx context.Context, mode uint32, off, size int64) error {
	if !canWrite(h.flags) {
		return fmt.Errorf("allocate %s: not open for writing: %w", h.node.Path(), backends.ErrClosed)
	}
	u, err := h.node.fs.workFor(ctx, h.node, -1)
	if err != nil {
		return err
	}
	defer u.wrote()
	if err := u.grow(off + size); err != nil {
		return err
	}
	u.touch()
	return local(u.entry.Allocate(mode, off, size))
}

// Flush is one close(2) of a descriptor. When it returns nil, what was written is
// durable as the close contract says. It ends the waiting reads of a process that
// died, which is the only sign of that death.
func (h *Handle) Flush(ctx context.Context, caller Caller) error {
	h.mu.Lock()
	for r := range h.reads {
		if r.pid != 0 && (r.pid == caller.PID || !alive(r.pid)) { // 0: a thread of a namespace that is not ours
			r.cancel()
		}
	}
	h.mu.Unlock()
	h.tellPolicy() // here and not at Release, which comes after the process may have opened the next file
	if !h.Seals() {
		return nil
	}
	return h.node.fs.closeWriter(ctx, h.node, 1)
}

// Fsync makes what was written durable on the local disk.
func (h *Handle) Fsync() error {
	n := h.node
	n.mu.Lock()
	u := n.work
	n.mu.Unlock()
	if u == nil {
		return nil
	}
	if !u.unsealed() {
		return u.settle()
	}
	return u.sync()
}

// Release is the end of the handle; the last writer's seals what Flush did not see
// (a mapping written after close).
func (h *Handle) Release() {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return
	}
	h.closed = true
	f := h.file
	h.file = nil
	for r := range h.reads {
		r.cancel()
	}
	h.mu.Unlock()
	h.tellPolicy()
	n, v := h.node, h.node.fs
	if h.Seals() {
		n.mu.Lock()
		n.writers-- // first: of several at one time the last must see none
		delete(n.open, h)
		u := n.work
		n.mu.Unlock()
		if err := v.closeWriter(v.ctx, n, 0); err != nil {
			v.log.Error("seal at release", "path", n.Path(), "err", err)
		}
		if u != nil && u.unhold() {
			v.up.add(u, 0) // it looks again whether others have it open
		}
	}
	n.mu.Lock()
	n.handles--
	var dead *unsent
	if n.unlinked && n.handles == 0 {
		dead, n.work = n.work, nil
	}
	n.mu.Unlock()
	if dead != nil {
		v.drop(dead)
	}
	if f != nil {
		if err := f.Close(); err != nil {
			v.log.Debug("close cached file", "err", err)
		}
	}
	n.Forget(1)
}

// writesLocked counts h among those that may write; needs n.mu.
func (n *Node) writesLocked(h *Handle, since time.Time) {
	n.writers++
	if n.open == nil {
		n.open = map[*Handle]time.Time{}
	}
	n.open[h] = since
}

// closeWriter seals n's content when at most own writers are left, and makes it
// durable otherwise.
func (v *FS) closeWriter(ctx context.Context, n *Node, own int) error {
	n.mu.Lock()
	u, writers, unlinked := n.work, n.writers, n.unlinked
	n.mu.Unlock()
	if u == nil || unlinked {
		return nil
	}
	if !u.unsealed() {
		return nil
	}
	if writers > own {
		return u.sync()
	}
	return v.publish(ctx, n, u)
}

// publish seals u and queues its upload; with close=remote|registered it waits.
func (v *FS) publish(ctx context.Context, n *Node, u *unsent) error {
	if err := u.seal(v.opt.Close == CloseFast); err != nil {
		n.setErr(err.Error())
		return err
	}
	delay := v.opt.Delay
	if v.opt.Close.waits() {
		delay = 0
	}
	v.up.add(u, delay)
	switch v.opt.Close {
	case CloseRemote:
		return v.up.await(ctx, u, journal.Verified)
	case CloseRegistered:
		return v.up.await(ctx, u, journal.Registered)
	}
	return nil
}
