package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

// With a catalogue that is Served a name is for ever, and so is its path at an RSE. What the server has of a name is known before a byte is
// written there: the same content is not sent again, and another one is never overwritten.

// met is what the server said of a name, and when.
type met struct {
	look backends.Look
	is   bool // there is such a name
	at   time.Time
}

// Another node may have a file of the same name. Where paths follow from names (RSE.Bound) both write to one path, and who registers first has the
// name. So a name is looked at before its path is written to and, if that was longer than metFor ago, once more before the file is moved to its
// place, which is given commitFor. The copy of who registered first is not safe before all that has passed, and lies there still.
const (
	metFor    = 5 * time.Second
	commitFor = 5 * time.Second
)

// round are names that were asked for together, so that they are asked for again together.
type round struct {
	dids []backends.DID

	mu    sync.Mutex
	looks map[backends.DID]backends.Look
	at    time.Time
}

// fresh gives what the server says of one of the names, no longer than metFor ago.
func (n *round) fresh(ctx context.Context, k *link, d backends.DID) (*met, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if k.clock().Sub(n.at) > metFor {
		asked := k.clock()
		looks, err := k.server.Look(ctx, n.dids)
		if err != nil {
			return nil, err
		}
		n.looks, n.at = looks, asked
	}
	l, ok := n.looks[d]
	return &met{l, ok, n.at}, nil
}

// errTaken is that the name has another content, for ever.
var errTaken = fmt.Errorf("the catalogue's server has this name with another content, and a name never gets a second one there; rename the file: %w", backends.ErrExist)

// errUncertain is that the name has a content of which nobody can tell whether it is the same: files of one size that differ in three
// bytes may well have one adler32 (121 and 202).
var errUncertain = fmt.Errorf("the catalogue's server has a file of this name, and no md5 of it by which it could be told to be the same; give the file another name, or its md5 to the server: %w", backends.ErrExist)

// certain tells whether digests prove that two files are the same.
func certain(c backends.Checksums) error {
	if c.MD5 == "" && c.SHA256 == "" {
		return errUncertain
	}
	return nil
}

// meet asks for the names of many records at once.
func (k *link) meet(ctx context.Context, rs []*Record) error {
	dids := make([]backends.DID, len(rs))
	for i, r := range rs {
		dids[i] = r.DID
	}
	asked := k.clock()
	looks, err := k.server.Look(ctx, dids)
	if err != nil {
		return err
	}
	n := &round{dids: dids, looks: looks, at: asked}
	for _, r := range rs {
		l, ok := looks[r.DID]
		r.met, r.round = &met{l, ok, asked}, n
	}
	return nil
}

// meetAgain looks at a name again, with those that were looked at together with it, if that was longer than metFor ago.
func (k *link) meetAgain(ctx context.Context, r *Record) (err error) {
	if r.met != nil && k.clock().Sub(r.met.at) <= metFor {
		return nil
	}
	if r.round == nil {
		return k.meet(ctx, []*Record{r})
	}
	r.met, err = r.round.fresh(ctx, k, r.DID)
	return err
}

// stillFree tells whether nobody has registered the name of a file while it was being sent to a path that others write to as well.
func (k *link) stillFree(ctx context.Context, r *Record) error {
	if rse, ok := k.lake.RSE(r.RSE); k.server == nil || !ok || !rse.Bound {
		return nil
	}
	if err := k.meetAgain(ctx, r); err != nil {
		return fmt.Errorf("look whether the name is still free: %w", err)
	}
	if r.met.is {
		return errMet
	}
	return nil
}

// settled is how long after its registration a file's copies count: whoever looked at the name before it was registered has written by then.
const settled = metFor + commitFor

// unsettled tells whether somebody else who looked at the name before it was registered may still write to the path of a copy. Of an RSE that is
// not known here the worst is supposed.
func (k *link) unsettled(r *Record, copies []Copy) error {
	shared := slices.ContainsFunc(copies, func(c Copy) bool { rse, ok := k.lake.RSE(c.RSE); return !ok || rse.Bound })
	since := k.o.Now().Sub(r.RegisteredAt)
	if shared && since < settled && since > -longestWait { // else it was registered before the clock jumped
		return fmt.Errorf("%w: registered a moment ago; its copies are looked at in %v", errUnsafe, (settled - since).Round(time.Second))
	}
	return nil
}

