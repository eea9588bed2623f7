package vfs

import (
	"errors"

	"tarn/cache/journal"
)

// unsealed tells whether there are bytes that no finished Seal covers.
func (u *unsent) unsealed() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.dirty || u.sealing != nil
}

// seal makes the content durable and complete as it is now: SEALED. Of several closes at
// one time one does it, and none returns before it is done.
// With fast it does not wait for the disk, except when an older content goes with it.
func (u *unsent) seal(fast bool) error {
	for {
		u.mu.Lock()
		if wait := u.sealing; wait != nil {
			u.mu.Unlock()
			<-wait
			continue
		}
		break
	}
	if !u.dirty {
		u.mu.Unlock()
		return nil
	}
	u.dirty = false // a write that comes while we seal sets it again
	u.promised = true
	fast = fast && u.prev == nil
	done := make(chan struct{})
	u.sealing = done
	u.mu.Unlock()
	err := u.note(false, nil)
	var r journal.Record
	if err == nil {
		if fast {
			r, err = u.entry.SealLazy()
		} else {
			r, err = u.entry.Seal()
		}
	}
	u.mu.Lock()
	u.sealing = nil
	defer close(done)
	if err != nil {
		u.dirty = true
		u.mu.Unlock()
		return local(err)
	}
	u.lazy = fast
	u.state, u.sums, u.sealed, u.known = r.State, sumsOf(r), r.Size, !r.SumsLate
	prev := u.prev
	u.prev, u.why = nil, ""
	over := int64(0)
	if !u.dirty && u.pending == 0 { // whoever writes from now on reserves again
		over = max(0, u.reserved-r.Size)
		u.reserved -= over
	}
	u.changedLocked()
	u.mu.Unlock()
	u.fs.cache.ReleaseUnsent(over)
	if prev != nil {
		u.fs.drop(prev)
	}
	return nil
}

// settle makes a seal durable that did not wait for the disk.
func (u *unsent) settle() error {
	u.mu.Lock()
	lazy := u.lazy
	u.mu.Unlock()
	if !lazy {
		return nil
	}
	err := u.entry.Sync()
	if err != nil && !errors.Is(err, journal.ErrRemoved) { // removed: it is safe elsewhere, or unlinked
		return local(err)
	}
	u.mu.Lock()
	u.lazy = false
	u.mu.Unlock()
	return nil
}
