package cache

import "fmt"

// chargeLocked changes what an entry is accounted with. c.mu is held.
func (c *Cache) chargeLocked(e *entry, n int64) {
	e.charge += n
	c.used += n
	if e.slot >= 0 {
		c.idleSum += n
	}
}

// reserve promises n bytes to the caller, evicting for them; or ErrNoSpace, and then
// nothing was evicted in vain: a content that cannot fit does not empty the cache.
func (c *Cache) reserve(n int64) error { return c.book(&c.reserved, n) }

// release gives up what is left of a reservation.
func (c *Cache) release(n int64) {
	c.mu.Lock()
	c.reserved -= n
	c.mu.Unlock()
}

// book adds n to one of the accounts under Limit, evicting as needed.
func (c *Cache) book(account *int64, n int64) error {
	if n > 1<<60 {
		return fmt.Errorf("%d bytes: %w", n, ErrNoSpace)
	}
	c.mu.Lock()
	for {
		over := n - (c.limit - c.used - c.reserved - c.unsent)
		if over <= 0 {
			break
		}
		if !c.evictOneLocked(over) {
			err := fmt.Errorf("%d bytes, %d over the limit of %d: %w", n, over, c.limit, ErrNoSpace)
			c.mu.Unlock()
			return err
		}
	}
	*account += n
	c.mu.Unlock()
	if err := c.keepFloor(); err != nil {
		c.mu.Lock()
		*account -= n
		c.mu.Unlock()
		return err
	}
	c.wakeEvictor()
	return nil
}

// keepFloor sees to it that the file system has room for all reservations above
// FreeFloor. A limit greater than the disk is found out here, before a fetch.
func (c *Cache) keepFloor() error {
	for {
		free, err := c.freeBytes()
		if err != nil {
			c.diskFailed("statfs", err)
			return nil // the limit still holds
		}
		c.mu.Lock()
		short := c.o.FreeFloor + c.reserved - free
		if short <= 0 {
			c.mu.Unlock()
			return nil
		}
		ok := c.evictOneLocked(short)
		c.mu.Unlock()
		if !ok {
			return fmt.Errorf("%d bytes short above the free floor of %d: %w", short, c.o.FreeFloor, ErrNoSpace)
		}
	}
}

// evictOneLocked makes room: it evicts one victim, or waits for an eviction that others
// do. False means that n bytes cannot be freed by any eviction. c.mu is held, and given
// up meanwhile.
func (c *Cache) evictOneLocked(n int64) bool {
	c.expirePinsLocked()
	if n > c.idleSum && c.evicting == 0 {
		return false
	}
	e := c.idle.next()
	if e == nil || n > c.idleSum {
		c.changed.Wait()
		return true
	}
	c.evictLocked(e)
	return true
}

// makeRoom evicts idle contents of at least n bytes, because the disk itself is full. It
// tells whether anything went.
func (c *Cache) makeRoom(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.used
	for c.used > before-n {
		e := c.idle.next()
		if e == nil {
			break
		}
		c.evictLocked(e)
	}
	return c.used < before
}

// SetLimit changes Options.Limit at once and evicts down to it; 0 means none. When open
// and pinned contents do not let it, the error is ErrNoSpace: nothing new comes in, and
// they go as soon as they may.
func (c *Cache) SetLimit(n int64) error {
	if n < 0 {
		return fmt.Errorf("set limit: negative")
	}
	if n == 0 {
		n = maxLimit
	}
	done, err := c.begin()
	if err != nil {
		return fmt.Errorf("set limit: %w", err)
	}
	defer done()
	c.mu.Lock()
	c.limit = n
	c.mu.Unlock()
	c.evictDownTo(n)
	c.mu.Lock()
	over := c.used + c.reserved + c.unsent - n
	c.mu.Unlock()
	c.wakeEvictor()
	if over > 0 {
		return fmt.Errorf("set limit: %d bytes over it are in use: %w", over, ErrNoSpace)
	}
	return nil
}

// ReserveUnsent accounts n bytes of files not sent yet under Limit, evicting clean
// contents for them; ErrNoSpace when open and pinned contents leave no room.
func (c *Cache) ReserveUnsent(n int64) error {
	if n < 0 {
		return fmt.Errorf("reserve unsent: negative")
	}
	done, err := c.begin()
	if err != nil {
		return fmt.Errorf("reserve unsent: %w", err)
	}
	defer done()
	if err := c.book(&c.unsent, n); err != nil {
		return fmt.Errorf("reserve unsent: %w", err)
	}
	return nil
}

// ReleaseUnsent gives n bytes of ReserveUnsent back.
func (c *Cache) ReleaseUnsent(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unsent = max(0, c.unsent-n)
}
