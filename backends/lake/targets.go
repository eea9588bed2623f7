package lake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarn/backends"
	"tarn/backends/rseexpr"
)

func expression(r backends.Rule) (rseexpr.Expr, error) {
	if r.Copies < 1 {
		return nil, fmt.Errorf("rule for %d copies on %q: at least one is needed", r.Copies, r.Expression)
	}
	return rseexpr.Parse(r.Expression)
}

// Missing tells how many copies rule r lacks, given the replicas of a file: those count
// that are AVAILABLE on distinct RSEs of the lake that match and are not drained. An error is a rule that
// does not parse.
func (l *Lake) Missing(r backends.Rule, have []backends.Replica) (int, error) {
	e, err := l.expression(r)
	if err != nil {
		return 0, err
	}
	return r.Copies - len(l.matching(e, have)), nil
}

// matching gives the RSEs of the good replicas that match.
func (l *Lake) matching(e rseexpr.Expr, have []backends.Replica) map[string]bool {
	good := map[string]bool{}
	for _, h := range have {
		if rse := l.rse(h.RSE); rse != nil && !rse.Care.Drain && h.State == backends.Available && e.Match(rse.RSE) {
			good[h.RSE] = true
		}
	}
	return good
}

// Targets chooses the RSEs that need a new copy of a file of that size so that rule r
// is fulfilled, given the replicas it has; none when it is. First come RSEs where a copy
// was begun or has to be repaired, then those with the most free space (in tenths of
// the whole, divided by 1 + Distance), the nearer, the name.
//
// When there are too few, the error says in words what is missing, and the RSEs that
// could be chosen are returned with it. It wraps ErrUnavailable with ErrTemporary if
// storages that are down would do, ErrNoSpace if ones that are full would, and
// ErrNoTarget if no RSE matches.
func (l *Lake) Targets(ctx context.Context, r backends.Rule, have []backends.Replica, size int64) ([]*RSE, error) {
	e, err := l.expression(r)
	if err != nil {
		return nil, err
	}
	good := l.matching(e, have)
	need := r.Copies - len(good)
	if need <= 0 {
		return nil, nil
	}
	type choice struct {
		*RSE
		begun bool
		score float64
	}
	var choices []choice
	var not []string
	kind := error(ErrNoTarget)
	for _, rse := range l.RSEs() {
		if !e.Match(rse.RSE) || good[rse.Name] {
			continue
		}
		if rse.Care.Drain {
			not = append(not, rse.Name+" is being drained")
			continue
		}
		if rse.ReadOnly {
			not = append(not, rse.Name+" is read-only")
			continue
		}
		var total, free int64
		err := l.attempt(ctx, func(ctx context.Context) (err error) {
			total, free, err = rse.Storage.Space(ctx)
			return err
		})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			not = append(not, fmt.Sprintf("%s is down (%v)", rse.Name, err))
			kind = fmt.Errorf("%w: %w", backends.ErrUnavailable, backends.ErrTemporary)
			continue
		}
		if free < size {
			not = append(not, fmt.Sprintf("%s has %d bytes free of the %d needed", rse.Name, free, size))
			if errors.Is(kind, ErrNoTarget) {
				kind = backends.ErrNoSpace
			}
			continue
		}
		c := choice{RSE: rse, begun: slices.ContainsFunc(have, func(h backends.Replica) bool {
			return h.RSE == rse.Name && (h.State == backends.Copying || h.State == backends.Bad)
		})}
		if total > 0 {
			c.score = float64(free*10/total) / float64(1+max(rse.Distance, 0))
		}
		choices = append(choices, c)
	}
	slices.SortFunc(choices, func(a, b choice) int {
		if a.begun != b.begun {
			if a.begun {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.Distance, b.Distance), strings.Compare(a.Name, b.Name))
	})
	var out []*RSE
	for _, c := range choices[:min(need, len(choices))] {
		out = append(out, c.RSE)
	}
	if len(out) == need {
		return out, nil
	}
	why := fmt.Sprintf("%d on %q wanted, %d there, %d more possible", r.Copies, r.Expression, len(good), len(out))
	if len(not) > 0 {
		why += ": " + words(not)
	} else if len(good)+len(out) == 0 {
		why += ": no RSE matches"
	} else {
		why += ": no other RSE matches"
	}
	return out, fmt.Errorf("copies: %s: %w", why, kind)
}
