package lake_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/lake/laketest"
)

func TestFailedRecall(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b := r.file("a", "TAPE"), r.file("b", "TAPE")
		r.tape.Break("TAPE/a", "drive 3: read error")
		x, y := r.recall(a), r.recall(b)
		err := r.within(10*time.Minute, x)
		if !errors.Is(err, backends.ErrUnavailable) || !backends.IsTemporary(err) || !strings.Contains(err.Error(), "drive 3: read error") {
			t.Errorf("error is %v", err)
		}
		if err := r.within(0, y); err != nil {
			t.Errorf("its neighbour: %v", err)
		}
		if n := r.tape.Calls("stage"); n != 3 {
			t.Errorf("%d tries", n)
		}
		x.Close()
		y.Close()
		pass(time.Second)
		list := r.Recalls()
		if len(list) != 1 || !list[0].Failed || list[0].DID != a.DID || !strings.Contains(list[0].Error, "drive 3") || list[0].Tries != 3 {
			t.Fatalf("recalls %+v", list)
		}
		// At once again, with the reason and without the tape.
		if _, err := r.Recall(ctx, a); err == nil || !strings.Contains(err.Error(), "drive 3") {
			t.Errorf("again: %v", err)
		}
		if c, _ := r.Explain(ctx, a); !strings.Contains(c[0].Reason, "drive 3") {
			t.Errorf("explain: %+v", c)
		}
		// The user clears it.
		r.tape.Break("TAPE/a", "")
		if err := r.RetryRecall(list[0].ID); err != nil {
			t.Error(err)
		}
		if err := r.RetryRecall(list[0].ID); !errors.Is(err, backends.ErrNotExist) {
			t.Error(err)
		}
		x = r.recall(a)
		if err := r.within(2*tapeDelay, x); err != nil || len(r.Recalls()) != 1 {
			t.Errorf("%v, %+v", err, r.Recalls())
		}
		x.Close()
		pass(time.Minute)
		// No permanent negative state: later it is tried again unasked.
		r.tape.Break("TAPE/a", "stuck in the robot")
		x = r.recall(a)
		if r.within(10*time.Minute, x) == nil {
			t.Error("broken again, and no error")
		}
		x.Close()
		pass(31 * time.Second)
		r.tape.Break("TAPE/a", "")
		x = r.recall(a)
		if err := r.within(2*tapeDelay, x); err != nil {
			t.Error(err)
		}
		x.Close()
		if s := r.Stats(); s.Failed != 2 {
			t.Errorf("stats %+v", s)
		}
		if n := r.ClearFailedRecalls(); n != 0 {
			t.Errorf("%d failed ones left", n)
		}
	})
}

// A tape that fails is followed by the other tape that has a copy.
func TestOtherTapeIsTried(t *testing.T) {
	for name, spoil := range map[string]func(r *rig){
		"recall fails": func(r *rig) { r.tape.Break("TAPE/a", "broken") },
		"lost":         func(r *rig) { r.tape.Set("TAPE/a", backends.Lost) },
		"stage fails":  func(r *rig) { r.tape.Fail(func(string) error { return laketest.ErrDown }) },
		"poll fails": func(r *rig) {
			r.tape.Fail(func(op string) error {
				if op == "poll" {
					return laketest.ErrDown
				}
				return nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				in := r.file("a", "TAPE", "VAULT")
				spoil(r)
				x := r.recall(in)
				if err := r.within(15*time.Minute, x); err != nil || r.vault.Calls("stage") != 1 {
					t.Errorf("%v, %d requests at the vault", err, r.vault.Calls("stage"))
				}
				if bad := r.replica(in, "TAPE").State == backends.Bad; bad != (name == "lost") {
					t.Errorf("%s: replica is %+v", name, r.replica(in, "TAPE"))
				}
				r.wants(in, content("a"))
				x.Close()
			})
		})
	}
}

func TestLostEverywhere(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		in := r.file("a", "TAPE")
		r.tape.Set("TAPE/a", backends.Lost)
		x := r.recall(in)
		if err := r.within(10*time.Minute, x); !errors.Is(err, backends.ErrLost) || backends.IsTemporary(err) {
			t.Error(err)
		}
		x.Close()
	})
}

// An outage of a tape system that ends in time costs nothing but the time.
func TestTapeSystemIsAwayForAWhile(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		x := r.recall(r.file("a", "TAPE"))
		pass(time.Second)
		r.tape.Fail(func(string) error { return laketest.ErrDown })
		pass(4 * time.Minute)
		if ended(x) || !strings.Contains(x.State().Error, "is unavailable") {
			t.Errorf("state %+v", x.State())
		}
		r.tape.Fail(nil)
		if err := r.within(time.Minute, x); err != nil || r.tape.Calls("stage") != 1 {
			t.Error(err)
		}
		x.Close()
	})
}
