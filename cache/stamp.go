package cache

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
)

// The stamp rule: bytes that were checked, or written by us, are trusted while the stamp of
// the data file stays as it was then. A change of the stamp that is not ours makes every block
// be checked against its CRC32C again before it is used. So before each change of ours the
// stamp is compared with the one after the last, or ours would hide somebody else's.

// change runs f, which changes the data file d and, if it succeeds, leaves blocks [first, end)
// with the bytes that their checksums are of. The caller owns the data file.
func (e *entry) change(d *dataFile, first, end int, f func() error) error {
	before, err := d.stamp()
	e.mu.Lock()
	if err != nil || before != e.st {
		e.checked.Clear()
	}
	for b := first; b < end; b++ {
		e.checked.Remove(b)
	}
	e.changing = true
	e.stGen++
	e.mu.Unlock()
	err = f()
	after, err2 := d.stamp()
	err = errors.Join(err, err2)
	e.mu.Lock()
	if err != nil {
		e.checked.Clear()
	}
	for b := first; b < end && err == nil; b++ {
		e.checked.Add(b)
	}
	e.st, e.changing, e.synced = after, false, false
	e.stGen++
	e.mu.Unlock()
	return err
}

// reader gives the descriptor for reading, and what to do when done with it: one stays
// open while Files are, within the budget; beyond it each read opens the file.
func (e *entry) reader() (*dataFile, func(), error) {
	e.mu.Lock()
	d := e.fd
	e.mu.Unlock()
	if d != nil {
		return d, func() {}, nil
	}
	d, err := openData(e.c.path(e.stem, dataSuffix), os.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	c := e.c
	if c.fds.Add(1) > c.maxFDs {
		c.fds.Add(-1)
		return d, func() { d.Close() }, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fd != nil || len(e.files) == 0 {
		c.fds.Add(-1)
		return d, func() { d.Close() }, nil
	}
	e.fd = d
	return d, func() {}, nil
}

// closeFiles closes the read descriptors, with idle only if nobody has the content open:
// who opens it meanwhile may have been given one for the kernel.
func (e *entry) closeFiles(idle bool) {
	e.mu.Lock()
	if idle && len(e.files) > 0 {
		e.mu.Unlock()
		return
	}
	fds := e.old
	if e.fd != nil {
		fds = append(fds, e.fd)
	}
	e.fd, e.old = nil, nil
	e.mu.Unlock()
	for _, d := range fds {
		d.Close()
		e.c.fds.Add(-1)
	}
}

// look compares the stamp of d with the recorded one.
func (e *entry) look(d *dataFile) {
	e.mu.Lock()
	gen, changing := e.stGen, e.changing
	e.mu.Unlock()
	if changing {
		return // change itself looks
	}
	st, err := d.stamp()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stGen != gen || err == nil && st == e.st {
		return
	}
	e.checked.Clear()
	if err != nil {
		return
	}
	e.synced, e.dirty = false, true
	e.stGen++
	if e.fd == d && (st.Ino != e.st.Ino || st.Dev != e.st.Dev) {
		// The name may mean another file by now: open it again. Who has d keeps it.
		e.old, e.fd, st = append(e.old, d), nil, stamp{}
	}
	e.st = st
}

// readChecked reads block b whole into buf, and compares; false means it was damaged and
// is dropped.
func (e *entry) readChecked(d *dataFile, b int, buf []byte) bool {
	e.mu.Lock()
	crc, gen, have := e.crc[b], e.stGen, e.have.Has(b)
	e.mu.Unlock()
	if !have {
		return false
	}
	n, err := d.ReadAt(buf, e.lay.Off(b))
	if errors.Is(err, os.ErrClosed) {
		return false // a read beyond the last Close: says nothing of the block
	}
	if err != nil && err != io.EOF {
		e.c.diskFailed("read", err)
	}
	if n != len(buf) || blockSum(buf) != crc {
		e.dropBad(b, crc)
		return false
	}
	e.mu.Lock()
	if e.stGen == gen && e.have.Has(b) && e.crc[b] == crc && !e.changing {
		e.checked.Add(b)
	}
	e.mu.Unlock()
	return true
}

// trusted gives the descriptor of a whole content of which every block is checked under
// the present stamp; it checks what is not, up to so many bytes. False: it is not whole
// (any more), or more is to be checked.
func (e *entry) trusted(ctx context.Context, budget int64) (*dataFile, func(), bool) {
	if !e.isWhole() {
		return nil, nil, false
	}
	e.verify <- struct{}{}
	defer func() { <-e.verify }()
	d, done, err := e.reader()
	if err != nil {
		e.lostFile(err)
		return nil, nil, false
	}
	buf := getBuf(e.lay.Block)
	defer putBuf(buf)
	b := 0
	for range 4*e.lay.Count() + 4 { // unless somebody keeps changing the file
		e.look(d)
		e.mu.Lock()
		if b = e.checked.NextClear(b); b == e.lay.Count() { // or a change made it begin anew
			b = e.checked.NextClear(0)
		}
		whole := e.whole && !e.changing
		e.mu.Unlock()
		if whole && b == e.lay.Count() {
			return d, done, true
		}
		if !whole || ctx.Err() != nil || budget <= 0 {
			break
		}
		budget -= int64(e.lay.Len(b))
		if !e.readChecked(d, b, buf[:e.lay.Len(b)]) {
			break
		}
	}
	done()
	return nil, nil, false
}

// settle checks what there is to check of a content that has just become whole, so that it can
// be passed through and, after a restart, be trusted. That is little, unless somebody else
// changed the file or a part of it is older than this process. Larger ones are checked as they
// are read.
func (e *entry) settle() {
	if e.lay.Size > settleMax {
		return
	}
	for e.isWhole() && e.c.ctx.Err() == nil {
		if _, done, ok := e.trusted(e.c.ctx, passthroughCheck); ok {
			done()
			return
		}
	}
}

func (e *entry) isWhole() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.whole && e.lay.Count() > 0
}

// lostFile drops all blocks when the data file is gone from under us, or its disk fails:
// they are fetched again, past the cache if need be. Where only a descriptor is wanting
// they stay.
func (e *entry) lostFile(err error) {
	for _, passing := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, passing) {
			e.c.diskFailed("open", err)
			return
		}
	}
	e.c.diskFailed("open", err) // not when it is merely gone
	e.mu.Lock()
	n := e.have.Count()
	for b := e.have.NextSet(0); b < e.lay.Count(); b = e.have.NextSet(b + 1) {
		e.dropBlockLocked(b)
	}
	e.mu.Unlock()
	if n > 0 {
		e.c.log.Warn("data file is gone; its blocks are dropped", "key", e.key, "err", err)
	}
}
