package journal

import "sync"

// groupSync makes one fsync serve everybody who asked for it before it began. Callers
// that come while one is running share the next.
type groupSync struct {
	do func() error

	run sync.Mutex // held by the leader of a round while it syncs; taken before mu

	mu       sync.Mutex // guards the rest; never held across I/O
	next     *round
	failures int // failed rounds
	last     error
}

type round struct {
	done     chan struct{}
	err      error
	failures int
	callers  int // who share it; guarded by groupSync.mu
}

// sync returns after a do that began after the call. What was changed before an earlier
// do failed may never reach the disk although this one succeeds (the kernel reports such
// an error once), so the number of failures until now comes with it.
func (g *groupSync) sync() (failures int, err error) {
	g.mu.Lock()
	r := g.next
	leader := r == nil
	if leader {
		r = &round{done: make(chan struct{})}
		g.next = r
	}
	r.callers++
	g.mu.Unlock()
	if !leader {
		<-r.done
		return r.failures, r.err
	}

	g.run.Lock()
	defer g.run.Unlock()
	g.mu.Lock()
	g.next = nil // who comes now has changed something that this round may miss
	g.mu.Unlock()
	r.err = g.do()
	g.mu.Lock()
	if r.err != nil {
		g.failures++
		g.last = r.err
	}
	r.failures = g.failures
	g.mu.Unlock()
	close(r.done)
	return r.failures, r.err
}

// epoch is the number of failures so far, and the last of them.
func (g *groupSync) epoch() (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failures, g.last
}
