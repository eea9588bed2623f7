package query

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Text is a value that is compared as text whatever it looks like: digests and names
// of digits are no numbers. A Match's get gives it where that matters.
type Text string

// Match tells whether the part does not hold.
func (n Not) Match(get func(string) (any, bool)) bool { return !n.X.Match(get) }

// Match tells whether all parts hold.
func (a And) Match(get func(string) (any, bool)) bool {
	for _, e := range a {
		if !e.Match(get) {
			return false
		}
	}
	return true
}

// Match tells whether one part holds.
func (o Or) Match(get func(string) (any, bool)) bool {
	for _, e := range o {
		if e.Match(get) {
			return true
		}
	}
	return false
}

// Match compares what get gives with the values: as numbers when both are, else as
// times when both are, else as text, byte by byte. A value that is a list holds when
// one of its elements does; != is the opposite of =, so it asks that none is equal,
// and alone among the operators holds for a key that is missing or null.
//
// A date (2026-11-23) or month (2026-11) or minute is that whole span, in UTC unless
// a zone is given: equal to every time in it, and greater than it is what comes after.
func (t Term) Match(get func(string) (any, bool)) bool {
	v, ok := get(t.Key)
	ok = ok && v != nil
	if t.Op == NotEqual {
		return !ok || !t.any(v, Equal)
	}
	return ok && t.any(v, t.Op)
}

func (t Term) any(v any, op Op) bool {
	if t.Type == String {
		v = asText(v)
	}
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if t.any(e, op) {
				return true
			}
		}
		return false
	case []string:
		for _, e := range v {
			if t.any(e, op) {
				return true
			}
		}
		return false
	case nil:
		return false
	}
	for _, want := range t.Values {
		if holds(v, op, want) {
			return true
		}
	}
	return false
}

func holds(v any, op Op, want string) bool {
	if op == Like {
		return like(want, text(v))
	}
	c, ordered := compare(v, want)
	switch op {
	case Equal, In:
		return ordered && c == 0
	case Greater:
		return ordered && c > 0
	case GreaterOrEqual:
		return ordered && c >= 0
	case Less:
		return ordered && c < 0
	case LessOrEqual:
		return ordered && c <= 0
	}
	return false
}

// compare orders v and the query's value; ordered is false for NaN only.
func compare(v any, want string) (c int, ordered bool) {
	if s, ok := v.(Text); ok {
		return strings.Compare(string(s), want), true
	}
	if t, ok := v.(time.Time); ok {
		if w, ok := parseSpan(want); ok {
			return span{t, t}.compare(w), true
		}
		return strings.Compare(text(v), want), true
	}
	s := text(v)
	if a, ok := parseNumber(s); ok {
		if b, ok := parseNumber(want); ok {
			return a.compare(b)
		}
	}
	if a, ok := parseSpan(s); ok {
		if b, ok := parseSpan(want); ok {
			return a.compare(b), true
		}
	}
	return strings.Compare(s, want), true
}

// asText makes text of a value that was declared to be that; lists stay lists.
func asText(v any) any {
	switch v.(type) {
	case nil, []any, []string:
		return v
	}
	return Text(text(v))
}

func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case Text:
		return string(v)
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case int:
		return strconv.Itoa(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case uint64:
		return strconv.FormatUint(v, 10)
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	}
	if b, err := json.Marshal(v); err == nil {
		return string(b)
	}
	return fmt.Sprint(v)
}

// number is exact for whole numbers of 64 bits: sizes and ids above 2^53 differ.
type number struct {
	i     int64
	f     float64
	whole bool
}

func parseNumber(s string) (number, bool) {
	if s == "" || strings.Trim(s, "0123456789+-.eE") != "" || !strings.ContainsAny(s, "0123456789") {
		return number{}, false // no hexadecimal, no infinity, no underscores
	}
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return number{i: i, f: float64(i), whole: true}, true
	}
	f, err := strconv.ParseFloat(s, 64)
	return number{f: f}, err == nil
}

func (a number) compare(b number) (int, bool) {
	switch {
	case a.whole && b.whole && a.i < b.i, !(a.whole && b.whole) && a.f < b.f:
		return -1, true
	case a.whole && b.whole && a.i > b.i, !(a.whole && b.whole) && a.f > b.f:
		return 1, true
	}
	return 0, !math.IsNaN(a.f) && !math.IsNaN(b.f)
}

// span is the time from a to b; an instant when they are equal.
type span struct{ a, b time.Time }

func (s span) compare(o span) int {
	switch {
	case s.a.Equal(o.a) && s.b.Equal(o.b):
		return 0
	case !s.b.After(o.a) && !(s.a.Equal(s.b) && s.a.Equal(o.a)): // an instant at the start of a span is in it
		return -1
	case !s.a.Before(o.b) && !(o.a.Equal(o.b) && s.a.Equal(o.a)):
		return 1
	}
	return 0
}

// The forms of ISO 8601 that are read, and the span of what each leaves out.
var timeForms = []struct {
	layout   string
	duration time.Duration
}{
	{"2006-01-02T15:04:05Z07:00", 0}, {"2006-01-02T15:04:05", 0},
	{"2006-01-02T15:04Z07:00", time.Minute}, {"2006-01-02T15:04", time.Minute},
	{"2006-01-02", 24 * time.Hour},
}

func parseSpan(s string) (span, bool) {
	if len(s) < 7 || len(s) > 40 || s[4] != '-' || s[0] < '0' || s[0] > '9' {
		return span{}, false
	}
	if len(s) == 7 {
		t, err := time.Parse("2006-01", s)
		return span{t, t.AddDate(0, 1, 0)}, err == nil
	}
	if len(s) > 10 && (s[10] == ' ' || s[10] == 't') {
		s = s[:10] + "T" + s[11:]
	}
	for _, f := range timeForms {
		if t, err := time.Parse(f.layout, s); err == nil {
			return span{t, t.Add(f.duration)}, true
		}
	}
	return span{}, false
}

// like matches s with a pattern in which * and % stand for any text and ? for one
// character. It goes back to the last star only, so its cost is at most len(pattern) times len(s).
func like(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && (pattern[p] == '*' || pattern[p] == '%'):
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == '?':
			_, n := utf8.DecodeRuneInString(s[i:])
			p++
			i += n
		case p < len(pattern) && literal(pattern, p) == s[i]:
			p += width(pattern, p)
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && (pattern[p] == '*' || pattern[p] == '%') {
		p++
	}
	return p == len(pattern)
}

// literal is the character that the pattern's next one or two stand for.
func literal(pattern string, p int) byte { return pattern[p+width(pattern, p)-1] }

func width(pattern string, p int) int {
	if pattern[p] == '\\' && p+1 < len(pattern) {
		return 2
	}
	return 1
}
