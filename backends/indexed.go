package backends

import (
	"context"
	"time"
)

// Indexed lets a Find answer from an index of metadata, which may be older than the catalogue, and tells what became of it.
// It is for one Find.
type Indexed struct {
	// AsOf is of when the answer is, where it is from an index; zero: it is the catalogue's own.
	AsOf time.Time
	// Why tells why an index that there is did not answer; "" where there is none.
	Why string
	// Parents gives the collections that a DID of the answer is in, from the index; false where it does not know. It is set with AsOf.
	Parents func(d DID) ([]DID, bool)
}

type indexedKey struct{}

// WithIndex gives a context in which Find may answer from an index; of a Find without it the answer is the catalogue's own.
func WithIndex(ctx context.Context, i *Indexed) context.Context {
	return context.WithValue(ctx, indexedKey{}, i)
}

// IndexOf is what WithIndex was given, or nil.
func IndexOf(ctx context.Context) *Indexed {
	i, _ := ctx.Value(indexedKey{}).(*Indexed)
	return i
}
