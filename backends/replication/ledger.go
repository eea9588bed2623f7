package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tarn/backends"
)

// lack is why a file does not have all copies of a rule.
type lack struct {
	why   string
	stuck bool // it will not get them soon
	waits bool // for a copy that they may be made of
}

// ledger is what is known of a rule: the files that lack copies. Once all files were looked at, its state follows
// from the looks at single files, and what a file costs does not depend on how many the rule has. Guarded by
// Engine.mu.
type ledger struct {
	rule    backends.RuleStatus
	lacking map[backends.DID]lack
	stuck   int          // of lacking
	example backends.DID // one of these
	whole   bool         // lacking has all there are
	seen    bool         // by the present sweep

	walking bool // all files are being looked at
	over    bool // more lacked copies, in this walk or since, than are remembered
	missing int  // how many did in the last walk

	wantWalk, wantMop, wantNote    bool
	afterWalk, afterMop, afterNote time.Time // not before, so that none of them takes more than a tenth of the time

	noted  backends.RuleState // as the catalogue has it
	why    string
	noting bool
}

const maxLedgers = 20_000

// ledgerLocked gives that of a rule.
func (e *Engine) ledgerLocked(r backends.RuleStatus) *ledger {
	g := e.ledgers[r.ID]
	if g == nil {
		g = &ledger{lacking: map[backends.DID]lack{}, noted: r.State, why: r.Error}
		e.ledgers[r.ID] = g
	}
	g.rule = r
	return g
}

// note tells what a look at a file has given; nil: it has its copies, or is gone.
func (e *Engine) note(r backends.RuleStatus, d backends.DID, l *lack) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.noteLocked(e.ledgerLocked(r), d, l)
}

func (e *Engine) noteLocked(g *ledger, d backends.DID, l *lack) {
	old, was := g.lacking[d]
	if was && old.stuck {
		g.stuck--
	}
	switch {
	case l == nil:
		if was {
			delete(g.lacking, d)
			e.lackingAll--
		}
		return
	case !was && e.lackingAll >= e.o.MaxLacking:
		g.over, g.whole = true, false
		return
	case !was:
		e.lackingAll++
	}
	g.lacking[d] = *l
	if l.stuck {
		g.stuck++
	}
}

// dropLedgerLocked forgets a rule.
func (e *Engine) dropLedgerLocked(id backends.RuleID) {
	if g := e.ledgers[id]; g != nil {
		e.lackingAll -= len(g.lacking)
		delete(e.ledgers, id)
	}
}

// gone forgets a file under all rules.
func (e *Engine) gone(d backends.DID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, g := range e.ledgers {
		e.noteLocked(g, d, nil)
	}
}

// stateLocked is what follows from the ledger; ok is false as long as nothing does.
func (g *ledger) stateLocked() (state backends.RuleState, why string, ok bool) {
	missing := len(g.lacking)
	switch {
	case g.whole:
	case g.over && !g.walking:
		missing = max(missing, g.missing)
	case missing > 0 && g.noted == backends.RuleOK:
		return backends.RuleReplicating, "", true
	default:
		return "", "", false
	}
	switch {
	case g.stuck > 0:
		l := g.lacking[g.example]
		if !l.stuck {
			for d, x := range g.lacking {
				if x.stuck {
					g.example, l = d, x
					break
				}
			}
		}
		why := fmt.Sprintf("%s: %s", g.example, l.why)
		if g.stuck > 1 {
			why = fmt.Sprintf("%d files; %s", g.stuck, why)
		}
		return backends.RuleStuck, why, true
	case missing > 0:
		return backends.RuleReplicating, "", true
	}
	return backends.RuleOK, "", true
}

// settle notes the state of a rule in the catalogue, if it has changed. One goroutine at a time does so for a rule. That it
// is OK is not noted so often that it would take more than a tenth of the time, while files come and come.
func (e *Engine) settle(ctx context.Context, id backends.RuleID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.ledgers[id]
	if g == nil || g.noting {
		return
	}
	g.noting = true
	defer func() { g.noting = false }()
	for ctx.Err() == nil {
		state, why, ok := g.stateLocked()
		if !ok {
			if !g.walking && len(g.lacking) == 0 && g.noted != backends.RuleOK {
				g.wantWalk = true
				e.wantingLocked(id)
			}
			return
		}
		if state == g.noted && why == g.why {
			return
		}
		if (state == backends.RuleOK || state == g.noted) && time.Now().Before(g.afterNote) {
			g.wantNote = true
			e.wantingLocked(id)
			return
		}
		e.mu.Unlock()
		began := time.Now()
		err := e.l.Rules().SetRuleState(ctx, id, state, why)
		took := time.Since(began)
		switch {
		case errors.Is(err, backends.ErrNotExist):
		case err != nil && ctx.Err() == nil:
			e.log.Warn("state of rule not noted", "rule", id, "state", state, "err", err)
		case state == backends.RuleStuck:
			e.log.Warn("rule is stuck", "rule", id, "did", g.rule.DID, "why", why)
		}
		e.mu.Lock()
		g.afterNote = time.Now().Add(10 * took)
		if errors.Is(err, backends.ErrNotExist) {
			if e.ledgers[id] == g {
				e.dropLedgerLocked(id)
			}
			return
		}
		if err != nil {
			return // the next look or sweep
		}
		g.noted, g.why = state, why
	}
}
