package filecat

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/query"
)

// BenchmarkFind finds in 10^5 files on disk, a thousand to a directory, as CTA lays them out. Run it with -benchtime 3x.
func BenchmarkFind(b *testing.B) {
	const files = 100_000
	ctx := b.Context()
	cat, err := embedded.Open(embedded.Options{Dir: b.TempDir(), Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cat.Close() })
	fc := New(Options{Catalogue: cat, Side: cat, Names: cat, Records: cat})
	check := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	check(cat.AddScope(ctx, backends.Info{DID: backends.DID{Scope: "cta"}}))
	check(fc.AddField(ctx, Field{Name: "thetaP", Type: query.Float, For: Directory}))
	check(fc.AddField(ctx, Field{Name: "runNumber", Type: query.Int, For: File}))
	_, err = cat.Import(ctx, func(yield func(backends.Entry, error) bool) {
		dir := ""
		for i := range files {
			if i%1000 == 0 {
				dir = fmt.Sprintf("/cta/%03d", i/1000)
				m := backends.Meta{"MCCampaign": "PROD5b", "particle": []string{"gamma-diffuse", "electron"}[i/1000%2], "thetaP": float64(20 * (1 + i/1000%3))}
				if !yield(backends.Entry{Info: backends.Info{DID: backends.DID{Scope: "cta", Name: dir}, Type: backends.Container}, Meta: m}, nil) {
					return
				}
			}
			d := backends.DID{Scope: "cta", Name: fmt.Sprintf("%s/run%06d.simtel.zst", dir, i)}
			in := backends.Info{DID: d, Type: backends.File, Size: 1e9, Checksums: backends.Checksums{Adler32: fmt.Sprintf("%08x", i)}}
			e := backends.Entry{Info: in, Meta: backends.Meta{"runNumber": i, "nsb": 1}, Replicas: []backends.Replica{{RSE: "CC-DISK", PFN: d.Name, State: backends.Available}}}
			if !yield(e, nil) {
				return
			}
		}
	})
	check(err)
	for _, q := range []string{
		"MCCampaign=PROD5b particle=gamma-diffuse thetaP=20.0", // of directories
		"runNumber>=5000 runNumber<5010",                       // of files
		"SE=CC-DISK particle=electron",                         // of replicas
		"Path=/cta/007 runNumber=Any",                          // of one directory
	} {
		b.Run(q, func(b *testing.B) {
			e, err := fc.Query(ctx, q)
			check(err)
			var before, after runtime.MemStats
			n, most := 0, uint64(0)
			runtime.GC()
			runtime.ReadMemStats(&before)
			for b.Loop() {
				n = 0
				for _, err := range fc.Find(ctx, "", File, e) {
					check(err)
					if n++; n%5000 == 0 {
						runtime.ReadMemStats(&after)
						most = max(most, after.HeapAlloc-min(after.HeapAlloc, before.HeapAlloc))
					}
				}
			}
			b.ReportMetric(float64(n), "found")
			b.ReportMetric(float64(most)/(1<<20), "MiB-heap-most")
		})
	}
	b.Run("dataset add and check", func(b *testing.B) {
		for b.Loop() {
			_, err := fc.AddDataset(ctx, "d", "", "particle=gamma-diffuse")
			check(err)
			c, err := fc.CheckDataset(ctx, "d", func(Difference) error { return nil })
			check(err)
			if !c.Same() || c.Now.Files != files/2 {
				b.Fatalf("the check says %+v", c)
			}
			check(fc.RemoveDataset(ctx, "d"))
		}
	})
}
