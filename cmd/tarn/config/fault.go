package config

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Fault is one thing that is wrong in a lake file.
type Fault struct {
	Where string // file name, flag or variable
	Line  int    // 0: not known
	Key   string // dotted, rses[1].name
	What  string
}

// String gives "lake.yaml:12: rses[1].name: duplicate ...".
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.Where)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	return b.String() + f.What
}

// Error is every fault of one lake file.
type Error struct {
	File   string
	Faults []Fault
}

// Error gives one line a fault, below a heading.
func (e *Error) Error() string {
	var b strings.Builder
	n := "1 fault"
	if len(e.Faults) != 1 {
		n = fmt.Sprintf("%d faults", len(e.Faults))
	}
	fmt.Fprintf(&b, "%s in %s", n, e.File)
	for _, f := range e.Faults {
		b.WriteString("\n  " + f.String())
	}
	return b.String()
}

func (e *Error) add(where string, line int, key, what string) {
	e.Faults = append(e.Faults, Fault{where, line, key, what})
}

// unreadable tells whether a document as a whole is at fault: what it says, and what it lacks, is not known then.
func (e *Error) unreadable() bool {
	return slices.ContainsFunc(e.Faults, func(f Fault) bool { return f.Key == "" })
}

// sort orders by document, in the order in which they were read, and line.
func (e *Error) sort() {
	rank := map[string]int{}
	for _, f := range e.Faults {
		if _, ok := rank[f.Where]; !ok {
			rank[f.Where] = len(rank)
		}
	}
	sort.SliceStable(e.Faults, func(i, j int) bool {
		a, b := e.Faults[i], e.Faults[j]
		if a.Where != b.Where {
			return rank[a.Where] < rank[b.Where]
		}
		return a.Line < b.Line
	})
}
