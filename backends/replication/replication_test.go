package replication_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
	"tarn/backends/replication"
)

var ctx = context.Background()

type rig struct {
	*replication.Engine
	t     *testing.T
	l     *lake.Lake
	cat   *laketest.Catalogue
	disks map[string]*laketest.Storage
	tape  *laketest.Tape
	stop  func()
}

// inBubble runs f with an engine over disks A, B, C and a tape, on a synthetic clock. The
// engine does not run until start.
func inBubble(t *testing.T, f func(t *testing.T, r *rig), change ...func(*replication.Options)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, cat: laketest.NewCatalogue(), disks: map[string]*laketest.Storage{}, tape: laketest.NewTape(time.Minute), stop: func() {}}
		var rses []*lake.RSE
		for i, name := range []string{"A", "B", "C"} {
			r.disks[name] = laketest.NewStorage()
			rses = append(rses, &lake.RSE{RSE: backends.RSE{Name: name, Kind: backends.DiskKind}, Storage: r.disks[name], Distance: i})
		}
		rses = append(rses, &lake.RSE{RSE: backends.RSE{Name: "T", Kind: backends.TapeKind}, Storage: r.tape.Storage, Tape: r.tape, Distance: 9})
		var log *slog.Logger
		if testing.Verbose() {
			log = slog.New(slog.NewTextHandler(t.Output(), nil))
		}
		var err error
		r.l, err = lake.New(lake.Options{Catalogue: r.cat, Namespace: r.cat, Versions: r.cat, Rules: r.cat, Records: r.cat, RSEs: rses, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		r.cat.AddScope(ctx, backends.Info{DID: backends.DID{Scope: "s"}})
		r.cat.AddScope(ctx, backends.Info{DID: backends.DID{Scope: "m"}, Layout: backends.LayoutContents})
		o := replication.Options{Log: log}
		for _, c := range change {
			c(&o)
		}
		r.Engine = replication.New(r.l, o)
		f(t, r)
		r.stop()
		r.l.Close()
	})
}

func (r *rig) start() {
	run, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- r.Run(run) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
		r.stop = func() {}
	}
	pass(time.Second)
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func content(name string) []byte { return bytes.Repeat([]byte(name+"\n"), 100) }

func (r *rig) file(name string, at ...string) backends.Info {
	r.t.Helper()
	data := content(name)
	h := checksum.New()
	h.Write(data)
	in := backends.Info{DID: backends.DID{Scope: "s", Name: "/s/" + name}, Type: backends.File, Size: int64(len(data)), Checksums: h.Sum()}
	var reps []backends.Replica
	for _, rse := range at {
		pfn := rse + "/" + name
		if rse == "T" {
			r.tape.Put(pfn, data)
		} else {
			r.disks[rse].Put(pfn, data)
		}
		reps = append(reps, backends.Replica{RSE: rse, PFN: pfn, State: backends.Available, Verified: time.Now()})
	}
	if err := r.cat.Add(ctx, in, nil, reps...); err != nil {
		r.t.Fatal(err)
	}
	in, err := r.cat.Stat(ctx, in.DID)
	if err != nil {
		r.t.Fatal(err)
	}
	return in
}

func (r *rig) dir(d backends.DID, children ...backends.DID) backends.DID {
	r.t.Helper()
	if err := r.cat.Add(ctx, backends.Info{DID: d, Type: backends.Container}, nil); err != nil {
		r.t.Fatal(err)
	}
	if len(children) > 0 {
		r.cat.Attach(ctx, d, children...)
	}
	return d
}

