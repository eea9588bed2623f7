package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

var errFlaky = errors.New("connection reset")

// A Source that fails in the middle costs only what it had not given yet.
func TestFailingSourceIsResumedElsewhere(t *testing.T) {
	data := random(20, 100*kb4)
	c := open(t, options(t))
	r := &remote{data: data}
	var reads atomic.Int64
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		if reads.Add(1)%5 == 0 {
			m := len(p) / 2
			copy(p, data[off:int(off)+m])
			return m, errFlaky
		}
		return r.plain(p, off)
	}
	f := mustOpen(t, c, contentOf(data), r)
	wantBytes(t, f, data)
	if r.opened.Load() < 3 {
		t.Errorf("only %d sources were tried", r.opened.Load())
	}
	for i, bad := range r.bads {
		if (i == 0) != (bad == nil) || i > 0 && !errors.Is(bad, errFlaky) {
			t.Errorf("fetch %d was told %v", i, bad)
		}
	}
	settled(t, c)
	if r.opened.Load() != r.closed.Load() {
		t.Error("sources left open")
	}
	if s := c.Stats(); s.FetchedBytes > int64(len(data))*2 {
		t.Errorf("%d bytes fetched for %d", s.FetchedBytes, len(data))
	}
}

// Sources that give nothing, or nonsense, are given up after a bounded number, and the
// readers hear why.
func TestHopelessSources(t *testing.T) {
	data := random(21, 20*kb4)
	for name, read := range map[string]func(p []byte, off int64) (int, error){
		"error":         func(p []byte, off int64) (int, error) { return 0, errFlaky },
		"short":         func(p []byte, off int64) (int, error) { return 0, io.EOF },
		"nothing":       func(p []byte, off int64) (int, error) { return 0, nil },
		"negative":      func(p []byte, off int64) (int, error) { return -1, nil },
		"too much":      func(p []byte, off int64) (int, error) { return len(p) + 1, nil },
		"wrong bytes":   func(p []byte, off int64) (int, error) { return len(p), nil },
		"shifted range": func(p []byte, off int64) (int, error) { return copy(p, data[off/2:]), nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, options(t))
			r := &remote{data: data, onRead: func(ctx context.Context, n int, p []byte, off int64) (int, error) { return read(p, off) }}
			f := mustOpen(t, c, contentOf(data), r)
			got, err := readAll(timeout(t), f, kb4)
			if err == nil || len(got) == len(data) {
				t.Fatalf("read %d bytes, %v", len(got), err)
			}
			if n := r.opened.Load(); n < 2 || n > 3*maxSources {
				t.Errorf("%d sources tried", n)
			}
			if err := f.Fill(timeout(t)); err == nil || f.Whole() {
				t.Error("filled from nonsense")
			}
			settled(t, c)
			if s, ok := c.Status(contentOf(data).Key); ok && s.Resident > 0 {
				t.Errorf("%d bytes of nonsense are kept", s.Resident)
			}
			// Nothing is negative for ever.
			r.onRead = nil
			wantBytes(t, mustOpen(t, c, contentOf(data), r), data)
		})
	}
}

func TestFetchErrorReachesAllWaiters(t *testing.T) {
	data := random(22, 20*kb4)
	c := open(t, options(t))
	errLost := errors.New("no replica left")
	gate := make(chan struct{})
	r := &remote{data: data, onFetch: func(ctx context.Context, n int, bad error) error { <-gate; return errLost }}
	results := make(chan error, 10)
	for i := range 10 {
		f := mustOpen(t, c, contentOf(data), r)
		go func() {
			if i == 0 {
				results <- f.Fill(timeout(t))
				return
			}
			_, err := f.ReadAt(timeout(t), make([]byte, 5), int64(i)*kb4)
			results <- err
		}()
	}
	eventually(t, "all wait", func() bool { return waiting(c, contentOf(data).Key) == 10 })
	close(gate)
	for range 10 {
		wantErr(t, <-results, errLost)
	}
	if r.opened.Load() != 1 {
		t.Errorf("%d fetches", r.opened.Load())
	}
}

