package replication_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
	"tarn/backends/replication"
)

// care sets that of an RSE.
func (r *rig) care(rse string, c lake.Care) {
	r.t.Helper()
	x, _ := r.l.RSE(rse)
	if err := r.l.SetRSE(x.RSE, c); err != nil {
		r.t.Fatal(err)
	}
	r.Cared()
}

func (r *rig) caredFor(rse string) replication.CareStatus {
	for _, s := range r.Care() {
		if s.RSE == rse {
			return s
		}
	}
	return replication.CareStatus{}
}

func (r *rig) until(id backends.RuleID, at time.Time) {
	r.t.Helper()
	s := r.state(id)
	r.cat.DeleteRule(ctx, id)
	s.Expires = at
	if _, err := r.cat.AddRule(ctx, s.Rule); err != nil {
		r.t.Fatal(err)
	}
}

// TestExpireByWatermarks: above high the oldest copies go that no rule needs, until low, and no others.
func TestExpireByWatermarks(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var all []backends.Info
		for i := range 10 {
			all = append(all, r.file(fmt.Sprintf("f%d", i), "A", "B")) // 300 bytes each
			pass(time.Minute)
		}
		size := all[0].Size
		r.rule(all[0].DID, 2, "A|B") // the oldest is needed at both
		r.until(r.rule(all[1].DID, 2, "A|B"), time.Now().Add(time.Hour))
		r.rule(all[2].DID, 1, "*")                  // fulfilled by the other copy
		bad := all[3]                               // its other copy is not there
		r.disks["B"].Remove(ctx, "B/f3")            //
		r.cat.DropReplica(ctx, all[4].DID, "B", "") // the last copy
		r.care("A", lake.Care{High: lake.Mark{Bytes: 6*size - 1}, Low: lake.Mark{Bytes: 5 * size}, Grace: time.Hour})
		r.start()
		pass(30 * time.Minute)
		if n := len(r.disks["A"].Paths()); n != 10 {
			t.Fatalf("%d files are left within the grace", n)
		}
		pass(25 * time.Minute) // f0 to f8 are old enough one after the other
		if got := strings.Join(r.disks["A"].Paths(), " "); strings.Contains(got, "A/f2") {
			t.Errorf("the oldest spare one is left: %s", got)
		}
		pass(time.Hour)
		got := r.disks["A"].Paths()
		want := []string{"A/f0", "A/f1", "A/f3", "A/f4", "A/f9"} // f1's rule lived until it was enough
		if !slices.Equal(got, want) {
			t.Errorf("left at A: %v, want %v", got, want)
		}
		if got := r.at(bad); got != "A B:BAD" {
			t.Errorf("the one whose other copy is not there is at %s", got)
		}
		if s := r.caredFor("A"); s.Removed != 5 || s.RemovedBytes != 5*size || s.Used != 5*size || s.Over != 0 {
			t.Errorf("status %+v", s)
		}
	}, func(o *replication.Options) { o.Sweep = 24 * time.Hour })
}

// TestExpireLeavesLastCopies, but for a scratch RSE, where they go when no rule is left, and are noted.
func TestExpireLeavesLastCopies(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b := r.file("a", "A"), r.file("b", "A")
		r.rule(b.DID, 1, "A")
		c := lake.Care{High: lake.Mark{Bytes: 2}, Low: lake.Mark{Bytes: 1}, Grace: time.Minute}
		r.care("A", c)
		r.start()
		pass(time.Hour)
		if len(r.disks["A"].Paths()) != 2 || !strings.Contains(r.caredFor("A").Why, "rules need what is left") {
			t.Errorf("left %v, %+v", r.disks["A"].Paths(), r.caredFor("A"))
		}
		c.Scratch = true
		r.care("A", c)
		pass(time.Hour)
		if got := r.disks["A"].Paths(); !slices.Equal(got, []string{"A/b"}) {
			t.Errorf("left at the scratch RSE: %v", got)
		}
		if m, err := r.cat.Meta(ctx, a.DID); err != nil || !strings.Contains(fmt.Sprint(m[replication.Expired]), "at A") {
			t.Errorf("metadata %v, %v", m, err)
		}
	})
}

