package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrSeveral says that a file lists several lakes where one was asked for.
var ErrSeveral = errors.New("several lakes")

// Grid is a file that lists several lakes, which are shown side by side in one mount:
//
//	name: grid
//	lakes:
//	  - {name: ESCAPE, rucio: "https://escape.example.org", account: ada, set: {cache: {limit: 20G}}}
//	  - {name: CTAO, lake: /srv/ctao}
//
// What stands in NAME.local.yaml beside it overrides it. Relative paths are meant from its folder.
type Grid struct {
	Name  string    `yaml:"name"`
	Run   string    `yaml:"run"`           // folder of the log, and of what is on record of the processes
	Set   yaml.Node `yaml:"set,omitempty"` // keys of lake files, for all lakes
	Lakes []Member  `yaml:"lakes"`

	file string
	src  *source
}

// Member is one lake of a Grid: one that has a lake file, or the user's account at a Rucio server.
type Member struct {
	Name    string    `yaml:"name"`              // of its directory
	Lake    string    `yaml:"lake,omitempty"`    // its folder or file
	Rucio   string    `yaml:"rucio,omitempty"`   // the server's URL
	Account string    `yaml:"account,omitempty"` // with Rucio; default: that of the user's rucio.cfg and environment
	Set     yaml.Node `yaml:"set,omitempty"`     // keys of lake files, for this one
}

// ListsLakes tells whether the file is a Grid's and not that of one lake. A file that cannot be read as either is none.
func ListsLakes(file string) (bool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return false, fmt.Errorf("load lake file: %w", err)
	}
	return listsLakes(b), nil
}

func listsLakes(text []byte) bool {
	root, err := readDocument(text)
	return err == nil && root != nil && root.Kind == yaml.MappingNode && keyIndex(root, "lakes") >= 0
}

// LoadGrid reads a Grid. The error is *Error and holds every fault of the file, or that of reading it. The lakes' own
// files are not looked at.
func LoadGrid(file string) (*Grid, error) {
	docs, abs, err := readDocuments(file)
	if err != nil {
		return nil, err
	}
	bad := &Error{File: abs}
	src := mergeDocuments(bad, docs, reflect.TypeFor[Grid]())
	base := Default(baseOf(abs))
	g := &Grid{Run: base.Run, file: abs, src: src}
	if src.root != nil && len(bad.Faults) == 0 {
		if err := src.root.Decode(g); err != nil {
			return nil, fmt.Errorf("decode %s: %w", abs, err)
		}
		g.complete()
		g.validate(bad)
	}
	if len(bad.Faults) > 0 {
		bad.sort()
		return nil, bad
	}
	return g, nil
}

// File is the absolute path of the file.
func (g *Grid) File() string { return g.file }

// complete fills what is empty and makes paths absolute.
func (g *Grid) complete() {
	if g.Name == "" {
		g.Name = nameOfFile(g.file)
	}
	abs := func(p *string) { *p = absolute(*p, filepath.Dir(g.file)) }
	abs(&g.Run)
	for i := range g.Lakes {
		abs(&g.Lakes[i].Lake)
	}
}

