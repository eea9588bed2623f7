package cache

import (
	"fmt"
	"math"
	"os"
	"time"

	"tarn/cache/ranges"
)

const maxLimit = math.MaxInt64

// Which content goes first is GreedyDual-Size: priority = age + cost / size, where age is
// the priority of the last victim. So what was used long ago sinks below what is used
// now, and what was dear to fetch sinks slower: a file from tape outlives a file from
// disk of the same size and last use, and is still not kept for ever. No clock is
// involved, so that a clock that jumps evicts nothing.
//
// Contents of which only the kept head and tail are resident come after all others.

// worth is the cost of fetching again per MiB, in seconds; every fetch costs a little.
func (e *entry) worth() float64 {
	const mib = 1 << 20
	const transfer = 0.01 // seconds a MiB
	size := math.Max(float64(e.lay.Size)/mib, 1.0/256)
	return transfer + e.cost.Seconds()/size
}

// ends tells that eviction would free only a kept head or tail. c.mu is held.
func (e *entry) ends() bool { return e.middle == 0 && e.headEnd < e.tailStart }

// evictHeap orders victims; it is guarded by Cache.mu.
type evictHeap []*entry

func (h evictHeap) Len() int { return len(h) }
func (h evictHeap) Less(i, j int) bool {
	a, b := h[i], h[j]
	if a.ends() != b.ends() {
		return b.ends()
	}
	if a.prio != b.prio {
		return a.prio < b.prio
	}
	return a.used.Before(b.used)
}
func (h evictHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i]; h[i].slot, h[j].slot = i, j }
func (h *evictHeap) Push(x any)   { e := x.(*entry); e.slot = len(*h); *h = append(*h, e) }
func (h *evictHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.slot = -1
	return e
}

func (h evictHeap) next() *entry {
	if len(h) == 0 {
		return nil
	}
	return h[0]
}

// expirePinsLocked makes victims of contents whose pin has ended. c.mu is held.
func (c *Cache) expirePinsLocked() {
	now := c.now()
	for e := range c.pins {
		if !e.pinned.After(now) {
			delete(c.pins, e)
			e.pinned = time.Time{}
			if e.refs == 0 {
				c.idleLocked(e)
			}
		}
	}
}

// evictLocked evicts one idle entry: its middle, or all of it where nothing is worth
// keeping. c.mu is held, and given up for the I/O.
func (c *Cache) evictLocked(e *entry) {
	c.unIdleLocked(e)
	if !e.ends() {
		c.age = math.Max(c.age, e.prio)
	}
	e.refs++
	c.evicting++
	keepEnds := e.middle > 0 && e.charge-e.sideLen > e.middle
	c.mu.Unlock()
	if freed, _ := c.shrink(e, keepEnds); freed > 0 {
		c.evictions.Add(1)
	}
	c.put(e)
	c.mu.Lock()
	c.evicting--
	c.changed.Broadcast()
}

