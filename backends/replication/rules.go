package replication

import (
	"context"
	"errors"
	"time"

	"tarn/backends"
)

// sweepLoop evaluates rules: all of them now and then, those that are not OK more often.
func (e *Engine) sweepLoop(ctx context.Context) {
	slots := make(chan struct{}, e.o.Rules)
	var nextAll, nextPending time.Time
	for ctx.Err() == nil {
		now := time.Now()
		e.mu.Lock()
		pending, all := e.sweepNow, e.sweepAll
		e.sweepNow, e.sweepAll = false, false
		e.mu.Unlock()
		switch {
		case all || !now.Before(nextAll):
			e.sweep(ctx, slots)
			nextAll, nextPending = time.Now().Add(e.o.Sweep), time.Now().Add(e.o.Pending)
		case pending || !now.Before(nextPending):
			e.sweep(ctx, slots, backends.RuleReplicating, backends.RuleStuck)
			nextPending = time.Now().Add(e.o.Pending)
		}
		due, nextDue := e.due(time.Now())
		for _, w := range due {
			e.begin(ctx, slots, w)
		}
		next := nextAll
		for _, t := range []time.Time{nextPending, nextDue} {
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

// work is what is to be done for a rule.
type work struct {
	rule backends.RuleStatus
	walk bool // look at all files
	mop  bool // look at those that lack copies
}

// due takes what is wanted of rules and may be done now, and tells when more may be.
func (e *Engine) due(now time.Time) (due []work, next time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	take := func(want *bool, after time.Time) bool {
		if !*want {
			return false
		}
		if after.After(now) {
			if next.IsZero() || after.Before(next) {
				next = after
			}
			return false
		}
		*want = false
		return true
	}
	for id := range e.wanting {
		g := e.ledgers[id]
		if g == nil {
			delete(e.wanting, id)
			continue
		}
		if e.evaluating[id] {
			continue // its end rings
		}
		w := work{rule: g.rule}
		w.walk = take(&g.wantWalk, g.afterWalk)
		w.mop = take(&g.wantMop, g.afterMop)
		if take(&g.wantNote, g.afterNote) || w.walk || w.mop {
			due = append(due, w)
		}
		if !g.wantWalk && !g.wantMop && !g.wantNote {
			delete(e.wanting, id)
		}
	}
	return due, next
}

// want asks for a look at all files of a rule, or at those that lack copies.
func (e *Engine) want(r backends.RuleStatus, walk bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.ledgerLocked(r)
	if walk {
		g.wantWalk = true
	} else {
		g.wantMop = true
	}
	e.wantingLocked(r.ID)
}

func (e *Engine) wantingLocked(id backends.RuleID) {
	e.wanting[id] = true
	ring(e.sweepWake)
}

// sweep looks at the rules in the given states, all for none: at all files of those of which that was not done yet,
// and, when it is about all, of which it was done long ago; else at those that lack copies.
func (e *Engine) sweep(ctx context.Context, slots chan struct{}, states ...backends.RuleState) {
	n, begun := 0, e.o.Now()
	all := len(states) == 0
	if all {
		e.mu.Lock()
		for _, g := range e.ledgers {
			g.seen = false
		}
		e.mu.Unlock()
	}
	for r, err := range e.l.Rules().AllRules(ctx, states...) {
		if err != nil {
			if ctx.Err() == nil {
				e.log.Warn("rules not swept", "err", err)
			}
			return
		}
		n++
		e.mu.Lock()
		g := e.ledgerLocked(r)
		g.seen = true
		now := time.Now()
		w := work{rule: r, walk: (all || !g.whole) && !now.Before(g.afterWalk), mop: !now.Before(g.afterMop)}
		if !g.whole && !w.walk && !g.walking {
			g.wantWalk = true
			e.wantingLocked(r.ID)
		}
		e.mu.Unlock()
		if w.walk || w.mop || expired(r, e.o.Now()) {
			e.begin(ctx, slots, w)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats.LastSweep, e.stats.SweptRules = begun, n
	if all {
		for id, g := range e.ledgers {
			if !g.seen && !e.evaluating[id] { // the rule is gone, or came during the sweep and is found again
				e.dropLedgerLocked(id)
			}
		}
	}
}

// begin does it in a goroutine of its own, once there is a slot.
func (e *Engine) begin(ctx context.Context, slots chan struct{}, w work) {
	select {
	case <-ctx.Done():
		return
	case slots <- struct{}{}:
	}
	id := w.rule.ID
	e.mu.Lock()
	busy := e.evaluating[id]
	if busy {
		g := e.ledgerLocked(w.rule)
		g.wantWalk = g.wantWalk || w.walk && !g.walking
		e.wanting[id] = true
	}
	e.evaluating[id] = true
	e.mu.Unlock()
	if busy {
		<-slots
		return
	}
	e.wg.Go(func() {
		defer func() { <-slots }()
		e.evaluate(ctx, w, true)
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.evaluating, id)
		if e.wanting[id] {
			ring(e.sweepWake)
		}
	})
}

// stillExpired reads a rule anew, which may have waited for its turn for minutes.
func (e *Engine) stillExpired(ctx context.Context, r backends.RuleStatus) (bool, error) {
	for now, err := range e.l.Rules().RulesOf(ctx, r.DID) {
		if err != nil {
			return false, err
		}
		if now.ID == r.ID {
			return expired(now, e.o.Now()), nil
		}
	}
	return true, nil // it is gone
}

func expired(r backends.RuleStatus, now time.Time) bool {
	return !r.Expires.IsZero() && !now.Before(r.Expires)
}

// evaluate looks at the files below the rule's DID, asks for the copies that they lack, and notes the state of the
// rule. With wait it waits for room in the queues.
func (e *Engine) evaluate(ctx context.Context, w work, wait bool) {
	r := w.rule
	if expired(r, e.o.Now()) {
		still, err := e.stillExpired(ctx, r)
		if err == nil && !still {
			return // it was added again since it was read
		}
		if err == nil {
			err = e.l.Rules().DeleteRule(ctx, r.ID)
		}
		if err != nil && !errors.Is(err, backends.ErrNotExist) {
			e.log.Warn("expired rule not deleted", "rule", r.ID, "did", r.DID, "err", err)
			return
		}
		e.log.Info("rule has expired", "rule", r.ID, "did", r.DID)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.dropLedgerLocked(r.ID)
		return
	}
	one := false
	if w.walk {
		one = e.walkAll(ctx, r, wait)
	}
	if w.mop && !w.walk {
		e.mop(ctx, r, wait)
	}
	if ctx.Err() != nil {
		return
	}
	e.settle(ctx, r.ID)
	e.mu.Lock()
	defer e.mu.Unlock()
	if g := e.ledgers[r.ID]; g != nil && !g.noting && !e.wanting[r.ID] && (one && len(g.lacking) == 0 || len(e.ledgers) > maxLedgers) {
		e.dropLedgerLocked(r.ID)
	}
}

// walkAll looks at all files of a rule; it tells whether that is a rule on a single one.
func (e *Engine) walkAll(ctx context.Context, r backends.RuleStatus, wait bool) (one bool) {
	began, old := time.Now(), map[backends.DID]bool{}
	e.mu.Lock()
	g := e.ledgerLocked(r)
	g.walking, g.over, g.whole = true, false, false
	dropped := e.dropped
	for d := range g.lacking {
		old[d] = true
	}
	e.mu.Unlock()
	missing, waited, whole := 0, time.Duration(0), true
	for in, err := range e.files(ctx, r.DID) {
		if ctx.Err() != nil {
			return false
		}
		if errors.Is(err, backends.ErrNotExist) && in.DID.IsZero() {
			missing++
			e.note(r, r.DID, &lack{why: backends.ErrNotExist.Error(), stuck: true})
			delete(old, r.DID)
			continue
		}
		var l *lack
		if err == nil {
			one = in.DID == r.DID
			delete(old, in.DID)
			var w time.Duration
			l, w, err = e.file(ctx, r, in, wait)
			waited += w
		}
		if err != nil { // the catalogue does not answer: nothing is known, the next sweep sees
			if ctx.Err() == nil {
				e.log.Warn("rule not evaluated", "rule", r.ID, "did", r.DID, "err", err)
			}
			whole = false
			break
		}
		if l != nil {
			missing++
		}
		e.note(r, in.DID, l)
		if l != nil {
			e.downgrade(ctx, r.ID)
		}
	}
	if whole && len(old) > 0 {
		e.again(ctx, r, old, false)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ledgers[r.ID] != g { // dropped meanwhile
		return one
	}
	g.walking = false
	g.whole = whole && !g.over
	g.over = g.over && whole
	g.missing = missing
	g.afterWalk = time.Now().Add(10 * (time.Since(began) - waited))
	if !whole {
		g.afterWalk = time.Now().Add(e.o.Pending / 2)
	}
	if e.dropped != dropped { // kicks were, and may have been of files that were passed already
		g.whole, g.wantWalk = false, true
		e.wantingLocked(r.ID)
	}
	return one
}

// downgrade notes early that a rule is not OK any more.
func (e *Engine) downgrade(ctx context.Context, id backends.RuleID) {
	e.mu.Lock()
	g := e.ledgers[id]
	was := g != nil && g.noted == backends.RuleOK
	e.mu.Unlock()
	if was {
		e.settle(ctx, id)
	}
}

// mop looks at the files of a rule that are known to lack copies, but for those whose copies are under way.
func (e *Engine) mop(ctx context.Context, r backends.RuleStatus, wait bool) {
	e.mu.Lock()
	g := e.ledgerLocked(r)
	todo := make(map[backends.DID]bool, len(g.lacking))
	for d := range g.lacking {
		if e.under[d] == 0 {
			todo[d] = true
		}
	}
	e.mu.Unlock()
	began := time.Now()
	waited := e.again(ctx, r, todo, wait)
	e.mu.Lock()
	defer e.mu.Unlock()
	g.afterMop = time.Now().Add(10 * (time.Since(began) - waited))
}

// again looks at some files of a rule once more, which may not be there or not be the rule's any more.
func (e *Engine) again(ctx context.Context, r backends.RuleStatus, todo map[backends.DID]bool, wait bool) (waited time.Duration) {
	for d := range todo {
		if ctx.Err() != nil {
			return waited
		}
		in, err := e.l.Catalogue().Stat(ctx, d)
		covered := err == nil && !in.IsDir()
		if covered && d != r.DID {
			covered, err = e.covers(ctx, r.ID, d)
		}
		var l *lack
		if err == nil && covered {
			var w time.Duration
			l, w, err = e.file(ctx, r, in, wait)
			waited += w
		}
		switch {
		case errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir):
			if d == r.DID {
				continue // the walk has said so
			}
		case err != nil:
			return waited
		}
		e.note(r, d, l)
	}
	return waited
}

// covers tells whether the rule is on d or a collection above it.
func (e *Engine) covers(ctx context.Context, id backends.RuleID, d backends.DID) (bool, error) {
	for r, err := range e.l.Rules().RulesOf(ctx, d) {
		if err != nil {
			return false, err
		}
		if r.ID == id {
			return true, nil
		}
	}
	return false, nil
}
