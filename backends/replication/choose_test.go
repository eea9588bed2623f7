package replication_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/replication"
)

// The long link is used once: the copies of a rule with a source are made of those there, wait for them without being
// failures, and go on as soon as they are there. Real catalogue, real folders.
func TestSecondCopyComesFromTheFirstDestination(t *testing.T) {
	r := newReal(t, t.TempDir(), replication.Options{Pending: time.Hour, Sweep: time.Hour}, "PALMA", "PIC", "CNAF")
	d := r.dir("/s/d")
	data := bytes.Repeat([]byte("x"), 100_000)
	dids := r.add("/s/d", 0, 20, data, "PALMA")
	r.rule(backends.Rule{DID: d, Expression: "CNAF", Source: "PIC"})
	r.start()
	until := time.Now().Add(20 * time.Second)
	for r.Status().Sourceless < len(dids) && time.Now().Before(until) {
		time.Sleep(time.Millisecond)
	}
	tr := r.Transfers()
	if len(tr) != len(dids) || tr[0].State != replication.Waiting || tr[0].Error != "waits for a copy at PIC" || tr[0].Failures != 0 || r.reads["PALMA"].bytes() != 0 {
		t.Fatalf("%d transfers, %+v; %d bytes read", len(tr), tr, r.reads["PALMA"].bytes())
	}
	for st := range r.cat.AllRules(ctx) {
		if st.State != backends.RuleReplicating {
			t.Errorf("rule is %+v", st)
		}
	}
	r.rule(backends.Rule{DID: d, Expression: "PIC"})
	r.await(2 * time.Minute)
	all := int64(len(dids) * len(data))
	if palma, pic := r.reads["PALMA"].bytes(), r.reads["PIC"].bytes(); palma != all || pic < all {
		t.Errorf("%d bytes were read at PALMA, %d at PIC, of %d", palma, pic, all)
	}
	if s := r.Status(); s.Copied != 40 || s.Failures != 0 || s.Sourceless != 0 {
		t.Errorf("status %+v", s)
	}
	// A copy that somebody else has made, as an ingest does: its Kick is enough.
	more := r.add("/s/d", 100, 3, data, "PIC")
	r.Kick(more...)
	r.awaitCopies(2*time.Minute, 2, more)
	if palma := r.reads["PALMA"].bytes(); palma != all {
		t.Errorf("%d bytes were read at PALMA", palma)
	}
}

// A copy that waits for a source goes on when that is BAD no more, and a restart forgets nothing.
func TestSourceThatIsBad(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A", "B")
		r.l.DeclareBad(ctx, a, "B", errors.New("rotten"))
		id, _ := r.cat.AddRule(ctx, backends.Rule{DID: a.DID, Copies: 1, Expression: "C", Source: "B"})
		r.start()
		r.isState(id, backends.RuleReplicating, "")
		pass(time.Hour)
		r.isState(id, backends.RuleReplicating, "")
		r.stop()
		r.start()
		if tr := r.Transfers(); len(tr) != 1 || !strings.Contains(tr[0].Error, "waits for a copy at B") {
			t.Errorf("transfers %+v", tr)
		}
		r.cat.PutReplica(ctx, a.DID, "", backends.Replica{RSE: "B", PFN: "B/a", State: backends.Available, Verified: time.Now()})
		r.Kick(a.DID)
		pass(time.Second)
		r.isState(id, backends.RuleOK, "")
		if got := r.at(a); got != "A B C" {
			t.Errorf("a is at %s", got)
		}
	})
}

// From tape only, when the rule says so, although there is a copy on disk.
func TestSourceOnTape(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A", "T")
		id, _ := r.cat.AddRule(ctx, backends.Rule{DID: a.DID, Copies: 1, Expression: "B", Source: "rse_type=TAPE"})
		r.start()
		pass(5 * time.Minute)
		r.isState(id, backends.RuleOK, "")
		if r.tape.Calls("stage") != 1 || r.disks["A"].Calls("open") != 0 || r.tape.Pins("T/a") != 0 {
			t.Errorf("%d stage requests, %d reads of the disk, %d pins", r.tape.Calls("stage"), r.disks["A"].Calls("open"), r.tape.Pins("T/a"))
		}
	})
}