// A sequential reader of corrupt bytes gets an error and never a clean end.
func TestWithholding(t *testing.T) {
	blocks := 40
	data := random(23, blocks*kb4-100)
	last := int64(blocks-1) * kb4
	bad := flipped(data, 5*kb4+3)
	serve := func(versions ...[]byte) *remote {
		r := &remote{data: data}
		r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
			return bytes.NewReader(versions[min(n, len(versions)-1)]).ReadAt(p, off)
		}
		return r
	}
	t.Run("all replicas corrupt", func(t *testing.T) {
		c := open(t, options(t))
		r := serve(bad)
		got, err := readAll(timeout(t), mustOpen(t, c, contentOf(data), r), kb4)
		wantErr(t, err, ErrCorrupt)
		if int64(len(got)) > last {
			t.Errorf("got %d of %d bytes", len(got), len(data))
		}
		for _, b := range r.bads {
			if b != nil { // the first of a fill
				wantErr(t, b, ErrCorrupt)
			}
		}
		if s := c.Stats(); s.Corrupt == 0 {
			t.Error("not counted")
		}
	})
	t.Run("first replica corrupt before a byte was given", func(t *testing.T) {
		c := open(t, options(t))
		r := serve(bad, data)
		f := mustOpen(t, c, contentOf(data), r)
		if err := f.Fill(timeout(t)); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, f, data)
		if r.opened.Load() != 2 {
			t.Errorf("%d fetches", r.opened.Load())
		}
	})
	t.Run("a reader that was given wrong bytes fails, others do not", func(t *testing.T) {
		c := open(t, options(t))
		r := serve(bad, data)
		f := mustOpen(t, c, contentOf(data), r)
		other := mustOpen(t, c, contentOf(data), r)
		p := make([]byte, kb4)
		if _, err := other.ReadAt(timeout(t), p, 9*kb4); err != nil {
			t.Fatal(err)
		}
		_, err := readAll(timeout(t), f, kb4)
		if !errors.Is(err, ErrCorrupt) {
			// The whole may have been found corrupt before it came to the bad block.
			if f.poison != nil || err != nil {
				t.Fatalf("error %v", err)
			}
		}
		wantBytes(t, other, data)
		wantBytes(t, mustOpen(t, c, contentOf(data), r), data)
	})
	t.Run("strict gives nothing before the whole is verified", func(t *testing.T) {
		o := options(t)
		o.Strict = true
		c := open(t, o)
		got, err := readAll(timeout(t), mustOpen(t, c, contentOf(data), serve(bad)), kb4)
		wantErr(t, err, ErrCorrupt)
		if len(got) != 0 {
			t.Errorf("%d bytes given", len(got))
		}
		f := mustOpen(t, c, contentOf(data), serve(data))
		wantBytes(t, f, data)
	})

	// The rules, with a fill that never gets its last piece.
	hang := func() *remote {
		r := &remote{data: data}
		r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
			if off <= 20*kb4 && off+int64(len(p)) > 20*kb4 { // one block in the middle
				<-ctx.Done()
				return 0, ctx.Err()
			}
			return r.plain(p, off)
		}
		return r
	}
	given := func(f *File, off int64) bool {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			_, err := f.ReadAt(ctx, make([]byte, 10), off)
			done <- err
		}()
		defer cancel()
		for {
			select {
			case err := <-done:
				return err == nil
			default:
			}
			f.e.mu.Lock()
			for w := range f.e.waiters {
				if w.f == f && w.goal == goalProof {
					f.e.mu.Unlock()
					cancel()
					<-done
					return false
				}
			}
			f.e.mu.Unlock()
		}
	}
	for _, c := range []struct {
		name string
		offs []int64 // all but the last are given
		want bool
	}{
		{"tail alone", []int64{last}, true},
		{"tail twice", []int64{last, last + 50}, true},
		{"tail in two blocks", []int64{last - 10, last}, true},
		{"head and then tail, of 40 blocks", []int64{0, last}, true},
		{"middle and then tail", []int64{7 * kb4, 6 * kb4, last}, true},
		{"tail and then head", []int64{last, 0}, true},
		{"tail, head and tail", []int64{last, 0, last}, true},
		{"more than a sixteenth and then tail", []int64{0, kb4, 9 * kb4, last}, false},
		{"tail, more than a sixteenth and tail", []int64{last, 0, kb4, 2 * kb4, last}, false},
		{"middle", []int64{3 * kb4, 4 * kb4}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ca := open(t, options(t))
			r := hang()
			f := mustOpen(t, ca, contentOf(data), r)
			keep := mustOpen(t, ca, contentOf(data), r) // keeps the fill going
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() { defer close(done); _ = keep.Fill(ctx) }()
			defer func() { cancel(); <-done }()
			for i, off := range c.offs {
				want := c.want || i < len(c.offs)-1
				if got := given(f, off); got != want {
					t.Errorf("read %d at %d: given %v, want %v", i, off, got, want)
				}
			}
		})
	}
	t.Run("the block that would complete it is withheld too", func(t *testing.T) {
		two := random(24, kb4+10)
		c := open(t, options(t))
		r := &remote{data: flipped(two, 3)}
		f := mustOpen(t, c, contentOf(two), r)
		_, _ = f.ReadAt(timeout(t), make([]byte, 10), kb4)
		_, err := f.ReadAt(timeout(t), make([]byte, 10), 0)
		wantErr(t, err, ErrCorrupt)
	})
	t.Run("one block is never given unverified", func(t *testing.T) {
		one := random(25, 100)
		c := open(t, options(t))
		n, err := mustOpen(t, c, contentOf(one), &remote{data: flipped(one, 3)}).ReadAt(timeout(t), make([]byte, 10), 0)
		wantErr(t, err, ErrCorrupt)
		if n != 0 {
			t.Error("bytes given")
		}
	})
	t.Run("no flipped byte anywhere gives a clean end", func(t *testing.T) {
		small := random(26, 6*kb4+11)
		for at := 0; at < len(small); at += 1031 {
			for _, step := range []int{1000, kb4, 100_000} {
				c := open(t, options(t))
				_, err := readAll(timeout(t), mustOpen(t, c, contentOf(small), &remote{data: flipped(small, at)}), step)
				wantErr(t, err, ErrCorrupt)
				shut(t, c)
			}
		}
	})
}

