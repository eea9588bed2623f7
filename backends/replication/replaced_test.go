package replication_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
)

// TestBadReplicaThatIsReplacedMeanwhileStays: what was BAD when its removal was decided may be good again when its turn comes, for
// when somebody verified it or made another copy there.
func TestBadReplicaThatIsReplacedMeanwhileStays(t *testing.T) {
	for _, c := range []struct {
		name string
		now  backends.Replica
		at   string
		left []string
	}{
		{"verified and good again", backends.Replica{RSE: "B", PFN: "B/a", State: backends.Available, Verified: time.Now()}, "A B", []string{"B/a"}},
		{"another copy is on record", backends.Replica{RSE: "B", PFN: "B/new", State: backends.Available, Verified: time.Now()}, "A B", []string{"B/a", "B/new"}},
		{"another copy is bad, too", backends.Replica{RSE: "B", PFN: "B/new", State: backends.Bad}, "A B:BAD", []string{"B/a", "B/new"}},
		{"another copy is under way", backends.Replica{RSE: "B", PFN: "B/a", State: backends.Copying}, "A B:COPYING", []string{"B/a"}},
		{"it is still the same", backends.Replica{RSE: "B", PFN: "B/a", State: backends.Bad}, "A", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				in := r.file("a", "A", "B")
				if err := r.l.DeclareBad(ctx, in, "B", errors.New("rotten")); err != nil {
					t.Fatal(err)
				}
				change := once(func() {
					if err := r.cat.PutReplica(ctx, in.DID, in.Generation, c.now); err != nil {
						t.Error(err)
					}
					r.disks["B"].Put(c.now.PFN, content("a"))
				})
				r.disks["A"].Fail(func(op, _ string) error {
					if op == "stat" { // it has been chosen, and the other copy is asked for
						change()
					}
					return nil
				})
				r.rule(in.DID, 1, "A")
				r.start()
				pass(time.Second)
				if got := r.at(in); got != c.at {
					t.Errorf("it is at %s, want %s", got, c.at)
				}
				if got := r.disks["B"].Paths(); !slices.Equal(got, c.left) {
					t.Errorf("left at B: %v, want %v", got, c.left)
				}
				if n := r.disks["B"].Calls("remove"); (n > 0) != (c.left == nil) {
					t.Errorf("%d removals", n)
				}
			})
		})
	}
}

// TestWhatACrashLeftInPlaceOfABadCopyGoesWithIt, when it is deleted and when its file is.
func TestWhatACrashLeftInPlaceOfABadCopyGoesWithIt(t *testing.T) {
	for _, how := range []string{"rule", "drain", "removed"} {
		t.Run(how, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				in := r.file("a", "A", "B")
				if err := r.l.DeclareBad(ctx, in, "B", errors.New("rotten")); err != nil {
					t.Fatal(err)
				}
				r.disks["B"].Put(lake.Replacements(in, "B/a")[0], content("a"))
				switch how {
				case "rule":
					r.rule(in.DID, 1, "A")
				case "drain":
					r.care("B", lake.Care{Drain: true})
				case "removed":
					r.cat.Remove(ctx, in.DID)
				}
				r.start()
				pass(laketest.Grace + time.Hour)
				if got := r.disks["B"].Paths(); len(got) > 0 {
					t.Errorf("left at B: %v", got)
				}
			})
		})
	}
}