// shrink frees the middle of an entry that its caller alone uses, or all of it, and
// tells how many bytes it freed: none with ErrBusy if somebody came meanwhile.
func (c *Cache) shrink(e *entry, keepEnds bool) (int64, error) {
	select {
	case e.owner <- struct{}{}:
	default:
		return 0, ErrBusy // a fill: somebody came
	}
	defer func() { <-e.owner }()
	e.mu.Lock()
	c.mu.Lock()
	// Both locks: whoever opens it after this finds the blocks gone, whoever was before
	// is seen here. So nobody reads what is being punched.
	if e.refs > 1 {
		c.mu.Unlock()
		e.mu.Unlock()
		return 0, ErrBusy
	}
	before := e.charge
	c.mu.Unlock()
	if !keepEnds {
		e.mu.Unlock()
		if !c.wipe(e) {
			return 0, ErrBusy
		}
		return before, nil
	}
	holes := ranges.NewSet(e.lay.Count())
	holes.Fill()
	for b := e.have.NextSet(0); b < e.lay.Count(); b = e.have.NextSet(b + 1) {
		// Unverified ends cannot be shown without the rest: not worth keeping.
		if b >= e.headEnd && b < e.tailStart || !e.known.Has(b) {
			e.have.Remove(b)
			e.checked.Remove(b)
			holes.Remove(b)
		}
	}
	e.whole, e.synced, e.dirty = false, false, true
	empty := e.have.Count() == 0
	e.mu.Unlock()
	// First the side file, so that it never claims holes; on a full disk after it.
	told := empty || e.persist(false) == nil
	err := e.punchOut(&holes)
	e.mu.Lock()
	c.mu.Lock()
	for first, end := range holes.Gaps() {
		for b := first; b < end; b++ {
			e.goneLocked(b)
		}
	}
	freed := before - e.charge
	c.mu.Unlock()
	e.mu.Unlock()
	if (err != nil || empty) && c.wipe(e) {
		return before, nil // nothing worth keeping, or a file system that cannot punch holes
	}
	if err == nil && !told {
		err = e.persist(false)
	}
	if err != nil {
		c.diskFailed("punch", err)
	}
	return freed, nil
}

// punchOut gives the space of all blocks not in stay back.
func (e *entry) punchOut(stay *ranges.Set) error {
	d, err := openData(e.c.path(e.stem, dataSuffix), os.O_RDWR)
	if err != nil {
		return err
	}
	defer d.Close()
	return e.change(d, 0, 0, func() error { return punchGaps(d, e.lay, stay) })
}

// watermark is so many percent of the limit, which may be the greatest number.
func watermark(limit, percent int64) int64 { return limit - limit/100*(100-percent) }

// wakeEvictor starts background eviction if there is more than the high watermark.
func (c *Cache) wakeEvictor() {
	c.mu.Lock()
	high := c.used+c.reserved+c.unsent > watermark(c.limit, highPercent)
	c.mu.Unlock()
	if high {
		select {
		case c.kick <- struct{}{}:
		default:
		}
	}
}

// evictToWatermark runs on the housekeeping goroutine. Readers then find room without
// having to wait for evictions.
func (c *Cache) evictToWatermark() {
	c.mu.Lock()
	limit := c.limit
	high := c.used+c.reserved+c.unsent > watermark(limit, highPercent)
	c.mu.Unlock()
	if high {
		c.evictDownTo(watermark(limit, lowPercent))
	}
	_ = c.keepFloor()
}

func (c *Cache) evictDownTo(target int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expirePinsLocked()
	for c.used+c.reserved+c.unsent > target && c.ctx.Err() == nil {
		e := c.idle.next()
		if e == nil {
			return
		}
		c.evictLocked(e)
	}
}

// Evict frees a content but for its head and tail, and tells how many bytes that gave.
// ErrBusy when it is open, being filled or pinned; ErrNotCached.
func (c *Cache) Evict(k Key) (freed int64, err error) {
	done, err := c.begin()
	if err != nil {
		return 0, fmt.Errorf("evict %q: %w", k, err)
	}
	defer done()
	c.mu.Lock()
	e := c.entries[k]
	if e != nil && e.open == 0 && e.refs > 0 {
		c.mu.Unlock()
		e.awaitEnding()
		c.mu.Lock()
		e = c.entries[k]
	}
	switch {
	case e == nil || e.charge == 0:
		err = ErrNotCached
	case e.refs > 0 || e.pinned.After(c.now()):
		err = ErrBusy
	}
	if err != nil {
		c.mu.Unlock()
		return 0, fmt.Errorf("evict %q: %w", k, err)
	}
	if e.middle == 0 {
		c.mu.Unlock()
		return 0, nil // what is here is head and tail
	}
	c.unIdleLocked(e)
	e.refs++
	c.mu.Unlock()
	freed, err = c.shrink(e, true)
	c.put(e)
	if err != nil {
		return 0, fmt.Errorf("evict %q: %w", k, err)
	}
	if freed > 0 {
		c.evictions.Add(1)
	}
	return freed, nil
}
