package cache

import (
	"context"
	"fmt"

	"tarn/cache/ranges"
)

// trail is what a File was given of a content that is not verified yet. Guarded by
// entry.mu.
type trail struct {
	blocks ranges.Set
	crc    []uint32 // of the bytes given
	before int      // how many of them lie before the tail

	glances map[int][]glance // by block: what looks gave
	looks   int              // their number
	looked  int64            // their bytes
}

// lookPart is the part of a content, as 1/lookPart, that a File may be given before the
// tail and still only look into it, as a program does that reads a header and then the
// index at the end. With more it is reading the content.
const lookPart = 16

// view is what a File may be given of a range at one moment.
type view struct {
	there   bool      // its first byte can be given now
	err     error     // or never
	first   int       // block of the first byte
	end     int       // blocks [first, end) can be read in one go without a check
	mem     *memBlock // or block first is in memory; to be given back
	proof   bool      // not there: it is withheld until the whole is verified
	wantEnd int       // not there: the range ends in the block before
	marked  bool      // block first was entered in the trail now
	crc     uint32    // of block first, as the trail has it
}

// view looks at [off, off+n), which is not empty and lies in the content. What it lets
// through unverified is entered in the trail, in the same moment, so that two reads at a
// time cannot get what one of them would be refused.
func (f *File) view(off int64, n int) view { return f.viewAs(off, n, false) }

// viewAs is view; lend: only what is in memory is wanted, and nothing else is entered.
func (f *File) viewAs(off int64, n int, lend bool) (v view) {
	e := f.e
	e.mu.Lock()
	defer e.mu.Unlock()
	v.first, v.wantEnd = e.lay.Span(off, int64(n))
	if v.err = f.judgeLocked(); v.err != nil {
		return v
	}
	crc := e.crc[v.first]
	v.there = e.have.Has(v.first)
	if fl := e.fill; fl != nil {
		if v.mem = fl.recentLocked(v.first); v.mem == nil && !v.there {
			v.mem = fl.memLocked(v.first)
		}
		if v.mem != nil {
			v.there, crc = true, v.mem.crc
		}
	}
	if !e.known.Full() && !f.allowedLocked(v.first) {
		v.there, v.mem, v.proof = false, nil, true
		return v
	}
	if !v.there || lend && v.mem == nil {
		return v
	}
	v.crc = crc
	v.marked = f.markLocked(v.first, crc)
	if v.err = f.poison; v.err != nil {
		v.mem = nil
		return v
	}
	v.end = v.first
	if v.mem != nil {
		v.mem.hold()
	} else {
		// More than one block at once only where nothing can be withheld.
		for v.end < v.wantEnd && e.checked.Has(v.end) && (v.end == v.first || e.known.Full()) && e.have.Has(v.end) {
			v.end++
		}
	}
	return v
}

// judgeLocked compares, once the whole is verified, what this File was given before.
func (f *File) judgeLocked() error {
	e := f.e
	if f.poison == nil && f.seen != nil && e.known.Full() {
		for b := f.seen.blocks.NextSet(0); b < e.lay.Count(); b = f.seen.blocks.NextSet(b + 1) {
			if f.seen.crc[b] != e.crc[b] {
				f.poisonLocked(b)
				break
			}
		}
		if b := f.wrongGlanceLocked(); b >= 0 {
			f.poisonLocked(b)
		}
		f.seen = nil
	}
	return f.poison
}

func (f *File) poisonLocked(b int) {
	f.poison = fmt.Errorf("bytes of block %d given before were not the content's: %w", b, ErrCorrupt)
}

// allowedLocked is the rule of withholding, for a content that is not verified: a File
// that goes through it does not get the last block, and no File gets the block that would
// complete it. A File that reads the tail and little else gets it. Verified blocks (seeded, or kept
// of an earlier verified residence) are free.
func (f *File) allowedLocked(b int) bool {
	e := f.e
	given, through := 0, false
	if f.seen != nil {
		looked := int(f.seen.looked / int64(e.lay.Block))
		given, through = f.seen.blocks.Count()+looked, (f.seen.before+looked)*lookPart > e.lay.Count()
	}
	last := b == e.lay.Count()-1
	switch {
	case last && through:
		return false
	case e.known.Has(b):
		return true
	case e.c.o.Strict:
		return false
	case f.seen != nil && f.seen.blocks.Has(b):
		return true
	}
	return given+1 < e.lay.Count()-e.known.Count()
}

// markLocked enters block b in the trail if it is not verified; true if it was not there.
func (f *File) markLocked(b int, crc uint32) bool {
	e := f.e
	if e.known.Full() || e.known.Has(b) {
		return false
	}
	if f.trailLocked(); !f.seen.blocks.Add(b) {
		if f.seen.crc[b] != crc {
			f.poisonLocked(b) // one of the two was wrong
		}
		return false
	}
	f.seen.crc[b] = crc
	if b < e.tailZone {
		f.seen.before++
	}
	return true
}

