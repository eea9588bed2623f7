package query

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// holds tells whether a place is in the range.
func (r Range) holds(p []byte) bool {
	return bytes.Compare(p, r.From) >= 0 && bytes.Compare(p[:min(len(p), len(r.To))], r.To) <= 0
}

// has tells whether v or an element of it is a T.
func has[T any](v any) bool {
	if l, ok := v.([]any); ok {
		return slices.ContainsFunc(l, has[T])
	}
	_, is := v.(T)
	return is
}

// What holds has a place in a range, whatever the values look like.
func TestPlaces(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	texts := []string{"", "a", "ab", "ab\x00c", "ab\x00", "abc", "DL3", "LST-1", "5", "-5", "5.0", "50", "1e3", "1000", "007", "0", "-0", "9007199254740993",
		"2026-11", "2026-11-23", "2026-11-23T10:30:00", "2026-11-30", "2026-12-01", "2025-01-01T00:00:00Z", "0001-01-01", "true", "false", "é", "\xff", "\x01",
		string(bytes.Repeat([]byte("x"), 70)), string(bytes.Repeat([]byte("x"), 70)) + "y", "2026-11-2", "123e-10", "[1,2]", "{}"}
	values := []any{nil, true, false, 5.0, -5.0, 0.0, 1e21, 123456789.0, json.Number("5"), json.Number("9007199254740993"), 5, int64(50), uint64(1000),
		time.Date(2026, 11, 23, 10, 30, 0, 5, time.UTC), []any{}, map[string]any{"a": 1.0}}
	for _, s := range texts {
		values = append(values, s, Text(s))
	}
	plain := values
	for range 200 {
		n := rnd.IntN(3)
		l := make([]any, n)
		for i := range l {
			l[i] = plain[rnd.IntN(len(plain))]
		}
		values = append(values, l)
	}
	values = append(values, []string{"a", "5"})
	wants := append([]string{"*", "a*", "?b", `a\*`, "*c", "%", "5*", "2026*", "x*y"}, texts...)
	held := 0
	for _, v := range values {
		places := Places(v)
		for _, op := range []Op{Equal, NotEqual, Greater, GreaterOrEqual, Less, LessOrEqual, In, Like} {
			for _, want := range wants {
				for _, typ := range []Type{AsWritten, String} {
					if has[Text](v) && typ != String || has[time.Time](v) && typ == String {
						continue // keys of text are asked with that type, and those of times never
					}
					term := Term{Key: "k", Op: op, Values: []string{want}, Type: typ}
					rs, ok := term.Ranges()
					if !ok {
						if op != NotEqual {
							t.Fatalf("%s has no ranges", term)
						}
						continue
					}
					if !term.Match(func(string) (any, bool) { return v, true }) {
						continue
					}
					held++
					found := false
					for _, r := range rs {
						for _, p := range places {
							found = found || r.holds(p)
						}
					}
					if !found {
						t.Errorf("%s holds for %#v (%T), which has no place in its ranges: %q, %q", term, v, v, places, fmt.Sprint(rs))
					}
				}
			}
		}
	}
	if held < 1000 {
		t.Errorf("only %d pairs were compared", held)
	}
}

// A place is in both of two ranges when it is in what And gives.
func TestRangeAnd(t *testing.T) {
	ops := []Op{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Like}
	values := []string{"5", "7", "a", "ab", "abc", "2026-11-23", "2026-12", "-1", "a*"}
	var ranges []Range
	var places [][]byte
	for _, v := range values {
		places = append(places, Places(v)...)
		for _, op := range ops {
			rs, _ := Term{Key: "k", Op: op, Values: []string{v}}.Ranges()
			ranges = append(ranges, rs...)
		}
	}
	for _, a := range ranges {
		for _, b := range ranges {
			both, ok := a.And(b)
			for _, p := range places {
				if want := a.holds(p) && b.holds(p); want != (ok && both.holds(p)) {
					t.Fatalf("%q in %q and %q: %v, %q", p, a, b, want, both)
				}
			}
		}
	}
}

// A range is no more than it needs be: it leaves out what does not hold.
func TestRangesAreNarrow(t *testing.T) {
	for _, c := range []struct {
		term string
		v    any
	}{
		{"run = 5", 6.0}, {"run > 5", 4.0}, {"run > 5", "4"}, {"run <= 5", 6.0}, {"level = DL3", "DL2"}, {"name like DL3*", "DL2"}, {"day = 2026-11-23", "2026-12-24"}, {"run > 10", 9.0},
	} {
		e, err := Parse(c.term)
		if err != nil {
			t.Fatal(err)
		}
		rs, _ := e.(Term).Ranges()
		for _, r := range rs {
			for _, p := range Places(c.v) {
				if r.holds(p) {
					t.Errorf("%s: %v is a candidate", c.term, c.v)
				}
			}
		}
	}
}
