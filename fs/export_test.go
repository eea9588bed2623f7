package fs

import "time"

// SetRest changes how long a twin rests.
func (s *Server) SetRest(d time.Duration) {
	s.raw.mu.Lock()
	defer s.raw.mu.Unlock()
	s.raw.rest = d
}
