package fs

import (
	"testing"
	"time"
)

// TestAwaitPruned: a listing waits while the kernel forgets, until that is done or has taken too
// long.
func TestAwaitPruned(t *testing.T) {
	r := &rawFS{pruning: make(chan struct{}, 1)}
	waits := func() time.Duration {
		begun := time.Now()
		r.awaitPruned()
		return time.Since(begun)
	}
	r.pruning <- struct{}{}
	if d := waits(); d < 100*time.Millisecond {
		t.Errorf("waited %v for what does not end", d)
	}
	const busy = 20 * time.Millisecond
	time.AfterFunc(busy, func() { <-r.pruning })
	if d := waits(); d < busy/2 {
		t.Errorf("waited %v for what takes %v", d, busy)
	}
	if len(r.pruning) > 0 {
		t.Error("nobody waits, and the kernel could not be asked")
	}
}