// meetHalves is meet that finds the names which the server does not take, by halving: refuse hears of each, and ends it by its error. It gives
// the others.
func (k *link) meetHalves(ctx context.Context, rs []*Record, refuse func(*Record, error) error) ([]*Record, error) {
	if len(rs) == 0 {
		return nil, nil
	}
	err := k.meet(ctx, rs)
	switch {
	case err == nil:
		return rs, nil
	case fatal(ctx, err), outage(err):
		return nil, err
	case len(rs) == 1:
		return nil, refuse(rs[0], err)
	}
	a, err := k.meetHalves(ctx, rs[:len(rs)/2], refuse)
	if err != nil {
		return nil, err
	}
	b, err := k.meetHalves(ctx, rs[len(rs)/2:], refuse)
	return append(a[:len(a):len(a)], b...), err
}

// placeServed is place for such a catalogue. Records whose names are there get none: they have to be compared first.
func (k *link) placeServed(ctx context.Context, rs []*Record) (out []*Record, err error) {
	if len(rs) == 0 {
		return nil, nil
	}
	drop := func(r *Record, why error) error {
		k.leaveGate(r.RSE)
		r.Left = r.left()
		r.RSE, r.PFN = "", ""
		if err := k.fail(r, why); err != nil && !errors.Is(err, backends.ErrStale) {
			return err
		}
		return nil
	}
	var fit []*Record
	for i, r := range rs {
		if err := k.server.Fits(r.DID); err == nil {
			fit = append(fit, r)
		} else if err := drop(r, err); err != nil {
			k.unplace(rs[i:])
			return nil, err
		}
	}
	if fit, err = k.meetHalves(ctx, fit, drop); err != nil {
		k.unplace(rs)
		return nil, fmt.Errorf("look whether %d names are in use: %w", len(rs), err)
	}
	to := map[string][]*Record{}
	for _, r := range fit {
		switch {
		case r.met.is && r.PFN == "":
			k.leaveGate(r.RSE)
			r.RSE = ""
			out = append(out, r)
		case r.PFN != "":
			out = append(out, r)
		default:
			to[r.RSE] = append(to[r.RSE], r)
		}
	}
	for name, some := range to {
		rse, _ := k.lake.RSE(name)
		dids, hs := make([]backends.DID, len(some)), make([]lake.Holder, len(some))
		for i, r := range some {
			dids[i], hs[i] = r.DID, r.held
		}
		pfns, errs, err := k.lake.PlaceNew(ctx, k.server, rse, dids, hs)
		if err != nil {
			k.unplace(rs)
			return nil, err
		}
		for i, r := range some {
			if errs[i] == nil {
				r.PFN = pfns[i]
				out = append(out, r)
			} else if err := drop(r, errs[i]); err != nil {
				k.unplace(rs)
				return nil, err
			}
		}
	}
	return out, nil
}

// thereServed tells whether the server has this content under the name, with a copy. Another content is errTaken.
func (k *link) thereServed(ctx context.Context, r *Record, f io.ReaderAt) (bool, error) {
	again := r.met != nil && !r.met.is && r.tries && r.PFN != "" // it may have written there: that is asked of it alone, since a long answer may lack some
	if again {
		r.met, r.round = nil, nil
	}
	if err := k.meetAgain(ctx, r); err != nil {
		return false, err
	}
	l := r.met.look
	switch {
	case !r.met.is && r.PFN == "":
		return false, fmt.Errorf("%s was there a moment ago: %w: %w", r.DID, backends.ErrBusy, backends.ErrTemporary)
	case !r.met.is:
		return false, nil
	case l.Info.Type != backends.File:
		return false, fmt.Errorf("it is a %s there: %w", l.Info.Type, errTaken)
	case l.Info.Size != r.Size:
		return false, fmt.Errorf("%d bytes, and not %d: %w", l.Info.Size, r.Size, errTaken)
	}
	sums, err := k.digest(ctx, r, f, l.Info.Checksums)
	if err != nil {
		return false, err
	}
	if err := l.Info.Checksums.Match(sums); err != nil {
		return false, fmt.Errorf("%w: %w", err, errTaken)
	}
	if err := certain(l.Info.Checksums); err != nil {
		return false, err
	}
	for _, x := range l.Replicas {
		if x.State == backends.Available {
			r.Generation = backends.GenerationOf(r.DID, r.Size, sums)
			k.isThere(r, l.Replicas, sums)
			return true, nil
		}
	}
	return false, fmt.Errorf("the catalogue's server has this very file, and no copy of it that is AVAILABLE%s: %w: %w", statesOf(l.Replicas), backends.ErrBusy, backends.ErrTemporary)
}

// statesOf lists copies in words.
func statesOf(rs []backends.Replica) (s string) {
	for i, x := range rs {
		if s += ", "; i == 0 {
			s = " (it has "
		}
		s += string(x.State) + " at " + x.RSE
		if x.Error != "" {
			s += ": " + x.Error
		}
	}
	if s != "" {
		s += ")"
	}
	return s
}
