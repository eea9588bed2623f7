package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends/tape/library"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := median(c.v); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.v, got, c.want)
		}
	}
	if !math.IsNaN(median(nil)) {
		t.Error("the median of nothing is a number")
	}
}

// TestRatio: a round that was slow on both sides does not count more than another.
func TestRatio(t *testing.T) {
	r := &row{job: &job{target: 0.9}, values: [][]float64{{100, 10, 100}, {90, 9, 50}}}
	if q := r.ratio(1); q != 0.9 {
		t.Errorf("ratio %v, want 0.9", q)
	}
	if met, ok := r.met(); !met || !ok {
		t.Errorf("met() = %v, %v", met, ok)
	}
	r.lower, r.target = true, 0.5
	if met, ok := r.met(); met || !ok {
		t.Errorf("less is better: met() = %v, %v", met, ok)
	}
	r.why = "needs root"
	if _, ok := r.met(); ok {
		t.Error("a row without values has a verdict")
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.012345: "0.0123", 1: "1", 9.876: "9.88", 99.9: "99.9", 123.4: "123", 17740: "17,700", 1601000: "1,600,000", math.NaN(): "?"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestSplice(t *testing.T) {
	page := "# P\n\nfirst\n<!-- x begin -->\nold\n<!-- x end -->\nlast\n"
	got, err := splice(page, "x", "new\n")
	if want := "# P\n\nfirst\n<!-- x begin -->\nnew\n<!-- x end -->\nlast\n"; err != nil || got != want {
		t.Errorf("%v, %q", err, got)
	}
	// A page without the marks gets them at its end, and only once.
	got, err = splice(page, "y", "new\n")
	if err == nil {
		got, err = splice(got, "y", "newer\n")
	}
	if want := page + "\n<!-- y begin -->\nnewer\n<!-- y end -->\n"; err != nil || got != want {
		t.Errorf("%v, %q", err, got)
	}
	for _, bad := range []string{"a\n<!-- x begin -->\nb\n", "a\n<!-- x end -->\nb\n"} {
		if _, err := splice(bad, "x", "new\n"); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestPageWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "performance.md")
	p := page{mark: "bench", head: "head\n", body: "body\n"}
	p.chart("a.svg", "A", "<svg/>")
	for range 2 {
		if err := p.write(path); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "# Performance\n\n<!-- bench begin -->\nhead\n\n![A](charts/a.svg)\nbody\n<!-- bench end -->\n"; string(b) != want {
		t.Errorf("%q", b)
	}
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(path), "charts/a.svg")); err != nil || string(b) != "<svg/>" {
		t.Errorf("%v, %q", err, b)
	}
}

// wellFormed checks that a chart is XML, small, and follows what the reader prefers.
func wellFormed(t *testing.T, svg string, texts ...string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	found := map[string]bool{}
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
		if c, ok := tok.(xml.CharData); ok {
			found[string(c)] = true
		}
	}
	for _, want := range texts {
		if !found[want] {
			t.Errorf("no text %q", want)
		}
	}
	if len(svg) > 20<<10 || !strings.Contains(svg, "prefers-color-scheme:dark") || strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Errorf("%d bytes:\n%s", len(svg), svg)
	}
}

func TestCharts(t *testing.T) {
	wellFormed(t, bars("A & B", 1.5, []bar{{label: "x < y", value: 7, tick: 1, class: "c1"}, {label: "none"}}), "A & B", "x < y", "7")
	wellFormed(t, lines("growth", "entries", "per second", []series{{"look-ups", []float64{1e5, 1e6}, []float64{300, 200}}, {"one point", []float64{1e5}, []float64{200}}}), "look-ups", "100,000", "1,000,000")
	if s := lines("nothing", "", "", nil); s != "" {
		t.Errorf("%q", s)
	}
	// Where less is better the bar is the inverse, so that longer is always better.
	r := &row{job: &job{name: "find", lower: true, target: 2}, values: [][]float64{{1}, {4}}}
	wellFormed(t, ratioChart([]*row{r, {job: &job{}, why: "needs root"}}), "find", "0.25")
	if s := ratioChart(nil); s != "" {
		t.Errorf("%q", s)
	}
}

func TestMeasure(t *testing.T) {
	b := &bench{ctx: t.Context(), o: options{rounds: 3}, dir: "/some/where"}
	ended := false
	var order []string
	s := section{title: "s", jobs: []*job{
		{name: "raw", raw: true, run: func(at place) (float64, error) {
			order = append(order, at.name)
			return map[string]float64{"bare": 2, "mount": 1}[at.name], nil
		}},
		{name: "broken", run: func(place) (float64, error) { return 0, errors.New("/some/where/f: no luck") }},
	}, setUp: func() ([]place, func() error, error) {
		return []place{{name: "bare", bare: true}, {name: "mount"}}, func() error { ended = true; return nil }, nil
	}}
	rows, err := b.measure(s)
	if err != nil || len(rows) != 2 || !ended {
		t.Fatalf("%v, %v, ended %v", rows, err, ended)
	}
	if got := strings.Join(order, " "); got != "bare mount mount bare bare mount" {
		t.Errorf("not interleaved in turn: %s", got)
	}
	if q := rows[0].ratio(1); q != 0.5 {
		t.Errorf("ratio %v", q)
	}
	if rows[1].why != "f: no luck" || !strings.Contains(table(rows), "no luck") {
		t.Errorf("a row that failed says %q", rows[1].why)
	}
	b.o.only, ended = "nothing of this name", false
	if rows, err := b.measure(s); rows != nil || err != nil || ended {
		t.Errorf("-only: %v, %v, set up: %v", rows, err, ended)
	}
}

