package report

import (
	"fmt"
	"html/template"
	"math"
	"time"
)

// points is how many a line has at most: more than that cannot be seen.
const points = 240

// thin gives at most n of all, the first and the last among them.
func thin[T any](all []T, n int) []T {
	if len(all) <= n {
		return all
	}
	out := make([]T, 0, n)
	for i := range n {
		out = append(out, all[i*(len(all)-1)/(n-1)])
	}
	return out
}

// throughputChart is bytes a second to first copies over time. A step is no shorter than a
// hundredth of the whole, so that a file that ends is no peak.
func throughputChart(t Test) template.HTML {
	all := thin(t.Sent, points/2)
	if len(all) < 2 {
		return ""
	}
	until := all[len(all)-1].At
	type step struct {
		from, to time.Duration
		rate     float64
	}
	var steps []step
	var limit float64
	last := all[0]
	for i, s := range all[1:] {
		if d := s.At - last.At; d > 0 && (d >= until/100 || i == len(all)-2) {
			steps = append(steps, step{last.At, s.At, max(0, float64(s.Bytes-last.Bytes)/d.Seconds()/1e6)})
			limit = max(limit, steps[len(steps)-1].rate)
			last = s
		}
	}
	if len(steps) == 0 {
		return ""
	}
	limit = ceiling(limit)
	s := newSVG("Throughput of test " + t.Name + ", MB/s over time")
	s.axes(until, limit, "MB/s")
	x := func(d time.Duration) float64 { return left + plotW*float64(d)/float64(until) }
	y := func(v float64) float64 { return top + plotH*(1-v/limit) }
	var pts []point
	for _, st := range steps {
		pts = append(pts, point{x(st.from), y(st.rate)}, point{x(st.to), y(st.rate)})
	}
	s.path(pts, "l s0")
	if mean := float64(all[len(all)-1].Bytes) / until.Seconds() / 1e6; mean > 0 && mean <= limit {
		s.line(left, y(mean), left+plotW, y(mean), "d")
		s.text(left+plotW+14, y(mean)+4, "q", "start", "mean "+number(mean))
	}
	return s.end()
}

// stagesChart is how many files have come to each stage, over time.
func stagesChart(t Test) template.HTML {
	all := thin(t.Stages, points)
	if len(all) < 2 || all[len(all)-1].At <= 0 {
		return ""
	}
	until := all[len(all)-1].At
	limit := float64(t.Files)
	for _, s := range all {
		for _, n := range s.Files {
			limit = max(limit, float64(n))
		}
	}
	limit = ceiling(limit)
	s := newSVG("Files per stage of test " + t.Name + " over time")
	s.axes(until, limit, "files")
	for k, name := range StageNames {
		var pts []point
		for _, m := range all {
			pts = append(pts, point{left + plotW*float64(m.At)/float64(until), top + plotH*(1-float64(m.Files[k])/limit)})
		}
		s.path(pts, fmt.Sprintf("l s%d", k))
		s.legend(k, name)
	}
	return s.end()
}

// latencyChart is the histogram of a distribution over a logarithmic axis of time.
func latencyChart(d Distribution) template.HTML {
	if len(d.Buckets) == 0 || d.Files == 0 {
		return ""
	}
	from := math.Log10(float64(d.Buckets[0].UpTo)) - float64(stepsPerBucket)/stepsPerDecade
	to := math.Log10(float64(d.Buckets[len(d.Buckets)-1].UpTo))
	var most int64
	for _, b := range d.Buckets {
		most = max(most, b.Files)
	}
	// A single bucket would be a picture of nothing.
	from, to = min(from, to-0.5), to+0.1
	limit := ceiling(float64(most))
	x := func(v time.Duration) float64 {
		at := (math.Log10(float64(max(v, 1))) - from) / (to - from)
		return left + plotW*min(max(at, 0), 1)
	}
	s := newSVG(d.Name)
	for i := range 5 {
		part := float64(i) / 4
		y := top + plotH*(1-part)
		s.line(left, y, left+plotW, y, "g")
		s.text(left-6, y+4, "q", "end", number(limit*part))
		s.text(left+plotW*part, top+plotH+18, "q", "middle", took(time.Duration(math.Pow(10, from+(to-from)*part))))
	}
	s.text(left+plotW+34, top+plotH+18, "q", "start", "files")
	before := time.Duration(math.Pow(10, from))
	if first := float64(d.Buckets[0].UpTo); len(d.Buckets) > 1 {
		before = time.Duration(first / (float64(d.Buckets[1].UpTo) / first))
	}
	for _, b := range d.Buckets {
		if b.Files > 0 {
			h := max(plotH*float64(b.Files)/limit, 1)
			s.rect(x(before)+0.5, top+plotH-h, max(x(b.UpTo)-x(before)-1, 1), h, "f0")
		}
		before = b.UpTo
	}
	for i, m := range []struct {
		name string
		v    time.Duration
	}{{"median", d.Median}, {"95 %", d.P95}, {"99 %", d.P99}} {
		s.line(x(m.v), top, x(m.v), top+plotH, "d")
		s.text(left+plotW+14, top+10+18*float64(i), "q", "start", m.name+" "+took(m.v))
	}
	return s.end()
}
