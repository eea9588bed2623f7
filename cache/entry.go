package cache

import (
	"container/heap"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"tarn/cache/ranges"
)

// entry is one content in the cache. It exists while something of it is resident or
// somebody uses it.
type entry struct {
	c         *Cache
	key       Key
	stem      string // of its file names
	lay       ranges.Layout
	headEnd   int // blocks [0, headEnd) and
	tailStart int // [tailStart, count) are kept when the middle is evicted
	tailZone  int // blocks from here on hold the last Block bytes: reading them alone is reading the tail

	owner  chan struct{} // token: who has it may change the data file
	pen    chan struct{} // token: who has it may write or remove the side file
	verify chan struct{} // token: one whole verification at a time

	// mu guards what follows. Never held across I/O; taken before Cache.mu.
	mu       sync.Mutex
	sums     map[string]string // replaced, never changed
	have     ranges.Set        // blocks resident on disk
	known    ranges.Set        // blocks whose crc is proved right, resident or not
	checked  ranges.Set        // resident blocks that need no check while st stays
	crc      []uint32          // of blocks in have or known
	whole    bool              // all resident, and the whole agreed with sums
	synced   bool              // and made durable with this stamp
	st       stamp             // of the data file, when it was last seen or changed by us
	stGen    int               // counts changes of st
	changing bool              // a change of ours is under way: st means nothing
	fd       *dataFile         // for reading; while files is not empty
	old      []*dataFile       // replaced read descriptors that may still be in use
	files    map[*File]struct{}
	waiters  map[*waiter]struct{}
	fill     *fill
	dirty    bool // the side file says something else
	litter   bool // the data file may hold space that have does not claim

	// Guarded by Cache.mu:
	refs    int       // Files, a fill, and operations; 0 means evictable
	open    int       // Files
	charge  int64     // bytes accounted to Used
	middle  int64     // of them, those that eviction frees while it keeps the ends
	sideLen int64     // charge of the side file, when there is one
	doomed  bool      // dropped while in use: goes when the last user has
	touched bool      // used since the side file was written
	used    time.Time // last opened
	pinned  time.Time // not evicted before
	cost    time.Duration
	prio    float64 // GreedyDual
	slot    int     // in Cache.idle, -1 outside
}

func (c *Cache) newEntry(k Key, lay ranges.Layout, sums map[string]string) *entry {
	n := lay.Count()
	e := &entry{
		c: c, key: k, stem: fileName(k), lay: lay, sums: sums,
		owner: make(chan struct{}, 1), pen: make(chan struct{}, 1), verify: make(chan struct{}, 1),
		have: ranges.NewSet(n), known: ranges.NewSet(n), checked: ranges.NewSet(n), crc: make([]uint32, n),
		whole: n == 0, files: map[*File]struct{}{}, waiters: map[*waiter]struct{}{}, slot: -1,
	}
	e.headEnd, e.tailStart = lay.Ends(c.o.Head, c.o.Tail)
	e.tailZone = lay.Of(max(0, lay.Size-int64(lay.Block)))
	return e
}

// get gives the entry of a content with one more user; a new one when there is none.
func (c *Cache) get(ct Content) (*entry, error) {
	if ct.Size < 0 {
		return nil, fmt.Errorf("content %q: negative size %d", ct.Key, ct.Size)
	}
	if len(ct.Sums) > 0 && c.o.NewHash == nil {
		return nil, fmt.Errorf("content %q: checksums given, but no NewHash", ct.Key)
	}
	if len(ct.Key) == 0 || len(ct.Key) > 1<<16 || len(ct.Sums) > 16 {
		return nil, fmt.Errorf("content %q: impossible key or checksums", ct.Key)
	}
	if ct.Size/int64(c.o.blockOf(ct.Size)) >= maxBlocks { // a catalogue may claim any size; do not allocate for it
		return nil, fmt.Errorf("content %q: %d bytes are too many", ct.Key, ct.Size)
	}
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, ErrClosed
		}
		e := c.entries[ct.Key]
		if e == nil {
			e = c.newEntry(ct.Key, ranges.Layout{Size: ct.Size, Block: c.o.blockOf(ct.Size)}, maps.Clone(ct.Sums))
			c.entries[ct.Key] = e
		}
		c.unIdleLocked(e)
		e.refs++
		if ct.Cost > 0 {
			e.cost = ct.Cost
		}
		c.touchLocked(e)
		c.mu.Unlock()
		err := e.agree(ct)
		if err == nil {
			return e, nil
		}
		if gone := c.forget(e); !gone {
			return nil, err
		}
		// What was cached under this key was of another content: nobody used it, and it is gone.
		c.log.Warn("cached content contradicts the new one; dropped", "key", ct.Key, "err", err)
	}
}

