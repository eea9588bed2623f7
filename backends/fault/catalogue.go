package fault

import (
	"context"
	"iter"

	"tarn/backends"
	"tarn/backends/query"
)

// Catalogue is a catalogue with faults.
type Catalogue struct {
	*Script
	inner backends.Catalogue
}

var _ backends.Catalogue = (*Catalogue)(nil)

// NewCatalogue decorates c; without faults it changes nothing.
func NewCatalogue(c backends.Catalogue) *Catalogue {
	return &Catalogue{Script: &Script{}, inner: c}
}

// did runs a call about one DID.
func did[T any](s *Script, ctx context.Context, op string, d backends.DID, f func() (T, error)) (v T, err error) {
	if err = s.begin(ctx, op, d.String()); err == nil {
		v, err = f()
		err = s.end(ctx, op, err, d.String())
	}
	if err != nil {
		var zero T
		return zero, err
	}
	return v, nil
}

// do is did for calls that give an error only.
func do(s *Script, ctx context.Context, op, what string, f func() error) error {
	if err := s.begin(ctx, op, what); err != nil {
		return err
	}
	return s.end(ctx, op, f(), what)
}

// stream passes a sequence; op fails before its first entry, op+"Entry" before each.
func stream[T any](s *Script, ctx context.Context, op, what string, name func(T) string, in iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		if err := s.begin(ctx, op, what); err != nil {
			yield(zero, err)
			return
		}
		for v, err := range in {
			if err == nil {
				err = s.begin(ctx, op+"Entry", name(v))
			}
			if err != nil {
				yield(zero, err)
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		if err := s.end(ctx, op, nil, what); err != nil {
			yield(zero, err)
		}
	}
}

func infoName(i backends.Info) string { return i.DID.String() }

// Stat implements backends.Catalogue, as the methods after it.
func (c *Catalogue) Stat(ctx context.Context, d backends.DID) (backends.Info, error) {
	return did(c.Script, ctx, "Stat", d, func() (backends.Info, error) { return c.inner.Stat(ctx, d) })
}

// Contents asks "ContentsEntry" before each entry.
func (c *Catalogue) Contents(ctx context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error] {
	return stream(c.Script, ctx, "Contents", d.String(), infoName, c.inner.Contents(ctx, d, after))
}

// Parents asks "ParentsEntry" before each entry.
func (c *Catalogue) Parents(ctx context.Context, d backends.DID) iter.Seq2[backends.DID, error] {
	return stream(c.Script, ctx, "Parents", d.String(), backends.DID.String, c.inner.Parents(ctx, d))
}

// Find asks "FindEntry" before each entry.
func (c *Catalogue) Find(ctx context.Context, root backends.DID, q query.Expr) iter.Seq2[backends.Info, error] {
	return stream(c.Script, ctx, "Find", root.String(), infoName, c.inner.Find(ctx, root, q))
}

// Add implements backends.Catalogue.
func (c *Catalogue) Add(ctx context.Context, in backends.Info, meta backends.Meta, at ...backends.Replica) error {
	return do(c.Script, ctx, "Add", in.DID.String(), func() error { return c.inner.Add(ctx, in, meta, at...) })
}

// Attach implements backends.Catalogue.
func (c *Catalogue) Attach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	return do(c.Script, ctx, "Attach", parent.String(), func() error { return c.inner.Attach(ctx, parent, children...) })
}

// Detach implements backends.Catalogue.
func (c *Catalogue) Detach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	return do(c.Script, ctx, "Detach", parent.String(), func() error { return c.inner.Detach(ctx, parent, children...) })
}

// Replicas implements backends.Catalogue.
func (c *Catalogue) Replicas(ctx context.Context, d backends.DID) ([]backends.Replica, error) {
	return did(c.Script, ctx, "Replicas", d, func() ([]backends.Replica, error) { return c.inner.Replicas(ctx, d) })
}

// PutReplica implements backends.Catalogue.
func (c *Catalogue) PutReplica(ctx context.Context, d backends.DID, gen backends.Generation, r backends.Replica) error {
	return do(c.Script, ctx, "PutReplica", d.String(), func() error { return c.inner.PutReplica(ctx, d, gen, r) })
}

// DropReplica implements backends.Catalogue.
func (c *Catalogue) DropReplica(ctx context.Context, d backends.DID, rse, pfn string) error {
	return do(c.Script, ctx, "DropReplica", d.String(), func() error { return c.inner.DropReplica(ctx, d, rse, pfn) })
}

// Meta implements backends.Catalogue.
func (c *Catalogue) Meta(ctx context.Context, d backends.DID) (backends.Meta, error) {
	return did(c.Script, ctx, "Meta", d, func() (backends.Meta, error) { return c.inner.Meta(ctx, d) })
}

// SetMeta implements backends.Catalogue.
func (c *Catalogue) SetMeta(ctx context.Context, d backends.DID, m backends.Meta) error {
	return do(c.Script, ctx, "SetMeta", d.String(), func() error { return c.inner.SetMeta(ctx, d, m) })
}

// Usage, Traits and Close pass.
func (c *Catalogue) Usage() (files, bytes int64) { return c.inner.Usage() }

// Traits are those of the catalogue below.
func (c *Catalogue) Traits() backends.CatalogueTraits { return c.inner.Traits() }

// Close closes the catalogue below.
func (c *Catalogue) Close() error { return c.inner.Close() }
