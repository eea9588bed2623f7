package query

import "strings"

// The words of DIRAC that ask whether a key is there.
const (
	wordAny     = "Any"
	wordMissing = "Missing"
)

// isSpecial tells whether a value that is not quoted means more than itself after = and !=.
func isSpecial(v string) bool {
	return v == wordAny || v == wordMissing || strings.ContainsAny(v, "*?")
}

// Exists is the query for DIDs that have the key with a value.
func Exists(key string) Expr { return Term{Key: key, Op: Like, Values: []string{"*"}} }

// All is a query that every DID matches.
func All() Expr { return Exists("name") }

// withWords gives an equality or its opposite with the meaning of the values that are not plain.
func withWords(t Term, plain []bool) Expr {
	if t.Op != Equal && t.Op != NotEqual {
		return t
	}
	same := Term{Key: t.Key, Op: Equal}
	wild := Term{Key: t.Key, Op: Like}
	var missing, special bool
	for i, v := range t.Values {
		switch {
		case plain[i] || !isSpecial(v):
			same.Values = append(same.Values, v)
			continue
		case v == wordAny:
			wild.Values = append(wild.Values, "*")
		case v == wordMissing:
			missing = true
		default:
			wild.Values = append(wild.Values, wildcards(v))
		}
		special = true
	}
	if !special {
		return t
	}
	var parts Or
	if len(same.Values) > 0 {
		parts = append(parts, same)
	}
	if len(wild.Values) > 0 {
		parts = append(parts, wild)
	}
	if missing {
		parts = append(parts, Not{Exists(t.Key)})
	}
	var e Expr = parts
	if len(parts) == 1 {
		e = parts[0]
	}
	if t.Op == Equal {
		return e
	}
	if n, ok := e.(Not); ok {
		return n.X
	}
	return Not{e}
}

// wildcards makes a like pattern of a value in which only * and ? mean more than themselves.
func wildcards(v string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`).Replace(v)
}
