package ranges

import (
	"errors"
	"iter"
	"math/bits"
)

// Set is a set of block numbers in [0, Len). The zero value is the empty set of nothing.
// It is not safe for concurrent use.
type Set struct {
	words []uint64
	n     int
	count int
}

// NewSet gives an empty set of numbers below n.
func NewSet(n int) Set { return Set{words: make([]uint64, (n+63)/64), n: n} }

// FromWords makes a set of numbers below n out of what Words gave.
func FromWords(n int, words []uint64) (Set, error) {
	if n < 0 || len(words) != (n+63)/64 {
		return Set{}, errors.New("ranges: set and its length disagree")
	}
	s := Set{words: words, n: n}
	for _, w := range words {
		s.count += bits.OnesCount64(w)
	}
	if n%64 != 0 && words[len(words)-1]>>(n%64) != 0 {
		return Set{}, errors.New("ranges: set has members beyond its end")
	}
	return s, nil
}

// Words is the set as a bitmap, lowest number first; it is shared with the set.
func (s *Set) Words() []uint64 { return s.words }

// Len is the number of possible members, Count that of members.
func (s *Set) Len() int { return s.n }

// Count is the number of members.
func (s *Set) Count() int { return s.count }

// Full says that no possible member is missing; the set of nothing is full.
func (s *Set) Full() bool { return s.count == s.n }

// Has tells whether i is a member; numbers out of range never are.
func (s *Set) Has(i int) bool {
	return i >= 0 && i < s.n && s.words[i/64]&(1<<(i%64)) != 0
}

// Add puts i in and tells whether it was new.
func (s *Set) Add(i int) bool {
	if s.Has(i) {
		return false
	}
	s.words[i/64] |= 1 << (i % 64)
	s.count++
	return true
}

// Remove takes i out and tells whether it was in.
func (s *Set) Remove(i int) bool {
	if !s.Has(i) {
		return false
	}
	s.words[i/64] &^= 1 << (i % 64)
	s.count--
	return true
}

// Fill puts everything in, Clear takes everything out.
func (s *Set) Fill() {
	for i := range s.words {
		s.words[i] = ^uint64(0)
	}
	if r := s.n % 64; r != 0 {
		s.words[len(s.words)-1] = 1<<r - 1
	}
	s.count = s.n
}

// Clear takes everything out.
func (s *Set) Clear() {
	clear(s.words)
	s.count = 0
}

// NextSet is the first member at or after i, or Len.
func (s *Set) NextSet(i int) int { return s.next(i, 0) }

// NextClear is the first number at or after i that is not a member, or Len.
func (s *Set) NextClear(i int) int { return s.next(i, ^uint64(0)) }

func (s *Set) next(i int, flip uint64) int {
	i = max(i, 0)
	for i < s.n {
		if w := (s.words[i/64] ^ flip) >> (i % 64); w != 0 {
			return min(s.n, i+bits.TrailingZeros64(w))
		}
		i = (i/64 + 1) * 64
	}
	return s.n
}

// Gaps gives the runs [first, end) of numbers that are not members, in order. The set
// must not change meanwhile.
func (s *Set) Gaps() iter.Seq2[int, int] {
	return func(yield func(first, end int) bool) {
		for i := s.NextClear(0); i < s.n; {
			end := s.NextSet(i)
			if !yield(i, end) {
				return
			}
			i = s.NextClear(end)
		}
	}
}

// Clone is a copy that shares nothing.
func (s *Set) Clone() Set {
	return Set{words: append([]uint64(nil), s.words...), n: s.n, count: s.count}
}
