package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"tarn/backends"
)

// LocalFile is the file beside the lake file that overrides it: lake.local.yaml.
func (c *Config) LocalFile() string { return localFile(c.file) }

func localFile(file string) string {
	ext := filepath.Ext(file)
	return strings.TrimSuffix(file, ext) + ".local" + ext
}

// rseKeys are the keys of an RSE that SetRSE sets; all other keys are attributes.
var rseKeys = []string{"read_only", "high", "low", "grace", "scratch", "shared", "drain", "drain_to"}

// IsRSEKey tells whether SetRSE takes the key for one of the lake file, and not for an attribute.
func IsRSEKey(key string) bool { return slices.Contains(rseKeys, key) }

// SetRSE writes settings of an RSE into the local file, whose comments and other contents stay, and gives the lake as
// its files describe it then. An empty value takes what the local file says away, so that the lake file's counts
// again. What would make a fault is not written. ErrNotExist when there is no such RSE.
func (c *Config) SetRSE(name string, set map[string]string) (*Config, error) {
	if c.file == "" {
		return nil, errors.New("set RSE: the lake has no file")
	}
	if !c.IsRucio() && !slices.ContainsFunc(c.RSEs, func(r RSE) bool { return r.Name == name }) {
		return nil, fmt.Errorf("set RSE %s: %w", name, backends.ErrNotExist)
	}
	main, err := os.ReadFile(c.file)
	if err != nil {
		return nil, fmt.Errorf("set RSE %s: %w", name, err)
	}
	local := c.LocalFile()
	old, err := os.ReadFile(local)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("set RSE %s: %w", name, err)
	}
	text, err := editRSE(old, name, set)
	if err != nil {
		return nil, fmt.Errorf("set RSE %s: %s: %w", name, local, err)
	}
	now, err := parse(c.file, []document{{filepath.Base(c.file), main}, {filepath.Base(local), text}}, c.settings, nil)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(old, text) {
		return now, nil
	}
	if err := replaceFile(local, text); err != nil {
		return nil, fmt.Errorf("set RSE %s: %w", name, err)
	}
	return now, nil
}

// replaceFile writes a file whole or not at all.
func replaceFile(name string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".tarn-local-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	mode := os.FileMode(0o644)
	if st, serr := os.Stat(name); serr == nil {
		mode = st.Mode().Perm()
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// editRSE sets keys of one item of rses in the text of a local file.
func editRSE(text []byte, name string, set map[string]string) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if doc.Kind == 0 {
		doc = yaml.Node{Kind: yaml.DocumentNode, HeadComment: strings.TrimSpace(string(text))} // nothing but comments
	}
	if len(doc.Content) == 0 {
		doc.Content = []*yaml.Node{{Kind: yaml.MappingNode, Tag: "!!map"}}
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		*root = yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", HeadComment: root.HeadComment, FootComment: root.FootComment}
	}
	if root.Kind != yaml.MappingNode {
		return nil, errors.New("want keys and values")
	}
	rses := child(root, "rses", yaml.SequenceNode)
	if rses.Kind != yaml.SequenceNode {
		return nil, errors.New("rses: want a list")
	}
	var item *yaml.Node
	for _, n := range rses.Content {
		if nameOf(n) == name {
			item = n
		}
	}
	if item == nil {
		item = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		put(item, "name", name)
		rses.Content = append(rses.Content, item)
	}
	for _, k := range sortedKeys(set) {
		v := set[k]
		into := item
		if !IsRSEKey(k) {
			into = child(item, "attributes", yaml.MappingNode)
			if into.Kind != yaml.MappingNode {
				return nil, errors.New("attributes: want keys and values")
			}
		}
		if v == "" {
			drop(into, k)
		} else {
			put(into, k, v)
		}
	}
	if a := keyIndex(item, "attributes"); a >= 0 && len(item.Content[a+1].Content) == 0 {
		drop(item, "attributes")
	}
	if len(item.Content) == 2 { // its name alone
		rses.Content = slices.DeleteFunc(rses.Content, func(n *yaml.Node) bool { return n == item })
	}
	if len(rses.Content) == 0 {
		drop(root, "rses")
	}
	if len(root.Content) == 0 { // an empty mapping would be written as {}
		return []byte(strings.TrimSpace(strings.Join([]string{doc.HeadComment, root.HeadComment, root.FootComment, doc.FootComment}, "\n")) + "\n"), nil
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(&doc), enc.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func sortedKeys(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// child gives the value of a key, which is made when it is not there.
func child(n *yaml.Node, key string, kind yaml.Kind) *yaml.Node {
	if i := keyIndex(n, key); i >= 0 {
		c := n.Content[i+1]
		if c.Kind == yaml.ScalarNode && c.Tag == "!!null" {
			*c = yaml.Node{Kind: kind}
		}
		return c
	}
	c := &yaml.Node{Kind: kind}
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, c)
	return c
}

// put sets a key to a single value. What looks like a word that YAML has a meaning for is written so that it is read
// as the text that it is where a text is wanted.
func put(n *yaml.Node, key, value string) {
	v := &yaml.Node{Kind: yaml.ScalarNode, Value: value}
	if !IsRSEKey(key) {
		v.SetString(value)
	}
	if i := keyIndex(n, key); i >= 0 {
		v.LineComment = n.Content[i+1].LineComment
		n.Content[i+1] = v
		return
	}
	k := &yaml.Node{}
	k.SetString(key)
	n.Content = append(n.Content, k, v)
}

func drop(n *yaml.Node, key string) {
	if i := keyIndex(n, key); i >= 0 {
		n.Content = slices.Delete(n.Content, i, i+2)
	}
}
