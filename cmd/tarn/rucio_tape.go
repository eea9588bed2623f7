package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"tarn/backends"
	"tarn/backends/catalogue/rucio"
	"tarn/backends/catalogue/rucio/rest"
)

// spot is where a replica lies.
type spot struct{ rse, pfn string }

// tapeIndex knows which files the replicas on tape are of that were met lately: a tape system is asked for paths, a rule is for DIDs.
type tapeIndex struct {
	dids *lru.Cache[spot, backends.DID]
}

// metTapes bounds it; each is some 300 bytes.
const metTapes = 200_000

func newTapeIndex() *tapeIndex {
	c, _ := lru.New[spot, backends.DID](metTapes) // fails for a size below 1 only
	return &tapeIndex{dids: c}
}

// withTapes is the catalogue that notes what it tells of tapes.
type withTapes struct {
	*rucio.Catalogue
	tapes map[string]bool // RSEs
	index *tapeIndex
}

// Replicas is the catalogue's.
func (c *withTapes) Replicas(ctx context.Context, d backends.DID) ([]backends.Replica, error) {
	reps, err := c.Catalogue.Replicas(ctx, d)
	for _, r := range reps {
		if c.tapes[r.RSE] {
			c.index.dids.Add(spot{r.RSE, r.PFN}, d)
		}
	}
	return reps, err
}

// rucioTape recalls by rules: one with a lifetime on the staging area of the tape, or else on a disk. Rucio's daemons do the rest, and
// tell what became of it by the rule's state; the file is then read where the rule has brought it, so for a tape itself nothing is ever online.
type rucioTape struct {
	o       *opened
	rse     string
	staging string // RSE
	index   *tapeIndex
}

var _ backends.Tape = (*rucioTape)(nil)

// Locality is NEARLINE for all: Rucio has no record of what a tape system has staged.
func (t *rucioTape) Locality(_ context.Context, paths ...string) ([]backends.Locality, error) {
	return slices.Repeat([]backends.Locality{backends.Nearline}, len(paths)), nil
}

// target is the RSE expression to which files are brought.
func (t *rucioTape) target() string {
	return cmp.Or(t.staging, t.o.cfg.Catalogue.PinTo, "rse_type=DISK")
}

// recallActivity is Rucio's for what is brought from tape (schema/generic.py, ACTIVITY).
const recallActivity = "Staging"

// Stage asks for a rule of each file. One that is there already, by this account, is joined. Which they are is the ID: it outlives this process.
func (t *rucioTape) Stage(ctx context.Context, paths ...string) (backends.RecallID, error) {
	ids := make([]string, len(paths))
	lifetime, activity, comment := int64(t.o.cfg.Catalogue.PinLifetime.D()/time.Second), recallActivity, "recalled by tarn"
	for i, p := range paths {
		d, ok := t.index.dids.Get(spot{t.rse, p})
		if !ok {
			return "", fmt.Errorf("recall %s at %s: which file it is of is not known any more; open it again: %w: %w", p, t.rse, backends.ErrUnavailable, backends.ErrTemporary)
		}
		account, _ := t.o.client.Account()
		r := rest.NewRule{
			DIDs: []backends.DID{d}, Account: account, Copies: 1, Expression: t.target(), Lifetime: &lifetime, Grouping: "NONE",
			Activity: &activity, Comment: &comment, Priority: 3, Asynchronous: false,
		}
		id, err := t.o.client.EnsureRule(ctx, r)
		if err != nil {
			return "", fmt.Errorf("recall %s from %s to %s: %w", d, t.rse, t.target(), err)
		}
		ids[i] = id
	}
	b, err := json.Marshal(recallOf{Paths: paths, Rules: ids})
	return backends.RecallID(b), err
}

// recallOf is what a RecallID holds.
type recallOf struct {
	Paths []string `json:"paths"`
	Rules []string `json:"rules"`
}

func (t *rucioTape) parse(id backends.RecallID) (r recallOf, err error) {
	if json.Unmarshal([]byte(id), &r) != nil || len(r.Paths) != len(r.Rules) {
		return r, fmt.Errorf("recall %s: %w", id, backends.ErrNotExist)
	}
	return r, nil
}

// Poll asks for the state of each rule.
func (t *rucioTape) Poll(ctx context.Context, id backends.RecallID) ([]backends.RecallState, error) {
	q, err := t.parse(id)
	if err != nil {
		return nil, err
	}
	out := make([]backends.RecallState, len(q.Paths))
	for i, p := range q.Paths {
		out[i] = backends.RecallState{Path: p}
		r, err := t.o.client.Rule(ctx, q.Rules[i])
		switch {
		case errors.Is(err, backends.ErrNotExist):
			out[i].Phase, out[i].Error = backends.RecallFailed, "its rule has ended or was removed"
		case err != nil:
			return nil, err
		default:
			out[i].Phase, out[i].Error = phaseOf(r)
			if out[i].Phase == backends.RecallCompleted {
				if d, ok := t.index.dids.Get(spot{t.rse, p}); ok {
					t.o.rucio.Refresh(d) // it has a replica more
				}
			}
		}
	}
	return out, nil
}

// phaseOf is a rule's state in the words of a recall. STUCK is a passing state: Rucio's judge-repairer tries again.
func phaseOf(r rest.Rule) (backends.RecallPhase, string) {
	switch r.State {
	case "OK":
		return backends.RecallCompleted, ""
	case "INJECT", "WAITING_APPROVAL":
		return backends.RecallSubmitted, ""
	case "SUSPENDED":
		return backends.RecallFailed, "its rule is suspended: " + r.Error
	}
	return backends.RecallStarted, ""
}

// Cancel and Release let the rules go. An ordinary account may be refused that: they end with their lifetime.
func (t *rucioTape) Cancel(ctx context.Context, id backends.RecallID, paths ...string) error {
	q, err := t.parse(id)
	if err != nil {
		return err
	}
	for i, p := range q.Paths {
		if len(paths) > 0 && !slices.Contains(paths, p) {
			continue
		}
		err := t.o.client.DeleteRule(ctx, q.Rules[i])
		switch {
		case errors.Is(err, backends.ErrPermission):
			t.o.log.Debug("a recall's rule stays until its lifetime ends", "rule", q.Rules[i], "err", err)
		case err != nil && !errors.Is(err, backends.ErrNotExist):
			return err
		}
	}
	return nil
}

// Release leaves the pins to their lifetime: others may read the file from there meanwhile.
func (t *rucioTape) Release(context.Context, backends.RecallID, ...string) error { return nil }

// Plan cannot tell: Rucio does not know the tapes.
func (t *rucioTape) Plan(context.Context, ...string) (backends.RecallPlan, error) {
	return backends.RecallPlan{}, fmt.Errorf("what a recall costs is not told by Rucio: %w", backends.ErrNotSupported)
}
