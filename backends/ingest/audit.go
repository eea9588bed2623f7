package ingest

import (
	"context"
	"errors"
	"fmt"

	"tarn/backends"
)

// Audit proves every deletion again from its tombstone: the catalogue has the same content, or had it until it was replaced
// or removed there by somebody, and every rule is fulfilled by verified replicas now. With deep the storages are asked for
// the checksums of the disk copies again, as far as they can be asked from here. each hears of every one; its error ends the audit.
func (s *Set) Audit(ctx context.Context, name string, deep bool, each func(Audited) error) error {
	e, err := s.entry(name)
	if err != nil {
		return err
	}
	audit := func(rs []*Record) error {
		s, err := e.link.see(ctx, rs)
		if err != nil {
			return err
		}
		for _, r := range rs {
			a := e.link.audit(ctx, r, s, deep)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := each(a); err != nil {
				return err
			}
		}
		return nil
	}
	var some []*Record
	for r, err := range e.link.ledger.tombs(ctx) {
		if err == nil {
			if some = append(some, r); len(some) == 100 {
				err = audit(some)
				some = nil
			}
		}
		if err != nil {
			return fmt.Errorf("audit ingest %s: %w", name, err)
		}
	}
	if err := audit(some); err != nil {
		return fmt.Errorf("audit ingest %s: %w", name, err)
	}
	return nil
}

// audit proves one deletion.
func (k *link) audit(ctx context.Context, r *Record, s sight, deep bool) Audited {
	a := Audited{Record: *r}
	prove := func() ([]Copy, error) { return k.prove(ctx, r, s) }
	if k.server != nil { // it may have others by now
		prove = func() ([]Copy, error) { return k.proveServed(r, s) }
	}
	copies, err := prove()
	if err != nil {
		a.Faults = append(a.Faults, err.Error())
	}
	for _, x := range copies {
		rse, ok := k.lake.RSE(x.RSE)
		if !deep || !ok {
			continue
		}
		if k.server != nil {
			if asked, err := k.ask(ctx, r, x); err != nil {
				a.Faults = append(a.Faults, fmt.Sprintf("copy at %s: %v", x.RSE, err))
			} else if asked {
				a.Checked = append(a.Checked, x.RSE)
			}
			continue
		}
		got, err := k.lake.Prove(ctx, rse, x.PFN, r.Size, r.Checksums)
		switch {
		case err == nil:
			a.Checked = append(a.Checked, x.RSE)
		case errors.Is(err, backends.ErrOffline): // it is on tape, as the tape system says
		default:
			a.Faults = append(a.Faults, fmt.Sprintf("copy at %s (%s): %v", x.RSE, got, err))
		}
	}
	a.OK = len(a.Faults) == 0
	return a
}
