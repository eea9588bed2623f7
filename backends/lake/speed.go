package lake

import (
	"math"
	"sync"
	"time"
)

// Speed is what was measured of the reads of an RSE lately.
type Speed struct {
	Rate    float64       `json:"rate"`       // bytes a second of one read; 0: not known
	Latency time.Duration `json:"latency_ns"` // of a small read; 0: not known
	Active  int           `json:"active"`     // reads under way
}

const (
	// smallRead is up to where a read tells of latency rather than of bandwidth.
	smallRead = 128 << 10
	// fresh is how much a new measurement counts beside all before it.
	fresh = 0.2
	// forgotten is after what time without reads nothing is known any more, so that who was slow is tried again.
	forgotten = 10 * time.Minute
)

// meter keeps decaying averages, by RSE.
type meter struct {
	now func() time.Time

	mu sync.Mutex // guards the rest
	of map[string]*measured
}

type measured struct {
	perByte, latency float64 // seconds; of time rather than of rate, so that one read that hung counts
	at               time.Time
	active           int
}

func newMeter(now func() time.Time) *meter { return &meter{now: now, of: map[string]*measured{}} }

// rseLocked gives what is known of an RSE, and nothing when that is old.
func (m *meter) rseLocked(rse string) *measured {
	x := m.of[rse]
	if x == nil {
		x = &measured{}
		m.of[rse] = x
	}
	if now := m.now(); x.active == 0 && now.Sub(x.at) > forgotten {
		x.perByte, x.latency = 0, 0
	}
	return x
}

// begin counts a read of n bytes; end tells how long it took, or with ok false that it says nothing.
func (m *meter) begin(rse string, n int) (end func(took time.Duration, ok bool)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rseLocked(rse).active++
	return func(took time.Duration, ok bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		x := m.of[rse]
		if x.active--; !ok {
			return
		}
		x.at = m.now()
		s := max(took, time.Microsecond).Seconds()
		if n <= smallRead {
			x.latency = blend(x.latency, s)
			return
		}
		// What the latency takes of it is no matter of bandwidth.
		x.perByte = blend(x.perByte, max(s-x.latency, s/4)/float64(n))
	}
}

func blend(old, now float64) float64 {
	if old == 0 {
		return now
	}
	return old + fresh*(now-old)
}

// speed tells what is known.
func (m *meter) speed(rse string) Speed {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.rseLocked(rse)
	v := Speed{Latency: time.Duration(x.latency * float64(time.Second)), Active: x.active}
	if x.perByte > 0 {
		v.Rate = 1 / x.perByte
	}
	return v
}

// expect tells how long a read of n bytes takes as a rule; 0: not known.
func (s Speed) expect(n int) time.Duration {
	switch {
	case s.Rate > 0:
		return s.Latency + time.Duration(float64(n)/s.Rate*float64(time.Second))
	case n <= smallRead:
		return s.Latency
	}
	return 0
}

// effective is the rate that one more reader can hope for.
func (s Speed) effective() float64 { return s.Rate / (1 + float64(s.Active)/4) }

// slowness is in how many halvings s is behind the best; 0 for what is not known, and within half of the best.
func (s Speed) slowness(best float64) int {
	if s.Rate == 0 || best == 0 {
		return 0
	}
	return max(0, int(math.Log2(best/s.effective())))
}