// A File that was given wrong bytes, of a replica found corrupt later, stays an error even
// though the content itself is repaired.
func TestPoisonedReader(t *testing.T) {
	data := random(27, 40*kb4)
	c := open(t, options(t))
	r := &remote{data: data}
	gate := make(chan struct{})
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		if n > 0 {
			return r.plain(p, off)
		}
		if off+int64(len(p)) > 30*kb4 {
			select {
			case <-gate:
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		return bytes.NewReader(flipped(data, 2*kb4)).ReadAt(p, off)
	}
	wrong, right := mustOpen(t, c, contentOf(data), r), mustOpen(t, c, contentOf(data), r)
	p := make([]byte, kb4)
	for b := range int64(5) {
		if _, err := wrong.ReadAt(timeout(t), p, b*kb4); err != nil {
			t.Fatal(err)
		}
		if b != 2 {
			if _, err := right.ReadAt(timeout(t), p, b*kb4); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(gate)
	if err := right.Fill(timeout(t)); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, right, data)
	for range 2 {
		_, err := wrong.ReadAt(timeout(t), p, 39*kb4)
		wantErr(t, err, ErrCorrupt)
	}
	wantBytes(t, mustOpen(t, c, contentOf(data), r), data)
}

// Unverified blocks of two Sources are mixed: the second is not blamed for the first's.
func TestBlameOnlyWhoIsToBlame(t *testing.T) {
	data := random(28, 40*kb4)
	c := open(t, options(t))
	r := &remote{data: data}
	var given atomic.Int64
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		if n == 0 { // gives some wrong bytes, then breaks
			if given.Add(1) > 3 {
				return 0, errFlaky
			}
			return bytes.NewReader(flipped(data, int(off))).ReadAt(p, off)
		}
		return r.plain(p, off)
	}
	f := mustOpen(t, c, contentOf(data), r)
	if err := f.Fill(timeout(t)); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, f, data)
	if n := r.opened.Load(); n != 2 {
		t.Errorf("%d fetches: %v", n, r.bads)
	}
}

// After an eviction the block checksums are still known: a wrong block is found when it
// arrives, and never given.
func TestRefetchIsCheckedBlockByBlock(t *testing.T) {
	data := random(29, 40*kb4)
	o := options(t)
	o.Head, o.Tail = kb4, kb4
	c := open(t, o)
	cached(t, c, contentOf(data), data)
	if _, err := c.Evict(contentOf(data).Key); err != nil {
		t.Fatal(err)
	}
	r := &remote{data: data}
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		if n == 0 {
			return bytes.NewReader(flipped(data, 7*kb4)).ReadAt(p, off)
		}
		return r.plain(p, off)
	}
	f := mustOpen(t, c, contentOf(data), r)
	p := make([]byte, kb4)
	for b := range int64(40) {
		if _, err := f.ReadAt(timeout(t), p, b*kb4); err != nil || !bytes.Equal(p, data[b*kb4:(b+1)*kb4]) {
			t.Fatalf("block %d: %v", b, err)
		}
	}
}

