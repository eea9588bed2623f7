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
			if err := e.look(ctx, d); err != nil && ctx.Err() == nil {
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

// look applies every rule that covers d to the files at or below it. A rule on d itself
// is evaluated as a whole; one on a collection above is, when d may have changed its
// state, put on the list for that.
func (e *Engine) look(ctx context.Context, d backends.DID) error {
	for r, err := range e.l.Rules().RulesOf(ctx, d) {
		if errors.Is(err, backends.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if r.DID == d {
			e.mu.Lock()
			busy := e.evaluating[r.ID]
			e.mu.Unlock()
			if busy {
				e.markDirty(r)
			} else {
				e.evaluate(ctx, r, false)
			}
			continue
		}
		var t tally
		for in, err := range e.files(ctx, d) {
			if err == nil {
				err = e.file(ctx, r, in, &t, false)
			}
			if errors.Is(err, backends.ErrNotExist) {
				break
			}
			if err != nil {
				return err
			}
		}
		switch {
		case t.missing > 0 && r.State == backends.RuleOK:
			e.setState(ctx, r, t)
		case (t.missing == 0) != (r.State == backends.RuleOK) || t.stuck > 0:
			e.markDirty(r)
		}
	}
	return nil
}
