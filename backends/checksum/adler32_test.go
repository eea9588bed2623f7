package checksum

import (
	"bytes"
	"hash/adler32"
	"math/rand/v2"
	"testing"
)

func TestAdler32IsThatOfTheStandardLibrary(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	for name, data := range map[string][]byte{"random": data, "highest": bytes.Repeat([]byte{255}, 300_000), "zeros": make([]byte, 300_000)} {
		for range 200 {
			n := r.IntN(len(data))
			if r.IntN(2) == 0 {
				n = r.IntN(3 * adlerBlock)
			}
			got, want := newAdler32(), adler32.New()
			for rest := data[:n]; len(rest) > 0; { // in pieces of any length
				k := 1 + r.IntN(len(rest))
				got.Write(rest[:k])
				want.Write(rest[:k])
				rest = rest[k:]
				if g, w := got.Sum(nil), want.Sum(nil); !bytes.Equal(g, w) {
					t.Fatalf("%s, %d bytes: %x, want %x", name, n-len(rest), g, w)
				}
			}
		}
	}
}

// The sums of many blocks must not overflow before they are reduced.
func TestAdler32OfOneLongWrite(t *testing.T) {
	data := bytes.Repeat([]byte{255}, 64<<20)
	got, want := newAdler32(), adler32.New()
	got.Write(data)
	want.Write(data)
	if g, w := got.Sum(nil), want.Sum(nil); !bytes.Equal(g, w) {
		t.Fatalf("%x, want %x", g, w)
	}
}

// TestAdler32WithoutVectors: it is the same on a processor that has none.
func TestAdler32WithoutVectors(t *testing.T) {
	without(t)
	t.Run("pieces", TestAdler32IsThatOfTheStandardLibrary)
	t.Run("long", TestAdler32OfOneLongWrite)
}

func BenchmarkAdler32(b *testing.B) {
	data := make([]byte, 1<<20)
	b.SetBytes(int64(len(data)))
	h := newAdler32()
	for b.Loop() {
		h.Write(data)
	}
}

func TestAdler32Join(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	data := bytes.Repeat([]byte{255}, 300_000)
	for i := range 200_000 {
		data[i] = byte(r.Uint32())
	}
	for range 2000 {
		p := data[r.IntN(len(data)):]
		p = p[:r.IntN(len(p)+1)]
		k := r.IntN(len(p) + 1)
		if got, want := Adler32Join(Adler32(p[:k]), Adler32(p[k:]), int64(len(p)-k)), adler32.Checksum(p); got != want {
			t.Fatalf("%d and %d bytes: %08x, want %08x", k, len(p)-k, got, want)
		}
	}
}
