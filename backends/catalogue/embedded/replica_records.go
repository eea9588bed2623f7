package embedded

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"tarn/backends"
)

var _ backends.Records = (*Catalogue)(nil)

// scanSize is how many records of replicas one page looks at, of which few may be at the RSE that is asked for.
const scanSize = 8 * pageSize

// Records streams the files that have a replica at the RSE, in the order of their inodes, which a rename does not change.
func (c *Catalogue) Records(ctx context.Context, rse string) iter.Seq2[backends.Entry, error] {
	return pages(ctx, c, "replicas at "+rse, backends.DID{}, func() pager[backends.Entry] {
		next := uint64(0) // the inode from which on there is something to read
		return func(f finder, emit func(backends.Entry)) (bool, error) {
			type found struct {
				ino  uint64
				reps []backends.Replica
			}
			var page []found
			seen := 0
			more := false
			prefix := []byte{prefixReplicas}
			err := f.scan(prefix, replicasKey(next), func(key, val []byte) (bool, error) {
				ino := keyInode(key, 0)
				if seen == scanSize || len(page) == pageSize {
					next, more = ino, true
					return false, nil
				}
				seen++
				reps, err := decodeReplicas(val)
				if err != nil {
					return false, err
				}
				if rse == "" || slices.ContainsFunc(reps, func(r backends.Replica) bool { return r.RSE == rse }) {
					page = append(page, found{ino, reps})
				}
				return true, nil
			})
			if err != nil {
				return false, err
			}
			for _, x := range page {
				e, _, err := f.entryOf(x.ino)
				if err == nil {
					e.DID, err = f.didOf(x.ino)
				}
				if errors.Is(err, backends.ErrNotExist) {
					err = fmt.Errorf("replicas of inode %d, which has no name: %w", x.ino, backends.ErrDamaged)
				}
				if err != nil {
					return false, err
				}
				emit(backends.Entry{Info: e.Info, Replicas: x.reps})
			}
			return more, nil
		}
	})
}
