package replication

import (
	"context"
	"errors"
	"fmt"
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
