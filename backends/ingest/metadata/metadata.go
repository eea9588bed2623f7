// Package metadata reads what is known of a file when it comes into the lake: from its name,
// from its FITS header, and from a JSON file beside it. The side file wins over the header,
// and the header over the name.
//
//	x, err := metadata.Default().Compile()
//	m, err := x.Extract("2025/02/04/"+name, f, size, func(suffix string) ([]byte, error) { return readSide(name + suffix) })
//
// A broken header never stops an ingest: what could be read is returned beside the error.
//
// Rules as YAML, added to what a telescope of one's own needs:
//
//	names:
//	  - pattern: '(?P<telescope>[A-Z]+)-(?P<start_time>\d{8})-(?P<run>\d+)\.fits'
//	    types: {start_time: time 20060102, run: int}
//	    set: {observatory: mine}
//	fits: {OBS_ID: obs_id, DATE-OBS: date_obs}
//	sides: [.json]
//
// Attributes of HDF5 files come through a hook (Extractor.WithHDF5), which H5Py is made for.
package metadata

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"tarn/backends"
)

// The bounds of rules, and of what is read by them.
const (
	maxRules = 200     // patterns, keywords, side files
	maxKey   = 128     // bytes of a key
	maxText  = 4096    // bytes of a value
	maxSide  = 1 << 20 // bytes of a side file
	maxKeys  = 1000    // of a side file
)

// Rules say where metadata is found and under which keys it goes.
type Rules struct {
	Names []Name            `yaml:"names" json:"names"` // the first that matches is taken
	FITS  map[string]string `yaml:"fits" json:"fits"`   // keyword to key
	HDF5  map[string]string `yaml:"hdf5" json:"hdf5"`   // attribute of the root to key, where there is a hook
	Sides []string          `yaml:"sides" json:"sides"` // suffixes of side files; the first that is there is taken
}

// Name is a pattern of file names.
type Name struct {
	// Pattern is a Go regexp for a whole file name, without folders; its named groups are keys.
	Pattern string `yaml:"pattern" json:"pattern"`
	// Types of the groups: string (also when it is not in here), int, float, or "time LAYOUT"
	// with a layout of Go's package time, in UTC. A group that matched nothing gives no key.
	Types map[string]string `yaml:"types" json:"types"`
	// Set has keys with a value of their own, scalars, for the files that match.
	Set map[string]any `yaml:"set" json:"set"`
}

// Attributes reads those attributes of an HDF5 file's root that have some names.
type Attributes func(f io.ReaderAt, size int64, names []string) (map[string]any, error)

// Extractor applies Rules. It does not change, and may be used from several goroutines.
type Extractor struct {
	names []name
	rules Rules
	hdf5  Attributes

	unpacked int64 // maxUnpacked, less in tests
}

type name struct {
	re    *regexp.Regexp
	types map[string]func(string) (any, error)
	set   backends.Meta
}

