package gridftp

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// marks are the parts of a file that a server says it has, by restart markers (reply 111, GFD.020 section 5: "Range Marker 0-29,32-89", the end of
// each is the byte behind it). They come every few seconds, and each tells what came since the one before.
type marks struct{ parts []part }

type part struct{ from, to int64 }

// maxMarks bounds the parts that are remembered: those that come first in the file.
const maxMarks = 1024

// note takes in a reply, if it is such a marker.
func (m *marks) note(r reply) {
	if r.code != 111 {
		return
	}
	text := r.last()
	at := strings.LastIndexByte(text, ' ')
	for s := range strings.SplitSeq(text[at+1:], ",") {
		a, b, ok := strings.Cut(s, "-")
		from, err := strconv.ParseInt(a, 10, 64)
		to, err2 := strconv.ParseInt(b, 10, 64)
		if !ok || err != nil || err2 != nil || from < 0 || to <= from {
			return
		}
		m.parts = append(m.parts, part{from, to})
	}
	slices.SortFunc(m.parts, func(a, b part) int { return cmp.Compare(a.from, b.from) })
	merged := m.parts[:0]
	for _, p := range m.parts {
		if n := len(merged); n > 0 && p.from <= merged[n-1].to {
			merged[n-1].to = max(merged[n-1].to, p.to)
		} else {
			merged = append(merged, p)
		}
	}
	m.parts = merged[:min(len(merged), maxMarks)]
}

// upTo is the first byte that the server did not say it has.
func (m *marks) upTo() int64 {
	if len(m.parts) == 0 || m.parts[0].from > 0 {
		return 0
	}
	return m.parts[0].to
}
