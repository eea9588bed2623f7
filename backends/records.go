package backends

import (
	"context"
	"iter"
)

// Records streams which replicas are on record, for catalogues that can do so without going through the tree.
type Records interface {
	// Records streams the files that have a replica at the RSE ("": at any), in any state, with all their replicas and
	// without their metadata. Pasts are not in it. A file that has one all the time is seen exactly once, also when it is
	// renamed or gets another content meanwhile; the order means nothing. It holds no lock and bounded memory, and ends
	// after the first error.
	Records(ctx context.Context, rse string) iter.Seq2[Entry, error]
}
