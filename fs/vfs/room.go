package vfs

import (
	"errors"
	"fmt"
	"syscall"

	"tarn/cache/journal"
)

// roomier tells whether to try again after err, because the disk was full and the hot
// cache, which may lie on the same one, has given n bytes of clean files up.
func (v *FS) roomier(err error, n int64) bool {
	if !errors.Is(err, syscall.ENOSPC) || v.cache.ReserveUnsent(n) != nil {
		return false
	}
	v.cache.ReleaseUnsent(n)
	return true
}

// newEntry makes an entry of the journal.
func (v *FS) newEntry(r journal.Record) (*journal.Entry, error) {
	e, err := v.jrnl.Create(r)
	if v.roomier(err, 1<<16) {
		e, err = v.jrnl.Create(r)
	}
	return e, err
}

// grow reserves room for the content to reach size bytes, in steps, so that the
// cache's limit holds for unsent bytes too.
func (u *unsent) grow(size int64) error {
	const step = 4 << 20
	u.mu.Lock()
	need := size - u.reserved
	u.mu.Unlock()
	if need <= 0 {
		return nil
	}
	if err := u.fs.withinQuota(need - u.replaces()); err != nil {
		return err
	}
	if size > step {
		need = (need + step - 1) / step * step
	}
	if err := u.fs.cache.ReserveUnsent(need); err != nil {
		return fmt.Errorf("reserve %d bytes for unsent data: %w", need, local(err))
	}
	u.mu.Lock()
	u.reserved += need
	u.mu.Unlock()
	return nil
}

// replaces is what waits here of older contents that go when this one is sealed.
func (u *unsent) replaces() (n int64) {
	for {
		u.mu.Lock()
		prev := u.prev
		u.mu.Unlock()
		if prev == nil {
			return n
		}
		u = prev
		u.mu.Lock()
		n += u.reserved - u.counted
		u.mu.Unlock()
	}
}
