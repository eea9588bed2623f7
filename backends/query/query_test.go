package query

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseAndPrint(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"run=12", "run = 12"},
		{"a = 1 b > 2", "a = 1 and b > 2"},
		{"a = 1 AND b >= 2", "a = 1 and b >= 2"},
		{"a=1 or b=2 c=3", "a = 1 or (b = 2 and c = 3)"},
		{"(a=1 or b=2) c=3", "(a = 1 or b = 2) and c = 3"},
		{"(a=1 b=2) c=3", "a = 1 and b = 2 and c = 3"},
		{"((a=1))", "a = 1"},
		{"not a=1 b=2", "not a = 1 and b = 2"},
		{"not (a=1 or b=2)", "not (a = 1 or b = 2)"},
		{"not not a=1", "not not a = 1"},
		{"t in LST-1,LST-2", "t in LST-1,LST-2"},
		{"t in LST-1 , LST-2", "t in LST-1,LST-2"},
		{"name like '*.fits'", "name like *.fits"},
		{"a='x y'", `a = "x y"`},
		{`a='it\'s \\ "x"'`, `a = "it's \\ \"x\""`},
		{"a=''", `a = ""`},
		{"'and'='or'", `"and" = "or"`},
		{"mtime<2026-11-23T10:00:00Z", "mtime < 2026-11-23T10:00:00Z"},
		{"did=ctao:/ctao/x", "did = ctao:/ctao/x"},
		{"é=ü", "é = ü"},
	} {
		e, err := Parse(c.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", c.in, err)
			continue
		}
		if e.String() != c.out {
			t.Errorf("Parse(%q) prints %q, want %q", c.in, e, c.out)
		}
		again, err := Parse(e.String())
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Errorf("%q is read back as %#v, %v; want %#v", e, again, err, e)
		}
	}
}

func TestErrorsShowPositionAndExpectation(t *testing.T) {
	for _, c := range []struct {
		in   string
		pos  int
		want string
	}{
		{"", 0, "a key"},
		{"run", 3, "an operator"},
		{"run 5", 4, "an operator"},
		{"run =", 5, "a value"},
		{"run = and", 6, "a value"},
		{"run = 1,", 8, "a value"},
		{"run > 1,2", 7, "one value after >"},
		{"run = 1 or", 10, "a key"},
		{"(run = 1", 8, "and, or, or )"},
		{"run = 1)", 7, "the end"},
		{"run = 'x", 6, "a closing '"},
		{"run ! 1", 4, "an operator"},
		{"and a=1", 0, "a key"},
		{strings.Repeat("(", 5000) + "a=1", 101, "at most 100 levels"},
		{strings.Repeat("not ", 5000) + "a=1", 404, "at most 100 levels"},
		{strings.Repeat("x", 70000), 64 << 10, "at most"},
	} {
		_, err := Parse(c.in)
		var se *SyntaxError
		if !errors.As(err, &se) {
			t.Errorf("Parse(%.20q) = %v, want a SyntaxError", c.in, err)
			continue
		}
		if se.Pos != c.pos || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Parse(%.20q): %v (position %d), want %q at %d", c.in, err, se.Pos, c.want, c.pos)
		}
		if len(err.Error()) > 400 {
			t.Errorf("Parse(%.20q): the error is %d bytes long", c.in, len(err.Error()))
		}
	}
}