func (r *rig) rule(d backends.DID, copies int, expr string) backends.RuleID {
	r.t.Helper()
	id, err := r.cat.AddRule(ctx, backends.Rule{DID: d, Copies: copies, Expression: expr})
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

func (r *rig) state(id backends.RuleID) (s backends.RuleStatus) {
	for x := range r.cat.AllRules(ctx) {
		if x.ID == id {
			return x
		}
	}
	return s
}

func (r *rig) isState(id backends.RuleID, want backends.RuleState, says string) {
	r.t.Helper()
	if s := r.state(id); s.State != want || !strings.Contains(s.Error, says) {
		r.t.Errorf("rule is %s (%q), want %s with %q", s.State, s.Error, want, says)
	}
}

// at names the RSEs of the good replicas, and proves their bytes.
func (r *rig) at(in backends.Info) string {
	r.t.Helper()
	reps, err := r.cat.Replicas(ctx, in.DID)
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, x := range reps {
		s := r.tape.Storage
		if d := r.disks[x.RSE]; d != nil {
			s = d
		}
		switch {
		case x.State != backends.Available:
			out = append(out, x.RSE+":"+string(x.State))
		case int64(len(s.Get(x.PFN))) != in.Size:
			r.t.Errorf("%s at %s: wrong bytes", in.DID, x.RSE)
		default:
			out = append(out, x.RSE)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestRulesBecomeCopies(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b := r.file("a", "A"), r.file("b", "C")
		ra, rb := r.rule(a.DID, 2, "*"), r.rule(b.DID, 2, `rse_type=DISK\A`)
		rt := r.rule(b.DID, 1, "rse_type=TAPE")
		r.start()
		if got := r.at(a); got != "A B" {
			t.Errorf("a is at %s", got)
		}
		if got := r.at(b); got != "B C T" {
			t.Errorf("b is at %s", got)
		}
		for _, id := range []backends.RuleID{ra, rb, rt} {
			r.isState(id, backends.RuleOK, "")
		}
		if s := r.Status(); s.Copied != 3 || s.CopiedBytes != 600 || s.Running+s.Queued+s.Waiting != 0 || s.SweptRules != 3 {
			t.Errorf("status %+v", s)
		}
		// A new file with its rule is looked at when kicked, without a sweep.
		c := r.file("c", "A")
		rc := r.rule(c.DID, 1, "B")
		r.Kick(c.DID)
		pass(100 * time.Millisecond)
		if got := r.at(c); got != "A B" {
			t.Errorf("c is at %s", got)
		}
		r.isState(rc, backends.RuleOK, "")
		if err := r.Run(ctx); err == nil {
			t.Error("runs twice")
		}
	})
}

func TestTwoRulesShareACopy(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "C")
		r.rule(a.DID, 2, "*")
		r.rule(a.DID, 1, "A|B")
		r.start()
		if got := r.at(a); got != "A C" {
			t.Errorf("a is at %s", got)
		}
	})
}

// slowCatalogue answers Replicas with what was true a second ago.
type slowCatalogue struct{ *laketest.Catalogue }

func (c slowCatalogue) Replicas(ctx context.Context, d backends.DID) ([]backends.Replica, error) {
	rs, err := c.Catalogue.Replicas(ctx, d)
	time.Sleep(time.Second)
	return rs, err
}

// Looks at one file from all sides, while its copies are made, ask for none twice.
func TestNoCopyIsMadeTwice(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l, err := lake.New(lake.Options{Catalogue: slowCatalogue{r.cat}, Namespace: r.cat, Versions: r.cat, Rules: r.cat, RSEs: r.l.RSEs()})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		r.Engine = replication.New(l, replication.Options{Pending: 700 * time.Millisecond})
		a := r.file("a", "A")
		r.rule(a.DID, 2, "*")
		r.rule(a.DID, 2, "rse_type=DISK")
		r.rule(a.DID, 1, "B|C")
		r.start()
		for range 100 {
			r.Kick(a.DID)
			pass(100 * time.Millisecond)
		}
		if s := r.Status(); s.Copied != 1 || r.at(a) != "A B" {
			t.Errorf("at %s, status %+v", r.at(a), s)
		}
		r.stop()
	})
}

