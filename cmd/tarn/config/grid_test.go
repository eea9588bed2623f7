package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func gridFile(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLoadGrid(t *testing.T) {
	file := gridFile(t, "grid.yaml", `set: {mount: {allow_other: true}, cache: {limit: 5G}}
lakes:
  - {name: ESCAPE, rucio: "https://escape.example.org", account: ada, set: {cache: {limit: 20G}, write_rules: [{expression: "A&B"}], site: "[x]"}}
  - {name: CTAO, lake: ctao}
`)
	g, err := LoadGrid(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(file)
	if g.Name != "grid" || g.Run != filepath.Join(dir, "grid/run") || g.File() != file || len(g.Lakes) != 2 || g.Lakes[1].Lake != filepath.Join(dir, "ctao") || g.Lakes[0].Account != "ada" {
		t.Errorf("it is %+v", g)
	}
	lake := gridFile(t, "lake.yaml", "rses: [{name: A, path: a, attributes: {B: 'true'}}]\nscopes: [{name: s}]\n")
	c, err := Load(lake, g.Settings(0)...)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Mount.AllowOther || c.Cache.Limit != 20*GiB || c.Site != "[x]" || len(c.WriteRules) != 1 || c.WriteRules[0].Expression != "A&B" {
		t.Errorf("the first lake is %+v %+v %q %+v", c.Mount, c.Cache.Limit, c.Site, c.WriteRules)
	}
	if c, err = Load(lake, g.Settings(1)...); err != nil || c.Cache.Limit != 5*GiB {
		t.Errorf("the second lake's limit is %v, %v", c.Cache.Limit, err)
	}
	for name, want := range map[string]bool{file: true, lake: false} {
		if got, err := ListsLakes(name); err != nil || got != want {
			t.Errorf("%s lists lakes: %v, %v", name, got, err)
		}
	}
	if _, err := Load(file); !errors.Is(err, ErrSeveral) {
		t.Errorf("as the file of one lake: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "grid.local.yaml"), []byte("lakes: [{name: CTAO, set: {cache: {limit: 7G}}}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if g, err = LoadGrid(file); err != nil || len(g.Lakes) != 2 {
		t.Fatalf("with a local file: %+v, %v", g, err)
	}
	if c, err = Load(lake, g.Settings(1)...); err != nil || c.Cache.Limit != 7*GiB {
		t.Errorf("the second lake's limit is %v with a local file, %v", c.Cache.Limit, err)
	}
}

func TestGridFaults(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"lakes: []", "grid.yaml:1: lakes: want at least one"},
		{"lakes:\n  - {name: a, lake: x}\n  - {name: a, lake: y}", `grid.yaml:3: lakes[1].name: duplicate lake "a", first in line 2`},
		{"lakes: [{name: a/b, lake: x}]", "lakes[0].name: is a directory of the mount"},
		{"lakes: [{name: .., lake: x}]", "lakes[0].name: is a directory of the mount"},
		{"lakes: [{lake: x}]", "lakes[0].name: is a directory of the mount"},
		{"lakes: [{name: a}]", "lakes[0]: want lake"},
		{"lakes: [{name: a, lake: x, rucio: 'https://r.example.org'}]", "lakes[0].rucio: a lake that has a file"},
		{"lakes: [{name: a, lake: x, account: b}]", "lakes[0].account: goes with rucio"},
		{"lakes: [{name: a, rucio: 'https://u:secret@r.example.org'}]", "lakes[0].rucio: has a user or password in it"},
		{"lakes: [{name: a, rucio: nowhere}]", "lakes[0].rucio: want the URL"},
		{"lakes: [{name: a, lak: x}]", `lakes[0].lak: unknown key; did you mean "lake"?`},
		{"lakes: [{name: a, lake: x, set: {cache: {limt: 1G}}}]", `lakes[0].set.cache.limt: unknown key; did you mean "limit"?`},
		{"lakes: [{name: a, lake: x, set: {cache: {limit: much}}}]", "lakes[0].set.cache.limit: "},
		{"lakes: [{name: a, lake: x, set: {run: /tmp/r}}]", "lakes[0].set.run: is where the commands look for the lake's processes"},
		{"set: {run: /tmp/r}\nlakes: [{name: a, lake: x}]", "set.run: is where the commands look for the lake's processes"},
		{"lakes: {a: x}", "lakes: want a list"},
		{"name: 'a b'\nlakes: [{name: a, lake: x}]", "grid.yaml:1: name: want 1 to 63 letters"},
	} {
		_, err := LoadGrid(gridFile(t, "grid.yaml", c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
}

// Relative paths that a file of several lakes sets are meant from its folder, whatever key they are of and wherever the lake's own file is.
func TestGridPaths(t *testing.T) {
	file := gridFile(t, "grid.yaml", `set: {journal: {path: all/journal}, log: {file: "log file"}}
lakes:
  - {name: A, lake: far/away, set: {cache: {path: a/cache}, ingest: {path: /abs}, rses: [{name: A, path: r}, {name: R, protocols: [{url: "s3://x/y", keys: k, style: path}]}]}}
`)
	g, err := LoadGrid(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(file)
	c, err := Load(gridFile(t, "lake.yaml", "rses: [{name: A, path: a}]\nscopes: [{name: s}]\n"), g.Settings(0)...)
	if err != nil {
		t.Fatal(err)
	}
	r := c.RSEs[1].Protocols[0]
	got := []string{c.Journal.Path, c.Log.File, c.Cache.Path, c.Ingest.Path, c.RSEs[0].Path, r.Keys, r.Style}
	want := []string{dir + "/all/journal", dir + "/log file", dir + "/a/cache", "/abs", dir + "/r", dir + "/k", "path"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestPathKeys: what a lake file has made absolute is what a file of several lakes has.
func TestPathKeys(t *testing.T) {
	const relative = "some/where"
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			v.SetString(relative)
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fill(v.Index(0))
		case reflect.Struct:
			for _, f := range keyed(v.Type()) {
				fill(v.FieldByName(f.Name))
			}
		}
	}
	c := &Config{file: "/lake/lake.yaml"}
	fill(reflect.ValueOf(c).Elem())
	c.complete()
	var got []string
	var look func(v reflect.Value, path string)
	look = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.String:
			if v.String() == "/lake/"+relative {
				got = append(got, path)
			}
		case reflect.Slice:
			for i := range v.Len() {
				look(v.Index(i), path)
			}
		case reflect.Struct:
			for _, f := range keyed(v.Type()) {
				key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
				look(v.FieldByName(f.Name), join(path, key))
			}
		}
	}
	look(reflect.ValueOf(c).Elem(), "")
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(pathKeys)); !slices.Equal(got, want) {
		t.Errorf("paths are %q, want %q", got, want)
	}
}
