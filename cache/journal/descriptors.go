package journal

import (
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// descriptors bounds how many data files are open: those in use, plus a number of idle
// ones that are kept for the next use, longest idle closed first. An idle file with
// unsynced bytes is synced before it is closed: the kernel may forget a write error once
// nobody has the file open, and a sync on a new descriptor would then lie.
type descriptors struct {
	fs       FS
	maxClean int
	maxDirty int

	mu     sync.Mutex // guards the rest and every handle; never held across I/O
	idle   *sync.Cond // signalled when busy falls to 0
	clean  list.List  // of *handle, longest idle first
	dirty  list.List
	busy   int
	spare  []File // held back so that a close can still write its record at EMFILE
	closed bool
}

// handle is the data file of one entry.
type handle struct {
	name string
	// flush makes the data durable before an idle dirty file is closed.
	flush func(File)

	mem   *memory // the content while the entry has no files; nil otherwise
	file  File    // nil when closed
	refs  int
	dirty bool // has unsynced bytes
	gone  bool // close as soon as idle, for good
	once  bool // close as soon as idle, it may be opened again
	in    *list.List
	at    *list.Element
}

const spareFiles = 4

// othersTime is how long a close waits for a descriptor that others have.
const othersTime = time.Second

func newDescriptors(fsys FS, maxClean, maxDirty int) *descriptors {
	d := &descriptors{fs: fsys, maxClean: maxClean, maxDirty: maxDirty}
	d.idle = sync.NewCond(&d.mu)
	d.refillSpare()
	return d
}

// acquire opens the data file unless it is open and keeps it open until release. make
// creates it, and it must not exist.
func (d *descriptors) acquire(h *handle, create bool) (File, error) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil, ErrClosed
	}
	if h.gone {
		d.mu.Unlock()
		return nil, ErrRemoved
	}
	h.refs++
	d.busy++
	d.unlistLocked(h)
	if m := h.mem; m != nil {
		d.mu.Unlock()
		return m, nil
	}
	if f := h.file; f != nil {
		d.mu.Unlock()
		return f, nil
	}
	d.mu.Unlock()

	flag := os.O_RDWR
	if create {
		flag |= os.O_CREATE | os.O_EXCL
	}
	open := d.openRecord // a content that is there must be sealed, whoever else opens files
	if create {
		open = d.open
	}
	f, err := open(h.name, flag)
	readOnly := errors.Is(err, unix.EROFS) && !create
	if readOnly { // what is there can still be read
		if f, err = d.open(h.name, os.O_RDONLY); err == nil {
			f = readOnlyFile{f}
		}
	}
	if err != nil {
		d.release(h)
		// A lost data file must not look like a user's file that does not exist.
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("data file is missing: %w", unix.EIO)
		}
		return nil, err
	}
	d.mu.Lock()
	if other := h.file; other != nil { // another caller was faster
		d.mu.Unlock()
		f.Close()
		return other, nil
	}
	h.file = f
	h.once = readOnly // the disk may be writable again the next time
	d.mu.Unlock()
	return f, nil
}

// readOnlyFile answers EROFS where the descriptor alone would give EBADF.
type readOnlyFile struct{ File }

func (readOnlyFile) WriteAt([]byte, int64) (int, error)       { return 0, unix.EROFS }
func (readOnlyFile) Truncate(int64) error                     { return unix.EROFS }
func (readOnlyFile) Allocate(mode uint32, off, n int64) error { return unix.EROFS }

// release gives back what acquire gave.
func (d *descriptors) release(h *handle) {
	d.mu.Lock()
	f := d.unrefLocked(h)
	victim := d.victimLocked()
	d.doneLocked()
	d.mu.Unlock()
	if f != nil {
		d.closeRecord(f)
	}
	for victim != nil {
		victim = d.retire(victim)
	}
}

// unrefLocked ends one use. The last puts the file among the idle ones, or gives it back
// to be closed when it is not to be kept.
func (d *descriptors) unrefLocked(h *handle) (f File) {
	h.refs--
	if h.refs > 0 || h.file == nil {
		return nil
	}
	if h.gone || h.once {
		f, h.file, h.once = h.file, nil, false
		return f
	}
	d.listLocked(h)
	return nil
}

