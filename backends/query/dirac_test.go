package query

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// What DIRAC's users write, on the command line (dirac-dms-find-lfns, cta-prod-get-file-by-query) and as dictionaries.
func TestDIRACGrammar(t *testing.T) {
	meta := map[string]any{
		"MCCampaign": "PROD5b", "particle": "gamma-diffuse", "thetaP": 20.0, "phiP": json.Number("180"), "site": "LaPalma",
		"configuration_id": json.Number("15"), "data_level": json.Number("-1"), "merged": "0", "note": "all * of it", "version": "01",
		"tel": []any{"LST-1", "MST-2"}, "when": "2026-11-23T10:00:00Z",
	}
	get := func(k string) (any, bool) { v, ok := meta[k]; return v, ok }
	for q, want := range map[string]bool{
		"MCCampaign=PROD5b particle=gamma-diffuse thetaP=20.0": true, // CTADIRAC's own example
		"MCCampaign=PROD5b particle=gamma-diffuse thetaP=40.0": false,
		"thetaP=20": true, "phiP=180.0": true, "data_level=-1": true, "data_level>=-1": true, "data_level<0": true,
		"particle=gamma,gamma-diffuse": true, "particle!=gamma,electron": true, "particle!=gamma-diffuse,electron": false,
		"particle=gamma*": true, "particle=gamma-diffus?": true, "particle=gamma?": false, "particle!=gamma*": false, "particle=proton,gam*": true,
		"particle='gamma*'": false, `note='all * of it'`: true,
		"particle=Any": true, "nsb=Any": false, "nsb=Missing": true, "particle=Missing": false, "particle!=Missing": true, "nsb!=Any": true,
		"nsb=1,Missing": true, "particle=proton,Missing": false, "nsb!=1,Missing": false, "particle='Any'": false,
		"particle=proton particle=gamma-diffuse": true, "particle=proton and particle=gamma-diffuse": false, // given twice
		"tel=LST-1 and tel=MST-2": true, "configuration_id>=13 configuration_id<20": true, "configuration_id>15 configuration_id<20": false,
		"particle!=proton particle!=electron": true, "particle!=proton particle!=gamma-diffuse": false,
		"particle=gamma% ": false, "when>2026-11-22": true, "when=2026-11-23": true,

		`{"particle": {"in": ["gamma", "gamma-diffuse"]}, "configuration_id": {">=": 13}}`: true, // CTAO's tests of DIRAC on Rucio
		`{"particle": ["proton", "gamma-diffuse"]}`:                                        true,
		`{"particle": {"in": ["proton"]}}`:                                                 false,
		`{"particle": {"nin": ["proton", "electron"]}}`:                                    true,
		`{"particle": {"nin": ["gamma-diffuse"]}}`:                                         false,
		`{"configuration_id": {">=": 13, "<": 15}}`:                                        false,
		`{"configuration_id": {">": 13, "<=": 15.0, "!=": 14}}`:                            true,
		`{"nsb": "Missing", "particle": "Any"}`:                                            true,
		`{"particle": "gamma*"}`:                                                           true,
		`{"thetaP": 20, "phiP": {"=": 180}}`:                                               true,
		`{}`:                                                                               false, // there is no name here: the test of All is below
		" {\"site\" : \"LaPalma\"}\n":                                                      true,
	} {
		e, err := Parse(q)
		if err != nil {
			t.Errorf("Parse(%q): %v", q, err)
			continue
		}
		if got := e.Match(get); got != want {
			t.Errorf("%s (%s): %v, want %v", q, e, got, want)
		}
		if again, err := Parse(e.String()); err != nil || !reflect.DeepEqual(e, again) {
			t.Errorf("%q prints %q, which is read as %v, %v", q, e, again, err)
		}
	}
	e, err := Parse("{}")
	if err != nil || !e.Match(func(string) (any, bool) { return Text("f"), true }) {
		t.Errorf("{} is %v, %v", e, err)
	}
}

func TestDictionaryErrors(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`{`, "the end"}, {`{"a"}`, "invalid"}, {`{"a": }`, "invalid"}, {`{"a": null}`, "a text or number"}, {`{"a": []}`, "an empty list"},
		{`{"a": {}}`, "an operator"}, {`{"a": {"like": "x"}}`, "an operator"}, {`{"a": {">": [1, 2]}}`, "one value after >"},
		{`{"a": [[1]]}`, "a text or number"}, {`{"": 1}`, "a key"}, {`{"a": 1} x`, "the end"}, {`{"a": {"=": {"b": 1}}}`, "a text or number"},
	} {
		_, err := Parse(c.in)
		var se *SyntaxError
		if !errors.As(err, &se) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Parse(%s) = %v, want a SyntaxError with %q", c.in, err, c.want)
		}
	}
}