// agree merges the checksums of ct in, or says how ct contradicts what is here.
func (e *entry) agree(ct Content) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lay.Size != ct.Size {
		return fmt.Errorf("content %q: size %d, but it is known with %d: %w", ct.Key, ct.Size, e.lay.Size, ErrCorrupt)
	}
	var merged map[string]string
	for a, s := range ct.Sums {
		switch have, ok := e.sums[a]; {
		case ok && !strings.EqualFold(have, s):
			return fmt.Errorf("content %q: %s %s, but it is known with %s: %w", ct.Key, a, s, have, ErrCorrupt)
		case !ok && e.whole && len(e.sums) == 0 && e.lay.Size > 0:
			// It was never compared with anything; now it can be.
			return fmt.Errorf("content %q: has a checksum now: %w", ct.Key, ErrCorrupt)
		case !ok:
			if merged == nil {
				merged = map[string]string{}
				maps.Copy(merged, e.sums)
			}
			merged[a] = s
		}
	}
	if merged != nil {
		e.sums = merged
	}
	return nil
}

// forget gives up one user; when it was the only one, everything of the entry goes.
func (c *Cache) forget(e *entry) (gone bool) {
	e.awaitEnding()
	c.mu.Lock()
	alone := e.refs == 1
	if alone {
		e.doomed = true
	}
	c.mu.Unlock()
	c.put(e)
	return alone
}

// put gives up one user. The last one's goes on to what nobody could do before.
func (c *Cache) put(e *entry) {
	c.mu.Lock()
	e.refs--
	if e.refs > 0 || c.closed { // after Close the directory may be another's
		c.mu.Unlock()
		return
	}
	if e.charge == 0 && e.sideLen == 0 && !e.doomed {
		delete(c.entries, e.key)
		delete(c.pins, e)
		c.mu.Unlock()
		return
	}
	if e.doomed || e.charge == e.sideLen {
		e.refs++ // ours, until the files are gone
		c.mu.Unlock()
		c.discard(e)
		return
	}
	c.idleLocked(e)
	c.mu.Unlock()
	c.wakeEvictor()
}

// discard wipes an entry nobody used a moment ago, and gives up its caller's use. If
// somebody owns the data file by now, he is a user, and the last user discards.
func (c *Cache) discard(e *entry) {
	select {
	case e.owner <- struct{}{}:
		c.wipe(e)
		<-e.owner
	default:
	}
	c.put(e)
}

// wipe removes the files of an entry and what is accounted for them, unless somebody but
// the caller uses it and it was not dropped. The caller owns the data file.
func (c *Cache) wipe(e *entry) bool {
	e.pen <- struct{}{}
	defer func() { <-e.pen }()
	e.mu.Lock()
	c.mu.Lock()
	if e.refs > 1 && !e.doomed {
		c.mu.Unlock()
		e.mu.Unlock()
		return false
	}
	e.doomed = false
	c.mu.Unlock()
	e.clearLocked()
	e.mu.Unlock()
	if err := c.removeFiles(e.stem); err != nil {
		c.diskFailed("remove", err)
	}
	c.mu.Lock()
	c.chargeLocked(e, -e.charge)
	e.middle, e.sideLen = 0, 0
	c.mu.Unlock()
	return true
}

// clearLocked forgets all blocks and what is known of them. e.mu is held.
func (e *entry) clearLocked() {
	e.have.Clear()
	e.known.Clear()
	e.checked.Clear()
	e.whole, e.synced, e.dirty, e.litter = e.lay.Count() == 0, false, false, false
	e.st = stamp{}
	e.stGen++
	if e.fd != nil { // readers that came meanwhile must not read the removed file
		e.old = append(e.old, e.fd)
		e.fd = nil
	}
}

// cameLocked accounts block b as resident, goneLocked as gone. Both locks are held.
func (e *entry) cameLocked(b int) int64 {
	n := pages(int64(e.lay.Len(b)))
	e.c.chargeLocked(e, n)
	if b >= e.headEnd && b < e.tailStart {
		e.middle += n
	}
	if e.sideLen == 0 {
		e.sideLen = pages(sideSize(e.key, e.lay, e.sums))
		e.c.chargeLocked(e, e.sideLen)
		n += e.sideLen
	}
	return n
}

func (e *entry) goneLocked(b int) int64 {
	n := pages(int64(e.lay.Len(b)))
	e.c.chargeLocked(e, -n)
	if b >= e.headEnd && b < e.tailStart {
		e.middle -= n
	}
	return n
}

// pages is the disk space of n bytes.
func pages(n int64) int64 { return (n + pageSize - 1) / pageSize * pageSize }

// dropBlockLocked forgets that block b is resident; its bytes on disk turn into litter.
// A running fill keeps the space, to fetch the block again. e.mu is held.
func (e *entry) dropBlockLocked(b int) {
	if !e.have.Remove(b) {
		return
	}
	e.checked.Remove(b)
	e.whole, e.synced, e.dirty, e.litter = e.lay.Count() == 0, false, true, true
	e.c.mu.Lock()
	n := e.goneLocked(b)
	if fl := e.fill; fl != nil && fl.store {
		fl.reserved += n
		e.c.reserved += n
	}
	e.c.mu.Unlock()
	if e.fill != nil {
		e.fill.cond.Broadcast()
	}
}

