package ingest

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"

	"tarn/backends"
	"tarn/backends/ingest/watch"
)

// folder is the folder of one ingest. It is held against all others, of this process and of other ones, by a lock of
// the kernel that ends with the process. All paths are relative to it; no symbolic link is followed below it.
type folder struct {
	dir  string
	root *os.Root
	lock *os.File // the folder itself
}

// errGone says that the source is not there; it is not backends.ErrNotExist, which tells of the lake.
var errGone = errors.New("the file is not in the folder any more")

// errChanged says that the source is another version.
var errChanged = errors.New("the file has changed")

// openFolder opens and locks it. ErrBusy when another ingest has it, ErrUnavailable when it is not there.
func openFolder(dir string) (*folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	f := &folder{dir: dir, root: root}
	if f.lock, err = root.Open("."); err == nil {
		err = unix.Flock(int(f.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another ingest has the folder %s: %w", dir, backends.ErrBusy)
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *folder) close() {
	if f.lock != nil {
		f.lock.Close()
	}
	f.root.Close()
}

// identity tells the folder from another one that has its path, as the empty one that a disk is mounted on, also after the
// machine was started anew: device numbers are not the same then, nor the inodes of some file systems.
func (f *folder) identity() (string, error) {
	var st unix.Stat_t
	var fs unix.Statfs_t
	fd := int(f.lock.Fd())
	if _, err := again(func() (int, error) { return 0, errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &fs)) }); err != nil {
		return "", err
	}
	if fs.Type == unix.FUSE_SUPER_MAGIC || fs.Type == unix.V9FS_MAGIC {
		st.Ino = 0
	}
	return fmt.Sprintf("%x/%d", fs.Type, st.Ino), nil
}

// sameFolder wants the folder to be the one that the files on record were found in. Whatever was gone with an unmounted
// disk would be taken for deleted, or lost, otherwise.
func (k *link) sameFolder() error {
	now, err := k.folder.identity()
	if err != nil {
		return err
	}
	was, err := k.ledger.folder()
	if err != nil || was == now {
		return err
	}
	c := k.ledger.count()
	if n := c.Of[Found].Files - c.Of[Deleted].Files; was != "" && n > 0 {
		return fmt.Errorf("%s is another folder than the one that %d files on record were in; is its disk mounted? If they are gone for good, `tarn ingest resume %s` goes on with this one: %w", k.d.Dir, n, k.d.Name, backends.ErrUnavailable)
	}
	return k.ledger.setFolder(now)
}

const (
	dirFlags  = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fileFlags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
)

// again calls what a signal may interrupt.
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// gone translates errors of looking for a name.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return errGone
	}
	return err
}

// parent opens the folder that a path lies in.
func (f *folder) parent(rel string) (dir *os.File, base string, err error) {
	if dir, err = f.root.Open("."); err != nil {
		return nil, "", err
	}
	above, base := path.Split(rel)
	for name := range strings.SplitSeq(strings.Trim(above, "/"), "/") {
		if name == "" {
			break
		}
		fd, err := again(func() (int, error) { return unix.Openat(int(dir.Fd()), name, dirFlags, 0) })
		dir.Close()
		if err != nil {
			return nil, "", gone(err)
		}
		dir = os.NewFile(uintptr(fd), name)
	}
	return dir, base, nil
}

// version is what the file system tells of a file.
func version(rel string, st *unix.Stat_t) watch.File {
	return watch.File{Path: rel, Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size, //nolint:unconvert // 32 bits elsewhere
		MTime: time.Unix(st.Mtim.Unix()), CTime: time.Unix(st.Ctim.Unix()), Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}
}

