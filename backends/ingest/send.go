package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/backends"
)

// sealed is how many files are sealed at a time: their places are on record before a byte of them is written.
const sealed = 128

// seal takes the next files of the queue, chooses where their first copies go, and notes both. The error is a
// *closedError when no RSE can be chosen now.
func (k *link) seal(ctx context.Context, n int) ([]*Record, error) {
	due, _, err := k.ledger.due(k.o.Now(), n)
	if err != nil {
		return nil, err
	}
	fresh, _, err := k.ledger.next(toSend, nil, n-len(due))
	if err != nil {
		return nil, err
	}
	var out []*Record
	for bytes := int64(0); len(due)+len(fresh) > 0 && bytes < k.o.InFlight; { // urgent ones that come do not wait for long
		r := append(due, fresh...)[0]
		if len(due) > 0 {
			due = due[1:]
		} else {
			fresh = fresh[1:]
		}
		now, err := k.folder.stat(r.Path)
		if err == nil && !now.Same(r.file()) {
			err = errChanged
		}
		if errors.Is(err, errGone) || errors.Is(err, errChanged) {
			if err := k.anew(ctx, r, err); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			k.unplace(out)
			return nil, fmt.Errorf("look at %s: %w", r.Path, err)
		}
		err = k.route(ctx, r)
		var closed *closedError
		if errors.As(err, &closed) && len(out) > 0 {
			break
		}
		if err != nil {
			k.unplace(out)
			return nil, err
		}
		out = append(out, r)
		if bytes += r.Size; r.probe {
			break
		}
	}
	if k.server != nil {
		out, err = k.placeServed(ctx, out)
	} else {
		out, err = k.place(ctx, out)
	}
	if err != nil {
		return nil, err
	}
	changes := make([]*change, len(out))
	for i, r := range out {
		r.Stage, r.SealedAt, r.NextTry = Sealed, k.o.Now(), time.Time{}
		changes[i] = &change{path: r.Path, rev: r.Rev, to: r, attempts: 1}
	}
	if err := k.step("seal", ""); err != nil {
		return nil, err
	}
	if err := k.ledger.commit(changes...); err != nil {
		k.unplace(out)
		return nil, err
	}
	return k.made(out, changes), nil
}

// unplace gives back what place has given.
func (k *link) unplace(rs []*Record) {
	for _, r := range rs {
		k.lake.LetGo(r.held)
		k.leaveGate(r.RSE)
	}
}

// made leaves out the records that somebody else changed.
func (k *link) made(rs []*Record, changes []*change) (out []*Record) {
	for i, r := range rs {
		if changes[i].err != nil {
			k.lake.LetGo(r.held)
			k.leaveGate(r.RSE)
			continue
		}
		out = append(out, r)
	}
	return out
}

// route chooses the RSE of the first copy; where one was begun it goes on there, while that is possible.
func (k *link) route(ctx context.Context, r *Record) error {
	r.held, r.tries, r.probe = k.lake.NewHolder(), false, false
	if rse, ok := k.lake.RSE(r.RSE); ok && r.PFN != "" && !rse.ReadOnly {
		probe, closed := k.pass(r.RSE)
		if probe { // where it failed before: rather to one that is well
			if rse, _, err := k.choose(ctx, r.Size, true); err == nil {
				r.Left = r.left()
				r.RSE, r.PFN = rse.Name, ""
				return nil
			}
		}
		if closed == nil && k.own(ctx, r) {
			r.tries = true
			k.take(r, probe)
			return nil
		}
	}
	rse, probe, err := k.choose(ctx, r.Size, false)
	if err != nil {
		return err
	}
	r.Left = r.left()
	r.RSE, r.PFN = rse.Name, ""
	k.take(r, probe)
	return nil
}

// take takes the one turn of a gate, if it has one only.
func (k *link) take(r *Record, probe bool) {
	if r.probe = probe; probe {
		k.probe(r.RSE)
	}
}