func where(t *testing.T, r *real, dids []backends.DID, but string) (at map[string]int) {
	t.Helper()
	at = map[string]int{}
	for _, d := range dids {
		rs, err := r.cat.Replicas(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range rs {
			if x.RSE != but && x.State == backends.Available {
				at[x.RSE]++
			}
		}
	}
	return at
}

// Files of one group go to the same RSEs, also after a restart; with NONE, and a weight, they are spread by it.
func TestGroupingAndWeight(t *testing.T) {
	names := []string{"SRC", "A", "B", "C", "D"}
	for _, c := range []struct {
		grouping backends.Grouping
		dirs     int // RSEs that the files of one directory are at
		all      int // that all files are at
	}{{backends.GroupAll, 1, 1}, {backends.GroupDataset, 1, 3}, {"", 1, 3}, {backends.GroupNone, 3, 3}} {
		t.Run(string(c.grouping), func(t *testing.T) {
			r := newReal(t, "", replication.Options{}, names...)
			for i, name := range names {
				rse, _ := r.l.RSE(name)
				rse.Attributes = map[string]string{}
				if name != "D" { // has no weight: is not chosen
					rse.Attributes["w"] = fmt.Sprint(max(i, 1))
				}
			}
			top := r.dir("/s/top")
			var dirs []string
			for i := range 12 {
				name := fmt.Sprintf("/s/top/%02d", i)
				r.dir(name)
				dirs = append(dirs, name)
			}
			fill := func(first int) (all []backends.DID) {
				for _, d := range dirs {
					all = append(all, r.add(d, first, 10, []byte("x"), "SRC")...)
				}
				return all
			}
			all := fill(0)
			r.start()
			r.rule(backends.Rule{DID: top, Expression: `*\SRC`, Weight: "w", Grouping: c.grouping})
			r.await(2 * time.Minute)
			r.stop()
			more := fill(10)
			r.start()
			r.Kick(more...)
			r.awaitCopies(2*time.Minute, 2, more)
			all = append(all, more...)
			if at := where(t, r, all, "SRC"); len(at) != c.all || at["D"] > 0 {
				t.Errorf("all are at %v", at)
			}
			if c.dirs > 1 {
				if at := where(t, r, all, "SRC"); at["C"] < at["A"] { // 3 to 1
					t.Errorf("by weight: %v", at)
				}
				return
			}
			for _, d := range dirs {
				of := slices.DeleteFunc(slices.Clone(all), func(x backends.DID) bool { return !strings.HasPrefix(x.Name, d+"/") })
				if at := where(t, r, of, "SRC"); len(of) != 20 || len(at) != c.dirs {
					t.Errorf("%d files of %s are at %v", len(of), d, at)
				}
			}
		})
	}
}

// A group follows where its files are already, and takes another RSE when there is no room.
func TestGroupFollowsItsFiles(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		top := r.dir(backends.DID{Scope: "s", Name: "/s/top"})
		for i := range 5 {
			r.file(fmt.Sprintf("top/old%d", i), "A", "C")
		}
		id := r.rule(top, 1, "B|C")
		n := r.file("top/new", "A")
		r.start()
		pass(time.Second)
		r.isState(id, backends.RuleOK, "")
		if got := r.at(n); got != "A C" {
			t.Errorf("new is at %s", got)
		}
		// Without files that it could follow, the first one decides, whatever becomes of the free space.
		r.disks["B"].Resize(1 << 30)
		r.disks["C"].Resize(1 << 20)
		other := r.dir(backends.DID{Scope: "s", Name: "/s/other"})
		r.rule(other, 1, "B|C")
		one := r.file("other/1", "A")
		r.Kick(one.DID)
		pass(time.Minute)
		r.disks["B"].Resize(1700)
		r.disks["C"].Resize(1 << 30)
		pass(time.Minute)
		two := r.file("other/2", "A")
		r.Kick(two.DID)
		pass(time.Second)
		if r.at(one) != "A B" || r.at(two) != "A B" {
			t.Errorf("one is at %s, two at %s", r.at(one), r.at(two))
		}
		r.disks["B"].Resize(1 << 30)
		r.disks["C"].Resize(10)
		m := r.file("top/newer", "A")
		pass(time.Minute)
		r.Kick(m.DID)
		pass(time.Second)
		if got := r.at(m); got != "A B" {
			t.Errorf("newer is at %s", got)
		}
	})
}