// A content without checksums is whole when its size is there; one with a Sums that is
// given later is fetched again.
func TestContentWithoutSums(t *testing.T) {
	data := random(30, 10*kb4)
	c := open(t, options(t))
	ct := contentOf(data)
	ct.Sums = nil
	cached(t, c, ct, data)
	r := &remote{data: data}
	wantBytes(t, mustOpen(t, c, ct, r), data)
	if r.opened.Load() != 0 {
		t.Error("fetched again")
	}
	_, err := c.Open(contentOf(data), nil)
	wantErr(t, err, ErrCorrupt) // open under the other claim
}

func TestContradictingContent(t *testing.T) {
	data, other := random(31, 10*kb4), random(32, 11*kb4)
	c := open(t, options(t))
	ct, wrong := contentOf(data), contentOf(other)
	wrong.Key = ct.Key
	cached(t, c, wrong, other)
	f := mustOpen(t, c, ct, &remote{data: data}) // nobody has it open: what is here goes
	wantBytes(t, f, data)
	_, err := c.Open(wrong, nil)
	wantErr(t, err, ErrCorrupt)
	for _, ct := range []Content{{Key: "", Size: 1}, {Key: "a", Size: -1}, {Key: "a", Size: 1 << 62}} {
		if f, err := c.Open(ct, nil); err == nil {
			f.Close()
			t.Errorf("Open(%v) accepted", ct)
		}
	}
}

func ExampleCache_Open() {
	data := []byte("photons")
	dir, err := os.MkdirTemp("", "tarn-cache-example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	c, err := Open(Options{Dir: filepath.Join(dir, "cache"), NewHash: newSums})
	if err != nil {
		panic(err)
	}
	defer c.Close()
	f, err := c.Open(contentOf(data), (&remote{data: data}).fetch)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	p := make([]byte, 100)
	n, err := f.ReadAt(context.Background(), p, 2)
	fmt.Printf("%s %v %v\n", p[:n], err, f.Whole())
	// Output: otons EOF true
}

// Who gave a Source that was bad hears of it, and not somebody else who reads the content, too, and knows nothing of it.
func TestBadSourceIsToldToItsGiver(t *testing.T) {
	data := random(23, 40*kb4)
	c := open(t, options(t))
	var giver atomic.Pointer[remote]
	var all []*remote
	var files []*File
	for range 8 {
		r := &remote{data: data}
		r.onFetch = func(context.Context, int, error) error { giver.CompareAndSwap(nil, r); return nil }
		r.onRead = func(_ context.Context, n int, p []byte, off int64) (int, error) {
			if r == giver.Load() && n == 0 {
				return bytes.NewReader(flipped(data, 5000)).ReadAt(p, off)
			}
			return r.plain(p, off)
		}
		all = append(all, r)
		files = append(files, mustOpen(t, c, contentOf(data), r))
	}
	var wg sync.WaitGroup
	for _, f := range files {
		wg.Go(func() {
			if err := f.Fill(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	told := 0
	for _, r := range all {
		for _, bad := range r.bads {
			if bad == nil {
				continue
			}
			told++
			if r != giver.Load() || !errors.Is(bad, ErrCorrupt) {
				t.Errorf("told to somebody else: %v", bad)
			}
		}
	}
	if told == 0 {
		t.Error("nobody was told")
	}
}

// A Source that was bad hears of it also when its reader has got the error, and is gone, before the next is asked for.
func TestBadSourceIsToldWithoutReaders(t *testing.T) {
	data := random(29, 40*kb4)
	c := open(t, options(t))
	r := &remote{data: data}
	r.onRead = func(_ context.Context, _ int, p []byte, off int64) (int, error) {
		return bytes.NewReader(flipped(data, 5000)).ReadAt(p, off)
	}
	f := mustOpen(t, c, contentOf(data), r)
	r.onClose = func() { f.Close() }
	if err := f.Fill(t.Context()); err == nil {
		t.Error("a content that is not right was filled")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if len(r.blamed) == 0 || !errors.Is(r.blamed[0], ErrCorrupt) {
		t.Errorf("blamed for %v", r.blamed)
	}
}
