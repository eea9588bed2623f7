package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"tarn/backends"
)

func TestRootThatVanishesEndsRun(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	ended := make(chan error, 1)
	r.write("a", "a")
	go func() { ended <- r.w.Run(context.Background(), r.found) }()
	until(t, "it runs", func() bool { return r.count() == 1 })
	if _, err := r.w.Scan(context.Background(), r.found); !errors.Is(err, backends.ErrBusy) {
		t.Errorf("a Scan beside it: %v", err)
	}
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not notice")
	}
}

func TestErrorOfFoundEndsRun(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.write("a", "a")
	full := errors.New("full")
	if err := r.w.Run(context.Background(), func(context.Context, File) error { return full }); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	// It was not taken, and is told again.
	r.scan()
	equal(t, r.paths(), "a")
}

func TestRenames(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	outside := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(outside, []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	in := func(p string) string { return filepath.Join(r.dir, p) }
	r.run()
	move(outside, in("a"))
	until(t, "a file moved in is told", func() bool { return r.count() == 1 })
	move(in("a"), in("b"))
	until(t, "a file of a new name is told", func() bool { return r.count() == 2 })
	r.write("c", "another")
	until(t, "one more", func() bool { return r.count() == 3 })
	move(in("c"), in("b"))
	until(t, "a file that was replaced is told", func() bool { return r.count() == 4 })
	// Folders.
	r.write("d/e/f", "1")
	until(t, "a file in folders", func() bool { return r.count() == 5 })
	move(in("d"), in("g"))
	until(t, "it has a new path", func() bool { return r.count() == 6 })
	r.write("g/e/h", "1")
	until(t, "a file in the moved folder", func() bool { return r.count() == 7 })
	r.write("d/e/f", "1")
	until(t, "a file in a folder of the old name", func() bool { return r.count() == 8 })
	move(in("g"), outside)
	until(t, "the watches of what left are gone", func() bool { r.w.Kick(); time.Sleep(10 * time.Millisecond); return true })
	move(outside, in("i"))
	until(t, "a folder that came with its files", func() bool { return r.count() == 10 })
	equal(t, r.paths(), "a", "b", "c", "b", "d/e/f", "g/e/f", "g/e/h", "d/e/f", "i/e/f", "i/e/h")
}

// More events than the kernel keeps: a look at everything makes up for those that were lost.
func TestOverflow(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	hold := make(chan struct{})
	var got atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- r.w.Run(ctx, func(context.Context, File) error { <-hold; got.Add(1); return nil })
	}()
	defer func() {
		cancel()
		<-ended
		if !r.w.said["overflow"] {
			t.Error("the queue did not overflow")
		}
	}()
	time.Sleep(50 * time.Millisecond)
	r.write("first", "1")
	time.Sleep(2 * r.w.settle) // found is held by now, or will be by one of the others
	// Writes to one file after another are events of their own, to the same file one.
	var grows [2]*os.File
	for i := range grows {
		f, err := os.Create(filepath.Join(r.dir, fmt.Sprint("grows", i)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		grows[i] = f
	}
	for i := range 40_000 {
		if _, err := grows[i%2].Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	const n = 10
	for i := range n {
		r.write(fmt.Sprint("f", i), "1")
	}
	r.write("folder/last", "1")
	close(hold)
	until(t, "all are told", func() bool { return got.Load() >= n+2 })
	r.write("folder/after", "1")
	until(t, "watches are there again", func() bool { return got.Load() >= n+3 })
}

// Without a watch for every folder the looks find the rest.
func TestWatchesAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Watches = 1; o.Rescan = 300 * time.Millisecond })
	r.write("a/b", "1")
	r.run()
	until(t, "the first is told", func() bool { return r.count() == 1 })
	r.write("a/c", "1")
	until(t, "the second is told", func() bool { return r.count() == 2 })
	if r.stop(); !r.w.said["limit"] {
		t.Error("nothing was logged")
	}
}

// A system that gives no inotify, or no more watches, is told of once, and the looks go on.
func TestInotifyIsRefused(t *testing.T) {
	t.Parallel()
	for key, refuse := range map[string]func(w *Watcher){
		"watches": func(w *Watcher) {
			w.inotify = func(uint) (*fsnotify.Watcher, error) { return nil, unix.EMFILE }
		},
		"limit": func(w *Watcher) {
			w.addWatch = func(*fsnotify.Watcher, string) error { return unix.ENOSPC }
		},
	} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			r := newRig(t, func(o *Options) { o.Rescan = 50 * time.Millisecond; o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
			refuse(r.w)
			r.run()
			for i := range 5 {
				r.write(fmt.Sprintf("d%d/f", i), "1")
				until(t, "it is told", func() bool { return r.count() == i+1 })
			}
			r.stop()
			if n := bytes.Count(log.Bytes(), []byte("\n")); n != 1 || !r.w.said[key] {
				t.Errorf("%d lines were logged:\n%s", n, &log)
			}
		})
	}
}