func TestRuleOnACollectionCoversWhatComesLater(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		top := r.dir(backends.DID{Scope: "s", Name: "/s/top"})
		r.dir(backends.DID{Scope: "s", Name: "/s/top/sub"})
		a, b := r.file("top/a", "A"), r.file("top/sub/b", "A")
		other := r.file("other", "A")
		id := r.rule(top, 1, "B")
		r.start()
		pass(time.Minute)
		if r.at(a) != "A B" || r.at(b) != "A B" || r.at(other) != "A" {
			t.Errorf("%s, %s, %s", r.at(a), r.at(b), r.at(other))
		}
		r.isState(id, backends.RuleOK, "")
		// Kicked.
		r.disks["B"].Fail(func(op, _ string) error {
			if op == "commit" {
				time.Sleep(time.Second)
			}
			return nil
		})
		c := r.file("top/sub/c", "A")
		r.Kick(c.DID)
		pass(100 * time.Millisecond)
		r.isState(id, backends.RuleReplicating, "")
		pass(2 * time.Second)
		if got := r.at(c); got != "A B" {
			t.Errorf("c is at %s", got)
		}
		pass(time.Second)
		r.isState(id, backends.RuleOK, "")
		// Not kicked: the sweep finds it.
		d := r.file("top/sub/d", "A")
		pass(11 * time.Minute)
		if got := r.at(d); got != "A B" {
			t.Errorf("d is at %s", got)
		}
		r.isState(id, backends.RuleOK, "")
	})
}

func TestCollectionWithinItself(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A")
		x, y := backends.DID{Scope: "m", Name: "x"}, backends.DID{Scope: "m", Name: "y"}
		r.dir(x, a.DID)
		r.dir(y, x, a.DID)
		r.cat.Attach(ctx, x, y)
		id := r.rule(x, 1, "B")
		r.start()
		r.isState(id, backends.RuleOK, "")
		if got := r.at(a); got != "A B" {
			t.Errorf("a is at %s", got)
		}
	})
}

func TestMoreFilesThanTheQueueHolds(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		top := r.dir(backends.DID{Scope: "s", Name: "/s/top"})
		var all []backends.Info
		for i := range 200 {
			all = append(all, r.file(fmt.Sprintf("top/%03d", i), "A"))
		}
		var mu sync.Mutex
		busy, most := 0, 0
		r.disks["B"].Fail(func(op, _ string) error {
			if op == "commit" {
				mu.Lock()
				busy++
				most = max(most, busy)
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				busy--
				mu.Unlock()
			}
			return nil
		})
		id := r.rule(top, 1, "B")
		r.start()
		if s := r.Status(); s.Queued > 8+1 || // one that waits for room
			s.Running > 3 || s.Running == 0 {
			t.Errorf("status %+v", s)
		}
		// A kicked file does not wait for the long rule.
		k := r.file("kicked", "A")
		r.rule(k.DID, 2, "B|C")
		r.Kick(k.DID)
		pass(2 * time.Second)
		if got := r.at(k); got != "A B C" {
			t.Errorf("kicked one is at %s", got)
		}
		pass(2 * time.Minute)
		for _, in := range all {
			if got := r.at(in); got != "A B" {
				t.Fatalf("%s is at %s", in.DID, got)
			}
		}
		r.isState(id, backends.RuleOK, "")
		if most != 3 {
			t.Errorf("%d at a time", most)
		}
	}, func(o *replication.Options) { o.Queue, o.Workers = 8, 3 })
}

func TestSourcesOnTapeAreOneRequest(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		top := r.dir(backends.DID{Scope: "s", Name: "/s/top"})
		var all []backends.Info
		for i := range 50 {
			all = append(all, r.file(fmt.Sprintf("top/%d", i), "T"))
		}
		id := r.rule(top, 1, "A")
		r.start()
		if s := r.Status(); s.Staging != 50 || s.Running != 0 {
			t.Errorf("status %+v", s)
		}
		if tr := r.Transfers(); len(tr) != 50 || tr[0].State != replication.Staging || tr[0].Bytes == 0 {
			t.Errorf("transfers %+v", tr[0])
		}
		pass(5 * time.Minute)
		for _, in := range all {
			if got := r.at(in); got != "A T" {
				t.Fatalf("%s is at %s", in.DID, got)
			}
		}
		r.isState(id, backends.RuleOK, "")
		if n := r.tape.Calls("stage"); n != 1 {
			t.Errorf("%d stage requests", n)
		}
		if r.tape.Pins("T/top/0") != 0 {
			t.Error("still kept in the buffer")
		}
	})
}