// place gives each file that has none a path at its RSE, many at a time: it may have to be asked. Files whose RSE does not
// answer are left out.
func (k *link) place(ctx context.Context, rs []*Record) (out []*Record, err error) {
	var g errgroup.Group
	g.SetLimit(k.o.Workers)
	failed := make([]error, len(rs))
	for i, r := range rs {
		if r.PFN != "" {
			continue
		}
		g.Go(func() error {
			rse, _ := k.lake.RSE(r.RSE)
			r.PFN, _, failed[i] = k.lake.Place(ctx, rse, backends.Info{DID: r.DID, Type: backends.File, Size: r.Size}, r.held, "", false)
			return nil
		})
	}
	_ = g.Wait()
	for i, r := range rs {
		switch err := failed[i]; {
		case err == nil:
			out = append(out, r)
			continue
		case ctx.Err() != nil:
			k.unplace(rs)
			return nil, ctx.Err()
		case outage(err):
			k.closeGate(r.RSE, err)
		default:
			k.leaveGate(r.RSE)
		}
		r.RSE = ""
		if err := k.fail(r, failed[i]); err != nil && !errors.Is(err, backends.ErrStale) {
			k.unplace(rs)
			return nil, err
		}
	}
	return out, nil
}

// own makes the path on record its record's again, which nobody else must have meanwhile.
func (k *link) own(ctx context.Context, r *Record) bool {
	if k.lake.Hold(r.held, r.RSE, r.PFN) != nil {
		return false
	}
	if rse, ok := k.lake.RSE(r.RSE); ok && rse.Bound && k.server != nil { // it is the DID's alone; what has the name is looked at before it is sent
		return true
	}
	own := 0
	if on, err := k.lake.Catalogue().Replicas(ctx, r.DID); err == nil {
		for _, x := range on {
			if x.RSE == r.RSE && x.PFN == r.PFN {
				own++
			}
		}
	}
	others, err := k.lake.Others(ctx, r.RSE, r.PFN, own)
	if err != nil || others {
		k.lake.LetGo(r.held)
		return false
	}
	return true
}

// source is the file that is sent, at the pace that is allowed.
type source struct {
	ctx  context.Context
	k    *link
	r    *Record
	f    io.ReaderAt
	err  error // of the source
	late error // what was found before its last bytes were given: the file is not to get to its place
}

// ReadAt reads, counts and waits.
func (s *source) ReadAt(p []byte, off int64) (int, error) {
	if s.k.rate != nil {
		for left := len(p); left > 0; {
			n := min(left, s.k.rate.Burst())
			if err := s.k.rate.WaitN(s.ctx, n); err != nil {
				return 0, err
			}
			left -= n
		}
	}
	n, err := s.f.ReadAt(p, off)
	if err != nil && err != io.EOF {
		s.err = err
	} else if off+int64(n) >= s.r.Size {
		if s.late = s.k.stillFree(s.ctx, s.r); s.late != nil {
			return 0, s.late
		}
	}
	return n, err
}

// send stores the first copy of a sealed file and has it verified. ok tells that the record goes on to be registered;
// otherwise what became of it is on record. An error ends the ingest.
func (k *link) send(ctx context.Context, r *Record) (ok bool, err error) {
	err = k.transfer(ctx, r)
	switch {
	case err == nil:
		k.openGate(r.RSE)
		return true, nil
	case ctx.Err() != nil:
		return false, ctx.Err() // it goes on from its record
	case errors.Is(err, backends.ErrClosed), errors.Is(err, errCrash):
		return false, err
	}
	switch {
	case errors.Is(err, errGone), errors.Is(err, errChanged):
		k.leaveGate(r.RSE)
		return false, k.anew(ctx, r, err)
	case outage(err):
		k.closeGate(r.RSE, err)
	default:
		k.leaveGate(r.RSE)
	}
	return false, k.fail(r, err)
}

// errCrash is what the hook of a test returns.
var errCrash = errors.New("crash")

