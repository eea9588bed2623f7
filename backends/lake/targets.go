package lake

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
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

// Choice says how TargetsBy chooses.
type Choice struct {
	Size int64 // of the file
	// Space tells of a storage; nil: it is asked each time.
	Space func(ctx context.Context, rse *RSE) (total, free int64, err error)
	// Prefer names RSEs that come before others, in this order, when they can be chosen.
	Prefer []string
	// All asks for every RSE that can be chosen, in their order, not only for as many as are needed.
	All bool
	// Seed makes the choice by a rule's weight: the same seed gives the same RSEs.
	Seed string
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

// Targets is TargetsBy for a file of that size, by what its storages tell now.
func (l *Lake) Targets(ctx context.Context, r backends.Rule, have []backends.Replica, size int64) ([]*RSE, error) {
	return l.TargetsBy(ctx, r, have, Choice{Size: size, Seed: r.DID.String()})
}

// candidate is an RSE that can be chosen.
type candidate struct {
	*RSE
	begun  bool
	prefer int     // place in Choice.Prefer
	lot    float64 // by weight, the least first; 0 without
	score  float64 // by free space
}

// TargetsBy chooses the RSEs that need a new copy of a file so that rule r is fulfilled, given the replicas it
// has; none when it is. First come RSEs where a copy was begun or has to be repaired, then those that c prefers,
// then, for a rule with a weight, those that a lot draws for the seed, as often as their weights say, and else
// those with the most free space (in tenths of the whole, divided by 1 + Distance), the nearer, the name. An RSE
// without the attribute that is the weight, as a number above 0, is not chosen.
//
// When there are too few, the error says in words what is missing, and the RSEs that
// could be chosen are returned with it. It wraps ErrUnavailable with ErrTemporary if
// storages that are down would do, ErrNoSpace if ones that are full would, and
// ErrNoTarget if no RSE matches.
func (l *Lake) TargetsBy(ctx context.Context, r backends.Rule, have []backends.Replica, c Choice) ([]*RSE, error) {
	e, err := l.expression(r)
	if err != nil {
		return nil, err
	}
	good := l.matching(e, have)
	need := r.Copies - len(good)
	if need <= 0 {
		return nil, nil
	}
	var choices []candidate
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
		x := candidate{RSE: rse, prefer: slices.Index(c.Prefer, rse.Name)}
		if x.prefer < 0 {
			x.prefer = len(c.Prefer)
		}
		if r.Weight != "" {
			w, err := strconv.ParseFloat(rse.Attributes[r.Weight], 64)
			if err != nil || !(w > 0) || math.IsInf(w, 0) {
				not = append(not, fmt.Sprintf("%s has no number above 0 as %s", rse.Name, r.Weight))
				continue
			}
			x.lot = lot(c.Seed, rse.Name, w)
		}
		total, free, err := l.spaceOf(ctx, rse, c)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			not = append(not, fmt.Sprintf("%s is down (%v)", rse.Name, err))
			kind = fmt.Errorf("%w: %w", backends.ErrUnavailable, backends.ErrTemporary)
			continue
		}
		if free < c.Size {
			not = append(not, fmt.Sprintf("%s has %d bytes free of the %d needed", rse.Name, free, c.Size))
			if errors.Is(kind, ErrNoTarget) {
				kind = backends.ErrNoSpace
			}
			continue
		}
		x.begun = slices.ContainsFunc(have, func(h backends.Replica) bool {
			return h.RSE == rse.Name && (h.State == backends.Copying || h.State == backends.Bad)
		})
		if total > 0 {
			x.score = float64(free*10/total) / float64(1+max(rse.Distance, 0))
		}
		choices = append(choices, x)
	}
	slices.SortFunc(choices, func(a, b candidate) int {
		if a.begun != b.begun {
			if a.begun {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.prefer, b.prefer), cmp.Compare(a.lot, b.lot), cmp.Compare(b.score, a.score), cmp.Compare(a.Distance, b.Distance), strings.Compare(a.Name, b.Name))
	})
	var out []*RSE
	for _, x := range choices {
		if len(out) < need || c.All {
			out = append(out, x.RSE)
		}
	}
	if len(out) >= need {
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

func (l *Lake) spaceOf(ctx context.Context, rse *RSE, c Choice) (total, free int64, err error) {
	if c.Space != nil {
		return c.Space(ctx, rse)
	}
	return l.Space(ctx, rse)
}

// Space asks a storage, for as long as one replica may take.
func (l *Lake) Space(ctx context.Context, rse *RSE) (total, free int64, err error) {
	err = l.attempt(ctx, func(ctx context.Context) (err error) {
		total, free, err = rse.Storage.Space(ctx)
		return err
	})
	return total, free, err
}

// lot draws for an RSE: of all that draw for a seed, each has the least as often as its weight says
// (weighted rendezvous hashing), and an RSE more or less changes the choice of few seeds.
func lot(seed, rse string, weight float64) float64 {
	h := sha256.Sum256([]byte(seed + "\x00" + rse))
	u := (float64(binary.BigEndian.Uint64(h[:])>>11) + 0.5) / (1 << 53)
	return -math.Log(u) / weight
}

// maxParsed bounds the expressions that are kept parsed.
const maxParsed = 1024

// parsed is expression, which is asked for each file of a rule.
func (l *Lake) parsed(r backends.Rule) (rseexpr.Expr, error) {
	if r.Copies < 1 {
		return expression(r)
	}
	l.exprMu.Lock()
	e := l.exprs[r.Expression]
	l.exprMu.Unlock()
	if e != nil {
		return e, nil
	}
	e, err := expression(r)
	if err != nil {
		return nil, err
	}
	l.exprMu.Lock()
	defer l.exprMu.Unlock()
	if len(l.exprs) >= maxParsed {
		clear(l.exprs)
	}
	l.exprs[r.Expression] = e
	return e, nil
}

// Matching gives the RSEs of the lake that an expression names, in the order of the configuration.
func (l *Lake) Matching(expression string) ([]*RSE, error) {
	e, err := l.parsed(backends.Rule{Copies: 1, Expression: expression})
	if err != nil {
		return nil, err
	}
	var out []*RSE
	for _, rse := range l.o.RSEs {
		if e.Match(rse.RSE) {
			out = append(out, rse)
		}
	}
	return out, nil
}

// Sources gives what a rule's source expression allows; nil for a rule without.
func (l *Lake) Sources(r backends.Rule) (From, error) {
	if r.Source == "" {
		return nil, nil
	}
	e, err := l.parsed(backends.Rule{Copies: 1, Expression: r.Source})
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	return e.Match, nil
}
