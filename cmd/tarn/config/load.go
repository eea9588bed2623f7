package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"tarn/backends/naming"
)

// Setting is one value from outside the file: From says where it comes from ("--set",
// "TARN_CACHE_LIMIT"), Key is dotted (cache.limit).
type Setting struct{ From, Key, Value string }

// Load reads the lake file, what lake.local.yaml beside it overrides, and the
// settings, later ones first in rank. The error is *Error and holds every fault of the
// whole configuration, or that of reading the file.
func Load(file string, settings ...Setting) (*Config, error) { return load(file, nil, settings) }

// load is Load with more to judge.
func load(file string, more func(judge), settings []Setting) (*Config, error) {
	docs, abs, err := readDocuments(file)
	if err != nil {
		return nil, err
	}
	if listsLakes(docs[0].text) {
		return nil, fmt.Errorf("%s is the file of %w", abs, ErrSeveral)
	}
	return parse(abs, docs, settings, more)
}

// readDocuments reads a file, and what overrides it beside it.
func readDocuments(file string) (docs []document, abs string, err error) {
	if abs, err = filepath.Abs(file); err != nil {
		return nil, "", fmt.Errorf("load lake file: %w", err)
	}
	b, err := os.ReadFile(abs)
	if err != nil {
		return nil, "", fmt.Errorf("load lake file: %w", err)
	}
	docs = []document{{name: filepath.Base(abs), text: b}}
	local := localFile(abs)
	switch b, err := os.ReadFile(local); {
	case err == nil:
		docs = append(docs, document{name: filepath.Base(local), text: b})
	case !errors.Is(err, os.ErrNotExist):
		return nil, "", fmt.Errorf("load lake file: %w", err)
	}
	return docs, abs, nil
}

// Parse is Load of a text that stands for the file at the absolute path file.
func Parse(file string, text []byte, settings ...Setting) (*Config, error) {
	return parse(file, []document{{name: filepath.Base(file), text: text}}, settings, nil)
}

type document struct {
	name string
	text []byte
}

func parse(file string, docs []document, settings []Setting, more func(judge)) (*Config, error) {
	bad := &Error{File: file}
	src := mergeDocuments(bad, docs, reflect.TypeFor[Config]())
	for _, s := range settings {
		root := settingNode(s)
		src.merge(root, s.From)
		src.check(bad, root, s.From)
	}
	if bad.unreadable() {
		return nil, bad
	}
	c := Default(baseOf(file))
	c.file, c.src, c.settings = file, src, settings
	if src.root != nil && len(bad.Faults) == 0 {
		// Everything was checked leaf by leaf, so an error here is a fault of this package.
		if err := src.root.Decode(c); err != nil {
			return nil, fmt.Errorf("decode %s: %w", file, err)
		}
	}
	if len(bad.Faults) > 0 {
		c.decodeGood()
	}
	c.complete()
	c.validate(bad)
	if more != nil {
		more(judge{c, bad})
	}
	if len(bad.Faults) > 0 {
		bad.sort()
		return nil, bad
	}
	return c, nil
}

// mergeDocuments reads documents, later ones over earlier ones, and compares them with the shape of what they are to be.
func mergeDocuments(bad *Error, docs []document, shape reflect.Type) *source {
	src := &source{name: map[*yaml.Node]string{}, shape: shape, skip: map[*yaml.Node]bool{}}
	for _, d := range docs {
		root, err := readDocument(d.text)
		if err != nil {
			bad.add(d.name, 0, "", err.Error())
			continue
		}
		src.merge(root, d.name)
		src.check(bad, root, d.name)
	}
	return src
}

// baseOf is the folder, from that of the file, of what a lake file names and gives no place.
func baseOf(file string) string {
	base := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	if base == "lake" {
		return ""
	}
	return base
}

// readDocument gives the top mapping, or nil for an empty file.
func readDocument(text []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	if err := dec.Decode(&doc); err == io.EOF {
		return nil, nil
	} else if err != nil {
		what := strings.TrimPrefix(err.Error(), "yaml: ")
		if strings.Contains(what, "cannot start any token") && bytes.Contains(text, []byte("\t")) {
			what += ": indent with blanks, not with tabs"
		}
		return nil, errors.New(what)
	}
	if err := dec.Decode(new(yaml.Node)); err != io.EOF {
		return nil, errors.New("one document only: nothing may follow a line of ---")
	}
	return doc.Content[0], nil
}

