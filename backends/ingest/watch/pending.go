package watch

import (
	"container/heap"
	"time"
)

// pending is a file that is not complete, as it was last looked at.
type pending struct {
	path  string
	seen  File          // zero before the first look
	since time.Duration // seen has been so since, by the monotonic clock
	due   time.Duration // when to look again
	at    int           // in the heap; -1: an event or the next scan wakes it
	tries int
	gen   uint64 // the scan that met it last
}

// pendings holds them by path, and those to look at again by their time.
type pendings struct {
	of    map[string]*pending
	heap  byDue
	files int64 // that were looked at, and are there; events tell of others, too
	bytes int64 // of them
}

// see notes the version that was looked at; another one begins its time anew.
func (p *pendings) see(e *pending, f File, now time.Duration) {
	if !e.seen.Same(f) {
		if e.seen.Ino == 0 {
			p.files++
		}
		p.bytes += f.Size - e.seen.Size
		e.seen, e.since, e.tries = f, now, 0
	}
}

func (p *pendings) add(e *pending) {
	e.at = -1
	p.of[e.path] = e
	if e.seen.Ino != 0 {
		p.files++
	}
	p.bytes += e.seen.Size
}

func (p *pendings) remove(path string) {
	e := p.of[path]
	if e == nil {
		return
	}
	p.park(e)
	if e.seen.Ino != 0 {
		p.files--
	}
	p.bytes -= e.seen.Size
	delete(p.of, path)
}

// wake makes e due at a time.
func (p *pendings) wake(e *pending, due time.Duration) {
	e.due = due
	if e.at < 0 {
		heap.Push(&p.heap, e)
	} else {
		heap.Fix(&p.heap, e.at)
	}
}

// park leaves e to events and scans.
func (p *pendings) park(e *pending) {
	if e.at >= 0 {
		heap.Remove(&p.heap, e.at)
	}
}

// next is what is due first; nil: nothing.
func (p *pendings) next() *pending {
	if len(p.heap) == 0 {
		return nil
	}
	return p.heap[0]
}

type byDue []*pending

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due < h[j].due }
func (h byDue) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].at, h[j].at = i, j }
func (h *byDue) Push(x any)        { e := x.(*pending); e.at = len(*h); *h = append(*h, e) }

func (h *byDue) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.at = -1
	return e
}
