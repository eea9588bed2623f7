package fs

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// again is how long a complaint is not repeated: the kernel asks for a file in many
// pieces, and programs try again.
const again = time.Minute

// seldom is a log that makes each complaint once a minute.
type seldom struct {
	slog.Handler
	mu   sync.Mutex
	said map[string]time.Time
}

// newSeldom makes one that logs where log does.
func newSeldom(log *slog.Logger) *slog.Logger {
	return slog.New(&seldom{Handler: log.Handler(), said: map[string]time.Time{}})
}

// Handle drops what was said a moment ago.
func (s *seldom) Handle(ctx context.Context, r slog.Record) error {
	key := r.Message
	r.Attrs(func(a slog.Attr) bool {
		key += "\x00" + a.Value.String()
		return true
	})
	s.mu.Lock()
	last, ok := s.said[key]
	if ok && r.Time.Sub(last) < again {
		s.mu.Unlock()
		return nil
	}
	if len(s.said) >= 1000 {
		clear(s.said)
	}
	s.said[key] = r.Time
	s.mu.Unlock()
	return s.Handler.Handle(ctx, r)
}
