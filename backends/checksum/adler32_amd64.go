package checksum

import "golang.org/x/sys/cpu"

const (
	adlerVector = 32
	// adlerVectorsMax is how many vectors go into one sum: 4096 * 255 * (32+31+30+29) fits
	// the 32 bits of a lane of adlerSums.within.
	adlerVectorsMax = 4096
)

// adlerSums are the sums of n vectors, each lane of some of their columns.
type adlerSums struct {
	bytes   [4]uint64 // of all bytes
	earlier [4]uint64 // before each vector, of the bytes of those before it
	within  [8]uint32 // of each vector's bytes, each as often as it counts within the vector
}

var hasVectors = cpu.X86.HasAVX2

// adlerVectors sums n vectors, at least one and at most adlerVectorsMax.
//
//go:noescape
func adlerVectors(p *byte, n int, sums *adlerSums)

// adlerWide takes in what it can of p, and tells how much that was.
func adlerWide(a, b uint32, p []byte) (uint32, uint32, int) {
	if !hasVectors {
		return a, b, 0
	}
	done := 0
	for len(p)-done >= adlerVector {
		n := min((len(p)-done)/adlerVector, adlerVectorsMax)
		var s adlerSums
		adlerVectors(&p[done], n, &s)
		low, high := uint64(a), uint64(b)+uint64(n)*adlerVector*uint64(a)
		for i := range s.bytes {
			low += s.bytes[i]
			high += adlerVector * s.earlier[i]
		}
		for _, w := range s.within {
			high += uint64(w)
		}
		a, b = uint32(low%adlerMod), uint32(high%adlerMod)
		done += n * adlerVector
	}
	return a, b, done
}
