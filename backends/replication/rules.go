package replication

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"tarn/backends"
)

// dirtyRule is a rule on a collection of which something has changed: it is evaluated as
// a whole, but not so often that this would take more than a tenth of the time.
type dirtyRule struct {
	rule  backends.RuleStatus
	want  bool
	after time.Time
}

// sweepLoop evaluates rules: all of them now and then, those that are not OK more often.
func (e *Engine) sweepLoop(ctx context.Context) {
	slots := make(chan struct{}, e.o.Rules)
	var nextAll, nextPending time.Time
	for ctx.Err() == nil {
		now := time.Now()
		e.mu.Lock()
		kicked := e.sweepNow
		e.sweepNow = false
		dirty, nextDirty := e.dirtyLocked(now)
		e.mu.Unlock()
		switch {
		case !now.Before(nextAll):
			e.sweep(ctx, slots)
			nextAll, nextPending = time.Now().Add(e.o.Sweep), time.Now().Add(e.o.Pending)
		case kicked || !now.Before(nextPending):
			e.sweep(ctx, slots, backends.RuleReplicating, backends.RuleStuck)
			nextPending = time.Now().Add(e.o.Pending)
		}
		for _, r := range dirty {
			e.begin(ctx, slots, r)
		}
		next := nextAll
		for _, t := range []time.Time{nextPending, nextDirty} {
			if !t.IsZero() && t.Before(next) {
				next = t
			}
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
		case <-e.sweepWake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// dirtyLocked takes the dirty rules that are due, and tells when the next one is.
func (e *Engine) dirtyLocked(now time.Time) (due []backends.RuleStatus, next time.Time) {
	for id, d := range e.dirty {
		switch {
		case d.after.After(now):
			if d.want && (next.IsZero() || d.after.Before(next)) {
				next = d.after
			}
		case d.want && !e.evaluating[id]:
			d.want = false
			due = append(due, d.rule)
		case !d.want:
			delete(e.dirty, id)
		}
	}
	return due, next
}

// sweep evaluates the rules in the given states, all for none.
func (e *Engine) sweep(ctx context.Context, slots chan struct{}, states ...backends.RuleState) {
	n, begun := 0, e.o.Now()
	for r, err := range e.l.Rules().AllRules(ctx, states...) {
		if err != nil {
			if ctx.Err() == nil {
				e.log.Warn("rules not swept", "err", err)
			}
			return
		}
		n++
		e.begin(ctx, slots, r)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats.LastSweep, e.stats.SweptRules = begun, n
}

// begin evaluates a rule in a goroutine of its own, once there is a slot.
func (e *Engine) begin(ctx context.Context, slots chan struct{}, r backends.RuleStatus) {
	select {
	case <-ctx.Done():
		return
	case slots <- struct{}{}:
	}
	e.mu.Lock()
	busy := e.evaluating[r.ID]
	e.evaluating[r.ID] = true
	e.mu.Unlock()
	if busy {
		<-slots
		return
	}
	e.wg.Go(func() {
		defer func() { <-slots }()
		begun := time.Now()
		e.evaluate(ctx, r, true)
		took := time.Since(begun)
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.evaluating, r.ID)
		if d := e.dirty[r.ID]; d != nil {
			d.after = time.Now().Add(10 * took)
			if d.want {
				ring(e.sweepWake)
			}
		}
	})
}

// markDirty asks for a rule to be evaluated as a whole.
func (e *Engine) markDirty(r backends.RuleStatus) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.dirty[r.ID]
	if d == nil {
		if len(e.dirty) >= maxKicked {
			e.sweepNow = true
			ring(e.sweepWake)
			return
		}
		d = &dirtyRule{}
		e.dirty[r.ID] = d
	}
	d.rule, d.want = r, true
	ring(e.sweepWake)
}

// tally is what a look at the files of a rule gave.
type tally struct {
	missing int    // files that lack copies
	stuck   int    // of these, those that will not get them soon
	why     string // of the first stuck one
}

func (t *tally) stick(d backends.DID, err error) {
	if t.stuck++; t.stuck == 1 {
		t.why = fmt.Sprintf("%s: %v", d, err)
	}
}

// evaluate looks at every file below the rule's DID, asks for the copies that it lacks,
// and notes the state of the rule. With wait it waits for room in the queues.
func (e *Engine) evaluate(ctx context.Context, r backends.RuleStatus, wait bool) {
	if !r.Expires.IsZero() && !e.o.Now().Before(r.Expires) {
		err := e.l.Rules().DeleteRule(ctx, r.ID)
		if err != nil && !errors.Is(err, backends.ErrNotExist) {
			e.log.Warn("expired rule not deleted", "rule", r.ID, "did", r.DID, "err", err)
			return
		}
		e.log.Info("rule has expired", "rule", r.ID, "did", r.DID)
		return
	}
	var t tally
	for in, err := range e.files(ctx, r.DID) {
		if err == nil {
			err = e.file(ctx, r, in, &t, wait)
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, backends.ErrNotExist) && in.DID.IsZero() {
			t.missing++
			t.stick(r.DID, backends.ErrNotExist)
			continue
		}
		if err != nil { // the catalogue does not answer: nothing is known, the next sweep sees
			e.log.Warn("rule not evaluated", "rule", r.ID, "did", r.DID, "err", err)
			return
		}
	}
	e.setState(ctx, r, t)
}

func (e *Engine) setState(ctx context.Context, r backends.RuleStatus, t tally) {
	state, why := backends.RuleOK, ""
	switch {
	case t.stuck > 0:
		state, why = backends.RuleStuck, t.why
		if t.stuck > 1 {
			why = fmt.Sprintf("%d files; %s", t.stuck, why)
		}
	case t.missing > 0:
		state = backends.RuleReplicating
	}
	if state == r.State && why == r.Error {
		return
	}
	err := e.l.Rules().SetRuleState(ctx, r.ID, state, why)
	if err != nil && !errors.Is(err, backends.ErrNotExist) && ctx.Err() == nil {
		e.log.Warn("state of rule not noted", "rule", r.ID, "state", state, "err", err)
		return
	}
	if state == backends.RuleStuck {
		e.log.Warn("rule is stuck", "rule", r.ID, "did", r.DID, "why", why)
	}
}

// file looks at one file under one rule. Its error is the catalogue's.
func (e *Engine) file(ctx context.Context, r backends.RuleStatus, in backends.Info, t *tally, wait bool) error {
	have, err := e.l.Catalogue().Replicas(ctx, in.DID)
	if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
		return nil // gone since it was listed
	}
	if err != nil {
		return err
	}
	missing, err := e.l.Missing(r.Rule, have)
	if err != nil {
		t.missing++
		t.stick(in.DID, err)
		return nil
	}
	if missing <= 0 {
		e.forget(key{in.DID, ""})
		return e.removeBad(ctx, in, have)
	}
	t.missing++
	rule, planned, given := e.withPlanned(r.Rule, in, have)
	targets, err := e.l.Targets(ctx, rule, planned, in.Size)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, rse := range targets {
		e.enqueue(ctx, in, rse, have, wait)
	}
	switch {
	case given != nil: // copies that failed so often that others are tried, and there are none
		if err != nil || len(targets) == 0 {
			t.stick(in.DID, given)
		}
	case err != nil && backends.IsTemporary(err):
		if e.failed(key{in.DID, ""}, err) >= e.o.Failures {
			t.stick(in.DID, err)
		}
	case err != nil:
		t.stick(in.DID, err)
	}
	return nil
}

// withPlanned adds to what a file has the copies under way, as if they were there. RSEs
// where its copy failed too often are taken out of the choice, and the reason is given.
func (e *Engine) withPlanned(r backends.Rule, in backends.Info, have []backends.Replica) (backends.Rule, []backends.Replica, error) {
	var given error
	planned := slices.Clone(have)
	plan := func(rse string) {
		i := slices.IndexFunc(planned, func(x backends.Replica) bool { return x.RSE == rse })
		if i < 0 {
			planned = append(planned, backends.Replica{RSE: rse})
			i = len(planned) - 1
		}
		planned[i].State = backends.Available
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, rse := range e.l.RSEs() {
		k := key{in.DID, rse.Name}
		if e.moves[k] != nil {
			plan(rse.Name)
			continue
		}
		t := e.trouble[k]
		if t == nil || t.attempts < e.o.Failures || time.Now().After(t.next) {
			continue
		}
		only := backends.Rule{Copies: 1, Expression: r.Expression}
		if n, err := e.l.Missing(only, []backends.Replica{{RSE: rse.Name, State: backends.Available}}); err != nil || n > 0 || rse.ReadOnly {
			continue // does not match: no choice of this rule
		}
		plan(rse.Name)
		r.Copies++
		given = t.err
	}
	return r, planned, given
}

// removeBad deletes what was declared BAD, now that the rule is fulfilled without it.
// One good copy must have been verified; nothing is deleted on the word of a register.
func (e *Engine) removeBad(ctx context.Context, in backends.Info, have []backends.Replica) error {
	verified := slices.ContainsFunc(have, func(r backends.Replica) bool {
		return r.State == backends.Available && !r.Verified.IsZero()
	})
	for _, r := range have {
		rse, known := e.l.RSE(r.RSE)
		if !verified || !known || rse.ReadOnly || r.State != backends.Bad && r.State != backends.BeingDeleted {
			continue
		}
		r.State = backends.BeingDeleted
		err := e.l.Catalogue().PutReplica(ctx, in.DID, in.Generation, r)
		if errors.Is(err, backends.ErrStale) || errors.Is(err, backends.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := rse.Storage.Remove(ctx, r.PFN); err != nil && !errors.Is(err, backends.ErrNotExist) {
			e.log.Warn("bad file not deleted yet", "did", in.DID, "rse", r.RSE, "pfn", r.PFN, "err", err)
			continue
		}
		e.log.Info("bad file deleted, others are good", "did", in.DID, "rse", r.RSE, "pfn", r.PFN)
		if err := e.l.Catalogue().DropReplica(ctx, in.DID, r.RSE); err != nil && !errors.Is(err, backends.ErrNotExist) {
			return err
		}
	}
	return nil
}

// maxDepth bounds the collections within collections that are walked.
const maxDepth = 128

// files streams the files at or below d, symbolic links left out. A file that is in
// several collections may come more than once; a collection within itself is passed once.
// The error for d itself being gone comes with the zero Info.
func (e *Engine) files(ctx context.Context, d backends.DID) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		in, err := e.l.Catalogue().Stat(ctx, d)
		if err != nil {
			yield(backends.Info{}, err)
			return
		}
		e.walk(ctx, in, nil, yield)
	}
}

func (e *Engine) walk(ctx context.Context, in backends.Info, above []backends.DID, yield func(backends.Info, error) bool) bool {
	if !in.IsDir() {
		return in.IsSymlink() || yield(in, nil)
	}
	if len(above) == maxDepth || slices.Contains(above, in.DID) {
		return true
	}
	above = append(above, in.DID)
	for child, err := range e.l.Catalogue().Contents(ctx, in.DID, "") {
		if errors.Is(err, backends.ErrNotExist) {
			return true // removed since it was listed
		}
		if err != nil {
			yield(in, err)
			return false
		}
		if !e.walk(ctx, child, above, yield) {
			return false
		}
	}
	return true
}
