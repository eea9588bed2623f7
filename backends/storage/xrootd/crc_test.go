//go:build xrdcl && cgo

package xrootd

import (
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"testing"
)

// The library sums pages up by a function of ours, and right.
func TestPageSum(t *testing.T) {
	if runtime.GOARCH == "amd64" && !ownPageSum() {
		t.Error("the library has found another crc32c than that of crc.cc")
	}
	r := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 64<<10)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	check := func(off, n int, crc uint32) {
		t.Helper()
		p := data[off : off+n]
		if got, want := pageSum(crc, p), crc32.Update(crc, table, p); got != want {
			t.Fatalf("%d bytes at %d after %08x: %08x, want %08x", n, off, crc, got, want)
		}
	}
	for n := range 9000 {
		check(r.IntN(64), n, r.Uint32())
	}
	check(0, len(data), 0)
}

func BenchmarkPageSum(b *testing.B) {
	page := make([]byte, 4096)
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		pageSum(0, page)
	}
}
