package journal

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// writeback is how much is written in order before its way to the disk is begun, so
// that Seal of a big file finds little left to wait for.
const writeback = 8 << 20

// WriteAt writes as pwrite does. Writes in order are checksummed as they come. The first
// write after a Seal takes the entry back to WRITING; when it changes sealed bytes, that
// is made durable before they change.
func (e *Entry) WriteAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off+int64(len(p)) < 0 {
		return 0, e.wrap("write", unix.EINVAL)
	}
	if len(p) == 0 {
		return 0, e.wrap("write", e.alive())
	}
	e.gate.RLock()
	defer e.gate.RUnlock()
	if err := e.fit(off + int64(len(p))); err != nil {
		return 0, e.wrap("write", err)
	}
	err = e.change(off, func(f File) error {
		n, err = e.writeHashed(f, p, off)
		if n == 0 {
			return err
		}
		e.wrote(off + int64(n))
		if end := off + int64(n); end/writeback != off/writeback {
			e.startBack(f, off/writeback*writeback, end/writeback*writeback)
		}
		return err
	})
	return n, e.wrap("write", err)
}

// startBack begins the way of a range to the disk, beside the writer, who need not wait until
// the disk's queue takes it. What comes while one is under way goes with the next. The caller
// has the data file acquired.
func (e *Entry) startBack(f File, from, to int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := &e.back
	if b.to != b.from && from <= b.to && to >= b.from { // they touch
		from, to = min(from, b.from), max(to, b.to)
	}
	b.from, b.to = from, to
	if b.runs {
		return
	}
	if _, err := e.j.files.acquire(&e.data, false); err != nil {
		return // Seal does it
	}
	b.runs = true
	go func() {
		defer e.j.files.release(&e.data)
		for {
			e.mu.Lock()
			from, to := b.from, b.to
			b.from, b.to = 0, 0
			b.runs = to > from
			e.mu.Unlock()
			if to <= from {
				return
			}
			f.Writeback(from, to-from)
		}
	}()
}

// Truncate sets the size, as ftruncate does. To 0 it also heals a Damaged entry: what was
// damaged is no more.
func (e *Entry) Truncate(n int64) error {
	if n < 0 {
		return e.wrap("truncate", unix.EINVAL)
	}
	e.gate.Lock()
	defer e.gate.Unlock()
	if e.Size() == n && !e.Record().Damaged {
		return e.wrap("truncate", e.alive())
	}
	if err := e.fit(n); err != nil {
		return e.wrap("truncate", err)
	}
	cut := func(f File) error {
		if n < e.Size() {
			e.mu.Lock()
			e.shrunk = true
			e.mu.Unlock()
		}
		if err := f.Truncate(n); err != nil {
			return err
		}
		if n == 0 {
			e.hash.reset(e.j.newDigest())
		} else {
			e.hash.changed(min(n, e.Size()))
		}
		e.setSize(n)
		e.wrote(n)
		return nil
	}
	err := e.change(min(n, e.Size()), cut)
	if n == 0 && errors.Is(err, errRotten) { // it has files now
		err = e.change(0, cut)
	}
	if err == nil && n == 0 {
		err = e.heal()
	}
	return e.wrap("truncate", err)
}

// Allocate is fallocate(2) with mode 0, FALLOC_FL_KEEP_SIZE, PUNCH_HOLE or ZERO_RANGE
// and their combinations; other modes are EOPNOTSUPP.
func (e *Entry) Allocate(mode uint32, off, n int64) error {
	if off < 0 || n <= 0 || off+n < 0 {
		return e.wrap("allocate", unix.EINVAL)
	}
	const known = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
	if mode&^known != 0 {
		return e.wrap("allocate", unix.EOPNOTSUPP)
	}
	e.gate.Lock()
	defer e.gate.Unlock()
	if err := e.spillNow(); err != nil {
		return e.wrap("allocate", err)
	}
	size := e.Size()
	grown := size
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		grown = max(size, off+n)
	}
	clears := mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 && off < size
	if !clears && grown == size { // blocks only, no change of content
		return e.wrap("allocate", e.withData(func(f File) error { return f.Allocate(mode, off, n) }))
	}
	first := size
	if clears {
		first = off
	}
	return e.wrap("allocate", e.change(first, func(f File) error {
		err := f.Allocate(mode, off, n)
		// One that failed half way may have cleared something or grown the file.
		e.hash.changed(first)
		if in, statErr := f.Stat(); statErr == nil {
			grown = in.Size
		} else if err != nil {
			grown = size
		}
		e.setSize(grown)
		e.wrote(grown)
		return err
	}))
}

