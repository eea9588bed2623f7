package watch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const folderFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openFolder opens a folder below the root, "" for the root itself, one name at a time: a
// symbolic link anywhere in the path is an error (ENOTDIR or ELOOP), so that nothing leads out.
func (w *Watcher) openFolder(rel string) (*os.File, error) {
	dir, err := w.o.Root.Open(".")
	if err != nil || rel == "" {
		return dir, err
	}
	for name := range strings.SplitSeq(rel, "/") {
		sub, err := openFolderAt(dir, name)
		dir.Close()
		if err != nil {
			return nil, err
		}
		dir = sub
	}
	return dir, nil
}

// openFolderAt opens the folder of that name in another.
func openFolderAt(dir *os.File, name string) (*os.File, error) {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return nil, &os.PathError{Op: "open", Path: name, Err: unix.EINVAL}
	}
	fd, err := retry(func() (int, error) { return unix.Openat(int(dir.Fd()), name, folderFlags, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name)), nil
}

// statAt looks at a name in a folder, and follows no link.
func statAt(dir *os.File, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	_, err := retry(func() (int, error) {
		return 0, unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	return st, err
}

// retry calls again what a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// fileOf is the version that a stat tells of.
func fileOf(path string, st *unix.Stat_t) File {
	return File{
		Path: path, Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size,
		MTime: time.Unix(st.Mtim.Unix()), CTime: time.Unix(st.Ctim.Unix()),
		Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
	}
}

// names reads a folder and gives the first names after one, in their order, at most limit of
// them, and whether there are more. A folder of a million is read again and again instead of being
// held in memory. Types are not asked for: some file systems do not keep them with the names.
func names(dir *os.File, after string, limit int) (first []string, more bool, err error) {
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return nil, false, err
	}
	cut := func() {
		slices.Sort(first)
		if len(first) > limit {
			clear(first[limit:])
			first, more = first[:limit], true
		}
	}
	for {
		some, err := dir.Readdirnames(1024)
		for _, name := range some {
			if name <= after || more && name >= first[limit-1] {
				continue
			}
			if first = append(first, name); len(first) == 2*limit {
				cut()
			}
		}
		if errors.Is(err, io.EOF) {
			cut()
			return first, more, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("read folder: %w", err)
		}
	}
}
