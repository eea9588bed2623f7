package tune

import (
	"math"
	"testing"
	"time"
)

// model is a way to a destination: each copy takes its latency and then its bytes at what the link has for it.
type model struct {
	latency   time.Duration
	each, all float64 // bytes a second of one copy, and of the link
	knee      int     // copies beyond which the server slows down; 0: none
}

func (m model) rate(n int, size float64) (files float64) {
	bw := math.Min(m.each, m.all/float64(n))
	if m.knee > 0 && n > m.knee {
		bw *= float64(m.knee) / float64(n) / 1.5
	}
	return float64(n) / (m.latency.Seconds() + size/bw)
}

// run lets the tuner work for some time by a clock of its own.
func (m model) run(t *Tuner, now time.Time, size float64, lasts time.Duration) time.Time {
	for end := now.Add(lasts); now.Before(end); {
		step := time.Duration(float64(time.Second) / m.rate(t.limit, size))
		now = now.Add(step)
		t.Note(now, 1, int64(size))
	}
	return now
}

// The number of copies at a time finds its level: many of small files, few of large ones.
func TestTunerFindsItsLevel(t *testing.T) {
	const mb = 1e6
	for _, c := range []struct {
		name        string
		m           model
		size        float64
		least, most int
	}{
		{"small files, far away", model{100 * time.Millisecond, 50 * mb, 1000 * mb, 0}, 0.1 * mb, 24, 32},
		{"large files, one fills the link", model{50 * time.Millisecond, 1000 * mb, 1000 * mb, 0}, 1500 * mb, 2, 4},
		{"large files, eight fill the link", model{50 * time.Millisecond, 125 * mb, 1000 * mb, 0}, 1500 * mb, 6, 12},
		{"a server that slows down", model{20 * time.Millisecond, 50 * mb, 1e6 * mb, 8}, 10 * mb, 6, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := New(2, 32)
			now := c.m.run(&u, time.Unix(0, 0), c.size, 30*time.Minute)
			for range 20 {
				now = c.m.run(&u, now, c.size, time.Minute)
				if u.base < c.least || u.base > c.most || u.limit < 2 || u.limit > 32 {
					t.Errorf("after %s: %d at a time, trying %d; want %d to %d", now.Sub(time.Unix(0, 0)), u.base, u.limit, c.least, c.most)
				}
			}
		})
	}
}

// 32,000 small files after large ones do not crawl: what is copied changes, and so does the number.
func TestTunerNoticesAChange(t *testing.T) {
	m := model{100 * time.Millisecond, 1e9, 1e9, 0}
	u := New(2, 32)
	now := m.run(&u, time.Unix(0, 0), 1.5e9, 10*time.Minute)
	if u.base > 6 {
		t.Errorf("%d large ones at a time", u.base)
	}
	began, files := now, 0
	for ; files < 32_000; files++ {
		now = now.Add(time.Duration(float64(time.Second) / m.rate(u.limit, 1e5)))
		u.Note(now, 1, 1e5)
	}
	took := now.Sub(began)
	best := time.Duration(32_000 / m.rate(32, 1e5) * float64(time.Second))
	if took > best*3/2 {
		t.Errorf("%s; with 32 at a time from the start %s", took, best)
	}
}

// What is measured while too little is wanted says nothing.
func TestTunerIgnoresIdleTime(t *testing.T) {
	u := New(2, 32)
	now := time.Unix(0, 0)
	for range 10_000 {
		now = now.Add(time.Minute)
		u.Note(now, 1, 1000)
		u.Idle()
	}
	if u.limit != 2 || u.best != 0 {
		t.Errorf("%+v", u)
	}
}