// CopyFrom writes n bytes of r to the start of the entry: the old content of a file that
// is about to be changed in place.
func (e *Entry) CopyFrom(r io.ReaderAt, n int64) error {
	buf := make([]byte, min(n, 1<<20))
	for off := int64(0); off < n; {
		p := buf[:min(int64(len(buf)), n-off)]
		k, err := r.ReadAt(p, off)
		if k < len(p) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return e.wrap("copy to", fmt.Errorf("at %d of %d: %w", off+int64(k), n, err))
		}
		if _, err := e.WriteAt(p, off); err != nil {
			return err
		}
		off += int64(k)
	}
	return nil
}

// change runs do, which changes bytes from first on and nothing before. The caller holds
// gate, shared or alone.
func (e *Entry) change(first int64, do func(File) error) error {
	if err := e.reopen(first); err != nil {
		return err
	}
	f, err := e.j.files.acquire(&e.data, false)
	if err != nil {
		return err
	}
	defer e.j.files.release(&e.data)
	err = do(f)
	e.j.files.setDirty(&e.data, true)
	if errors.Is(err, errRotten) {
		e.rotted()
	}
	return err
}

// wrote notes that the content has changed, after it has: a sync that began before does
// not count for it.
func (e *Entry) wrote(end int64) {
	e.mu.Lock()
	e.unsynced = true
	e.writes++
	if end > e.size {
		e.j.bytes.Add(end - e.size)
		e.size = end
	}
	e.mu.Unlock()
}

// reopen takes a sealed entry back to WRITING before its bytes from first on change.
// When sealed ones are among them, the record says so durably first: otherwise a crash
// would leave a file that looks as if it had rotted. Appends need no mark: a crash takes
// the file back to its sealed size.
func (e *Entry) reopen(first int64) error {
	need := func() (open, touch bool) {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.st.State != Writing, e.st.Seq > 0 && !e.marked && first < e.st.Size
	}
	if err := e.alive(); err != nil {
		return err
	}
	if open, touch := need(); !open && !touch {
		return nil
	}
	e.op.Lock()
	defer e.op.Unlock()
	open, touch := need()
	if !open && !touch {
		return e.alive()
	}
	if err := e.alive(); err != nil {
		return err
	}
	st := e.snapshot()
	if open {
		st.Recovered = st.Recovered || st.State == Abandoned
		st.State = Writing
		for i := range st.Copies { // they are copies of another content
			st.Copies[i].State = Writing
		}
	}
	if touch {
		// The log's copy will not count any more, so the file must have everything.
		if e.j.wal.holds(e) {
			if err := e.withData(func(f File) error { return e.persist(f, nil) }); err != nil {
				return err
			}
		}
		st.Touched = true
		if err := e.writeRecord(st, true); err != nil {
			return err
		}
	}
	e.mu.Lock()
	e.st = st
	e.marked = e.marked || touch
	e.mu.Unlock()
	return nil
}

// heal forgets what a crash or a bad disk did to the content of an entry that has become
// empty. A failed sync stays.
func (e *Entry) heal() error {
	e.op.Lock()
	defer e.op.Unlock()
	st := e.snapshot()
	st.Recovered = false
	if st.Damaged && st.SyncError == "" {
		st.Damaged, st.Error = false, ""
		if err := e.writeRecord(st, true); err != nil {
			return err
		}
	}
	e.publish(st)
	return nil
}

// snapshot is a copy of the state to be changed and published; the caller holds op.
func (e *Entry) snapshot() stored {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.st.clone()
}

func (e *Entry) publish(st stored) {
	e.mu.Lock()
	e.st = st
	e.mu.Unlock()
}