// TestDrain: what rules want is copied elsewhere first, last copies are too, and then the RSE is empty; nothing new goes
// there until it is not drained any more.
func TestDrain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b, c, d := r.file("a", "A"), r.file("b", "A", "B"), r.file("c", "A"), r.file("d", "A")
		ra, rb := r.rule(a.DID, 1, "rse_type=DISK"), r.rule(b.DID, 2, "rse_type=DISK")
		rd := r.rule(d.DID, 1, "A") // can be nowhere else
		r.cat.PutReplica(ctx, d.DID, "", backends.Replica{RSE: "B", PFN: "B/d", State: backends.Copying})
		r.start()
		pass(time.Minute)
		r.care("A", lake.Care{Drain: true})
		pass(10 * time.Minute)
		if got := r.at(a) + ", " + r.at(b) + ", " + r.at(c) + ", " + r.at(d); got != "B, B C, B, A B:COPYING" {
			t.Errorf("a, b, c, d are at %s", got)
		}
		r.isState(ra, backends.RuleOK, "")
		r.isState(rb, backends.RuleOK, "")
		r.isState(rd, backends.RuleStuck, "A is being drained")
		if s := r.caredFor("A"); s.Left != 1 || s.Removed != 3 || !strings.Contains(s.Why, "needs it") {
			t.Errorf("status %+v", s)
		}
		r.care("A", lake.Care{Drain: true, DrainTo: "C"})
		pass(10 * time.Minute)
		if got := r.at(d); got != "B:COPYING C" {
			t.Errorf("d is at %s", got)
		}
		r.isState(rd, backends.RuleOK, "")
		if s := r.caredFor("A"); s.Left != 0 || len(r.disks["A"].Paths()) != 0 {
			t.Errorf("status %+v, at A %v", s, r.disks["A"].Paths())
		}
		r.care("A", lake.Care{})
		pass(10 * time.Minute)
		if got := r.at(d); got != "A B:COPYING C" {
			t.Errorf("after the drain was stopped d is at %s", got)
		}
	})
}

// TestCareGoesOnAfterACrash: what was being deleted is deleted, or counts again.
func TestCareGoesOnAfterACrash(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b, c := r.file("a", "A", "B"), r.file("b", "A", "B"), r.file("c", "A", "B")
		r.rule(b.DID, 2, "A|B")
		r.rule(c.DID, 2, "A|B")
		for _, in := range []backends.Info{a, b, c} {
			r.cat.PutReplica(ctx, in.DID, "", backends.Replica{RSE: "A", PFN: "A/" + in.DID.Name[3:], State: backends.BeingDeleted})
		}
		r.disks["A"].Remove(ctx, "A/c")
		r.care("A", lake.Care{High: lake.Mark{Bytes: 1 << 30}, Low: lake.Mark{Bytes: 1}})
		r.start()
		pass(10 * time.Minute)
		if got := r.at(a) + ", " + r.at(b) + ", " + r.at(c); got != "B, A B, A B" {
			t.Errorf("a, b, c are at %s", got)
		}
	})
}

// TestCareModel: random rules, replicas, expiries, failures and drains. No file ever has fewer verified copies than its
// live rules want and had, no last copy goes, and in the end what can be freed is.
func TestCareModel(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) { careModel(t, r, rand.New(rand.NewPCG(seed, 7))) })
		})
	}
}