func (g *Grid) validate(bad *Error) {
	fault := func(key, format string, args ...any) {
		name, line := g.src.at(key)
		bad.add(name, line, key, fmt.Sprintf(format, args...))
	}
	if !nameForm.MatchString(g.Name) {
		fault("name", "want 1 to 63 letters, digits, '.', '-', '_', not %q", g.Name)
	}
	if len(g.Lakes) == 0 {
		fault("lakes", "want at least one lake, such as {name: CTAO, lake: /srv/ctao}")
	}
	own := func(key string, set *yaml.Node) { // what all commands must see, who know nothing of this file
		for _, s := range flatten(nil, set, "", "") {
			if s.Key == "run" {
				fault(key+".run", "is where the commands look for the lake's processes: want it in the lake's own file")
			}
		}
	}
	own("set", &g.Set)
	first := map[string]int{}
	for i, m := range g.Lakes {
		key := fmt.Sprintf("lakes[%d]", i)
		own(key+".set", &g.Lakes[i].Set)
		if !nameForm.MatchString(m.Name) {
			fault(key+".name", "is a directory of the mount: want 1 to 63 letters, digits, '.', '-', '_', not %q", m.Name)
		} else if k, twice := first[m.Name]; twice {
			_, line := g.src.at(fmt.Sprintf("lakes[%d].name", k))
			fault(key+".name", "duplicate lake %q%s", m.Name, firstAt(line))
		} else {
			first[m.Name] = i
		}
		switch {
		case m.Lake == "" && m.Rucio == "":
			fault(key, "want lake (a lake's folder or file) or rucio (the URL of a Rucio server)")
		case m.Lake != "" && m.Rucio != "":
			fault(key+".rucio", "a lake that has a file has its server there: want lake or rucio, not both")
		case m.Lake != "" && m.Account != "":
			fault(key+".account", "goes with rucio; the lake file of %s has its own", m.Lake)
		}
		if what := serverFault(m.Rucio); what != "" {
			fault(key+".rucio", "%s", what)
		}
	}
}

// Settings are what the file says of a lake's keys: for all lakes, then for this one, which counts.
func (g *Grid) Settings(i int) []Setting {
	from := filepath.Base(g.file)
	out := flatten(nil, g.absolute(&g.Set, ""), from+": set", "")
	return flatten(out, g.absolute(&g.Lakes[i].Set, ""), fmt.Sprintf("%s: lakes[%d].set", from, i), "")
}

// pathKeys are the keys of lake files whose values are files and folders, without the numbers of lists.
var pathKeys = []string{
	"run", "catalogue.path", "cache.path", "journal.path", "ingest.path", "log.file",
	"catalogue.client_config", "catalogue.password", "catalogue.cert", "catalogue.key", "catalogue.proxy", "catalogue.token", "catalogue.ca",
	"rses.path", "rses.protocols.keys", "rses.protocols.proxy", "rses.protocols.token",
}

// absolute gives a copy of keys and values in which the paths are meant from the folder of the file: who reads them knows that of the lake's own.
func (g *Grid) absolute(n *yaml.Node, path string) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	out := *n
	out.Content = slices.Clone(n.Content)
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" && slices.Contains(pathKeys, path):
		out.Value = absolute(n.Value, filepath.Dir(g.file))
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			out.Content[i+1] = g.absolute(n.Content[i+1], join(path, n.Content[i].Value))
		}
	case n.Kind == yaml.SequenceNode:
		for i := range n.Content {
			out.Content[i] = g.absolute(n.Content[i], path)
		}
	}
	return &out
}

// flatten turns keys and values into settings with dotted keys.
func flatten(out []Setting, n *yaml.Node, from, path string) []Setting {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			out = flatten(out, n.Content[i+1], from, join(path, n.Content[i].Value))
		}
	case n.Kind == yaml.SequenceNode, n.Kind == yaml.ScalarNode && strings.ContainsAny(n.Value[:min(1, len(n.Value))], `[{'"`):
		v := *n
		if v.Style = yaml.FlowStyle; n.Kind == yaml.ScalarNode {
			v.Style = yaml.DoubleQuotedStyle // as a setting it would be read as a list, otherwise
		}
		if b, err := yaml.Marshal(&v); err == nil { // it was read from YAML
			out = append(out, Setting{From: from, Key: path, Value: strings.TrimSpace(string(b))})
		}
	case n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null":
		out = append(out, Setting{From: from, Key: path, Value: n.Value})
	}
	return out
}

// Root is the Config of the root itself, as far as a mount needs one; how it is mounted and what is logged is as in one
// of its lakes.
func (g *Grid) Root(like *Config) *Config {
	c := &Config{Name: g.Name, Run: g.Run, file: g.file}
	if like != nil {
		c.Mount = Mount{AllowOther: like.Mount.AllowOther, Watchdog: like.Mount.Watchdog, IOURing: "off"}
		c.Log = Log{Level: like.Log.Level, Format: like.Log.Format}
	}
	return c
}