func settingNode(s Setting) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: s.Value}
	// Lists and maps can be given in YAML's flow form: --set 'checksums=[md5]'. All else is
	// meant as it stands: a folder may be called "a: b", "- c" or "d #1".
	if root, err := readDocument([]byte(s.Value)); err == nil && root != nil {
		if root.Style&(yaml.FlowStyle|yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
			n = root
		}
	}
	noLines(n)
	keys := strings.Split(s.Key, ".")
	for i := len(keys) - 1; i >= 0; i-- {
		n = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{
			{Kind: yaml.ScalarNode, Tag: "!!str", Value: keys[i]}, n}}
	}
	return n
}

// noLines takes away line numbers, which a setting has none of.
func noLines(n *yaml.Node) {
	n.Line = 0
	for _, c := range n.Content {
		noLines(c)
	}
}

// Environment gives the settings of environ (as os.Environ) that name a key of the
// lake file: TARN_ and the dotted key in capitals, dots as underscores.
func Environment(environ []string) []Setting {
	keys := map[string]string{}
	scalarKeys(reflect.TypeOf(Config{}), "", func(key string) {
		keys["TARN_"+strings.ToUpper(strings.ReplaceAll(key, ".", "_"))] = key
	})
	var out []Setting
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if key, ok := keys[name]; ok {
			out = append(out, Setting{From: name, Key: key, Value: value})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].From < out[j].From })
	return out
}

// absolute makes a path of a lake file in dir absolute; "" stays.
func absolute(p, dir string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return filepath.Join(dir, p)
}

// nameOfFile is the name of a lake that has none in its file.
func nameOfFile(file string) string {
	name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	if name == "lake" {
		return filepath.Base(filepath.Dir(file))
	}
	return name
}

// complete fills what is empty and makes paths absolute.
func (c *Config) complete() {
	dir := filepath.Dir(c.file)
	abs := func(p *string) { *p = absolute(*p, dir) }
	if c.Name == "" {
		c.Name = nameOfFile(c.file)
	}
	for _, p := range []*string{&c.Run, &c.Catalogue.Path, &c.Cache.Path, &c.Journal.Path, &c.Ingest.Path, &c.Log.File} {
		abs(p)
	}
	if c.IsRucio() && slices.Equal(c.Checksums, Default("").Checksums) {
		c.Checksums = []string{"adler32", "md5"} // what Rucio keeps
	}
	for _, p := range c.Catalogue.files() {
		abs(p)
	}
	for i := range c.RSEs {
		r := &c.RSEs[i]
		abs(&r.Path)
		for k := range r.Protocols {
			for _, p := range []*string{&r.Protocols[k].Keys, &r.Protocols[k].Proxy, &r.Protocols[k].Token} {
				abs(p)
			}
		}
		r.Kind = strings.ToLower(r.Kind)
		if r.Kind == "" {
			r.Kind = Disk
		}
		if r.High > 0 && r.Low == 0 {
			r.Low = r.High / 10 * 9
		}
		if r.Grace == 0 {
			r.Grace = Duration(time.Hour)
		}
		if r.Naming == "" {
			r.Naming = naming.Unique
		}
		if r.Tape != nil {
			r.Tape.fill()
		}
	}
	for i := range c.Scopes {
		s := &c.Scopes[i]
		if s.Layout == "" {
			s.Layout = "lfn"
		}
		if s.Mode == 0 {
			s.Mode = 0o755
		}
	}
	for i := range c.WriteRules {
		if c.WriteRules[i].Copies == 0 {
			c.WriteRules[i].Copies = 1
		}
	}
}

// fill takes what is zero from DefaultTape.
func (t *Tape) fill() {
	v, d := reflect.ValueOf(t).Elem(), reflect.ValueOf(DefaultTape())
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			v.Field(i).Set(d.Field(i))
		}
	}
}
