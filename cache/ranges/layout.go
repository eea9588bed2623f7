// Package ranges is the arithmetic of the hot cache: how a content is cut into blocks,
// and sets of block numbers. It is pure, so that it can be fuzzed alone.
//
//	l := ranges.Layout{Size: 10, Block: 4}
//	first, end := l.Span(3, 2) // bytes 3 and 4 lie in blocks [0, 2)
package ranges

// Layout cuts a content of Size bytes into blocks of Block bytes; only the last one may
// be shorter. Block is positive and Size is not negative.
type Layout struct {
	Size  int64
	Block int
}

// Count is the number of blocks; an empty content has none.
func (l Layout) Count() int {
	n := l.Size / int64(l.Block)
	if l.Size%int64(l.Block) != 0 {
		n++
	}
	return int(n)
}

// Off is where block b begins.
func (l Layout) Off(b int) int64 { return int64(b) * int64(l.Block) }

// Len is the length of block b.
func (l Layout) Len(b int) int { return int(min(int64(l.Block), l.Size-l.Off(b))) }

// Of is the block that holds byte off.
func (l Layout) Of(off int64) int { return int(off / int64(l.Block)) }

// Span gives the blocks [first, end) that hold the bytes [off, off+n), cut to the
// content; first == end when none does.
func (l Layout) Span(off, n int64) (first, end int) {
	off = max(off, 0)
	if n <= 0 || off >= l.Size {
		return 0, 0
	}
	n = min(n, l.Size-off) // no off+n: it may overflow
	return l.Of(off), l.Of(off+n-1) + 1
}

// Ends gives the blocks that hold the first head and the last tail bytes: [0, headEnd)
// and [tailStart, Count). Together they may be all blocks, and then headEnd == tailStart.
func (l Layout) Ends(head, tail int64) (headEnd, tailStart int) {
	_, headEnd = l.Span(0, head)
	tailStart = l.Count()
	if tail > 0 && l.Size > 0 {
		tailStart = l.Of(max(0, l.Size-tail))
	}
	return headEnd, max(headEnd, tailStart)
}
