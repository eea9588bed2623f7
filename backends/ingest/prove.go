package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/backends"
)

// The proof that a file is safe, made of what the catalogue and the tape systems say at the moment:
//
//   - the catalogue has the DID, with the generation, size and checksums that were sent;
//   - there is a rule at least, and each rule on the file or on a collection above it, whoever made it, and each rule of
//     the definition, is fulfilled by replicas at distinct RSEs that are AVAILABLE, that were verified after they were
//     written, and that are on tape where the RSE is one.
//
// What cannot be asked is not proved.

// errUnsafe is that the lake lacks copies, and errNotThere that it does not have the content (any more).
var (
	errUnsafe   = errors.New("copies are missing")
	errNotThere = errors.New("the lake does not have it")
	errNoCopy   = errors.New("no copy is left in the lake") // beside errUnsafe
)

// tapes is which copies are on tape, as their systems said.
type tapes map[Spot]bool

// onTape asks the tape systems of many files with one question each. One that does not answer has none of them.
func (k *link) onTape(ctx context.Context, rs []*Record) tapes {
	out := tapes{}
	ask := map[string][]string{}
	for _, r := range rs {
		on, err := k.lake.Catalogue().Replicas(ctx, r.DID)
		if err != nil {
			continue // whoever proves it will be told so too
		}
		for _, x := range on {
			if rse, ok := k.lake.RSE(x.RSE); ok && rse.Tape != nil && counts(x) {
				ask[x.RSE] = append(ask[x.RSE], x.PFN)
			}
		}
	}
	for name, pfns := range ask {
		rse, _ := k.lake.RSE(name)
		for some := range slices.Chunk(pfns, 1000) {
			found, err := k.lake.OnTape(ctx, rse, some)
			if err != nil {
				k.log.Warn("not known what is on tape", "rse", name, "files", len(some), "err", err)
				continue
			}
			for i, pfn := range some {
				out[Spot{name, pfn}] = found[i]
			}
		}
	}
	return out
}

// counts tells whether a replica can be part of a proof.
func counts(r backends.Replica) bool { return r.State == backends.Available && !r.Verified.IsZero() }

// prove gives the copies that make a file safe. errUnsafe when some are missing yet, errNotThere when it is another
// content or none that the lake has; another error is that somebody could not be asked.
func (k *link) prove(ctx context.Context, r *Record, s sight) ([]Copy, error) {
	if k.server != nil {
		return k.proveAgain(r, s)
	}
	in, err := k.lake.Catalogue().Stat(ctx, r.DID)
	if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
		return nil, fmt.Errorf("%w: it was removed from the catalogue", errNotThere)
	}
	if err != nil {
		return nil, err
	}
	if err := k.same(r, in); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotThere, err)
	}
	on, err := k.lake.Catalogue().Replicas(ctx, r.DID)
	if err != nil {
		return nil, err
	}
	var good []Copy
	waits, left := "", false
	for _, x := range on {
		rse, ok := k.lake.RSE(x.RSE)
		left = left || x.State == backends.Available
		switch {
		case ok && x.State == backends.Available && x.Verified.IsZero():
			waits = ", and the copy at " + x.RSE + " was never verified"
		case !ok || !counts(x):
		case rse.Tape != nil && !s.tapes[Spot{x.RSE, x.PFN}]:
			waits = ", and the copy at " + x.RSE + " is not on tape yet"
		default:
			good = append(good, Copy{Replica: x})
		}
	}
	rules, err := k.rulesOf(ctx, r.DID)
	if err != nil {
		return nil, err
	}
	for _, rule := range rules {
		n, err := k.lake.Missing(rule.Rule, replicasOf(good))
		if err != nil {
			return nil, fmt.Errorf("rule %d x %q: %w", rule.Copies, rule.Expression, err)
		}
		if n > 0 && !left {
			return nil, fmt.Errorf("%w: %w", errUnsafe, errNoCopy)
		}
		if n > 0 {
			if rule.State == backends.RuleStuck && rule.Error != "" {
				waits += ": " + rule.Error
			}
			return nil, fmt.Errorf("%w: %d of %d on %q%s", errUnsafe, n, rule.Copies, rule.Expression, waits)
		}
	}
	return good, nil
}

// replicasOf are the replicas of copies.
func replicasOf(cs []Copy) []backends.Replica {
	out := make([]backends.Replica, len(cs))
	for i, c := range cs {
		out[i] = c.Replica
	}
	return out
}

