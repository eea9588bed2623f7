package embedded

import (
	"sync"
	"sync/atomic"

	"tarn/backends"
)

// gate counts the calls that are inside, so that Close can wait for them.
type gate struct {
	n     atomic.Int64 // calls inside; far below zero once shut
	empty chan struct{}
	once  sync.Once
}

const shut = -1 << 62

func newGate() *gate { return &gate{empty: make(chan struct{})} }

func (g *gate) enter() error {
	if g.n.Add(1) <= 0 {
		g.leave()
		return backends.ErrClosed
	}
	return nil
}

func (g *gate) leave() {
	if g.n.Add(-1) == shut {
		g.once.Do(func() { close(g.empty) })
	}
}

// idle tells whether nobody is inside; false once shut.
func (g *gate) idle() bool { return g.n.Load() == 0 }

// close lets nobody in any more and waits until all are out. Only the first call does.
func (g *gate) close() {
	if g.n.Add(shut) == shut {
		g.once.Do(func() { close(g.empty) })
	}
	<-g.empty
}
