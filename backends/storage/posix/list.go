package posix

import (
	"context"
	"errors"
	"iter"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends"
)

// List reads the names of the folder at once, to sort them, and asks for their
// attributes as they are consumed. Symbolic links are shown as what they lead to;
// those that lead nowhere or out of Dir are left out, as are devices, FIFOs and sockets.
func (s *Storage) List(ctx context.Context, dir string) iter.Seq2[backends.Attr, error] {
	return func(yield func(backends.Attr, error) bool) {
		var d *os.File
		var names []string
		var r *root
		err := s.do(ctx, "list", dir, func(cur *root) (err error) {
			r = cur
			if d, err = r.OpenFile(local(dir), os.O_RDONLY|syscall.O_DIRECTORY, 0); err != nil {
				return s.notDir(r, dir, err)
			}
			names, err = d.Readdirnames(-1)
			return err
		})
		if d != nil {
			defer d.Close()
		}
		if err != nil {
			yield(backends.Attr{}, err)
			return
		}
		slices.Sort(names)
		prefix := ""
		if local(dir) != "." {
			prefix = dir + "/"
		}
		for i, name := range names {
			if prefix == "" && name == uploads {
				continue
			}
			if i%256 == 0 && ctx.Err() != nil {
				yield(backends.Attr{}, translate("list", s.at(dir), ctx.Err()))
				return
			}
			a, ok, err := entry(r, d, prefix+name, name)
			if err != nil {
				yield(backends.Attr{}, translate("list", s.at(prefix+name), err))
				return
			}
			if ok && !yield(a, nil) {
				return
			}
		}
	}
}

// notDir tells a file (ErrNotDir) from a path that passes through one (not there).
func (s *Storage) notDir(r *root, dir string, err error) error {
	if !errors.Is(err, syscall.ENOTDIR) {
		return err
	}
	if _, serr := r.Stat(dir); serr != nil {
		return absent(serr)
	}
	return err
}

// entry gives the Attr of one name, and false when it is not to be shown.
func entry(r *root, d *os.File, p, name string) (backends.Attr, bool, error) {
	var st unix.Stat_t
	err := ignoringEINTR(func() error { return unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err == syscall.ENOENT {
		return backends.Attr{}, false, nil // removed since the names were read
	}
	if err != nil {
		return backends.Attr{}, false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return backends.Attr{Path: p, IsDir: true, MTime: time.Unix(st.Mtim.Unix())}, true, nil
	case unix.S_IFREG:
		return backends.Attr{Path: p, Size: st.Size, MTime: time.Unix(st.Mtim.Unix())}, true, nil
	case unix.S_IFLNK:
		fi, err := r.Stat(path.Clean(p))
		if err != nil || !(fi.IsDir() || fi.Mode().IsRegular()) {
			return backends.Attr{}, false, nil
		}
		return attr(p, fi), true, nil
	}
	return backends.Attr{}, false, nil
}
