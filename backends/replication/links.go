package replication

import (
	"fmt"

	"tarn/backends/lake"
)

// Link bounds the copies that come from the RSEs that one expression names to those of another. Bytes
// are carried by this node where servers do not copy between themselves, so every RSE is reached from every other, and a
// copy never goes by a third one; a link is forbidden only by one of these.
type Link struct {
	From, To string // RSE expressions
	Copies   int    // at a time; 0: none is made, -1: no bound
}

// links are those of a lake: the first Link that names both RSEs counts. Immutable.
type links struct {
	bound   map[[2]string]int
	forbids func(to string) bool // tells whether a copy to the RSE may not come from everywhere
}

// limit tells how many copies there may be at a time.
func (l *links) limit(from, to string) (n int, limited bool) {
	n, limited = l.bound[[2]string{from, to}]
	return n, limited
}

func newLinks(l *lake.Lake, all []Link, each int) (*links, error) {
	out, closed := &links{bound: map[[2]string]int{}}, map[string]bool{}
	out.forbids = func(to string) bool { return closed[to] }
	names := func(expr string) (map[string]bool, error) {
		rses, err := l.Matching(expr)
		if err != nil {
			return nil, fmt.Errorf("link %q: %w", expr, err)
		}
		set := map[string]bool{}
		for _, r := range rses {
			set[r.Name] = true
		}
		return set, nil
	}
	done := map[[2]string]bool{}
	put := func(from, to string, n int) {
		p := [2]string{from, to}
		if from == to || done[p] {
			return
		}
		done[p] = true
		if n >= 0 {
			out.bound[p] = n
			closed[to] = closed[to] || n == 0
		}
	}
	for _, x := range all {
		from, err := names(x.From)
		if err != nil {
			return out, err
		}
		to, err := names(x.To)
		if err != nil {
			return out, err
		}
		for f := range from {
			for t := range to {
				put(f, t, x.Copies)
			}
		}
	}
	if each > 0 {
		for _, f := range l.RSEs() {
			for _, t := range l.RSEs() {
				put(f.Name, t.Name, each)
			}
		}
	}
	return out, nil
}
