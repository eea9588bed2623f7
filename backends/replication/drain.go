package replication

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"tarn/backends"
	"tarn/backends/lake"
)

// drain goes once through the replicas at an RSE that is to be emptied: those that are spare are deleted, and for the
// others the copies are asked for that they wait for. It begins anew with every look, so that it needs to remember
// nothing: what is left is what is on record there.
func (e *Engine) drain(ctx context.Context, rse *lake.RSE, s *CareStatus) (more bool, err error) {
	var mu sync.Mutex // guards s and more
	g, own := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for x, err := range e.l.Records().Records(ctx, rse.Name) {
		if err != nil {
			return false, errOr(g.Wait(), err)
		}
		if own.Err() != nil || e.changed(rse) {
			break
		}
		g.Go(func() error {
			what, why, err := e.drainOne(own, rse, x)
			if own.Err() != nil {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				why = x.Info.DID.String() + ": " + err.Error()
			case what == stays:
				why = x.Info.DID.String() + ": " + why
			default:
				more = true // there may be copies that waited for room
				return nil
			}
			s.Left++
			s.LeftBytes += x.Info.Size
			if s.Why == "" {
				s.Why = why
			}
			return nil
		})
	}
	return more, g.Wait()
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// drainOne deals with one replica.
func (e *Engine) drainOne(ctx context.Context, rse *lake.RSE, x backends.Entry) (left, string, error) {
	i := slices.IndexFunc(x.Replicas, func(r backends.Replica) bool { return r.RSE == rse.Name })
	if i < 0 {
		return nobody, "", nil
	}
	switch x.Replicas[i].State {
	case backends.Copying, backends.Bad:
		return e.dropPoor(ctx, rse, x.Info)
	}
	what, why, err := e.giveUp(ctx, x.Info, rse, false)
	if err != nil || what != stays {
		return what, why, err
	}
	proved, err := e.proveOther(ctx, rse, x.Info)
	if err != nil {
		return what, "", err
	}
	if proved {
		return e.giveUp(ctx, x.Info, rse, false)
	}
	return what, why, e.replace(ctx, rse, x.Info)
}

// proveOther verifies a copy on disk that was only registered, where a file has no other one than at a drained RSE:
// rules take it for a copy and ask for none, and nothing goes on the word of a register. One that is no good is declared
// BAD.
func (e *Engine) proveOther(ctx context.Context, drained *lake.RSE, in backends.Info) (proved bool, err error) {
	cur, have, err := e.present(ctx, in)
	if err != nil || cur == nil || cur.Checksums.IsZero() || len(e.others(have, drained.Name)) > 0 {
		return false, err
	}
	for _, r := range have {
		rse, ok := e.l.RSE(r.RSE)
		if !ok || r.RSE == drained.Name || rse.Tape != nil || rse.Care.Drain || r.State != backends.Available || !e.there(ctx, *cur, r) {
			continue
		}
		_, err := e.l.Prove(ctx, rse, r.PFN, cur.Size, cur.Checksums)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case errors.Is(err, backends.ErrCorrupt):
			if err := e.l.DeclareReplicaBad(ctx, *cur, r, err); err != nil {
				return false, err
			}
			continue
		case err != nil:
			return false, err
		}
		release, ok := e.l.TryClaim(*cur, r.RSE)
		if !ok {
			continue
		}
		now, have, err := e.present(ctx, *cur)
		if err == nil && now != nil && slices.Contains(have, r) {
			r.Verified = e.o.Now()
			if err = ignoreGone(e.putIf(ctx, *now, r)); err == nil {
				proved = true
			}
		}
		release()
		if err != nil || proved {
			return proved, err
		}
	}
	return false, nil
}

// replace asks for the copies that let the replica at a drained RSE go.
func (e *Engine) replace(ctx context.Context, rse *lake.RSE, in backends.Info) error {
	cur, have, err := e.present(ctx, in)
	if err != nil || cur == nil {
		return err
	}
	missing := 0
	for r, err := range e.liveRules(ctx, in.DID) {
		if err != nil {
			return err
		}
		l, _, err := e.file(ctx, r, *cur, true)
		if err != nil {
			return err
		}
		if l != nil {
			missing++
		}
	}
	if len(e.others(have, rse.Name)) > 0 || missing > 0 {
		return nil
	}
	// No rule asks for a copy elsewhere, and it is the last one.
	to := rse.Care.DrainTo
	if to == "" {
		to = "rse_type=" + strings.ToUpper(string(rse.Kind))
	}
	moves, have, _, err := e.choose(ctx, backends.RuleStatus{Rule: backends.Rule{DID: in.DID, Copies: 1, Expression: to}}, *cur, false)
	for _, m := range moves {
		e.admit(ctx, m, have, true) // one that finds no room is asked for at the next look
	}
	return err
}

// dropPoor takes away what is no copy: one that was begun and is not gone on with, or one that was declared BAD, when
// there is a good one.
func (e *Engine) dropPoor(ctx context.Context, rse *lake.RSE, in backends.Info) (left, string, error) {
	release, err := e.alone(ctx, in.DID)
	if err != nil {
		return stays, "", err
	}
	defer release()
	unclaim, ok := e.l.TryClaim(in, rse.Name)
	if !ok || e.moving(in.DID)[rse.Name] {
		return stays, "it is being copied", nil // not waited for
	}
	defer unclaim()
	cur, have, err := e.present(ctx, in)
	if err != nil || cur == nil {
		return nobody, "", err
	}
	i := slices.IndexFunc(have, func(r backends.Replica) bool { return r.RSE == rse.Name })
	switch {
	case i < 0:
		return nobody, "", nil
	case have[i].State != backends.Copying && have[i].State != backends.Bad:
		return stays, "it has become good", nil
	case len(e.others(have, rse.Name)) == 0:
		return stays, "it is " + string(have[i].State) + ", and there is no verified copy", nil
	case !e.anyThere(ctx, *cur, e.others(have, rse.Name)):
		return stays, "it is " + string(have[i].State) + ", and no verified copy can be found", ctx.Err()
	case e.changed(rse):
		return stays, changedWhy, nil
	}
	going := have[i]
	going.State = backends.BeingDeleted
	if err := e.putIf(ctx, *cur, going); err != nil {
		return nobody, "", ignoreGone(err)
	}
	return e.finish(ctx, *cur, rse, going, false)
}
