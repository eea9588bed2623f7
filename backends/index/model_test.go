package index

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"tarn/backends"
	"tarn/backends/query"
)

// model makes random trees, changes and queries.
type model struct {
	*rig
	rnd   *rand.Rand
	n     int
	dirs  []string
	files []string
}

func newModel(t testing.TB, seed uint64) *model {
	m := &model{rig: newRig(t), rnd: rand.New(rand.NewPCG(seed, 7))}
	for _, s := range []string{"s1", "s2"} {
		m.scope(s)
		m.dirs = append(m.dirs, "/"+s)
	}
	m.dirs = append(m.dirs, "/s1/d")
	m.dir("/s1/d", nil)
	for range 60 {
		m.change()
	}
	return m
}

var keys = []string{"run", "level", "day", "tel", "note", "guid", "size"}

func (m *model) value() any {
	switch m.rnd.IntN(10) {
	case 9:
		return []any{float64(m.rnd.IntN(20)), float64(m.rnd.IntN(20)), "7"}
	case 0:
		return float64(m.rnd.IntN(20))
	case 1:
		return json.Number(fmt.Sprint(m.rnd.IntN(20)))
	case 2:
		return fmt.Sprint(m.rnd.IntN(20))
	case 3:
		return fmt.Sprintf("2026-11-%02d", 1+m.rnd.IntN(28))
	case 4:
		return m.rnd.IntN(2) == 0
	case 5:
		n := m.rnd.IntN(4)
		l := make([]any, n)
		for i := range l {
			l[i] = fmt.Sprintf("LST-%d", m.rnd.IntN(4))
		}
		return l
	case 6:
		return map[string]any{"a": float64(m.rnd.IntN(3))}
	}
	return fmt.Sprintf("DL%d", m.rnd.IntN(4))
}

func (m *model) meta() backends.Meta {
	out := backends.Meta{}
	for range m.rnd.IntN(3) {
		out[keys[m.rnd.IntN(len(keys))]] = m.value()
	}
	return out
}

func pick(m *model, l []string) string { return l[m.rnd.IntN(len(l))] }

func (m *model) term() string {
	key := []string{"run", "level", "day", "tel", "note", "name", "type", "size", "mtime", "scope", "did", "checksum", "adler32", "GUID", "Path", "GID"}[m.rnd.IntN(16)]
	ops := []string{"=", "!=", ">", ">=", "<", "<=", " in ", " like "}
	want := func() string {
		switch m.rnd.IntN(9) {
		case 0:
			return fmt.Sprint(m.rnd.IntN(20))
		case 1:
			return fmt.Sprintf("2026-11-%02d", 1+m.rnd.IntN(28))
		case 2:
			return fmt.Sprintf("LST-%d", m.rnd.IntN(4))
		case 3:
			return "2026-11"
		case 4:
			return path.Base(pick(m, append(m.files, "/x")))
		case 5:
			return []string{"file", "container", "dataset", "true", "s1"}[m.rnd.IntN(5)]
		case 6:
			return fmt.Sprintf("adler32:%08x", m.rnd.IntN(30))
		case 7:
			return fmt.Sprintf("%08x", m.rnd.IntN(30))
		}
		return fmt.Sprintf("DL%d", m.rnd.IntN(4))
	}
	op := ops[m.rnd.IntN(len(ops))]
	w := `"` + want() + `"`
	if op == " in " || op == "=" && m.rnd.IntN(3) == 0 {
		w += `,"` + want() + `"`
	}
	if op == " like " {
		w = []string{`"L*"`, `"DL?"`, `"*1"`, `"*"`, `"2026-11-1*"`, `"f*"`, `"1*"`, `"00*"`}[m.rnd.IntN(8)]
	}
	if m.rnd.IntN(12) == 0 {
		return key + "=" + []string{"Any", "Missing"}[m.rnd.IntN(2)]
	}
	return key + op + w
}

func (m *model) query(depth int) string {
	if m.rnd.IntN(8) == 0 { // a key from one value to another
		k := pick(m, []string{"run", "day", "tel", "size", "name"})
		return fmt.Sprintf("%s>=%d and %s<%d", k, m.rnd.IntN(10), k, m.rnd.IntN(20))
	}
	switch n := m.rnd.IntN(6); {
	case depth == 0 || n < 2:
		return m.term()
	case n == 2:
		return "not (" + m.query(depth-1) + ")"
	case n == 3:
		return "(" + m.query(depth-1) + ") or (" + m.query(depth-1) + ")"
	}
	return "(" + m.query(depth-1) + ") and (" + m.query(depth-1) + ")"
}

