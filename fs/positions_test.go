package fs

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tarn/fs/vfs"
)

func entries(names []string) (out []vfs.Entry) {
	for _, n := range names {
		out = append(out, vfs.Entry{Name: n})
	}
	return out
}

// TestPositions: an offset stands between an entry and the next one, is nobody else's, and
// keeps its place when names come and go.
func TestPositions(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	random := func() string {
		letters := []string{"a", "b", "\x01", "\xff", "run_00", ".fits"}
		n := 1 + rng.IntN(12)
		if rng.IntN(20) == 0 {
			n = 255
		}
		var b strings.Builder
		for range n {
			b.WriteString(letters[rng.IntN(len(letters))])
		}
		return b.String()[:min(255, b.Len())]
	}
	for range 50 {
		var p positions
		set := map[string]bool{}
		place := map[uint64][2]string{} // what an offset stood between when it was given
		for range 5 {
			for range 40 {
				set[random()] = true
			}
			for n := range set {
				if rng.IntN(10) == 0 {
					delete(set, n)
				}
			}
			var names []string
			for n := range set {
				names = append(names, n)
			}
			slices.Sort(names)
			offs, err := p.of(entries(names), "")
			if err != nil {
				t.Fatal(err)
			}
			given := map[uint64]bool{}
			for i, off := range offs {
				if off>>63 != 0 || off <= offDotDot || given[off] {
					t.Fatalf("seed %d: offset %#x of %q", seed, off, names[i])
				}
				given[off] = true
				next := ""
				if i+1 < len(names) {
					next = names[i+1]
				}
				place[off] = [2]string{names[i], next}
			}
			for off, between := range place {
				after, ok := p.after(off)
				if !ok || between[0] > after || between[1] != "" && between[1] <= after {
					t.Fatalf("seed %d: %#x stands behind %q: not between %q and %q", seed, off, after, between[0], between[1])
				}
			}
		}
	}
	var p positions
	for _, off := range []uint64{3, 1 << 39, 1 << codeBits, 1<<63 - 1} {
		if _, ok := p.after(off); ok {
			t.Errorf("%#x was never given", off)
		}
	}
}

// TestPositionsAreFew: a long directory of numbered files needs few prefixes.
func TestPositionsAreFew(t *testing.T) {
	var p positions
	for i := 0; i < 1000000; i += 1000 {
		var names []string
		for k := range 1000 {
			names = append(names, fmt.Sprintf("run_%07d.fits", i+k))
		}
		if _, err := p.of(entries(names), fmt.Sprintf("run_%07d.fits", i+1000)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.prefixes); n > 1000 {
		t.Errorf("%d prefixes for 1,000,000 names", n)
	}
}

// TestListingEnds: what was read before a change past the mount is dropped at the end of
// the reading, by whoever reaches it, once.
func TestListingEnds(t *testing.T) {
	l := &listing{total: -1}
	const changes = 0
	begun := l.toldNow()
	l.tell()
	if !l.ended(10, changes, begun) {
		t.Error("one that began before the change")
	}
	if !l.ended(10, changes, begun) {
		t.Error("another that began before the change")
	}
	if l.ended(10, changes, l.toldNow()) {
		t.Error("one that began after it")
	}
	l.tell() // somebody read half of it before, and gave up
	if !l.ended(10, changes, l.toldNow()) {
		t.Error("one that goes on with what another read")
	}
	if l.ended(10, changes, l.toldNow()) {
		t.Error("dropped twice")
	}
}
