package lake

import (
	"context"
	"fmt"

	"tarn/backends"
)

// PlaceNew is Place for files of whose names the catalogue, which is Served, said a moment ago that it has none: each gets the path of the
// RSE's naming, if that is free, with one question for all of them. What lies there is nobody's, and is overwritten. err is of the question, and
// errs those of single files, in their order as the paths are.
func (l *Lake) PlaceNew(ctx context.Context, server backends.Served, rse *RSE, dids []backends.DID, hs []Holder) (pfns []string, errs []error, err error) {
	pfns, errs = make([]string, len(dids)), make([]error, len(dids))
	fail := func(i int, err error) { errs[i] = fmt.Errorf("path of %s at %s: %w", dids[i], rse.Name, err) }
	var ask []string
	var of []int
	for i, d := range dids {
		if !rse.Bound {
			pfns[i] = l.NewPFN(d, "")
			continue
		}
		p, ok := rse.Naming.Path(d)
		if !ok {
			fail(i, fmt.Errorf("algorithm %s makes none of this name: %w", rse.Naming, backends.ErrName))
			continue
		}
		if _, err := l.hold(hs[i], rse.Name, p); err != nil {
			fail(i, err)
			continue
		}
		pfns[i] = p
		ask, of = append(ask, p), append(of, i)
	}
	if len(ask) == 0 {
		return pfns, errs, nil
	}
	n, err := server.HoldersOf(ctx, rse.Name, ask)
	for j, i := range of {
		switch {
		case err != nil:
			l.letGoOf(hs[i], spot{rse.Name, pfns[i]})
		case n[j] > 0:
			l.letGoOf(hs[i], spot{rse.Name, pfns[i]})
			fail(i, fmt.Errorf("a copy is on record there, and the name was in no use a moment ago: %w: %w", backends.ErrBusy, backends.ErrTemporary))
		}
	}
	return pfns, errs, err
}
