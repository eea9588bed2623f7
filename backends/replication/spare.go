package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tarn/backends"
)

// spare tells why the replica of a file at the RSE may not go, "" when it may, and which verified copies are left
// then. A copy of the file that is being made may be made of it.
func (e *Engine) spare(ctx context.Context, in backends.Info, have []backends.Replica, rse string, last bool) (others []backends.Replica, why string, err error) {
	if len(e.moving(in.DID)) > 0 || e.l.Making(in, rse) {
		return nil, "a copy of it is being made", nil
	}
	others = e.others(have, rse)
	why, err = e.enough(ctx, in.DID, others, last)
	return others, why, err
}

// spareNow is spare, and not on the word of a register: the storages of the others are asked. answer are those that they
// have.
func (e *Engine) spareNow(ctx context.Context, in backends.Info, have []backends.Replica, rse string, last bool) (others, answer []backends.Replica, why string, err error) {
	others, why, err = e.spare(ctx, in, have, rse, last)
	if err != nil || why != "" {
		return others, nil, why, err
	}
	answer = slices.DeleteFunc(slices.Clone(others), func(r backends.Replica) bool { return !e.there(ctx, in, r) })
	if ctx.Err() != nil {
		return others, answer, "", ctx.Err()
	}
	if len(answer) < len(others) {
		why, err = e.enough(ctx, in.DID, answer, last)
	}
	return others, answer, why, err
}

// others are the verified copies of a file that are not at the RSE, nor at one that is drained.
func (e *Engine) others(have []backends.Replica, rse string) (out []backends.Replica) {
	for _, r := range have {
		at, ok := e.l.RSE(r.RSE)
		if ok && r.RSE != rse && r.State == backends.Available && !r.Verified.IsZero() && !at.Care.Drain {
			out = append(out, r)
		}
	}
	return out
}

// enough tells what a file lacks when these are its copies; "" for nothing.
func (e *Engine) enough(ctx context.Context, d backends.DID, have []backends.Replica, last bool) (why string, err error) {
	live := 0
	for r, err := range e.liveRules(ctx, d) {
		if err != nil {
			return "", err
		}
		live++
		missing, err := e.l.Missing(r.Rule, have)
		switch {
		case err != nil:
			return fmt.Sprintf("rule %s: %v", r.ID, err), nil
		case missing > 0:
			return fmt.Sprintf("rule %s (%d on %s) needs it", r.ID, r.Copies, r.Expression), nil
		}
	}
	if len(have) == 0 && (live > 0 || !last) {
		return "it is the last verified copy", nil
	}
	return "", nil
}

// liveRules streams the rules on d and above it that have not expired.
func (e *Engine) liveRules(ctx context.Context, d backends.DID) func(yield func(backends.RuleStatus, error) bool) {
	return func(yield func(backends.RuleStatus, error) bool) {
		if e.l.Rules() == nil {
			return
		}
		for r, err := range e.l.Rules().RulesOf(ctx, d) {
			if err == nil && !r.Expires.IsZero() && !e.o.Now().Before(r.Expires) {
				continue
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// anyThere tells whether the storage of one verified copy has it.
func (e *Engine) anyThere(ctx context.Context, in backends.Info, have []backends.Replica) bool {
	return slices.ContainsFunc(have, func(r backends.Replica) bool {
		return r.State == backends.Available && !r.Verified.IsZero() && e.there(ctx, in, r)
	})
}

// there asks the storage of a replica whether it has it, and a tape system whether it is on tape. One that has not is declared BAD.
func (e *Engine) there(ctx context.Context, in backends.Info, r backends.Replica) bool {
	rse, ok := e.l.RSE(r.RSE)
	if !ok {
		return false
	}
	a, err := rse.Storage.Stat(ctx, r.PFN)
	why := ""
	switch {
	case errors.Is(err, backends.ErrNotExist):
		if _, _, down := e.l.Space(ctx, rse); down != nil {
			return false // a disk that is not mounted looks empty
		}
		why = "it is not there"
	case err != nil:
		return false // nobody can tell
	case a.IsDir || a.Size != in.Size:
		why = fmt.Sprintf("%d bytes, and it should have %d", a.Size, in.Size)
	default:
		// What is not on tape yet is one disk's word.
		stored, err := e.l.StoredOnTape(ctx, rse, r.PFN)
		if !errors.Is(err, backends.ErrLost) && !errors.Is(err, backends.ErrNotExist) {
			return stored && err == nil
		}
		why = err.Error()
	}
	if err := e.l.DeclareReplicaBad(ctx, in, r, errors.New(why)); err != nil {
		e.log.Warn("replica that is not there is not declared BAD", "did", in.DID, "rse", r.RSE, "err", err)
	}
	return false
}
