package filecat

import (
	"context"
	"iter"
	"path"
	"slices"
	"strconv"
	"strings"

	"tarn/backends"
	"tarn/backends/query"
)

// Query parses a query, in either form, and prepares it: keys have their declared types, and names of users and groups
// are numbers. *query.SyntaxError, *query.TypeError.
func (c *Catalogue) Query(ctx context.Context, text string) (query.Expr, error) {
	e, err := query.Parse(text)
	if err != nil {
		return nil, err
	}
	s, err := c.Schema(ctx)
	if err != nil {
		return nil, err
	}
	return c.Prepare(s, e)
}

// Prepare does that with a query that was parsed.
func (c *Catalogue) Prepare(s Schema, e query.Expr) (query.Expr, error) {
	e, err := query.Rewrite(e, func(t query.Term) (query.Term, error) {
		switch t.Key {
		case "User":
			return numbers(t, "UID", c.o.UserID)
		case "Group":
			return numbers(t, "GID", c.o.GroupID)
		case "Path":
			return cleanPaths(t), nil
		}
		return t, checkBuiltin(t)
	})
	if err != nil {
		return nil, err
	}
	return query.Typed(e, func(key string) query.Type {
		if backends.Builtin(key) {
			return query.AsWritten
		}
		return s[key].Type
	})
}

// checkBuiltin refuses a value that a key of every file cannot have: compared as text, size>1G would match 2000 bytes.
// *query.SyntaxError. Patterns are of any.
func checkBuiltin(t query.Term) error {
	if t.Op == query.Like {
		return nil
	}
	for _, v := range t.Values {
		want := ""
		switch t.Key {
		case "size", "Size":
			want = refusal(query.Float, v, "a number of bytes")
		case "UID", "GID":
			want = refusal(query.Float, v, "a number")
		case "mtime", "CreationDate", "ModificationDate":
			want = refusal(query.Date, v, "a date such as 2026-11-23 or 2026-11-23T10:30:00")
		case "type":
			if v != backends.File.String() && v != backends.Dataset.String() && v != backends.Container.String() {
				want = "file, dataset or container"
			}
		}
		if want != "" {
			return &query.SyntaxError{Query: t.String(), Pos: len(t.Key) + 1 + len(t.Op) + 1, Want: want, Got: strconv.Quote(v)}
		}
	}
	return nil
}

// refusal is what is wanted instead of a value that the type has not, or "".
func refusal(is query.Type, value, want string) string {
	if is.Check("", value) == nil {
		return ""
	}
	return want
}

// numbers replaces names by what they are called in the catalogue.
func numbers(t query.Term, key string, id func(string) (uint32, bool)) (query.Term, error) {
	out := query.Term{Key: key, Op: t.Op}
	for _, v := range t.Values {
		if t.Op == query.Like && v == "*" {
			out.Values = append(out.Values, v)
			continue
		}
		n, ok := id(v)
		if !ok || t.Op == query.Like {
			return t, &query.SyntaxError{Query: t.String(), Want: "the name of a " + strings.ToLower(t.Key) + " of this machine", Got: strconv.Quote(v)}
		}
		out.Values = append(out.Values, strconv.FormatUint(uint64(n), 10))
	}
	return out, nil
}

func cleanPaths(t query.Term) query.Term {
	out := t
	out.Values = nil
	for _, v := range t.Values {
		if strings.HasPrefix(v, "/") && t.Op != query.Like {
			v = path.Clean(v)
		}
		out.Values = append(out.Values, v)
	}
	return out
}

// limit is the path that a query is limited to, "/" where there is no limit: that of a condition Path = /x which holds
// for all that matches. rest is what else it asks; nil: nothing.
func limit(e query.Expr) (root string, rest query.Expr) {
	parts, ok := e.(query.And)
	if !ok && e != nil {
		parts = query.And{e}
	}
	for i, p := range parts {
		if t, ok := p.(query.Term); ok && t.Key == "Path" && t.Op == query.Equal && len(t.Values) == 1 && strings.HasPrefix(t.Values[0], "/") {
			switch left := slices.Concat(parts[:i], parts[i+1:]); len(left) {
			case 0:
				rest = nil
			case 1:
				rest = left[0]
			default:
				rest = left
			}
			return path.Clean(t.Values[0]), rest
		}
	}
	return "/", e
}

// Find streams what matches a prepared query at and below a path ("" or "/": the whole lake), of a kind ("": both). Only
// what a condition on Path leaves is walked. A path that does not exist is ErrNotExist.
func (c *Catalogue) Find(ctx context.Context, root string, kind Kind, e query.Expr) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		at, rest, ok := Narrow(root, e)
		if !ok {
			return
		}
		var top backends.Info
		if at != "/" {
			var err error
			if top, err = c.o.Tree.Resolve(ctx, at); err != nil {
				yield(backends.Info{}, err)
				return
			}
		}
		for in, err := range c.o.Catalogue.Find(ctx, top.DID, rest) {
			if err == nil && (kind == File && in.Type != backends.File || kind == Directory && !in.IsDir()) {
				continue
			}
			if !yield(in, err) || err != nil {
				return
			}
		}
	}
}

// Narrow gives the path that has to be walked for what matches below root, and what is asked of that (nil: nothing); ok is
// false where nothing can match.
func Narrow(root string, e query.Expr) (path string, rest query.Expr, ok bool) {
	at, rest := limit(e)
	path, ok = narrow(root, at)
	return path, rest, ok
}

// narrow gives the deeper one of two paths, if it lies in the other.
func narrow(a, b string) (string, bool) {
	in := func(p, dir string) bool {
		return dir == "/" || p == dir || strings.HasPrefix(p, dir+"/")
	}
	if a == "" {
		a = "/"
	}
	a = path.Clean(a)
	switch {
	case in(a, b):
		return a, true
	case in(b, a):
		return b, true
	}
	return "", false
}

// maxValues bounds the values of a field that Compatible tells of.
const maxValues = 10_000

// Compatible gives the values that remain for each declared field among what matches the query (getCompatibleMetadata),
// in the order in which they are met. more names the fields that have more values than are told.
func (c *Catalogue) Compatible(ctx context.Context, root string, e query.Expr) (values map[string][]any, more []string, err error) {
	s, err := c.Schema(ctx)
	if err != nil {
		return nil, nil, err
	}
	values = map[string][]any{}
	seen := map[string]map[string]bool{}
	full := map[string]bool{}
	for name := range s {
		values[name], seen[name] = []any{}, map[string]bool{}
	}
	for x, err := range c.Detailed(ctx, root, "", e) {
		if err != nil {
			return nil, nil, err
		}
		for k, v := range x.Meta {
			known, declared := seen[k]
			if !declared {
				continue
			}
			list, ok := v.([]any)
			if !ok {
				list = []any{v}
			}
			for _, v := range list {
				t := textOf(v)
				switch {
				case known[t]:
				case len(known) == maxValues:
					if !full[k] {
						full[k], more = true, append(more, k)
					}
				default:
					known[t], values[k] = true, append(values[k], v)
				}
			}
		}
	}
	return values, more, nil
}

// Detailed streams what matches with its metadata, inherited ones too (findFilesByMetadataDetailed).
func (c *Catalogue) Detailed(ctx context.Context, root string, kind Kind, e query.Expr) iter.Seq2[backends.Entry, error] {
	return c.withMeta(ctx, c.Find(ctx, root, kind, e))
}
