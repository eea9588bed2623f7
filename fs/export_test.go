package fs

import "time"

// SetRest changes how long a twin rests.
func (s *Server) SetRest(d time.Duration) {
	s.raw.mu.Lock()
	defer s.raw.mu.Unlock()
	s.raw.rest = d
}

// OldKernel makes it one that does not know how to be asked to forget many inodes at once.
func (s *Server) OldKernel() { s.raw.noPrune.Store(true) }

// Twins is how many there are.
func (s *Server) Twins() int {
	s.raw.mu.Lock()
	defer s.raw.mu.Unlock()
	return len(s.raw.twins)
}
