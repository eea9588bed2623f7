package rucio

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/naming"
)

// copies is what is known of a file's replicas.
type copies struct {
	list  []backends.Replica
	asked time.Time
}

// replicaTTL is how long the replicas of a file are taken for what they were.
const replicaTTL = 30 * time.Second

// badness is what was wrong with a copy. The server may take no note of it, so it is not read for badFor; after that it is tried again, for
// Rucio may have repaired it.
type badness struct {
	why   string
	since time.Time
}

const badFor = time.Hour

// Replicas lists the copies of the file d.
func (c *Catalogue) Replicas(ctx context.Context, d backends.DID) ([]backends.Replica, error) {
	have, ok := c.replicas.Get(d)
	if !ok || c.now().Sub(have.asked) >= min(c.o.TTL, replicaTTL) && !c.useOld(have.asked) {
		seq := c.changes.Load()
		got, err := c.askReplicas(ctx, d)
		switch {
		case err == nil:
			if have = got; !c.changedSince(d, seq) {
				c.replicas.Add(d, got)
			}
		case ok && c.away(err) && c.now().Sub(have.asked) < c.o.Stale:
		default:
			return nil, edge("replicas", d, err)
		}
	}
	return c.withBad(d, slices.Clone(have.list)), nil
}

// withBad marks the copies that were found bad here.
func (c *Catalogue) withBad(d backends.DID, out []backends.Replica) []backends.Replica {
	for i := range out {
		if b, bad := c.bad.Get(at{d, out[i].RSE}); bad && c.now().Sub(b.since) < badFor {
			out[i].State, out[i].Error = backends.Bad, b.why
		}
	}
	return out
}

func (c *Catalogue) askReplicas(ctx context.Context, d backends.DID) (copies, error) {
	asked := c.now()
	a, err := c.stat(ctx, d)
	switch {
	case err != nil:
		return copies{}, err
	case a.info.IsDir():
		return copies{}, backends.ErrIsDir
	}
	rows, err := c.c.ListReplicas(ctx, []backends.DID{d})
	if err != nil {
		return copies{}, err
	}
	rses, err := c.rsesOf(ctx, slices.Collect(maps.Keys(rows[d].States)))
	if err != nil {
		return copies{}, err
	}
	return copies{c.replicasOf(rses, rows[d]), asked}, nil
}

// states are tarn's words for Rucio's.
var states = map[string]backends.ReplicaState{
	"AVAILABLE": backends.Available, "COPYING": backends.Copying, "BAD": backends.Bad, "BEING_DELETED": backends.BeingDeleted,
}

