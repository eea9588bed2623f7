package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// TestGridFaults: what is wrong with several lakes together is told before anything is mounted, all of it.
func TestGridFaults(t *testing.T) {
	dir := t.TempDir()
	lake := func(name, more string) {
		t.Helper()
		text := "rses: [{name: A, path: rse}]\nscopes: [{name: s}]\n" + more
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "lake.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lake("a", "")
	lake("b", "")
	lake("cached", "cache: {path: ../a/cache}\n")
	lake("others", "mount: {allow_other: true}\n")
	lake("bad", "cache: {limit: 1}\n")
	file := filepath.Join(dir, "grid.yaml")
	for _, c := range []struct {
		text, set string
		want      []string // none: no fault
	}{
		{"lakes: [{name: A, lake: a}, {name: B, lake: b/lake.yaml}]", "", nil},
		{"lakes: [{name: A, lake: a}, {name: B, lake: a}]", "", []string{"lakes[1]: is the same lake as A"}},
		{"lakes: [{name: A, lake: a}, {name: B, lake: cached}]", "", []string{"lakes[1]: ", "a/cache is used by lake A, too"}},
		{"lakes: [{name: A, lake: a}, {name: B, lake: b}]", "cache.path=/tmp/one", []string{"lakes[1]: /tmp/one is used by lake A"}},
		{"run: a/run\nlakes: [{name: A, lake: a}]", "", []string{"lakes[0]: ", "is used by the mount itself"}},
		{"lakes: [{name: A, lake: a}, {name: B, lake: others}]", "", []string{"lakes[1]: mount.allow_other is true here and false in lake A"}},
		{"set: {mount: {allow_other: true}}\nlakes: [{name: A, lake: a}, {name: B, lake: others}]", "", nil},
		{"lakes: [{name: A, lake: a}, {name: B, lake: others}]", "mount.allow_other=true", nil},
		{"lakes: [{name: A, lake: nowhere}, {name: B, lake: bad}]", "", []string{"lake A: find lake", "lake B: 1 fault", "cache.limit"}},
		{"lakes: [{name: A, lake: a, set: {cache: {limit: 1}}}]", "", []string{"lake A: ", "lakes[0].set: cache.limit"}},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &session{t: &terminal{}}
		if c.set != "" {
			if err := s.addSetting(c.set); err != nil {
				t.Fatal(err)
			}
		}
		g, err := s.openGrid(file, (*session).load)
		if len(c.want) == 0 {
			if err != nil || g.root.File() != file {
				t.Errorf("%s: %v", c.text, err)
			}
			continue
		}
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s (%s): %v, want %q", c.text, c.set, err, w)
			}
		}
		if d := control.Describe(err); d != nil && d.Code != control.CodeFatal {
			t.Errorf("%s: exit code %d, want %d", c.text, d.Code, control.CodeFatal)
		}
	}
}

// TestErrRoot: who names a path where no lake is mounted hears why.
func TestErrRoot(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "grid.yaml")
	if err := os.WriteFile(file, []byte("run: run\nlakes: [{name: A, lake: a}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	lakes := control.Lakes{Lakes: []control.LakeState{{Name: "A", State: control.LakeWaiting, Why: "no answer"}, {Name: "B", State: control.LakeMounting}}}
	if err := control.WriteLakes(filepath.Join(dir, "run"), lakes); err != nil {
		t.Fatal(err)
	}
	m := config.MountOf{Point: "/grid", Lake: file, Grid: true}
	for rel, want := range map[string]struct {
		words string
		code  int
	}{
		"/":    {"is the root of several lakes", control.CodeUsage},
		"/A/x": {"lake A is not mounted: no answer", control.CodeTemporary},
		"/B":   {"lake B is not mounted: it is mounting", control.CodeTemporary},
		"/C/x": {"there is no lake C", control.CodeNoFile},
	} {
		d := control.Describe(errRoot(m, rel))
		if d.Code != want.code || !strings.Contains(d.Message, want.words) {
			t.Errorf("%s: %d %s, want %d %s", rel, d.Code, d.Message, want.code, want.words)
		}
	}
}
