package gridftp

import (
	"context"
	"slices"
	"sync"
	"time"

	"tarn/backends"
)

// pool keeps sessions that are logged in. Last in, first out: those that are not needed grow old and go.
type pool struct {
	idleFor time.Duration
	slots   chan struct{} // one for each session that is busy

	mu     sync.Mutex // guards the rest
	idle   []*session // oldest first
	reaper *time.Timer
	closed bool
}

func (p *pool) init(limit int, idleFor time.Duration) {
	p.idleFor, p.slots = idleFor, make(chan struct{}, limit)
}

// acquire gives a session, a new one when fresh is wanted or none is there.
func (s *Storage) acquire(ctx context.Context, fresh bool) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := &s.pool
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	closed := p.closed
	var ss *session
	if n := len(p.idle); n > 0 && !fresh && !closed {
		ss, p.idle = p.idle[n-1], p.idle[:n-1]
	}
	p.mu.Unlock()
	if closed {
		<-p.slots
		return nil, backends.ErrClosed
	}
	if ss != nil {
		ss.reused, ss.heard, ss.held = true, false, true
		return ss, nil
	}
	ss, err := s.connect(ctx)
	if err != nil {
		<-p.slots
		return nil, err
	}
	ss.heard, ss.held = false, true
	return ss, nil
}

// detach gives the slot back. What goes on for long, an upload or a read, does so at its beginning: it does not keep
// others from short work, and may ask for another session.
func (s *Storage) detach(ss *session) {
	if ss.held {
		ss.held = false
		<-s.pool.slots
	}
}

// release gives a session back.
func (s *Storage) release(ss *session) {
	s.detach(ss)
	if !ss.detached {
		s.keep(ss)
	}
}

// keep puts a session into the pool, or ends it.
func (s *Storage) keep(ss *session) {
	p := &s.pool
	p.mu.Lock()
	if ss.bad || p.closed || len(p.idle) >= cap(p.slots) {
		p.mu.Unlock()
		ss.close()
		return
	}
	ss.idle = time.Now()
	p.idle = append(p.idle, ss)
	if p.reaper == nil {
		p.reaper = time.AfterFunc(p.idleFor, p.reap)
	}
	p.mu.Unlock()
}

// reap ends sessions that were not used for long.
func (p *pool) reap() {
	p.mu.Lock()
	n := 0
	for n < len(p.idle) && time.Since(p.idle[n].idle) >= p.idleFor {
		n++
	}
	old := slices.Clone(p.idle[:n])
	p.idle = slices.Delete(p.idle, 0, n)
	p.reaper = nil
	if len(p.idle) > 0 && !p.closed {
		p.reaper = time.AfterFunc(p.idleFor-time.Since(p.idle[0].idle), p.reap)
	}
	p.mu.Unlock()
	for _, ss := range old {
		ss.close()
	}
}

// drain ends all idle sessions.
func (p *pool) drain() {
	p.mu.Lock()
	old := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, ss := range old {
		ss.bad = true // most are dead: no manners that take time
		ss.close()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	old := p.idle
	p.idle = nil
	if p.reaper != nil {
		p.reaper.Stop()
		p.reaper = nil
	}
	p.mu.Unlock()
	for _, ss := range old {
		ss.close()
	}
}
