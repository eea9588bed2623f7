package fs

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"tarn/backends"
	"tarn/fs/vfs"
)

// TestErrno names every sentinel of the lake, so that a new one is given a number on
// purpose.
func TestErrno(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	want := map[string]struct {
		err   error
		errno syscall.Errno
	}{
		"ErrNotExist":     {backends.ErrNotExist, syscall.ENOENT},
		"ErrExist":        {backends.ErrExist, syscall.EEXIST},
		"ErrIsDir":        {backends.ErrIsDir, syscall.EISDIR},
		"ErrNotDir":       {backends.ErrNotDir, syscall.ENOTDIR},
		"ErrNotEmpty":     {backends.ErrNotEmpty, syscall.ENOTEMPTY},
		"ErrPermission":   {backends.ErrPermission, syscall.EACCES},
		"ErrExpired":      {fmt.Errorf("%w, %w", backends.ErrPermission, backends.ErrExpired), syscall.EACCES},
		"ErrImmutable":    {backends.ErrImmutable, syscall.EPERM},
		"ErrCrossDevice":  {backends.ErrCrossDevice, syscall.EXDEV},
		"ErrReadOnly":     {backends.ErrReadOnly, syscall.EROFS},
		"ErrOffline":      {backends.ErrOffline, syscall.EAGAIN},
		"ErrRefused":      {backends.ErrRefused, syscall.EBUSY},
		"ErrStale":        {backends.ErrStale, syscall.ESTALE},
		"ErrCorrupt":      {backends.ErrCorrupt, syscall.EIO},
		"ErrLost":         {backends.ErrLost, syscall.EIO},
		"ErrNoSpace":      {backends.ErrNoSpace, syscall.ENOSPC},
		"ErrQuota":        {backends.ErrQuota, syscall.EDQUOT},
		"ErrName":         {backends.ErrName, syscall.EINVAL},
		"ErrNameTooLong":  {backends.ErrNameTooLong, syscall.ENAMETOOLONG},
		"ErrNotSupported": {backends.ErrNotSupported, syscall.ENOTSUP},
		"ErrTemporary":    {backends.ErrTemporary, syscall.EIO},
		"ErrUnavailable":  {backends.ErrUnavailable, syscall.EIO},
		"ErrHeldOff":      {backends.ErrHeldOff, syscall.EIO}, // always beside ErrUnavailable
		"ErrTooManyFiles": {backends.ErrTooManyFiles, syscall.EMFILE},
		"ErrBusy":         {backends.ErrBusy, syscall.EBUSY},
		"ErrLoop":         {backends.ErrLoop, syscall.ELOOP},
		"ErrDamaged":      {backends.ErrDamaged, syscall.EIO},
		"ErrVersion":      {backends.ErrVersion, syscall.EIO},
		"ErrClosed":       {backends.ErrClosed, syscall.EBADF},
		"ErrCancelled":    {backends.ErrCancelled, syscall.EIO},
	}
	for name, w := range want {
		if got := errno(log, "op", "/p", fmt.Errorf("wrapped: %w", w.err)); syscall.Errno(got) != w.errno {
			t.Errorf("%s: %v, want %v", name, syscall.Errno(got), w.errno)
		}
	}
	f, err := parser.ParseFile(token.NewFileSet(), "../backends/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			for _, id := range v.Names {
				if _, ok := want[id.Name]; !ok && strings.HasPrefix(id.Name, "Err") {
					t.Errorf("backends.%s has no row here", id.Name)
				}
			}
		}
		return true
	})
	for err, no := range map[error]syscall.Errno{
		nil:                      0,
		context.Canceled:         syscall.EINTR,
		context.DeadlineExceeded: syscall.ETIMEDOUT,
		vfs.ErrNoAttr:            syscall.ENODATA,
		syscall.ENOENT:           syscall.EIO, // of the local disk: never the user's ENOENT
		syscall.EPERM:            syscall.EIO,
	} {
		if got := errno(log, "op", "/p", err); syscall.Errno(got) != no {
			t.Errorf("%v: %v, want %v", err, syscall.Errno(got), no)
		}
	}
	// A cause beside the sentinel does not win over it.
	err = fmt.Errorf("%w (%w)", backends.ErrUnavailable, backends.ErrNotExist)
	if got := errno(log, "op", "/p", err); syscall.Errno(got) != syscall.EIO {
		t.Errorf("unavailable because of not-exist: %v, want EIO", syscall.Errno(got))
	}
}
