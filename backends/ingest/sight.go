package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/backends"
)

// With a catalogue that is Served a file is safe when, by what the server says in this moment, it has the very content, and for each rule of the
// definition there is one of the server's on the file's dataset whose locks hold enough AVAILABLE copies of it, and each of these is proved: it is
// the one that was sent and verified, or its storage has been asked for its checksum, or, where its storage cannot be asked from here, the server
// says so. The server is asked about many files at once.

// sight is what was asked of many files at once, for the proofs of each.
type sight struct {
	tapes tapes
	// Of a catalogue that is Served.
	looks map[backends.DID]backends.Look
	held  map[backends.DID][]backends.Held // by directory: what holds its files, for each rule of the definition
	asked map[backends.DID]bool            // files whose locks were asked for
	at    time.Time
}

// see asks about files: the tape systems, and a catalogue that is Served. Of any other one each proof asks.
func (k *link) see(ctx context.Context, rs []*Record) (s sight, err error) {
	if k.server == nil || len(rs) == 0 {
		return sight{tapes: k.onTape(ctx, rs)}, nil
	}
	s = sight{held: map[backends.DID][]backends.Held{}, asked: map[backends.DID]bool{}, at: k.clock()}
	dids := make([]backends.DID, len(rs))
	for i, r := range rs {
		dids[i] = r.DID
	}
	slices.SortFunc(dids, func(a, b backends.DID) int { return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Name, b.Name)) })
	if s.looks, err = k.server.Look(ctx, slices.Compact(dids)); err != nil {
		return s, fmt.Errorf("look at %d files: %w", len(rs), err)
	}
	want := map[backends.DID]map[backends.DID]bool{}
	for _, r := range rs {
		dir := k.home(r)
		if want[dir] == nil {
			want[dir] = map[backends.DID]bool{}
		}
		if k.mayHold(s.looks[r.DID].Replicas) { // the locks of a rule are those of all its files: they are asked for when they tell something
			want[dir][r.DID], s.asked[r.DID] = true, true
		}
	}
	for dir, files := range want {
		s.held[dir], err = k.server.Held(ctx, dir, k.d.Rules, files)
		if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) { // nothing holds anything there
			s.held[dir], err = make([]backends.Held, len(k.d.Rules)), nil
		}
		if err != nil {
			return s, fmt.Errorf("rules of the files in %s: %w", dir, err)
		}
	}
	return s, nil
}

// mayHold tells whether there are copies where each rule wants them. The locks tell for certain.
func (k *link) mayHold(on []backends.Replica) bool {
	for _, x := range on {
		if _, ok := k.lake.RSE(x.RSE); !ok && x.State == backends.Available {
			return true // an RSE that is new since the lake was opened
		}
	}
	for _, r := range k.d.Rules {
		if n, err := k.lake.Missing(r, on); err != nil || n > 0 {
			return false
		}
	}
	return true
}

// errStalled is, beside errUnsafe, that the server does not get any further.
var errStalled = errors.New("the catalogue's server is stuck")

// proveServed gives the copies that hold a file by the rules, as the server says. Errors as those of prove.
func (k *link) proveServed(r *Record, s sight) (out []Copy, err error) {
	l, ok := s.looks[r.DID]
	if !ok || l.Removed {
		return nil, fmt.Errorf("%w: it was removed from the catalogue", errNotThere)
	}
	if err := k.sameServed(r, l.Info); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotThere, err)
	}
	held := s.held[k.home(r)]
	for i, rule := range k.d.Rules {
		if i >= len(held) || held[i].ID == "" {
			if why := k.refusal(k.home(r)); why != nil {
				return nil, fmt.Errorf("%w: the server does not make the rules of the files in %s, and is asked again: %w: %w", errUnsafe, k.dirOf(r), errStalled, why)
			}
			return nil, fmt.Errorf("%w: the rule for %d copies on %q is not there, or not any more; a retry asks for it again", errUnsafe, rule.Copies, rule.Expression)
		}
		h, n := held[i], 0
		if !h.Lasts(rule, k.o.Now()) {
			return nil, fmt.Errorf("%w: rule %s for %d copies on %q lets them go at %s; if they are to stay, let it last longer, or, when it has ended, retry, which asks for a new one: %w",
				errUnsafe, h.ID, rule.Copies, rule.Expression, h.Expires.Format(time.RFC3339), errStalled)
		}
		for _, x := range l.Replicas {
			if x.State != backends.Available || !slices.Contains(h.At[r.DID], x.RSE) {
				continue
			}
			n++
			j := slices.IndexFunc(out, func(c Copy) bool { return c.RSE == x.RSE })
			if j < 0 {
				j, out = len(out), append(out, Copy{Replica: x})
			}
			out[j].Rules = append(out[j].Rules, h.ID)
		}
		if !s.asked[r.DID] { // of a rule that has its copies the locks are not known
			if missing, err := k.lake.Missing(rule, l.Replicas); err == nil {
				n = rule.Copies - missing
			}
		}
		if n >= rule.Copies {
			continue
		}
		err := fmt.Errorf("%w: %d of %d on %q%s", errUnsafe, rule.Copies-n, rule.Copies, rule.Expression, statesOf(l.Replicas))
		switch h.State {
		case backends.RuleStuck:
			return nil, fmt.Errorf("%w: %w, rule %s: %s", err, errStalled, h.ID, cmp.Or(h.Error, "it says no reason"))
		case backends.RuleReplicating:
			return nil, fmt.Errorf("%w: %s", err, h.Error)
		}
		return nil, err
	}
	if !s.asked[r.DID] {
		return nil, fmt.Errorf("%w: the locks of its rules were not asked for", errUnsafe)
	}
	return out, nil
}

