package ranges

import (
	"math"
	"slices"
	"testing"
)

func TestLayout(t *testing.T) {
	for _, c := range []struct {
		size         int64
		block        int
		off, n       int64
		first, end   int
		head, tail   int64
		headE, tailS int
		count, last  int
	}{
		{size: 0, block: 4, off: 0, n: 9, head: 1, tail: 1},
		{size: 10, block: 4, off: 3, n: 2, first: 0, end: 2, head: 1, tail: 1, headE: 1, tailS: 2, count: 3, last: 2},
		{size: 10, block: 4, off: 4, n: 4, first: 1, end: 2, head: 4, tail: 3, headE: 1, tailS: 1, count: 3, last: 2},
		{size: 10, block: 4, off: 9, n: 100, first: 2, end: 3, head: 5, tail: 0, headE: 2, tailS: 3, count: 3, last: 2},
		{size: 10, block: 4, off: 10, n: 1, head: 100, tail: 100, headE: 3, tailS: 3, count: 3, last: 2},
		{size: 8, block: 4, off: -3, n: math.MaxInt64, first: 0, end: 2, head: -1, tail: -1, headE: 0, tailS: 2, count: 2, last: 4},
		{size: math.MaxInt64, block: 1 << 30, off: math.MaxInt64 - 1, n: math.MaxInt64, first: 1<<33 - 1, end: 1 << 33,
			head: 1, tail: 1, headE: 1, tailS: 1<<33 - 1, count: 1 << 33, last: 1<<30 - 1},
	} {
		l := Layout{c.size, c.block}
		if first, end := l.Span(c.off, c.n); first != c.first || end != c.end {
			t.Errorf("%v.Span(%d, %d) = %d, %d; want %d, %d", l, c.off, c.n, first, end, c.first, c.end)
		}
		if h, s := l.Ends(c.head, c.tail); h != c.headE || s != c.tailS {
			t.Errorf("%v.Ends(%d, %d) = %d, %d; want %d, %d", l, c.head, c.tail, h, s, c.headE, c.tailS)
		}
		if l.Count() != c.count || c.count > 0 && l.Len(c.count-1) != c.last {
			t.Errorf("%v: count %d, want %d with %d in the last", l, l.Count(), c.count, c.last)
		}
	}
}

// FuzzLayout compares with counting byte by byte.
func FuzzLayout(f *testing.F) {
	f.Add(uint16(10), uint8(4), int16(3), int16(2), int16(1), int16(1))
	f.Add(uint16(0), uint8(1), int16(0), int16(1), int16(9), int16(-1))
	f.Add(uint16(300), uint8(255), int16(-1), int16(500), int16(256), int16(46))
	f.Fuzz(func(t *testing.T, size uint16, block uint8, off, n, head, tail int16) {
		l := Layout{int64(size % 2000), int(block) + 1}
		var total int64
		for b := range l.Count() {
			if l.Len(b) <= 0 || l.Len(b) > l.Block || l.Of(l.Off(b)) != b {
				t.Fatalf("%v: block %d at %d has length %d", l, b, l.Off(b), l.Len(b))
			}
			total += int64(l.Len(b))
		}
		if total != l.Size {
			t.Fatalf("%v: blocks hold %d bytes", l, total)
		}
		first, end := l.Span(int64(off), int64(n))
		hEnd, tStart := l.Ends(int64(head), int64(tail))
		if hEnd > tStart || tStart > l.Count() {
			t.Fatalf("%v.Ends(%d, %d) = %d, %d", l, head, tail, hEnd, tStart)
		}
		start := max(int64(off), 0)
		for i := range l.Size {
			in := i >= start && i-start < int64(n)
			if b := l.Of(i); in && (b < first || b >= end) {
				t.Fatalf("%v.Span(%d, %d) = [%d, %d) leaves out byte %d", l, off, n, first, end, i)
			}
			if b := l.Of(i); (i < int64(head) || i >= l.Size-int64(tail)) && b >= hEnd && b < tStart {
				t.Fatalf("%v.Ends(%d, %d) leaves out byte %d", l, head, tail, i)
			}
		}
		if first < end && (l.Off(end-1) >= start+int64(n) || l.Off(first)+int64(l.Len(first)) <= start) {
			t.Fatalf("%v.Span(%d, %d) = [%d, %d) is too wide", l, off, n, first, end)
		}
	})
}

// FuzzSet runs a sequence of operations against a map.
func FuzzSet(f *testing.F) {
	f.Add(uint8(70), []byte{1, 2, 3, 64, 65, 200, 1})
	f.Add(uint8(64), []byte{0, 63, 127})
	f.Add(uint8(0), []byte{1})
	f.Fuzz(func(t *testing.T, size uint8, ops []byte) {
		n := int(size)
		s, m := NewSet(n), map[int]bool{}
		for _, op := range ops {
			i := int(op & 0x7f)
			if i >= n {
				continue
			}
			if op < 128 {
				if s.Add(i) == m[i] {
					t.Fatalf("Add(%d) of a member %v", i, m[i])
				}
				m[i] = true
			} else {
				if s.Remove(i) != m[i] {
					t.Fatalf("Remove(%d) of a member %v", i, m[i])
				}
				delete(m, i)
			}
		}
		same(t, &s, m)
		back, err := FromWords(n, slices.Clone(s.Words()))
		if err != nil {
			t.Fatal(err)
		}
		same(t, &back, m)
		gone := 0
		for first, end := range s.Gaps() {
			for i := first; i < end; i++ {
				if m[i] {
					t.Fatalf("gap [%d, %d) holds a member", first, end)
				}
				gone++
			}
		}
		if gone+len(m) != n {
			t.Fatalf("gaps miss something: %d and %d of %d", gone, len(m), n)
		}
		c := s.Clone()
		c.Fill()
		if !c.Full() || c.NextClear(0) != n {
			t.Fatal("Fill left something out")
		}
		c.Clear()
		if c.Count() != 0 || c.NextSet(0) != n {
			t.Fatal("Clear left something in")
		}
		same(t, &s, m)
	})
}

func same(t *testing.T, s *Set, m map[int]bool) {
	t.Helper()
	if s.Count() != len(m) || s.Full() != (len(m) == s.Len()) {
		t.Fatalf("count %d, want %d", s.Count(), len(m))
	}
	set, unset := s.Len(), s.Len()
	for i := s.Len() - 1; i >= 0; i-- {
		if m[i] {
			set = i
		} else {
			unset = i
		}
		if s.Has(i) != m[i] || s.NextSet(i) != set || s.NextClear(i) != unset {
			t.Fatalf("at %d: has %v, next %d and %d; want %v, %d, %d", i, s.Has(i), s.NextSet(i), s.NextClear(i), m[i], set, unset)
		}
	}
}

func TestFromWordsRefuses(t *testing.T) {
	for _, c := range []struct {
		n int
		w []uint64
	}{{1, nil}, {64, []uint64{1, 1}}, {3, []uint64{8}}, {-1, nil}} {
		if _, err := FromWords(c.n, c.w); err == nil {
			t.Errorf("FromWords(%d, %v) accepted", c.n, c.w)
		}
	}
}