func TestExpiredRule(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A")
		id, _ := r.cat.AddRule(ctx, backends.Rule{DID: a.DID, Copies: 2, Expression: "*", Expires: time.Now().Add(time.Hour)})
		r.start()
		r.isState(id, backends.RuleOK, "")
		pass(2 * time.Hour)
		if s := r.state(id); s.ID != "" {
			t.Errorf("rule is %+v", s)
		}
		if got := r.at(a); got != "A B" { // nobody asked for its deletion
			t.Errorf("a is at %s", got)
		}
	})
}

func TestReplacedMeanwhile(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A")
		id := r.rule(a.DID, 1, "B")
		r.disks["B"].Fail(func(op, _ string) error {
			if op == "commit" {
				r.disks["B"].Fail(nil)
				data := []byte("new")
				h := checksum.New()
				h.Write(data)
				r.disks["A"].Put("A/new", data)
				return r.cat.Add(ctx, backends.Info{DID: a.DID, Type: backends.File, Size: 3, Checksums: h.Sum()}, nil,
					backends.Replica{RSE: "A", PFN: "A/new", State: backends.Available})
			}
			return nil
		})
		r.start()
		pass(time.Second)
		now, _ := r.cat.Stat(ctx, a.DID)
		if got := r.at(now); got != "A B" || len(r.disks["B"].Paths()) != 1 {
			t.Errorf("at %s, files %v", got, r.disks["B"].Paths())
		}
		r.isState(id, backends.RuleOK, "")
	})
}

func TestCatalogueIsAwayForAWhile(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := r.file("a", "A")
		id := r.rule(a.DID, 1, "B")
		r.cat.Fail(func(string, backends.DID) error { return laketest.ErrDown })
		r.start()
		pass(time.Minute)
		r.cat.Fail(nil)
		pass(time.Minute)
		r.isState(id, backends.RuleOK, "")
	})
}

// A stop in the middle of copies is clean, and the next run ends them.
func TestStopAndStart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var slow atomic.Bool
		slow.Store(true)
		r.disks["B"].Fail(func(op, _ string) error {
			if op == "create" && slow.Load() {
				time.Sleep(time.Minute)
			}
			return nil
		})
		var all []backends.Info
		for i := range 10 {
			in := r.file(fmt.Sprint(i), "A")
			r.rule(in.DID, 1, "B")
			all = append(all, in)
		}
		tape := r.file("t", "T")
		r.rule(tape.DID, 1, "A")
		r.start()
		r.stop()
		if n := r.Status(); n.Running+n.Queued+n.Staging != 0 {
			t.Errorf("status %+v", n)
		}
		pass(time.Second)
		if r.tape.Pins("T/t") != 0 {
			t.Error("the recall goes on")
		}
		slow.Store(false)
		r.start()
		pass(2 * time.Minute)
		for _, in := range all {
			if got := r.at(in); got != "A B" {
				t.Errorf("%s is at %s", in.DID, got)
			}
		}
		if n := len(r.disks["B"].Paths()); n != 10 || r.at(tape) != "A T" {
			t.Errorf("%d files at B, %s", n, r.at(tape))
		}
	})
}

// What is kicked beyond the bound is found all the same, though its rule is OK and no sweep is due.
func TestKicksAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		top := r.dir(backends.DID{Scope: "s", Name: "/s/top"})
		r.file("top/a", "A")
		id := r.rule(top, 1, "B")
		r.start()
		r.isState(id, backends.RuleOK, "")
		var dids []backends.DID
		for i := range 1 << 17 {
			dids = append(dids, backends.DID{Scope: "s", Name: fmt.Sprintf("/s/none%d", i)})
		}
		b := r.file("top/b", "A")
		r.Kick(append(dids, b.DID)...)
		pass(time.Minute)
		r.isState(id, backends.RuleOK, "")
		if got := r.at(b); got != "A B" {
			t.Errorf("b is at %s", got)
		}
	})
}
