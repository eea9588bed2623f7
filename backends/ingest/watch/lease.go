package watch

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// local are the file systems whose writers are all on this machine, and known to its kernel.
// On NFS and CIFS a lease is refused with EAGAIN whenever the server has not given one, and
// writers on other machines are not seen; what is not in the list is taken for such.
var local = map[int64]bool{
	unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true, unix.TMPFS_MAGIC: true,
	unix.RAMFS_MAGIC: true, unix.OVERLAYFS_SUPER_MAGIC: true, unix.F2FS_SUPER_MAGIC: true, unix.REISERFS_SUPER_MAGIC: true,
	0x2fc12fc1: true, // ZFS
	0xca451a4e: true, // bcachefs
	0x3153464a: true, // JFS
}

// errNoLease says that no lease tells whether the file is open.
var errNoLease = errors.New("the file system has no leases, or not for this file")

// lease tells whether anybody has the file of a descriptor (O_RDONLY) open for writing, by
// asking for a read lease and giving it back. The kernel sends SIGIO when somebody opens the file in
// between, which the Go runtime catches and drops (os/signal: "other signals will be caught but no
// action will be taken"), and lets the opener wait until the lease is back.
func lease(fd int) (held bool, err error) {
	var fs unix.Statfs_t
	if _, err := retry(func() (int, error) { return 0, unix.Fstatfs(fd, &fs) }); err != nil || !local[int64(fs.Type)] {
		return false, errNoLease
	}
	_, err = retry(func() (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK) })
	switch {
	case errors.Is(err, unix.EAGAIN):
		return true, nil
	case err != nil: // EINVAL, ENOTTY, ENOLCK; EACCES: another's file, and no CAP_LEASE
		return false, errNoLease
	}
	_, _ = retry(func() (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK) })
	return false, nil
}

// probe opens a file and asks, with the descriptor, whether a writer has it. It is changed when it
// is not, or no longer, the version that was looked at.
func probe(dir *os.File, name string, f File, ask func(fd int) (held bool, err error)) (held, changed bool, err error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	})
	switch {
	case errors.Is(err, unix.EAGAIN): // another's lease stands in the way
		return true, false, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP):
		return false, true, nil
	case err != nil:
		return false, false, err
	}
	defer unix.Close(fd)
	same := func() bool {
		var st unix.Stat_t
		return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && f.Same(fileOf(f.Path, &st))
	}
	if !same() {
		return false, true, nil
	}
	if held, err = ask(fd); err != nil || held {
		return held, false, err
	}
	return false, !same(), nil
}
