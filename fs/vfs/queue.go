package vfs

import (
	"container/heap"
	"time"

	"tarn/backends/tune"
)

// queue has the contents that wait for their upload, or for the next attempt: those that are due go in the order in which they
// became so. All methods are under uploader.mu.
type queue struct {
	when  map[*unsent]time.Time // all, with when they are due
	later dueHeap               // those that were not due yet; one that is not in when at that time any more has moved on
	large line
	small line
}

// line are contents that are due, and those of them that run.
type line struct {
	due     []*unsent
	running int
}

// due is when a content is.
type due struct {
	at time.Time
	u  *unsent
}

type dueHeap []due

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(due)) }
func (h *dueHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = due{}
	*h = old[:len(old)-1]
	return x
}

func newQueue() queue { return queue{when: map[*unsent]time.Time{}} }

// add has u wait until at, whatever was said before.
func (q *queue) add(u *unsent, at time.Time) {
	q.when[u] = at
	heap.Push(&q.later, due{at, u})
}

func (q *queue) remove(u *unsent) { delete(q.when, u) }

// ripen puts what is due into its line, and gives when the next one will be.
func (q *queue) ripen(now time.Time) (next time.Time, some bool) {
	for len(q.later) > 0 {
		d := q.later[0]
		if d.at.After(now) {
			return d.at, true
		}
		heap.Pop(&q.later)
		if at, ok := q.when[d.u]; ok && at.Equal(d.at) {
			l := q.lineOf(d.u)
			l.due = append(l.due, d.u)
		}
	}
	return time.Time{}, false
}

// Uploads of small files wait for servers more than for bytes: many go at a time where that pays.
const (
	smallFile   = 16 << 20
	smallAtMost = 32
)

func (q *queue) lineOf(u *unsent) *line {
	u.mu.Lock()
	defer u.mu.Unlock()
	if max(u.sealed, u.reserved) > smallFile {
		return &q.large
	}
	return &q.small
}

// take gives the contents of a line that are to be started now, so that no more than limit run; claim says of which that can be.
// full: more could.
func (q *queue) take(l *line, limit int, now time.Time, claim func(*unsent) bool) (out []*unsent, full bool) {
	var kept []*unsent
	i := 0
	for ; i < len(l.due) && !full; i++ {
		u := l.due[i]
		at, ok := q.when[u]
		switch {
		case !ok || at.After(now): // it was taken, or has moved on
		case l.running >= limit:
			kept, full = append(kept, u), true
		case !claim(u):
			kept = append(kept, u)
		default:
			delete(q.when, u)
			l.running++
			out = append(out, u)
		}
		l.due[i] = nil
	}
	i -= len(kept)
	copy(l.due[i:], kept)
	l.due = l.due[i:]
	return out, full
}

// pace finds how many small files go at a time.
type pace struct {
	tune  tune.Tuner
	ended int   // files, since it was told last
	sent  int64 // bytes in all, when it was told last
}

func (p *pace) told(now time.Time, full bool, sent int64) {
	if full {
		p.tune.Note(now, p.ended, sent-p.sent)
	} else {
		p.tune.Idle()
	}
	p.ended, p.sent = 0, sent
}
