package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	lockName   = "lock"
	dataSuffix = ".dat"
	sideSuffix = ".idx"
	tempSuffix = ".tmp"
	hexDigits  = "0123456789abcdef"
)

// fileName is the stem of a key's two files: keys may hold any bytes and come from
// catalogues, hashes cannot step out of the folder.
func fileName(k Key) string {
	h := sha256.Sum256([]byte(k))
	return hex.EncodeToString(h[:])
}

// path is where the file of that stem lies: two levels of 16 folders.
func (c *Cache) path(stem, suffix string) string {
	return filepath.Join(c.o.Dir, stem[:1], stem[1:2], stem+suffix)
}

// lockDir makes the directory and takes its lock, so that two daemons never share it.
func lockDir(dir string) (*os.File, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("the parent of %s does not exist: %w", dir, err)
		}
		return nil, err
	}
	if in, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !in.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	name := filepath.Join(dir, lockName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot write in the directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		pid := make([]byte, 32)
		n, _ := f.ReadAt(pid, 0)
		return nil, fmt.Errorf("%s: %w (pid %s)", dir, ErrLocked, strings.TrimSpace(string(pid[:n])))
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil && !errors.Is(err, unix.ENOSPC) { // the pid is only for people; a full disk must not stop us
		f.Close()
		return nil, fmt.Errorf("cannot write in the directory: %w", err)
	}
	return f, nil
}

// makeFolder makes the folder of a stem's files. Done before the first of them is written.
func (c *Cache) makeFolder(stem string) error {
	return os.MkdirAll(filepath.Dir(c.path(stem, "")), 0o700)
}

// folders lists the folders that there are, as the first two digits of the stems in them.
func (c *Cache) folders() (prefixes []string, err error) {
	for _, a := range hexDigits {
		for _, b := range hexDigits {
			in, err := os.Lstat(filepath.Join(c.o.Dir, string(a), string(b)))
			if err == nil && in.IsDir() {
				prefixes = append(prefixes, string(a)+string(b))
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	return prefixes, nil
}

// stamp is what the kernel says of a data file. While it stays the same nobody else has
// written to the file, so bytes checked once need no second check.
type stamp struct {
	Dev, Ino     uint64
	Size         int64
	MTime, CTime int64 // nanoseconds
}

// dataFile is an open data file.
type dataFile struct {
	*os.File
	raw syscall.RawConn
}

func openData(path string, flags int) (*dataFile, error) {
	f, err := os.OpenFile(path, flags|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &dataFile{f, raw}, nil
}

func (d *dataFile) stamp() (s stamp, err error) {
	var st unix.Stat_t
	if e := d.raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); e != nil {
		return s, e
	}
	return stampOf(&st), err
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
}

// punch gives the disk space of [off, off+n) back; reads of it give zeros.
func (d *dataFile) punch(off, n int64) (err error) {
	if e := d.raw.Control(func(fd uintptr) {
		err = unix.Fallocate(int(fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}); e != nil {
		return e
	}
	return err
}

// sync makes the bytes durable.
func (d *dataFile) sync() (err error) {
	if e := d.raw.Control(func(fd uintptr) { err = unix.Fdatasync(int(fd)) }); e != nil {
		return e
	}
	return err
}

// uncache drops the kernel's clean pages, so that the next read comes from the disk.
func (d *dataFile) uncache() {
	_ = d.raw.Control(func(fd uintptr) { _ = unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) })
}

// freeBytes is what an unprivileged writer still gets on the file system of Dir.
func (c *Cache) freeBytes() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(c.o.Dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// descriptorBudget is how many descriptors may be kept for open contents: half of what
// the process may have, so that sockets, the journal and the database get theirs.
func descriptorBudget() int64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || l.Cur > 1<<40 {
		return 1 << 19
	}
	return int64(l.Cur / 2)
}

// removeFiles removes both files, the side file first: data without it is dropped at the
// next start, while a side file without data would only be a complaint.
func (c *Cache) removeFiles(stem string) error {
	var errs []error
	for _, suffix := range []string{sideSuffix, dataSuffix} {
		if err := os.Remove(c.path(stem, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
