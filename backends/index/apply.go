package index

import (
	"context"
	"errors"
	"slices"
	"strings"

	"tarn/backends"
)

// apply looks at changes in the catalogue as it is now, in their order: which DIDs are in which changes with each, and what is
// known of them is asked for at the end, many at a time.
func (v *view) apply(ctx context.Context, changes []change) error {
	a := &applier{view: v, ctx: ctx, met: v.x.newMetas(), renames: v.x.o.Catalogue.Traits().Rename}
	for _, c := range changes {
		if err := a.one(c); err != nil {
			return err
		}
	}
	return a.describe()
}

// applier is one apply.
type applier struct {
	*view
	ctx  context.Context
	met  *metas
	todo []backends.DID // to be described

	renames bool           // names change
	relist  []backends.DID // collections to be listed again
}

func (a *applier) one(c change) error {
	x := a.x
	switch c.what {
	case wasPut:
		if x.o.Flat || x.o.Metas != nil && !c.sure { // a server's steps are not one transaction
			return a.placeAnew(c.did)
		}
		if c.did == a.c.Root {
			_, err := a.belongs(c.did)
			return errors.Join(err, a.later(c.did))
		}
		if up, ok := x.o.Home(c.did); ok {
			if err := a.linkTo(up, c.did); err != nil {
				return err
			}
		}
		return a.later(c.did)
	case wasBack:
		if up, ok := a.x.homeOf(c.did); ok {
			if _, err := a.belongs(up); err != nil {
				return err
			}
		}
		return a.placeAnew(c.did)
	case wasSet:
		return a.later(c.did)
	case wasMeta:
		return a.inherited(c.did)
	case wasScope:
		if x.o.Refuse != nil && (a.c.Root.IsZero() || a.c.Root.Scope == c.did.Scope) {
			if err := x.o.Refuse(a.ctx, a.c.Root); errors.Is(err, backends.ErrNotSupported) {
				return &staleError{err.Error()}
			} else if err != nil {
				return err
			}
		}
		if a.c.Root.IsZero() || c.did == a.c.Root {
			i, _, err := a.ensure(c.did)
			if err != nil {
				return err
			}
			a.link(0, i)
		}
		return a.later(c.did)
	case wasDropped:
		switch {
		case !c.sure:
			return a.removed(c.did)
		case !x.o.Flat && x.o.Metas == nil: // asking costs little: somebody may have made it again before this ended
			return a.placeAnew(c.did)
		}
		return a.gone(c.did)
	case wasIn:
		return a.attached(c)
	case wasOut:
		return a.detached(c)
	case wasRenamed:
		if !c.sure {
			switch _, err := x.o.Catalogue.Stat(a.ctx, c.did); {
			case err == nil: // it was not
				return errors.Join(a.later(c.did), a.later(c.with))
			case !isGone(err):
				return err
			}
		}
		return a.renamed(c.did, c.with)
	}
	return &staleError{"a change of another version of tarn"}
}

// later describes a DID at the end, if it is in the cover.
func (a *applier) later(d backends.DID) error {
	i, err := a.idOf(d)
	if err != nil || i == 0 {
		return err
	}
	if a.todo = append(a.todo, d); len(a.todo) >= pageSize {
		return a.describe()
	}
	return nil
}

// gone drops a DID that is not there any more, and describes the collections that it was in.
func (a *applier) gone(d backends.DID) error { return a.goneWith(d, backends.DID{}) }

// goneWith is gone of what goes together with all that is at and below top.
func (a *applier) goneWith(d, top backends.DID) error {
	i, err := a.idOf(d)
	if err != nil || i == 0 {
		return err
	}
	ups, err := a.parents(i)
	if err != nil {
		return err
	}
	home, _ := a.x.homeOf(d)
	for _, p := range ups {
		r, err := a.record(p)
		if err != nil {
			return err
		}
		if r == nil || r.info.DID == top || !top.IsZero() && r.info.DID.Scope == top.Scope && strings.HasPrefix(r.info.DID.Name, top.Name+"/") {
			continue
		}
		a.todo = append(a.todo, r.info.DID)
		if a.renames && r.info.DID != home { // it may be there by another name
			a.relist = append(a.relist, r.info.DID)
		}
	}
	return a.drop(d)
}

// linkTo puts a DID into a collection, if that is in the cover.
func (a *applier) linkTo(parent, d backends.DID) error {
	p, err := a.belongs(parent)
	if err != nil || p == 0 {
		return err
	}
	i, _, err := a.ensure(d)
	if err != nil {
		return err
	}
	a.link(p, i)
	return nil
}

// belongs finds a collection, or gives one that is in the cover by its name an id and describes it: the change that made it may not
// have ended yet. 0 when it is not in the cover.
func (a *applier) belongs(d backends.DID) (i id, err error) {
	if i, err = a.idOf(d); err != nil || i != 0 || a.x.o.Flat || d.IsZero() {
		return i, err
	}
	p := id(0)
	if d != a.c.Root {
		up, ok := a.x.o.Home(d)
		if !ok || len(up.Name) >= len(d.Name) { // names that are no paths have no end
			return 0, nil
		}
		if p, err = a.belongs(up); err != nil || p == 0 {
			return 0, err
		}
	}
	if i, _, err = a.ensure(d); err != nil {
		return 0, err
	}
	a.link(p, i)
	return i, a.later(d)
}

