package gridftp

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/checksum"
	"tarn/backends/servertest"
)

// TestAgainstGlobusURLCopy measures whole files against the client of Globus, in turn: TMPDIR=/dev/shm GRIDFTP_BENCH=1024 (MiB).
func TestAgainstGlobusURLCopy(t *testing.T) {
	mib, _ := strconv.Atoi(os.Getenv("GRIDFTP_BENCH"))
	if mib <= 0 {
		t.Skip("a measurement: GRIDFTP_BENCH=1024 says of how many MiB")
	}
	dir, err := os.MkdirTemp("", "tarn-gridftp-bench")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	data := filepath.Join(dir, "data") // both sides where TMPDIR says: /dev/shm keeps the disk out of it
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	r := gridOf(t, servertest.GridFTPOptions{PKI: servertest.NewPKI(t), Dir: data})
	src, out := filepath.Join(dir, "src"), filepath.Join(dir, "out")
	write(t, src, nil)
	f, err := os.OpenFile(src, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	h := checksum.New()
	part := backendstest.Bytes(1, 1<<20)
	for i := range mib {
		part[0], part[1] = byte(i), byte(i>>8)
		h.Write(part)
		f.Write(part)
	}
	f.Close()
	sum, size := h.Sum(), int64(mib)<<20

	get := func(s *Storage, parallel int64) func() {
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
			share := (size + parallel - 1) / parallel
			errs := make(chan error, parallel)
			for i := range parallel {
				go func() {
					buf := make([]byte, 4<<20)
					for off := i * share; off < min((i+1)*share, size); {
						n, err := o.ReadAt(context.Background(), buf[:min(int64(len(buf)), (i+1)*share-off)], off)
						if err != nil && err != io.EOF {
							errs <- err
							return
						}
						if _, err := w.WriteAt(buf[:n], off); err != nil {
							errs <- err
							return
						}
						off += int64(n)
					}
					errs <- nil
				}()
			}
			for range parallel {
				if err := <-errs; err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	store := func(s *Storage) func() {
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
			if _, err := io.CopyBuffer(struct{ io.Writer }{u}, struct{ io.Reader }{in}, make([]byte, 4<<20)); err != nil {
				t.Fatal(err)
			}
			if _, err := u.Commit(context.Background(), backends.Checksums{Adler32: sum.Adler32, SHA256: sum.SHA256}); err != nil {
				t.Fatal(err)
			}
		}
	}
	plain := r.open(t, func(o *Options) { o.Streams = 1 })
	blocks := r.open(t, func(o *Options) { o.Streams, o.Active = 4, true })
	adler := r.open(t, func(o *Options) { o.Checksums, o.Streams = []string{"adler32"}, 1 })
	adlerStore := func() {
		in, _ := os.Open(src)
		defer in.Close()
		u, err := adler.Create(context.Background(), "f", size)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Abort()
		io.CopyBuffer(struct{ io.Writer }{u}, struct{ io.Reader }{in}, make([]byte, 4<<20))
		if _, err := u.Commit(context.Background(), backends.Checksums{Adler32: sum.Adler32}); err != nil {
			t.Fatal(err)
		}
	}
	guc := func(args ...string) func() { return func() { globusURLCopy(t, r, args...) } }
	works := []struct {
		name string
		do   func()
	}{
		{"put globus-url-copy", guc("file://"+src, r.o.URL+"/f")},
		{"put globus-url-copy -p 4", guc("-p", "4", "file://"+src, r.o.URL+"/f")},
		{"put ours, adler32+sha256", store(plain)},
		{"put ours, adler32", adlerStore},
		{"put ours, 4 streams", store(blocks)},
		{"get globus-url-copy", guc(r.o.URL+"/f", "file://"+out)},
		{"get globus-url-copy -p 4", guc("-p", "4", r.o.URL+"/f", "file://"+out)},
		{"get ours", get(plain, 1)},
		{"get ours, 2 readers", get(plain, 2)},
		{"get ours, 4 streams", get(blocks, 1)},
	}
	times := make([][]time.Duration, len(works))
	for range 5 {
		for i, w := range works {
			os.Remove(out)
			start := time.Now()
			w.do()
			times[i] = append(times[i], time.Since(start))
		}
	}
	for i, w := range works {
		slices.Sort(times[i])
		t.Logf("%-28s %v  %.0f MB/s", w.name, times[i], float64(size)/1e6/times[i][len(times[i])/2].Seconds())
	}
}