// What is incomplete beyond the bound is counted, and taken later.
func TestPendingIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Pending = 10; o.Complete = rule(t, "trigger:.t") })
	for i := range 100 {
		r.write(fmt.Sprint("f", i), "1")
	}
	if n := r.scan(); n != 100 || len(r.w.pending.of) != 10 {
		t.Errorf("%d incomplete, %d in memory", n, len(r.w.pending.of))
	}
	if n, b := r.w.Incomplete(); n != 100 || b != 100 {
		t.Errorf("%d files, %d bytes", n, b)
	}
	r.run()
	time.Sleep(100 * time.Millisecond)
	for i := range 100 {
		r.write(fmt.Sprint("f", i, ".t"), "")
	}
	until(t, "all are told", func() bool { return r.count() >= 100 })
	until(t, "none is incomplete", func() bool { n, b := r.w.Incomplete(); return n == 0 && b == 0 })
}

// Those that had no room are looked at as soon as there is some.
func TestPendingTakesTheRest(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Pending = 10; o.Complete = rule(t, "age:50ms") })
	for i := range 100 {
		r.write(fmt.Sprint("f", i), "1")
	}
	r.run()
	until(t, "all are told", func() bool { return r.count() == 100 })
}

// A folder that is full at the start: memory does not grow with it, and order is by name.
func TestManyFiles(t *testing.T) {
	t.Parallel()
	n := 100_000
	if testing.Short() {
		n = 10_000
	}
	dir, err := os.MkdirTemp("/dev/shm", "watch")
	if err != nil { // in memory it is the Watcher that is tested, and not the disk
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	first := filepath.Join(dir, "f-000000")
	if err := os.WriteFile(first, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for part := range 2 {
		wg.Go(func() {
			for i := 1 + part; i < n; i += 2 { // a few inodes: the links of one are limited to 65000
				p := filepath.Join(dir, fmt.Sprintf("f-%06d", i))
				var err error
				if i%1000 == 1+part {
					err = os.WriteFile(p, []byte("x"), 0o644)
				} else {
					err = os.Link(filepath.Join(dir, fmt.Sprintf("f-%06d", i-(i-1-part)%1000)), p)
				}
				if err != nil {
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	taken := make([]bool, n)
	index := func(f File) (i int) { _, _ = fmt.Sscanf(f.Path, "f-%06d", &i); return i }
	w, err := New(Options{Root: root, Dir: dir, Known: func(f File) bool { return taken[index(f)] }})
	if err != nil {
		t.Fatal(err)
	}
	w.batch = n / 5
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most, next := heap(), uint64(0), 0
	begun := time.Now()
	left, err := w.Scan(context.Background(), func(_ context.Context, f File) error {
		if i := index(f); i != next {
			return fmt.Errorf("%s comes, not %d", f.Path, next)
		}
		taken[next] = true
		if next++; next%(n/8) == 0 {
			most = max(most, heap())
		}
		return nil
	})
	if err != nil || left != 0 || next != n {
		t.Fatalf("%d told, %d incomplete, %v", next, left, err)
	}
	t.Logf("%d files in %v, %d KiB at most", n, time.Since(begun), (most-before)>>10)
	if most > before+uint64(n/5)*2*100 {
		t.Errorf("%d KiB were in memory", (most-before)>>10)
	}
}

// Folders beyond those that are held in memory are entered all the same.
func TestManyFolders(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.w.batch = 3
	var want []string
	for i := range 10 {
		r.write(fmt.Sprintf("d%d/f", i), "")
		r.write(fmt.Sprintf("d%d/g", i), "")
		r.write(fmt.Sprintf("f%d", i), "")
		want = append(want, fmt.Sprintf("f%d", i))
	}
	for i := range 10 {
		want = append(want, fmt.Sprintf("d%d/f", i), fmt.Sprintf("d%d/g", i))
	}
	r.scan()
	equal(t, r.paths(), want...)
}

func TestNamesInBatches(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	var want []string
	for i := range 100 {
		want = append(want, fmt.Sprintf("f%03d", (i*37)%100))
		r.write(want[i], "")
	}
	slices.Sort(want)
	dir, err := r.w.openFolder("")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, limit := range []int{2, 3, 10, 50, 99, 100, 101, 1000} {
		var got []string
		after, more := "", true
		for more {
			var batch []string
			if batch, more, err = names(dir, after, limit); err != nil || len(batch) > limit {
				t.Fatal(batch, err)
			}
			if len(batch) > 0 {
				after = batch[len(batch)-1]
			}
			got = append(got, batch...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("batches of %d: %q", limit, got)
		}
	}
}
