package index

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// usableName is the file that says whether the database holds all that was written to it: "closed", or since which start of
// the machine it is open. Without a power cut nothing is lost, since what was written is the kernel's.
const usableName = "usable"

const wasClosed = "closed"

// bootID names this run of the kernel.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// isUsable tells whether the database may be opened; os.ErrNotExist where none was begun, or it broke.
func isUsable(dir string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, usableName))
	if err != nil {
		return false, err
	}
	if string(b) == wasClosed {
		return true, nil
	}
	boot, err := bootID()
	return err == nil && string(b) == boot, err
}

// setUsable notes that the database is closed, or else open from now on. It is on stable storage when it returns.
func setUsable(dir string, closed bool) error {
	word := wasClosed
	if !closed {
		var err error
		if word, err = bootID(); err != nil {
			return err
		}
	}
	tmp := filepath.Join(dir, usableName+".new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(word)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, usableName)); err != nil {
		return err
	}
	return syncDir(dir)
}

// notUsable lets the next process begin anew.
func notUsable(dir string) error {
	err := os.Remove(filepath.Join(dir, usableName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockPause is how long is waited between looks at a lock that another process has.
const lockPause = 20 * time.Millisecond

// takeLock waits until no other process has the folder: one that ends closes it in its time. The lock is beside the folder, which may
// be removed.
func (x *Index) takeLock() error {
	if x.lock != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(x.o.Dir), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(x.o.Dir+".lock", os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			x.lock = f
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return errors.Join(err, f.Close())
		}
		select {
		case <-time.After(lockPause):
		case <-x.ctx.Done():
			return errors.Join(x.ctx.Err(), f.Close())
		}
	}
}

// blocksOf is what a file takes on disk, in bytes.
func blocksOf(in os.FileInfo) int64 {
	if st, ok := in.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return in.Size()
}