// replicasOf reads a row, in the order of the RSEs' names.
func (c *Catalogue) replicasOf(rses map[string]rest.RSE, row rest.Replicas) []backends.Replica {
	var out []backends.Replica
	for _, name := range slices.Sorted(maps.Keys(row.States)) {
		r := backends.Replica{RSE: name, State: states[row.States[name]]}
		if r.State == "" {
			r.State, r.Error = backends.Bad, "Rucio says "+row.States[name]
		}
		for _, pfn := range row.RSEs[name] {
			if p, ok := rses[name].Below(pfn); ok {
				r.PFN = p
				break
			}
		}
		if r.PFN == "" { // e.g. all its protocols are of schemes that are not asked for
			if r.PFN, _ = place(rses[name], row.DID()); r.PFN == "" {
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// PutReplica registers a copy that is there, or tells the server of a bad one. Of a copy that is being made it hears nothing.
func (c *Catalogue) PutReplica(ctx context.Context, d backends.DID, gen backends.Generation, r backends.Replica) error {
	a, err := c.stat(ctx, d)
	switch {
	case err != nil:
	case a.info.IsDir():
		err = backends.ErrIsDir
	case gen != "" && a.info.Generation != gen:
		err = backends.ErrStale
	}
	if err != nil {
		return edge("put replica", d, err)
	}
	defer c.changed(d)
	switch r.State {
	case backends.Available:
		rses, err := c.rsesOf(ctx, []string{r.RSE})
		if err != nil {
			return edge("put replica", d, err)
		}
		reps, err := newReplicas(rses, backends.Entry{Info: a.info, Replicas: []backends.Replica{r}})
		if err == nil {
			err = c.c.AddReplicas(ctx, r.RSE, []rest.NewReplica{reps[r.RSE]})
		}
		if err == nil {
			c.bad.Remove(at{d, r.RSE})
		}
		return edge("put replica", d, err)
	case backends.Bad:
		c.bad.Add(at{d, r.RSE}, badness{r.Error, c.now()})
		err := c.c.DeclareBad(ctx, d, r.RSE, r.Error)
		if errors.Is(err, backends.ErrPermission) { // everybody may say that one looks bad
			var rse rest.RSE
			if rse, err = c.rse(ctx, r.RSE); err == nil {
				if pfn, ok := rse.PFN(r.PFN); ok {
					err = c.c.DeclareSuspicious(ctx, pfn, r.Error)
				}
			}
		}
		if err != nil && !backends.IsTemporary(err) {
			c.log.Warn("Rucio does not take note of a bad replica; it is not read here", "did", d, "rse", r.RSE, "err", err)
			return nil
		}
		return edge("declare bad", d, err)
	}
	return nil
}

// DropReplica lets Rucio's reaper have a copy; one that is not there, or has another path, is success.
func (c *Catalogue) DropReplica(ctx context.Context, d backends.DID, rse, pfn string) error {
	a, err := c.stat(ctx, d)
	if err == nil && a.info.IsDir() {
		err = backends.ErrIsDir
	}
	if err == nil && pfn != "" {
		c.replicas.Remove(d)
		var have []backends.Replica
		have, err = c.Replicas(ctx, d)
		if err == nil && !slices.ContainsFunc(have, func(r backends.Replica) bool { return r.RSE == rse && r.PFN == pfn }) {
			return nil
		}
	}
	if err != nil {
		return edge("drop replica", d, err)
	}
	defer c.changed(d)
	err = c.c.Tombstone(ctx, d, rse)
	if errors.Is(err, backends.ErrNotExist) {
		err = nil
	}
	return edge("drop replica", d, err)
}

// Holders counts the files of the lake whose copy at an RSE belongs at a path: a name has one content for ever.
func (c *Catalogue) Holders(ctx context.Context, rse, pfn string) (int, error) {
	n, err := c.HoldersOf(ctx, rse, []string{pfn})
	if err != nil {
		return 0, err
	}
	return n[0], nil
}

// HoldersOf is Holders of many paths, with one call for each Page of the names that can have them.
func (c *Catalogue) HoldersOf(ctx context.Context, rse string, pfns []string) ([]int, error) {
	fail := func(err error) ([]int, error) {
		what := fmt.Sprintf("holders of %d paths at %s", len(pfns), rse)
		if len(pfns) == 1 {
			what = "holders of " + pfns[0]
		}
		return nil, edge(what, backends.DID{}, err)
	}
	r, err := c.rse(ctx, rse)
	if err != nil {
		return fail(err)
	}
	a := algorithm(r)
	if a == nil {
		return fail(backends.ErrNotSupported)
	}
	scopes, err := c.allScopes(ctx)
	if err != nil {
		return fail(err)
	}
	var dids []backends.DID
	of := map[backends.DID][]int{} // places in pfns
	for i, p := range pfns {
		for _, s := range scopes {
			for _, d := range a.DIDs(s, p) {
				if of[d] == nil {
					dids = append(dids, d)
				}
				of[d] = append(of[d], i)
			}
		}
	}
	out := make([]int, len(pfns))
	if len(dids) == 0 {
		return out, nil
	}
	rows, err := c.c.ListReplicas(ctx, dids)
	if err != nil {
		return fail(err)
	}
	for d, row := range rows {
		if _, ok := row.States[rse]; ok {
			for _, i := range of[d] {
				out[i]++
			}
		}
	}
	return out, nil
}

// newReplicas are those of an entry that are copies, by RSE.
func newReplicas(rses map[string]rest.RSE, e backends.Entry) (map[string]rest.NewReplica, error) {
	out := map[string]rest.NewReplica{}
	d := e.Info.DID
	for _, r := range e.Replicas {
		if r.State != backends.Available {
			continue
		}
		rse, ok := rses[r.RSE]
		if !ok {
			return nil, fmt.Errorf("RSE %s: Rucio has none of this name: %w", r.RSE, backends.ErrNotSupported)
		}
		n := rest.NewReplica{Scope: d.Scope, Name: d.Name, Bytes: e.Info.Size, Adler32: e.Info.Checksums.Adler32, MD5: e.Info.Checksums.MD5, State: "A"}
		if !rse.Deterministic {
			if n.PFN, ok = rse.PFN(r.PFN); !ok {
				return nil, fmt.Errorf("RSE %s has no protocols: %w", r.RSE, backends.ErrNotSupported)
			}
		} else if want, ok := place(rse, d); ok && want != r.PFN {
			return nil, fmt.Errorf("its copy at %s lies at %s, and Rucio would look for it at %s, where something else lies: %w", r.RSE, r.PFN, want, backends.ErrExist)
		}
		out[r.RSE] = n
	}
	return out, nil
}

// Place is the path of a file at an RSE with Rucio's default algorithm, hash.
func Place(d backends.DID) string {
	p, _ := place(rest.RSE{Deterministic: true}, d)
	return p
}

// place is the path of a file at a deterministic RSE whose algorithm is known here.
func place(r rest.RSE, d backends.DID) (string, bool) {
	a := algorithm(r)
	if a == nil {
		return "", false
	}
	return a.Path(d)
}

// algorithm makes the paths at a deterministic RSE; nil where it is none, or one that is not known here.
func algorithm(r rest.RSE) *naming.Algorithm {
	if !r.Deterministic {
		return nil
	}
	a, _ := naming.ByName(r.LFN2PFN())
	return a
}
