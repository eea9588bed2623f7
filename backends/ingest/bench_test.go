package ingest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkIngest takes files of 100 KB through all stages, to two disks.
func BenchmarkIngest(b *testing.B) {
	for _, n := range []int{1000, 4000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				r := newRig(b)
				s := r.open(r.replicate())
				text := make([]byte, 100_000)
				for i := range n {
					copy(text, fmt.Sprint("file ", i))
					r.must(os.WriteFile(filepath.Join(r.dir, fmt.Sprintf("f%06d", i)), text, 0o644))
				}
				time.Sleep(300 * time.Millisecond)
				b.StartTimer()
				began := time.Now()
				d := r.definition("A", "B")
				d.Rescan = 0
				r.must(s.Add(b.Context(), d))
				stop := r.background(s.Run)
				last := ""
				for {
					st, err := s.Status("dl0")
					r.must(err)
					if now := fmt.Sprintf("found %d sealed %d registered %d safe %d deleted %d", st.Found.Files, st.Sealed.Files, st.Registered.Files, st.Safe.Files, st.Deleted.Files); now != last && testing.Verbose() {
						b.Logf("%v %s", time.Since(began).Round(time.Millisecond), now)
						last = now
					}
					if st.Deleted.Files == int64(n) {
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
				b.ReportMetric(float64(n)/time.Since(began).Seconds(), "files/s")
				stop()
			}
		})
	}
}