func (d *descriptors) doneLocked() {
	d.busy--
	if d.busy == 0 {
		d.idle.Broadcast()
	}
}

// memory is the content of h while it has no file.
func (d *descriptors) memory(h *handle) *memory {
	d.mu.Lock()
	defer d.mu.Unlock()
	return h.mem
}

// settled puts the file that has been made in the place of h's content in memory.
func (d *descriptors) settled(h *handle, f File, dirty bool) {
	d.mu.Lock()
	h.mem, h.file, h.dirty = nil, f, h.dirty || dirty
	var victim *handle
	if h.refs == 0 {
		d.listLocked(h)
		victim = d.victimLocked()
	}
	d.mu.Unlock()
	for victim != nil {
		victim = d.retire(victim)
	}
}

// setDirty notes whether h has unsynced bytes; h is acquired. True comes after a write,
// false before a sync, so that nothing falls between.
func (d *descriptors) setDirty(h *handle, dirty bool) {
	d.mu.Lock()
	h.dirty = dirty
	d.mu.Unlock()
}

// saved is setDirty false for a sync of the whole file system, of a file that may be idle:
// whether it stays open is of no concern to that sync.
func (d *descriptors) saved(h *handle) {
	d.mu.Lock()
	h.dirty = false
	if h.at == nil {
		d.mu.Unlock()
		return
	}
	d.unlistLocked(h)
	d.listLocked(h)
	victim := d.victimLocked()
	d.mu.Unlock()
	for victim != nil {
		victim = d.retire(victim)
	}
}

// drop closes the file when it is idle and clean.
func (d *descriptors) drop(h *handle) {
	d.mu.Lock()
	if h.at == nil || h.dirty {
		d.mu.Unlock()
		return
	}
	d.takeLocked(h.at)
	d.mu.Unlock()
	d.retire(h)
}

// forget closes the file when its last user releases it, without syncing.
func (d *descriptors) forget(h *handle) {
	d.mu.Lock()
	h.gone = true
	var victim *handle
	if h.refs == 0 && h.file != nil {
		d.unlistLocked(h)
		h.refs++
		d.busy++
		victim = h
	}
	d.mu.Unlock()
	if victim != nil {
		d.retire(victim)
	}
}

func (d *descriptors) listLocked(h *handle) {
	h.in = &d.clean
	if h.dirty {
		h.in = &d.dirty
	}
	h.at = h.in.PushBack(h)
}

func (d *descriptors) unlistLocked(h *handle) {
	if h.at != nil {
		h.in.Remove(h.at)
		h.in, h.at = nil, nil
	}
}

// victimLocked takes an idle file that is too many, marked as in use.
func (d *descriptors) victimLocked() *handle {
	var at *list.Element
	switch {
	case d.clean.Len() > d.maxClean:
		at = d.clean.Front()
	case d.dirty.Len() > d.maxDirty:
		at = d.dirty.Front()
	default:
		return nil
	}
	return d.takeLocked(at)
}

func (d *descriptors) takeLocked(at *list.Element) *handle {
	h := at.Value.(*handle)
	d.unlistLocked(h)
	h.refs++
	d.busy++
	return h
}

// retire closes a victim, after a sync if it needs one and if nobody came meanwhile, and
// gives the next.
func (d *descriptors) retire(h *handle) *handle {
	d.mu.Lock()
	needs := h.dirty && !h.gone
	f := h.file
	// Before the sync, so that a write that comes during it makes the file dirty again
	// and keeps it open.
	h.dirty = false
	d.mu.Unlock()
	if needs {
		h.flush(f) // when it fails that is the entry's sticky error: nothing more to keep
	}
	d.mu.Lock()
	if h.refs == 1 && !h.dirty {
		h.once = true
	}
	f = d.unrefLocked(h)
	victim := d.victimLocked()
	d.doneLocked()
	d.mu.Unlock()
	if f != nil {
		d.closeRecord(f)
	}
	return victim
}

