package embedded

import (
	"fmt"
	"iter"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/query"
)

// benchEntries is how many files the benchmarks' lake has; TARN_BENCH_ENTRIES changes it.
func benchEntries() int {
	if n, err := strconv.Atoi(os.Getenv("TARN_BENCH_ENTRIES")); err == nil {
		return n
	}
	return 100_000
}

func benchName(i int) backends.DID {
	return backends.DID{Scope: "ctao", Name: fmt.Sprintf("/ctao/dl3/dir%04d/run%08d.fits.fz", i/1000, i)}
}

func benchFile(i int) backends.Info {
	return backends.Info{DID: benchName(i), Type: backends.File, Size: int64(i) * 1000, Mode: 0o644, UID: 1000, GID: 1000,
		Checksums: backends.Checksums{SHA256: fmt.Sprintf("%064x", i*7919), Adler32: fmt.Sprintf("%08x", i)},
		MTime:     time.Date(2026, 11, 23, 1, 2, 3, 4, time.UTC), CTime: time.Date(2026, 11, 23, 1, 2, 3, 4, time.UTC)}
}

// benchLake gives the entries of n files, a thousand a folder, every one with a
// replica and some metadata.
func benchLake(n int) iter.Seq2[backends.Entry, error] {
	return func(yield func(backends.Entry, error) bool) {
		dir := func(name string) bool {
			return yield(backends.Entry{Info: backends.Info{DID: backends.DID{Scope: "ctao", Name: name}, Type: backends.Dataset, Mode: 0o755}}, nil)
		}
		if !dir("/ctao/dl3") {
			return
		}
		for i := range n {
			if i%1000 == 0 && !dir(fmt.Sprintf("/ctao/dl3/dir%04d", i/1000)) {
				return
			}
			e := backends.Entry{Info: benchFile(i), Meta: backends.Meta{"run": float64(i), "telescope": "LST-1"},
				Replicas: []backends.Replica{{RSE: "PIC-TAPE", PFN: fmt.Sprintf("ctao/ab/cd/run%08d.fits.fz.0123456789ab", i), State: backends.Available}}}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func imported(b *testing.B, o Options, n int) *Catalogue {
	b.Helper()
	c, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	if err := c.AddScope(b.Context(), backends.Info{DID: backends.DID{Scope: "ctao"}}); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	added, err := c.Import(b.Context(), benchLake(n))
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("imported %d in %v", added, time.Since(start))
	return c
}

// benchOpened imports and opens again, so that what is measured comes from tables.
func benchOpened(b *testing.B, n int) *Catalogue {
	b.Helper()
	o := Options{Dir: b.TempDir()}
	if err := imported(b, o, n).Close(); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	c, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("opened in %v", time.Since(start))
	b.Cleanup(func() { c.Close() })
	return c
}

func BenchmarkStat(b *testing.B) {
	n := benchEntries()
	c := benchOpened(b, n)
	names := make([]backends.DID, 4096)
	for i := range names {
		names[i] = benchName(i * 7919 % n)
	}
	var next atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		i := int(next.Add(977))
		for pb.Next() {
			i++
			if _, err := c.Stat(b.Context(), names[i%len(names)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "stats/s")
}

func BenchmarkStatMissing(b *testing.B) {
	c := benchOpened(b, benchEntries())
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		d := benchName(i % 1000)
		d.Name += ".x"
		if _, err := c.Stat(b.Context(), d); err == nil {
			b.Fatal("found")
		}
	}
}

func BenchmarkList(b *testing.B) {
	n := benchEntries()
	c := benchOpened(b, n)
	b.ReportAllocs()
	b.ResetTimer()
	total := 0
	for b.Loop() {
		for dir := range n / 1000 {
			for in, err := range c.Contents(b.Context(), backends.DID{Scope: "ctao", Name: fmt.Sprintf("/ctao/dl3/dir%04d", dir)}, "") {
				if err != nil || in.Inode == 0 {
					b.Fatal(in, err)
				}
				total++
			}
		}
	}
	b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkFind(b *testing.B) {
	n := benchEntries()
	c := benchOpened(b, n)
	q, err := query.Parse("run = 4711")
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for b.Loop() {
		found := 0
		for _, err := range c.Find(b.Context(), backends.DID{}, q) {
			if err != nil {
				b.Fatal(err)
			}
			found++
		}
		if found != 1 {
			b.Fatalf("found %d", found)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkImport(b *testing.B) {
	n := benchEntries()
	for b.Loop() {
		o := Options{Dir: b.TempDir()}
		imported(b, o, n).Close()
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkAdd(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			c := imported(b, Options{Dir: b.TempDir()}, 1000)
			defer c.Close()
			var next atomic.Int64
			next.Store(1000)
			b.SetParallelism((writers + 1) / 2)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					in := benchFile(int(next.Add(1)))
					in.DID.Name = fmt.Sprintf("/ctao/dl3/dir0000/new%d", next.Add(1))
					if err := c.Add(b.Context(), in, backends.Meta{"run": 1.0}, backends.Replica{RSE: "A", PFN: "x"}); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "adds/s")
		})
	}
}
