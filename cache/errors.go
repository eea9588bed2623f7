package cache

import "errors"

// The errors of this package; test for them with errors.Is. They are its own on purpose:
// an ENOENT of the cache's disk must not look as if the user's data did not exist.
var (
	// ErrNoSpace: the bytes do not fit under Limit or above FreeFloor, even after eviction.
	ErrNoSpace = errors.New("no room in the cache")
	// ErrNotResident: not even the first byte asked for is here.
	ErrNotResident = errors.New("not resident in the cache")
	// ErrNotCached: the cache holds nothing of this key.
	ErrNotCached = errors.New("not in the cache")
	// ErrBusy: the content is open, pinned or being filled.
	ErrBusy = errors.New("in use")
	// ErrLocked: another process has the cache directory.
	ErrLocked = errors.New("locked by another process")
	// ErrCorrupt: bytes do not agree with their checksum.
	ErrCorrupt = errors.New("corrupt content")
	// ErrClosed: the File or the Cache was closed.
	ErrClosed = errors.New("closed")
)

// errUnwanted is why a fetch is cancelled when nobody waits for it.
var errUnwanted = errors.New("nobody wants the content any more")
