package lake_test

import (
	"errors"
	"testing"
	"time"

	"tarn/backends"
)

// TestSettle: a release does not wait for company when somebody wants to evict.
func TestSettle(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		x := r.recall(r.file("a", "TAPE"))
		if err := r.within(2*tapeDelay, x); err != nil {
			t.Fatal(err)
		}
		if n := r.tape.Pins("TAPE/a"); n != 1 {
			t.Fatalf("%d pins while it is read", n)
		}
		x.Close()
		began := time.Now()
		if err := r.Settle(ctx); err != nil {
			t.Fatal(err)
		}
		if n, d := r.tape.Pins("TAPE/a"), time.Since(began); n != 0 || d != 0 {
			t.Errorf("%d pins after %v", n, d)
		}
		r.Close()
		if err := r.Settle(ctx); !errors.Is(err, backends.ErrClosed) {
			t.Errorf("settle a closed lake: %v", err)
		}
	})
}
