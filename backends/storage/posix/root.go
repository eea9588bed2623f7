package posix

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"tarn/backends"
)

// uploads is the folder of unfinished uploads, at the top of Dir.
const uploads = ".tarn-uploads"

// root is Dir as it was opened, and what it is known again by.
type root struct {
	*os.Root
	dev, ino uint64
}

// current gives the opened Dir after making sure that the name Dir still leads to it: an
// unmounted disk leaves an empty folder behind, and a descriptor that was opened
// before a disk was mounted leads below it.
func (s *Storage) current() (*root, error) {
	s.mu.Lock()
	r, dev, closed := s.root, s.dev, s.closed
	s.mu.Unlock()
	if closed {
		return nil, backends.ErrClosed
	}
	var st syscall.Stat_t
	if err := ignoringEINTR(func() error { return syscall.Stat(s.o.Dir, &st) }); err != nil {
		return nil, unavailable(fmt.Sprintf("folder %s: %v", s.o.Dir, err))
	}
	if r != nil && r.dev == uint64(st.Dev) && r.ino == st.Ino {
		return r, nil
	}
	opened, err := os.OpenRoot(s.o.Dir)
	if err != nil {
		return nil, unavailable(err.Error())
	}
	n := &root{Root: opened, dev: uint64(st.Dev), ino: st.Ino}
	if s.o.Marker != "" {
		if _, err := opened.Stat(s.o.Marker); err != nil {
			opened.Close()
			return nil, unavailable(fmt.Sprintf("folder %s: marker %s: %v", s.o.Dir, s.o.Marker, err))
		}
	} else if dev != 0 && dev != n.dev {
		opened.Close()
		return nil, unavailable(fmt.Sprintf("folder %s is on another file system than at first", s.o.Dir))
	}
	s.mu.Lock()
	// The old root is left to the garbage collector, which closes it: other calls may be using it.
	s.root, s.dev = n, n.dev
	clear(s.durable)
	s.mu.Unlock()
	if !s.o.ReadOnly {
		if _, err := s.clean(n); err != nil {
			s.o.Log.Warn("cleaning up unfinished uploads", "dir", s.o.Dir, "err", err)
		}
	}
	return n, nil
}

// do is what all operations have in common: path and context are checked, the
// folder is found, and what comes back speaks tarn's errors.
func (s *Storage) do(ctx context.Context, op, path string, f func(r *root) error) error {
	if err := checkPath(path); err != nil {
		return &backends.OpError{Op: op, At: s.at(path), Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", op, s.at(path), err)
	}
	r, err := s.current()
	if err != nil {
		return &backends.OpError{Op: op, At: s.at(path), Err: err}
	}
	err = f(r)
	if err == nil {
		return nil
	}
	// "Not there" is an answer only while the folder itself is.
	if now, cerr := s.current(); cerr != nil {
		return &backends.OpError{Op: op, At: s.at(path), Err: cerr}
	} else if now != r {
		return &backends.OpError{Op: op, At: s.at(path), Err: unavailable(fmt.Sprintf("folder %s was replaced meanwhile", s.o.Dir))}
	}
	return translate(op, s.at(path), err)
}

func (s *Storage) at(path string) string { return filepath.Join(s.o.Dir, path) }

// local is path as os.Root wants it.
func local(path string) string {
	if path == "" {
		return "."
	}
	return path
}

// checkPath refuses what is not relative and clean, and our own folder. "" and "." are
// the prefix itself.
func checkPath(path string) error {
	if path == "" || path == "." {
		return nil
	}
	if len(path) > 4000 {
		return fmt.Errorf("path of %d bytes: %w", len(path), backends.ErrNameTooLong)
	}
	for i, e := range strings.Split(path, "/") {
		switch {
		case e == "", e == ".", e == "..":
			return fmt.Errorf("path %q: not relative and clean: %w", path, backends.ErrName)
		case strings.IndexByte(e, 0) >= 0:
			return fmt.Errorf("path %q: NUL: %w", path, backends.ErrName)
		case len(e) > 255:
			return fmt.Errorf("path %.40q...: element of %d bytes: %w", path, len(e), backends.ErrNameTooLong)
		case i == 0 && e == uploads:
			return fmt.Errorf("path %q: reserved: %w", path, backends.ErrName)
		}
	}
	return nil
}
