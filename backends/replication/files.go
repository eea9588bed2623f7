package replication

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

// file looks at one file under one rule, asks for the copies that it lacks, and tells why it lacks some; nil: it does
// not, or is gone. waited is for how long it waited for room. Its error is the catalogue's.
func (e *Engine) file(ctx context.Context, r backends.RuleStatus, in backends.Info, wait bool) (l *lack, waited time.Duration, err error) {
	moves, have, l, err := e.choose(ctx, r, in, !wait)
	for _, m := range moves {
		w, full := e.admit(ctx, m, have, wait)
		waited += w
		if full {
			e.want(r, false)
		}
	}
	return l, waited, err
}

// choose reserves the copies that the file lacks under the rule. One goroutine at a time
// does so for a file, or two rules would choose different RSEs where one copy serves both.
func (e *Engine) choose(ctx context.Context, r backends.RuleStatus, in backends.Info, urgent bool) (moves []*move, have []backends.Replica, l *lack, err error) {
	release, err := e.alone(ctx, in.DID)
	if err != nil {
		return nil, nil, nil, err
	}
	defer release()
	// First the copies under way, then those on record: one that ends in between is in both.
	moving := e.moving(in.DID)
	have, err = e.l.Catalogue().Replicas(ctx, in.DID)
	if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
		return nil, nil, nil, nil // gone since it was listed
	}
	if err != nil {
		return nil, nil, nil, err
	}
	stuck := func(err error) *lack { return &lack{why: err.Error(), stuck: true} }
	if !e.dry {
		if have, err = e.resume(ctx, in, have); err != nil {
			return nil, nil, nil, err
		}
	}
	missing, err := e.l.Missing(r.Rule, have)
	if err != nil {
		return nil, nil, stuck(err), nil
	}
	if missing <= 0 {
		if e.dry {
			return nil, nil, nil, nil
		}
		e.forget(key{in.DID, ""})
		return nil, nil, nil, e.removeBad(ctx, in, have)
	}
	from, err := e.l.Sources(r.Rule)
	if err != nil {
		return nil, nil, stuck(err), nil
	}
	if e.isCancelled(key{in.DID, ""}) {
		return nil, nil, stuck(errCancelled), nil
	}
	l = &lack{}
	rule, planned, given := e.withPlanned(r.Rule, in, have, moving)
	group, err := e.groupOf(ctx, r, in)
	if err != nil {
		return nil, nil, nil, err
	}
	prefer, err := e.prefer(ctx, group)
	if err != nil {
		return nil, nil, nil, err
	}
	targets, err := e.l.TargetsBy(ctx, rule, planned, lake.Choice{Size: in.Size, Space: e.space, Prefer: prefer, Seed: group.seed()})
	if ctx.Err() != nil {
		return nil, nil, nil, ctx.Err()
	}
	e.rememberGroup(group, targets)
	for _, rse := range targets {
		may := e.mayComeFrom(from, rse)
		source, ok := e.l.SourceOf(have, rse.Name, may)
		if !ok && may != nil && in.Size > 0 {
			l.waits, l.why = true, e.waitsFor(r.Rule, have, from, rse)
			continue
		}
		if m := e.reserve(in, rse, r.Rule, may, source, urgent); m != nil {
			moves = append(moves, m)
		}
	}
	switch {
	case given != nil: // copies that failed so often that others are tried, and there are none
		if err != nil || len(targets) == 0 {
			l = stuck(given)
		}
	case err != nil && backends.IsTemporary(err):
		if e.failed(key{in.DID, ""}, err) >= e.o.Failures {
			l = stuck(err)
		}
	case err != nil:
		l = stuck(err)
	}
	return moves, have, l, nil
}

// waitsFor says what a copy waits for that cannot be made of any that is there.
func (e *Engine) waitsFor(r backends.Rule, have []backends.Replica, from lake.From, to *lake.RSE) string {
	if _, ok := e.l.SourceOf(have, to.Name, from); ok {
		return fmt.Sprintf("waits for a copy elsewhere: none may go from where there is one to %s", to.Name)
	}
	if r.Source == "" {
		return "waits for a good copy"
	}
	return "waits for a copy at " + r.Source
}

// alone waits until no other goroutine chooses for the file.
func (e *Engine) alone(ctx context.Context, d backends.DID) (release func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.choosing[d] != nil {
		other := e.choosing[d]
		e.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			err = ctx.Err()
		}
		e.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
	done := make(chan struct{})
	e.choosing[d] = done
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.choosing, d)
		close(done)
	}, nil
}

// moving names the RSEs to which copies of the file are under way.
func (e *Engine) moving(d backends.DID) map[string]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.under[d] == 0 {
		return nil
	}
	out := map[string]bool{}
	for _, rse := range e.l.RSEs() {
		if e.moves[key{d, rse.Name}] != nil {
			out[rse.Name] = true
		}
	}
	return out
}

