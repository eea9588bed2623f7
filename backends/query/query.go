// Package query is the metadata query language of tarn: DIRAC's made regular. It
// parses, prints and matches; where the values come from is the caller's business.
//
// A query is made of terms "key op value", side by side or joined by "and", with
// "or", "not" and parentheses ("not" binds strongest, "or" weakest):
//
//	type = dataset run >= 1200 telescope in LST-1,LST-2
//	mtime > 2026-11-01 and (zenith < 30 or name like 'gamma*')
//	not quality = bad
//
// The operators are = != > >= < <= in like. A list a,b stands for "one of them" and
// goes with =, !=, in and like. In a like pattern * and % stand for any text, ? for one
// character, and a backslash takes the next character as it is. Keys and values with spaces,
// operators, commas or parentheses, and the words of the language themselves, are
// quoted by ' or "; a backslash in a quoted one takes the next character as it is.
// The words of the language are known in any case: AND, Or, IN.
//
// What DIRAC's users write (MetaQuery.py) is part of it. After = and != a value that is not
// quoted may have the wildcards * and ?, and the words Any and Missing ask whether the key
// is there at all. A key that is compared by = twice, side by side, may have either value;
// joined by "and", it must have both, as a list can. The other form of DIRAC is a dictionary
// in JSON, whose conditions all hold:
//
//	{"particle": {"in": ["gamma", "electron"]}, "configuration_id": {">=": 13}, "merged": "Missing"}
package query

import "strings"

// Expr is a parsed query: a Term, Not, And or Or.
type Expr interface {
	// String prints the query so that Parse reads it back as an equal one.
	String() string
	// Match tells whether the query holds for what get gives for each key.
	Match(get func(key string) (any, bool)) bool
}

// Op is a comparison.
type Op string

// The operators.
const (
	Equal          Op = "="
	NotEqual       Op = "!="
	Greater        Op = ">"
	GreaterOrEqual Op = ">="
	Less           Op = "<"
	LessOrEqual    Op = "<="
	In             Op = "in"
	Like           Op = "like"
)

// lists tells whether the operator takes more than one value.
func (o Op) lists() bool { return o == Equal || o == NotEqual || o == In || o == Like }

// Term compares one key with one or more values.
type Term struct {
	Key    string
	Op     Op
	Values []string // one at least; more than one only with = != in like
	Type   Type     // how the key was declared; AsWritten: what values look like decides
}

// Not is the opposite of X.
type Not struct{ X Expr }

// And holds when all of its parts do; it has two at least, and none is an And.
type And []Expr

// Or holds when one of its parts does; it has two at least, and none is an Or.
type Or []Expr

// Keys lists the keys that e refers to, each once, in the order of their first use.
func Keys(e Expr) []string {
	var keys []string
	seen := map[string]bool{}
	var walk func(Expr)
	walk = func(e Expr) {
		switch e := e.(type) {
		case Term:
			if !seen[e.Key] {
				seen[e.Key] = true
				keys = append(keys, e.Key)
			}
		case Not:
			walk(e.X)
		case And:
			for _, x := range e {
				walk(x)
			}
		case Or:
			for _, x := range e {
				walk(x)
			}
		}
	}
	walk(e)
	return keys
}

// String prints the term: key op value,value.
func (t Term) String() string {
	var b strings.Builder
	writeWord(&b, t.Key)
	b.WriteString(" " + string(t.Op) + " ")
	for i, v := range t.Values {
		if i > 0 {
			b.WriteByte(',')
		}
		writeValue(&b, t.Op, v)
	}
	return b.String()
}

// writeValue quotes what means something else without quotes.
func writeValue(b *strings.Builder, op Op, v string) {
	if (op == Equal || op == NotEqual) && isSpecial(v) && isBare(v) {
		b.WriteString(`"` + strings.ReplaceAll(v, `\`, `\\`) + `"`)
		return
	}
	writeWord(b, v)
}

// String prints "not" and what it is of.
func (n Not) String() string { return "not " + inner(n.X) }

// String joins the parts by "and".
func (a And) String() string { return join(a, " and ") }

// String joins the parts by "or".
func (o Or) String() string { return join(o, " or ") }

func join(parts []Expr, sep string) string {
	s := make([]string, len(parts))
	for i, p := range parts {
		s[i] = inner(p)
	}
	return strings.Join(s, sep)
}

// inner puts what consists of several terms in parentheses.
func inner(e Expr) string {
	switch e.(type) {
	case And, Or:
		return "(" + e.String() + ")"
	}
	return e.String()
}

func writeWord(b *strings.Builder, s string) {
	if isBare(s) {
		b.WriteString(s)
		return
	}
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte('"')
}

// isBare tells whether s can stand in a query without quotes.
func isBare(s string) bool {
	if s == "" || keyword(s) != "" {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !bareByte(s[i]) {
			return false
		}
	}
	return s[0] != '{' // the query would be taken for a dictionary
}
