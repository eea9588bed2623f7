package lake_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

func only(names ...string) lake.From {
	return func(r backends.RSE) bool {
		for _, n := range names {
			if r.Name == n {
				return true
			}
		}
		return false
	}
}

// A copy is made of what it may be made of, whatever else is nearer; also by servers.
func TestCopyFromSomeOnly(t *testing.T) {
	s := newServers(t)
	in := s.file("a", "NEAR", "FAR")
	rep, err := s.CopyFrom(ctx, in, s.dThird, only("FAR"), nil)
	if err != nil || s.pNear.Sent() != 0 || s.pFar.Sent() != 1 || s.near.Calls("open") != 0 {
		t.Fatalf("%+v, %v; NEAR sent %d, FAR %d", rep, err, s.pNear.Sent(), s.pFar.Sent())
	}
	r := newRig(t)
	in = r.file("a", "FAR", "NEAR", "TAPE")
	if rep, err := r.CopyFrom(ctx, in, r.tFarT, only("FAR"), nil); err != nil || r.near.Calls("open") != 0 || r.far.Calls("open") == 0 || r.tape.Calls("stage") != 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	// A source that turns out to be no good is declared BAD, and no other is read.
	bad := r.file("bad", "FAR", "NEAR")
	r.far.Put("FAR/bad", []byte("rotten"))
	if _, err := r.CopyFrom(ctx, bad, r.tFarT, only("FAR"), nil); err == nil || r.near.Calls("open") != 0 || r.replica(bad, "FAR").State != backends.Bad || r.replica(bad, "VAULT").RSE != "" {
		t.Errorf("%v; %+v", err, r.replica(bad, "VAULT"))
	}
	// None is AVAILABLE: nothing is begun, and what is there already is fine.
	if _, err := r.CopyFrom(ctx, bad, r.tFarT, only("FAR"), nil); !errors.Is(err, lake.ErrNoSource) || r.replica(bad, "VAULT").RSE != "" {
		t.Errorf("%v; %+v", err, r.replica(bad, "VAULT"))
	}
	if rep, err := r.CopyFrom(ctx, bad, r.dNear, only("FAR"), nil); err != nil || rep.RSE != "NEAR" {
		t.Errorf("%+v, %v", rep, err)
	}
	if _, err := r.CopyFrom(ctx, in, r.dFar, only("FAR"), nil); err != nil { // it has it
		t.Error(err)
	}
}

// From tape, if that is what it may be made of, though there is a copy on disk.
func TestCopyFromTape(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		in := r.file("a", "NEAR", "TAPE", "VAULT")
		if rep, err := r.CopyFrom(ctx, in, r.dFar, only("VAULT"), nil); err != nil || r.vault.Calls("stage") != 1 || r.tape.Calls("stage") != 0 || r.near.Calls("open") != 0 {
			t.Errorf("%+v, %v", rep, err)
		}
		pass(time.Second)
		if r.vault.Pins("VAULT/a") != 0 {
			t.Error("still kept in the buffer")
		}
	})
}

func TestAbandon(t *testing.T) {
	r := newRig(t)
	in := r.file("a", "NEAR")
	own, cancel := context.WithCancel(ctx)
	r.far.Fail(func(op, _ string) error {
		if op == "commit" {
			cancel()
			return own.Err()
		}
		return nil
	})
	if _, err := r.Copy(own, in, r.dFar, nil); err == nil || r.replica(in, "FAR").State != backends.Copying {
		t.Fatalf("%v, %+v", err, r.replica(in, "FAR"))
	}
	r.far.Fail(nil)
	if err := r.Abandon(ctx, in, r.dFar); err != nil || r.replica(in, "FAR").RSE != "" || len(r.far.Paths()) != 0 {
		t.Errorf("%v, %+v, %v", err, r.replica(in, "FAR"), r.far.Paths())
	}
	if err := r.Abandon(ctx, in, r.dNear); err != nil || r.replica(in, "NEAR").State != backends.Available {
		t.Errorf("%v, %+v", err, r.replica(in, "NEAR"))
	}
}

// A rule with a weight spreads files by it, always the same, and moves few of them when an RSE comes.
func TestTargetsByWeight(t *testing.T) {
	r := newRig(t)
	r.dNear.Attributes["w"], r.dFar.Attributes["w"], r.tTape.Attributes["w"], r.tFarT.Attributes["w"] = "1", "3", "0", "many"
	rule := backends.Rule{Copies: 1, Expression: "*", Weight: "w"}
	choose := func(seed string) string {
		t.Helper()
		got, err := r.TargetsBy(ctx, rule, nil, lake.Choice{Size: 1, Seed: seed})
		if err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
		return got[0].Name
	}
	at, first := map[string]int{}, map[string]string{}
	for i := range 4000 {
		seed := fmt.Sprint("/ctao/", i)
		first[seed] = choose(seed)
		at[first[seed]]++
	}
	if len(at) != 2 || math.Abs(float64(at["FAR"])/float64(at["NEAR"])-3) > 0.4 {
		t.Errorf("spread %v, want 3 to 1", at)
	}
	r.tTape.Attributes["w"] = "4" // half of all
	moved := 0
	for seed, was := range first {
		now := choose(seed)
		if now != was {
			moved++
			if now != "TAPE" {
				t.Fatalf("%s went from %s to %s", seed, was, now)
			}
		}
	}
	if moved < 1800 || moved > 2200 {
		t.Errorf("%d of 4000 moved, want half", moved)
	}
	rule.Copies = 4
	if got, err := r.TargetsBy(ctx, rule, nil, lake.Choice{Size: 1}); len(got) != 3 || !errors.Is(err, lake.ErrNoTarget) || !strings.Contains(err.Error(), "VAULT has no number above 0 as w") {
		t.Errorf("%d, %v", len(got), err)
	}
	// What is preferred comes first, where it can be chosen.
	rule = backends.Rule{Copies: 2, Expression: "*"}
	got, err := r.TargetsBy(ctx, rule, nil, lake.Choice{Size: 1, Prefer: []string{"X", "VAULT", "FAR"}})
	if err != nil || len(got) != 2 || got[0].Name != "VAULT" || got[1].Name != "FAR" {
		t.Errorf("%v, %v", got, err)
	}
}