// transfer fills in what registration needs.
func (k *link) transfer(ctx context.Context, r *Record) error {
	if d := k.ripen(r.file()); d > 0 && !sleep(ctx, d) {
		return ctx.Err()
	}
	f, err := k.folder.open(r.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	same := func() error {
		now, err := statOf(f)
		if err == nil && !now.Same(r.file()) {
			err = errChanged
		}
		return err
	}
	if err := same(); err != nil {
		return err
	}
	if there, err := k.there(ctx, r, f); err != nil || there {
		if err == nil {
			err = same()
		}
		return err
	}
	rse, ok := k.lake.RSE(r.RSE)
	if !ok {
		return fmt.Errorf("RSE %s is not in the lake: %w", r.RSE, backends.ErrNotExist)
	}
	if err := k.step("send", r.Path); err != nil {
		return err
	}
	if r.Size == 0 { // of which no last byte is read
		if err := k.stillFree(ctx, r); err != nil {
			return err
		}
	}
	v := k.watch(ctx, rse, r)
	src := &source{ctx: ctx, k: k, r: r, f: f}
	sent := int64(0)
	progress := func(n int64) {
		k.meters.bytes(n - sent)
		if sent = n; n == r.Size && r.TransferredAt.IsZero() {
			r.TransferredAt = k.o.Now()
		}
		if n == r.Size {
			v.begin()
		}
	}
	_, sums, err := k.lake.Take(v.ctx, rse, r.PFN, src, r.Size, r.tries, progress)
	if rse.Elsewhere(err) { // nothing can be at the path of its naming
		if err := k.elsewhere(r); err != nil {
			return v.end(err)
		}
		_, sums, err = k.lake.Take(v.ctx, rse, r.PFN, src, r.Size, false, progress)
	}
	err = v.end(err)
	if src.late != nil {
		err = src.late
	}
	if src.err != nil {
		err = src.err
	}
	if changed := same(); changed != nil {
		return changed
	}
	if err != nil {
		k.meters.bytes(-sent)
		return err
	}
	if err := k.step("sent", r.Path); err != nil {
		return err
	}
	r.Checksums, r.Generation, r.VerifiedAt = sums, backends.GenerationOf(r.DID, r.Size, sums), k.o.Now()
	k.read(r, f)
	return same()
}

// elsewhere gives a sealed record a path of its own, on record before it is written to.
func (k *link) elsewhere(r *Record) error {
	k.lake.LetGo(r.held)
	to := *r
	to.PFN = k.lake.NewPFN(r.DID, "")
	if err := k.commitOne(&change{path: r.Path, rev: r.Rev, to: &to}); err != nil {
		return err
	}
	*r = to
	return nil
}

// sender sends files until ctx ends, those first that were sealed when this process began. How many at a time follows
// from their size: many small ones, since each waits for answers, and few large ones, each of which fills the link.
func (k *link) sender(ctx context.Context, resumed []*Record, out chan<- *Record) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := newSlots(k.o.Workers, k.o.InFlight)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if !k.hours.open(k.o.Now().Local()) {
			k.await(ctx, time.Minute)
			continue
		}
		batch := resumed
		if resumed = nil; len(batch) == 0 {
			var err error
			n := sealed
			if k.server != nil {
				n = mostRegistered // the server is asked once for all of them
			}
			if batch, err = k.seal(ctx, n); err != nil {
				var closed *closedError
				switch {
				case errors.As(err, &closed):
					k.setTrouble("send", err)
					k.await(ctx, max(closed.until.Sub(k.clock()), 10*time.Millisecond))
					continue
				case fatal(ctx, err):
					return err
				}
				k.setTrouble("send", err)
				k.await(ctx, time.Second)
				continue
			}
			if len(batch) > 0 {
				k.setTrouble("send", nil)
			}
		}
		if len(batch) == 0 {
			due, next, err := k.ledger.due(k.o.Now(), 1)
			wait := time.Minute
			switch {
			case err != nil:
			case len(due) > 0: // by now
				wait = 10 * time.Millisecond
			case !next.IsZero():
				wait = min(max(next.Sub(k.o.Now()), 10*time.Millisecond), longestWait)
			}
			k.await(ctx, wait)
			continue
		}
		for _, r := range batch {
			if !slots.take(ctx, r.Size) {
				return context.Cause(ctx)
			}
			if _, closed := k.pass(r.RSE); closed != nil && !r.probe && r.PFN != "" { // since it was sealed
				slots.give(r.Size)
				if err := k.again(r); err != nil && fatal(ctx, err) {
					return err
				}
				continue
			}
			wg.Go(func() {
				defer slots.give(r.Size)
				ok, err := k.send(ctx, r)
				if err != nil && fatal(ctx, err) {
					stop(err)
					return
				}
				if err != nil {
					k.log.Warn("file waits for the next start", "path", r.Path, "err", err)
				}
				if ok {
					select {
					case out <- r:
					case <-ctx.Done():
					}
				}
			})
		}
	}
}

// fatal tells whether an error ends the run.
func fatal(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, backends.ErrClosed) || errors.Is(err, errCrash)
}

// await waits for work, at most so long.
func (k *link) await(ctx context.Context, d time.Duration) { wait(ctx, k.wakes[wakeSender], d) }

// wait ends with a wake, the time or ctx.
func wait(ctx context.Context, wake <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-wake:
	case <-t.C:
	case <-ctx.Done():
	}
}
