package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
	"time"
)

// Charts are SVG inside the page and take their colours from its style, by class.
const (
	chartW, chartH                   = 720, 260
	left, right, top, bottom         = 64.0, 130.0, 14.0, 34.0
	plotW, plotH             float64 = chartW - left - right, chartH - top - bottom
)

// svg builds one picture.
type svg struct{ b strings.Builder }

func newSVG(title string) *svg {
	s := &svg{}
	fmt.Fprintf(&s.b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img"><title>%s</title>`+"\n", chartW, chartH, text(title))
	return s
}

func (s *svg) text(x, y float64, class, anchor, t string) {
	fmt.Fprintf(&s.b, `<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>`+"\n", x, y, class, anchor, text(t))
}

func (s *svg) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(&s.b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`+"\n", x1, y1, x2, y2, class)
}

func (s *svg) rect(x, y, w, h float64, class string) {
	fmt.Fprintf(&s.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" class="%s"/>`+"\n", x, y, w, h, class)
}

// path draws a line through points; one point is no line.
func (s *svg) path(pts []point, class string) {
	fmt.Fprintf(&s.b, `<polyline points="`)
	for _, p := range pts {
		fmt.Fprintf(&s.b, "%.1f,%.1f ", p.x, p.y)
	}
	fmt.Fprintf(&s.b, `" class="%s"/>`+"\n", class)
}

func (s *svg) legend(i int, name string) {
	y := top + 8 + 18*float64(i)
	s.rect(left+plotW+14, y-8, 10, 10, fmt.Sprintf("f%d", i))
	s.text(left+plotW+30, y+1, "q", "start", name)
}

func (s *svg) end() template.HTML { return template.HTML(s.b.String() + "</svg>") }

// text escapes t, and drops what may stand in no XML at all.
func text(t string) string {
	return html.EscapeString(strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' || r == 0xFFFE || r == 0xFFFF {
			return -1
		}
		return r
	}, strings.ToValidUTF8(t, "�")))
}

type point struct{ x, y float64 }

// ceiling is the next round number at or above v: 1, 2, 2.5 or 5 times a power of ten.
func ceiling(v float64) float64 {
	if v <= 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 2.5, 5} {
		if v <= m*p*1.0001 {
			return m * p
		}
	}
	return 10 * p
}

// axes draws the frame of a plot over time; until is its end, limit the top of the y axis.
func (s *svg) axes(until time.Duration, limit float64, unit string) {
	for i := range 5 {
		part := float64(i) / 4
		y := top + plotH*(1-part)
		s.line(left, y, left+plotW, y, "g")
		s.text(left-6, y+4, "q", "end", number(limit*part))
		x := left + plotW*part
		s.line(x, top+plotH, x, top+plotH+4, "g")
		s.text(x, top+plotH+18, "q", "middle", took(time.Duration(float64(until)*part)))
	}
	s.text(left+plotW+34, top+plotH+18, "q", "start", unit)
}