// change changes something; what the catalogue refuses is none.
func (m *model) change() string {
	ctx := context.Background()
	m.n++
	name := fmt.Sprintf("f%d", m.n)
	var err error
	var what string
	switch n := m.rnd.IntN(20); {
	case n < 6:
		p := path.Join(pick(m, m.dirs), name)
		what = "add " + p
		if err = m.Add(ctx, fileInfo(p, int64(m.rnd.IntN(30))), m.meta()); err == nil {
			m.files = append(m.files, p)
		}
	case n < 8:
		p := path.Join(pick(m, m.dirs), "d"+name)
		what = "mkdir " + p
		if err = m.Add(ctx, backends.Info{DID: did(p), Type: []backends.Type{backends.Container, backends.Dataset}[m.rnd.IntN(2)], Mode: 0o755}, m.meta()); err == nil {
			m.dirs = append(m.dirs, p)
		}
	case n < 9 && len(m.files) > 0:
		p := pick(m, m.files)
		what = "replace " + p
		err = m.Add(ctx, fileInfo(p, int64(m.rnd.IntN(30))), nil)
	case n < 12:
		p := pick(m, slices.Concat(m.dirs, m.files))
		what = "set " + p
		set := m.meta()
		if m.rnd.IntN(3) == 0 {
			set[pick(m, keys)] = nil
		}
		err = m.SetMeta(ctx, did(p), set)
	case n < 14:
		p := pick(m, slices.Concat(m.dirs[2:], m.files))
		what = "remove " + p
		err = m.Remove(ctx, did(p))
	case n < 16:
		p, to := pick(m, slices.Concat(m.dirs[2:], m.files)), path.Join(pick(m, m.dirs), "r"+name)
		what = "rename " + p + " to " + to
		if err = m.Rename(ctx, did(p), did(to)); err == nil {
			for _, l := range [][]string{m.dirs, m.files} {
				for i, x := range l {
					if x == p || strings.HasPrefix(x, p+"/") {
						l[i] = to + x[len(p):]
					}
				}
			}
		}
	case n < 18:
		p, c := pick(m, m.dirs), pick(m, slices.Concat(m.dirs, m.files))
		what = "attach " + c + " to " + p
		err = m.Attach(ctx, did(p), did(c))
	case n < 19:
		p, c := pick(m, m.dirs), pick(m, slices.Concat(m.dirs, m.files))
		what = "detach " + c + " from " + p
		err = m.Detach(ctx, did(p), did(c))
	default:
		what = "import"
		var l []backends.Entry
		for range m.rnd.IntN(10) {
			m.n++
			p := path.Join(pick(m, m.dirs), fmt.Sprintf("i%d", m.n))
			m.files = append(m.files, p)
			l = append(l, backends.Entry{Info: fileInfo(p, int64(m.rnd.IntN(30))), Meta: m.meta()})
		}
		_, err = m.Import(ctx, func(yield func(backends.Entry, error) bool) {
			for _, e := range l {
				if !yield(e, nil) {
					return
				}
			}
		})
	}
	if err != nil {
		what += ": " + err.Error()
	}
	return what
}

// compare compares answers with those of the catalogue itself; it tells how many were from the index.
func (m *model) compare(log []string) (indexed int) {
	m.t.Helper()
	for range 12 {
		text := m.query(2)
		q, err := query.Parse(text)
		if err != nil {
			m.t.Fatalf("%s: %v", text, err)
		}
		root := backends.DID{}
		if m.rnd.IntN(2) == 0 {
			root = did(pick(m, slices.Concat(m.dirs, m.files)))
			if _, err := m.cat.Stat(context.Background(), root); errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
				continue
			}
		}
		got, i := m.found(root, q)
		want := collect(m.t, m.cat.Find(context.Background(), root, q))
		if !maps.Equal(got, want) {
			for d, in := range want {
				if got[d] != in {
					m.t.Errorf("%s: the index has %+v, want %+v", d, got[d], in)
				}
			}
			for d := range got {
				if _, ok := want[d]; !ok {
					m.t.Errorf("%s: too much", d)
				}
			}
			m.t.Fatalf("%s below %s (index of %s, %s) gives %d, want %d, after %s", text, root, i.AsOf, i.Why, len(got), len(want), strings.Join(log, "\n"))
		}
		if !i.AsOf.IsZero() {
			indexed++
		}
	}
	return indexed
}

// The index gives what the catalogue gives, for random trees, metadata, queries and changes, also when it is opened again in between.
func TestModel(t *testing.T) {
	asked, answered := 0, 0
	for seed := range uint64(40) {
		m := newModel(t, seed)
		root := []string{"/", "/", "/s1", pick(m, m.dirs)}[m.rnd.IntN(4)]
		if _, err := m.cat.Stat(context.Background(), did(root)); err != nil {
			root = "/"
		}
		m.build(root)
		answered += m.compare(nil)
		asked += 12
		var log []string
		for round := range 12 {
			for range 1 + m.rnd.IntN(6) {
				log = append(log, m.change())
			}
			switch {
			case round == 5:
				must(t, m.x.Close())
				m.open()
			case round == 8:
				m.build("/")
			}
			answered += m.compare(log)
			asked += 12
		}
		if n, _, err := m.x.Covers(context.Background()); err != nil || len(n) == 0 {
			t.Fatalf("covers: %v, %v", n, err)
		} else if c := n[0]; c.Root.IsZero() && c.Stale == "" {
			all := collect(t, m.cat.Find(context.Background(), backends.DID{}, nil))
			if int64(len(all)) != c.DIDs {
				t.Errorf("seed %d: %d DIDs counted, want %d", seed, c.DIDs, len(all))
			}
		}
	}
	if answered < asked/2 {
		t.Errorf("%d of %d were answered by the index", answered, asked)
	}
	t.Logf("%d of %d were answered by the index", answered, asked)
}
