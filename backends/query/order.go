package query

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"time"
)

// Places gives where a value stands in an order of bytes, for who keeps values sorted: one place or two, those of each
// element for a list, none for what is missing. If a Term holds for a value, the value has a place in one of the Term's
// Ranges. What is not true the other way round: a place in a range is a candidate, and Match decides.
//
// A place begins with its class: n numbers and x their texts, d dates and y their texts, t all other texts. That is how
// Match compares: with a number numbers are compared as such, and all else as text.
func Places(v any) [][]byte {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		var all [][]byte
		for _, e := range v {
			all = append(all, Places(e)...)
		}
		return all
	case []string:
		var all [][]byte
		for _, e := range v {
			all = append(all, Places(e)...)
		}
		return all
	case Text:
		return [][]byte{textPlace(lookOf(string(v)), string(v))}
	case time.Time:
		return [][]byte{datePlace(v), textPlace('y', text(v))}
	}
	s := text(v)
	if n, ok := parseNumber(s); ok {
		return [][]byte{numberPlace(n), textPlace('x', s)}
	}
	if d, ok := parseSpan(s); ok {
		return [][]byte{datePlace(d.a), textPlace('y', s)}
	}
	return [][]byte{textPlace('t', s)}
}

// Range holds the places from From to To, and all that begin with To.
type Range struct{ From, To []byte }

// And gives the places that are in both ranges; false when none can be.
func (r Range) And(o Range) (Range, bool) {
	out := r
	if bytes.Compare(o.From, r.From) > 0 {
		out.From = o.From
	}
	switch {
	case bytes.HasPrefix(o.To, r.To): // what begins with the longer one begins with the shorter one, too
		out.To = o.To
	case !bytes.HasPrefix(r.To, o.To) && bytes.Compare(o.To, r.To) < 0:
		out.To = o.To
	}
	return out, bytes.Compare(out.From[:min(len(out.From), len(out.To))], out.To) <= 0
}

// Ranges gives where the values are for which the Term may hold; false where that is not told by ranges (!=).
func (t Term) Ranges() ([]Range, bool) {
	if t.Op == NotEqual {
		return nil, false
	}
	var all []Range
	for _, v := range t.Values {
		all = append(all, rangesOf(t.Op, v, t.Type)...)
	}
	return all, true
}

// texts are the classes of texts.
const texts = "xyt"

func rangesOf(op Op, want string, typ Type) []Range {
	if op == Like {
		return prefixes(literalPrefix(want))
	}
	n, number := parseNumber(want)
	d, date := parseSpan(want)
	date = date && !number
	if typ == String {
		number, date = false, false
	}
	if op == Equal || op == In {
		switch {
		case number:
			return []Range{point(numberPlace(n))}
		case date:
			return []Range{{datePlace(d.a.Add(-longest)), datePlace(d.b)}}
		}
		return []Range{point(textPlace(lookOf(want), want))} // what is equal looks the same
	}
	var all []Range
	for _, class := range []byte(texts) {
		if !(class == 'x' && number || class == 'y' && date) {
			all = append(all, bounded(op, textPlace(class, want), textPlace(class, want)))
		}
	}
	switch {
	case number:
		all = append(all, bounded(op, numberPlace(n), numberPlace(n)))
	case date:
		all = append(all, bounded(op, datePlace(d.a.Add(-longest)), datePlace(d.b)))
	}
	return all
}

// longest is more than the longest span of a date, a month: a value may begin so long before what it overlaps with.
const longest = 32 * 24 * time.Hour

// bounded is the range of an ordering operator within the class of its places.
func bounded(op Op, low, high []byte) Range {
	if op == Greater || op == GreaterOrEqual {
		return Range{low, low[:1]}
	}
	return Range{high[:1], high}
}

func point(p []byte) Range { return Range{p, p} }

// prefixes are the ranges of all texts that begin so.
func prefixes(p string) []Range {
	var all []Range
	for _, class := range []byte(texts) {
		b := append([]byte{class}, cut(p)...)
		all = append(all, point(b))
	}
	return all
}

// literalPrefix is what all that matches the pattern begins with.
func literalPrefix(pattern string) string {
	var b strings.Builder
	for p := 0; p < len(pattern); p += width(pattern, p) {
		if c := pattern[p]; c == '*' || c == '%' || c == '?' {
			break
		}
		b.WriteByte(literal(pattern, p))
	}
	return b.String()
}

// lookOf is the class of a text by what it looks like.
func lookOf(s string) byte {
	if _, ok := parseNumber(s); ok {
		return 'x'
	}
	if _, ok := parseSpan(s); ok {
		return 'y'
	}
	return 't'
}

// longestText bounds the texts in places, in bytes.
const longestText = 64

// cut shortens a text so that order is kept: what was smaller is smaller or equal.
func cut(s string) string {
	s, _, _ = strings.Cut(s, "\x00")
	return s[:min(len(s), longestText)]
}

// textPlace ends with NUL, which is below all that may follow in a longer text.
func textPlace(class byte, s string) []byte {
	s = cut(s)
	b := make([]byte, 0, len(s)+2)
	b = append(b, class)
	b = append(b, s...)
	return append(b, 0)
}

func numberPlace(n number) []byte {
	f := n.f + 0 // no negative zero
	u := math.Float64bits(f)
	if f < 0 {
		u = ^u
	} else {
		u |= 1 << 63
	}
	return binary.BigEndian.AppendUint64([]byte{'n'}, u)
}

func datePlace(t time.Time) []byte {
	return binary.BigEndian.AppendUint64([]byte{'d'}, uint64(t.Unix())^1<<63)
}
