package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// place is where a side of a row works.
type place struct {
	name, dir string
	bare      bool
	round     int
}

// job is a row's work. run returns how many units it did; the value is units per second,
// or seconds when less is better, or what run returned when raw is set.
type job struct {
	name, unit    string
	lower, raw    bool
	target        float64 // of the ratio to the bare folder; 0: none
	limit         float64 // of the mount's own value; 0: none
	rounds        int     // at most; 0: as many as asked for
	alone         bool    // on the mount only
	root          bool    // needs root
	missing       string  // why it cannot be measured
	note          string
	before, after func(at place) error // not timed
	run           func(at place) (float64, error)
}

// row is what came of a job: values[side][round].
type row struct {
	*job
	sides  []string
	values [][]float64
	why    string // why there is none
	// failures says why a side has none.
	failures map[int]string
}

// section is a group of rows that share lakes.
type section struct {
	title    string
	jobs     []*job
	optional bool // a run goes on without it, and says why
	// setUp makes what the jobs need, and gives the sides (the bare folder first, the
	// mount next) and what ends it.
	setUp func() (sides []place, tearDown func() error, err error)
}

// measure runs the wanted jobs of a section. A job that fails is a row that says why.
func (b *bench) measure(s section) (rows []*row, err error) {
	var todo []*job
	for _, j := range s.jobs {
		if b.wanted(j.name) {
			todo = append(todo, j)
		}
	}
	if len(todo) == 0 {
		return nil, nil
	}
	step("%s", s.title)
	sides, tearDown, err := s.setUp()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.title, err)
	}
	defer func() {
		if terr := tearDown(); terr != nil && err == nil {
			err = terr
		}
	}()
	for _, j := range todo {
		r := b.measureJob(j, sides)
		if err := b.ctx.Err(); err != nil {
			return nil, err
		}
		step("%s", r.line())
		rows = append(rows, r)
	}
	return rows, nil
}

func (b *bench) measureJob(j *job, sides []place) *row {
	r := &row{job: j, why: j.missing, failures: map[int]string{}}
	if r.why == "" && j.root && !isRoot {
		r.why = "needs root"
	}
	for _, s := range sides {
		r.sides = append(r.sides, s.name)
	}
	r.values = make([][]float64, len(sides))
	if r.why != "" {
		return r
	}
	spent := make([]time.Duration, len(sides))
	rounds := b.o.rounds
	if j.rounds > 0 {
		rounds = min(rounds, j.rounds)
	}
	for i := range rounds {
		for k := range sides {
			n := (i + k) % len(sides)
			at := sides[n]
			at.round = i
			if b.gone[at.name] {
				r.failures[n] = "no answer before"
			}
			if j.alone && at.bare || r.failures[n] != "" || b.ctx.Err() != nil {
				continue
			}
			left := b.limit - spent[n]
			if b.limit > 0 && left <= 0 {
				continue // what it has has to do
			}
			began := time.Now()
			v, err := b.once(j, at, left)
			spent[n] += time.Since(began)
			if err != nil {
				step("%s: %s: %v", j.name, at.name, err)
				r.failures[n], r.values[n] = b.plain(err), nil
				if len(sides) <= 2 {
					r.why = r.failures[n]
				}
				continue
			}
			r.values[n] = append(r.values[n], v)
		}
	}
	return r
}

// once runs a job once, and for so long at most if there is a limit: a side that is over it
// is not asked again, for it is still busy.
func (b *bench) once(j *job, at place, left time.Duration) (v float64, err error) {
	if b.limit == 0 {
		return j.once(at)
	}
	done := make(chan struct{})
	var got float64
	var gotErr error
	go func() { got, gotErr = j.once(at); close(done) }()
	select {
	case <-done:
		return got, gotErr
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	case <-time.After(left):
		if b.gone == nil {
			b.gone = map[string]bool{}
		}
		b.gone[at.name] = true
		return 0, fmt.Errorf("more than %v", b.limit)
	}
}

func (j *job) once(at place) (v float64, err error) {
	if j.before != nil {
		if err := j.before(at); err != nil {
			return 0, err
		}
	}
	t := time.Now()
	n, err := j.run(at)
	d := time.Since(t).Seconds()
	if err != nil {
		return 0, err
	}
	if j.after != nil {
		if err := j.after(at); err != nil {
			return 0, err
		}
	}
	switch {
	case j.raw:
		return n, nil
	case j.lower:
		return d, nil
	}
	return n / d, nil
}

// ratio is the median of the rounds' ratios of side n to the first: what disturbs one round
// of an interleaved run disturbs both. NaN when one of them has no values.
func (r *row) ratio(n int) float64 {
	if r.why != "" || n >= len(r.values) || len(r.values[0]) == 0 || len(r.values[n]) == 0 {
		return math.NaN()
	}
	var q []float64
	for i := range min(len(r.values[0]), len(r.values[n])) {
		q = append(q, r.values[n][i]/r.values[0][i])
	}
	return median(q)
}

// met tells whether the aim is reached; ok is false when there is none or no value.
func (r *row) met() (met, ok bool) {
	if r.why != "" || len(r.values) < 2 || len(r.values[1]) == 0 {
		return false, false
	}
	switch q := r.ratio(1); {
	case r.limit > 0 && r.lower:
		return median(r.values[1]) <= r.limit, true
	case r.limit > 0:
		return median(r.values[1]) >= r.limit, true
	case r.target == 0 || math.IsNaN(q):
		return false, false
	case r.lower:
		return q <= r.target, true
	default:
		return q >= r.target, true
	}
}

// line is the row for who watches.
func (r *row) line() string {
	if r.why != "" {
		return fmt.Sprintf("  %-58s %s", r.name, r.why)
	}
	s := fmt.Sprintf("  %-58s", r.name)
	for n, v := range r.values {
		if len(v) > 0 {
			s += fmt.Sprintf(" %s %s", r.sides[n], number(median(v)))
		}
	}
	s += " " + r.unit
	if q := r.ratio(1); !math.IsNaN(q) {
		s += fmt.Sprintf(", ratio %.2f", q)
	}
	if met, ok := r.met(); ok {
		s += map[bool]string{true: ", met", false: ", not met"}[met]
	}
	return s
}

// median of v; NaN when v is empty.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 0 {
		return (s[len(s)/2-1] + s[len(s)/2]) / 2
	}
	return s[len(s)/2]
}