func careModel(t *testing.T, r *rig, rnd *rand.Rand) {
	names := []string{"A", "B", "C"}
	exprs := []string{"*", "rse_type=DISK", "A", "B", "A|B", `rse_type=DISK\A`}
	var mu sync.Mutex // guards luck and files, for the storages
	luck := rand.New(rand.NewPCG(rnd.Uint64(), 1))
	fails := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return luck.IntN(10) == 0
	}
	var files []backends.Info
	add := func() {
		var at []string
		for _, n := range names {
			if rnd.IntN(2) == 0 {
				at = append(at, n)
			}
		}
		if len(at) == 0 {
			at = []string{names[rnd.IntN(3)]}
		}
		in := r.file(fmt.Sprintf("f%d", len(files)), at...)
		mu.Lock()
		files = append(files, in)
		mu.Unlock()
		for range rnd.IntN(3) {
			x := backends.Rule{DID: in.DID, Copies: 1 + rnd.IntN(2), Expression: exprs[rnd.IntN(len(exprs))]}
			if rnd.IntN(2) == 0 {
				x.Expires = time.Now().Add(time.Duration(rnd.IntN(300)) * time.Minute)
			}
			r.cat.AddRule(ctx, x)
		}
	}
	// verified counts the copies that are on record and are there, at the RSEs that match.
	has := func(in backends.Info) (out []backends.Replica) {
		reps, _ := r.cat.Replicas(ctx, in.DID)
		for _, x := range reps {
			d := r.disks[x.RSE]
			if d == nil {
				d = r.tape.Storage
			}
			if x.State == backends.Available && int64(len(d.Get(x.PFN))) == in.Size && !x.Verified.IsZero() {
				out = append(out, x)
			}
		}
		return out
	}
	// What the storages are told to delete is looked at just before it is gone.
	for _, name := range names {
		r.disks[name].Fail(func(op, path string) error {
			if op == "commit" && fails() {
				return laketest.ErrDown
			}
			if op != "remove" {
				return nil
			}
			if fails() {
				return laketest.ErrDown
			}
			mu.Lock()
			all := slices.Clone(files)
			mu.Unlock()
			for _, in := range all {
				reps, _ := r.cat.Replicas(ctx, in.DID)
				i := slices.IndexFunc(reps, func(x backends.Replica) bool { return x.RSE == name && x.PFN == path })
				if i < 0 || reps[i].State != backends.BeingDeleted || reps[i].Error != "" {
					continue // not this one, or it was BAD
				}
				left := has(in)
				if len(left) == 0 {
					t.Errorf("the last copy of %s goes at %s", in.DID, name)
				}
				for s := range r.cat.RulesOf(ctx, in.DID) {
					if !s.Expires.IsZero() && !time.Now().Before(s.Expires) {
						continue
					}
					if n, err := r.l.Missing(s.Rule, left); err != nil || n > 0 {
						t.Errorf("%s at %s goes, and rule %d on %s has %d too few (%v)", in.DID, name, s.Copies, s.Expression, n, err)
					}
				}
			}
			return nil
		})
	}
	for range 12 {
		add()
	}
	r.start()
	for range 60 {
		pass(time.Duration(rnd.IntN(10)+1) * time.Minute)
		switch rse := names[rnd.IntN(3)]; rnd.IntN(8) {
		case 0:
			add()
		case 1:
			r.care(rse, lake.Care{Drain: true})
		case 2, 3:
			r.care(rse, lake.Care{High: lake.Mark{Bytes: 900}, Low: lake.Mark{Bytes: 300}, Grace: 10 * time.Minute})
		case 4:
			r.care(rse, lake.Care{})
		case 5: // a copy is lost, one of several
			in := files[rnd.IntN(len(files))]
			if h := has(in); len(h) > 1 && len(r.Transfers()) == 0 {
				if x := h[rnd.IntN(len(h))]; r.disks[x.RSE] != nil {
					r.disks[x.RSE].Truncate(x.PFN, 1)
					r.l.DeclareBad(ctx, in, x.RSE, laketest.ErrDown)
				}
			}
		default:
			x := files[rnd.IntN(len(files))]
			r.cat.AddRule(ctx, backends.Rule{DID: x.DID, Copies: 1 + rnd.IntN(2), Expression: exprs[rnd.IntN(len(exprs))], Expires: time.Now().Add(time.Hour)})
			r.Kick(x.DID)
		}
		for _, in := range files {
			if len(has(in)) == 0 {
				t.Fatalf("%s has no copy: %s", in.DID, r.at(in))
			}
		}
	}
	for _, n := range names {
		r.disks[n].Fail(nil)
	}
	for _, p := range r.tape.Storage.Paths() { // what was written reaches the tape at last
		r.tape.Set(p, backends.OnlineAndNearline)
	}
	// With all rules expired and no drain every file keeps one copy, and A none that others have.
	for s := range r.cat.AllRules(ctx) {
		r.cat.DeleteRule(ctx, s.ID)
	}
	r.care("B", lake.Care{})
	r.care("C", lake.Care{})
	r.care("A", lake.Care{High: lake.Mark{Bytes: 2}, Low: lake.Mark{Bytes: 1}, Grace: time.Minute})
	pass(2 * time.Hour)
	for _, in := range files {
		h := has(in)
		if len(h) == 0 {
			t.Errorf("%s has no copy", in.DID)
		}
		if len(h) > 1 && slices.ContainsFunc(h, func(x backends.Replica) bool { return x.RSE == "A" }) {
			t.Errorf("%s is at %s, and A needs not have it: %+v", in.DID, r.at(in), r.caredFor("A"))
		}
	}
}
