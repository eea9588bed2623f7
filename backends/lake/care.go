package lake

import (
	"fmt"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/rseexpr"
)

// Care is what an RSE's owner wants beside copies: how full it may become, and whether it is to be emptied.
type Care struct {
	// High is the use above which copies that no rule needs are deleted, until it is below Low. Zero: none are.
	High, Low Mark
	// Grace is the least time since a copy was made or verified until it may be deleted by High.
	Grace time.Duration
	// Scratch lets last copies go, too, when no rule is left on their file.
	Scratch bool
	// Shared says that others keep files there, too: one that nobody knows is no fault, and never deleted.
	Shared bool
	// Drain empties the RSE: no new copies go there, and the copies there count for no rule. Those that were to be
	// there go to RSEs that match DrainTo as well, an RSE expression, if it is given.
	Drain   bool
	DrainTo string
}

// Mark is how full an RSE is: bytes of its replicas on record, or, if that is 0, a part of the space that its storage
// says it has.
type Mark struct {
	Bytes int64
	Part  float64 // 0.9
}

// IsZero tells whether no mark is set.
func (m Mark) IsZero() bool { return m == Mark{} }

// table is the RSEs at one time. It is replaced as a whole: whoever holds an RSE sees it as it was.
type table struct {
	list   []*RSE
	byName map[string]*RSE
}

// rse gives the RSE of that name, or nil.
func (l *Lake) rse(name string) *RSE { return l.table.Load().byName[name] }

// SetRSE changes what is known of an RSE while the lake is in use: attributes, whether it is read-only, its care. What
// was begun before goes on as it was. ErrNotExist when there is none of that name.
func (l *Lake) SetRSE(r backends.RSE, c Care) error {
	if c.DrainTo != "" {
		if _, err := rseexpr.Parse(c.DrainTo); err != nil {
			return fmt.Errorf("set RSE %s: %w", r.Name, err)
		}
	}
	for {
		old := l.table.Load()
		i := slices.IndexFunc(old.list, func(x *RSE) bool { return x.Name == r.Name })
		if i < 0 {
			return fmt.Errorf("set RSE %s: %w", r.Name, backends.ErrNotExist)
		}
		changed := *old.list[i]
		r.Kind = changed.Kind
		changed.RSE, changed.Care = r, c
		now := &table{list: slices.Clone(old.list), byName: map[string]*RSE{}}
		now.list[i] = &changed
		for _, x := range now.list {
			now.byName[x.Name] = x
		}
		if l.table.CompareAndSwap(old, now) {
			return nil
		}
	}
}

// Records is nil for a catalogue that cannot stream what it has on record.
func (l *Lake) Records() backends.Records { return l.o.Records }

// expression parses that of r. One that matches an RSE which is drained matches, too, what that is drained to.
func (l *Lake) expression(r backends.Rule) (rseexpr.Expr, error) {
	e, err := l.parsed(r)
	if err != nil {
		return nil, err
	}
	for _, rse := range l.table.Load().list {
		if !rse.Care.Drain || rse.Care.DrainTo == "" || !e.Match(rse.RSE) {
			continue
		}
		to, err := rseexpr.Parse(rse.Care.DrainTo)
		if err != nil {
			return nil, fmt.Errorf("where %s is drained to: %w", rse.Name, err)
		}
		e = either{e, to}
	}
	return e, nil
}

// either matches what one of two does.
type either struct{ a, b rseexpr.Expr }

func (e either) Match(r backends.RSE) bool { return e.a.Match(r) || e.b.Match(r) }
func (e either) String() string            { return "(" + e.a.String() + ")|(" + e.b.String() + ")" }

// Making tells whether somebody makes a copy of the file, or deletes one, at any RSE but those named.
func (l *Lake) Making(in backends.Info, but ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, rse := range l.table.Load().list {
		if !slices.Contains(but, rse.Name) && l.claims[claimOf(in, rse.Name)] != nil {
			return true
		}
	}
	return false
}
