package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// ScrubReport is what Scrub found.
type ScrubReport struct {
	Files   int
	Bytes   int64
	Damaged []Key // dropped from the cache; of open ones the damaged blocks
}

// Scrub reads all resident blocks from the disk and compares them with their checksums,
// whatever their stamps say. progress, if not nil, is called after each block on the
// goroutine of the caller. Contents being filled are left out: the fill compares them.
func (c *Cache) Scrub(ctx context.Context, progress func(done, total int64)) (ScrubReport, error) {
	var r ScrubReport
	done, err := c.begin()
	if err != nil {
		return r, fmt.Errorf("scrub: %w", err)
	}
	defer done()
	var total int64
	list := c.List()
	for _, s := range list {
		total += s.Resident
	}
	for _, s := range list {
		before := r.Bytes
		err := c.scrubOne(ctx, s.Key, &r, func() {
			if progress != nil {
				progress(r.Bytes, total)
			}
		})
		if err != nil {
			return r, fmt.Errorf("scrub: %w", err)
		}
		total += r.Bytes - before - s.Resident // what it was in the end
	}
	return r, nil
}

func (c *Cache) scrubOne(ctx context.Context, k Key, r *ScrubReport, step func()) error {
	c.mu.Lock()
	e := c.entries[k]
	if e == nil || e.charge == 0 {
		c.mu.Unlock()
		return nil
	}
	c.unIdleLocked(e)
	e.refs++
	c.mu.Unlock()
	defer c.put(e)
	e.mu.Lock()
	filling := e.fill != nil
	e.mu.Unlock()
	if filling {
		return nil
	}
	r.Files++
	bad, err := e.scrub(ctx, r, step)
	if bad {
		r.Damaged = append(r.Damaged, k)
		c.mu.Lock()
		e.doomed = e.doomed || e.open == 0
		c.mu.Unlock()
	}
	return err
}

func (e *entry) scrub(ctx context.Context, r *ScrubReport, step func()) (bad bool, err error) {
	d, err := openData(e.c.path(e.stem, dataSuffix), os.O_RDONLY)
	if err != nil {
		e.lostFile(err)
		return true, nil
	}
	defer d.Close()
	d.uncache() // what is in memory says nothing of the disk
	buf := getBuf(e.lay.Block)
	defer putBuf(buf)
	for b := 0; ; b++ {
		e.mu.Lock()
		b = e.have.NextSet(b)
		e.mu.Unlock()
		if b >= e.lay.Count() {
			return bad, nil
		}
		if err := errors.Join(ctx.Err(), context.Cause(e.c.ctx)); err != nil {
			return bad, err
		}
		p := buf[:e.lay.Len(b)]
		if !e.readChecked(d, b, p) && !e.stillHas(b) {
			bad = true
		}
		r.Bytes += int64(len(p))
		step()
	}
}
