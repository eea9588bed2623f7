package filecat

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/query"
)

// Kind is what a field is declared for.
type Kind string

// The kinds, DIRAC's -d and -f.
const (
	Directory Kind = "directory"
	File      Kind = "file"
)

// Field is a declared metadata field.
type Field struct {
	Name    string     `json:"name"`
	Type    query.Type `json:"type"`
	For     Kind       `json:"for"`
	Created time.Time  `json:"created,omitzero"`
}

// maxFields bounds the registry, which every query reads.
const maxFields = 10_000

// Schema is the registry at one moment: fields by name.
type Schema map[string]Field

// Schema reads the registry.
func (c *Catalogue) Schema(ctx context.Context) (Schema, error) {
	s := Schema{}
	for name, read := range records[Field](ctx, c, tableField, "") {
		var f Field
		if err := read(&f); err != nil {
			return nil, fmt.Errorf("metadata fields: %w", err)
		}
		s[name] = f
	}
	return s, nil
}

// Fields lists the registry by name.
func (s Schema) Fields() []Field {
	out := make([]Field, 0, len(s))
	for _, f := range s {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// standardNames are DIRAC's beside those of backends.Builtin.
var standardNames = []string{"User", "Group", "LastAccessDate"}

// AddField declares a field (addMetadataField). One that is declared so already is success, one that is declared
// otherwise ErrExist. ErrName for a name that stands for something else. Values that are set already stay as they are.
func (c *Catalogue) AddField(ctx context.Context, f Field) error {
	if err := checkField(f); err != nil {
		return fmt.Errorf("add metadata field: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.Schema(ctx)
	if err != nil {
		return err
	}
	if have, ok := s[f.Name]; ok {
		if have.Type == f.Type && have.For == f.For {
			return nil
		}
		return fmt.Errorf("metadata field %s is declared as %s of a %s: %w", f.Name, have.Type, have.For, backends.ErrExist)
	}
	if len(s) >= maxFields {
		return fmt.Errorf("%d metadata fields are declared: %w", len(s), backends.ErrQuota)
	}
	f.Created = c.o.Now().UTC()
	return c.put(ctx, tableField, f.Name, f)
}

func checkField(f Field) error {
	switch {
	case f.Name == "" || len(f.Name) > 255 || strings.HasPrefix(f.Name, "tarn."):
		return fmt.Errorf("%q: want a name of at most 255 bytes that does not begin with \"tarn.\": %w", f.Name, backends.ErrName)
	case backends.Builtin(f.Name) || slices.Contains(standardNames, f.Name):
		return fmt.Errorf("%s is one of the names that every file has: %w", f.Name, backends.ErrName)
	case f.For != Directory && f.For != File:
		return fmt.Errorf("%q: want file or directory: %w", f.For, backends.ErrNotSupported)
	}
	if _, err := query.ParseType(string(f.Type)); err != nil {
		return fmt.Errorf("%w: %w", err, backends.ErrNotSupported)
	}
	return nil
}

// RemoveField takes a declaration back (deleteMetadataField); the values stay. ErrNotExist.
func (c *Catalogue) RemoveField(ctx context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.get(ctx, tableField, name, &Field{}); err != nil {
		return fmt.Errorf("remove metadata field %s: %w", name, err)
	}
	return c.put(ctx, tableField, name, nil)
}

// Values gives metadata with each value in the form that its field has: whole numbers and numbers as such, also when they
// are given as text, dates as RFC 3339 in UTC, text as text. A *query.TypeError for a value that is none of its field;
// what is not declared stays as it is, and so does nil, which deletes.
func (s Schema) Values(m backends.Meta) (backends.Meta, error) {
	out := make(backends.Meta, len(m))
	for k, v := range m {
		f, ok := s[k]
		if !ok || v == nil {
			out[k] = v
			continue
		}
		var err error
		if out[k], err = f.value(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// value is v in the form of the field; a list keeps its elements, each in that form.
func (f Field) value(v any) (any, error) {
	if list, ok := v.([]any); ok {
		out := make([]any, len(list))
		for i, x := range list {
			var err error
			if out[i], err = f.value(x); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	text := textOf(v)
	switch v.(type) {
	case nil, map[string]any:
		return nil, &query.TypeError{Key: f.Name, Value: text, Type: f.Type}
	}
	if err := f.Type.Check(f.Name, text); err != nil {
		return nil, err
	}
	switch f.Type {
	case query.Int:
		n, err := strconv.ParseInt(text, 10, 64)
		return json.Number(strconv.FormatInt(n, 10)), err
	case query.Float:
		x, err := strconv.ParseFloat(text, 64)
		return x, err
	case query.Date:
		if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return t.UTC().Format(time.RFC3339Nano), nil
		}
		return text, nil // a day or month is that whole span
	}
	return text, nil
}

// textOf is how a value is written.
func textOf(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case nil:
		return ""
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
