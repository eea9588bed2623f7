package replication

import (
	"fmt"
	"math"
	"testing"

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
