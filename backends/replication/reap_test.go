package replication_test

import (
	"errors"
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

// TestReaperWaitsForCopies: a file is removed, and its time comes, while its copy is being made, and the storage
// does not take it away again when that has ended. It stays on record until it is deleted.
func TestReaperWaitsForCopies(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A")
		r.rule(a.DID, 2, "*")
		slow, dead := true, false
		r.disks["B"].Fail(func(op, _ string) error {
			switch {
			case op == "commit" && slow:
				slow = false
				r.cat.Remove(ctx, a.DID)
				time.Sleep(laketest.Grace + 2*time.Hour)
				dead = true
			case op == "remove" && dead:
				return laketest.ErrDown
			}
			return nil
		})
		r.start()
		pass(laketest.Grace + 3*time.Hour)
		if n := len(r.disks["B"].Paths()); n != 1 || slow {
			t.Fatalf("%d files at B; the copy was to be made, and not to be deleted", n)
		}
		if s := r.Status(); s.Reaped != 0 || s.ReapWaiting != 1 {
			t.Errorf("what still lies at B is not on record: %+v", s)
		}
		r.disks["B"].Fail(nil)
		pass(time.Hour)
		if s := r.Status(); s.Reaped != 1 || len(r.disks["A"].Paths())+len(r.disks["B"].Paths()) != 0 {
			t.Errorf("status %+v; at A %q, at B %q", s, r.disks["A"].Paths(), r.disks["B"].Paths())
		}
	})
}

// TestReaperAndUndelete: what is undeleted after its time, but before its turn, stays; what is being deleted is not
// undeleted any more.
func TestReaperAndUndelete(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b := r.file("a", "A", "B"), r.file("b", "A", "B")
		r.cat.Remove(ctx, a.DID)
		r.cat.Remove(ctx, b.DID)
		handles := map[string]string{}
		for p := range r.cat.Pasts(ctx, backends.DID{}) {
			handles[p.Info.DID.Name] = p.Handle
		}
		undelete := once(func() {
			if err := r.l.Undelete(ctx, handles["/s/a"]); !errors.Is(err, backends.ErrBusy) {
				t.Errorf("a is being deleted: %v", err)
			}
			if err := r.l.Undelete(ctx, handles["/s/b"]); err != nil {
				t.Errorf("b is not: %v", err)
			}
		})
		r.disks["A"].Fail(func(op, path string) error {
			if op == "remove" && path == "A/a" {
				undelete()
			}
			return nil
		})
		r.start()
		pass(laketest.Grace + time.Hour)
		if got := r.at(b); got != "A B" {
			t.Errorf("b is at %s", got)
		}
		if s := r.Status(); s.Reaped != 1 || s.ReapWaiting != 0 || r.disks["B"].Get("B/a") != nil {
			t.Errorf("status %+v, at B %v", s, r.disks["B"].Paths())
		}
	})
}
