package journal

import "errors"

// The sentinels of this package. Errors of the disk (ENOSPC, EIO, EROFS, EMFILE) come
// back wrapped as they are.
var (
	// ErrLocked: another process has the journal open; the message names it.
	ErrLocked = errors.New("journal is locked")
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("journal is closed")
	// ErrRemoved: the entry was removed, or its data handed over.
	ErrRemoved = errors.New("entry was removed")
	// ErrDamaged: the content is not what was sealed, or a record cannot be read.
	ErrDamaged = errors.New("is damaged")
	// ErrWriting: the entry is being written, so its state cannot move on.
	ErrWriting = errors.New("entry is being written")
	// ErrNotVerified: Verify has to compute its checksums before it can go on.
	ErrNotVerified = errors.New("entry was not verified since it was sealed")
	// ErrNotSafe: only the data of a SAFE entry can be taken.
	ErrNotSafe = errors.New("entry is not safe elsewhere")
	// ErrVersion: written by a later tarn.
	ErrVersion = errors.New("journal format is newer than this program")
	// ErrTooBig: a record or an intent beyond its limit.
	ErrTooBig = errors.New("record is too big")
	// ErrName: not a name for an intent.
	ErrName = errors.New("not a valid name")
)
