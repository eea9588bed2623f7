package vfs

import (
	"slices"
	"testing"
	"time"
)

// What is due goes in the order in which it became so, as many at a time as may, a file at a time, and large ones beside small ones.
func TestQueue(t *testing.T) {
	t0 := time.Unix(1000, 0)
	q := newQueue()
	name := map[*unsent]string{}
	make := func(n string, inode uint64, size int64) *unsent {
		u := &unsent{inode: inode, sealed: size}
		name[u] = n
		return u
	}
	a, b, c, d := make("a", 1, 10), make("b", 2, 10), make("c", 3, 10), make("d", 1, 10)
	big := make("big", 9, 1<<30)
	running := map[uint64]bool{}
	claim := func(u *unsent) bool {
		was := running[u.inode]
		running[u.inode] = true
		return !was
	}
	take := func(l *line, limit int, now time.Time, wantFull bool, want ...string) {
		t.Helper()
		q.ripen(now)
		some, full := q.take(l, limit, now, claim)
		var got []string
		for _, u := range some {
			got = append(got, name[u])
		}
		if !slices.Equal(got, want) || full != wantFull {
			t.Errorf("at %v: %v, full %v; want %v, %v", now.Sub(t0), got, full, want, wantFull)
		}
	}
	q.add(c, t0.Add(3*time.Second))
	q.add(a, t0.Add(time.Second))
	q.add(b, t0.Add(2*time.Second))
	q.add(d, t0.Add(2*time.Second))
	q.add(big, t0)
	if at, some := q.ripen(t0); !some || !at.Equal(t0.Add(time.Second)) {
		t.Errorf("the next one is due at %v, %v", at, some)
	}
	take(&q.small, 2, t0, false)
	take(&q.large, 1, t0, false, "big")
	later := t0.Add(10 * time.Second)
	take(&q.small, 2, later, true, "a", "b") // d is of the file that a is
	q.small.running--                        // b
	q.add(c, later.Add(time.Minute))         // it is put off
	take(&q.small, 2, later, false)
	delete(running, 1)
	take(&q.small, 2, later, false, "d")
	q.add(c, later.Add(time.Second)) // and wanted sooner
	q.add(b, later.Add(time.Second))
	q.remove(b)
	take(&q.small, 9, later.Add(time.Hour), false, "c")
	if len(q.when) != 0 || len(q.small.due) != 0 || len(q.later) != 0 {
		t.Errorf("left: %d, %d, %d", len(q.when), len(q.small.due), len(q.later))
	}
}
