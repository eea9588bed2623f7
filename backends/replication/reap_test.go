package replication_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/lake/laketest"
)

func TestReaper(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A", "B", "T")
		shared := r.file("shared", "A")
		r.disks["B"].Remove(ctx, "B/a") // deleted by hand already: fine
		r.cat.Remove(ctx, a.DID)
		r.cat.Remove(ctx, shared.DID)
		r.file("shared", "A") // the same path was registered again
		r.start()
		pass(laketest.Grace - time.Hour)
		if r.disks["A"].Get("A/a") == nil {
			t.Fatal("reaped before its time")
		}
		r.disks["A"].Fail(func(op, _ string) error {
			if op == "remove" {
				return laketest.ErrDown
			}
			return nil
		})
		pass(2 * time.Hour)
		if s := r.Status(); s.ReapWaiting != 1 || !strings.Contains(s.ReapError, "A/a") || s.Reaped != 1 {
			t.Errorf("status %+v", s)
		}
		r.disks["A"].Fail(nil)
		r.Kick()
		pass(time.Second)
		if s := r.Status(); s.ReapWaiting != 0 || s.Reaped != 2 {
			t.Errorf("status %+v", s)
		}
		if got := r.disks["A"].Paths(); !slices.Equal(got, []string{"A/shared"}) {
			t.Errorf("left at A: %v", got)
		}
		if len(r.tape.Storage.Paths()) != 0 {
			t.Error("left on tape")
		}
		for p := range r.cat.Pasts(ctx, backends.DID{}) {
			t.Errorf("left: %+v", p)
		}
	})
}

func TestReaperLeavesWhatItCannotReach(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A")
		r.cat.PutReplica(ctx, a.DID, "", backends.Replica{RSE: "GONE", PFN: "x", State: backends.Available})
		r.cat.Remove(ctx, a.DID)
		r.start()
		pass(laketest.Grace + time.Hour)
		n := 0
		for range r.cat.Pasts(ctx, backends.DID{}) {
			n++
		}
		if s := r.Status(); n != 1 || !strings.Contains(s.ReapError, "GONE") {
			t.Errorf("%d left, status %+v", n, s)
		}
	})
}
