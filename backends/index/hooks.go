package index

import (
	"context"
	"iter"

	"tarn/backends"
	"tarn/backends/query"
)

// Hooks are the methods of a catalogue that the index has a part in. A catalogue with an index embeds them above the catalogue
// below, which keeps all others:
//
//	type indexed struct {
//		index.Hooks
//		below // struct{ *embedded.Catalogue }
//	}
type Hooks struct{ x *Index }

// Hooks gives those of x.
func (x *Index) Hooks() Hooks { return Hooks{x} }

// Find answers from the index where the context allows it (backends.WithIndex) and it can, else it is the catalogue's.
func (h Hooks) Find(ctx context.Context, root backends.DID, q query.Expr) iter.Seq2[backends.Info, error] {
	i := backends.IndexOf(ctx)
	if i == nil || !Answerable(q) {
		return h.x.o.Catalogue.Find(ctx, root, q)
	}
	return func(yield func(backends.Info, error) bool) {
		a, why, err := h.x.answerFor(ctx, root)
		if err != nil {
			yield(backends.Info{}, err)
			return
		}
		if a == nil {
			i.Why = why
			h.x.o.Catalogue.Find(ctx, root, q)(yield)
			return
		}
		defer a.end()
		i.AsOf = a.c.AsOf
		i.Parents = func(d backends.DID) ([]backends.DID, bool) { return h.x.parentsOf(a.c, a.e, d) }
		a.find(ctx, root, q, yield)
	}
}

// Parents are from the index for what a Find gave from there.
func (h Hooks) Parents(ctx context.Context, d backends.DID) iter.Seq2[backends.DID, error] {
	if i := backends.IndexOf(ctx); i != nil && i.Parents != nil {
		if list, ok := i.Parents(d); ok {
			return func(yield func(backends.DID, error) bool) {
				for _, p := range list {
					if !yield(p, nil) {
						return
					}
				}
			}
		}
	}
	return h.x.o.Catalogue.Parents(ctx, d)
}

// change makes a change of the catalogue, which is looked at after it.
func (h Hooks) change(f func() error, changes ...change) error {
	o := h.x.begin(changes...)
	err := f()
	o.end(err)
	return err
}

// above is a change of what d is in by its name: its times are others now.
func (h Hooks) above(d backends.DID) []change {
	up, ok := h.x.homeOf(d)
	if !ok || up.Name == "" {
		return nil
	}
	return []change{{what: wasSet, did: up}}
}

// Add implements backends.Catalogue, as the methods after it.
func (h Hooks) Add(ctx context.Context, in backends.Info, meta backends.Meta, at ...backends.Replica) error {
	return h.change(func() error { return h.x.o.Catalogue.Add(ctx, in, meta, at...) }, append(h.above(in.DID), change{what: wasPut, did: in.DID})...)
}

// Import notes each entry before the catalogue is given it.
func (h Hooks) Import(ctx context.Context, entries iter.Seq2[backends.Entry, error]) (added int64, err error) {
	o := h.x.begin()
	defer func() { o.end(err) }()
	return h.x.o.Catalogue.Import(ctx, func(yield func(backends.Entry, error) bool) {
		var last backends.DID
		for e, err := range entries {
			if err == nil {
				changes := []change{{what: wasPut, did: e.Info.DID}}
				if up := h.above(e.Info.DID); len(up) > 0 && up[0].did != last {
					last = up[0].did
					changes = append(changes, up...)
				}
				o.add(changes...)
			}
			if !yield(e, err) {
				return
			}
		}
	})
}

// SetMeta changes what is below d, too.
func (h Hooks) SetMeta(ctx context.Context, d backends.DID, m backends.Meta) error {
	return h.change(func() error { return h.x.o.Catalogue.SetMeta(ctx, d, m) }, change{what: wasMeta, did: d})
}

// Attach implements backends.Catalogue.
func (h Hooks) Attach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	return h.change(func() error { return h.x.o.Catalogue.Attach(ctx, parent, children...) }, members(wasIn, parent, children)...)
}

// Detach implements backends.Catalogue.
func (h Hooks) Detach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	return h.change(func() error { return h.x.o.Catalogue.Detach(ctx, parent, children...) }, members(wasOut, parent, children)...)
}

func members(what byte, parent backends.DID, children []backends.DID) []change {
	all := make([]change, len(children))
	for i, d := range children {
		all[i] = change{what: what, did: d, with: parent}
	}
	return all
}

// AddScope implements backends.Namespace, as the methods after it.
func (h Hooks) AddScope(ctx context.Context, in backends.Info) error {
	return h.change(func() error { return h.x.o.Catalogue.AddScope(ctx, in) }, change{what: wasScope, did: h.scope(in.DID)})
}

// RemoveScope implements backends.Namespace.
func (h Hooks) RemoveScope(ctx context.Context, scope string) error {
	return h.change(func() error { return h.x.o.Catalogue.RemoveScope(ctx, scope) }, change{what: wasScope, did: h.scope(backends.DID{Scope: scope, Name: "/" + scope})})
}

// scope is the collection of a scope.
func (h Hooks) scope(d backends.DID) backends.DID {
	switch {
	case h.x.o.Flat:
		d.Name = ""
	case d.Name == "":
		d.Name = "/" + d.Scope
	}
	return d
}

// Rename implements backends.Namespace.
func (h Hooks) Rename(ctx context.Context, from, to backends.DID) error {
	return h.change(func() error { return h.x.o.Catalogue.Rename(ctx, from, to) }, change{what: wasRenamed, did: from, with: to})
}

// Remove implements backends.Namespace.
func (h Hooks) Remove(ctx context.Context, d backends.DID) error {
	return h.change(func() error { return h.x.o.Catalogue.Remove(ctx, d) }, append(h.above(d), change{what: wasDropped, did: d})...)
}

// Update implements backends.Namespace.
func (h Hooks) Update(ctx context.Context, d backends.DID, c backends.Change) error {
	return h.change(func() error { return h.x.o.Catalogue.Update(ctx, d, c) }, change{what: wasSet, did: d})
}

// Again lets d be looked at when f has brought it back.
func (h Hooks) Again(d backends.DID, f func() error) error {
	return h.change(f, append(h.above(d), change{what: wasBack, did: d})...)
}
