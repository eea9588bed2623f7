package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ScrubReport is what Scrub found.
type ScrubReport struct {
	Files   int
	Bytes   int64
	Damaged []Key // dropped from the cache; of those in use the damaged blocks
	// Index holds the paths of damaged side files: those that Scrub wrote anew, and, for
	// the first Scrub, those that Open met and dropped with their contents.
	Index []string
}

// Scrub reads from the disk all that is there, side files and resident blocks, and compares
// it with its checksums, whatever stamps say. Contents being filled are no exception: a
// fill may wait for days for the tape that the rest is on. What they lose is fetched again
// by the fill. Entries that are charged nothing have nothing on the disk, and are passed over.
// progress, if not nil, is called after each block on the goroutine of the caller.
func (c *Cache) Scrub(ctx context.Context, progress func(done, total int64)) (ScrubReport, error) {
	var r ScrubReport
	done, err := c.begin()
	if err != nil {
		return r, fmt.Errorf("scrub: %w", err)
	}
	defer done()
	c.mu.Lock()
	r.Index, c.dropped = c.dropped, nil
	c.mu.Unlock()
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
	here := e.have.Count() > 0
	e.mu.Unlock()
	if !here { // evicted meanwhile, or a fill has reserved its place and stored nothing yet
		return nil
	}
	r.Files++
	if e.scrubSide() {
		r.Index = append(r.Index, c.path(e.stem, sideSuffix))
	}
	bad, err := e.scrub(ctx, r, step)
	if bad {
		r.Damaged = append(r.Damaged, k)
		e.mu.Lock()
		c.mu.Lock()
		e.doomed = e.doomed || e.open == 0 && e.fill == nil
		c.mu.Unlock()
		e.mu.Unlock()
	}
	return err
}

// scrubSide compares the side file with its checksum; a damaged one is written anew, of
// what memory knows. There may be none yet: then a fill or a seed is about to write it.
func (e *entry) scrubSide() (bad bool) {
	path := e.c.path(e.stem, sideSuffix)
	e.pen <- struct{}{}
	b, err := readUncached(path)
	<-e.pen
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		var s *side
		if s, err = decodeSide(b); err == nil && (s.key != e.key || s.lay != e.lay) {
			err = fmt.Errorf("%w: it is of another content", errSide)
		}
	}
	if err == nil {
		return false
	}
	e.c.log.Warn("index file of a cached content is damaged; written anew", "file", path, "err", err)
	if err := e.persist(false); err != nil {
		e.c.diskFailed("write", err)
	}
	return true
}

// readUncached reads a small file from the disk, as far as the kernel lets go of its pages.
func readUncached(path string) ([]byte, error) {
	d, err := openData(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	d.uncache()
	return io.ReadAll(d)
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
