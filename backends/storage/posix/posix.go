// Package posix is a storage element on a plain folder: a disk array, an NFS or
// CephFS mount, or the data that an experiment already has.
//
//	st, err := posix.Open(posix.Options{Dir: "/data/rse1", FreeFloor: 10 << 30})
//
// reached from the lake's configuration as
//
//	rses:
//	  - {name: SITE-DISK, kind: disk, url: "file:///data/rse1"}
//
// Uploads are written to the hidden folder .tarn-uploads at the top of Dir,
// checksummed as they come, and renamed to their place by Commit once they are
// durable. What it makes is closed to other users of the machine: who may read a file is
// for the lake to say, not for its storage. Nothing outside Dir can be reached: paths are
// walked with os.Root, which follows symbolic links inside Dir and refuses those that
// lead out of it.
package posix

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends"
	"tarn/backends/checksum"
)

// Options say where the storage is and how it behaves.
type Options struct {
	// Dir is the prefix of all paths. It has to be there; see Storage on what
	// happens while it is not.
	Dir string
	// Marker names a file that must stand in Dir, or the storage is unavailable. It
	// tells a mounted disk from the empty folder that it is mounted on.
	Marker string
	// Checksums are computed of every upload and by Checksum; none means
	// checksum.Default.
	Checksums []string
	// FreeFloor is what Create leaves free on the file system.
	FreeFloor int64
	// ReadOnly refuses Create and Remove, and leaves no trace in Dir.
	ReadOnly bool
	// Log gets what no caller can be told; nil is nowhere.
	Log *slog.Logger
	// Now is the clock that the age of left-over uploads is measured with.
	Now func() time.Time
}

// Storage is a folder as a storage element.
//
// While Dir is not there, lies on another file system than at first, or lacks the
// Marker, everything is ErrUnavailable (with ErrTemporary), never ErrNotExist; it works
// again when Dir is back. Objects that are open stay so as long as the system keeps them.
type Storage struct {
	o     Options
	fsync func(*os.File) error // tests watch what is made durable

	mu      sync.Mutex // guards the rest; never held across I/O on files
	root    *root
	dev     uint64 // of the first root; 0: none yet
	closed  bool
	pending int64               // announced bytes of running uploads that are not yet written
	durable map[string]struct{} // folders whose own entry is known to be on disk; bounded
}

var _ backends.Storage = (*Storage)(nil)

