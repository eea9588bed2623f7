package config

import (
	"fmt"
	"reflect"
	"time"

	"tarn/backends/ingest/metadata"
	"tarn/backends/naming"
)

// MarshalYAML writes s as ParseSize reads it; so do the others.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

// MarshalYAML writes r as ParseRate reads it.
func (r Rate) MarshalYAML() (any, error) { return r.String(), nil }

// MarshalYAML writes d as ParseDuration reads it.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

// MarshalYAML writes s as ParseSpeed reads it.
func (s Speed) MarshalYAML() (any, error) { return s.String(), nil }

// MarshalYAML writes m as ParseMode reads it.
func (m Mode) MarshalYAML() (any, error) { return m.String(), nil }

// Key is one key of a lake file.
type Key struct {
	Name    string `json:"key"`
	Default string `json:"default"`
}

// Keys lists every key that a lake file can have; [] stands for the items of a list.
func Keys() []Key {
	var out []Key
	listKeys(reflect.ValueOf(*Default("")), "", &out)
	return out
}

// items are examples of what stands in lists, with the defaults that they get.
var items = map[reflect.Type]any{
	reflect.TypeFor[RSE]():        RSE{Kind: Disk, Naming: naming.Unique, Grace: Duration(time.Hour), Tape: ptr(DefaultTape())},
	reflect.TypeFor[Protocol]():   Protocol{Read: ptr(1), Write: ptr(1), Delete: ptr(1), LAN: &Domain{}, WAN: &Domain{}},
	reflect.TypeFor[Scope]():      Scope{Layout: "lfn", Mode: 0o755},
	reflect.TypeFor[WriteRule]():  WriteRule{Copies: 1},
	reflect.TypeFor[PolicyRule](): PolicyRule{},
	reflect.TypeFor[Metadata]():   Metadata{},

	reflect.TypeFor[metadata.Name](): metadata.Name{},
	reflect.TypeFor[Activity]():      Activity{Share: 1},
	reflect.TypeFor[Link]():          Link{},
}

func ptr[T any](v T) *T { return &v }

func listKeys(v reflect.Value, path string, out *[]Key) {
	for _, field := range keyed(v.Type()) {
		name, f := join(path, yamlKey(field)), v.FieldByIndex(field.Index)
		if f.Kind() == reflect.Pointer {
			if f.IsNil() {
				*out = append(*out, Key{name, ""})
				continue
			}
			f = f.Elem()
		}
		switch {
		case f.Kind() == reflect.Struct:
			listKeys(f, name, out)
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			listKeys(reflect.ValueOf(items[f.Type().Elem()]), name+"[]", out)
		default:
			d := ""
			if !f.IsZero() || f.Kind() == reflect.Bool || f.Type() == reflect.TypeFor[Size]() || f.Type() == reflect.TypeFor[Duration]() {
				d = fmt.Sprint(f.Interface())
			}
			*out = append(*out, Key{name, d})
		}
	}
}

var _ fmt.Stringer = Duration(time.Second)
