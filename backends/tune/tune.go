// Package tune finds how many of the same kind of work at a time bring most.
package tune

import "time"

// Tuner finds how many copies at a time bring most to a destination: it doubles their number as long as that pays,
// and then tries a quarter more and a quarter less now and then. What counts is bytes a second, with each
// file worth some more for what it costs whatever its size; so it ends with many at a time where files are small
// or the way is long, and with few where they are large.
type Tuner struct {
	least, most int
	limit       int // what is tried now

	began time.Time // the window; zero: none
	files int
	bytes int64

	phase tuning
	base  int     // what has proved best so far
	best  float64 // and its rate
	hold  int     // windows until the next trial
	rest  int     // what hold begins with, doubled for each trial in vain
	less  bool    // the next trial is with fewer
}

type tuning int

const (
	doubling tuning = iota
	holding
	trying
)

const (
	window     = time.Second      // of a measurement, at least; and until each copy has ended twice, or
	windowMost = 10 * time.Second // this has passed
	// PerFile is what a file counts beside its bytes.
	PerFile  = 1 << 20
	restMin  = 4
	restMost = 32
)

// New begins with the least.
func New(least, most int) Tuner {
	return Tuner{least: least, most: most, limit: least, base: least, rest: restMin}
}

// Limit is how many may run now.
func (t *Tuner) Limit() int { return t.limit }

// Idle is told when fewer copies run than may: what is measured then says nothing.
func (t *Tuner) Idle() { t.began, t.files, t.bytes = time.Time{}, 0, 0 }

// Note is told, while as many copies run as may, that files have ended and bytes have moved since the last time.
func (t *Tuner) Note(now time.Time, files int, bytes int64) {
	if t.began.IsZero() {
		t.began = now
		return
	}
	t.files += files
	t.bytes += bytes
	took := now.Sub(t.began)
	if took < window || t.files < 2*t.limit && took < windowMost {
		return
	}
	rate := (float64(t.bytes) + PerFile*float64(t.files)) / took.Seconds()
	t.Idle()
	t.judge(rate)
}

func (t *Tuner) judge(rate float64) {
	switch t.phase {
	case doubling:
		if t.best > 0 && rate < 1.2*t.best {
			t.settle()
			return
		}
		t.base, t.best = t.limit, rate
		if t.limit == t.most {
			t.settle()
			return
		}
		t.limit = min(2*t.limit, t.most)
	case holding:
		if rate < t.best/2 || rate > 2*t.best { // something else is copied now
			t.phase, t.best = doubling, 0
			t.judge(rate)
			return
		}
		t.best += 0.3 * (rate - t.best)
		if t.hold--; t.hold <= 0 {
			t.phase = trying
			t.try()
		}
	case trying:
		better := rate > 1.05*t.best
		if t.limit < t.base {
			better = rate > 0.99*t.best // as much with fewer
		}
		if !better {
			t.less = !t.less
			t.rest = min(2*t.rest, restMost)
			t.settle()
			return
		}
		t.base, t.best, t.rest = t.limit, rate, restMin
		t.try()
	}
}

// settle goes back to what is best, for a while.
func (t *Tuner) settle() { t.phase, t.limit, t.hold = holding, t.base, t.rest }

// try takes the next step from what is best.
func (t *Tuner) try() {
	step := max(1, t.base/4)
	if t.less {
		step = -step
	}
	t.limit = min(max(t.base+step, t.least), t.most)
	if t.limit == t.base {
		t.less = !t.less
		t.settle()
	}
}
