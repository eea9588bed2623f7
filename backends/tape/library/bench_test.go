package library

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"tarn/backends"
)

// BenchmarkRecall500 compares what 500 files of 100 MB (in emulated size: the rate is scaled, not the
// disk) on four LTO-like cartridges cost, asked for one after the other in the order of their names, and in one
// request. The figures are tape time, not the benchmark's own.
func BenchmarkRecall500(b *testing.B) {
	const files, size = 500, 1000
	scaled := Timing{Rate: 4000} // 400 MB/s for files that stand for 100 MB
	for _, drives := range []int{1, 2} {
		for _, way := range []string{"one by one", "bulk"} {
			b.Run(fmt.Sprintf("%s/drives=%d", way, drives), func(b *testing.B) {
				for range b.N {
					l, err := Open(Options{Dir: b.TempDir(), Drives: drives, Cartridges: 4, CartridgeSize: 180_000_000, Timing: scaled, Sleep: noSleep, Spread: byNumber})
					if err != nil {
						b.Fatal(err)
					}
					paths := mustImport(b, l, files, size)
					if way == "bulk" {
						stage(b, l, paths...)
					} else {
						for _, p := range paths {
							stage(b, l, p)
						}
					}
					s := l.Stats()
					b.ReportMetric(float64(s.Mounts), "mounts")
					b.ReportMetric(s.TapeTime.Minutes(), "tape-min")
					b.ReportMetric(float64(s.Seeks), "seeks")
					l.Close()
				}
			})
		}
	}
}

func stage(b *testing.B, l *Library, paths ...string) {
	id, err := l.Stage(b.Context(), paths...)
	if err != nil {
		b.Fatal(err)
	}
	for {
		l.mu.Lock()
		ch := l.changedCh
		left := 0
		for _, it := range l.requests[id].items {
			if !it.phase.Ended() {
				left++
			} else if it.phase != backends.RecallCompleted {
				b.Error(it.path, it.phase, it.why)
			}
		}
		l.unlock()
		if left == 0 {
			return
		}
		<-ch
	}
}

// TestMemoryPerFile imports many small files and weighs them. TARN_LIBRARY_FILES=1000000 gives the figures of the
// documentation.
func TestMemoryPerFile(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("TARN_LIBRARY_FILES"))
	if n == 0 {
		n = 20000
	}
	l := open(t, Options{Cartridges: 4})
	body := []byte("small file")
	before := heap()
	start := time.Now()
	added, err := l.Import(t.Context(), func(yield func(ImportFile, error) bool) {
		for i := range n {
			p := fmt.Sprintf("ctao/%02x/%02x/run_%06d.fits.%012x", i%16, i/16%256, i, i)
			if !yield(ImportFile{Path: p, Size: int64(len(body)), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }}, nil) {
				return
			}
		}
	})
	if err != nil || added != int64(n) {
		t.Fatalf("%d, %v", added, err)
	}
	took := time.Since(start)
	each := float64(heap()-before) / float64(n)
	t.Logf("%d files in %v (%.0f/s), %.0f bytes of memory a file", n, took.Round(time.Millisecond), float64(n)/took.Seconds(), each)
	if each > 260 {
		t.Errorf("%.0f bytes of memory a file", each)
	}
	start = time.Now()
	l = reopen(t, l)
	t.Logf("opened again in %v", time.Since(start).Round(time.Millisecond))
	if l.Stats().Files != int64(n) {
		t.Errorf("%d files", l.Stats().Files)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
