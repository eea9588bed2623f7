package marker

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// perf is a marker as Globus sends it.
func perf(stripe, bytes string) string {
	return "Perf Marker\n Timestamp:  1700000000.5\n Stripe Index: " + stripe + "\n Stripe Bytes Transferred: " + bytes + "\n Total Stripe Count: 2\nEnd."
}

// read gives s every line, and tells how many markers ended.
func read(s *Stripes, text string) (ends int) {
	for l := range strings.SplitSeq(text, "\n") {
		if s.Line(l) {
			ends++
		}
	}
	return ends
}

func TestStripes(t *testing.T) {
	const most = "9223372036854775807"
	for _, c := range []struct {
		name  string
		lines []string
		want  []int64 // after each
	}{
		{"one stripe", []string{perf("0", "100"), perf("0", "250")}, []int64{100, 250}},
		{"the sum of several", []string{perf("0", "100"), perf("1", "50"), perf("1", "51")}, []int64{100, 150, 151}},
		{"never less", []string{perf("0", "100"), perf("1", "50"), perf("0", "90"), perf("0", "0")}, []int64{100, 150, 150, 150}},
		{"the last of the stripes", []string{perf(fmt.Sprint(maxStripes-1), "7")}, []int64{7}},
		{"no such stripe", []string{perf("0", "100"), perf(fmt.Sprint(maxStripes), "900"), perf("-1", "900"), perf("x", "900"), perf("", "900")}, []int64{100, 100, 100, 100, 100}},
		{"no such number of bytes", []string{perf("0", "100"), perf("0", "-5"), perf("0", ""), perf("0", "1e9"), perf("0", most+"0")}, []int64{100, 100, 100, 100, 100}},
		{"more than there can be", []string{perf("0", most), perf("1", most), perf("0", most)}, []int64{math.MaxInt64, math.MaxInt64, math.MaxInt64}},
		{"as HTTP servers write it", []string{"Perf Marker\nTimestamp: 1795775284\nStripe Index: 0\nStripe Bytes Transferred: 238745\nTotal Stripe Count: 1\nRemoteConnections: tcp:192.0.2.1:1094\nEnd\r"}, []int64{238745}},
		{"letters and spaces", []string{"PERF MARKER\n\tstripe index : 1 \n\tSTRIPE BYTES TRANSFERRED:8\t\n END "}, []int64{8}},
		{"without an index", []string{"Perf Marker\nStripe Bytes Transferred: 8\nEnd"}, []int64{8}},
		{"bytes before the index", []string{"Perf Marker\nStripe Bytes Transferred: 8\nStripe Index: 1\nEnd", perf("0", "2")}, []int64{8, 10}},
		{"without a beginning", []string{"Stripe Index: 1\nStripe Bytes Transferred: 8\nEnd"}, []int64{8}},
		{"nothing of one marker is of the next", []string{perf("1", "8"), "Perf Marker\nStripe Bytes Transferred: 5\nEnd", "Perf Marker\nStripe Index: 2\nEnd"}, []int64{8, 13, 13}},
		{"without an end", []string{"Perf Marker\nStripe Index: 0\nStripe Bytes Transferred: 900\nTotal Stripe Count: 1", perf("1", "5")}, []int64{0, 5}},
		{"an empty one", []string{"Perf Marker\nEnd"}, []int64{0}},
		{"what is none", []string{"Range Marker 0-999999", "success: Created", "Stripe Bytes Transferred", ":", ""}, []int64{0, 0, 0, 0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s Stripes
			for i, text := range c.lines {
				if read(&s, text); s.Arrived() != c.want[i] {
					t.Errorf("%d bytes after %q, want %d", s.Arrived(), text, c.want[i])
				}
			}
		})
	}
}

func TestStripesAny(t *testing.T) {
	for _, c := range []struct {
		text string
		any  bool
		ends int
	}{
		{"", false, 0}, {"<html>\nfriend: x\nStripe Index: 0\nTimestamp: 1", false, 0},
		{"Perf Marker", true, 0}, {"End", true, 1}, {perf("0", "1") + "\n" + perf("0", "1"), true, 2},
	} {
		var s Stripes
		if ends := read(&s, c.text); s.Any() != c.any || ends != c.ends {
			t.Errorf("%q: %v and %d ends, want %v and %d", c.text, s.Any(), ends, c.any, c.ends)
		}
	}
}

// Whatever a server says, what has arrived does not become less, changes only with the end of a marker, and takes little memory.
func FuzzStripes(f *testing.F) {
	for _, s := range []string{perf("0", "100") + "\n" + perf("1", "50"), perf("x", "-1"), perf("0", "9223372036854775807") + "\n" + perf("1", "1"), "Perf Marker\nEnd", "success: Created", "\x00:\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s Stripes
		for l := range strings.SplitSeq(text, "\n") {
			before := s.Arrived()
			end := s.Line(l)
			if after := s.Arrived(); after < before || after != before && !end {
				t.Fatalf("%d bytes, and after %q %d", before, l, after)
			}
			if end && !s.Any() {
				t.Fatalf("%q ends a marker, and there was none", l)
			}
		}
		if len(s.got) > maxStripes {
			t.Fatalf("%d stripes are remembered", len(s.got))
		}
		again := s.Arrived()
		if read(&s, text); s.Arrived() < again {
			t.Fatalf("%d bytes, and the same once more makes %d", again, s.Arrived())
		}
	})
}
