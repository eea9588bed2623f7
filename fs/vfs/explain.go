package vfs

import (
	"context"
	"fmt"
	"strings"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/cache/journal"
)

// Explanation tells what would happen on a read of a file, and why.
type Explanation struct {
	Path       string            `json:"path"`
	DID        string            `json:"did"`
	Locality   backends.Locality `json:"locality"`
	State      journal.State     `json:"state"`
	Durability string            `json:"durability"`
	Cached     int64             `json:"cached_bytes"`
	Size       int64             `json:"size"`
	Candidates []lake.Candidate  `json:"candidates"`
	Next       string            `json:"next"` // what a read does
	Error      string            `json:"error,omitempty"`
}

// Explain looks at a file without reading it.
func (v *FS) Explain(ctx context.Context, n *Node) (Explanation, error) {
	in := n.Info()
	e := Explanation{Path: n.Path(), DID: in.DID.String(), Size: in.Size, State: v.state(n)}
	if in.IsDir() || in.IsSymlink() {
		e.Next = "it is a " + in.Type.String() + "; listing it asks the catalogue only"
		if in.IsSymlink() {
			e.Next = "it is a symbolic link to " + in.Target
		}
		return e, nil
	}
	locs, err := v.Localities(ctx, []backends.Info{in})
	if err != nil {
		return e, err
	}
	e.Locality = locs[0]
	reps, err := v.replicasOf(ctx, n)
	if err != nil {
		return e, err
	}
	e.Durability = durability(e.State, reps)
	e.Error, _ = v.fixedAttr(ctx, n, "error")
	if e.State != journal.Safe && !in.DID.IsZero() && in.DID.Scope == "" {
		e.Next = "a read is served from the local journal"
		return e, nil
	}
	if st, ok := v.Cached(in); ok {
		e.Cached = st.Resident
		if st.Whole {
			e.Next = "a read is served from the hot cache, at the speed of the local disk"
		}
	}
	if e.Candidates, err = v.lake.Explain(ctx, in); err != nil && !isNotExist(err) {
		return e, err
	}
	if e.Next != "" {
		return e, nil
	}
	switch {
	case len(e.Candidates) > 0 && e.Candidates[0].Usable:
		e.Next = "a read streams from " + e.Candidates[0].RSE + " and fills the hot cache"
	case e.Locality == backends.Nearline:
		e.Next = "a read beyond the kept head and tail waits for a recall from tape"
	default:
		e.Next = "a read fails: no replica can be had now"
	}
	return e, nil
}

// Text is the explanation in lines.
func (e Explanation) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n  %s\n", e.Path, e.Next)
	if e.Locality != "" {
		fmt.Fprintf(&b, "  locality %s, state %s; %s\n", e.Locality, e.State, e.Durability)
		fmt.Fprintf(&b, "  %d of %d bytes in the hot cache\n", e.Cached, e.Size)
	}
	for _, c := range e.Candidates {
		fmt.Fprintf(&b, "  %s %s: %s\n", c.RSE, c.State, c.Reason)
	}
	if e.Error != "" {
		fmt.Fprintf(&b, "  last error: %s\n", e.Error)
	}
	return b.String()
}
