package checksum

import (
	"slices"

	"tarn/backends"
)

// Only gives the digests of c of some algorithms.
func Only(c backends.Checksums, algs ...string) backends.Checksums {
	m := ToMap(c)
	for a := range m {
		if !slices.Contains(algs, a) {
			delete(m, a)
		}
	}
	return FromMap(m)
}

// And gives the digests of a, and those of b that a has not.
func And(a, b backends.Checksums) backends.Checksums {
	m := ToMap(b)
	for alg, v := range ToMap(a) {
		m[alg] = v
	}
	return FromMap(m)
}

// With gives algs and alg, which may be among them.
func With(algs []string, alg string) []string {
	if slices.Contains(algs, alg) {
		return algs
	}
	return append(slices.Clone(algs), alg)
}
