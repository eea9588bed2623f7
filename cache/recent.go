package cache

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// bufPools hold buffers for requests and for checking one block, by the power of two that
// is their capacity.
var bufPools [64]sync.Pool

func getBuf(n int) []byte {
	class := bits.Len(uint(max(n, 1) - 1))
	if p, ok := bufPools[class].Get().(*[]byte); ok {
		return (*p)[:n]
	}
	return make([]byte, n, 1<<class)
}

func putBuf(b []byte) { bufPools[bits.Len(uint(cap(b)-1))].Put(&b) }

// lentBuf is the buffer of one request to a Source. It goes back to its pool when the last
// of its users is done with it.
type lentBuf struct {
	data  []byte
	users atomic.Int32
}

func lendBuf(n int) *lentBuf {
	b := &lentBuf{data: getBuf(n)}
	b.users.Store(1)
	return b
}

func (b *lentBuf) hold() { b.users.Add(1) }

func (b *lentBuf) back() {
	if b.users.Add(-1) == 0 {
		putBuf(b.data)
	}
}

// memBlock is a block in memory; it is never changed.
type memBlock struct {
	b     int
	crc   uint32
	piece uint32 // Quick.Piece of it, when the fill goes by that
	data  []byte
	buf   *lentBuf // that data is part of; nil: it is a piece of memory of its own
}

func (m *memBlock) hold() {
	if m.buf != nil {
		m.buf.hold()
	}
}

func (m *memBlock) back() {
	if m.buf != nil {
		m.buf.back()
	}
}

type memKey struct {
	e *entry
	b int
}

// recentBytes is how much of what a fill brought last stays in memory: so far behind the
// fill may a reader be that is served without reading the cache file.
const recentBytes = 32 << 20

// recent is what a fill brought last. Readers take it from here as long as it is there: it
// was checked when it came, while the same bytes on the disk would have to be read and
// checked again. All fills together stay below Cache.memMax. Guarded by entry.mu.
type recent struct {
	blocks map[int]*memBlock
	runs   []recentRun // oldest first
	bytes  int64
}

type recentRun struct {
	blocks []*memBlock
	buf    *lentBuf
}

// showLocked makes blocks of one buffer readable, and wakes who waits for them.
func (fl *fill) showLocked(blocks []*memBlock, buf *lentBuf) {
	r := &fl.recent
	n := int64(cap(buf.data))
	for len(r.runs) > 0 && r.bytes+n > recentBytes {
		fl.hideLocked()
	}
	for fl.c.recentUsed.Add(n) > fl.c.memMax {
		fl.c.recentUsed.Add(-n)
		if len(r.runs) == 0 {
			return // the others' streams need the memory
		}
		fl.hideLocked()
	}
	buf.hold()
	r.bytes += n
	r.runs = append(r.runs, recentRun{blocks, buf})
	for _, m := range blocks {
		r.blocks[m.b] = m
		fl.e.wakeReadersLocked(m.b, nil)
	}
}

// hideLocked drops the oldest run.
func (fl *fill) hideLocked() {
	r := &fl.recent
	run := r.runs[0]
	r.runs = r.runs[1:]
	for _, m := range run.blocks {
		if r.blocks[m.b] == m {
			delete(r.blocks, m.b)
		}
	}
	n := int64(cap(run.buf.data))
	r.bytes -= n
	fl.c.recentUsed.Add(-n)
	run.buf.back()
}

func (fl *fill) hideAllLocked() {
	for len(fl.recent.runs) > 0 {
		fl.hideLocked()
	}
}

// recentLocked is block b if it came a moment ago, and nothing speaks against it.
func (fl *fill) recentLocked(b int) *memBlock {
	m, e := fl.recent.blocks[b], fl.e
	if m == nil || (e.have.Has(b) || e.known.Has(b)) && e.crc[b] != m.crc {
		return nil
	}
	return m
}

// memLocked is block b if it is in memory, of a content that is not stored.
func (fl *fill) memLocked(b int) *memBlock {
	if fl.store {
		return nil
	}
	m := fl.window[b]
	if m == nil {
		m, _ = fl.c.mem.Get(memKey{fl.e, b})
	}
	return m
}

// addMem keeps a block of a content that is not stored.
func (c *Cache) addMem(k memKey, m *memBlock) {
	c.mem.Remove(k) // or what it replaces would count for ever
	c.memUsed.Add(int64(len(m.data)))
	c.mem.Add(k, m)
	for c.memUsed.Load() > c.memMax && c.mem.Len() > 1 {
		c.mem.RemoveOldest()
	}
}

// forgetMemLocked drops the blocks in memory, or those with another checksum than is known.
func (fl *fill) forgetMemLocked(all bool) {
	if all {
		fl.hideAllLocked()
	}
	if fl.whyNot == nil {
		return
	}
	for b := range fl.e.lay.Count() {
		k := memKey{fl.e, b}
		if m, ok := fl.c.mem.Peek(k); ok && (all || m.crc != fl.e.crc[b]) {
			fl.c.mem.Remove(k)
		}
	}
	clear(fl.window)
}
