package replication

import (
	"fmt"
	"math"
	"testing"
	"time"

	"tarn/backends"
)

func (d *dest) fill(n int, c class, urgent bool, source string, size int64) {
	for i := range n {
		m := &move{key: key{backends.DID{Scope: "s", Name: fmt.Sprint(c, source, urgent, i)}, d.name}, in: backends.Info{Size: size}, class: c, urgent: urgent, source: source, state: Queued}
		d.put(m)
	}
}

func testDest() *dest { return newDest("B", Options{MinWorkers: 2, MaxWorkers: 32}) }

var noLinks = &links{bound: map[[2]string]int{}, forbids: func(string) bool { return false }}

// drain takes n copies, and gives the bytes of each name.
func (d *dest) drain(n int, weight func(string) float64, name func(*move) string) map[string]float64 {
	got := map[string]float64{}
	for range n {
		m := d.next(noLinks, weight)
		if m == nil {
			break
		}
		got[name(m)] += float64(m.in.Size)
	}
	return got
}

func even(string) float64 { return 1 }

// Activities share a destination by their weights, however large their files are and however many wait.
func TestFairShare(t *testing.T) {
	d := testDest()
	d.fill(800, class{"raw", 3}, false, "A", 10<<20)
	d.fill(2000, class{"user", 3}, false, "A", 2<<20)
	d.fill(300, class{"tests", 1}, true, "A", 100<<20)
	weight := func(a string) float64 { return map[string]float64{"raw": 3, "user": 1, "tests": 1}[a] }
	got := d.drain(600, weight, func(m *move) string { return m.class.activity })
	// What counts is the bytes and something for each file: 11 of 10, 3 of 2, 101 of 100 MiB.
	raw, user, tests := got["raw"]*1.1, got["user"]*1.5, got["tests"]*1.01
	if math.Abs(raw/user-3) > 0.3 || math.Abs(tests/user-1) > 0.2 {
		t.Errorf("raw %.0f MiB, user %.0f, tests %.0f", raw/(1<<20), user/(1<<20), tests/(1<<20))
	}
}

// The most urgent go first by far, and the least urgent all the same.
func TestNothingStarves(t *testing.T) {
	d := testDest()
	urgent, least := class{"", 5}, class{"", 1}
	d.fill(1, least, false, "A", 1<<20)
	n := 0
	for ; n < 5000; n++ {
		if d.waiting(urgent) < 10 { // there are always more
			d.fill(10, urgent, true, "A", 1<<20)
		}
		if m := d.next(noLinks, even); m.class == least {
			break
		}
	}
	if n < 100 || n > 400 { // 3^4 times the weight, and 4 times for being urgent
		t.Errorf("it was taken after %d others", n)
	}
	// Who comes late is not served for all the time that it was away.
	d.fill(100, urgent, true, "A", 1<<20)
	d.fill(100, class{"late", 3}, false, "A", 1<<20)
	got := d.drain(40, even, func(m *move) string { return m.class.activity })
	if got["late"] > 22<<20 || got["late"] < 18<<20 {
		t.Errorf("who came late got %v", got)
	}
}

func TestPriorities(t *testing.T) {
	d := testDest()
	for p := 1; p <= 5; p++ {
		d.fill(400, class{"", p}, false, "A", 1<<20)
	}
	got := d.drain(363, even, func(m *move) string { return fmt.Sprint(m.class.priority) })
	for p := 2; p <= 5; p++ {
		if ratio := got[fmt.Sprint(p)] / got[fmt.Sprint(p-1)]; ratio < 2 || ratio > 4 {
			t.Errorf("priority %d gets %.1f times of the one below: %v", p, ratio, got)
		}
	}
	if got["1"] == 0 {
		t.Errorf("the lowest gets nothing: %v", got)
	}
}

// Of several links into a destination the one with the least under way goes on, and a full one holds nobody up.
func TestLinksIntoOneDestination(t *testing.T) {
	d := testDest()
	c := class{"", 3}
	d.fill(100, c, false, "A", 1)
	d.fill(100, c, false, "C", 1)
	bound := &links{bound: map[[2]string]int{{"A", "B"}: 2}, forbids: noLinks.forbids}
	var got []string
	for range 8 {
		m := d.next(bound, even)
		d.links[m.source]++
		got = append(got, m.source)
	}
	if fmt.Sprint(got) != "[A C A C C C C C]" {
		t.Errorf("order is %v", got)
	}
}

func TestSharesAreBounded(t *testing.T) {
	var s shares[int]
	for i := range 10 * maxShares {
		s.charge(s.next([]int{i}, func(int) float64 { return 1 }), 1)
	}
	if len(s.of) > 2*maxShares {
		t.Errorf("%d are remembered", len(s.of))
	}
}

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
func (m model) run(t *tuner, now time.Time, size float64, lasts time.Duration) time.Time {
	for end := now.Add(lasts); now.Before(end); {
		step := time.Duration(float64(time.Second) / m.rate(t.limit, size))
		now = now.Add(step)
		t.note(now, 1, int64(size))
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
			u := newTuner(2, 32)
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
	u := newTuner(2, 32)
	now := m.run(&u, time.Unix(0, 0), 1.5e9, 10*time.Minute)
	if u.base > 6 {
		t.Errorf("%d large ones at a time", u.base)
	}
	began, files := now, 0
	for ; files < 32_000; files++ {
		now = now.Add(time.Duration(float64(time.Second) / m.rate(u.limit, 1e5)))
		u.note(now, 1, 1e5)
	}
	took := now.Sub(began)
	best := time.Duration(32_000 / m.rate(32, 1e5) * float64(time.Second))
	if took > best*3/2 {
		t.Errorf("%s; with 32 at a time from the start %s", took, best)
	}
}

// What is measured while too little is wanted says nothing.
func TestTunerIgnoresIdleTime(t *testing.T) {
	u := newTuner(2, 32)
	now := time.Unix(0, 0)
	for range 10_000 {
		now = now.Add(time.Minute)
		u.note(now, 1, 1000)
		u.idle()
	}
	if u.limit != 2 || u.best != 0 {
		t.Errorf("%+v", u)
	}
}
