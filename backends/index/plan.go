package index

import (
	"bytes"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
	"tarn/backends/query"
)

// Answerable tells whether all that a query refers to is in an index. What it says of replicas is not.
func Answerable(q query.Expr) bool {
	return q != nil && !slices.ContainsFunc(query.Keys(q), func(k string) bool { return k == "SE" || k == "Status" })
}

// span are the keys from from to to, and those that begin with to.
type span struct{ from, to []byte }

// planner looks for postings that hold all that a query can match.
type planner struct {
	e  epoch
	it *badger.Iterator // over the keys of the cover's postings
}

// leastCount is up to how many candidates are counted at first.
const leastCount = 512

// plan is where candidates are taken from.
type plan struct {
	spans []span // of postings
	ids   []id   // or these: all that is below the root
	all   bool   // or all records
}

// plan gives a way that leads to few candidates, of that many DIDs; below lists what is below the root of the query, unless it is
// more than some, and is nil where that is all.
func (p *planner) plan(q query.Expr, dids int64, below func(most int) ([]id, bool)) plan {
	for most := leastCount; ; most *= 8 {
		last := int64(most) >= dids/4
		spans, n, ok := p.best(q, most)
		if !ok {
			n = most
		}
		if below != nil && n > 0 {
			if ids, few := below(n); few {
				return plan{ids: ids}
			}
		}
		switch {
		case ok:
			return plan{spans: spans}
		case last:
			return plan{all: true}
		}
	}
}

// best gives the spans with the fewest candidates, if these are at most that many.
func (p *planner) best(q query.Expr, most int) (spans []span, n int, ok bool) {
	switch q := q.(type) {
	case query.Term:
		return p.counted(spansOf(q, p.e), most)
	case query.And:
		try := func(s []span, m int, is bool) {
			if is {
				spans, n, ok, most = s, m, true, m
			}
		}
		for _, x := range q {
			try(p.best(x, most))
		}
		for _, together := range p.together(q) {
			try(p.counted(together, most))
		}
		return spans, n, ok
	case query.Or:
		for _, x := range q {
			s, m, is := p.best(x, most-n)
			if !is {
				return nil, 0, false
			}
			spans, n = append(spans, s...), n+m
		}
		return spans, n, true
	}
	return nil, 0, false
}

// count counts the keys of a span, up to one more than most.
func (p *planner) count(s span, most int) (n int) {
	for p.it.Seek(s.from); p.it.Valid() && s.holds(p.it.Item().Key()) && n <= most; p.it.Next() {
		n++
	}
	return n
}

// holds tells whether a key that is not before from is in the span.
func (s span) holds(key []byte) bool { return bytes.Compare(key[:min(len(key), len(s.to))], s.to) <= 0 }

// counted counts the keys of spans, if they are at most that many; nil is no span at all.
func (p *planner) counted(all []span, most int) (spans []span, n int, ok bool) {
	if all == nil {
		return nil, 0, false
	}
	for _, s := range all {
		if n += p.count(s, most-n); n > most {
			return nil, 0, false
		}
	}
	return all, n, true
}

// together gives, for each key of which several terms must hold, the spans that are left by all of them. A value is in one class
// of each term's ranges, so that those of terms with the same classes are compared.
func (p *planner) together(q query.And) (all [][]span) {
	type group struct {
		keys   []string
		first  []query.Range
		common []query.Range
		terms  int
	}
	groups := map[string]*group{}
	for _, x := range q {
		t, ok := x.(query.Term)
		if !ok {
			continue
		}
		t, keys := asked(t)
		ranges, ok := t.Ranges()
		if keys == nil || !ok {
			continue
		}
		name := t.Key + "\x00" + classes(ranges)
		g := groups[name]
		if g == nil {
			groups[name] = &group{keys, ranges, ranges, 1}
			continue
		}
		g.common, g.terms = both(g.common, ranges), g.terms+1
	}
	for _, g := range groups {
		if g.terms == 1 {
			continue
		}
		spans := []span{}
		for _, k := range g.keys {
			spans = append(spans, spansAt(p.e, k, g.common)...)
			spans = append(spans, spansAt(p.e, listKey(k), g.first)...)
		}
		all = append(all, spans)
	}
	return all
}

// classes lists those of places in ranges, each once.
func classes(ranges []query.Range) string {
	var c []byte
	for _, r := range ranges {
		c = append(c, r.From[0])
	}
	slices.Sort(c)
	return string(slices.Compact(c))
}

func both(a, b []query.Range) (out []query.Range) {
	for _, x := range a {
		for _, y := range b {
			if r, ok := x.And(y); ok {
				out = append(out, r)
			}
		}
	}
	return out
}

func spansAt(e epoch, key string, ranges []query.Range) (spans []span) {
	for _, r := range ranges {
		spans = append(spans, span{e.posting(key, r.From), e.posting(key, r.To)})
	}
	return spans
}

// spansOf gives the spans of all values for which a term may hold; nil where none are told.
func spansOf(t query.Term, e epoch) []span {
	t, keys := asked(t)
	ranges, ok := t.Ranges()
	if keys == nil || !ok {
		return nil
	}
	spans := []span{}
	for _, k := range keys {
		spans = append(spans, spansAt(e, k, ranges)...)
		spans = append(spans, spansAt(e, listKey(k), ranges)...)
	}
	return spans
}

// asked gives a term as its values are compared, and the keys under which they have postings; nil for none.
func asked(t query.Term) (query.Term, []string) {
	switch t.Key {
	case "type":
		if !only(t, backends.Dataset.String(), backends.Container.String()) {
			return t, nil // files have no posting of that
		}
		t.Type = query.String
		return t, []string{textKeys["type"]}
	case "name", "Name", "FileName", "adler32", "md5", "sha256":
		t.Type = query.String
		return t, []string{textKeys[t.Key]}
	case "size", "Size", "mtime", "CreationDate":
		return t, []string{otherKeys[t.Key]}
	case "GUID":
		t.Type = query.String
		return t, backends.MetaGUID
	case "checksum", "CheckSum":
		if t.Op != query.Equal && t.Op != query.In {
			return t, nil
		}
		t.Type, t.Values = query.String, slices.Clone(t.Values)
		for i, v := range t.Values {
			t.Values[i] = v[strings.IndexByte(v, ':')+1:]
		}
		return t, []string{textKeys["adler32"], textKeys["md5"], textKeys["sha256"]}
	}
	if backends.Builtin(t.Key) {
		return t, nil
	}
	return t, []string{t.Key}
}

// only tells whether the term is an equality with some of the words.
func only(t query.Term, words ...string) bool {
	return (t.Op == query.Equal || t.Op == query.In) && !slices.ContainsFunc(t.Values, func(v string) bool { return !slices.Contains(words, v) })
}
