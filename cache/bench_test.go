package cache

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkWarmReadAt reads 128 KiB at a time from a whole content.
func BenchmarkWarmReadAt(b *testing.B) {
	for _, n := range []int{4 << 10, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprint(n>>10, "KiB"), func(b *testing.B) {
			o := options(b)
			o.Block = 0
			c := open(b, o)
			data := random(1, 64<<20)
			cached(b, c, contentOf(data), data)
			f, err := c.Open(contentOf(data), nil)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			ctx := context.Background()
			b.SetBytes(int64(n))
			var at atomic.Int64
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				p := make([]byte, n)
				for pb.Next() {
					if _, err := f.ReadAt(ctx, p, at.Add(int64(n))%int64(len(data)-n)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// cpuTime is the processor time of this process.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// localSource is a file of another folder.
type localSource struct{ *os.File }

func (s localSource) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return s.File.ReadAt(p, off)
}

// BenchmarkColdFill fetches 1 GiB from a local file and verifies it, against cp of the
// same file in the same run.
func BenchmarkColdFill(b *testing.B) {
	const size = 1 << 30
	dir := b.TempDir()
	from := filepath.Join(dir, "from")
	h := newSums("sha256")
	w, err := os.Create(from)
	if err != nil {
		b.Fatal(err)
	}
	for i := range uint64(64) {
		p := random(i, size/64)
		h.Write(p)
		if _, err := w.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	w.Close()
	fetch := func(context.Context, error) (Source, error) {
		f, err := os.Open(from)
		return localSource{f}, err
	}
	for _, alg := range []string{"sha256", "adler32", "none"} {
		b.Run(alg, func(b *testing.B) {
			ct := Content{Key: "big", Size: size}
			switch alg {
			case "sha256":
				ct.Sums = h.Sums()
			case "adler32":
				a := newSums("adler32")
				r, err := os.Open(from)
				if err != nil {
					b.Fatal(err)
				}
				defer r.Close()
				if _, err := io.Copy(a, r); err != nil {
					b.Fatal(err)
				}
				ct.Sums = a.Sums()
			}
			var cold, cp, cpu, cpCPU time.Duration
			for range b.N {
				o := options(b)
				o.Block, o.Dir = 0, filepath.Join(dir, "cache")
				start := time.Now()
				cmd := exec.Command("cp", from, filepath.Join(dir, "to"))
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
				cp += time.Since(start)
				cpCPU += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
				os.Remove(filepath.Join(dir, "to"))
				c, err := Open(o)
				if err != nil {
					b.Fatal(err)
				}
				f, err := c.Open(ct, fetch)
				if err != nil {
					b.Fatal(err)
				}
				start, cpu0 := time.Now(), cpuTime(b)
				p := make([]byte, 10)
				if _, err := f.ReadAt(context.Background(), p, size-10); err != nil {
					b.Fatal(err)
				}
				end := time.Since(start)
				if err := f.Fill(context.Background()); err != nil {
					b.Fatal(err)
				}
				cold += time.Since(start)
				cpu += cpuTime(b) - cpu0
				f.Close()
				c.Close()
				os.RemoveAll(o.Dir)
				b.ReportMetric(float64(end.Microseconds())/1000, "ms-to-the-end")
			}
			b.ReportMetric(cold.Seconds()/float64(b.N), "s/fill")
			b.ReportMetric(cold.Seconds()/cp.Seconds(), "x-cp")
			b.ReportMetric(cpu.Seconds()/cpCPU.Seconds(), "x-cp-cpu")
		})
	}
}

// slowAhead is a local file whose large reads take 10 ms, so that the fill is busy while
// the test looks.
type slowAhead struct{ localSource }

func (s slowAhead) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) > demandBytes {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return s.localSource.ReadAt(ctx, p, off)
}

// A random read near the end of a cold GiB comes within 20 ms while the fill goes on. The
// best of some counts, because the machine may be busy with others; one that waited for
// the fill would take a second.
func TestEndOfColdGiB(t *testing.T) {
	const size = 1 << 30
	path := filepath.Join(t.TempDir(), "sparse")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Truncate(size); err != nil {
		t.Fatal(err)
	}
	o := options(t)
	o.Block = 0
	c := open(t, o)
	fetch := func(context.Context, error) (Source, error) {
		f, err := os.Open(path)
		return slowAhead{localSource{f}}, err
	}
	ct := Content{Key: "zeros", Size: size}
	seq, err := c.Open(ct, fetch)
	if err != nil {
		t.Fatal(err)
	}
	defer seq.Close()
	if _, err := seq.ReadAt(timeout(t), make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	best := time.Hour
	for i := range int64(20) {
		f, err := c.Open(ct, fetch)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := f.ReadAt(timeout(t), make([]byte, 4096), size-4096-i*(20<<20)); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
		f.Close()
	}
	t.Log("best:", best)
	if best > 20*time.Millisecond || seq.Whole() {
		t.Errorf("best %v, filled meanwhile: %v", best, seq.Whole())
	}
}

// many makes a cache directory with n small whole contents.
func many(t testing.TB, n int) Options {
	t.Helper()
	o := options(t)
	c := open(t, o)
	for i := range n {
		data := fmt.Appendf(nil, "content %d", i)
		ct := Content{Key: Key(fmt.Sprintf("k%d", i)), Size: int64(len(data))}
		e, err := c.get(ct)
		if err != nil {
			t.Fatal(err)
		}
		p := filepath.Join(o.Dir, "in")
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := e.adopt(p); err != nil {
			t.Fatal(err)
		}
		c.put(e)
	}
	shut(t, c)
	return o
}

// TestRestartWithManyFiles is the promise of 10^5 contents in 5 s at a fiftieth of it.
func TestRestartWithManyFiles(t *testing.T) {
	const n = 2000
	o := many(t, n)
	start := time.Now()
	c := open(t, o)
	took := time.Since(start)
	if got := c.Stats().Files; got != n {
		t.Errorf("%d files of %d", got, n)
	}
	t.Log(took)
	if took > 5*time.Second {
		t.Errorf("restart with %d files took %v", n, took)
	}
}

func BenchmarkRestart100k(b *testing.B) {
	o := many(b, 100_000)
	b.ResetTimer()
	for range b.N {
		c, err := Open(o)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if got := c.Stats().Files; got != 100_000 {
			b.Fatal(got)
		}
		c.Close()
		b.StartTimer()
	}
}
