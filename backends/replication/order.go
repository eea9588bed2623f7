package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"tarn/backends"
)

// errCancelled is why a copy that was called off is not made.
var errCancelled = errors.New("cancelled; `tarn transfers retry` lets it be made")

// Orders are kept in memory: who ends the daemon ends them, and what rules ask for is made by the next one.
const maxOrders = 10_000

// Retry makes the copies of the files at and below the given DIDs, all without, go on now: those that failed and wait for their next
// try, and those that were cancelled. It gives their number.
func (e *Engine) Retry(ctx context.Context, dids ...backends.DID) (n int, err error) {
	e.mu.Lock()
	var keys []key
	for k := range e.trouble {
		if e.moves[k] == nil {
			keys = append(keys, k)
		}
	}
	for k := range e.cancelled {
		keys = append(keys, k)
	}
	e.mu.Unlock()
	for _, k := range keys {
		ok, err := e.isBelow(ctx, k.did, dids)
		if err != nil {
			return n, err
		}
		if !ok {
			continue
		}
		n++
		e.mu.Lock()
		delete(e.trouble, k)
		delete(e.cancelled, k)
		if d := e.dests[k.rse]; d != nil {
			d.sick = 0
		}
		e.kickLocked(k.did)
		e.mu.Unlock()
	}
	ring(e.kickWake)
	if len(dids) == 0 {
		e.Kick()
	} else {
		e.Kick(dids...)
	}
	return n, nil
}

// Removed is told of rules that were removed by hand: what they lacked is forgotten. Copies that are under way end.
func (e *Engine) Removed(ids ...backends.RuleID) {
	e.mu.Lock()
	for _, id := range ids {
		e.dropLedgerLocked(id)
	}
	e.mu.Unlock()
	e.Kick()
}

// Changed is Kick for DIDs whose rules were added or changed by hand: copies that were cancelled are made after all, if a rule asks for them.
func (e *Engine) Changed(ctx context.Context, dids ...backends.DID) error {
	e.mu.Lock()
	keys := make([]key, 0, len(e.cancelled))
	for k := range e.cancelled {
		keys = append(keys, k)
	}
	e.mu.Unlock()
	for _, k := range keys {
		ok, err := e.isBelow(ctx, k.did, dids)
		if err != nil {
			return err
		}
		if ok {
			e.mu.Lock()
			delete(e.cancelled, k)
			e.mu.Unlock()
		}
	}
	e.Kick(dids...)
	return nil
}

// Cancel calls off the copies that are under way, wait or failed, of the files at and below d: to one RSE, or all. They are not begun
// again until Retry, Changed, or the end of Run; their rules are STUCK meanwhile, unless other RSEs will do. It
// gives their number; ErrQuota when there were more than are remembered.
func (e *Engine) Cancel(ctx context.Context, d backends.DID, rse string) (n int, err error) {
	e.mu.Lock()
	var keys []key
	for k := range e.moves {
		keys = append(keys, k)
	}
	for k := range e.trouble {
		if e.moves[k] == nil {
			keys = append(keys, k)
		}
	}
	for _, g := range e.ledgers {
		for f, l := range g.lacking {
			if l.waits {
				keys = append(keys, key{f, ""})
			}
		}
	}
	e.mu.Unlock()
	for _, k := range keys {
		ok, err := e.isBelow(ctx, k.did, []backends.DID{d})
		if err != nil {
			return n, err
		}
		if !ok || rse != "" && k.rse != rse {
			continue
		}
		e.mu.Lock()
		var done bool
		done, err = e.cancelLocked(k, rse)
		e.mu.Unlock()
		if err != nil {
			return n, err
		}
		if done {
			n++
		}
	}
	ring(e.kickWake)
	return n, nil
}

func (e *Engine) cancelLocked(k key, rse string) (bool, error) {
	mark := k
	if rse == "" {
		mark.rse = "" // no other RSE either
	}
	if !e.cancelled[mark] && len(e.cancelled) >= maxOrders {
		return false, fmt.Errorf("cancel: more than %d copies are cancelled: %w", maxOrders, backends.ErrQuota)
	}
	e.cancelled[mark] = true
	delete(e.trouble, k)
	e.kickLocked(k.did)
	m := e.moves[k]
	if m == nil {
		return true, nil
	}
	m.given = true
	if m.state == Running {
		m.cancel()
		return true, nil
	}
	if m.ticket != nil {
		m.ticket.Close()
	}
	e.destLocked(m.rse).take(m)
	e.dropLocked(m)
	return true, nil
}

func (e *Engine) isCancelled(k key) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cancelled[k]
}

// Prioritise gives the copies of the files at and below d a priority that counts instead of that of their rules: those that wait for
// their turn, and those to come while Run lasts; 0 lets the rules decide again, for those to come. It gives the number of those that wait.
func (e *Engine) Prioritise(ctx context.Context, d backends.DID, priority int) (n int, err error) {
	if priority < 0 || priority > backends.HighestPriority {
		return 0, fmt.Errorf("priority %d is not one of %d to %d: %w", priority, backends.LowestPriority, backends.HighestPriority, backends.ErrNotSupported)
	}
	e.mu.Lock()
	if _, ok := e.priorities[d]; !ok && len(e.priorities) >= maxPriorities && priority > 0 {
		e.mu.Unlock()
		return 0, fmt.Errorf("priorities of more than %d paths: %w", maxPriorities, backends.ErrQuota)
	}
	if e.priorities[d] = priority; priority == 0 {
		delete(e.priorities, d)
	}
	var moves []*move
	for _, m := range e.moves {
		if m.state != Running {
			moves = append(moves, m)
		}
	}
	e.mu.Unlock()
	if priority == 0 {
		return 0, nil
	}
	for _, m := range moves {
		ok, err := e.isBelow(ctx, m.did, []backends.DID{d})
		if err != nil {
			return n, err
		}
		if !ok {
			continue
		}
		e.mu.Lock()
		if e.moves[m.key] == m && m.state != Running {
			c := m.class
			c.priority = priority
			e.destLocked(m.rse).reclass(m, c)
			n++
		}
		e.mu.Unlock()
	}
	return n, nil
}

// maxPriorities bounds those that were given by hand.
const maxPriorities = 1000

// priorityLocked gives the one that counts for a file: that of the nearest path above it. Where names are no paths it
// is for the DID itself.
func (e *Engine) priorityLocked(d backends.DID) (int, bool) {
	if len(e.priorities) == 0 {
		return 0, false
	}
	for {
		if n, ok := e.priorities[d]; ok {
			return n, true
		}
		i := strings.LastIndexByte(d.Name, '/')
		if i <= 0 || d.Name[0] != '/' {
			return 0, false
		}
		d.Name = d.Name[:i]
	}
}

// isBelow tells whether d is one of some DIDs or below it; without any it is.
func (e *Engine) isBelow(ctx context.Context, d backends.DID, of []backends.DID) (bool, error) {
	if len(of) == 0 {
		return true, nil
	}
	for depth, level := 0, []backends.DID{d}; len(level) > 0 && depth < maxDepth; depth++ {
		var above []backends.DID
		for _, x := range level {
			for _, o := range of {
				if x == o || x.Scope == o.Scope && (o.Name == "" || strings.HasPrefix(o.Name, "/") && strings.HasPrefix(x.Name, o.Name+"/")) {
					return true, nil
				}
			}
			for p, err := range e.l.Catalogue().Parents(ctx, x) {
				if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
					break
				}
				if err != nil {
					return false, err
				}
				if above = append(above, p); len(above) > 1000 {
					return false, nil
				}
			}
		}
		level = above
	}
	return false, nil
}
