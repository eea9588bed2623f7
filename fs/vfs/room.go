package vfs

import (
	"errors"
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
