package backends

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// The sentinels are tarn's own and no io/fs ones: an ENOENT from a cache folder must
// never satisfy "the user's file does not exist". Every backend translates at its
// edge; fs/errno.go turns them into what the kernel hears.
var (
	ErrNotExist     = errors.New("does not exist")
	ErrExist        = errors.New("exists already")
	ErrIsDir        = errors.New("is a collection")
	ErrNotDir       = errors.New("is not a collection")
	ErrNotEmpty     = errors.New("is not empty")
	ErrPermission   = errors.New("permission denied")            // refused for who you are
	ErrExpired      = errors.New("expired")                      // a proxy or token; beside ErrPermission, and over when it is renewed
	ErrImmutable    = errors.New("is immutable")                 // refused for what it is
	ErrCrossDevice  = errors.New("cannot be moved, only copied") // a rename that has to be a copy: EXDEV
	ErrReadOnly     = errors.New("is read-only")                 // mount, lake or RSE
	ErrOffline      = errors.New("is on tape and not staged")    // NEARLINE
	ErrRefused      = errors.New("recall refused by policy")     // NEARLINE, and the policy says no
	ErrStale        = errors.New("was replaced meanwhile")       // under an open handle
	ErrCorrupt      = errors.New("checksum mismatch")            // bytes that failed verification
	ErrLost         = errors.New("no good replica is left")      // every replica failed
	ErrNoSpace      = errors.New("no space left")                // cache full of pins and unsent files, or a disk at its floor
	ErrQuota        = errors.New("over quota")                   //
	ErrName         = errors.New("not a valid name")             //
	ErrNameTooLong  = errors.New("name is too long")             //
	ErrNotSupported = errors.New("is not supported here")        // by this catalogue, storage or tape
	ErrTemporary    = errors.New("temporary failure")            // trying again may help; wrapped beside the cause
	ErrUnavailable  = errors.New("is unavailable")               // a catalogue or storage that is down; never looks like ErrNotExist
	ErrHeldOff      = errors.New("is left alone for a while")    // a server that failed again and again; not asked at all
	ErrTooManyFiles = errors.New("too many open files")          // a descriptor limit of this process or machine
	ErrBusy         = errors.New("is in use")                    // held by another process or still referenced
	ErrLoop         = errors.New("collection contains itself")   // ELOOP
	ErrDamaged      = errors.New("stored state is damaged")      // a database or record that does not parse or verify
	ErrVersion      = errors.New("written by another version")   // a format version this program does not read
	ErrClosed       = errors.New("is closed")                    //
	ErrCancelled    = errors.New("was cancelled by the user")    // a recall or upload
)

// OpError is what a backend adds at its edge: the operation, what it was done to, and where.
type OpError struct {
	Op  string // "stat", "open", "commit"
	DID DID    // zero where the backend does not know it
	At  string // RSE and path, URL, or folder
	Err error
}

// Error gives "op did at place: cause".
func (e *OpError) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if !e.DID.IsZero() {
		b.WriteString(" " + e.DID.String())
	}
	if e.At != "" {
		b.WriteString(" at " + e.At)
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *OpError) Unwrap() error { return e.Err }

// IsTemporary tells whether trying the same call again may help.
func IsTemporary(err error) bool { return errors.Is(err, ErrTemporary) }

// LaterError is a temporary failure of a server that said when to come again.
type LaterError struct {
	After time.Duration
	Err   error
}

// Error is that of the failure.
func (e *LaterError) Error() string {
	return fmt.Sprintf("%v (to be tried again after %v)", e.Err, e.After)
}

// Unwrap gives the failure.
func (e *LaterError) Unwrap() error { return e.Err }

// AnsweredError is a temporary failure of one file or folder that its server told of: the server itself is well.
type AnsweredError struct{ Err error }

// Error is that of the failure.
func (e *AnsweredError) Error() string { return e.Err.Error() }

// Unwrap gives the failure.
func (e *AnsweredError) Unwrap() error { return e.Err }

// IsAnswered tells whether an error has an AnsweredError in it.
func IsAnswered(err error) bool {
	var a *AnsweredError
	return errors.As(err, &a)
}

// RetryAfter tells how long a server wants to be left alone; 0: it did not say.
func RetryAfter(err error) time.Duration {
	var l *LaterError
	if errors.As(err, &l) {
		return l.After
	}
	return 0
}
