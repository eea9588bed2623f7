package replication_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/lake/laketest"
	"tarn/backends/replication"
)

func TestStuckAndBack(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A")
		id := r.rule(a.DID, 1, "B")
		r.disks["B"].Fail(func(op, _ string) error {
			if op == "create" {
				return laketest.ErrDown
			}
			return nil
		})
		r.start()
		pass(500 * time.Millisecond)
		r.isState(id, backends.RuleReplicating, "")
		tr := r.Transfers()
		if len(tr) != 1 || tr[0].State != replication.Waiting || tr[0].To != "B" || tr[0].Failures == 0 || tr[0].NextTry.IsZero() {
			t.Errorf("transfers %+v", tr)
		}
		pass(time.Minute)
		r.isState(id, backends.RuleStuck, "create")
		n := r.disks["B"].Calls("create")
		if n != 5 {
			t.Errorf("%d tries", n)
		}
		pass(time.Hour)
		if d := r.disks["B"].Calls("create") - n; d < 3 || d > 9 {
			t.Errorf("%d tries in an hour of being stuck", d)
		}
		r.isState(id, backends.RuleStuck, "create")
		r.disks["B"].Fail(nil)
		pass(20 * time.Minute)
		r.isState(id, backends.RuleOK, "")
		if got := r.at(a); got != "A B" {
			t.Errorf("a is at %s", got)
		}
		if tr := r.Transfers(); len(tr) != 0 {
			t.Errorf("transfers %+v", tr)
		}
	})
}

// When the copy to one RSE fails for good, another that matches is taken.
func TestAnotherRSEIsTaken(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A")
		id := r.rule(a.DID, 2, "A|B|C")
		r.disks["B"].Fail(func(op, _ string) error {
			if op == "commit" {
				return backends.ErrPermission
			}
			return nil
		})
		r.start()
		pass(2 * time.Minute)
		if got := r.at(a); got != "A C" {
			t.Errorf("a is at %s", got)
		}
		r.isState(id, backends.RuleOK, "")
	})
}

func TestStuckForWantOfRSEs(t *testing.T) {
	for _, c := range []struct {
		expr  string
		says  string
		spoil func(r *rig)
		after time.Duration
	}{
		{"X", "no RSE matches", func(*rig) {}, time.Second},
		{"B", "bytes free", func(r *rig) { r.disks["B"].Resize(10) }, time.Second},
		{"B", "B is down", func(r *rig) {
			r.disks["B"].Fail(func(string, string) error { return laketest.ErrDown })
		}, time.Minute},
		{"B|", "position 3", func(*rig) {}, time.Second},
	} {
		inBubble(t, func(t *testing.T, r *rig) {
			c.spoil(r)
			id := r.rule(r.file("a", "A").DID, 1, c.expr)
			r.start()
			pass(c.after)
			r.isState(id, backends.RuleStuck, c.says)
			if c.expr == "B" {
				r.disks["B"].Fail(nil)
				r.disks["B"].Resize(1 << 30)
				pass(time.Hour)
				r.isState(id, backends.RuleOK, "")
			}
		})
	}
}

func TestLostFileIsStuck(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A")
		r.disks["A"].Remove(ctx, "A/a")
		id := r.rule(a.DID, 1, "B")
		r.start()
		pass(2 * time.Minute)
		r.isState(id, backends.RuleStuck, "no good replica is left")
		if got := r.at(a); got != "A:BAD" {
			t.Errorf("a is at %s", got)
		}
	})
}

func TestBadReplicaIsReplacedThenDeleted(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A", "B")
		id := r.rule(a.DID, 2, "A|B")
		elsewhere := r.file("e", "A", "B", "C")
		r.rule(elsewhere.DID, 2, "*")
		r.start()
		r.isState(id, backends.RuleOK, "")
		r.disks["B"].Put("B/a", []byte("rotten"))
		for _, in := range []backends.Info{a, elsewhere} {
			if err := r.l.DeclareBad(ctx, in, "B", errors.New("rotten")); err != nil {
				t.Fatal(err)
			}
			r.Kick(in.DID)
		}
		pass(time.Second)
		if r.at(a) != "A B" || r.disks["B"].Get("B/a") != nil {
			t.Errorf("a is at %s", r.at(a))
		}
		if r.at(elsewhere) != "A C" || r.disks["B"].Get("B/e") != nil { // fulfilled without it
			t.Errorf("e is at %s", r.at(elsewhere))
		}
		// A copy that nobody has verified is no reason to delete a bad one.
		u := r.file("u", "A", "B")
		r.cat.PutReplica(ctx, u.DID, "", backends.Replica{RSE: "A", PFN: "A/u", State: backends.Available})
		r.l.DeclareBad(ctx, u, "B", errors.New("rotten"))
		r.rule(u.DID, 1, "A")
		r.Kick(u.DID)
		pass(time.Second)
		if r.at(u) != "A B:BAD" || r.disks["B"].Get("B/u") == nil {
			t.Errorf("u is at %s", r.at(u))
		}
	})
}

