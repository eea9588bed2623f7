package replication

import (
	"cmp"
	"context"
	"errors"
	"path"
	"slices"

	"tarn/backends"
	"tarn/backends/lake"
)

// group is files of a rule that go to the same RSEs. Which these are is remembered, in memory; when it is not known, after a
// start say, it is seen from where the first files of the group are, so that a catalogue need not keep it. The first
// choice for a group is that for its first file, and a rule with a weight draws by the group's name. An RSE that has no
// room for a file, is down, or fails, gives its place to another, for the group as well.
type group struct {
	rule   backends.RuleID
	did    backends.DID // the collection; of a file that goes its own way, the file
	sticky bool
	all    bool   // of the rule
	match  string // the rule's expression
}

func (g group) seed() string { return g.did.String() }

const (
	maxGroups  = 4096 // that are remembered
	firstFiles = 16   // that are looked at to see where a group is
	firstNames = 256  // and at most so many entries to find them
)

// groupOf tells which group a file is of under a rule. The collection of a file is the one that it is at home in; in scopes
// that show contents, the first by name of those that it is attached to.
func (e *Engine) groupOf(ctx context.Context, r backends.RuleStatus, in backends.Info) (group, error) {
	g := group{rule: r.ID, did: in.DID, match: r.Expression}
	if r.DID == in.DID || r.Grouping == backends.GroupNone {
		return g, nil
	}
	g.sticky, g.did = true, r.DID
	if r.Grouping == backends.GroupAll {
		g.all = true
		return g, nil
	}
	if len(in.DID.Name) > 0 && in.DID.Name[0] == '/' {
		g.did = backends.DID{Scope: in.DID.Scope, Name: path.Dir(in.DID.Name)}
		return g, nil
	}
	first := backends.DID{}
	for p, err := range e.l.Catalogue().Parents(ctx, in.DID) {
		if errors.Is(err, backends.ErrNotExist) {
			break
		}
		if err != nil {
			return g, err
		}
		if first.IsZero() || p.String() < first.String() {
			first = p
		}
	}
	if !first.IsZero() {
		g.did = first
	}
	return g, nil
}

// prefer gives the RSEs that the group's files go to, the first choice first; none are known for a new group.
func (e *Engine) prefer(ctx context.Context, g group) ([]string, error) {
	if !g.sticky {
		return nil, nil
	}
	e.mu.Lock()
	known, ok := e.groups[g]
	e.mu.Unlock()
	if ok {
		return known, nil
	}
	in, err := e.l.Catalogue().Stat(ctx, g.did)
	if err != nil {
		if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
			return nil, nil
		}
		return nil, err
	}
	held := map[string]int{}
	names, files := 0, 0
	entries := e.l.Catalogue().Contents(ctx, in.DID, "")
	if g.all {
		entries = e.files(ctx, in.DID)
	}
	for f, err := range entries {
		if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
			break
		}
		if err != nil {
			return nil, err
		}
		if names++; names > firstNames || files == firstFiles {
			break
		}
		if f.IsDir() || f.IsSymlink() {
			continue
		}
		files++
		have, err := e.l.Catalogue().Replicas(ctx, f.DID)
		if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, r := range have {
			if r.State == backends.Available || r.State == backends.Copying {
				held[r.RSE]++
			}
		}
	}
	rses, err := e.l.Matching(g.match)
	if err != nil {
		return nil, nil // the choice itself says so
	}
	var out []string
	for _, r := range rses {
		if held[r.Name] > 0 {
			out = append(out, r.Name)
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Compare(held[b], held[a]) })
	e.mu.Lock()
	defer e.mu.Unlock()
	if now, ok := e.groups[g]; ok {
		return now, nil // another file was faster
	}
	if len(out) > 0 {
		e.putGroupLocked(g, out)
	}
	return out, nil
}

// rememberGroup notes what was chosen for a file: it is what the others get. The first file of a new group decides.
func (e *Engine) rememberGroup(g group, chosen []*lake.RSE) {
	if !g.sticky || len(chosen) == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := slices.Clone(e.groups[g])
	changed := false
	for _, r := range chosen {
		if !slices.Contains(now, r.Name) {
			now, changed = append(now, r.Name), true
		}
	}
	if changed {
		e.putGroupLocked(g, now)
	}
}

func (e *Engine) putGroupLocked(g group, rses []string) {
	if _, ok := e.groups[g]; !ok && len(e.groups) >= maxGroups {
		for x := range e.groups {
			delete(e.groups, x)
			break
		}
	}
	e.groups[g] = rses
}
