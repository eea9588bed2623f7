package replication

import "math"

// shares is stride scheduling: of all that are ready each gets its weight's share of what is charged, whoever
// asks for more, and none waits for ever. Who was away has no credit for that time.
type shares[K comparable] struct {
	passed map[K]float64 // what each was charged, by its weight
	now    float64       // what who was served last had passed then
}

// maxShares bounds those that are remembered.
const maxShares = 1024

// next gives the one of ready, which is not empty, whose turn it is; the first of those that are even.
func (s *shares[K]) next(ready []K) K {
	best, least := ready[0], math.Inf(1)
	for _, k := range ready {
		if p := max(s.passed[k], s.now); p < least {
			best, least = k, p
		}
	}
	return best
}

// charge notes that k was served.
func (s *shares[K]) charge(k K, cost, weight float64) {
	if s.passed == nil {
		s.passed = map[K]float64{}
	}
	s.now = max(s.passed[k], s.now)
	s.passed[k] = s.now + cost/weight
	if len(s.passed) <= maxShares {
		return
	}
	for k, p := range s.passed {
		if p <= s.now || len(s.passed) > 2*maxShares {
			delete(s.passed, k)
		}
	}
}
