package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"tarn/backends"
	"tarn/backends/query"
	"tarn/cmd/tarn/config"
)

// The exit codes of tarn, listed in its help and in docs/cli.md. The first eleven are
// rclone's.
const (
	CodeOK        = 0  // done
	CodeOther     = 1  // any error that has no number of its own
	CodeUsage     = 2  // wrong flags or arguments
	CodeNoDir     = 3  // directory not found
	CodeNoFile    = 4  // file not found
	CodeTemporary = 5  // trying again may help
	CodePartial   = 6  // some of many failed
	CodeFatal     = 7  // nothing works until something is repaired: lake file, damaged or locked lake, no FUSE
	CodeNoSpace   = 8  // no space or over quota
	CodeNothing   = 9  // nothing to do
	CodeTimeout   = 10 // time limit reached
	CodeStaging   = 11 // accepted, still staging
	CodeRefused   = 12 // permission or policy
	CodeCorrupt   = 13 // data corrupt or lost
)

// Error is an error in the form that crosses the socket and reaches the user: what
// went wrong, where and why in Message, what to do in Hint.
type Error struct {
	Code    int    `json:"code"` // exit code
	Kind    string `json:"kind"` // one word for programs, as not_found
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`

	cause error // on the side where it arose
}

// Error gives the message.
func (e *Error) Error() string { return e.Message }

// Unwrap gives the cause on the server's side, and the sentinel of the kind on the client's.
func (e *Error) Unwrap() error {
	if e.cause != nil {
		return e.cause
	}
	for _, k := range kinds {
		if k.kind == e.Kind {
			return k.is
		}
	}
	return nil
}

// The causes that are not of package backends.
var (
	ErrNoDirectory = errors.New("directory not found")
	ErrUsage       = errors.New("wrong usage")          // the message says it
	ErrPartial     = errors.New("not all were done")    // some of many failed
	ErrNothing     = errors.New("nothing to do")        //
	ErrStaging     = errors.New("still staging")        // accepted, not yet online
	ErrFatal       = errors.New("cannot work")          // something must be repaired first
	ErrNoDaemon    = errors.New("no daemon is running") // and the command needs one
	ErrCutShort    = errors.New("the answer was cut short")
	ErrForbidden   = errors.New("not allowed")
	ErrNotProved   = errors.New("not proved any more") // that a source was deleted rightly
)

// kinds is the one table from causes to words and exit codes; the first match wins.
var kinds = []struct {
	is   error
	kind string
	code int
	hint string
}{
	{ErrUsage, "usage", CodeUsage, ""},
	{ErrPartial, "partial", CodePartial, ""},
	{ErrNothing, "nothing", CodeNothing, ""},
	{ErrStaging, "staging", CodeStaging, "`tarn recalls ls` shows how far it is; the same command with --wait waits"},
	{config.ErrNoLake, "no_lake", CodeFatal, "name a lake with --lake or TARN_LAKE, or make one with `tarn init DIR`"},
	{config.ErrSeveral, "several_lakes", CodeUsage, "name one of its lakes, by its own file or by a path in its directory of the mount"},
	{ErrNoDaemon, "no_daemon", CodeFatal, "mount the lake first: `tarn mount LAKE MOUNTPOINT`"},
	{ErrCutShort, "cut_short", CodeTemporary, "the daemon ended while it answered; `tarn status` tells whether it runs again"},
	{ErrFatal, "fatal", CodeFatal, ""},

	{ErrNotProved, "not_proved", CodeCorrupt, ""},
	{backends.ErrCorrupt, "corrupt", CodeCorrupt, "`tarn verify PATH` tells which replicas are good"},
	{backends.ErrLost, "lost", CodeCorrupt, "`tarn replicas PATH` tells what was tried; a copy from elsewhere can be brought back with `tarn put`"},
	{backends.ErrDamaged, "damaged", CodeFatal, "what was stored is kept as it is; unmounted, `tarn fsck` tells what is left, and `tarn fsck --repair --backup FILE` brings a backup back"},
	{backends.ErrVersion, "version", CodeFatal, "use the version of tarn that wrote it, or a newer one"},
	{ErrNoDirectory, "no_directory", CodeNoDir, ""},
	{backends.ErrNotExist, "not_found", CodeNoFile, ""},
	{backends.ErrNoSpace, "no_space", CodeNoSpace, "free space on that disk, evict or unpin (`tarn cache ls`), or raise cache.limit"},
	{backends.ErrQuota, "quota", CodeNoSpace, ""},
	{backends.ErrRefused, "refused", CodeRefused, "stage it on purpose with `tarn stage PATH`, or let the process through with `tarn recalls allow PID`"},
	{backends.ErrOffline, "nearline", CodeRefused, "it is on tape: `tarn stage --wait PATH` brings it online"},
	{backends.ErrPermission, "permission", CodeRefused, ""},
	{ErrForbidden, "forbidden", CodeRefused, ""},
	{backends.ErrReadOnly, "read_only", CodeRefused, ""},
	{backends.ErrImmutable, "immutable", CodeRefused, ""},
	{backends.ErrCancelled, "cancelled", CodeOther, ""},
	{backends.ErrBusy, "busy", CodeFatal, ""},
	{backends.ErrNotDir, "not_directory", CodeNoDir, ""},
	{backends.ErrIsDir, "is_directory", CodeUsage, ""},
	{backends.ErrNotEmpty, "not_empty", CodeOther, ""},
	{backends.ErrExist, "exists", CodeOther, ""},
	{backends.ErrStale, "stale", CodeTemporary, "it was replaced meanwhile: the same command again works on the new content"},
	{backends.ErrNameTooLong, "name_too_long", CodeUsage, ""},
	{backends.ErrName, "bad_name", CodeUsage, ""},
	{backends.ErrLoop, "loop", CodeOther, ""},
	{backends.ErrNotSupported, "not_supported", CodeOther, ""},
	{context.DeadlineExceeded, "timeout", CodeTimeout, ""},
	{backends.ErrUnavailable, "unavailable", CodeTemporary, "`tarn rse ls` shows which storages answer"},
	{backends.ErrTemporary, "temporary", CodeTemporary, "try again in a while"},
	{backends.ErrClosed, "closed", CodeTemporary, "the daemon is ending; try again when it is back"},
	{context.Canceled, "interrupted", CodeOther, ""},
	{fs.ErrNotExist, "not_found", CodeNoFile, ""}, // of the local disk, by tarn itself
	{fs.ErrPermission, "permission", CodeRefused, ""},
	{syscall.ENOSPC, "no_space", CodeNoSpace, "free space on that disk"},
	{syscall.EDQUOT, "quota", CodeNoSpace, ""},
	{syscall.EROFS, "read_only", CodeRefused, ""},
}

// Describe is the one function from an error to what the user sees and the exit code.
// Of nil it is nil; of an *Error anywhere in err it keeps code, kind and hint.
func Describe(err error) *Error {
	if err == nil {
		return nil
	}
	out := &Error{Code: CodeOther, Kind: "other", Message: err.Error(), cause: err}
	if e := (*Error)(nil); errors.As(err, &e) {
		if e == err {
			return e
		}
		out.Code, out.Kind, out.Hint = e.Code, e.Kind, e.Hint
		return out
	}
	if e := (*config.Error)(nil); errors.As(err, &e) {
		out.Code, out.Kind, out.Hint = CodeFatal, "config", "correct the lines above; `tarn config keys` lists every key"
		return out
	}
	if e := (*query.SyntaxError)(nil); errors.As(err, &e) {
		out.Code, out.Kind, out.Hint = CodeUsage, "query", "a query looks like: obs_id=5029747 and level=DL3 and mtime>2026-01-01"
		return out
	}
	if e := (*query.TypeError)(nil); errors.As(err, &e) {
		out.Code, out.Kind, out.Hint = CodeUsage, "type", "`tarn catalogue field ls` shows what is declared of each metadata field"
		return out
	}
	for _, k := range kinds {
		if errors.Is(err, k.is) {
			out.Code, out.Kind, out.Hint = k.code, k.kind, k.hint
			return out
		}
	}
	return out
}

// Fail makes an *Error of a cause with a message and a hint of its own; cause decides
// kind and code.
func Fail(cause error, hint, format string, args ...any) *Error {
	e := Describe(cause)
	out := *e
	out.Message, out.cause = fmt.Sprintf(format, args...), cause
	if hint != "" {
		out.Hint = hint
	}
	return &out
}