// Open gives the storage on o.Dir. It fails when the options make no sense, not when the
// folder is away: a lake must come up while one of its disks is down.
func Open(o Options) (*Storage, error) {
	if o.Dir == "" {
		return nil, fmt.Errorf("open posix storage: no folder given: %w", backends.ErrName)
	}
	if len(o.Checksums) == 0 {
		o.Checksums = checksum.Default
	}
	for _, a := range o.Checksums {
		switch a {
		case "adler32", "md5", "sha256":
		default:
			return nil, fmt.Errorf("open posix storage %s: checksum %q: %w", o.Dir, a, backends.ErrNotSupported)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Storage{o: o, fsync: (*os.File).Sync, durable: map[string]struct{}{}}
	if _, err := s.current(); err != nil {
		o.Log.Warn("posix storage is not there", "dir", o.Dir, "err", err)
	}
	return s, nil
}

// Stat follows symbolic links that stay inside Dir.
func (s *Storage) Stat(ctx context.Context, path string) (a backends.Attr, err error) {
	err = s.do(ctx, "stat", path, func(r *root) error {
		fi, err := r.Stat(local(path))
		if err != nil {
			return absent(err)
		}
		a = attr(path, fi)
		return nil
	})
	return a, err
}

func attr(path string, fi os.FileInfo) backends.Attr {
	a := backends.Attr{Path: path, IsDir: fi.IsDir(), MTime: fi.ModTime()}
	if !a.IsDir {
		a.Size = fi.Size()
	}
	return a
}

// Open gives an Object that has the method File() *os.File as well, for copies that
// never leave the kernel. What is no plain file is ErrNotSupported.
func (s *Storage) Open(ctx context.Context, path string) (obj backends.Object, err error) {
	err = s.do(ctx, "open", path, func(r *root) error {
		// O_NONBLOCK: a FIFO in the folder must not hang the caller.
		f, err := r.OpenFile(local(path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return absent(err)
		}
		fi, err := f.Stat()
		if err == nil {
			switch {
			case fi.IsDir():
				err = syscall.EISDIR
			case !fi.Mode().IsRegular():
				err = syscall.ENOTSUP
			}
		}
		if err != nil {
			f.Close()
			return err
		}
		obj = &object{f: f, size: fi.Size(), at: s.at(path)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return obj, nil
}

// Checksum reads the file.
func (s *Storage) Checksum(ctx context.Context, path string) (backends.Checksums, error) {
	o, err := s.Open(ctx, path)
	if err != nil {
		return backends.Checksums{}, err
	}
	defer o.Close()
	c, err := checksum.Object(ctx, o, s.o.Checksums...)
	if err != nil {
		return backends.Checksums{}, fmt.Errorf("checksum %s: %w", path, err)
	}
	return c, nil
}

// Remove deletes a file, a symbolic link (never what it points at), or an empty folder.
func (s *Storage) Remove(ctx context.Context, path string) error {
	if s.o.ReadOnly {
		return &backends.OpError{Op: "remove", At: s.at(path), Err: backends.ErrReadOnly}
	}
	return s.do(ctx, "remove", path, func(r *root) error {
		if local(path) == "." {
			return syscall.EBUSY
		}
		err := r.Remove(path)
		s.mu.Lock()
		delete(s.durable, path)
		s.mu.Unlock()
		return absent(err)
	})
}

// Space asks the file system. What FreeFloor keeps and what running uploads have
// announced is not free.
func (s *Storage) Space(ctx context.Context) (total, free int64, err error) {
	err = s.do(ctx, "space", "", func(r *root) error {
		total, free, err = s.space(r)
		return err
	})
	return total, free, err
}

func (s *Storage) space(r *root) (total, free int64, err error) {
	d, err := r.Open(".")
	if err != nil {
		return 0, 0, err
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return 0, 0, err
	}
	s.mu.Lock()
	pending := s.pending
	s.mu.Unlock()
	free = int64(st.Bavail)*st.Bsize - s.o.FreeFloor - pending
	return int64(st.Blocks) * st.Bsize, max(free, 0), nil
}

// Traits of a folder.
func (s *Storage) Traits() backends.StorageTraits {
	return backends.StorageTraits{Checksums: s.o.Checksums, Folders: true, Local: true}
}

// Close makes all further calls ErrClosed; running uploads end by their Commit failing.
func (s *Storage) Close() error {
	s.mu.Lock()
	r := s.root
	s.root, s.closed = nil, true
	s.mu.Unlock()
	if r != nil {
		r.Close()
	}
	return nil
}

// object is an open file.
type object struct {
	f      *os.File
	direct direct
	size   int64
	at     string
}

// File is the open file itself, for reading only.
func (o *object) File() *os.File { return o.f }

func (o *object) Size() int64 { return o.size }

func (o *object) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", o.at, err)
	}
	if off < 0 {
		return 0, &backends.OpError{Op: "read", At: o.at, Err: fmt.Errorf("offset %d: %w", off, backends.ErrNotSupported)}
	}
	if off >= o.size {
		return 0, io.EOF
	}
	// A file that grew behind our back still is the file that was opened.
	want := int(min(int64(len(p)), o.size-off))
	n := o.readDirect(p[:want], off)
	var err error
	if n < want {
		var m int
		m, err = o.f.ReadAt(p[n:want], off+int64(n))
		n += m
	}
	switch {
	case n == want && n < len(p):
		return n, io.EOF
	case n == want:
		return n, nil
	case err == io.EOF:
		return n, &backends.OpError{Op: "read", At: o.at, Err: fmt.Errorf("file was cut below %d bytes: %w", o.size, backends.ErrStale)}
	}
	return n, translate("read", o.at, err)
}

func (o *object) Close() error {
	o.direct.close()
	if err := o.f.Close(); err != nil {
		return translate("close", o.at, err)
	}
	return nil
}
