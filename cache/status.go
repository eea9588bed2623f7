package cache

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Status is what the cache has of one content.
type Status struct {
	Key      Key
	Size     int64
	Resident int64 // bytes of Size
	Whole    bool  // all resident and verified
	Open     int   // Files
	Pinned   time.Time
	Used     time.Time // last opened
	Cost     time.Duration
}

func (e *entry) status() Status {
	now := e.c.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	s := Status{Key: e.key, Size: e.lay.Size, Whole: e.whole, Open: e.open, Used: e.used, Cost: e.cost}
	if e.pinned.After(now) {
		s.Pinned = e.pinned
	}
	s.Resident = int64(e.have.Count()) * int64(e.lay.Block)
	if last := e.lay.Count() - 1; e.have.Has(last) {
		s.Resident += int64(e.lay.Len(last) - e.lay.Block)
	}
	return s
}

// Status tells of one content; false if nothing of it is here and no File of it open.
func (c *Cache) Status(k Key) (Status, bool) {
	c.mu.Lock()
	e := c.entries[k]
	ok := e != nil && (e.charge > 0 || e.open > 0)
	c.mu.Unlock()
	if !ok {
		return Status{}, false
	}
	return e.status(), true
}

// List tells of all contents of which something is here, sorted by key.
func (c *Cache) List() []Status {
	c.mu.Lock()
	all := make([]*entry, 0, len(c.entries))
	for _, e := range c.entries {
		if e.charge > 0 {
			all = append(all, e)
		}
	}
	c.mu.Unlock()
	list := make([]Status, len(all))
	for i, e := range all {
		list[i] = e.status()
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return list
}

// Pin keeps what is here of a content, and what comes, from eviction until then; it
// survives restarts and power cuts. ErrNotCached when nothing of it is here.
func (c *Cache) Pin(k Key, until time.Time) error {
	if err := c.setPin(k, until); err != nil {
		return fmt.Errorf("pin %q: %w", k, err)
	}
	return nil
}

// Unpin ends a pin; a content that is not pinned is no error. ErrNotCached.
func (c *Cache) Unpin(k Key) error {
	if err := c.setPin(k, time.Time{}); err != nil {
		return fmt.Errorf("unpin %q: %w", k, err)
	}
	return nil
}

func (c *Cache) setPin(k Key, until time.Time) error {
	done, err := c.begin()
	if err != nil {
		return err
	}
	defer done()
	c.mu.Lock()
	e := c.entries[k]
	if e == nil || e.charge == 0 || e.doomed {
		c.mu.Unlock()
		return ErrNotCached
	}
	c.unIdleLocked(e)
	e.refs++
	e.pinned = until
	delete(c.pins, e)
	if until.After(c.now()) {
		c.pins[e] = struct{}{}
	}
	c.mu.Unlock()
	defer c.put(e)
	return e.persist(true)
}

// Drop forgets a content entirely, pinned or not. While it is in use, what is here stays
// for its users and goes with the last of them. ErrNotCached.
func (c *Cache) Drop(k Key) error {
	done, err := c.begin()
	if err != nil {
		return fmt.Errorf("drop %q: %w", k, err)
	}
	defer done()
	c.mu.Lock()
	e := c.entries[k]
	if e == nil {
		c.mu.Unlock()
		return fmt.Errorf("drop %q: %w", k, ErrNotCached)
	}
	c.unIdleLocked(e)
	e.refs++
	e.doomed = true
	e.pinned = time.Time{}
	delete(c.pins, e)
	c.mu.Unlock()
	// Without its side file nothing of it comes back after a crash either.
	e.pen <- struct{}{}
	err = os.Remove(c.path(e.stem, sideSuffix))
	<-e.pen
	if err != nil && !os.IsNotExist(err) {
		c.diskFailed("remove", err)
	}
	c.put(e)
	return nil
}