// trailLocked gives the trail, which begins now if there is none.
func (f *File) trailLocked() *trail {
	if f.seen == nil {
		n := f.e.lay.Count()
		f.seen = &trail{blocks: ranges.NewSet(n), crc: make([]uint32, n)}
	}
	return f.seen
}

// unmark takes block b out of the trail: it was not given after all.
func (f *File) unmark(b int) {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	if f.seen != nil {
		if f.seen.blocks.Remove(b) && b < f.e.tailZone {
			f.seen.before--
		}
	}
}

// readView reads the beginning of the range into p, and gives v back. 0 bytes without an error: it is not
// there any more, look again.
func (f *File) readView(v view, p []byte, off int64) (int, error) {
	e := f.e
	if v.mem != nil {
		defer v.mem.back()
		return copy(p, v.mem.data[off-e.lay.Off(v.first):]), nil
	}
	d, done, err := e.reader()
	if err != nil {
		e.lostFile(err)
		if v.marked {
			f.unmark(v.first)
		}
		if e.stillHas(v.first) {
			return 0, fmt.Errorf("open cached file: %w", err)
		}
		return 0, nil
	}
	defer done()
	if v.end > v.first && e.unchanged(d, v.first, v.end) {
		n := int(min(int64(len(p)), e.lay.Off(v.end)-off))
		if m, err := d.ReadAt(p[:n], off); m == n && e.stands(v) {
			return n, nil
		} else if err != nil && v.marked {
			e.c.diskFailed("read", err)
		}
	}
	buf := getBuf(e.lay.Len(v.first))
	defer putBuf(buf)
	if !e.readChecked(d, v.first, buf) || !e.stands(view{first: v.first, end: v.first, crc: v.crc}) {
		if v.marked {
			f.unmark(v.first)
		}
		return 0, nil
	}
	return copy(p, buf[off-e.lay.Off(v.first):]), nil
}

// unchanged tells whether the blocks [first, end) may be read without a check.
func (e *entry) unchanged(d *dataFile, first, end int) bool {
	e.look(d)
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.checked.NextClear(first) >= end && e.have.NextClear(first) >= end
}

// stands tells whether what was read is what v was given for: no block was dropped, and
// perhaps fetched anew from elsewhere, in between.
func (e *entry) stands(v view) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.have.Has(v.first) && e.crc[v.first] == v.crc && e.checked.NextClear(v.first) >= v.end && e.have.NextClear(v.first) >= v.end
}

func (e *entry) stillHas(b int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.have.Has(b)
}

// readRun reads the beginning of the range into p, waiting for it if it must; of a stray read
// for no more than these bytes.
func (f *File) readRun(ctx context.Context, p []byte, off int64, stray bool) (n int, waited bool, err error) {
	for range maxTries {
		if f.isClosed() {
			return 0, waited, ErrClosed
		}
		v := f.view(off, len(p))
		if v.err != nil {
			return 0, waited, v.err
		}
		if v.there {
			if n, err = f.readView(v, p, off); n > 0 || err != nil {
				return n, waited, err
			}
			continue // it was damaged and is dropped: now it is missing
		}
		waited = true
		if stray && !v.proof {
			if n, ok, err := f.look(ctx, p, off); ok || err != nil {
				return n, true, err
			}
		}
		w := want{goal: goalBlocks, first: v.first, end: v.wantEnd}
		if v.proof {
			w.goal = goalProof
		}
		m, err := f.await(ctx, w)
		if err != nil {
			return 0, waited, err
		}
		if m != nil {
			// Handed over in memory, so that it cannot be lost again on the way here.
			if v, ok := f.accept(m); ok {
				n, err := f.readView(v, p, off)
				return n, waited, err
			} else if v.err != nil {
				return 0, waited, v.err
			}
		}
	}
	return 0, waited, fmt.Errorf("block %d is damaged again and again on the cache's disk: %w", f.e.lay.Of(off), ErrCorrupt)
}

// maxTries is how often one read looks again before it gives up.
const maxTries = 64

// accept is view for a block handed over in memory.
func (f *File) accept(m *memBlock) (v view, ok bool) {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	v = view{first: m.b, end: m.b, mem: m}
	if v.err = f.judgeLocked(); v.err != nil {
		return v, false
	}
	if f.e.known.Full() {
		return v, m.crc == f.e.crc[m.b]
	}
	if !f.allowedLocked(m.b) {
		return v, false
	}
	v.marked = f.markLocked(m.b, m.crc)
	v.err = f.poison
	return v, v.err == nil
}