// shed closes idle clean files, all of them.
func (d *descriptors) shed() {
	for {
		d.mu.Lock()
		at := d.clean.Front()
		if at == nil {
			d.mu.Unlock()
			return
		}
		h := d.takeLocked(at)
		d.mu.Unlock()
		if v := d.retire(h); v != nil {
			d.retire(v)
		}
	}
}

// shedDirty syncs and closes the file that is idle longest of those with unsynced bytes;
// false when there is none.
func (d *descriptors) shedDirty() bool {
	d.mu.Lock()
	at := d.dirty.Front()
	if at == nil {
		d.mu.Unlock()
		return false
	}
	h := d.takeLocked(at)
	d.mu.Unlock()
	for h != nil {
		h = d.retire(h)
	}
	return true
}

// open opens a file; when the process has run out of descriptors, idle ones make room,
// those first that need no sync.
func (d *descriptors) open(name string, flag int) (File, error) {
	f, err := d.fs.OpenFile(name, flag, 0o600)
	if exhausted(err) {
		d.shed()
		f, err = d.fs.OpenFile(name, flag, 0o600)
	}
	// Bounded, because others may take what is freed, and write what was synced again.
	for tries := 0; exhausted(err) && tries < d.maxDirty && d.shedDirty(); tries++ {
		f, err = d.fs.OpenFile(name, flag, 0o600)
	}
	return f, err
}

// openRecord is open for what Sync, Seal and Update need, with a few descriptors held
// back for it: a close(2) must not fail because others have opened too many. Others may be quicker to take what is
// given up for it: they are waited for, for a moment.
func (d *descriptors) openRecord(name string, flag int) (File, error) {
	f, err := d.open(name, flag)
	for end := time.Now().Add(othersTime); exhausted(err); {
		d.mu.Lock()
		if len(d.spare) == 0 {
			d.mu.Unlock()
			if time.Now().After(end) {
				return nil, err
			}
			time.Sleep(10 * time.Millisecond)
			f, err = d.open(name, flag)
			continue
		}
		s := d.spare[len(d.spare)-1]
		d.spare = d.spare[:len(d.spare)-1]
		d.mu.Unlock()
		s.Close()
		f, err = d.fs.OpenFile(name, flag, 0o600)
	}
	return f, err
}

// closeRecord closes what openRecord gave.
func (d *descriptors) closeRecord(f File) {
	f.Close()
	d.refillSpare()
}

func (d *descriptors) refillSpare() {
	for {
		d.mu.Lock()
		full := d.closed || len(d.spare) >= spareFiles
		d.mu.Unlock()
		if full {
			return
		}
		s, err := d.fs.OpenFile(os.DevNull, os.O_RDONLY, 0)
		if err != nil {
			return // the next closeRecord tries again
		}
		d.mu.Lock()
		if d.closed || len(d.spare) >= spareFiles {
			d.mu.Unlock()
			s.Close()
			return
		}
		d.spare = append(d.spare, s)
		d.mu.Unlock()
	}
}

// enter counts an operation that close has to wait for.
func (d *descriptors) enter() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	d.busy++
	return nil
}

func (d *descriptors) leave() {
	d.mu.Lock()
	d.doneLocked()
	d.mu.Unlock()
}

// close waits for what is in use and closes everything. It reports false when it was
// closed already.
func (d *descriptors) close() bool {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return false
	}
	d.closed = true
	for d.busy > 0 {
		d.idle.Wait()
	}
	files := d.spare
	d.spare = nil
	for _, l := range []*list.List{&d.clean, &d.dirty} {
		for at := l.Front(); at != nil; at = at.Next() {
			h := at.Value.(*handle)
			files = append(files, h.file)
			h.file, h.in, h.at = nil, nil, nil
		}
		l.Init()
	}
	d.mu.Unlock()
	for _, f := range files {
		f.Close()
	}
	return true
}

// count is how many data files are open.
func (d *descriptors) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clean.Len() + d.dirty.Len() + d.busy
}

func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

// defaultDirty leaves half of the process's descriptors to others.
func defaultDirty() int {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 256
	}
	return int(min(lim.Cur/2, 8192))
}
