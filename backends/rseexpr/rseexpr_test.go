package rseexpr

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"tarn/backends"
)

var rses = []backends.RSE{
	{Name: "CSCS-DISK", Kind: backends.DiskKind, Attributes: map[string]string{"country": "CH", "tier": "1", "offsite": "true"}},
	{Name: "PIC-DISK", Kind: backends.DiskKind, Attributes: map[string]string{"country": "ES", "tier": "1", "offsite": "True", "site": "PIC"}},
	{Name: "PIC-TAPE", Kind: backends.TapeKind, Attributes: map[string]string{"country": "ES", "tier": "2", "offsite": "false", "site": "PIC"}},
	{Name: "LAPALMA", Kind: backends.DiskKind, Attributes: map[string]string{"country": "ES", "tier": "zero", "url": "https://a:1/x"}},
}

func matched(e Expr) string {
	var out []string
	for _, r := range rses {
		if e.Match(r) {
			out = append(out, r.Name)
		}
	}
	return strings.Join(out, " ")
}

func TestMatch(t *testing.T) {
	const all = "CSCS-DISK PIC-DISK PIC-TAPE LAPALMA"
	for _, c := range []struct{ in, want string }{
		{"*", all},
		{"LAPALMA", "LAPALMA"},
		{"NOWHERE", ""},
		{"PIC-*", "PIC-DISK PIC-TAPE"},
		{"*-DISK", "CSCS-DISK PIC-DISK"},
		{"*I*-*K", "PIC-DISK"},
		{"**", all},
		{"offsite", "CSCS-DISK PIC-DISK"}, // a tag
		{"country=ES", "PIC-DISK PIC-TAPE LAPALMA"},
		{"country=es", ""},
		{"country=E*", "PIC-DISK PIC-TAPE LAPALMA"},
		{"country!=ES", "CSCS-DISK"},
		{"site!=PIC", "CSCS-DISK LAPALMA"}, // also those without the key
		{"offsite=TRUE", "CSCS-DISK PIC-DISK"},
		{"offsite!=True", "PIC-TAPE LAPALMA"},
		{"rse=PIC-TAPE", "PIC-TAPE"},
		{"name=PIC-TAPE", "PIC-TAPE"},
		{"rse_type=tape", "PIC-TAPE"},
		{"rse_type=DISK", "CSCS-DISK PIC-DISK LAPALMA"},
		{"tier<2", "CSCS-DISK PIC-DISK"}, // zero is no number
		{"tier<=2", "CSCS-DISK PIC-DISK PIC-TAPE"},
		{"tier>1", "PIC-TAPE"},
		{"tier>=1.0", "CSCS-DISK PIC-DISK PIC-TAPE"},
		{"distance>0", ""}, // no such key
		{"url=https://a:1/x", "LAPALMA"},
		{"CSCS-DISK|LAPALMA", "CSCS-DISK LAPALMA"},
		{"country=ES&tier=1", "PIC-DISK"},
		{`*\country=ES`, "CSCS-DISK"},
		// Equal precedence, from the left: (LAPALMA|country=ES)&tier=1.
		{"LAPALMA|country=ES&tier=1", "PIC-DISK"},
		{"LAPALMA|(country=ES&tier=1)", "PIC-DISK LAPALMA"},
		{`country=ES\PIC-DISK\PIC-TAPE`, "LAPALMA"},
		{`country=ES\(PIC-DISK\PIC-TAPE)`, "PIC-TAPE LAPALMA"},
		{`country=ES&rse_type=TAPE|CSCS-DISK`, "CSCS-DISK PIC-TAPE"},
		{" ( country = ES ) & tier < 2 ", "PIC-DISK"},
		{"((*))", all},
	} {
		e, err := Parse(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got := matched(e); got != c.want {
			t.Errorf("%s matches %q, want %q", c.in, got, c.want)
		}
	}
}

func TestString(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{" A | B ", "A|B"},
		{"(A|B)|C", "A|B|C"},
		{"A|(B|C)", "A|(B|C)"},
		{"((A))", "A"},
		{`(A\B)&(C|(D))`, `A\B&(C|D)`},
		{"tier <= 2.50", "tier<=2.50"},
		{"a != b", "a!=b"},
	} {
		e, err := Parse(c.in)
		if err != nil || e.String() != c.want {
			t.Errorf("%s prints %v (%v), want %s", c.in, e, err, c.want)
		}
	}
}

func TestErrorsSayWhere(t *testing.T) {
	deep := strings.Repeat("(", MaxDepth+1) + "A" + strings.Repeat(")", MaxDepth+1)
	for _, c := range []struct {
		in   string
		pos  int
		says string
	}{
		{"", 0, "unexpected end"},
		{"  ", 2, "unexpected end"},
		{"A|", 2, "unexpected end"},
		{"A||B", 2, "unexpected '|'"},
		{"A B", 2, "between two terms"},
		{"(A", 0, "never closed"},
		{"A&(B|(C)", 2, "never closed"},
		{"A)", 1, "no parenthesis is open"},
		{"()", 1, "unexpected ')'"},
		{"(A=1 B)", 5, "want |"},
		{"country=", 8, "want a value after country="},
		{"=ES", 0, "unexpected '='"},
		{"tier<ten", 5, "compares numbers"},
		{"tier>NaN", 5, "compares numbers"},
		{"ti*r=1", 0, "a key cannot hold *"},
		{"A!B", 1, "unexpected '!'"},
		{"A;B", 1, "unexpected ';'"},
		{deep, MaxDepth, "nested parentheses"},
		{strings.Repeat("A|", MaxLength), MaxLength, "longer than"},
	} {
		_, err := Parse(c.in)
		var se *SyntaxError
		if !errors.As(err, &se) {
			t.Errorf("%.40q: error is %v", c.in, err)
			continue
		}
		if se.Pos != c.pos || !strings.Contains(se.Problem, c.says) {
			t.Errorf("%.40q: error %q at %d, want %q at %d", c.in, se.Problem, se.Pos, c.says, c.pos)
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("position %d", c.pos+1)) || len(err.Error()) > 500 {
			t.Errorf("%.40q: text is %q", c.in, err)
		}
	}
	if _, err := Parse(deep[1 : len(deep)-1]); err != nil {
		t.Errorf("the deepest allowed: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"*", "A|B&C", `A\(B|C)`, "country=ES&tier<2", "a!=b*", "PIC-*|rse_type=TAPE", "((A))", "A|", "x<=1e3", "é=ü"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := Parse(s)
		if err != nil {
			var se *SyntaxError
			if !errors.As(err, &se) || se.Pos < 0 || se.Pos > len(s) {
				t.Fatalf("error %v", err)
			}
			return
		}
		again, err := Parse(e.String())
		if err != nil {
			t.Fatalf("%q prints %q, which does not parse: %v", s, e, err)
		}
		if again.String() != e.String() {
			t.Fatalf("%q prints %q, then %q", s, e, again)
		}
		if a, b := matched(e), matched(again); a != b {
			t.Fatalf("%q matches %q, its printed form %q", s, a, b)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	e, err := Parse(`tier=1&country=ES|rse_type=TAPE\CSCS-*`)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		e.Match(rses[1])
	}
}
