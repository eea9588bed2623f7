package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"tarn/backends"
	"tarn/cmd/tarn/control"
)

// bulkOf writes results as one command does.
func bulkOf(asJSON, nested bool, rs ...control.LFNResult) (out, errs string, err error) {
	var o, e bytes.Buffer
	t := &terminal{out: &o, err: &e, json: asJSON}
	b := t.bulk(pairs)
	b.nested = nested
	for _, r := range rs {
		if err := b.add(r); err != nil {
			return "", "", err
		}
	}
	err = b.end("path")
	return o.String(), e.String(), err
}

func value(lfn, v string) control.LFNResult {
	return control.LFNResult{LFN: control.Text(lfn), Value: json.RawMessage(v)}
}

func failed(lfn, why string) control.LFNResult {
	return control.LFNResult{LFN: control.Text(lfn), Error: control.Fail(backends.ErrNotExist, "", "%s", why)}
}

func TestBulkInDIRACsForm(t *testing.T) {
	inside := func(dir, kind, p string) control.LFNResult {
		return control.LFNResult{LFN: control.Text(dir), Path: control.Text(p), Kind: kind, Value: json.RawMessage("1")}
	}
	for _, c := range []struct {
		name   string
		nested bool
		rs     []control.LFNResult
		want   string
		code   int
	}{
		{"nothing", false, nil, `{"Successful": {}, "Failed": {}}`, 0},
		{"two values", false, []control.LFNResult{value("/a", "true"), value("/b", `{"x": [1]}`)}, `{"Successful": {"/a": true, "/b": {"x": [1]}}, "Failed": {}}`, 0},
		{"one failure of one", false, []control.LFNResult{failed("/a", "no <a>")}, `{"Successful": {}, "Failed": {"/a": "no <a>"}}`, control.CodeNoFile},
		{"one failure of two", false, []control.LFNResult{failed("/a", "no a"), value("/b", "2")}, `{"Successful": {"/b": 2}, "Failed": {"/a": "no a"}}`, control.CodePartial},
		{"two failures", false, []control.LFNResult{failed("/a", "no a"), failed("/b", "no b")}, `{"Successful": {}, "Failed": {"/a": "no a", "/b": "no b"}}`, control.CodePartial},
		{"odd names", false, []control.LFNResult{value("/\"\n<&>", "1"), value("/\xff", "2")}, `{"Successful": {"/\"\n<&>": 1, "base64:L/8=": 2}, "Failed": {}}`, 0},
		{"directories", true, []control.LFNResult{
			inside("/a", "directory", "/a/d"), inside("/a", "file", "/a/f"), inside("/a", "link", "/a/l"), inside("/a", "file", "/a/g"),
			{LFN: "/empty"}, failed("/no", "no"), inside("/b", "directory", "/b/d"),
		}, `{"Successful": {"/a": {"Files": {"/a/f": 1, "/a/g": 1}, "SubDirs": {"/a/d": 1}, "Links": {"/a/l": 1}},
			"/empty": {"Files": {}, "SubDirs": {}, "Links": {}}, "/b": {"Files": {}, "SubDirs": {"/b/d": 1}, "Links": {}}}, "Failed": {"/no": "no"}}`, control.CodePartial},
	} {
		out, _, err := bulkOf(true, c.nested, c.rs...)
		var got, want any
		if jerr := json.Unmarshal([]byte(out), &got); jerr != nil {
			t.Errorf("%s: %v\n%s", c.name, jerr, out)
			continue
		}
		if jerr := json.Unmarshal([]byte(strings.ReplaceAll(c.want, "\n<", `\n<`)), &want); jerr != nil {
			t.Fatal(jerr)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s gives\n%swant\n%s", c.name, out, c.want)
		}
		if code := report(&bytes.Buffer{}, err, false); code != c.code {
			t.Errorf("%s: exit code %d, want %d", c.name, code, c.code)
		}
	}
}

// For people a failure is told once: as the error of the command when it is the only thing that was to be done.
func TestBulkForPeople(t *testing.T) {
	for _, c := range []struct {
		rs        []control.LFNResult
		out, errs string
	}{
		{[]control.LFNResult{failed("/a", "no a")}, "", ""},
		{[]control.LFNResult{failed("/a", "no a"), value("/b", `{"x":"y","n":1}`)}, "/b  n  1\n/b  x  y\n", "not done: /a: no a\n"},
		{[]control.LFNResult{failed("/a", "no a"), failed("/b", "no b"), failed("/c", "no c")}, "", "not done: /a: no a\nnot done: /b: no b\nnot done: /c: no c\n"},
	} {
		out, errs, err := bulkOf(false, false, c.rs...)
		if out != c.out || errs != c.errs || err == nil {
			t.Errorf("%d results: %q, %q, %v; want %q, %q", len(c.rs), out, errs, err, c.out, c.errs)
		}
	}
}

func TestLinesOfStdin(t *testing.T) {
	var in strings.Builder
	for i := range lfnsAtOnce + 5 {
		fmt.Fprintf(&in, "/f%d\r\n\n", i)
	}
	var sizes []int
	if err := linesOf(strings.NewReader(in.String()), func(some []control.Text) error {
		sizes = append(sizes, len(some))
		if strings.ContainsAny(string(some[0]), "\r\n") {
			t.Errorf("a name is %q", some[0])
		}
		return nil
	}); err != nil || !reflect.DeepEqual(sizes, []int{lfnsAtOnce, 5}) {
		t.Errorf("%v, %v", sizes, err)
	}
	err := linesOf(strings.NewReader(strings.Repeat("x", maxLine+1)), func([]control.Text) error { return nil })
	if !errors.Is(err, control.ErrUsage) {
		t.Errorf("a line without end: %v", err)
	}
}

func metaValue(d *json.Decoder) (backends.Meta, error) {
	var m backends.Meta
	err := d.Decode(&m)
	return m, err
}

func TestEntriesOfAFile(t *testing.T) {
	for in, want := range map[string]string{
		`{"/a": {"x": 1}, "/b": {"y": null}}`: `/a {"x":1} /b {"y":null} `,
		` {} `:                                "",
	} {
		got := ""
		if err := entriesOf(strings.NewReader(in), metaValue, func(lfn string, m backends.Meta) error { got += lfn + " " + m.String() + " "; return nil }); err != nil || got != want {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "[", `{"/a"`, `{"/a": 1}`, `{"/a": {"x": 1}`, `{} {}`, `{"/a": {"x": 1},}`, "null"} {
		if err := entriesOf(strings.NewReader(in), metaValue, func(string, backends.Meta) error { return nil }); !errors.Is(err, control.ErrUsage) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func FuzzEntries(f *testing.F) {
	for _, s := range []string{`{"/a": {"x": 1}}`, `{"/a": {"x": [1, {"y": null}]}, "/a": {}}`, `{"\u0000": {}}`, "{", `{"/a":{}}x`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := 0
		err := entriesOf(strings.NewReader(s), metaValue, func(string, backends.Meta) error { n++; return nil })
		if err != nil && !errors.Is(err, control.ErrUsage) {
			t.Fatal(err)
		}
		if err == nil && !json.Valid([]byte(s)) {
			t.Fatalf("%q is no JSON, and gave %d entries", s, n)
		}
	})
}