func TestMatch(t *testing.T) {
	meta := map[string]any{
		"run": 1234.0, "big": json.Number("9007199254740993"), "neg": "-5", "pi": "3.14",
		"tel": []any{"LST-1", "MST-2"}, "runs": []any{1.0, 20.0}, "nothing": nil, "empty": []any{},
		"date": "2026-11-23", "time": "2026-11-23T10:30:00Z", "zoned": "2026-11-23T00:30:00+01:00",
		"mtime": time.Date(2026, 11, 23, 10, 30, 0, 5, time.UTC),
		"name":  Text("run*1.fits"), "sum": Text("100000e1"), "ok": true, "hex": "0x10", "s": "abc",
		"obj": map[string]any{"a": 1.0},
	}
	get := func(k string) (any, bool) { v, ok := meta[k]; return v, ok }
	for q, want := range map[string]bool{
		"run = 1234": true, "run = 01234.0": true, "run > 999": true, "run > 9990": false, "run <= 1234": true, "run < 1234": false,
		"run != 1": true, "run != 1,1234": false, "run = 1,1234": true, "run in 1,1234": true, "run in 1,2": false,
		"big = 9007199254740993": true, "big = 9007199254740992": false, "big > 9007199254740992": true,
		"neg < -4.5": true, "pi >= 3.140": true, "hex = 16": false, "hex = 0x10": true,
		"tel = LST-1": true, "tel = LST-3": false, "tel != LST-1": false, "tel != LST-3": true, "tel like MST*": true, "not tel = LST-3": true,
		"runs > 15": true, "runs > 25": false,
		"missing = 1": false, "missing != 1": true, "not missing = 1": true, "missing > 0": false, "missing like *": false,
		"nothing != x": true, "nothing = null": false, "empty != x": true, "empty like *": false,
		"s > abb": true, "s < b": true, "s = ABC": false, "s > 5": true, "s like a%c": true, "s like a%b": false, "s like %": true, "s like abcd": false, "s like *x,*c": true,
		"date = 2026-11-23": true, "date = 2026-11": true, "date > 2026-11-22": true, "date >= 2026-11-23T00:00:00Z": true, "date > 2026-11-22T23:59:59Z": true, "date = 2026-11-23T10:00:00": true,
		"time = 2026-11-23": true, "time > 2026-11-23": false, "time >= 2026-11-23": true, "time < 2026-11-24": true, "time <= 2026-11-23": true, "time > 2026-10": true,
		"time = 2026-11-23T10:30:00Z": true, "time = 2026-11-23T11:30:00+01:00": true, "time = 2026-11-23T10:30": true, "time = '2026-11-23 10:30'": true,
		"zoned < 2026-11-23": true, "zoned = 2026-11-22": true,
		"mtime > 2026-11-23T10:30:00Z": true, "mtime = 2026-11-23": true, "mtime < 2026": false, "mtime = yesterday": false,
		`name like 'run\\**'`: true, `name like 'run\\*2*'`: false, "sum = 1000000": false, "sum = 100000e1": true, "sum = 10000e2": false,
		"ok = true": true, "ok != false": true, `obj = '{"a":1}'`: true,
		"run = 1 or run = 1234 and s = x": false, "(run = 1 or run = 1234) s = abc": true, "not (run=1234 s=abc)": false,
	} {
		e, err := Parse(q)
		if err != nil {
			t.Errorf("Parse(%q): %v", q, err)
			continue
		}
		if got := e.Match(get); got != want {
			t.Errorf("%s: %v, want %v", q, got, want)
		}
	}
}

func TestSpanBoundaries(t *testing.T) {
	day, at := "2026-11-23", func(s string) any { v, _ := time.Parse(time.RFC3339, s); return v }
	for s, want := range map[string]int{
		"2026-11-22T23:59:59Z": -1, "2026-11-23T00:00:00Z": 0, "2026-11-23T23:59:59Z": 0, "2026-11-24T00:00:00Z": 1,
	} {
		if c, _ := compare(at(s), day); c != want {
			t.Errorf("%s against %s: %d, want %d", s, day, c, want)
		}
		if c, _ := compare(day, s); c != -want {
			t.Errorf("%s against %s: %d, want %d", day, s, c, -want)
		}
	}
}

func TestLikeIsNotExponential(t *testing.T) {
	if like(strings.Repeat("*a", 1000)+"b", strings.Repeat("a", 20000)) {
		t.Error("matched")
	}
}

func TestKeys(t *testing.T) {
	e, err := Parse("a=1 (b=2 or not a=3) c like x")
	if err != nil {
		t.Fatal(err)
	}
	if got := Keys(e); !reflect.DeepEqual(got, []string{"a", "b", "c"}) {
		t.Errorf("Keys = %v", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a=1", "a = 1 or not (b in 'x y',z)", `a like "\"\\"`, "a!=b,c d<=2026-11-23", "((((a=1", "\xff=\x80", "a=\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := Parse(s)
		if err != nil {
			var se *SyntaxError
			if !errors.As(err, &se) || se.Pos < 0 || se.Pos > len(s) {
				t.Fatalf("Parse(%q): %v", s, err)
			}
			return
		}
		again, err := Parse(e.String())
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Fatalf("%q prints %q, which is read as %v, %v", s, e, again, err)
		}
		e.Match(func(string) (any, bool) { return "2026-11-23", true })
	})
}
