package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// source is the merged text of a Config: it knows from which file and line each value
// came, so that a fault found late still names them.
type source struct {
	shape reflect.Type // of what the text describes: Config, Grid
	root  *yaml.Node
	name  map[*yaml.Node]string // of the document a node came from
	skip  map[*yaml.Node]bool   // nodes with a fault, left out of a decode that goes on to find more
}

// merge lays n over what is there: mappings key by key, lists of named things by their
// name, all else replaced.
func (s *source) merge(n *yaml.Node, name string) {
	if n == nil {
		return
	}
	s.mark(n, name)
	s.root = s.over(s.root, n)
}

func (s *source) mark(n *yaml.Node, name string) {
	s.name[n] = name
	for _, c := range n.Content {
		s.mark(c, name)
	}
}

func (s *source) over(old, n *yaml.Node) *yaml.Node {
	switch {
	case old == nil || old.Kind != n.Kind:
		return n
	case n.Kind == yaml.MappingNode:
		out := *old
		out.Content = append([]*yaml.Node(nil), old.Content...)
		s.name[&out] = s.name[old]
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			if j := keyIndex(&out, k.Value); j >= 0 {
				out.Content[j+1] = s.over(out.Content[j+1], v)
			} else {
				out.Content = append(out.Content, k, v)
			}
		}
		return &out
	case n.Kind == yaml.SequenceNode && allNamed(old) && allNamed(n):
		out := *old
		out.Content = append([]*yaml.Node(nil), old.Content...)
		s.name[&out] = s.name[old]
		for _, item := range n.Content {
			j := -1
			for k, o := range out.Content {
				if nameOf(o) == nameOf(item) {
					j = k
				}
			}
			if j >= 0 {
				out.Content[j] = s.over(out.Content[j], item)
			} else {
				out.Content = append(out.Content, item)
			}
		}
		return &out
	}
	return n
}

func allNamed(n *yaml.Node) bool {
	for _, c := range n.Content {
		if nameOf(c) == "" {
			return false
		}
	}
	return len(n.Content) > 0
}

func nameOf(n *yaml.Node) string {
	if n.Kind == yaml.MappingNode {
		if i := keyIndex(n, "name"); i >= 0 {
			return n.Content[i+1].Value
		}
	}
	return ""
}

func keyIndex(n *yaml.Node, key string) int {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return i
		}
	}
	return -1
}

// at finds the node of a path like rses[1].name, or the nearest one above it.
func (s *source) at(path string) (name string, line int) {
	if s == nil || s.root == nil {
		return "", 0
	}
	n := s.root
	name, line = s.name[n], 0
	for _, p := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		var next *yaml.Node
		if i, err := strconv.Atoi(p); err == nil && n.Kind == yaml.SequenceNode && i < len(n.Content) {
			next = n.Content[i]
		} else if n.Kind == yaml.MappingNode {
			if i := keyIndex(n, p); i >= 0 {
				next = n.Content[i+1]
			}
		}
		if next == nil {
			break
		}
		n = next
		name, line = s.name[n], n.Line
	}
	return name, line
}

var unmarshaler = reflect.TypeOf((*yaml.Unmarshaler)(nil)).Elem()

// check compares one document with the shape and reports all that does not
// fit: unknown and doubled keys, wrong types, values that do not parse.
func (s *source) check(bad *Error, n *yaml.Node, name string) {
	if n != nil {
		s.fits(bad, name, n, s.shape, "")
	}
}

