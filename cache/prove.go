package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// errBlend marks a checksum error for which no Source can be blamed, because unverified
// blocks of several were mixed: everything is fetched again from the present one.
var errBlend = errors.New("blocks came from more than one source")

// prove takes the blocks through the whole-file hash in order, as they arrive: what came
// out of order is read again from the data file, which is still in the page cache. At the
// end it compares with the checksums of the content, and returns once it is whole. Past
// the cache it goes along with a sequential reader, and fetches for itself what the hash
// needs as soon as somebody waits for the proof.
func (fl *fill) prove(ctx context.Context) error {
	e := fl.e
	e.mu.Lock()
	sums := e.sums
	pos := fl.pos
	e.mu.Unlock()
	if fl.hash == nil {
		algs := make([]string, 0, len(sums))
		for a := range sums {
			algs = append(algs, a)
		}
		fl.hash = noHash{}
		if len(algs) > 0 {
			fl.hash = fl.c.o.NewHash(algs...)
		}
		fl.sums = make([]uint32, e.lay.Count())
		pos = 0
	}
	buf := make([]byte, min(int64(e.lay.Block), e.lay.Size))
	for ; pos < e.lay.Count(); pos++ {
		e.mu.Lock()
		fl.pos = pos
		delete(fl.window, pos-1)
		fl.cond.Broadcast()
		e.mu.Unlock()
		p, err := fl.take(ctx, pos, buf)
		if err != nil {
			return err
		}
		fl.sums[pos] = blockSum(p)
		if _, err := fl.hash.Write(p); err != nil {
			return fmt.Errorf("hash: %w", err)
		}
	}
	e.mu.Lock()
	fl.pos = pos
	e.mu.Unlock()
	if err := disagree(fl.hash.Sums(), sums); err != nil {
		e.mu.Lock()
		blend := fl.blend
		e.mu.Unlock()
		if blend {
			return fmt.Errorf("%w: %w: %w", ErrCorrupt, errBlend, err)
		}
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return fl.proved(ctx)
}

// proved notes that all block checksums are right now, and waits until all blocks are here
// (when storing: past the cache they never are).
func (fl *fill) proved(ctx context.Context) error {
	e := fl.e
	e.mu.Lock()
	defer e.mu.Unlock()
	for b, crc := range fl.sums {
		if e.have.Has(b) && e.crc[b] != crc {
			e.dropBlockLocked(b) // fetched anew after it was hashed, with other bytes
		}
		e.crc[b] = crc
	}
	e.known.Fill()
	fl.forgetMemLocked(false)
	for w := range e.waiters {
		if w.goal == goalProof {
			e.wakeLocked(w, nil)
		}
	}
	for fl.store && !e.have.Full() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fl.cond.Wait()
	}
	if e.have.Full() {
		e.whole, e.dirty, fl.done = true, true, true
		e.wakeAllLocked(nil)
	}
	fl.cond.Broadcast()
	return nil
}

// take gives the bytes of block b as soon as they are here. They are compared with the
// block's checksum: what is hashed is what is on the disk.
func (fl *fill) take(ctx context.Context, b int, buf []byte) ([]byte, error) {
	e := fl.e
	p := buf[:e.lay.Len(b)]
	for {
		e.mu.Lock()
		for !fl.hereLocked(b) {
			if ctx.Err() != nil {
				e.mu.Unlock()
				return nil, context.Cause(ctx)
			}
			fl.cond.Wait()
		}
		stored, m := e.have.Has(b), fl.memLocked(b)
		e.mu.Unlock()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !stored {
			return m.data, nil
		}
		d := fl.file
		if d == nil {
			var err error
			if d, err = openData(e.c.path(e.stem, dataSuffix), os.O_RDONLY); err != nil {
				e.lostFile(err)
				if e.stillHas(b) {
					return nil, fmt.Errorf("open cached file: %w", err)
				}
				continue
			}
		}
		ok := e.readChecked(d, b, p)
		if d != fl.file {
			d.Close()
		}
		if ok {
			return p, nil
		}
	}
}

// disagree compares digests; nil when all that were wanted agree.
func disagree(got, want map[string]string) error {
	for a, w := range want {
		g, ok := got[a]
		if !ok {
			return fmt.Errorf("checksum %s was not computed", a)
		}
		if !strings.EqualFold(g, w) {
			return fmt.Errorf("%s is %s, should be %s", a, g, w)
		}
	}
	return nil
}

// noHash is the hash of a content without checksums: only its size is checked.
type noHash struct{}

func (noHash) Write(p []byte) (int, error) { return len(p), nil }
func (noHash) Sums() map[string]string     { return nil }