func TestDictionary(t *testing.T) {
	for in, want := range map[string]string{
		"MCCampaign=PROD5b particle=gamma-diffuse thetaP=20.0": `{"MCCampaign": "PROD5b", "particle": "gamma-diffuse", "thetaP": 20.0}`,
		"a=1,2 b!=x,y c>=3 c<5":                                `{"a": {"in": [1,2]}, "b": {"nin": ["x","y"]}, "c": {">=": 3, "<": 5}}`,
		"a=Any b=Missing c=x*":                                 `{"a": "Any", "b": "Missing", "c": "x*"}`,
		"a!=x*":                                                `{"a": {"!=": "x*"}}`,
		"d>2026-11-01":                                         `{"d": {">": "2026-11-01"}}`,
		"{}":                                                   `{}`,
		"a=1 or b=2":                                           "",
		"not a=1":                                              "",
		"a='x*'":                                               "",
		`{"a": "01", "b": {"in": [1]}}`:                        `{"a": "01", "b": 1}`,
	} {
		e, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := Dictionary(e)
		if string(got) != want || ok != (want != "") {
			t.Errorf("%s is the dictionary %s, %v, want %s", in, got, ok, want)
		}
		if again, err := Parse(string(got)); ok && (err != nil || again.String() != e.String()) {
			t.Errorf("%s: the dictionary %s is read as %v, %v", e, got, again, err)
		}
	}
}

func TestTyped(t *testing.T) {
	types := map[string]Type{"n": Int, "x": Float, "v": String, "d": Date}
	meta := map[string]any{"n": json.Number("5"), "x": 20.0, "v": "01", "d": "2026-11-23T00:00:00Z"}
	get := func(k string) (any, bool) { v, ok := meta[k]; return v, ok }
	for q, want := range map[string]bool{
		"v=1": false, "v=01": true, "v>1": false, "v in 1,01": true, "v=0*": true, "n=5": true, "n>=4.5": true, "x=20": true, "d>=2026-11": true, "n=Any": true, "n=Missing": false, "u=x": false,
	} {
		e, err := Parse(q)
		if err != nil {
			t.Fatal(err)
		}
		if e, err = Typed(e, func(k string) Type { return types[k] }); err != nil {
			t.Errorf("%s: %v", q, err)
		} else if e.Match(get) != want {
			t.Errorf("%s: %v, want %v", q, !want, want)
		}
	}
	for _, q := range []string{"n=five", "x>2026-11-23", "d=5", "not (a=1 or n!=x,5)"} {
		e, err := Parse(q)
		if err != nil {
			t.Fatal(err)
		}
		var te *TypeError
		if _, err = Typed(e, func(k string) Type { return types[k] }); !errors.As(err, &te) {
			t.Errorf("%s: %v, want a TypeError", q, err)
		}
	}
	for _, c := range []struct {
		t  Type
		v  string
		ok bool
	}{{Int, "-3", true}, {Int, "3.0", false}, {Float, "3e2", true}, {Float, "", false}, {Date, "2026-11", true}, {Date, "yesterday", false}, {String, "", true}} {
		if err := c.t.Check("k", c.v); (err == nil) != c.ok {
			t.Errorf("%q as %s: %v", c.v, c.t, err)
		}
	}
	if _, err := ParseType("integer"); err == nil {
		t.Error("integer is a type")
	}
}

func FuzzDictionary(f *testing.F) {
	for _, s := range []string{`{"a": {"in": ["x", 1]}, "b": {">=": 13, "!=": "Any"}}`, `{"a":"x*","a":"Missing"}`, `{"a":[true,"\\%"]}`, `{}`, `{"a":{"nin":["?"]}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := Parse("{" + s)
		if err != nil {
			var se *SyntaxError
			if !errors.As(err, &se) || se.Pos < 0 || se.Pos > len(s)+1 {
				t.Fatalf("Parse(%q): %v", s, err)
			}
			return
		}
		again, err := Parse(e.String())
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Fatalf("%q prints %q, which is read as %v, %v", s, e, again, err)
		}
		d, ok := Dictionary(e)
		if !ok {
			return
		}
		if again, err = Parse(string(d)); err != nil || again.String() != e.String() && !sameMatches(e, again) {
			t.Fatalf("%q is the dictionary %s, which is read as %v, %v", e, d, again, err)
		}
	})
}

// sameMatches compares two queries by what they say of some values: = and in, or the order of conditions, may differ.
func sameMatches(a, b Expr) bool {
	for _, v := range []any{nil, "", "x", "Any", "Missing", "x*", 1.0, 13.0, true, "2026-11-23"} {
		get := func(string) (any, bool) { return v, v != nil }
		if a.Match(get) != b.Match(get) {
			return false
		}
	}
	return true
}