func (s *source) fits(bad *Error, name string, n *yaml.Node, t reflect.Type, path string) {
	fault := func(n *yaml.Node, path, format string, args ...any) {
		s.skip[n] = true
		bad.add(name, n.Line, path, fmt.Sprintf(format, args...))
	}
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[yaml.Node]() { // keys of a lake file, for later
		t = reflect.TypeFor[Config]()
	}
	if reflect.PointerTo(t).Implements(unmarshaler) {
		if n.Kind != yaml.ScalarNode {
			fault(n, path, "want one value, not a %s", kindWord(n))
		} else if err := n.Decode(reflect.New(t).Interface()); err != nil {
			fault(n, path, "%v", err)
		}
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		if n.Kind != yaml.MappingNode {
			fault(n, path, "want keys and values, not a %s", kindWord(n))
			return
		}
		fields := map[string]reflect.Type{}
		var names []string
		for _, f := range keyed(t) {
			fields[yamlKey(f)] = f.Type
			names = append(names, yamlKey(f))
		}
		seen := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			sub := join(path, k.Value)
			if first, ok := seen[k.Value]; ok {
				s.skip[k] = true
				fault(v, sub, "given twice, first in line %d", first)
				bad.Faults[len(bad.Faults)-1].Line = k.Line
				continue
			}
			seen[k.Value] = k.Line
			ft, ok := fields[k.Value]
			if !ok {
				s.skip[v] = true
				fault(k, sub, "unknown key%s", suggest(k.Value, names))
				continue
			}
			s.fits(bad, name, v, ft, sub)
		}
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			fault(n, path, "want a list, not a %s", kindWord(n))
			return
		}
		for i, c := range n.Content {
			s.fits(bad, name, c, t.Elem(), fmt.Sprintf("%s[%d]", path, i))
		}
	case reflect.Map:
		if n.Kind != yaml.MappingNode {
			fault(n, path, "want keys and values, not a %s", kindWord(n))
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			s.fits(bad, name, n.Content[i+1], t.Elem(), join(path, n.Content[i].Value))
		}
	case reflect.Interface:
		if n.Kind != yaml.ScalarNode {
			fault(n, path, "want one value, not a %s", kindWord(n))
		}
	default:
		if n.Kind != yaml.ScalarNode {
			fault(n, path, "want %s, not a %s", typeWord(t), kindWord(n))
		} else if whole := t.Kind() != reflect.String && t.Kind() != reflect.Bool; whole && n.ShortTag() != "!!int" || n.Decode(reflect.New(t).Interface()) != nil {
			// The decoder itself would cut 0.5 to 0.
			fault(n, path, "want %s, not %q", typeWord(t), n.Value)
		}
	}
}

// decodeGood decodes what has no fault, so that the rest can still be validated.
func (c *Config) decodeGood() {
	if c.src.root == nil {
		return
	}
	var prune func(n *yaml.Node) *yaml.Node
	prune = func(n *yaml.Node) *yaml.Node {
		if c.src.skip[n] {
			return nil
		}
		out := *n
		out.Content = nil
		for i := 0; i < len(n.Content); i++ {
			if n.Kind == yaml.MappingNode {
				k, v := n.Content[i], n.Content[i+1]
				i++
				if kept := prune(v); kept != nil && !c.src.skip[k] {
					out.Content = append(out.Content, k, kept)
				}
				continue
			}
			kept := prune(n.Content[i])
			if kept == nil {
				// Keeps the numbers of the items after it.
				kept = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
			}
			out.Content = append(out.Content, kept)
		}
		return &out
	}
	if root := prune(c.src.root); root != nil {
		// A document that is odd in a way that check does not know is refused anyway.
		_ = root.Decode(c)
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// keyed lists the fields of t that have a key, those of inlined structs among them.
func keyed(t reflect.Type) (out []reflect.StructField) {
	for _, f := range reflect.VisibleFields(t) {
		if yamlKey(f) != "" {
			out = append(out, f)
		}
	}
	return out
}

func yamlKey(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key
}

// scalarKeys calls f with the dotted key of every single value that is not in a list.
func scalarKeys(t reflect.Type, path string, f func(string)) {
	for _, field := range keyed(t) {
		key, ft := yamlKey(field), field.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		switch {
		case ft.Kind() == reflect.Struct:
			scalarKeys(ft, join(path, key), f)
		case ft.Kind() != reflect.Slice && ft.Kind() != reflect.Map:
			f(join(path, key))
		}
	}
}

func kindWord(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "list"
	case yaml.MappingNode:
		return "group of keys"
	}
	return "single value"
}

func typeWord(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Uint32:
		return "a whole number from 0"
	}
	return "a text"
}

// suggest gives `; did you mean "x"?` for a near miss, else the keys there are.
func suggest(got string, known []string) string {
	best, dist := "", 3
	for _, k := range known {
		if d := Distance(got, k); d < dist {
			best, dist = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; known here: " + strings.Join(known, ", ")
}

// Distance is Levenshtein's: how many letters have to be added, taken away or changed to
// make b of a.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diag, row[j] = row[j], min(row[j]+1, row[j-1]+1, diag+cost)
		}
	}
	return row[len(b)]
}