// More files lack copies than are remembered: nothing is forgotten.
func TestMoreLackCopiesThanAreRemembered(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		top := r.dir(backends.DID{Scope: "s", Name: "/s/top"})
		var all []backends.Info
		for i := range 30 {
			all = append(all, r.file(fmt.Sprintf("top/%02d", i), "A"))
		}
		r.disks["B"].Fail(func(op, _ string) error {
			if op == "create" || op == "space" {
				return laketest.ErrDown
			}
			return nil
		})
		id := r.rule(top, 1, "B")
		r.start()
		pass(time.Hour)
		r.isState(id, backends.RuleStuck, "B is down")
		late := r.file("top/late", "A")
		r.Kick(late.DID)
		pass(time.Minute)
		r.disks["B"].Fail(nil)
		pass(2 * time.Hour)
		r.isState(id, backends.RuleOK, "")
		for _, in := range append(all, late) {
			if got := r.at(in); got != "A B" {
				t.Errorf("%s is at %s", in.DID, got)
			}
		}
	}, func(o *replication.Options) { o.MaxLacking, o.Queue = 10, 4 })
}

// TestLargeRulesKeepNoOtherFromBeginning: their files wait for room at a storage that is slow, for days.
func TestLargeRulesKeepNoOtherFromBeginning(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.disks["B"].Fail(func(op, _ string) error {
			if op == "commit" {
				time.Sleep(10 * time.Minute)
			}
			return nil
		})
		for _, name := range []string{"x", "y", "z"} {
			d := r.dir(backends.DID{Scope: "s", Name: "/s/" + name})
			for i := range 50 {
				r.file(fmt.Sprintf("%s/f%d", name, i), "A")
			}
			r.rule(d, 1, "B")
		}
		r.start()
		pass(time.Minute)
		d := r.dir(backends.DID{Scope: "s", Name: "/s/small"})
		in := r.file("small/f", "A")
		id := r.rule(d, 1, "C")
		r.Kick(d)
		pass(time.Minute)
		if got := r.at(in); got != "A C" {
			t.Errorf("it is at %s", got)
		}
		r.isState(id, backends.RuleOK, "")
		pass(10 * 24 * time.Hour)
		for s := range r.cat.AllRules(ctx) {
			if s.State != backends.RuleOK {
				t.Errorf("the rule on %s is %s: %s", s.DID, s.State, s.Error)
			}
		}
	}, func(o *replication.Options) { o.Rules, o.Queue, o.Workers = 2, 4, 2 })
}

// TestLargeDirectoryKeepsNoFileWaiting: it came below a rule, and all that is in it is looked at; a new file elsewhere has not to
// wait for that.
func TestLargeDirectoryKeepsNoFileWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		top := r.dir(backends.DID{Scope: "s", Name: "/s/top"})
		d := r.dir(backends.DID{Scope: "s", Name: "/s/top/big"})
		id := r.rule(top, 1, "A")
		for i := range 100 {
			r.file(fmt.Sprintf("top/big/f%d", i), "A")
		}
		r.start()
		r.isState(id, backends.RuleOK, "")
		r.cat.Fail(func(op string, d backends.DID) error {
			if op == "replicas" && strings.HasPrefix(d.Name, "/s/top/big/") {
				time.Sleep(time.Second)
			}
			return nil
		})
		r.Kick(d)
		pass(time.Second)
		in := r.file("top/new", "B")
		r.Kick(in.DID)
		pass(5 * time.Second)
		if got := r.at(in); got != "A B" {
			t.Errorf("it is at %s", got)
		}
		late := r.file("top/big/late", "B") // and what is in the directory is looked at in the end
		r.Kick(late.DID, d)
		pass(5 * time.Minute)
		if got := r.at(late); got != "A B" {
			t.Errorf("the other is at %s", got)
		}
		r.isState(id, backends.RuleOK, "")
	}, func(o *replication.Options) { o.Sweep = 24 * time.Hour })
}