// dropBad is dropBlockLocked for a block found not to match crc; if it was fetched anew
// meanwhile it stays.
func (e *entry) dropBad(b int, crc uint32) {
	e.mu.Lock()
	bad := e.have.Has(b) && e.crc[b] == crc
	if bad {
		e.dropBlockLocked(b)
	}
	e.mu.Unlock()
	if bad {
		e.c.corrupt.Add(1)
		e.c.log.Warn("cached block is damaged; dropped", "key", e.key, "block", b)
	}
}

// persist writes the side file. durable: it survives a power cut.
func (e *entry) persist(durable bool) error {
	e.pen <- struct{}{}
	defer func() { <-e.pen }()
	lost := e.syncData()
	e.mu.Lock()
	e.c.mu.Lock()
	if e.doomed || e.have.Count() == 0 {
		e.c.mu.Unlock()
		e.mu.Unlock()
		return lost
	}
	s := side{
		key: e.key, lay: e.lay, sums: e.sums, whole: e.whole, synced: e.whole && e.synced && !e.changing,
		cost: e.cost, pinned: e.pinned, used: e.used, prio: e.prio, head: e.c.o.Head, tail: e.c.o.Tail,
		st: e.st, have: e.have.Clone(), known: e.known.Clone(), crc: append([]uint32(nil), e.crc...),
	}
	e.touched, e.dirty = false, false
	e.c.mu.Unlock()
	e.mu.Unlock()
	err := writeSide(e.c.path(e.stem, sideSuffix), s.encode(), durable)
	if err != nil {
		e.mu.Lock()
		e.dirty = true
		e.mu.Unlock()
		return fmt.Errorf("write side file: %w", err)
	}
	return nil
}

// syncData makes a whole, checked file durable, so that the side file may claim it. Small
// ones are not worth a sync: after a restart their blocks are checked at first use.
func (e *entry) syncData() error {
	e.mu.Lock()
	want := e.whole && !e.synced && e.lay.Size >= syncMin && e.checked.Full() && !e.changing
	gen := e.stGen
	e.mu.Unlock()
	if !want {
		return nil
	}
	d, err := openData(e.c.path(e.stem, dataSuffix), os.O_RDONLY)
	if err != nil {
		return nil
	}
	defer d.Close()
	st, err := d.stamp()
	if err != nil {
		return nil
	}
	if err := d.sync(); err != nil { // what the kernel could not write it may give no more
		e.lostFile(err)
		return err
	}
	e.mu.Lock()
	if e.whole && e.stGen == gen && e.st == st {
		e.synced = true
	}
	e.mu.Unlock()
	return nil
}

// tidy writes the side file and gives back disk space that no resident block claims; in this
// order, so that after a crash the side file does not claim holes. The caller owns the data file.
func (e *entry) tidy() {
	e.mu.Lock()
	litter, dirty := e.litter, e.dirty
	e.litter = false
	claimed := e.have.Clone()
	e.mu.Unlock()
	told := !litter && !dirty || e.persist(false) == nil
	if litter && claimed.Count() > 0 && !claimed.Full() {
		if d, err := openData(e.c.path(e.stem, dataSuffix), os.O_RDWR); err == nil {
			err = e.change(d, 0, 0, func() error { return punchGaps(d, e.lay, &claimed) })
			d.Close()
			if err != nil {
				e.c.diskFailed("punch", err)
			}
		}
	}
	if !told { // the disk was full, perhaps
		if err := e.persist(false); err != nil {
			e.c.diskFailed("write", err)
		}
	}
}

func punchGaps(d *dataFile, lay ranges.Layout, claimed *ranges.Set) error {
	for first, end := range claimed.Gaps() {
		off, stop := lay.Off(first), lay.Off(end)
		if stop > lay.Size { // to the end of the last page, or it would stay
			stop = pages(lay.Size)
		}
		if err := d.punch(off, stop-off); err != nil {
			return err
		}
	}
	return nil
}

// diskFailed logs trouble of the cache's own disk, once until it works again: readers
// are served past the cache and hear nothing of it.
func (c *Cache) diskFailed(op string, err error) {
	if errors.Is(err, fs.ErrNotExist) || !c.sick.CompareAndSwap(false, true) {
		return
	}
	c.log.Error("cache disk fails; contents are read past the cache while it does", "op", op, "err", err)
}

// diskWorks is called when something was stored.
func (c *Cache) diskWorks() {
	if c.sick.Load() && c.sick.CompareAndSwap(true, false) {
		c.log.Info("cache disk works again")
	}
}

// touchLocked notes a use. c.mu is held.
func (c *Cache) touchLocked(e *entry) {
	e.used, e.touched = c.now(), true
	e.prio = c.age + e.worth()
}

// idleLocked puts an entry without users among the victims, unless it is pinned.
func (c *Cache) idleLocked(e *entry) {
	if e.slot >= 0 || e.pinned.After(c.now()) {
		return
	}
	heap.Push(&c.idle, e)
	c.idleSum += e.charge
}

func (c *Cache) unIdleLocked(e *entry) {
	if e.slot < 0 {
		return
	}
	heap.Remove(&c.idle, e.slot)
	c.idleSum -= e.charge
}