// TestOptionalSections: a server that is not here costs its own section, and the page's head says why; what must
// be there ends the run.
func TestOptionalSections(t *testing.T) {
	b := &bench{ctx: t.Context(), o: options{rounds: 1}, dir: "/some/where"}
	ok := func() ([]place, func() error, error) {
		return []place{{name: "bare", bare: true}, {name: "mount"}}, func() error { return nil }, nil
	}
	gone := func() ([]place, func() error, error) {
		st := &stage{dir: t.TempDir()}
		return nil, nil, st.play(func() { st.Skipf("the server\nof /some/where/x is not installed") })
	}
	jobs := []*job{{name: "j", raw: true, run: func(place) (float64, error) { return 1, nil }}}
	all := []section{{title: "first", jobs: jobs, optional: true, setUp: gone}, {title: "second", jobs: jobs, setUp: ok}}
	var shown []string
	rows, absent, err := b.measureAll(all, func(title string, rows []*row) { shown = append(shown, title) })
	if err != nil || len(rows) != 1 || strings.Join(shown, " ") != "second" {
		t.Errorf("%d rows of %v, %v", len(rows), shown, err)
	}
	if got, want := leftOut(absent), "\nNot measured: first: the server of x is not installed.\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if leftOut(nil) != "" {
		t.Error("nothing was left out")
	}
	all[0].optional = false
	if _, _, err := b.measureAll(all, func(string, []*row) {}); err == nil {
		t.Error("the run went on without what it must have")
	}
	for _, q := range protocols {
		if s := b.server(q, false); !s.optional {
			t.Errorf("%s must be there", q.name)
		}
	}
}

func TestDaemonOf(t *testing.T) {
	lines := `{"mountpoint":"/a","status":{"daemon":{"pid":7}}}` + "\n" + `{"mountpoint":"/b","status":{"daemon":{"pid":8}}}` + "\n"
	if pid, err := daemonOf([]byte(lines), "/b"); pid != 8 || err != nil {
		t.Errorf("%d, %v", pid, err)
	}
	if _, err := daemonOf([]byte(lines), "/c"); err == nil {
		t.Error("no error for a mount that is not there")
	}
}

func TestFlags(t *testing.T) {
	if got := flags([]string{"-tarn", "bin/tarn", "-o=x.md", "-rounds", "3"}); got != "-rounds 3" {
		t.Errorf("%q", got)
	}
}

// TestBestOrder reads an index back, and adds up one cartridge by hand.
func TestBestOrder(t *testing.T) {
	dir := t.TempDir()
	index := "0 V 1\n0 B 13\n" +
		`0 F 1 100 5 aa bb -1 0 "ctao/c4/cd/f000001.93fc"` + "\n" +
		`0 F 2 100 5 aa bb 3 500 "ctao/c4/cd/f000002.93fc"` + "\n" +
		`0 F 3 100 5 aa bb 3 0 "ctao/c4/cd/other"` + "\n0 T 1 3 100\n0 D 3\n"
	if err := os.WriteFile(filepath.Join(dir, "index"), []byte(index), 0o644); err != nil {
		t.Fatal(err)
	}
	files, err := readIndex(dir, map[string]bool{"f000001": true, "f000002": true, "other": true})
	if err != nil || len(files) != 2 || files["f000001"].cart != 3 || files["f000001"].position != 100 || files["f000002"].size != 100 {
		t.Fatalf("%v, %v", files, err)
	}
	o := library.Options{Drives: 1, CartridgeSize: 1000}
	tm := library.Timing{Robot: time.Second, Mount: 2 * time.Second, Unmount: 3 * time.Second, Seek: 10 * time.Second, Rewind: 20 * time.Second, Rate: 100}
	// Mount 3, seek to 100 and on from 200 to 500: 4, two transfers of a second; it stays in the drive.
	if got := bestOrder(files, o, tm); got != 9*time.Second {
		t.Errorf("%v, want 9s", got)
	}
	// A second cartridge: 3, nothing to seek, 1; and its unmount, the cheaper one: rewind 2, 3, 1.
	files["x"] = taped{cart: 4, size: 100}
	if got := bestOrder(files, o, tm); got != 19*time.Second {
		t.Errorf("%v, want 19s", got)
	}
}

func TestEntries(t *testing.T) {
	var got []string
	for e := range entries("top", 0, 1001, 1000, inTree) {
		got = append(got, fmt.Sprint(e.Info.DID.Name, " ", e.Info.Type))
	}
	if len(got) != 1001+3 || !strings.HasPrefix(got[1], "/ctao/top/d0000 ") || !strings.HasPrefix(got[len(got)-1], "/ctao/top/d0001/run001000.fits ") {
		t.Errorf("%d entries, %v, %v", len(got), got[1], got[len(got)-1])
	}
}
