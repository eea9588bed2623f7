//go:build xrdcl && cgo

package xrootd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"tarn/backends"
)

const (
	// stale is the age from which an unfinished upload is taken for left over by a crash: others may write to the same storage.
	stale = 24 * time.Hour
	// maxFolders bounds the memory of folders known to be there; forgetting one costs a request.
	maxFolders = 1 << 14
)

// makeFolder makes a folder below the prefix and those above it. It begins at the bottom: mostly all is there but the last.
func (s *Storage) makeFolder(ctx context.Context, dir string) error {
	s.mu.Lock()
	_, known := s.folders[dir]
	s.mu.Unlock()
	if known || dir == "." { // the prefix is not ours to make
		return nil
	}
	_, err := s.ask(ctx, s.o.Timeout, fsMkdir, s.remote(dir), "")
	if absent(err) && path.Dir(dir) != "." {
		s.forget(path.Dir(dir))
		if err := s.makeFolder(ctx, path.Dir(dir)); err != nil {
			return err
		}
		_, err = s.ask(ctx, s.o.Timeout, fsMkdir, s.remote(dir), "")
	}
	if err != nil {
		// Servers differ in what they say of a folder that is there.
		i, lerr := s.lookRemote(ctx, s.remote(dir))
		switch {
		case lerr == nil && i.flags&isDir != 0:
		case lerr == nil || errors.Is(lerr, backends.ErrNotDir):
			return fmt.Errorf("%s: %w", dir, backends.ErrNotDir)
		default:
			return fmt.Errorf("make folder %s: %w", dir, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.folders) >= maxFolders {
		clear(s.folders)
	}
	s.folders[strings.Clone(dir)] = struct{}{}
	return nil
}

// forget is for a folder that may be gone, and those below it.
func (s *Storage) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.folders {
		if d == dir || strings.HasPrefix(d, dir+"/") {
			delete(s.folders, d)
		}
	}
}

// clean removes what uploads that ended with a crash have left, when that was not looked for lately.
func (s *Storage) clean(ctx context.Context) {
	now := s.o.Now()
	s.mu.Lock()
	due := s.cleaned.IsZero() || now.Sub(s.cleaned) >= stale
	if due {
		s.cleaned = now
	}
	s.mu.Unlock()
	if !due {
		return
	}
	dir := s.remote(uploads)
	found, err := s.entries(ctx, dir)
	for _, e := range found {
		if strings.HasSuffix(e.name, kept) {
			continue // may be all there is of a file, and is as old as that
		}
		if err == nil && !e.unknown && e.flags&isDir == 0 && now.Sub(e.mtime) >= stale && !strings.ContainsRune(e.name, '/') {
			_, err = s.ask(ctx, s.o.Timeout, fsRm, dir+"/"+e.name, "")
			if errors.Is(err, backends.ErrNotExist) {
				err = nil
			}
		}
	}
	if err != nil {
		s.o.Log.Warn("cleaning up unfinished uploads", "at", s.at(uploads), "err", err)
	}
}
