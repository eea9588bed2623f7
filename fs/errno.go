package fs

import (
	"context"
	"errors"
	"log/slog"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tarn/backends"
	"tarn/backends/query"
	"tarn/fs/vfs"
)

// errnos is what the kernel hears of each of the lake's errors; the first match wins.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{context.Canceled, syscall.EINTR}, // the kernel's interrupt, or the reader's death
	{context.DeadlineExceeded, syscall.ETIMEDOUT},
	{backends.ErrNoSpace, syscall.ENOSPC},
	{backends.ErrQuota, syscall.EDQUOT},
	{backends.ErrTooManyFiles, syscall.EMFILE},
	{vfs.ErrNoAttr, syscall.ENODATA},
	{backends.ErrRefused, syscall.EBUSY},  // nearline, and the policy holds this process back
	{backends.ErrOffline, syscall.EAGAIN}, // an open with O_NONBLOCK; a blocking read waits
	{backends.ErrCorrupt, syscall.EIO},
	{backends.ErrLost, syscall.EIO},
	{backends.ErrUnavailable, syscall.EIO}, // never ENOENT: what is away is not gone
	{backends.ErrStale, syscall.ESTALE},
	{backends.ErrIsDir, syscall.EISDIR},
	{backends.ErrNotDir, syscall.ENOTDIR},
	{backends.ErrNotEmpty, syscall.ENOTEMPTY},
	{backends.ErrExist, syscall.EEXIST},
	{backends.ErrPermission, syscall.EACCES},
	{backends.ErrImmutable, syscall.EPERM},
	{backends.ErrCrossDevice, syscall.EXDEV}, // mv copies then
	{backends.ErrReadOnly, syscall.EROFS},
	{backends.ErrNameTooLong, syscall.ENAMETOOLONG},
	{backends.ErrName, syscall.EINVAL},
	{backends.ErrLoop, syscall.ELOOP},
	{backends.ErrBusy, syscall.EBUSY},
	{backends.ErrClosed, syscall.EBADF},
	{backends.ErrNotSupported, syscall.ENOTSUP},
	{backends.ErrNotExist, syscall.ENOENT},
}

// errno is the one place where an error becomes a number. What it does not know, local
// disk errors included, is EIO, and is logged, since the number says nothing.
func errno(log *slog.Logger, op, path string, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	for _, m := range errnos {
		if errors.Is(err, m.err) {
			if m.errno == syscall.EIO {
				log.Error(op, "path", path, "err", err)
			}
			return fuse.Status(m.errno)
		}
	}
	var te *query.TypeError
	if errors.As(err, &te) { // a value that its declared key cannot have
		return fuse.EINVAL
	}
	log.Error(op, "path", path, "err", err)
	return fuse.EIO
}