// placeAnew asks in which collections a DID is, for catalogues whose names do not tell.
func (a *applier) placeAnew(d backends.DID) error {
	var want []id
	none := true
	for p, err := range a.x.o.Catalogue.Parents(a.ctx, d) {
		if isGone(err) {
			return a.gone(d)
		}
		if err != nil {
			return err
		}
		none = false
		i, err := a.idOf(p)
		if err != nil {
			return err
		}
		if i != 0 {
			want = append(want, i)
		}
	}
	if none && a.x.o.Flat && d.Name != "" {
		i, err := a.idOf(backends.DID{Scope: d.Scope})
		if err != nil {
			return err
		}
		if i != 0 {
			want = append(want, i)
		}
	}
	if _, up := a.x.homeOf(d); d == a.c.Root || a.c.Root.IsZero() && !up {
		want = append(want, 0)
	}
	if len(want) == 0 {
		return a.gone(d)
	}
	i, _, err := a.ensure(d)
	if err != nil {
		return err
	}
	have, err := a.parents(i)
	if err != nil {
		return err
	}
	for _, p := range have {
		if !slices.Contains(want, p) {
			a.unlink(p, i)
		}
	}
	for _, p := range want {
		a.link(p, i)
	}
	return a.later(d)
}

func (a *applier) attached(c change) error {
	if err := a.later(c.with); err != nil {
		return err
	}
	if !c.sure {
		if err := a.placeAnew(c.did); err != nil {
			return err
		}
		return a.subtree(c.did)
	}
	if err := a.linkTo(c.with, c.did); err != nil {
		return err
	}
	if a.x.o.Flat {
		s, err := a.idOf(backends.DID{Scope: c.did.Scope})
		if err == nil && s != 0 {
			err = a.leave(s, c.did) // who is in a collection is not among those that are in none
		}
		if err != nil {
			return err
		}
	}
	return a.subtree(c.did)
}

func (a *applier) detached(c change) error {
	if err := a.later(c.with); err != nil {
		return err
	}
	if !c.sure || a.x.o.Flat {
		if err := a.placeAnew(c.did); err != nil {
			return err
		}
		return a.subtree(c.did)
	}
	p, err := a.idOf(c.with)
	if err == nil && p != 0 {
		err = a.leave(p, c.did)
	}
	if err != nil {
		return err
	}
	if a.x.o.Metas != nil { // it may have inherited from there
		return a.subtree(c.did)
	}
	return a.later(c.did)
}

// removed looks at a DID that may have been.
func (a *applier) removed(d backends.DID) error {
	if a.x.o.Flat || a.x.o.Metas != nil {
		return a.placeAnew(d)
	}
	return a.later(d)
}

// inherited describes again what inherits from d.
func (a *applier) inherited(d backends.DID) error {
	in, err := a.x.o.Catalogue.Stat(a.ctx, d)
	switch {
	case isGone(err):
		return a.gone(d)
	case err != nil:
		return err
	case !in.IsDir():
		return a.later(d)
	case a.x.o.Metas != nil:
		return a.subtree(d)
	}
	if err := a.later(d); err != nil {
		return err
	}
	return a.named(d, a.later)
}

// named calls f for each DID of the cover whose name is below that of d.
func (a *applier) named(d backends.DID, f func(backends.DID) error) error {
	prefix := a.c.epoch.did(backends.DID{Scope: d.Scope, Name: d.Name + "/"})
	names := len(a.c.epoch.prefix(kindDID)) + len(d.Scope) + 1
	for k, v := range a.pending { // new ones
		if v != nil && strings.HasPrefix(k, string(prefix)) {
			if err := f(backends.DID{Scope: d.Scope, Name: k[names:]}); err != nil {
				return err
			}
		}
	}
	for from := prefix; ; {
		keys, err := keysAfter(a.db, prefix, from, pageSize)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := f(backends.DID{Scope: d.Scope, Name: string(k[names:])}); err != nil {
				return err
			}
		}
		if len(keys) < pageSize {
			return nil
		}
		from = append(keys[len(keys)-1], 0)
	}
}

// renamed drops the old names and reads what is below the new one.
func (a *applier) renamed(from, to backends.DID) error {
	old := func(d backends.DID) error {
		if d == a.c.Root {
			return &staleError{"what it is of was renamed"}
		}
		return a.goneWith(d, from)
	}
	if err := a.named(from, old); err != nil {
		return err
	}
	if err := old(from); err != nil {
		return err
	}
	if to == a.c.Root {
		return &staleError{"what it is of was replaced"}
	}
	if err := a.gone(to); err != nil {
		return err
	}
	for _, d := range []backends.DID{from, to} {
		if up, ok := a.x.homeOf(d); ok {
			if err := a.later(up); err != nil {
				return err
			}
		}
	}
	up, ok := a.x.homeOf(to)
	if !ok {
		return nil
	}
	if err := a.linkTo(up, to); err != nil {
		return err
	}
	return a.subtree(to)
}

// homeOf is what d is in by its name, or for a flat one its scope; false for what stands at the root of the lake.
func (x *Index) homeOf(d backends.DID) (backends.DID, bool) {
	if x.o.Flat {
		return backends.DID{Scope: d.Scope}, d.Name != ""
	}
	return x.o.Home(d)
}

// isGone tells whether an error says that a DID does not exist.
func isGone(err error) bool {
	return errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir)
}
