package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn/backends"
)

func TestParseMark(t *testing.T) {
	for in, want := range map[string]string{"90%": "90%", "12.5 %": "12.5%", "100%": "100%", "0": "0", "0%": "0", "20G": "20GiB", "1000": "1000"} {
		m, err := ParseMark(in)
		if err != nil || m.String() != want {
			t.Errorf("%q is %v, %v; want %s", in, m, err, want)
		}
		if back, err := ParseMark(m.String()); err != nil || back != m {
			t.Errorf("%v reads back as %v, %v", m, back, err)
		}
	}
	for _, in := range []string{"", "%", "101%", "-1%", "NaN%", "1", "x", "90 percent"} {
		if m, err := ParseMark(in); err == nil {
			t.Errorf("%q is %v", in, m)
		}
	}
}

const localLake = `name: home
rses:
  - {name: A, path: a, attributes: {country: ES}}
  - {name: B, path: b, high: 90%}
scopes: [{name: s}]
`

func TestSetRSE(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "lake.yaml")
	if err := os.WriteFile(file, []byte(localLake), 0o644); err != nil {
		t.Fatal(err)
	}
	local := filepath.Join(dir, "lake.local.yaml")
	if err := os.WriteFile(local, []byte("# mine\ncache:\n  limit: 5G # small\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if b := c.RSEs[1]; b.Low.String() != "81%" || b.Grace.String() != "1h" {
		t.Errorf("low %v, grace %v", b.Low, b.Grace)
	}
	set := func(rse string, kv ...string) RSE {
		t.Helper()
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		now, err := c.SetRSE(rse, m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Load(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range again.RSEs {
			if r.Name == rse {
				if r.ReadOnly != now.RSEs[i].ReadOnly || r.High != now.RSEs[i].High {
					t.Error("what SetRSE gives is not what is loaded")
				}
				return r
			}
		}
		return RSE{}
	}
	if r := set("A", "country", "IT", "tier", "1", "read_only", "true", "odd", "yes"); r.Attributes["country"] != "IT" || r.Attributes["tier"] != "1" || r.Attributes["odd"] != "yes" || !r.ReadOnly {
		t.Errorf("set: %+v", r)
	}
	if r := set("B", "high", "20G", "low", "10G", "drain", "true", "drain_to", "country=IT&tier=1"); r.High.String() != "20GiB" || !r.Drain || r.DrainTo != "country=IT&tier=1" {
		t.Errorf("set: %+v", r)
	}
	text, err := os.ReadFile(local)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{"# mine", "limit: 5G # small", "country: IT"} {
		if !strings.Contains(string(text), w) {
			t.Errorf("no %q in\n%s", w, text)
		}
	}
	if st, err := os.Stat(local); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}

	// What makes a fault changes nothing.
	for rse, kv := range map[string][2]string{"A": {"high", "x"}, "B": {"low", "95%"}} {
		_, err := c.SetRSE(rse, map[string]string{kv[0]: kv[1]})
		var bad *Error
		if !errors.As(err, &bad) {
			t.Errorf("%s %v: %v", rse, kv, err)
		}
	}
	if _, err := c.SetRSE("C", map[string]string{"a": "b"}); !errors.Is(err, backends.ErrNotExist) {
		t.Error(err)
	}
	if now, err := os.ReadFile(local); err != nil || string(now) != string(text) {
		t.Errorf("changed to\n%s", now)
	}

	// Taken back, nothing is left but what was there.
	if r := set("A", "country", "", "tier", "", "read_only", "", "odd", ""); r.Attributes["country"] != "ES" || r.ReadOnly || len(r.Attributes) != 1 {
		t.Errorf("taken back: %+v", r)
	}
	set("B", "high", "", "low", "", "drain", "", "drain_to", "")
	if now, err := os.ReadFile(local); err != nil || strings.Contains(string(now), "rses") || !strings.Contains(string(now), "limit: 5G # small") {
		t.Errorf("left\n%s", now)
	}
	for _, begin := range []string{"", "# only this\n", "rses:\n", "{}\n"} {
		if err := os.WriteFile(local, []byte(begin), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := set("A", "tier", "2"); r.Attributes["tier"] != "2" {
			t.Errorf("after %q: %+v", begin, r)
		}
		set("A", "tier", "")
		if now, err := os.ReadFile(local); err != nil || strings.Contains(string(now), "tier") || strings.HasPrefix(begin, "#") && !strings.Contains(string(now), "# only this") {
			t.Errorf("%q became %q, %v", begin, now, err)
		}
	}
}
