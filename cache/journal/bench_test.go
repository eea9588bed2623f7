package journal

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"hash/adler32"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// sums is the Hasher of the tests.
type sums map[string]hash.Hash

var allAlgs = []string{"adler32", "sha256"}

func newSums(algs ...string) Hasher {
	if len(algs) == 0 {
		algs = allAlgs
	}
	h := sums{}
	for _, a := range algs {
		h[a] = map[string]func() hash.Hash{"adler32": func() hash.Hash { return adler32.New() }, "sha256": sha256.New}[a]()
	}
	return h
}

func (h sums) Write(p []byte) (int, error) {
	for _, x := range h {
		x.Write(p)
	}
	return len(p), nil
}

func (h sums) Sums() map[string]string {
	m := map[string]string{}
	for a, x := range h {
		m[a] = hex.EncodeToString(x.Sum(nil))
	}
	return m
}

func benchJournal(b *testing.B) *Journal {
	j, err := Open(Options{Dir: filepath.Join(b.TempDir(), "j"), NewHash: newSums, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { j.Close() })
	return j
}

// A small file from creation to the answer of close.
func BenchmarkCreateWriteSeal4K(b *testing.B) {
	for _, par := range []int{1, 8} {
		b.Run(map[int]string{1: "sequential", 8: "parallel8"}[par], func(b *testing.B) {
			j := benchJournal(b)
			p := make([]byte, 4096)
			rand.Read(p)
			var left atomic.Int64
			left.Store(int64(b.N))
			done := make(chan error, par)
			b.ResetTimer()
			for range par {
				go func() {
					for left.Add(-1) >= 0 {
						e, err := j.Create(Record{Path: []byte("/ctao/dl0/run1.fits"), Mode: 0o644})
						if err == nil {
							_, err = e.WriteAt(p, 0)
						}
						if err == nil {
							_, err = e.Seal()
						}
						if err != nil {
							done <- err
							return
						}
					}
					done <- nil
				}()
			}
			for range par {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "files/s")
		})
	}
}

// The same without a journal: what the disk allows.
func BenchmarkBareWriteFsync4K(b *testing.B) {
	dir := b.TempDir()
	d, _ := os.Open(dir)
	defer d.Close()
	p := make([]byte, 4096)
	for i := 0; b.Loop(); i++ {
		f, err := os.Create(filepath.Join(dir, hex.EncodeToString([]byte{byte(i >> 16), byte(i >> 8), byte(i)})))
		if err != nil {
			b.Fatal(err)
		}
		f.Write(p)
		f.Sync()
		f.Close()
		d.Sync()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "files/s")
}

const gib = 1 << 30

func BenchmarkSeal1GiB(b *testing.B) {
	if testing.Short() {
		b.Skip("writes 1 GiB")
	}
	p := make([]byte, 1<<20)
	rand.Read(p)
	b.Run("bare", func(b *testing.B) {
		b.SetBytes(gib)
		for b.Loop() {
			f, err := os.Create(filepath.Join(b.TempDir(), "f"))
			if err != nil {
				b.Fatal(err)
			}
			for off := int64(0); off < gib; off += 1 << 20 {
				if _, err := f.WriteAt(p, off); err != nil {
					b.Fatal(err)
				}
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			os.Remove(f.Name())
			f.Close()
		}
	})
	b.Run("journal", func(b *testing.B) {
		j := benchJournal(b)
		b.SetBytes(gib)
		for b.Loop() {
			e, err := j.Create(Record{})
			if err != nil {
				b.Fatal(err)
			}
			for off := int64(0); off < gib; off += 1 << 20 {
				if _, err := e.WriteAt(p, off); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := e.Seal(); err != nil {
				b.Fatal(err)
			}
			e.Remove()
		}
	})
}