// statAt tells of a name in a folder; errGone when it is no regular file.
func statAt(dir *os.File, name string) (watch.File, error) {
	var st unix.Stat_t
	_, err := again(func() (int, error) {
		return 0, unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = unix.ENOENT
	}
	if err != nil {
		return watch.File{}, gone(err)
	}
	return version(name, &st), nil
}

// statOf tells of an open file.
func statOf(file *os.File) (watch.File, error) {
	var st unix.Stat_t
	if _, err := again(func() (int, error) { return 0, unix.Fstat(int(file.Fd()), &st) }); err != nil {
		return watch.File{}, err
	}
	return version(file.Name(), &st), nil
}

// stat tells of a path.
func (f *folder) stat(rel string) (watch.File, error) {
	dir, base, err := f.parent(rel)
	if err != nil {
		return watch.File{}, err
	}
	defer dir.Close()
	return statAt(dir, base)
}

// open opens a file for reading.
func (f *folder) open(rel string) (*os.File, error) {
	dir, base, err := f.parent(rel)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return openAt(dir, base)
}

func openAt(dir *os.File, base string) (*os.File, error) {
	fd, err := again(func() (int, error) { return unix.Openat(int(dir.Fd()), base, fileFlags, 0) })
	if err != nil {
		return nil, gone(err)
	}
	return os.NewFile(uintptr(fd), base), nil
}

// file is the version that a record is of.
func (r *Record) file() watch.File {
	return watch.File{Path: r.Path, Dev: r.Dev, Ino: r.Ino, Size: r.Size, MTime: r.MTime, CTime: r.CTime, Mode: r.Mode, UID: r.UID, GID: r.GID}
}

// tick is longer than the clock of any file system's times takes to move on.
const tick = 50 * time.Millisecond

// coarse is longer than that of file systems that keep whole seconds (ext3, ext4 with small inodes), or every other one (FAT).
const coarse = 2100 * time.Millisecond

// ripen waits until what is written to the file from now on shows in its times.
func (k *link) ripen(f watch.File) time.Duration {
	tick := k.tick
	if f.CTime.Nanosecond() == 0 {
		tick = max(tick, coarse)
	}
	if k.tick == 0 { // of a test
		return 0
	}
	switch d := time.Since(f.CTime); {
	case d < 0: // another machine's clock, or ours was put back: it may have changed just now
		return tick
	case d < tick:
		return tick - d
	}
	return 0
}

// move renames within a folder, never onto another file.
func move(dir *os.File, from, to string) error {
	fd := int(dir.Fd())
	_, err := again(func() (int, error) { return 0, unix.Renameat2(fd, from, fd, to, unix.RENAME_NOREPLACE) })
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) { // not all file systems can
		if err = unix.Linkat(fd, from, fd, to, 0); err == nil {
			err = unix.Unlinkat(fd, from, 0)
		}
	}
	return err
}

// hide gives a file a name that nobody else can have thought of: nothing is replaced, even where the file system cannot
// promise that.
func hide(dir *os.File, from, to string) error {
	fd := int(dir.Fd())
	_, err := again(func() (int, error) { return 0, unix.Renameat2(fd, from, fd, to, unix.RENAME_NOREPLACE) })
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		err = unix.Renameat(fd, from, fd, to)
	}
	return gone(err)
}

// lease proves that nobody has the file open for writing or mapped, and keeps it so until the file is closed.
// Where leases do not exist, or are not for us to have, nothing is proved: the times of the file have to do. held tells that somebody has it.
func lease(file *os.File) (held bool) {
	_, err := again(func() (int, error) { return unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_RDLCK) })
	if !errors.Is(err, unix.EAGAIN) {
		return false
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(int(file.Fd()), &fs) == nil && (fs.Type == unix.NFS_SUPER_MAGIC || fs.Type == unix.SMB2_SUPER_MAGIC || fs.Type == unix.FUSE_SUPER_MAGIC) {
		return false // these say so when their server gave no delegation
	}
	return true
}

// folder gives what setFolder noted, "" for nothing.
func (l *ledger) folder() (id string, err error) {
	err = l.db.View(func(txn *badger.Txn) error {
		b, err := get(txn, []byte("d"))
		id = string(b)
		return err
	})
	return id, err
}

// setFolder notes which folder the files are in.
func (l *ledger) setFolder(id string) error {
	l.closing.RLock()
	defer l.closing.RUnlock()
	if l.closed || l.dead.Load() {
		return fmt.Errorf("ledger: %w", backends.ErrClosed)
	}
	if err := l.room(); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if err := l.db.Update(func(txn *badger.Txn) error { return txn.Set([]byte("d"), []byte(id)) }); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// hasFolders tells whether a folder has others in it.
func (f *folder) hasFolders(rel string) bool {
	d, err := f.root.Open(rel)
	if err != nil {
		return false
	}
	defer d.Close()
	for {
		some, err := d.ReadDir(1000)
		for _, e := range some {
			if e.IsDir() {
				return true
			}
		}
		if err != nil {
			return false
		}
	}
}
