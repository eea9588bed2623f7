package ingest

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

// gate keeps files away from an RSE that is down or full: after a failure of that kind nothing is sent there for a while,
// then one file, and all again when one has arrived. So an outage costs a few tries and not some of each file.
type gate struct {
	failures int
	until    time.Time // nothing before; of the monotonic clock
	probing  bool      // one file is on its way
	why      string
}

// longestWait is the longest time between two tries of a file or an RSE.
const longestWait = 5 * time.Minute

// patience is how long to wait after so many failures in a row: 1 s, doubled up to longestWait, half of it random.
func patience(failures int) time.Duration {
	d := min(time.Second<<min(max(failures-1, 0), 20), longestWait)
	return d/2 + rand.N(d/2)
}

// outage tells whether an error is likely to be met by other files as well.
func outage(err error) bool {
	for _, e := range []error{backends.ErrUnavailable, backends.ErrHeldOff, backends.ErrNoSpace, backends.ErrQuota, backends.ErrPermission, backends.ErrExpired,
		backends.ErrReadOnly, backends.ErrTooManyFiles, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return backends.IsTemporary(err) && !backends.IsAnswered(err)
}

// closeGate notes an outage of an RSE.
func (k *link) closeGate(rse string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.gates[rse]
	if g == nil {
		g = &gate{}
		k.gates[rse] = g
	}
	now := k.clock()
	g.why = err.Error()
	if g.probing || !now.Before(g.until) { // what was under way with others tells nothing new
		g.failures++
		g.until = now.Add(max(min(patience(g.failures), time.Minute), min(backends.RetryAfter(err), longestWait)))
	}
	g.probing = false
	clear(k.choices)
}

// openGate notes that a file has arrived at the RSE.
func (k *link) openGate(rse string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.gates, rse)
}

// leaveGate notes that a probe ended without telling anything of the RSE.
func (k *link) leaveGate(rse string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if g := k.gates[rse]; g != nil {
		g.probing = false
	}
}

// closedError is that all RSEs that could be chosen have their gates closed.
type closedError struct {
	why   string
	until time.Time
}

// Error says what the RSE failed with.
func (e *closedError) Error() string { return e.why }

// pass tells whether files may be sent to the RSE, and whether no more than one.
func (k *link) pass(rse string) (probe bool, closed *closedError) {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.gates[rse]
	if g == nil {
		return false, nil
	}
	if g.probing || k.clock().Before(g.until) {
		return false, &closedError{g.why, g.until}
	}
	return true, nil
}

// probe takes the one turn of a gate.
func (k *link) probe(rse string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if g := k.gates[rse]; g != nil {
		g.probing = true
	}
}

// chosen is what Targets gave.
type chosen struct {
	until time.Time // it holds
	rses  []*lake.RSE
}

// choose gives the RSE for the first copy of a file of that size. probe says that no other file may go there before it is
// known what became of this one; with well there is no such RSE. The error is a *closedError when waiting may help.
func (k *link) choose(ctx context.Context, size int64, well bool) (rse *lake.RSE, probe bool, err error) {
	class := int64(1)
	for class < size {
		class *= 2
	}
	k.mu.Lock()
	c := k.choices[class]
	k.mu.Unlock()
	if began := k.clock(); !began.Before(c.until) {
		c.rses, err = k.targets(ctx, size)
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		if len(c.rses) == 0 {
			return nil, false, &closedError{err.Error(), k.clock().Add(time.Second)}
		}
		now := k.clock()
		c.until = now.Add(max(time.Second, 10*now.Sub(began))) // one that hangs is not asked all the time
		k.mu.Lock()
		k.choices[class] = c
		k.mu.Unlock()
	}
	var first *closedError
	for _, rse := range c.rses {
		probe, closed := k.pass(rse.Name)
		if probe && well {
			closed = &closedError{rse.Name + " failed lately", k.clock()}
		}
		if closed == nil {
			return rse, probe, nil
		}
		if first == nil || closed.until.Before(first.until) {
			first = closed
		}
	}
	return nil, false, first
}

// targets gives the RSEs that a first copy may go to, the best first: those of the first rule. Where a server keeps the copies, which may let
// nobody else write to some RSEs, those of the other rules come after them: each is one that a rule holds copies at.
func (k *link) targets(ctx context.Context, size int64) (out []*lake.RSE, err error) {
	rules := k.d.Rules[:1]
	if k.server != nil {
		rules = k.d.Rules
	}
	var errs []error
	for _, r := range rules {
		some, err := k.lake.TargetsBy(ctx, r, nil, lake.Choice{Size: size, Seed: r.DID.String(), All: true})
		errs = append(errs, err)
		for _, rse := range some {
			if !slices.Contains(out, rse) {
				out = append(out, rse)
			}
		}
	}
	return out, errors.Join(errs...)
}
