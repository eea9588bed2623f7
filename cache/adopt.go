package cache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// Adopt takes over a complete local file as the content: it is read once and compared, by
// that of Options.Quick alone where it is long enough, then renamed into the cache, or copied where that is another file system; at the end
// path is gone. When it fails the file is left as it was: ErrCorrupt, ErrNoSpace, and
// ErrBusy while the content is being fetched. Open Files of the content go on with it.
func (c *Cache) Adopt(ct Content, path string) error {
	done, err := c.begin()
	if err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	defer done()
	e, err := c.get(ct)
	if err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	defer c.put(e)
	if err := e.adopt(path); err != nil {
		return fmt.Errorf("adopt %q: %w", ct.Key, err)
	}
	return nil
}

// ownUnfilled takes the data file, which others have for moments only, unless a fill has
// it, which may be for hours.
func (e *entry) ownUnfilled() error {
	late := time.After(endingTime)
	for {
		select {
		case e.owner <- struct{}{}:
			return nil
		case <-time.After(5 * time.Millisecond):
		case <-late:
			return ErrBusy
		}
		e.mu.Lock()
		filling := e.fill != nil && !e.fill.stopped
		e.mu.Unlock()
		if filling {
			return ErrBusy
		}
	}
}

// adoptSmall is up to what size a content is compared with all its checksums: that of Options.Quick may
// say little of few bytes.
const adoptSmall = 64 << 10

func (e *entry) adopt(path string) error {
	src, err := openData(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer src.Close()
	before, err := src.stamp()
	if err != nil {
		return err
	}
	e.mu.Lock()
	filling := e.fill != nil && !e.fill.stopped
	whole, sums := e.whole, e.sums
	e.mu.Unlock()
	if filling {
		return ErrBusy
	}
	if whole {
		return os.Remove(path)
	}
	if q := e.c.o.Quick.Alg; sums[q] != "" && before.Size > adoptSmall {
		sums = map[string]string{q: sums[q]}
	}
	// Reading may take long, so nobody is kept from the content meanwhile.
	crc, err := e.digest(src, before.Size, sums)
	if err != nil {
		return err
	}
	if err := e.ownUnfilled(); err != nil {
		return err
	}
	defer func() { <-e.owner }()
	need, err := e.reserveMissing(nil)
	if err != nil {
		return err
	}
	after, err := e.moveIn(src, path)
	if err != nil {
		e.c.release(need)
		return err
	}
	c := e.c
	e.mu.Lock()
	c.mu.Lock()
	c.reserved -= need
	for first, end := range e.have.Gaps() {
		for b := first; b < end; b++ {
			e.cameLocked(b)
		}
	}
	c.mu.Unlock()
	e.have.Fill()
	e.known.Fill()
	e.checked.Clear()
	if before.MTime == after.MTime && before.Size == after.Size { // nobody wrote since it was read
		e.checked.Fill()
	}
	e.crc, e.whole, e.synced, e.dirty, e.litter = crc, true, false, true, false
	e.st = after
	e.stGen++
	if e.fd != nil {
		e.old, e.fd = append(e.old, e.fd), nil
	}
	e.mu.Unlock()
	if err := e.persist(false); err != nil {
		c.diskFailed("write", err)
	}
	return nil
}

// digest reads a whole file, compares it with sums and gives its block checksums.
func (e *entry) digest(r io.ReaderAt, size int64, sums map[string]string) ([]uint32, error) {
	if size != e.lay.Size {
		return nil, fmt.Errorf("%w: size is %d, should be %d", ErrCorrupt, size, e.lay.Size)
	}
	var h Hasher = noHash{}
	if len(sums) > 0 {
		algs := make([]string, 0, len(sums))
		for a := range sums {
			algs = append(algs, a)
		}
		h = e.c.o.NewHash(algs...)
	}
	crc := make([]uint32, e.lay.Count())
	buf := make([]byte, min(int64(e.lay.Block), size))
	for b := range crc {
		p := buf[:e.lay.Len(b)]
		if n, err := r.ReadAt(p, e.lay.Off(b)); n < len(p) {
			return nil, fmt.Errorf("read block %d: %w", b, err)
		}
		crc[b] = blockSum(p)
		if _, err := h.Write(p); err != nil {
			return nil, fmt.Errorf("hash: %w", err)
		}
	}
	if err := disagree(h.Sums(), sums); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return crc, nil
}

// reserveMissing reserves space for the blocks that are not resident (of those that want
// accepts; nil: all) and for the side file.
func (e *entry) reserveMissing(want func(b int) bool) (need int64, err error) {
	e.mu.Lock()
	for first, end := range e.have.Gaps() {
		for b := first; b < end; b++ {
			if want == nil || want(b) {
				need += pages(int64(e.lay.Len(b)))
			}
		}
	}
	need += pages(sideSize(e.key, e.lay, e.sums)) // at most this; what is not used is released
	e.mu.Unlock()
	return need, e.c.reserve(need)
}

// moveIn makes path the data file and gives its stamp there.
func (e *entry) moveIn(src *dataFile, path string) (stamp, error) {
	to := e.c.path(e.stem, dataSuffix)
	if err := e.c.makeFolder(e.stem); err != nil {
		return stamp{}, noSpace(err)
	}
	if err := src.Chmod(0o600); err != nil {
		return stamp{}, err
	}
	err := os.Rename(path, to)
	if err == nil {
		return src.stamp()
	}
	if !errors.Is(err, syscall.EXDEV) {
		return stamp{}, err
	}
	tmp := to + tempSuffix
	dst, err := openData(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return stamp{}, err
	}
	defer dst.Close()
	if _, err = io.Copy(dst.File, io.NewSectionReader(src, 0, e.lay.Size)); err == nil {
		err = os.Rename(tmp, to)
	}
	if err != nil {
		os.Remove(tmp)
		return stamp{}, noSpace(err)
	}
	st, err := dst.stamp()
	if err != nil {
		return st, err
	}
	st.MTime = 0 // it is another file: have the copy checked before it is trusted
	return st, os.Remove(path)
}

// noSpace makes a full disk what it means to the caller.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
