package rucio

import (
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/servertest"
)

// A rule that was deleted is there for an hour yet: what is told of it says when it ends. Of two that match, one that lasts is told.
func TestHeldByRuleThatEnds(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c := r.lfn(t, Options{})
	mkdir(t, c, r.did("d"), backends.Dataset)
	add(t, c, r.file("d/f", 3))
	want := []backends.Rule{{Copies: 1, Expression: r.disk}}
	lasts := func() bool {
		t.Helper()
		held, err := c.Held(t.Context(), r.did("d"), want, nil)
		must(t, err)
		if held[0].ID == "" {
			t.Fatal("no rule is there")
		}
		return held[0].Lasts(want[0], time.Now())
	}
	must(t, c.Ask(t.Context(), []backends.DID{r.did("d")}, want))
	if !lasts() {
		t.Error("a rule without an end does not last")
	}
	held, err := c.Held(t.Context(), r.did("d"), want, nil)
	must(t, err)
	r.Do("DELETE", "/rules/"+string(held[0].ID), map[string]any{}) // which a plain user may not
	if lasts() {
		t.Error("a rule that was deleted lasts")
	}
	other := r.Unique("user")
	r.AddAccount(other)
	r.SetQuota(other, -1, r.disk)
	r.Do("POST", "/rules/", rest.NewRule{DIDs: []backends.DID{r.did("d")}, Account: other, Copies: 1, Expression: r.disk, Grouping: "DATASET", Priority: 3, Asynchronous: true})
	if !lasts() {
		t.Error("that of another account, which has no end, is not told")
	}
}

// A rule that was taken away is made again for whoever asks after it was missed.
func TestAskForARuleThatIsGone(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c := r.lfn(t, Options{})
	mkdir(t, c, r.did("d"), backends.Dataset)
	want := []backends.Rule{{Copies: 1, Expression: r.disk}}
	dirs := []backends.DID{r.did("d")}
	id := func() backends.RuleID {
		t.Helper()
		held, err := c.Held(t.Context(), dirs[0], want, nil)
		must(t, err)
		return held[0].ID
	}
	must(t, c.Ask(t.Context(), dirs, want))
	first := id()
	r.Do("PUT", "/rules/"+string(first), map[string]any{"options": map[string]any{"lifetime": -3600}})
	r.Daemons("cleaner")
	if x := id(); x != "" {
		t.Fatalf("rule %s is there", x)
	}
	must(t, c.Ask(t.Context(), dirs, want))
	if x := id(); x == "" || x == first {
		t.Errorf("rule %q is there; the first one was %s", x, first)
	}
}