// rulesOf are the rules that a file must fulfil: those that the catalogue has, with their state, and those of the definition.
func (k *link) rulesOf(ctx context.Context, d backends.DID) ([]backends.RuleStatus, error) {
	if k.lake.Rules() == nil || len(k.d.Rules) == 0 {
		return nil, errNoRules
	}
	var rules []backends.RuleStatus
	for r, err := range k.lake.Rules().RulesOf(ctx, d) {
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	if len(rules) == 0 {
		return nil, fmt.Errorf("the rules of %s were deleted: %w", k.d.Target, errUnsafe)
	}
	for _, r := range k.d.Rules {
		rules = append(rules, backends.RuleStatus{Rule: r})
	}
	return rules, nil
}

// proved is how many files are proved at a time, and after how many in a row that are not safe a quick look ends; provedServed with a
// catalogue that is Served, which is asked about all of them at once.
const (
	proved       = 256
	provedServed = 5000
)

// prover looks which registered files are safe until ctx ends. Copies are mostly made in the order of registration, so that
// quick looks at the first files find most of them; a look at all takes at most a tenth of the time.
func (k *link) prover(ctx context.Context) error {
	least, most := 100*time.Millisecond, 5*time.Second
	if k.server != nil { // whose copies take their time
		least, most = 2*time.Second, 30*time.Second
	}
	idle := least
	var whole time.Time // when the next look at all is due
	for {
		began := time.Now()
		all := !began.Before(whole)
		n, err := k.proveAll(ctx, all)
		if err != nil && fatal(ctx, err) {
			return err
		}
		k.setTrouble("prove", err)
		took := time.Since(began)
		if all {
			whole = time.Now().Add(max(most, 9*took))
		}
		if idle = min(2*idle, most); n > 0 {
			idle = least
		}
		least := max(least, min(2*took, most))
		rest := max(idle, least)
		woken := time.Now()
		wait(ctx, k.wakes[wakeProver], rest)
		if d := time.Since(woken); d < rest { // there are new ones
			idle = least
			if !sleep(ctx, max(0, least-d)) {
				return ctx.Err()
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// proveAll goes through the registered files, to the end or until it meets many that are not safe. It tells how many
// became so.
func (k *link) proveAll(ctx context.Context, all bool) (n int, err error) {
	var after []byte
	var reasons []Lagging
	stalled := int64(0)
	defer func() {
		k.mu.Lock()
		k.reasons, k.stalled = reasons, stalled
		k.mu.Unlock()
	}()
	some := proved
	ask := false
	if k.server != nil {
		some = provedServed
		ask = k.rules.Swap(false)
	}
	for {
		rs, last, err := k.ledger.next(pending, after, some)
		if err != nil || last == nil {
			return n, err
		}
		after = last
		if k.server != nil {
			dirs := k.homes(rs)
			if !ask {
				dirs = k.refusedOf(dirs)
			}
			if err := k.askFor(ctx, dirs); err != nil {
				return n, fmt.Errorf("ask again for the rules of %d directories: %w", len(dirs), err)
			}
		}
		m, why, err := k.proveSome(ctx, rs)
		for _, w := range why {
			if w.stalled {
				stalled++
			}
		}
		if reasons = append(reasons, why...); len(reasons) > 100 {
			reasons = reasons[:100]
		}
		if n += m; err != nil || m == 0 && !all && !ask {
			return n, err
		}
	}
}

// proveSome proves files, and notes those that are safe, and those that will not be by themselves.
func (k *link) proveSome(ctx context.Context, rs []*Record) (n int, why []Lagging, err error) {
	s, err := k.see(ctx, rs)
	if err != nil {
		return 0, nil, err
	}
	var all [][]Copy // of a catalogue that is Served
	var errs []error
	if k.server != nil {
		all, errs = k.certifyAll(ctx, rs, s)
	}
	var changes []*change
	for i, r := range rs {
		var copies []Copy
		var err error
		if k.server != nil {
			copies, err = all[i], errs[i]
		} else {
			copies, err = k.prove(ctx, r, s)
		}
		switch {
		case err == nil:
			r.Stage, r.SafeAt, r.Copies, r.Error, r.Attempts, r.NextTry = Safe, k.o.Now(), copies, "", 0, time.Time{}
			changes = append(changes, &change{path: r.Path, rev: r.Rev, to: r})
		case fatal(ctx, err):
			return n, why, err
		case errors.Is(err, errNotThere):
			if r.Attempts < stuckAfter || r.Error != err.Error() {
				k.log.Warn("file is not safe, and nothing is done about it", "path", r.Path, "err", err)
				r.Attempts, r.Error = stuckAfter, err.Error()
				changes = append(changes, &change{path: r.Path, rev: r.Rev, to: r})
			}
		case errors.Is(err, errNoCopy): // the source is there to make one of
			k.log.Warn("file is sent again, since its copies were lost", "path", r.Path)
			changes = append(changes, r.restart())
		default:
			why = append(why, Lagging{Path: r.Path, Stage: r.Stage, Bytes: r.Size, Since: r.FoundAt, Attempts: r.Attempts, Reason: err.Error(), stalled: errors.Is(err, errStalled)})
		}
	}
	if len(changes) == 0 {
		return 0, why, nil
	}
	if err := k.step("safe", ""); err != nil {
		return 0, why, err
	}
	if err := k.note(ctx, changes); err != nil {
		return 0, why, err
	}
	for _, c := range changes {
		if c.err == nil && c.to.Stage == Safe {
			k.meters.safe(c.to)
			n++
		}
	}
	k.kick(wakeRemover)
	k.kick(wakeSender)
	return n, why, nil
}

// restart is the change that lets a registered file begin from the start, with the same content.
func (r *Record) restart() *change {
	to := *r
	to.Stage, to.RSE, to.PFN, to.Copies = Found, "", "", nil // its old path is on record in the catalogue
	to.Attempts, to.Error, to.NextTry = 0, "", time.Time{}
	to.SealedAt, to.TransferredAt, to.VerifiedAt, to.RegisteredAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	return &change{path: r.Path, rev: r.Rev, to: &to}
}
