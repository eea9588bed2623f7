package ingest

import (
	"context"
	"sync"
)

// slots bound what is under way, in files and bytes.
type slots struct {
	mu    sync.Mutex // guards the rest
	files int
	bytes int64
	most  int64
	freed chan struct{} // closed when something was given back
}

func newSlots(files int, bytes int64) *slots {
	return &slots{files: files, bytes: bytes, most: bytes, freed: make(chan struct{})}
}

// weight is what a file takes of the bytes: a large one no more than a quarter, so that a few go at once.
func (s *slots) weight(size int64) int64 { return min(size, s.most/4) }

// take waits for room.
func (s *slots) take(ctx context.Context, size int64) bool {
	for {
		s.mu.Lock()
		if s.files > 0 && s.bytes >= s.weight(size) {
			s.files--
			s.bytes -= s.weight(size)
			s.mu.Unlock()
			return true
		}
		freed := s.freed
		s.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return false
		}
	}
}

func (s *slots) give(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files++
	s.bytes += s.weight(size)
	close(s.freed)
	s.freed = make(chan struct{})
}
