package endpoint

import (
	"context"
	"errors"
	"fmt"

	"tarn/backends"
)

// CopyTo has a turn at both doors until its end.
func (s *Storage) CopyTo(ctx context.Context, src string, to backends.Storage, dst string, size int64, want backends.Checksums, progress func(int64)) (none backends.Checksums, err error) {
	tp, ok := s.inner.(backends.ThirdParty)
	if !ok {
		return none, &backends.OpError{Op: "copy", At: src, Err: backends.ErrNotSupported}
	}
	door, to := behind(to)
	if s.e.read != nil || door != nil && door.write != nil {
		return none, fmt.Errorf("copy from %s: its bandwidth, or that of where it goes, is limited, and such a copy %w", s.e.door, backends.ErrNotSupported)
	}
	leave, err := s.e.enterWith(ctx, door)
	if err != nil {
		return none, err
	}
	got, err := tp.CopyTo(ctx, src, to, dst, size, want, progress)
	leave(err)
	if err != nil {
		return none, s.e.refused(err)
	}
	return got, nil
}

// behind gives the door of a destination, and the storage behind it; nil where there is none.
func behind(to backends.Storage) (*Endpoint, backends.Storage) {
	for s := to; ; {
		if d, ok := s.(*Storage); ok {
			return d.e, d.inner
		}
		d, ok := s.(backends.Decorator)
		if !ok {
			return nil, to
		}
		s = d.Unwrap()
	}
}

// enterWith takes a turn of an upload at e and at other, which may be nil or e itself. All take them in one order, so that
// copies to and fro do not wait for one another. leave tells what came of it.
func (e *Endpoint) enterWith(ctx context.Context, other *Endpoint) (leave func(error), err error) {
	doors := []*Endpoint{e}
	switch {
	case other == nil || other == e:
	case other.door < e.door:
		doors = []*Endpoint{other, e}
	default:
		doors = append(doors, other)
	}
	var turns []*turn
	leave = func(err error) {
		switch {
		case errors.Is(err, backends.ErrNotSupported):
			err = errNothing // nobody was asked
		case len(turns) == 2 && isFailure(err):
			err = errNothing // one of two is at fault; what is asked of each of them afterwards tells which
		}
		for _, t := range turns {
			t.gave(err)
			t.end()
		}
	}
	for _, d := range doors {
		t, err := d.enter(ctx, d.uploads)
		if err != nil {
			leave(errNothing)
			return nil, err
		}
		turns = append(turns, t)
	}
	return leave, nil
}
