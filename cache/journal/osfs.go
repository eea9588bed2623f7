package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// osFS is the FS of the operating system.
type osFS struct{}

type osFile struct{ *os.File }

func (osFS) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag|unix.O_NOFOLLOW, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Stat(name string) (Info, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Lstat(name, &st) })
	if err != nil {
		return Info{}, &os.PathError{Op: "lstat", Path: name, Err: err}
	}
	return infoOf(filepath.Base(name), &st), nil
}

func infoOf(name string, st *unix.Stat_t) Info {
	return Info{Name: name, Size: st.Size, Blocks: st.Blocks, Dir: st.Mode&unix.S_IFMT == unix.S_IFDIR}
}

// ReadDir leaves the sizes out: the caller stats what it wants to know more of.
func (osFS) ReadDir(name string) ([]Info, error) {
	list, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	out := make([]Info, len(list))
	for i, d := range list {
		out[i] = Info{Name: d.Name(), Dir: d.IsDir()}
	}
	return out, nil
}

func (osFS) Mkdir(name string, perm os.FileMode) error { return os.Mkdir(name, perm) }
func (osFS) Rename(from, to string) error              { return os.Rename(from, to) }
func (osFS) Remove(name string) error                  { return os.Remove(name) }

func (osFS) Free(name string) (int64, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(name, &st) }); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: name, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Lock holds the lock as long as the descriptor lives, so a killed process leaves none.
func (osFS) Lock(name, text string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		held, _ := io.ReadAll(io.LimitReader(f, 64))
		f.Close()
		return nil, fmt.Errorf("%s: %w by process %s", filepath.Dir(name), ErrLocked, strings.TrimSpace(string(held)))
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(text+"\n"), 0)
	}
	// A full disk must not keep the journal from opening: the text only informs.
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

func (f osFile) DataSync() error {
	if err := retry(func() error { return unix.Fdatasync(int(f.Fd())) }); err != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

func (f osFile) SyncAll() error {
	if err := retry(func() error { return unix.Syncfs(int(f.Fd())) }); err != nil {
		return &os.PathError{Op: "syncfs", Path: f.Name(), Err: err}
	}
	return nil
}

func (f osFile) Allocate(mode uint32, off, n int64) error {
	if err := retry(func() error { return unix.Fallocate(int(f.Fd()), mode, off, n) }); err != nil {
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	return nil
}

func (f osFile) Stat() (Info, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(int(f.Fd()), &st) }); err != nil {
		return Info{}, &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	return infoOf(filepath.Base(f.Name()), &st), nil
}

func (f osFile) Writeback(off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// retry repeats a call that a signal interrupted, as package os does for its own.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
