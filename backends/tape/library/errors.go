package library

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"tarn/backends"
)

// translated gives an error of the disk below in tarn's words, as text only: no ENOENT of a
// buffer file may be taken for a missing file of the library.
func translated(err error) error {
	var errno syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrClosed):
		return fmt.Errorf("%v: %w", text(err), backends.ErrClosed)
	case !errors.As(err, &errno):
		return err
	}
	word := backends.ErrUnavailable
	switch errno {
	case syscall.ENOSPC, syscall.EDQUOT:
		word = backends.ErrNoSpace
	case syscall.EROFS:
		word = backends.ErrReadOnly
	case syscall.EACCES, syscall.EPERM:
		word = backends.ErrPermission
	default:
		return fmt.Errorf("%v: %w, %w", text(err), word, backends.ErrTemporary)
	}
	return fmt.Errorf("%v: %w", text(err), word)
}

func text(err error) string { return err.Error() }

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
