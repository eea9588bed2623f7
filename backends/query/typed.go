package query

import (
	"fmt"
	"slices"
)

// Type is what the values of a key were declared to be.
type Type string

// The types, in DIRAC's words.
const (
	AsWritten Type = ""
	Int       Type = "int"
	Float     Type = "float"
	String    Type = "string"
	Date      Type = "date"
)

// ParseType reads the word of a type.
func ParseType(s string) (Type, error) {
	switch t := Type(s); t {
	case Int, Float, String, Date:
		return t, nil
	}
	return "", fmt.Errorf("type %q: want int, float, string or date", s)
}

// TypeError tells of a value that a key of that type cannot have.
type TypeError struct {
	Key, Value string
	Type       Type
}

// Error says what would be right.
func (e *TypeError) Error() string {
	want := map[Type]string{Int: "a whole number", Float: "a number", Date: "a date such as 2026-11-23 or 2026-11-23T10:30:00", String: "text"}[e.Type]
	return fmt.Sprintf("%s is declared %s: want %s, not %q", e.Key, e.Type, want, e.Value)
}

// Check tells whether text is a value of the type; a *TypeError for one that is none.
func (t Type) Check(key, value string) error {
	ok := true
	switch t {
	case Int:
		n, is := parseNumber(value)
		ok = is && n.whole
	case Float:
		ok = isNumber(value)
	case Date:
		_, ok = parseSpan(value)
	}
	if !ok {
		return &TypeError{key, value, t}
	}
	return nil
}

// Typed gives the query with the types of its keys: keys of text are compared as text whatever
// values look like. A value that its key cannot have is a *TypeError; patterns are of any.
func Typed(e Expr, typeOf func(key string) Type) (Expr, error) {
	return Rewrite(e, func(t Term) (Term, error) {
		t.Type = typeOf(t.Key)
		if t.Op == Like {
			return t, nil
		}
		for _, v := range t.Values {
			if err := t.Type.compared().Check(t.Key, v); err != nil {
				return t, err
			}
		}
		return t, nil
	})
}

// Rewrite gives the query with each term replaced by what f makes of it. It ends with the first error.
func Rewrite(e Expr, f func(Term) (Term, error)) (Expr, error) {
	each := func(in []Expr) ([]Expr, error) {
		out := slices.Clone(in)
		for i, x := range in {
			var err error
			if out[i], err = Rewrite(x, f); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	switch e := e.(type) {
	case Term:
		return f(e)
	case Not:
		x, err := Rewrite(e.X, f)
		return Not{x}, err
	case And:
		out, err := each(e)
		return And(out), err
	case Or:
		out, err := each(e)
		return Or(out), err
	}
	return e, nil
}

// compared is the type of what may be compared with a value of t: whole numbers with any number.
func (t Type) compared() Type {
	if t == Int {
		return Float
	}
	return t
}
