// Package rseexpr parses, prints and matches RSE expressions: Rucio's small language
// that names a set of storages in a replication rule.
//
//	rules:
//	  - copies: 2
//	    expression: tier=1&country=ES|rse_type=TAPE\CSCS-*
//
// As in Rucio (core/rse_expression_parser.py) the operators | (union), & (intersection)
// and \ (complement) have equal precedence and are read from left to right, so that
// A|B&C is (A|B)&C; parentheses say it otherwise. A primitive is
//
//   - every RSE
//     NAME          the RSE of that name, or every RSE with the tag (an attribute that is true)
//     NAME*         every RSE whose name matches
//     key=value     value may hold *; key!=value is the complement of it: *\key=value
//     key<number    also <= > >=; never true for an RSE without the key or with another word in it
//
// The keys are the attributes of the RSE, and rse or name (its name) and rse_type
// (DISK or TAPE). Words are compared byte by byte, except for rse_type and for true and
// false, where case does not count. Rucio knows neither != nor <= and >=, nor spaces
// around the operators: these are added here.
package rseexpr

import (
	"strconv"
	"strings"

	"tarn/backends"
)

// Expr is a parsed expression. It is immutable and may be used in parallel.
type Expr interface {
	// Match tells whether the RSE is in the set.
	Match(backends.RSE) bool
	// String prints the expression so that Parse reads it back as an equal one, with
	// no spaces and with those parentheses only that it needs.
	String() string
}

// every is the primitive *.
type every struct{}

func (every) Match(backends.RSE) bool { return true }
func (every) String() string          { return "*" }

// named is a bare word.
type named struct{ pattern string }

func (n named) String() string { return n.pattern }

func (n named) Match(r backends.RSE) bool {
	if wildcard(n.pattern, r.Name) {
		return true
	}
	if strings.Contains(n.pattern, "*") {
		return false
	}
	tag, ok := r.Attributes[n.pattern]
	return ok && isTrue(tag)
}

// equals is key=value or key!=value.
type equals struct {
	key, pattern string
	not          bool
}

func (e equals) String() string {
	if e.not {
		return e.key + "!=" + e.pattern
	}
	return e.key + "=" + e.pattern
}

func (e equals) Match(r backends.RSE) bool {
	v, ok := attribute(r, e.key)
	return (ok && sameWord(e.key, e.pattern, v)) != e.not
}

// compares is key<number and its like.
type compares struct {
	key, op, text string
	n             float64
}

func (c compares) String() string { return c.key + c.op + c.text }

func (c compares) Match(r backends.RSE) bool {
	v, ok := attribute(r, c.key)
	if !ok {
		return false
	}
	x, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return false
	}
	switch c.op {
	case "<":
		return x < c.n
	case "<=":
		return x <= c.n
	case ">":
		return x > c.n
	default:
		return x >= c.n
	}
}

// binary is an operation on two sets.
type binary struct {
	op          byte
	left, right Expr
}

func (b binary) String() string {
	right := b.right.String()
	if _, ok := b.right.(binary); ok {
		right = "(" + right + ")"
	}
	return b.left.String() + string(b.op) + right
}

func (b binary) Match(r backends.RSE) bool {
	switch b.op {
	case '|':
		return b.left.Match(r) || b.right.Match(r)
	case '&':
		return b.left.Match(r) && b.right.Match(r)
	default:
		return b.left.Match(r) && !b.right.Match(r)
	}
}

// attribute gives the value of a key, built in or not.
func attribute(r backends.RSE, key string) (string, bool) {
	switch key {
	case "rse", "name":
		return r.Name, true
	case "rse_type":
		return string(r.Kind), true
	}
	v, ok := r.Attributes[key]
	return v, ok
}

func sameWord(key, pattern, v string) bool {
	if key == "rse_type" || isBool(pattern) && isBool(v) {
		return wildcard(strings.ToLower(pattern), strings.ToLower(v))
	}
	return wildcard(pattern, v)
}

func isBool(s string) bool { return isTrue(s) || strings.EqualFold(s, "false") }
func isTrue(s string) bool { return strings.EqualFold(s, "true") }

// wildcard matches s against a pattern in which * stands for any bytes. The text
// between the stars is looked for from left to right, the first place that fits, so
// the time is bounded by the product of the lengths whatever the pattern.
func wildcard(pattern, s string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, first)
	if !ok {
		return false
	}
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}
