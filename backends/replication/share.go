package replication

import "math"

// shares is fair queueing: of all that are ready each gets its weight's share of what is charged, whoever
// asks for more, and none waits for ever. Who was away has no credit for that time.
type shares[K comparable] struct {
	of    map[K]*share
	now   float64 // what who was served last had passed before
	round uint64
}

type share struct {
	passed float64 // what it was charged, by its weight
	seen   uint64  // the last round in which it was ready
}

// maxShares bounds those that are remembered.
const maxShares = 1024

// next gives the one of ready, which is not empty, whose turn it is: the one that would be done first with what it asks for,
// which is cost by its weight; the first of those that are even.
func (s *shares[K]) next(ready []K, cost func(K) float64) K {
	if s.of == nil || len(s.of) > maxShares {
		s.forget()
	}
	s.round++
	best, least := ready[0], math.Inf(1)
	for _, k := range ready {
		x := s.of[k]
		if x == nil {
			x = &share{}
			s.of[k] = x
		}
		if x.seen != s.round-1 { // it was away
			x.passed = max(x.passed, s.now)
		}
		x.seen = s.round
		if p := x.passed + cost(k); p < least {
			best, least = k, p
		}
	}
	return best
}

// charge notes that the one which next gave was served with so much, by its weight.
func (s *shares[K]) charge(k K, cost float64) {
	x := s.of[k]
	s.now = max(s.now, x.passed)
	x.passed += cost
}

// forget drops those that were not ready lately.
func (s *shares[K]) forget() {
	old := s.of
	s.of = map[K]*share{}
	for k, x := range old {
		if x.seen == s.round {
			s.of[k] = x
		}
	}
}