// Cancelled copies are not made again by sweeps, until they are asked for.
func TestCancelAndRetry(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		top := r.dir(backends.DID{Scope: "s", Name: "/s/top"})
		a, b := r.file("top/a", "A"), r.file("top/b", "A")
		id := r.rule(top, 1, "B")
		var mu sync.Mutex
		slow := true
		r.disks["B"].Fail(func(op, _ string) error {
			mu.Lock()
			s := slow
			mu.Unlock()
			if op == "create" && s {
				time.Sleep(time.Hour)
			}
			return nil
		})
		r.start()
		if s := r.Status(); s.Running != 2 {
			t.Fatalf("status %+v", s)
		}
		if n, err := r.Cancel(ctx, a.DID, ""); n != 1 || err != nil {
			t.Errorf("cancelled %d, %v", n, err)
		}
		mu.Lock()
		slow = false
		mu.Unlock()
		pass(3 * time.Hour)
		if r.at(a) != "A" || r.at(b) != "A B" {
			t.Errorf("a is at %s, b at %s", r.at(a), r.at(b))
		}
		r.isState(id, backends.RuleStuck, "cancelled")
		if s := r.Status(); s.Cancelled != 1 || s.Failures != 0 {
			t.Errorf("status %+v", s)
		}
		if n, err := r.Retry(ctx, top); n != 1 || err != nil {
			t.Errorf("retried %d, %v", n, err)
		}
		pass(time.Second)
		if got := r.at(a); got != "A B" {
			t.Errorf("a is at %s", got)
		}
		r.isState(id, backends.RuleOK, "")

		// To one RSE: another that matches is taken. A rule that is changed forgets it.
		c := r.file("c", "A")
		r.disks["B"].Fail(func(op, _ string) error {
			if op == "create" {
				return backends.ErrPermission
			}
			return nil
		})
		other := r.rule(c.DID, 1, "B|C")
		r.Kick(c.DID)
		pass(100 * time.Millisecond)
		if n, err := r.Cancel(ctx, c.DID, "B"); n != 1 || err != nil {
			t.Errorf("cancelled %d, %v", n, err)
		}
		pass(time.Second)
		r.isState(other, backends.RuleOK, "")
		if got := r.at(c); got != "A C" {
			t.Errorf("c is at %s", got)
		}
		if err := r.Changed(ctx, c.DID); err != nil || r.Status().Cancelled != 0 {
			t.Errorf("%v, %+v", err, r.Status())
		}
	})
}

// A forbidden link is not used, and one with a bound holds it.
func TestLinks(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		top := r.dir(backends.DID{Scope: "s", Name: "/s/top"})
		var all []backends.Info
		for i := range 12 {
			all = append(all, r.file(fmt.Sprintf("top/%02d", i), "A"))
		}
		var mu sync.Mutex
		busy, most := map[string]int{}, map[string]int{}
		for _, name := range []string{"B", "C"} {
			r.disks[name].Fail(func(op, _ string) error {
				if op != "commit" {
					return nil
				}
				mu.Lock()
				busy[name]++
				most[name] = max(most[name], busy[name])
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				busy[name]--
				mu.Unlock()
				return nil
			})
		}
		id := r.rule(top, 2, "B|C")
		r.start()
		pass(time.Minute)
		r.isState(id, backends.RuleOK, "")
		if most["B"] != 1 || most["C"] < 1 || r.disks["B"].Calls("open") == 0 {
			t.Errorf("at a time %v, %d reads at B", most, r.disks["B"].Calls("open"))
		}
		for _, in := range all {
			if got := r.at(in); got != "A B C" {
				t.Errorf("%s is at %s", in.DID, got)
			}
		}
	}, func(o *replication.Options) {
		o.Workers, o.Links = 4, []replication.Link{{From: "A", To: "B", Copies: 1}, {From: "A", To: "C", Copies: 0}}
	})
}

// Copies to many RSEs at once stay within a bound of all, and each RSE has its part.
func TestAllWorkersAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		top := r.dir(backends.DID{Scope: "s", Name: "/s/top"})
		for i := range 200 {
			r.file(fmt.Sprintf("top/%03d", i), "A")
		}
		var mu sync.Mutex
		all, most, at := 0, 0, map[string]int{}
		for _, name := range []string{"B", "C"} {
			r.disks[name].Fail(func(op, _ string) error {
				if op != "commit" {
					return nil
				}
				mu.Lock()
				all++
				most = max(most, all)
				at[name]++
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				all--
				mu.Unlock()
				return nil
			})
		}
		id := r.rule(top, 2, "B|C")
		r.start()
		pass(5 * time.Minute)
		r.isState(id, backends.RuleOK, "")
		if most > 10 || most < 6 || at["B"] != 200 || at["C"] != 200 {
			t.Errorf("%d at a time, %v", most, at)
		}
	}, func(o *replication.Options) { o.AllWorkers = 8 })
}
