package replication_test

import (
	"context"
	"iter"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/lake"
	"tarn/backends/replication"
)

// counted counts what is asked of the catalogue, each entry of a listing for one.
type counted struct {
	*embedded.Catalogue
	asked, states atomic.Int64
}

func (c *counted) Stat(ctx context.Context, d backends.DID) (backends.Info, error) {
	c.asked.Add(1)
	return c.Catalogue.Stat(ctx, d)
}

func (c *counted) Replicas(ctx context.Context, d backends.DID) ([]backends.Replica, error) {
	c.asked.Add(1)
	return c.Catalogue.Replicas(ctx, d)
}

func (c *counted) PutReplica(ctx context.Context, d backends.DID, gen backends.Generation, r backends.Replica) error {
	c.asked.Add(1)
	return c.Catalogue.PutReplica(ctx, d, gen, r)
}

func (c *counted) Contents(ctx context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		for in, err := range c.Catalogue.Contents(ctx, d, after) {
			c.asked.Add(1)
			if !yield(in, err) {
				return
			}
		}
	}
}

func (c *counted) RulesOf(ctx context.Context, d backends.DID) iter.Seq2[backends.RuleStatus, error] {
	c.asked.Add(1)
	return c.Catalogue.RulesOf(ctx, d)
}

func (c *counted) SetRuleState(ctx context.Context, id backends.RuleID, s backends.RuleState, why string) error {
	c.states.Add(1)
	return c.Catalogue.SetRuleState(ctx, id, s, why)
}

// What is asked of the catalogue for a file does not grow with the rule that it is under: of files that are there when
// the rule is added, and of files that come one after the other, each with its Kick, while others are copied.
func TestCostOfAFileIsFlat(t *testing.T) {
	cost := func(n int, coming bool) float64 {
		r := newReal(t, "", replication.Options{}, "A", "B")
		c := &counted{Catalogue: r.cat}
		l, err := lake.New(lake.Options{Catalogue: c, Namespace: r.cat, Versions: r.cat, Rules: c, RSEs: r.l.RSEs()})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		r.Engine = replication.New(l, replication.Options{})
		d := r.dir("/s/d")
		if !coming {
			r.add("/s/d", 0, n, []byte("x"), "A")
		}
		r.start()
		r.rule(backends.Rule{DID: d, Expression: "B"})
		var all []backends.DID
		for i := 0; coming && i < n; i += 50 {
			more := r.add("/s/d", i, 50, []byte("x"), "A")
			r.Kick(more...)
			all = append(all, more...)
		}
		r.awaitCopies(5*time.Minute, 2, all)
		r.await(5 * time.Minute)
		r.stop()
		if c.states.Load() > int64(n/2+10) {
			t.Errorf("the state of the rule was noted %d times for %d files", c.states.Load(), n)
		}
		return float64(c.asked.Load()) / float64(n)
	}
	for _, coming := range []bool{false, true} {
		few, many := cost(200, coming), cost(1200, coming)
		t.Logf("coming %v: %.1f a file of 200, %.1f of 1200", coming, few, many)
		if many > 1.3*few {
			t.Errorf("coming %v: a file of 200 costs %.1f, and of 1200 %.1f", coming, few, many)
		}
	}
}
