package cache

import (
	"fmt"
	"io"
)

// Seed keeps the head and the tail of a content whose bytes are at hand and verified, so
// that readers of headers need no fetch. A content that is all head and tail is compared
// with its checksums and is whole then. Nothing happens while the content is being
// fetched, which brings more. ErrNoSpace; ErrCorrupt when r contradicts what is known.
func (c *Cache) Seed(ct Content, r io.ReaderAt) error {
	done, err := c.begin()
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer done()
	e, err := c.get(ct)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer c.put(e)
	if e.ownUnfilled() != nil {
		return nil
	}
	defer func() { <-e.owner }()
	if err := e.seed(r); err != nil {
		return fmt.Errorf("seed %q: %w", ct.Key, noSpace(err))
	}
	return nil
}

// isEnd tells whether block b is kept of an evicted content.
func (e *entry) isEnd(b int) bool { return b < e.headEnd || b >= e.tailStart }

func (e *entry) seed(r io.ReaderAt) error {
	all := e.headEnd == e.tailStart && e.headEnd > 0
	e.mu.Lock()
	whole, sums := e.whole, e.sums
	e.mu.Unlock()
	if whole || e.headEnd == 0 && e.tailStart == e.lay.Count() {
		return nil
	}
	if all {
		if _, err := e.digest(r, e.lay.Size, sums); err != nil {
			return err
		}
	}
	need, err := e.reserveMissing(e.isEnd)
	if err != nil {
		return err
	}
	left, err := e.storeEnds(r, need)
	e.c.release(left)
	e.mu.Lock()
	if err == nil && e.have.Full() && e.known.Full() {
		e.whole = true
	}
	e.mu.Unlock()
	e.settle()
	e.tidy()
	return err
}

// storeEnds stores the ends out of a reservation and tells what is left of it.
func (e *entry) storeEnds(r io.ReaderAt, left int64) (int64, error) {
	d, err := e.openForWrite()
	if err != nil {
		return left, err
	}
	defer d.Close()
	buf := getBuf(e.lay.Block)
	defer putBuf(buf)
	for b := range e.lay.Count() {
		if b == e.headEnd && b < e.tailStart {
			continue
		}
		if !e.isEnd(b) {
			continue
		}
		n, err := e.storeVerified(d, r, b, buf[:e.lay.Len(b)])
		left -= n
		if err != nil {
			return left, err
		}
	}
	return left, nil
}

// storeVerified stores one block and tells what it was charged with.
func (e *entry) storeVerified(d *dataFile, r io.ReaderAt, b int, p []byte) (charged int64, err error) {
	if n, err := r.ReadAt(p, e.lay.Off(b)); n < len(p) {
		return 0, fmt.Errorf("read block %d: %w", b, err)
	}
	crc := blockSum(p)
	e.mu.Lock()
	known, have, was := e.known.Has(b), e.have.Has(b), e.crc[b]
	if have && was == crc {
		e.known.Add(b)
		e.dirty = true
	}
	e.mu.Unlock()
	if known && was != crc {
		return 0, fmt.Errorf("block %d is not what was verified before: %w", b, ErrCorrupt)
	}
	if have && was == crc {
		return 0, nil
	}
	err = e.change(d, b, b+1, func() error {
		_, err := d.WriteAt(p, e.lay.Off(b))
		return err
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.litter = true
		return 0, err
	}
	if e.have.Add(b) {
		e.c.mu.Lock()
		charged = e.cameLocked(b)
		e.c.reserved -= charged
		e.c.mu.Unlock()
	}
	e.crc[b] = crc
	e.known.Add(b)
	e.dirty = true
	return charged, nil
}
