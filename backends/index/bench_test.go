package index

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"tarn/backends"
)

// synthetic is a catalogue of one scope with datasets of 1000 files, whose metadata follows from the number.
type synthetic struct {
	Catalogue
	files int
}

const inDataset = 1000

func (s *synthetic) set(i int) backends.Info {
	return backends.Info{DID: did(fmt.Sprintf("/s/run%06d", i)), Type: backends.Dataset, Mode: 0o755, Inode: uint64(1<<40 + i)}
}

func (s *synthetic) Stat(context.Context, backends.DID) (backends.Info, error) {
	return backends.Info{DID: did("/s"), Type: backends.Container, Mode: 0o755}, nil
}

func (s *synthetic) Contents(_ context.Context, d backends.DID, _ string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		if d.Name == "/s" {
			for i := range s.files / inDataset {
				if !yield(s.set(i), nil) {
					return
				}
			}
			return
		}
		var n int
		fmt.Sscanf(d.Name, "/s/run%d", &n)
		for i := n * inDataset; i < (n+1)*inDataset; i++ {
			in := fileInfo(fmt.Sprintf("%s/events_%08d.fits", d.Name, i), int64(i))
			in.Inode = uint64(i + 1)
			if !yield(in, nil) {
				return
			}
		}
	}
}

// metas are what a file has of its own and of its dataset.
func (s *synthetic) metas(_ context.Context, dids []backends.DID) (map[backends.DID]backends.Meta, error) {
	out := make(map[backends.DID]backends.Meta, len(dids))
	for _, d := range dids {
		var run, i int
		n, _ := fmt.Sscanf(d.Name, "/s/run%d/events_%d.fits", &run, &i)
		m := backends.Meta{"run": float64(run), "level": fmt.Sprintf("DL%d", run%4), "day": fmt.Sprintf("2026-%02d-%02d", 1+run%12, 1+run%28)}
		if n == 2 {
			m["event_from"], m["zenith"], m["tel"] = float64(i), float64(i%9000)/100, []any{"LST-1", fmt.Sprintf("MST-%d", i%20)}
		}
		out[d] = m
	}
	return out, nil
}

// BenchmarkFind asks queries of an index of 10^6 DIDs with up to 1000 results.
func BenchmarkFind(b *testing.B) {
	files := 1_000_000
	if testing.Short() {
		files = 20_000
	}
	s := &synthetic{files: files}
	x, err := Open(Options{Dir: b.TempDir() + "/index", Catalogue: s, Lake: "bench", Home: home, Metas: s.metas})
	must(b, err)
	defer x.Close()
	begun := time.Now()
	c, err := x.Build(context.Background(), did("/s"), "/s", nil)
	must(b, err)
	_, size, err := x.Covers(context.Background())
	must(b, err)
	b.Logf("%d DIDs read in %s, %d MiB on disk", c.DIDs, time.Since(begun).Round(time.Millisecond), size>>20)
	for _, q := range []struct{ name, root, text string }{
		{"equal", "/s", "run=11"},
		{"equal_and", "/s", "level=DL3 run=15 zenith<40"},
		{"range", "/s", "event_from>=12000 event_from<12900"},
		{"one", "/s", "name=events_00012345.fits"},
		{"prefix", "/s", "name like events_000123*"},
		{"or", "/s", "run=3 or event_from<100"},
		{"below", "/s/run000007", "tel=MST-3"},
		{"nothing", "/s", "run=5000000"},
		{"all", "/s", "not zenith<90"},
	} {
		b.Run(q.name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				a, why, err := x.answerFor(context.Background(), did(q.root))
				must(b, err)
				if a == nil {
					b.Fatal(why)
				}
				n = 0
				must(b, a.each(context.Background(), did(q.root), parse(b, q.text), func(backends.Info) bool { n++; return true }))
				a.end()
			}
			b.ReportMetric(float64(n), "results")
		})
	}
}