// withPlanned adds to what a file has the copies under way, as if they were there. RSEs
// where its copy failed too often, or was cancelled, are taken out of the choice, and the reason is given.
func (e *Engine) withPlanned(r backends.Rule, in backends.Info, have []backends.Replica, moving map[string]bool) (backends.Rule, []backends.Replica, error) {
	var given error
	planned := slices.Clone(have)
	plan := func(rse string) {
		i := slices.IndexFunc(planned, func(x backends.Replica) bool { return x.RSE == rse })
		if i < 0 {
			planned = append(planned, backends.Replica{RSE: rse})
			i = len(planned) - 1
		}
		planned[i].State = backends.Available
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(moving)+len(e.trouble)+len(e.cancelled) == 0 {
		return r, planned, nil
	}
	for _, rse := range e.l.RSEs() {
		if moving[rse.Name] {
			plan(rse.Name)
			continue
		}
		var why error
		t := e.trouble[key{in.DID, rse.Name}]
		switch {
		case e.cancelled[key{in.DID, rse.Name}]:
			why = errCancelled
		case t != nil && t.attempts >= e.o.Failures && !time.Now().After(t.next):
			why = t.err
		default:
			continue
		}
		only := backends.Rule{Copies: 1, Expression: r.Expression}
		if n, err := e.l.Missing(only, []backends.Replica{{RSE: rse.Name, State: backends.Available}}); err != nil || n > 0 || rse.ReadOnly {
			continue // does not match: no choice of this rule
		}
		plan(rse.Name)
		r.Copies++
		given = why
	}
	return r, planned, given
}

// removeBad deletes what was declared BAD, now that the rule is fulfilled without it.
// One good copy must have been verified, and its storage have it now; nothing is deleted on the word of a register.
func (e *Engine) removeBad(ctx context.Context, in backends.Info, have []backends.Replica) error {
	verified := slices.ContainsFunc(have, func(r backends.Replica) bool {
		return r.State == backends.Available && !r.Verified.IsZero()
	})
	asked := false
	for _, r := range have {
		rse, known := e.l.RSE(r.RSE)
		if !verified || !known || rse.ReadOnly || r.State != backends.Bad && r.State != backends.BeingDeleted {
			continue
		}
		if wasGood(r) {
			continue // all rules have to be looked at first
		}
		if !asked { // what is BAD may turn out to be all that there is
			if asked = e.anyThere(ctx, in, have); !asked {
				return ctx.Err()
			}
		}
		if err := e.removeOne(ctx, in, rse, r); err != nil {
			return err
		}
	}
	return nil
}

// removeOne deletes one of them, if it is still what is on record: somebody may have replaced it meanwhile.
func (e *Engine) removeOne(ctx context.Context, in backends.Info, rse *lake.RSE, r backends.Replica) error {
	release, ok := e.l.TryClaim(in, r.RSE)
	if !ok {
		return nil // somebody replaces it, which may take hours; who looks at the files waits for none
	}
	defer release()
	now, err := e.l.Catalogue().Replicas(ctx, in.DID)
	if err != nil || !slices.ContainsFunc(now, func(x backends.Replica) bool { return x.RSE == r.RSE && x.PFN == r.PFN && x.State == r.State }) {
		if errors.Is(err, backends.ErrNotExist) {
			err = nil
		}
		return err
	}
	r.State = backends.BeingDeleted
	err = e.l.Catalogue().PutReplica(ctx, in.DID, in.Generation, r)
	if errors.Is(err, backends.ErrStale) || errors.Is(err, backends.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := e.l.RemoveReplica(ctx, rse, in, r); err != nil {
		e.log.Warn("bad file not deleted yet", "did", in.DID, "rse", r.RSE, "pfn", r.PFN, "err", err)
		return nil
	}
	e.log.Info("bad file deleted, others are good", "did", in.DID, "rse", r.RSE, "pfn", r.PFN)
	if err := e.l.Catalogue().DropReplica(ctx, in.DID, r.RSE, r.PFN); err != nil && !errors.Is(err, backends.ErrNotExist) {
		return err
	}
	return nil
}

// maxDepth bounds the collections within collections that are walked.
const maxDepth = 128

// files streams the files at or below d, symbolic links left out. A file that is in
// several collections may come more than once; a collection within itself is passed once.
// The error for d itself being gone comes with the zero Info.
func (e *Engine) files(ctx context.Context, d backends.DID) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		in, err := e.l.Catalogue().Stat(ctx, d)
		if err != nil {
			yield(backends.Info{}, err)
			return
		}
		e.walk(ctx, in, nil, yield)
	}
}

func (e *Engine) walk(ctx context.Context, in backends.Info, above []backends.DID, yield func(backends.Info, error) bool) bool {
	if !in.IsDir() {
		return in.IsSymlink() || yield(in, nil)
	}
	if len(above) == maxDepth || slices.Contains(above, in.DID) {
		return true
	}
	above = append(above, in.DID)
	for child, err := range e.l.Catalogue().Contents(ctx, in.DID, "") {
		if errors.Is(err, backends.ErrNotExist) {
			return true // removed since it was listed
		}
		if err != nil {
			yield(in, err)
			return false
		}
		if !e.walk(ctx, child, above, yield) {
			return false
		}
	}
	return true
}
