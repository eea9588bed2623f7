//go:build xrdcl && cgo

package xrootd

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/checksum"
	"tarn/backends/servertest"
)

// TestAgainstXrdcp measures whole files against the client of XRootD, in turn: XROOTD_BENCH=1024 (MiB). Both write what they
// read to /dev/shm.
func TestAgainstXrdcp(t *testing.T) {
	mib, _ := strconv.Atoi(os.Getenv("XROOTD_BENCH"))
	if mib <= 0 {
		t.Skip("a measurement: XROOTD_BENCH=1024 says of how many MiB")
	}
	srv := servertest.XRootD(t, servertest.XRootDOptions{})
	url := folder(t, srv, srv.Root)
	s := storage(t, Options{URL: url})
	adler := storage(t, Options{URL: url, Checksums: []string{"adler32"}})
	dir, err := os.MkdirTemp("/dev/shm", "tarn-xrootd-bench")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	src, out := filepath.Join(dir, "src"), filepath.Join(dir, "out")
	data := bytes.Repeat(backendstest.Bytes(1, 1<<20), mib)
	if err := os.WriteFile(src, data, 0o644); err != nil {
		t.Fatal(err)
	}
	h := checksum.New()
	h.Write(data)
	size, sums := int64(len(data)), h.Sum()
	data = nil

	get := func(parallel int, part int64) func() {
		return func() {
			o, err := s.Open(context.Background(), "f")
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			w, err := os.Create(out)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			var wg sync.WaitGroup
			for i := range parallel {
				wg.Go(func() {
					buf := make([]byte, part)
					for off := int64(i) * part; off < size; off += int64(parallel) * part {
						n, err := o.ReadAt(context.Background(), buf, off)
						if err != nil && err != io.EOF {
							t.Error(err)
							return
						}
						if _, err := w.WriteAt(buf[:n], off); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		}
	}
	put := func(s *Storage, sums backends.Checksums) func() {
		return func() {
			in, err := os.Open(src)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			u, err := s.Create(context.Background(), "f", size)
			if err != nil {
				t.Fatal(err)
			}
			defer u.Abort()
			if _, err := io.CopyBuffer(struct{ io.Writer }{u}, struct{ io.Reader }{in}, make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
			if _, err := u.Commit(context.Background(), sums); err != nil {
				t.Fatal(err)
			}
		}
	}
	xrdcp := func(args ...string) func() {
		return func() {
			if b, err := exec.Command("xrdcp", append([]string{"-f", "-s"}, args...)...).CombinedOutput(); err != nil {
				t.Fatalf("xrdcp: %v\n%s", err, b)
			}
		}
	}
	works := []struct {
		name string
		do   func()
	}{
		{"put xrdcp", xrdcp(src, url+"/f")},
		{"put xrdcp, adler32 compared", xrdcp("--cksum", "adler32:source", src, url+"/f")},
		{"put ours, adler32 compared", put(adler, backends.Checksums{Adler32: sums.Adler32})},
		{"put ours, adler32+sha256", put(s, sums)},
		{"get xrdcp", xrdcp(url+"/f", out)},
		{"get ours, 1 x 8 MiB", get(1, 8<<20)},
		{"get ours, 4 x 1 MiB", get(4, 1<<20)},
		{"get ours, 4 x 4 MiB", get(4, 4<<20)},
	}
	times := make([][]time.Duration, len(works))
	for range 3 {
		for i, w := range works {
			os.Remove(out)
			begun := time.Now()
			w.do()
			times[i] = append(times[i], time.Since(begun))
		}
	}
	for i, w := range works {
		slices.Sort(times[i])
		t.Logf("%-28s %v  %.0f MB/s", w.name, times[i], float64(size)/1e6/times[i][len(times[i])/2].Seconds())
	}
}