// Compile checks the rules, and tells of everything that is wrong with them (backends.ErrName).
func (r Rules) Compile() (*Extractor, error) {
	x := &Extractor{rules: r, unpacked: maxUnpacked}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(r.Names) > maxRules || len(r.FITS) > maxRules || len(r.HDF5) > maxRules || len(r.Sides) > maxRules {
		fault("more than %d names, keywords or side files", maxRules)
	}
	for i, n := range r.Names {
		c, err := n.compile()
		if err != nil {
			fault("names %d, %q: %w", i+1, n.Pattern, err)
			continue
		}
		x.names = append(x.names, c)
	}
	for word, key := range r.FITS {
		if !keyword(word) {
			fault("fits %q: a keyword is 1 to 8 of A-Z, 0-9, - and _", word)
		}
		if err := checkKey(key); err != nil {
			fault("fits %s: %w", word, err)
		}
	}
	for attr, key := range r.HDF5 {
		if err := checkKey(key); err != nil {
			fault("hdf5 %s: %w", attr, err)
		}
	}
	for _, s := range r.Sides {
		if s == "" || strings.ContainsAny(s, "/\x00") {
			fault("sides %q: a suffix of a file name is wanted", s)
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("metadata rules: %w: %w", backends.ErrName, errors.Join(errs...))
	}
	return x, nil
}

func (n Name) compile() (name, error) {
	c := name{types: map[string]func(string) (any, error){}, set: backends.Meta{}}
	if len(n.Pattern) > maxText {
		return c, fmt.Errorf("longer than %d bytes", maxText)
	}
	re, err := regexp.Compile(`^(?:` + n.Pattern + `)$`)
	if err != nil {
		return c, err
	}
	c.re = re
	groups := slices.DeleteFunc(slices.Clone(re.SubexpNames()), func(g string) bool { return g == "" })
	if len(groups) == 0 && len(n.Set) == 0 {
		return c, errors.New("no named group (?P<key>...), and nothing is set")
	}
	for _, g := range groups {
		if c.types[g], err = typeOf(n.Types[g]); err != nil {
			return c, fmt.Errorf("group %s: %w", g, err)
		}
	}
	for g := range n.Types {
		if !slices.Contains(groups, g) {
			return c, fmt.Errorf("a type for %q, which is no group of the pattern", g)
		}
	}
	for k, v := range n.Set {
		if err := checkKey(k); err != nil {
			return c, fmt.Errorf("set: %w", err)
		}
		if c.set[k], err = scalar(v); err != nil {
			return c, fmt.Errorf("set %s: %w", k, err)
		}
	}
	return c, nil
}

// typeOf gives the reader of a type.
func typeOf(t string) (func(string) (any, error), error) {
	word, layout, _ := strings.Cut(t, " ")
	switch {
	case t == "" || t == "string":
		return func(s string) (any, error) { return text(s) }, nil
	case t == "int":
		return func(s string) (any, error) { return integer(s) }, nil
	case t == "float":
		return func(s string) (any, error) {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil {
				return nil, err
			}
			return scalar(f)
		}, nil
	case word == "time" && layout != "":
		return func(s string) (any, error) {
			at, err := time.ParseInLocation(layout, s, time.UTC)
			if err != nil {
				return nil, err
			}
			return stamp(at)
		}, nil
	}
	return nil, fmt.Errorf("type %q: it is string, int, float or time LAYOUT", t)
}

// WithHDF5 is x with a reader for HDF5 files.
func (x *Extractor) WithHDF5(read Attributes) *Extractor {
	y := *x
	y.hdf5 = read
	return &y
}

// Sides are the suffixes of the side files, which stand beside a file and are not data.
func (x *Extractor) Sides() []string { return slices.Clone(x.rules.Sides) }

// Extract reads the metadata of a file: path is where it lies, of which the last name counts,
// f its content (nil: not looked at), and side gives the bytes of the file that has the name of this one
// and a suffix (nil: there is none), or backends.ErrNotExist.
//
// What could be read is returned with an error too. Of the file nothing is read but headers.
func (x *Extractor) Extract(file string, f io.ReaderAt, size int64, side func(suffix string) ([]byte, error)) (backends.Meta, error) {
	m := backends.Meta{}
	var errs []error
	take := func(from string, part backends.Meta, err error) {
		for k, v := range part {
			if v == nil {
				delete(m, k)
			} else {
				m[k] = v
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("metadata of %q from its %s: %w", file, from, err))
		}
	}
	part, err := x.fromName(path.Base(file))
	take("name", part, err)
	if f != nil {
		part, err = x.fromContent(f, size)
		take("header", part, err)
	}
	if side != nil {
		part, err = x.fromSide(side)
		take("side file", part, err)
	}
	return m, errors.Join(errs...)
}

// fromName applies the first pattern that matches.
func (x *Extractor) fromName(base string) (backends.Meta, error) {
	for _, n := range x.names {
		match := n.re.FindStringSubmatch(base)
		if match == nil {
			continue
		}
		m := n.set.Clone()
		var errs []error
		for i, group := range n.re.SubexpNames() {
			if group == "" || match[i] == "" {
				continue
			}
			v, err := n.types[group](match[i])
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", group, err))
				continue
			}
			m[group] = v
		}
		return m, errors.Join(errs...)
	}
	return nil, nil
}

// checkKey wants what a catalogue and the query language can name.
func checkKey(k string) error {
	if k == "" || len(k) > maxKey || !utf8.ValidString(k) || strings.ContainsFunc(k, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("key %q: it is 1 to %d bytes of printable text", k, maxKey)
	}
	return nil
}

// scalar gives a value as one of Meta.
func scalar(v any) (any, error) {
	switch v := v.(type) {
	case string:
		return text(v)
	case bool:
		return v, nil
	case int:
		return json.Number(strconv.Itoa(v)), nil
	case int64:
		return json.Number(strconv.FormatInt(v, 10)), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, errors.New("the number is not finite")
		}
		return v, nil
	case json.Number:
		if f, err := v.Float64(); err != nil || math.IsInf(f, 0) {
			return nil, errors.New("the number is out of range")
		}
		return v, nil
	case time.Time:
		return stamp(v)
	}
	return nil, fmt.Errorf("it is no text, number, truth or time (%T)", v)
}

func text(s string) (any, error) {
	if len(s) > maxText {
		return nil, fmt.Errorf("the text has more than %d bytes", maxText)
	}
	return strings.ToValidUTF8(s, "\uFFFD"), nil
}

// integer keeps all digits, of which a float64 has 15.
func integer(s string) (any, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil, err
	}
	return json.Number(strconv.FormatInt(n, 10)), nil
}

// stamp is a time as Meta has it.
func stamp(t time.Time) (any, error) {
	if y := t.UTC().Year(); y < 0 || y > 9999 {
		return nil, errors.New("the year has more than four digits")
	}
	return t.UTC().Format(time.RFC3339Nano), nil
}
