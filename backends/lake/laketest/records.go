package laketest

import (
	"context"
	"iter"
	"slices"

	"tarn/backends"
)

var _ backends.Records = (*Catalogue)(nil)

// Records is backends.Records's.
func (c *Catalogue) Records(_ context.Context, rse string) iter.Seq2[backends.Entry, error] {
	return func(yield func(backends.Entry, error) bool) {
		if err := c.begin("records", backends.DID{}); err != nil {
			yield(backends.Entry{}, err)
			return
		}
		var list []backends.Entry
		for _, e := range c.entries {
			if slices.ContainsFunc(e.replicas, func(r backends.Replica) bool { return rse == "" || r.RSE == rse }) {
				list = append(list, backends.Entry{Info: e.info, Replicas: slices.Clone(e.replicas)})
			}
		}
		c.mu.Unlock()
		slices.SortFunc(list, func(a, b backends.Entry) int { return int(a.Info.Inode) - int(b.Info.Inode) })
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}
