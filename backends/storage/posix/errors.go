package posix

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"tarn/backends"
)

// unavailable is for a folder or disk that is away. The cause is text only, so that no
// ENOENT of it can be taken for a missing file.
func unavailable(cause string) error {
	return fmt.Errorf("%s: %w, %w", cause, backends.ErrUnavailable, backends.ErrTemporary)
}

// absent turns "an element before the last is a file" into "not there", which it is for
// whoever looks for something (but not for who wants to create it).
func absent(err error) error {
	if errors.Is(err, syscall.ENOTDIR) {
		return syscall.ENOENT
	}
	return err
}

// errnos are the answers of the system that mean something to a caller. All others (EIO, ESTALE,
// ENODEV, ...) are the disk being unavailable, perhaps for now.
var errnos = map[syscall.Errno]error{
	syscall.ENOENT:       backends.ErrNotExist,
	syscall.EEXIST:       backends.ErrExist,
	syscall.EISDIR:       backends.ErrIsDir,
	syscall.ENOTDIR:      backends.ErrNotDir,
	syscall.ENOTEMPTY:    backends.ErrNotEmpty,
	syscall.EACCES:       backends.ErrPermission,
	syscall.EPERM:        backends.ErrPermission,
	syscall.EROFS:        backends.ErrReadOnly,
	syscall.ENOSPC:       backends.ErrNoSpace,
	syscall.EDQUOT:       backends.ErrQuota,
	syscall.ENAMETOOLONG: backends.ErrNameTooLong,
	syscall.ELOOP:        backends.ErrLoop,
	syscall.ENOTSUP:      backends.ErrNotSupported,
	syscall.EXDEV:        backends.ErrNotSupported,
	syscall.EBUSY:        backends.ErrBusy,
	syscall.ETXTBSY:      backends.ErrBusy,
}

// translate gives err in tarn's words. What already speaks them passes; of the rest only the text is kept.
func translate(op, at string, err error) error {
	var ours *backends.OpError
	var errno syscall.Errno
	var perr *os.PathError
	var lerr *os.LinkError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return err
	case errors.As(err, &errno):
		if errno == syscall.EMFILE || errno == syscall.ENFILE {
			// The disk is well, but we cannot ask it: the caller hears so, and may ask again.
			err = fmt.Errorf("%w, %w, %w", backends.ErrTooManyFiles, backends.ErrUnavailable, backends.ErrTemporary)
		} else if word, ok := errnos[errno]; ok {
			err = fmt.Errorf("%s: %w", errno.Error(), word)
		} else {
			err = unavailable(errno.Error())
		}
	case errors.Is(err, os.ErrClosed):
		err = backends.ErrClosed
	case errors.As(err, &perr):
		// os.Root's refusal to leave the folder has no errno.
		err = fmt.Errorf("%s: %w", perr.Err.Error(), backends.ErrPermission)
	case errors.As(err, &lerr):
		err = fmt.Errorf("%s: %w", lerr.Err.Error(), backends.ErrPermission)
	}
	return &backends.OpError{Op: op, At: at, Err: err}
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}
