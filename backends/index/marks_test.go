package index

import (
	"testing"
	"time"
)

// What a change is about is looked at when it has been made, and not before: the worker must not take the record of one that began
// while it was looking for records.
func TestChangeUnderWayIsNotLookedAt(t *testing.T) {
	r := small(t)
	r.build("/")
	end := time.Now().Add(3 * time.Second)
	for n := 0; time.Now().Before(end); n++ {
		r.x.awake()
		o := r.x.begin(change{what: wasSet, did: did("/s/c/h")})
		for range 3 {
			r.x.awake()
			time.Sleep(50 * time.Microsecond)
		}
		r.x.mu.Lock()
		left := r.x.left[o.seq]
		r.x.mu.Unlock()
		o.end(nil)
		if left != 1 {
			t.Fatalf("change %d was looked at before it was made", n)
		}
	}
}
