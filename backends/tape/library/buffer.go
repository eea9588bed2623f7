package library

import (
	"container/list"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"tarn/backends"
)

// copied is a file's copy in the disk buffer. It may be evicted when the file is on
// tape and nothing holds it; then, and only then, it is in the lru list.
type copied struct {
	f     *file
	id    uint64 // two copies of one file in a row have different names
	holds int    // stage requests that have not released it
	refs  int    // open Objects, and the migrator
	dead  bool
	el    *list.Element
}

// trashed is a buffer file that unlock removes.
type trashed struct {
	name string
	size int64 // given back once it is gone; 0 when something still has it open
}

// shard is the folder of a file's copies: neighbours share one, so that commits which
// come together share its fsync.
func (l *Library) shard(file uint64) string {
	return filepath.Join(l.o.Dir, "buffer", fmt.Sprintf("%06x", file>>10))
}

func (l *Library) bufferPath(file, id uint64) string {
	return filepath.Join(l.shard(file), fmt.Sprintf("%x-%x", file, id))
}

func (l *Library) newID() uint64 {
	l.nextID++
	return l.nextID - 1
}

// unlock ends a critical section and does what must not be done in it.
func (l *Library) unlock() {
	trash := l.trash
	l.trash = nil
	var dropping, freed int64
	for _, t := range trash {
		dropping += t.size
	}
	l.dropping += dropping
	l.mu.Unlock()
	if len(trash) == 0 {
		return
	}
	for _, t := range trash {
		if err := os.Remove(t.name); err != nil && !os.IsNotExist(err) {
			l.o.Log.Error("tape library: remove buffer file", "file", t.name, "err", err)
			continue // still taken
		}
		freed += t.size
	}
	l.mu.Lock()
	l.used -= freed
	l.dropping -= dropping
	l.changed()
	l.mu.Unlock()
}

// settle puts c into the lru list or takes it out, whichever is right now.
func (l *Library) settle(c *copied) {
	may := !c.dead && c.holds == 0 && c.refs == 0 && c.f.cart >= 0
	switch {
	case may && c.el == nil:
		c.el = l.lru.PushBack(c)
		l.evictable += c.f.size
	case !may && c.el != nil:
		l.lru.Remove(c.el)
		c.el = nil
		l.evictable -= c.f.size
	}
}

// drop removes the copy from the buffer. Its bytes are free once it is unlinked and no longer open.
func (l *Library) drop(c *copied) {
	if c.dead {
		return
	}
	c.dead = true
	l.settle(c)
	c.f.buf = nil
	t := trashed{name: l.bufferPath(c.f.id, c.id), size: c.f.size}
	if c.refs > 0 {
		t.size = 0 // unref gives it back
	}
	l.trash = append(l.trash, t)
}

// unref is the end of one use of c.
func (l *Library) unref(c *copied) {
	c.refs--
	if c.dead && c.refs == 0 {
		l.used -= c.f.size
	}
	l.settle(c)
	l.changed()
}

// spare is what reserve could get now.
func (l *Library) spare() int64 { return l.o.BufferSize - l.used + l.evictable }

// reserve takes n bytes of the buffer, evicting what was used longest ago; false when
// it cannot now. With the bytes it counts uploading, for uploads.
func (l *Library) reserve(n, uploading int64) bool {
	for {
		l.mu.Lock()
		if l.used+n <= l.o.BufferSize {
			l.used += n
			l.uploading += uploading
			l.unlock()
			return true
		}
		if l.spare() < n {
			l.unlock()
			return false
		}
		for freed := int64(0); l.used-freed+n > l.o.BufferSize && l.lru.Len() > 0; {
			c := l.lru.Front().Value.(*copied)
			freed += c.f.size
			l.drop(c)
			l.stats.Evicted++
		}
		l.unlock() // removes them; somebody else may be faster to take the space
	}
}

func (l *Library) unreserve(n int64) {
	if n == 0 {
		return
	}
	l.mu.Lock()
	l.used -= n
	l.changed()
	l.unlock()
}

// waitReserve is reserve for uploads: it waits as long as migration, or the end of other
// uploads, can make room. own is what the caller has reserved before; an upload that waits
// itself is no hope for another one.
func (l *Library) waitReserve(ctx context.Context, n, own int64) error {
	if own+n > l.o.BufferSize {
		return fmt.Errorf("%d bytes, the disk buffer has %d: %w", own+n, l.o.BufferSize, backends.ErrNoSpace)
	}
	if l.reserve(n, n) {
		return nil
	}
	l.mu.Lock()
	l.uploading -= own
	l.unlock()
	err := l.await(ctx, func() (bool, error) {
		if l.reserve(n, own+n) {
			return true, nil
		}
		l.mu.Lock()
		hope, closed := l.unmigrated+l.uploading+l.dropping > 0, l.closed
		again := l.spare() >= n // the last migration may have ended between the two looks
		l.unlock()
		switch {
		case closed:
			return false, backends.ErrClosed
		case !hope && !again:
			return false, fmt.Errorf("disk buffer is full of staged files: %w", backends.ErrNoSpace)
		}
		return again && l.reserve(n, own+n), nil
	})
	if err != nil {
		l.mu.Lock()
		l.uploading += own
		l.unlock()
	}
	return err
}

// await calls try, with mu free, after each change until it says true or gives an error. While
// it waits, migrations go first.
func (l *Library) await(ctx context.Context, try func() (bool, error)) error {
	first := true
	for {
		l.mu.Lock()
		ch := l.changedCh
		l.mu.Unlock()
		ok, err := try()
		if ok || err != nil {
			return err
		}
		if first {
			first = false
			l.mu.Lock()
			l.waiting++
			l.changed()
			l.unlock()
			defer func() {
				l.mu.Lock()
				l.waiting--
				l.unlock()
			}()
			continue
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for migration to tape: %w, %w", ctx.Err(), backends.ErrNoSpace)
		case <-l.ctx.Done():
			return backends.ErrClosed
		case <-ch:
		}
	}
}
