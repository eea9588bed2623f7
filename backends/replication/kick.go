package replication

import (
	"context"
	"errors"
	"time"

	"tarn/backends"
)

// kickLoop looks at single DIDs: those that were kicked, those whose copy has ended, and
// those whose retry is due.
func (e *Engine) kickLoop(ctx context.Context) {
	for ctx.Err() == nil {
		e.mu.Lock()
		list := e.kicked
		e.kicked = map[backends.DID]bool{}
		now := time.Now()
		var next time.Time
		for k, t := range e.trouble {
			switch {
			case t.asked: // its next try is under way, or nobody wants it any more
				if now.Sub(t.next) > 2*e.o.StuckRetry {
					delete(e.trouble, k)
				}
			case !t.next.After(now):
				t.asked = true
				list[k.did] = true
			case next.IsZero() || t.next.Before(next):
				next = t.next
			}
		}
		e.mu.Unlock()
		for d := range list {
			if ctx.Err() != nil {
				return
			}
			if err := e.look(ctx, d, false); err != nil && ctx.Err() == nil {
				e.log.Warn("rules not looked at", "did", d, "err", err)
			}
		}
		if len(list) > 0 {
			continue
		}
		wait := e.o.Sweep
		if !next.IsZero() {
			wait = time.Until(next)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-e.kickWake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// wholeLoop looks at the collections among what was kicked, one after the other: there may be any number of files below.
func (e *Engine) wholeLoop(ctx context.Context) {
	for ctx.Err() == nil {
		e.mu.Lock()
		list := e.wholes
		e.wholes = map[backends.DID]bool{}
		e.mu.Unlock()
		for d := range list {
			if ctx.Err() != nil {
				return
			}
			if err := e.look(ctx, d, true); err != nil && ctx.Err() == nil {
				e.log.Warn("rules not looked at", "did", d, "err", err)
			}
		}
		if len(list) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-e.wholeWake:
		}
	}
}

// look applies every rule that covers d to the files at or below it. A rule on d itself, if that is a collection, is
// put on the list of those of which all files are looked at. Without whole a collection is left to wholeLoop.
func (e *Engine) look(ctx context.Context, d backends.DID, whole bool) error {
	in, err := e.l.Catalogue().Stat(ctx, d)
	if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
		e.gone(d)
		return nil
	}
	if err != nil {
		return err
	}
	if in.IsDir() && !whole {
		e.mu.Lock()
		defer e.mu.Unlock()
		if len(e.wholes) < maxKicked || e.wholes[d] {
			e.wholes[d] = true
			ring(e.wholeWake)
			return nil
		}
		e.sweepAllLocked()
		return nil
	}
	for r, err := range e.l.Rules().RulesOf(ctx, d) {
		if errors.Is(err, backends.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case r.DID == d && (in.IsDir() || e.isEvaluating(r.ID)):
			e.want(r, true)
		case r.DID == d:
			e.evaluate(ctx, work{rule: r, walk: true}, false)
		default:
			if err := e.lookBelow(ctx, r, in); err != nil {
				return err
			}
			e.settle(ctx, r.ID)
		}
	}
	return nil
}

func (e *Engine) lookBelow(ctx context.Context, r backends.RuleStatus, in backends.Info) error {
	var failed error
	e.walk(ctx, in, nil, func(f backends.Info, err error) bool {
		var l *lack
		if err == nil {
			l, _, err = e.file(ctx, r, f, false)
		}
		if err != nil {
			failed = err
			return false
		}
		e.note(r, f.DID, l)
		return true
	})
	return failed
}

func (e *Engine) isEvaluating(id backends.RuleID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.evaluating[id]
}
