// Package marker reads the performance markers of GridFTP (GFD.020 section 3.7), which servers that copy over HTTP send, too:
//
//	Perf Marker
//	 Timestamp: 1795775284
//	 Stripe Index: 0
//	 Stripe Bytes Transferred: 238745
//	 Total Stripe Count: 1
//	End
//
// Over GridFTP a marker is a reply 112, over HTTP lines in the body of the answer.
//
//	var s marker.Stripes
//	for lines.Scan() {
//		if s.Line(lines.Text()) {
//			progress(s.Arrived())
//		}
//	}
package marker

import (
	"math"
	"strconv"
	"strings"
)

// maxStripes bounds the nodes of a server that tell what they have got.
const maxStripes = 1 << 10

// Stripes is what the markers of one transfer have told. The zero value has heard of nothing. It is for one goroutine.
type Stripes struct {
	got   map[int64]int64 // the most that each stripe has told of
	total int64           // their sum
	any   bool

	// The marker that is being read. Its lines may come in any order, and one without an index is of the only stripe.
	stripe, bytes int64
	known         bool // bytes was told
}

// none is the stripe of a marker of which the index is no number.
const none = -1

// Line takes a line of whatever a server says, without the code of a reply, and tells whether a marker ended with it. What
// is no line of a marker counts for nothing, nor does a marker without its end or with anything but numbers that may be true.
func (s *Stripes) Line(line string) (end bool) {
	key, value, _ := strings.Cut(line, ":")
	key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
	switch key {
	case "perf marker":
		s.any = true
		s.begin()
	case "stripe index":
		s.stripe = none
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && n >= 0 && n < maxStripes {
			s.stripe = n
		}
	case "stripe bytes transferred":
		n, err := strconv.ParseInt(value, 10, 64)
		s.bytes, s.known = n, err == nil && n >= 0
	case "end", "end.": // Globus has the dot
		s.any, end = true, true
		s.add()
		s.begin()
	}
	return end
}

// begin forgets the marker that was being read.
func (s *Stripes) begin() { s.stripe, s.bytes, s.known = 0, 0, false }

// add counts the marker that was being read.
func (s *Stripes) add() {
	grown := s.bytes - s.got[s.stripe]
	if !s.known || s.stripe == none || grown <= 0 {
		return
	}
	if s.got == nil {
		s.got = map[int64]int64{}
	}
	s.got[s.stripe] = s.bytes
	s.total += min(grown, math.MaxInt64-s.total) // who tells of more than there can be has said nothing
}

// Arrived is how many bytes have arrived by all stripes. It never becomes less, and is no more than the server's word.
func (s *Stripes) Arrived() int64 { return s.total }

// Any tells whether a marker has begun or ended: the server is one that sends them.
func (s *Stripes) Any() bool { return s.any }
