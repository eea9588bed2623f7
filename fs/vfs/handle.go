package vfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
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

// pending is a read that waits, and the thread that waits in it.
type pending struct {
	pid    uint32
	cancel context.CancelFunc
}

// seals tells whether the close of h may complete a content: one that is open for
// writing, or was made by an open that could not write.
func (h *Handle) seals() bool { return h.made || canWrite(h.flags) }

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
	n.mu.Lock()
	here := n.work != nil
	info := n.info
	n.mu.Unlock()
	if here || info.Size == 0 {
		return nil
	}
	if st, ok := v.cache.Status(cache.Key(info.Generation)); ok && st.Whole {
		return nil
	}
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
		n.setErr("published files cannot be changed in this catalogue; write a new file")
		return fmt.Errorf("write %s: a published file %w", n.Path(), backends.ErrImmutable)
	}
	return nil
}

func (n *Node) setErr(s string) {
	n.mu.Lock()
	n.lastErr = s
	n.mu.Unlock()
}

// content describes what the cache holds of a published file.
func content(in backends.Info) cache.Content {
	return cache.Content{Key: cache.Key(in.Generation), Size: in.Size, Sums: checksum.ToMap(in.Checksums)}
}

// cached gives h's file in the cache, for the generation that is current.
func (h *Handle) cached() (*cache.File, error) {
	info := h.node.Info()
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, fmt.Errorf("read %s: the handle %w", h.node.Path(), backends.ErrClosed)
	}
	if h.file != nil && h.gen == info.Generation {
		f := h.file
		h.mu.Unlock()
		return f, nil
	}
	h.mu.Unlock()
	v := h.node.fs
	f, err := v.openCached(h.node, info)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.file != nil && h.gen == info.Generation {
		defer f.Close()
		if h.closed {
			return nil, fmt.Errorf("read %s: the handle %w", h.node.Path(), backends.ErrClosed)
		}
		return h.file, nil
	}
	if h.file != nil {
		defer h.file.Close() // an older generation
	}
	h.file, h.gen = f, info.Generation
	return f, nil
}

// ReadAt reads the file's current content; short only at the end, with io.EOF. It
// waits for a fetch or a recall until ctx ends or Flush finds that the reader died.
func (h *Handle) ReadAt(ctx context.Context, p []byte, off int64, caller Caller) (int, error) {
	n := h.node
	for {
		n.mu.Lock()
		u := n.work
		n.mu.Unlock()
		if u == nil {
			break
		}
		if u.isRotten() {
			return 0, fmt.Errorf("read %s: %w: %w", n.Path(), backends.ErrCorrupt, errRotten)
		}
		k, err := u.entry.ReadAt(p, off)
		if !u.leaving(err) {
			return k, local(err)
		}
		if u.gone() { // it is in the cache, or was replaced in the catalogue
			n.mu.Lock()
			if n.work == u {
				n.work = nil
			}
			n.mu.Unlock()
			continue
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	f, err := h.cached()
	if err != nil {
		return 0, err
	}
	if k, err := f.ReadResident(p, off); err == nil && k == len(p) || errors.Is(err, io.EOF) {
		h.count(k)
		return k, err
	} else if h.resident {
		if k > 0 {
			h.count(k)
			return k, nil
		}
		return 0, fmt.Errorf("read %s: %w: %s", n.Path(), backends.ErrRefused, h.refused())
	}
	ctx, done := h.wait(ctx, caller.PID)
	defer done()
	defer h.readAhead()()
	k, err := f.ReadAt(ctx, p, off)
	h.count(k)
	if err != nil && !errors.Is(err, io.EOF) {
		if ctx.Err() == nil {
			n.setErr(err.Error())
		}
		return k, local(err)
	}
	return k, err
}

// refused notes, once, that a reader wants more of a resident handle than is here.
func (h *Handle) refused() string {
	const why = "opened with O_NONBLOCK, and the rest is on tape"
	h.mu.Lock()
	told := h.told
	h.told = true
	h.mu.Unlock()
	if told {
		return why
	}
	v := h.node.fs
	v.stats.refused.Add(1)
	words := v.policy.refuseNonBlock(h.caller)
	h.node.setErr(words)
	v.log.Info("recall refused", "path", h.node.Path(), "pid", h.caller.PID, "uid", h.caller.UID, "why", words)
	return why
}

func (h *Handle) count(k int) {
	h.mu.Lock()
	h.bytes += int64(k)
	h.mu.Unlock()
	h.node.fs.stats.read.Add(int64(k))
}

// readAhead tells the recall read-ahead, once, that this file is waited for; what it
// returns says that the wait is over.
func (h *Handle) readAhead() (over func()) {
	h.mu.Lock()
	tell := h.nearline && !h.asked
	h.asked = true
	h.mu.Unlock()
	if tell {
		return h.node.fs.ahead.recalled(h.node)
	}
	return func() {}
}

// wait registers a read that may wait long.
func (h *Handle) wait(ctx context.Context, pid uint32) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	r := &pending{pid, cancel}
	h.mu.Lock()
	if h.reads == nil {
		h.reads = map[*pending]struct{}{}
	}
	h.reads[r] = struct{}{}
	h.mu.Unlock()
	end := h.node.fs.keep(h.node)
	return ctx, func() {
		h.mu.Lock()
		delete(h.reads, r)
		h.mu.Unlock()
		end(ctx.Err() != nil)
		cancel()
	}
}

// Whole gives a descriptor of the file's complete, verified content for kernel
// passthrough, valid until Release, and the content's name; false while there is none.
func (h *Handle) Whole() (*os.File, backends.Generation, bool) {
	h.node.mu.Lock()
	busy := h.node.work != nil
	h.node.mu.Unlock()
	if busy {
		return nil, "", false
	}
	f, err := h.cached()
	if err != nil {
		return nil, "", false
	}
	fd, ok := f.Passthrough()
	h.mu.Lock()
	defer h.mu.Unlock()
	return fd, h.gen, ok && h.file == f
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
	if !h.seals() {
		return nil
	}
	return h.node.fs.closeWriter(ctx, h.node, 1)
}

// tellPolicy tells, once, how much of a recalled file its reader wanted.
func (h *Handle) tellPolicy() {
	h.mu.Lock()
	tell, bytes := h.asked && h.nearline && !h.judged, h.bytes
	h.judged = h.judged || tell
	h.mu.Unlock()
	if tell {
		h.node.fs.policy.released(h.caller, bytes, h.node.Info().Size)
	}
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
	if h.seals() {
		n.mu.Lock()
		n.writers-- // first: of several at one time the last must see none
		delete(n.open, h)
		n.mu.Unlock()
		if err := v.closeWriter(v.ctx, n, 0); err != nil {
			v.log.Error("seal at release", "path", n.Path(), "err", err)
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

// alive tells whether a thread exists and is not a zombie.
func alive(tid uint32) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", tid))
	if err != nil {
		return false
	}
	for i := len(b) - 1; i > 0; i-- { // the state follows the last ')'
		if b[i] == ')' {
			return i+2 < len(b) && b[i+2] != 'Z' && b[i+2] != 'X'
		}
	}
	return true
}
