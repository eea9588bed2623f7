package retry

import (
	"context"
	"iter"

	"tarn/backends"
	"tarn/backends/query"
)

// Catalogue tries again what failed temporarily in the catalogue below. All that changes something
// is a transaction that may be repeated; only an Add of a collection whose answer was lost comes back
// as ErrExist. A sequence is begun anew only as long as it has given nothing.
type Catalogue struct {
	o     *Options
	inner backends.Catalogue
}

var _ backends.Catalogue = (*Catalogue)(nil)

// NewCatalogue decorates c.
func NewCatalogue(c backends.Catalogue, o Options) *Catalogue {
	return &Catalogue{o: o.withDefaults(), inner: c}
}

// stream tries to get the first entry of a sequence.
func stream[T any](ctx context.Context, o *Options, op string, open func() iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for l := o.loop(op); ; {
			given := false
			var failed error
			for v, err := range open() {
				if err != nil {
					failed = err
					break
				}
				given = true
				if !yield(v, nil) {
					return
				}
			}
			if failed == nil {
				return
			}
			if given || !l.again(ctx, failed) {
				var zero T
				yield(zero, l.last(ctx, failed))
				return
			}
		}
	}
}

// Stat implements backends.Catalogue, as the methods after it.
func (c *Catalogue) Stat(ctx context.Context, d backends.DID) (backends.Info, error) {
	return get(ctx, c.o, "stat", func() (backends.Info, error) { return c.inner.Stat(ctx, d) })
}

// Contents implements backends.Catalogue.
func (c *Catalogue) Contents(ctx context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error] {
	return stream(ctx, c.o, "contents", func() iter.Seq2[backends.Info, error] { return c.inner.Contents(ctx, d, after) })
}

// Parents implements backends.Catalogue.
func (c *Catalogue) Parents(ctx context.Context, d backends.DID) iter.Seq2[backends.DID, error] {
	return stream(ctx, c.o, "parents", func() iter.Seq2[backends.DID, error] { return c.inner.Parents(ctx, d) })
}

// Find implements backends.Catalogue.
func (c *Catalogue) Find(ctx context.Context, root backends.DID, q query.Expr) iter.Seq2[backends.Info, error] {
	return stream(ctx, c.o, "find", func() iter.Seq2[backends.Info, error] { return c.inner.Find(ctx, root, q) })
}

// Add implements backends.Catalogue.
func (c *Catalogue) Add(ctx context.Context, in backends.Info, meta backends.Meta, at ...backends.Replica) error {
	return do(ctx, c.o, "add", func(int) error { return c.inner.Add(ctx, in, meta, at...) })
}

// Attach implements backends.Catalogue.
func (c *Catalogue) Attach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	return do(ctx, c.o, "attach", func(int) error { return c.inner.Attach(ctx, parent, children...) })
}

// Detach implements backends.Catalogue.
func (c *Catalogue) Detach(ctx context.Context, parent backends.DID, children ...backends.DID) error {
	return do(ctx, c.o, "detach", func(int) error { return c.inner.Detach(ctx, parent, children...) })
}

// Replicas implements backends.Catalogue.
func (c *Catalogue) Replicas(ctx context.Context, d backends.DID) ([]backends.Replica, error) {
	return get(ctx, c.o, "replicas", func() ([]backends.Replica, error) { return c.inner.Replicas(ctx, d) })
}

// PutReplica implements backends.Catalogue.
func (c *Catalogue) PutReplica(ctx context.Context, d backends.DID, gen backends.Generation, r backends.Replica) error {
	return do(ctx, c.o, "put replica", func(int) error { return c.inner.PutReplica(ctx, d, gen, r) })
}

// DropReplica implements backends.Catalogue.
func (c *Catalogue) DropReplica(ctx context.Context, d backends.DID, rse, pfn string) error {
	return do(ctx, c.o, "drop replica", func(int) error { return c.inner.DropReplica(ctx, d, rse, pfn) })
}

// Meta implements backends.Catalogue.
func (c *Catalogue) Meta(ctx context.Context, d backends.DID) (backends.Meta, error) {
	return get(ctx, c.o, "meta", func() (backends.Meta, error) { return c.inner.Meta(ctx, d) })
}

// SetMeta implements backends.Catalogue.
func (c *Catalogue) SetMeta(ctx context.Context, d backends.DID, m backends.Meta) error {
	return do(ctx, c.o, "set meta", func(int) error { return c.inner.SetMeta(ctx, d, m) })
}

// Usage implements backends.Catalogue.
func (c *Catalogue) Usage() (files, bytes int64) { return c.inner.Usage() }

// Traits are those of the catalogue below.
func (c *Catalogue) Traits() backends.CatalogueTraits { return c.inner.Traits() }

// Close closes the catalogue below.
func (c *Catalogue) Close() error { return c.inner.Close() }
