package webdav

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"tarn/backends"
)

// maxDirs bounds the memory of folders known to be there; forgetting one costs a request.
const maxDirs = 1 << 14

// makeParents makes the folders above p, and the one of unfinished uploads.
func (s *Storage) makeParents(ctx context.Context, p string) error {
	if err := s.makeFolder(ctx, uploads); err != nil {
		return err
	}
	if dir := path.Dir(p); dir != "." {
		return s.makeFolder(ctx, dir)
	}
	return nil
}

// makeFolder begins at the bottom: mostly all is there but the last.
func (s *Storage) makeFolder(ctx context.Context, dir string) error {
	if s.known(dir) {
		return nil
	}
	mkcol := func() error { return s.simple(ctx, "MKCOL", folderURL(s.url(dir)), nil) }
	err := mkcol()
	if st := status(err); st == http.StatusConflict || st == http.StatusNotFound {
		parent := path.Dir(dir)
		if parent == "." {
			if _, err := s.stat(ctx, ""); err != nil {
				return err
			}
		} else {
			s.forget(parent)
			if err := s.makeFolder(ctx, parent); err != nil {
				return err
			}
		}
		err = mkcol()
	}
	if err != nil {
		// 405 is "something is there", and other servers say other things.
		a, serr := s.stat0(ctx, dir)
		switch {
		case serr == nil && a.IsDir:
		case serr == nil || s.throughFile(ctx, dir):
			return fmt.Errorf("%s: %w", dir, backends.ErrNotDir)
		default:
			return fmt.Errorf("make folder %s: %w", dir, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.dirs) >= maxDirs {
		clear(s.dirs)
	}
	s.dirs[strings.Clone(dir)] = struct{}{}
	return nil
}

func (s *Storage) known(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.dirs[dir]
	return ok
}

func (s *Storage) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dirs, dir)
}

func (s *Storage) forgetAbove(p string) {
	s.forget(uploads)
	for p = path.Dir(p); p != "."; p = path.Dir(p) {
		s.forget(p)
	}
}

// stale is the age from which an unfinished upload is taken for left over by a crash: others may be
// writing to the same prefix.
const stale = 24 * time.Hour

// cleanSometimes removes, once a day and beside other work, what crashes have left.
func (s *Storage) cleanSometimes() {
	s.mu.Lock()
	now := s.o.Now()
	due := !s.closed && (s.cleaned.IsZero() || now.Sub(s.cleaned) > stale)
	if due {
		s.cleaned = now
	}
	s.mu.Unlock()
	if due {
		s.tasks.Go(func() {
			if n, err := s.Clean(s.ctx); err != nil {
				s.o.Log.Warn("left-over uploads cannot be removed", "at", s.at(uploads), "err", err)
			} else if n > 0 {
				s.o.Log.Info("left-over uploads removed", "at", s.at(uploads), "files", n)
			}
		})
	}
}

// Clean removes uploads that nobody has written to for a day, and tells how many there were.
func (s *Storage) Clean(ctx context.Context) (n int, err error) {
	if s.o.ReadOnly {
		return 0, nil
	}
	var old []string
	err = s.entries(ctx, uploads, func(a backends.Attr) error {
		if !a.IsDir && !a.MTime.IsZero() && s.o.Now().Sub(a.MTime) > stale {
			old = append(old, a.Path)
		}
		return nil
	})
	if err != nil && !errors.Is(err, backends.ErrNotExist) {
		return 0, err
	}
	for _, p := range old {
		switch err := s.simple(ctx, "DELETE", s.url(p), nil); {
		case err == nil:
			n++
		case !errors.Is(err, backends.ErrNotExist):
			return n, err
		}
	}
	return n, nil
}
