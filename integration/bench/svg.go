package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Charts, as small SVG files that can be read on a light and on a dark page: they follow
// what the reader prefers.

const svgStyle = `<style>
text{font:12px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:13px}.q{fill:#57606a}
.g{stroke:#d0d7de}.m{stroke:#24292f;stroke-width:2}
.c0{fill:#0969da}.c1{fill:#1a7f37}.c2{fill:#bc4c00}.c3{fill:#8250df}.c4{fill:#9a6700}.c5{fill:#cf222e}.c6{fill:#6e7781}
.l0{stroke:#0969da}.l1{stroke:#1a7f37}.l2{stroke:#bc4c00}.l3{stroke:#8250df}.l4{stroke:#9a6700}.l5{stroke:#cf222e}.l{fill:none;stroke-width:2}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.q{fill:#9198a1}.g{stroke:#3d444d}.m{stroke:#e6edf3}
.c0{fill:#4493f8}.c1{fill:#3fb950}.c2{fill:#f0883e}.c3{fill:#ab7df8}.c4{fill:#d29922}.c5{fill:#f85149}.c6{fill:#9198a1}
.l0{stroke:#4493f8}.l1{stroke:#3fb950}.l2{stroke:#f0883e}.l3{stroke:#ab7df8}.l4{stroke:#d29922}.l5{stroke:#f85149}}
</style>
`

// svg builds one picture.
type svg struct {
	b    strings.Builder
	w, h int
}

func newSVG(w, h int, title string) *svg {
	s := &svg{w: w, h: h}
	fmt.Fprintf(&s.b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\">\n<title>%s</title>\n%s", w, h, w, h, html.EscapeString(title), svgStyle)
	s.text(10, 18, "t", "start", title)
	return s
}

func (s *svg) text(x, y float64, class, anchor, text string) {
	fmt.Fprintf(&s.b, "<text x=\"%.4g\" y=\"%.4g\" class=\"%s\" text-anchor=\"%s\">%s</text>\n", x, y, class, anchor, html.EscapeString(text))
}

func (s *svg) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(&s.b, "<line x1=\"%.4g\" y1=\"%.4g\" x2=\"%.4g\" y2=\"%.4g\" class=\"%s\"/>\n", x1, y1, x2, y2, class)
}

func (s *svg) rect(x, y, w, h float64, class string) {
	fmt.Fprintf(&s.b, "<rect x=\"%.4g\" y=\"%.4g\" width=\"%.4g\" height=\"%.4g\" class=\"%s\"/>\n", x, y, max(w, 1), h, class)
}

func (s *svg) end() string { return s.b.String() + "</svg>\n" }

// bar is one bar of a chart.
type bar struct {
	label string
	value float64
	tick  float64 // what is aimed at; 0: none
	class string
	text  string // behind the bar; default the value
}

// bars draws horizontal bars from 0 to at most limit; what is longer is cut and says its value.
// A line stands at 1.
func bars(title string, limit float64, all []bar) string {
	const w, left, right, row = 860, 400, 90, 20
	s := newSVG(w, 46+row*len(all), title)
	x := func(v float64) float64 { return left + min(v, limit)/limit*(w-left-right) }
	for v := 0.0; v <= limit; v += limit / 4 {
		s.line(x(v), 30, x(v), float64(36+row*len(all)), "g")
	}
	for i, b := range all {
		y := float64(34 + row*i)
		s.text(left-8, y+13, "", "end", b.label)
		if b.value > 0 {
			s.rect(left, y+3, x(b.value)-left, row-6, b.class)
		}
		t := b.text
		if t == "" {
			t = number(b.value)
		}
		s.text(x(b.value)+5, y+13, "q", "start", t)
		if b.tick > 0 {
			s.line(x(b.tick), y+1, x(b.tick), y+row-1, "m")
		}
	}
	return s.end()
}

// series is one line of a chart.
type series struct {
	name string
	x, y []float64
}

// lines draws series over a logarithmic x axis and a logarithmic y axis.
func lines(title, unitX, unitY string, all []series) string {
	const w, h, left, right, top, bottom = 720, 340, 70, 210, 34, 40
	s := newSVG(w, h, title)
	x0, x1, y0, y1 := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, r := range all {
		for i := range r.x {
			x0, x1, y0, y1 = min(x0, r.x[i]), max(x1, r.x[i]), min(y0, r.y[i]), max(y1, r.y[i])
		}
	}
	if x0 > x1 || x0 <= 0 || y0 <= 0 {
		return "" // nothing that could be drawn
	}
	y0, y1 = math.Pow(10, math.Floor(math.Log10(y0))), math.Pow(10, math.Ceil(math.Log10(y1)))
	at := func(v, a, b, from, to float64) float64 {
		if a == b {
			return (from + to) / 2
		}
		return from + math.Log(v/a)/math.Log(b/a)*(to-from)
	}
	px := func(v float64) float64 { return at(v, x0, x1, left, w-right) }
	py := func(v float64) float64 { return at(v, y0, y1, h-bottom, top) }
	for v := y0; v <= y1*1.001; v *= 10 {
		s.line(left, py(v), w-right, py(v), "g")
		s.text(left-6, py(v)+4, "q", "end", number(v))
	}
	marked := map[float64]bool{}
	for i, r := range all {
		var pts []string
		for k := range r.x {
			pts = append(pts, fmt.Sprintf("%.4g,%.4g", px(r.x[k]), py(r.y[k])))
			fmt.Fprintf(&s.b, "<circle cx=\"%.4g\" cy=\"%.4g\" r=\"3\" class=\"c%d\"/>\n", px(r.x[k]), py(r.y[k]), i%6)
			if !marked[r.x[k]] {
				marked[r.x[k]] = true
				s.text(px(r.x[k]), h-bottom+16, "q", "middle", number(r.x[k]))
			}
		}
		fmt.Fprintf(&s.b, "<polyline points=\"%s\" class=\"l l%d\"/>\n", strings.Join(pts, " "), i%6)
		y := float64(top + 10 + 18*i)
		s.rect(w-right+16, y-9, 10, 10, fmt.Sprintf("c%d", i%6))
		s.text(w-right+32, y, "", "start", r.name)
	}
	s.text((left+w-right)/2, h-6, "q", "middle", unitX)
	s.text(left, top-4, "q", "start", unitY)
	return s.end()
}

// ratioChart is the mount's speed as part of the bare folder's, for every row that has both.
func ratioChart(rows []*row) string {
	var all []bar
	for _, r := range rows {
		q := r.ratio(1)
		if math.IsNaN(q) {
			continue
		}
		b := bar{label: r.name, value: q, tick: r.target, class: "c6"}
		if r.lower {
			b.value = 1 / q
			if r.target > 0 {
				b.tick = 1 / r.target
			}
		}
		if met, ok := r.met(); ok {
			b.class = map[bool]string{true: "c1", false: "c2"}[met]
		}
		all = append(all, b)
	}
	if len(all) == 0 {
		return ""
	}
	return bars("Speed of the mount; the bare folder is 1; green: as aimed at", 1.6, all)
}
