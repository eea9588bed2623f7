package cache

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"slices"
	"strings"
)

// errBlend marks a checksum error for which no Source can be blamed, because unverified
// blocks of several were mixed: everything is fetched again from the present one.
var errBlend = errors.New("blocks came from more than one source")

// proof is how far the whole-file checksum of a content has come.
type proof struct {
	want map[string]string // what it is compared with; nil: not begun
	crcs []uint32          // of the blocks taken in
	hash Hasher            // of them
	join uint32            // or, where pieces are enough, of these
}

// begin chooses what the content is compared with: with Quick alone where its pieces are
// computed as they come, else with all checksums that are known.
func (fl *fill) begin() {
	e, q := fl.e, fl.c.o.Quick
	e.mu.Lock()
	fl.want = maps.Clone(e.sums)
	e.mu.Unlock()
	fl.crcs = make([]uint32, e.lay.Count())
	fl.hash = noHash{}
	switch {
	case fl.pieces != nil:
		fl.want = map[string]string{q.Alg: fl.want[q.Alg]}
		fl.join = q.Piece(nil)
	case len(fl.want) > 0:
		fl.hash = fl.c.o.NewHash(slices.Collect(maps.Keys(fl.want))...)
	default:
		fl.want = map[string]string{}
	}
}

// digest gives the checksum that guards a block, and its piece of Quick. Both are computed of
// a bit at a time, while it is in the processor's cache.
func (fl *fill) digest(p []byte) (crc, piece uint32) {
	if fl.pieces == nil {
		return blockSum(p), 0
	}
	const bit = 128 << 10
	q := fl.c.o.Quick
	piece = q.Piece(nil)
	for len(p) > 0 {
		n := min(bit, len(p))
		crc = crc32.Update(crc, castagnoli, p[:n])
		piece = q.Join(piece, q.Piece(p[:n]), int64(n))
		p = p[n:]
	}
	return crc, piece
}

// prove takes the blocks through the whole-file checksum in order, as they arrive: of the
// pieces that were computed when they came, else of the bytes, which are in memory or still in
// the page cache. At the end it compares with the checksums of the content, and returns once it
// is whole. Past the cache it goes along with a sequential reader, and fetches for itself what
// the checksum needs as soon as somebody waits for the proof.
func (fl *fill) prove(ctx context.Context) error {
	e := fl.e
	e.mu.Lock()
	pos := fl.pos
	e.mu.Unlock()
	if fl.want == nil {
		fl.begin()
		pos = 0
	}
	for ; pos < e.lay.Count(); pos++ {
		e.mu.Lock()
		fl.pos = pos
		delete(fl.window, pos-1)
		fl.cond.Broadcast()
		e.mu.Unlock()
		if err := fl.take(ctx, pos); err != nil {
			return err
		}
	}
	e.mu.Lock()
	fl.pos = pos
	e.mu.Unlock()
	if err := disagree(fl.digests(), fl.want); err != nil {
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
	for b, crc := range fl.crcs {
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

// digests are those of the blocks taken in.
func (fl *fill) digests() map[string]string {
	if fl.pieces != nil {
		return map[string]string{fl.c.o.Quick.Alg: fmt.Sprintf("%08x", fl.join)}
	}
	return fl.hash.Sums()
}

// take takes block b into the checksum as soon as it is here. What comes from the disk is
// compared with the block's own checksum: what is proved is what is on the disk.
func (fl *fill) take(ctx context.Context, b int) error {
	e := fl.e
	for {
		e.mu.Lock()
		for !fl.hereLocked(b) {
			if ctx.Err() != nil {
				e.mu.Unlock()
				return context.Cause(ctx)
			}
			fl.cond.Wait()
		}
		m := fl.memLocked(b)
		if e.have.Has(b) {
			if fl.pieces != nil && fl.pieced[b] {
				m = &memBlock{crc: e.crc[b], piece: fl.pieces[b]}
			} else if m = fl.recentLocked(b); m != nil {
				m.hold()
			}
		}
		e.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if m != nil {
			defer m.back()
			return fl.add(b, m.crc, m.piece, m.data)
		}
		ok, err := fl.takeStored(b)
		if ok || err != nil {
			return err
		}
	}
}

// add takes a block in by its piece or, where pieces are not enough, its bytes.
func (fl *fill) add(b int, crc, piece uint32, p []byte) error {
	fl.crcs[b] = crc
	if fl.pieces != nil {
		fl.join = fl.c.o.Quick.Join(fl.join, piece, int64(fl.e.lay.Len(b)))
		return nil
	}
	if _, err := fl.hash.Write(p); err != nil {
		return fmt.Errorf("hash: %w", err)
	}
	return nil
}

// takeStored takes a block in from the disk; false: it was damaged, and is dropped.
func (fl *fill) takeStored(b int) (bool, error) {
	e, d := fl.e, fl.file
	if d == nil {
		var err error
		if d, err = openData(e.c.path(e.stem, dataSuffix), os.O_RDONLY); err != nil {
			e.lostFile(err)
			if e.stillHas(b) {
				return false, fmt.Errorf("open cached file: %w", err)
			}
			return false, nil
		}
		defer d.Close()
	}
	buf := getBuf(e.lay.Len(b))
	defer putBuf(buf)
	if !e.readChecked(d, b, buf) {
		return false, nil
	}
	crc, piece := fl.digest(buf)
	return true, fl.add(b, crc, piece, buf)
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