// doubt is why a copy could not be verified, and when it is tried again.
type doubt struct {
	err   error
	until time.Time
	times int
}

// maxDoubts bounds Link.doubts.
const maxDoubts = 10_000

// certify proves each of the copies of a file, as far as that can be done from here. errUnsafe for one that is not proved, now or ever. Where
// a path follows from the name somebody else, who sent a file of this name at the same time, may have written there after us: the storage is
// asked of the copy that was sent, too, when the server has the name as ours.
func (k *link) certify(ctx context.Context, r *Record, in backends.Info, copies []Copy) error {
	if err := k.unsettled(r, copies); err != nil {
		return err
	}
	sent := func(c Copy) bool { return c.RSE == r.RSE && c.PFN == r.PFN }
	var order, last []int // that one last, and so once
	for i, c := range copies {
		if sent(c) {
			last = append(last, i)
		} else {
			order = append(order, i)
		}
	}
	for _, i := range append(order, last...) {
		c := &copies[i]
		if rse, ok := k.lake.RSE(c.RSE); sent(*c) && !(ok && rse.Bound) {
			c.Proof, c.Verified = ProofSent, r.VerifiedAt
			continue
		}
		if j := slices.IndexFunc(r.Copies, func(x Copy) bool { return x.RSE == c.RSE && x.PFN == c.PFN && x.Proof == ProofStorage }); j >= 0 {
			c.Proof, c.Verified = ProofStorage, r.Copies[j].Verified
			continue
		}
		at := Spot{c.RSE, c.PFN}
		k.mu.Lock()
		d := k.doubts[at]
		k.mu.Unlock()
		if k.clock().Before(d.until) {
			return d.err
		}
		asked, err := k.ask(ctx, r, *c)
		switch {
		case err == nil && sent(*c):
			c.Proof, c.Verified = ProofSent, r.VerifiedAt
		case err == nil && asked:
			c.Proof, c.Verified = ProofStorage, k.o.Now()
		case err == nil:
			c.Proof = ProofServer
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			if errors.Is(err, backends.ErrCorrupt) || errors.Is(err, backends.ErrNotExist) {
				if err := k.lake.DeclareReplicaBad(ctx, in, c.Replica, err); err != nil {
					k.log.Warn("a bad copy is not declared", "did", r.DID, "rse", c.RSE, "err", err)
				}
			}
			d = doubt{fmt.Errorf("%w: the copy at %s is not verified: %w", errUnsafe, c.RSE, err), k.clock().Add(patience(d.times + 1)), d.times + 1}
			k.mu.Lock()
			if len(k.doubts) >= maxDoubts {
				clear(k.doubts)
			}
			k.doubts[at] = d
			k.mu.Unlock()
			return d.err
		}
		k.mu.Lock()
		delete(k.doubts, at)
		k.mu.Unlock()
	}
	return nil
}

// ask has the storage of a copy verify it. It is not asked for what is on tape, at an RSE that cannot be read from here, or that lets nobody
// like us do so.
func (k *link) ask(ctx context.Context, r *Record, c Copy) (asked bool, err error) {
	rse, ok := k.lake.RSE(c.RSE)
	if !ok || rse.Tape != nil || rse.Unread != nil && rse.Unread() != "" {
		return false, nil
	}
	_, err = k.lake.Prove(ctx, rse, c.PFN, r.Size, r.Checksums)
	if errors.Is(err, backends.ErrPermission) || errors.Is(err, backends.ErrNotSupported) || errors.Is(err, backends.ErrOffline) {
		return false, nil
	}
	return true, err
}

// certifyAll proves the copies of many files, some at a time. What became of each is in its error.
func (k *link) certifyAll(ctx context.Context, rs []*Record, s sight) (copies [][]Copy, errs []error) {
	copies, errs = make([][]Copy, len(rs)), make([]error, len(rs))
	var g errgroup.Group
	g.SetLimit(k.o.Workers)
	for i, r := range rs {
		if copies[i], errs[i] = k.proveServed(r, s); errs[i] != nil {
			continue
		}
		g.Go(func() error {
			errs[i] = k.certify(ctx, r, s.looks[r.DID].Info, copies[i])
			return nil
		})
	}
	_ = g.Wait()
	return copies, errs
}

// proveAgain proves a file that was safe by what the server says now and by the proofs of its copies on record: the same ones must be there.
func (k *link) proveAgain(r *Record, s sight) ([]Copy, error) {
	copies, err := k.proveServed(r, s)
	if err != nil {
		return nil, err
	}
	var good []Copy
	for _, c := range copies {
		if j := slices.IndexFunc(r.Copies, func(x Copy) bool { return x.RSE == c.RSE && x.PFN == c.PFN && x.Proof != "" }); j >= 0 {
			c.Proof, c.Verified = r.Copies[j].Proof, r.Copies[j].Verified
			good = append(good, c)
		}
	}
	for i, rule := range k.d.Rules {
		n, id := 0, s.held[k.home(r)][i].ID
		for _, c := range good {
			if slices.Contains(c.Rules, id) {
				n++
			}
		}
		if n < rule.Copies {
			return nil, fmt.Errorf("%w: %d of %d on %q are there that were proved", errUnsafe, n, rule.Copies, rule.Expression)
		}
	}
	return good, nil
}
