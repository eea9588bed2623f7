package replication_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/checksum"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
	"tarn/backends/replication"
	"tarn/backends/storage/posix"
)

// real is a lake of the embedded catalogue with an engine, on the machine's clock.
type real struct {
	*replication.Engine
	t     testing.TB
	l     *lake.Lake
	cat   *embedded.Catalogue
	stop  func()
	reads map[string]*counting
}

// counting is a storage that counts the bytes that are read of it.
type counting struct {
	backends.Storage
	mu   sync.Mutex
	read int64
}

func (c *counting) Open(ctx context.Context, path string) (backends.Object, error) {
	o, err := c.Storage.Open(ctx, path)
	return &countingObject{o, c}, err
}

type countingObject struct {
	backends.Object
	c *counting
}

func (o *countingObject) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := o.Object.ReadAt(ctx, p, off)
	o.c.mu.Lock()
	defer o.c.mu.Unlock()
	o.c.read += int64(n)
	return n, err
}

func (c *counting) bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read
}

// newReal has a disk for each name; in memory, or with dir in folders below it.
func newReal(t testing.TB, dir string, o replication.Options, names ...string) *real {
	t.Helper()
	r := &real{t: t, reads: map[string]*counting{}, stop: func() {}}
	var err error
	co := embedded.Options{InMemory: dir == "", Dir: filepath.Join(dir, "catalogue"), CacheBytes: 16 << 20}
	if dir != "" {
		if err := os.MkdirAll(co.Dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if r.cat, err = embedded.Open(co); err != nil {
		t.Fatal(err)
	}
	var rses []*lake.RSE
	for i, name := range names {
		var s backends.Storage = laketest.NewStorage()
		if dir != "" {
			at := filepath.Join(dir, name)
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			if s, err = posix.Open(posix.Options{Dir: at}); err != nil {
				t.Fatal(err)
			}
		}
		r.reads[name] = &counting{Storage: s}
		rses = append(rses, &lake.RSE{RSE: backends.RSE{Name: name, Kind: backends.DiskKind}, Storage: r.reads[name], Distance: i})
	}
	r.l, err = lake.New(lake.Options{Catalogue: r.cat, Namespace: r.cat, Versions: r.cat, Rules: r.cat, RSEs: rses})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cat.AddScope(ctx, backends.Info{DID: backends.DID{Scope: "s"}}); err != nil {
		t.Fatal(err)
	}
	r.Engine = replication.New(r.l, o)
	t.Cleanup(func() {
		r.stop()
		r.l.Close()
		if err := r.cat.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *real) start() {
	run, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- r.Run(run) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
		r.stop = func() {}
	}
}

// add registers files of one content, stored at an RSE, n of them below dir from number first on.
func (r *real) add(dir string, first, n int, data []byte, at string) (dids []backends.DID) {
	r.t.Helper()
	h := checksum.New()
	h.Write(data)
	for i := first; i < first+n; i++ {
		in := backends.Info{DID: backends.DID{Scope: "s", Name: fmt.Sprintf("%s/%07d", dir, i)}, Type: backends.File, Size: int64(len(data)), Checksums: h.Sum()}
		pfn := fmt.Sprintf("f%s/%07d", dir, i)
		r.put(at, pfn, data)
		if err := r.cat.Add(ctx, in, nil, backends.Replica{RSE: at, PFN: pfn, State: backends.Available, Verified: time.Now()}); err != nil {
			r.t.Fatal(err)
		}
		dids = append(dids, in.DID)
	}
	return dids
}

func (r *real) put(at, pfn string, data []byte) {
	r.t.Helper()
	up, err := r.reads[at].Create(ctx, pfn, int64(len(data)))
	if err == nil {
		if _, err = up.Write(data); err == nil {
			h := checksum.New()
			h.Write(data)
			_, err = up.Commit(ctx, h.Sum())
		}
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *real) dir(name string) backends.DID {
	r.t.Helper()
	d := backends.DID{Scope: "s", Name: name}
	if err := r.cat.Add(ctx, backends.Info{DID: d, Type: backends.Container}, nil); err != nil {
		r.t.Fatal(err)
	}
	return d
}

func (r *real) rule(x backends.Rule) backends.RuleID {
	r.t.Helper()
	if x.Copies == 0 {
		x.Copies = 1
	}
	id, err := r.cat.AddRule(ctx, x)
	if err != nil {
		r.t.Fatal(err)
	}
	r.Kick(x.DID)
	return id
}

// await waits until all rules are OK.
func (r *real) await(limit time.Duration) {
	r.t.Helper()
	until := time.Now().Add(limit)
	for {
		open := backends.RuleStatus{}
		for st, err := range r.cat.AllRules(ctx, backends.RuleReplicating, backends.RuleStuck) {
			if err != nil {
				r.t.Fatal(err)
			}
			open = st
		}
		if open.ID == "" {
			return
		}
		if time.Now().After(until) {
			r.t.Fatalf("rule is %+v, engine %+v", open, r.Status())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// awaitCopies waits until each file has so many good copies.
func (r *real) awaitCopies(limit time.Duration, n int, dids []backends.DID) {
	r.t.Helper()
	until := time.Now().Add(limit)
	for _, d := range dids {
		for {
			rs, err := r.cat.Replicas(ctx, d)
			if err != nil {
				r.t.Fatal(err)
			}
			good := 0
			for _, x := range rs {
				if x.State == backends.Available {
					good++
				}
			}
			if good >= n {
				break
			}
			if time.Now().After(until) {
				r.t.Fatalf("%s has %+v, engine %+v", d, rs, r.Status())
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// spent is the processor time of this process.
func spent() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRule is what a file costs until its rule is OK, of a rule on so many: it should be flat. The catalogue and the storages
// are in memory, and cost nothing but their processor time.
func BenchmarkRule(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprint("there/", n), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				r := newReal(b, "", replication.Options{}, "A", "B")
				d := r.dir("/s/d")
				r.add("/s/d", 0, n, []byte("x"), "A")
				b.StartTimer()
				cpu := spent()
				r.start()
				r.rule(backends.Rule{DID: d, Expression: "B"})
				r.await(10 * time.Minute)
				b.ReportMetric(float64((spent()-cpu).Microseconds())/float64(n), "cpu-µs/file")
				b.StopTimer()
				r.stop()
			}
		})
		// Files come all the time, each with a kick, as an ingest makes them.
		b.Run(fmt.Sprint("coming/", n), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				r := newReal(b, "", replication.Options{}, "A", "B")
				d := r.dir("/s/d")
				r.start()
				r.rule(backends.Rule{DID: d, Expression: "B"})
				b.StartTimer()
				cpu := spent()
				for i := 0; i < n; i += 100 {
					r.Kick(r.add("/s/d", i, min(100, n-i), []byte("x"), "A")...)
				}
				r.await(10 * time.Minute)
				b.ReportMetric(float64((spent()-cpu).Microseconds())/float64(n), "cpu-µs/file")
				b.StopTimer()
				r.stop()
			}
		})
	}
}
