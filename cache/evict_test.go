package cache

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// room gives a Limit for n contents of size bytes each (one side file page per content),
// so that the background stays out of it: 95 % of it are just above them.
func room(n, size int64) int64 { return n*(pages(size)+pageSize)*100/95 + 100 }

func numbered(i, size int) (Content, []byte) {
	data := random(uint64(1000+i), size)
	return contentOf(data), data
}

func resident(c *Cache, k Key) int64 {
	s, _ := c.Status(k)
	return s.Resident
}

func TestEvictionByUse(t *testing.T) {
	const size = 8 * kb4
	k := newClock()
	o := options(t)
	o.Limit, o.Now = room(3, size), k.now
	c := open(t, o)
	var cts []Content
	for i := range 4 {
		ct, data := numbered(i, size)
		cts = append(cts, ct)
		if i == 3 { // the first is used again before the fourth comes
			k.pass(time.Second)
			wantBytes(t, mustOpen(t, c, cts[0], nil2(t)), random(1000, size))
			settledClose(t, c)
		}
		k.pass(time.Second)
		cached(t, c, ct, data)
		settled(t, c)
	}
	for i, want := range []bool{true, false, true, true} {
		if s, _ := c.Status(cts[i].Key); s.Whole != want {
			t.Errorf("content %d whole: %v, want %v", i, s.Whole, want)
		}
	}
}

// nil2 is a remote that must not be asked.
func nil2(t *testing.T) *remote {
	return &remote{onFetch: func(context.Context, int, error) error {
		t.Error("fetched what should be cached")
		return errFlaky
	}}
}

// settledClose closes the Files opened by the test so far.
func settledClose(t *testing.T, c *Cache) {
	c.mu.Lock()
	var files []*File
	for _, e := range c.entries {
		for f := range e.files {
			files = append(files, f)
		}
	}
	c.mu.Unlock()
	for _, f := range files {
		f.Close()
	}
	settled(t, c)
}

// A file from tape outlives a file from disk of the same size and age, and is not kept
// for ever.
func TestEvictionByCost(t *testing.T) {
	const size = 8 * kb4
	o := options(t)
	o.Limit = room(3, size)
	c := open(t, o)
	tape, tapeData := numbered(0, size)
	tape.Cost = time.Second
	cached(t, c, tape, tapeData)
	settled(t, c)
	for i := 1; i < 30; i++ {
		ct, data := numbered(i, size)
		cached(t, c, ct, data)
		settled(t, c)
		if s, _ := c.Status(tape.Key); !s.Whole {
			t.Fatalf("tape file evicted after %d disk files", i)
		}
	}
	for i := 0; ; i++ {
		if s, _ := c.Status(tape.Key); !s.Whole {
			break
		}
		if i > 3000 {
			t.Fatal("never evicted")
		}
		ct, data := numbered(i%40, size)
		ct.Key = Key(fmt.Sprint(i))
		ct.Cost = 20 * time.Millisecond
		cached(t, c, ct, data)
		settled(t, c)
	}
}

func TestOpenPinnedAndFillingAreNeverEvicted(t *testing.T) {
	const size = 8 * kb4
	k := newClock()
	o := options(t)
	o.Limit, o.Now = room(3, size), k.now
	c := open(t, o)
	openCt, openData := numbered(0, size)
	pinned, pinnedData := numbered(1, size)
	filling, fillingData := numbered(2, size)
	f := mustOpen(t, c, openCt, &remote{data: openData})
	if err := f.Fill(timeout(t)); err != nil {
		t.Fatal(err)
	}
	cached(t, c, pinned, pinnedData)
	if err := c.Pin(pinned.Key, k.now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	gate := make(chan struct{})
	g := mustOpen(t, c, filling, &remote{data: fillingData, onFetch: func(context.Context, int, error) error { <-gate; return nil }})
	done := make(chan error, 1)
	go func() { done <- g.Fill(timeout(t)) }()
	eventually(t, "space is reserved", func() bool { return c.Stats().Reserved > 0 })

	if err := c.ReserveUnsent(size); err == nil {
		t.Error("reserved what is in use")
	} else {
		wantErr(t, err, ErrNoSpace)
	}
	for _, k := range []Key{openCt.Key, pinned.Key} {
		_, err := c.Evict(k)
		wantErr(t, err, ErrBusy)
	}
	other, otherData := numbered(3, size)
	h := mustOpen(t, c, other, &remote{data: otherData})
	wantErr(t, h.Fill(timeout(t)), ErrNoSpace)
	wantBytes(t, h, otherData) // past the cache
	h.Close()
	close(gate)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, k := range []Key{openCt.Key, pinned.Key, filling.Key} {
		if s, _ := c.Status(k); !s.Whole {
			t.Errorf("%s was evicted", k)
		}
	}
	if s := c.Stats(); s.Pinned == 0 || s.Evictions != 0 {
		t.Errorf("%+v", s)
	}
	// The pin ends.
	k.pass(2 * time.Hour)
	if err := c.ReserveUnsent(size); err != nil {
		t.Fatal(err)
	}
	if s, _ := c.Status(pinned.Key); s.Whole {
		t.Error("still here after its pin ended")
	}
	c.ReleaseUnsent(size)
	if c.Stats().Unsent != 0 {
		t.Error("unsent not released")
	}
}

// Eviction keeps head and tail, gives the disk space of the middle back, and takes the
// ends only after everything else.
func TestEvictionKeepsEndsAndTheyGoLast(t *testing.T) {
	const size = 64*kb4 + 100
	o := options(t)
	o.Head, o.Tail = 2*kb4, kb4
	o.Limit = room(3, size)
	c := open(t, o)
	ct, data := numbered(0, size)
	cached(t, c, ct, data)
	settled(t, c)
	path := c.path(fileName(ct.Key), dataSuffix)
	before, after := blocksOf(t, path), int64(0)
	freed, err := c.Evict(ct.Key)
	if err != nil {
		t.Fatal(err)
	}
	after = blocksOf(t, path)
	const ends = 2 + 2 // the tail of 4096 bytes lies in two blocks
	if freed != (65-ends)*kb4 || (before-after)*512 < freed {
		t.Errorf("freed %d; disk blocks %d, then %d", freed, before, after)
	}
	if n := resident(c, ct.Key); n != 3*kb4+100 {
		t.Errorf("%d bytes left", n)
	}
	if freed, err := c.Evict(ct.Key); freed != 0 || err != nil {
		t.Errorf("again: %d, %v", freed, err)
	}
	f := mustOpen(t, c, ct, nil2(t))
	p := make([]byte, 2*kb4)
	for _, off := range []int{0, size - 2*kb4 + 1000} {
		if off > 0 {
			p = p[:kb4]
			off = size - kb4
		}
		if n, err := f.ReadAt(timeout(t), p, int64(off)); n != len(p) || !bytes.Equal(p, data[off:off+n]) {
			t.Errorf("end at %d: %d, %v", off, n, err)
		}
	}
	f.Close()
	// Others come and go; the ends stay, though they are the oldest, until they alone are left.
	for i := 1; i < 8; i++ {
		other, otherData := numbered(i, size)
		cached(t, c, other, otherData)
		settled(t, c)
		if resident(c, ct.Key) == 0 {
			t.Fatalf("ends went with content %d while whole ones were here", i)
		}
	}
	if err := c.ReserveUnsent(c.Stats().Limit - pageSize); err != nil {
		t.Fatal(err)
	}
	if n := len(c.List()); n != 0 {
		t.Errorf("%d contents are left", n)
	}
}

func blocksOf(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // delayed allocation
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

func TestWatermarks(t *testing.T) {
	const size = 7 * kb4 // with its side file 32 KiB
	o := options(t)
	o.Limit = 100 * 32 << 10
	c := open(t, o)
	for i := range 96 {
		ct, data := numbered(i, size)
		cached(t, c, ct, data)
	}
	eventually(t, "evicted down to the low watermark", func() bool { return c.Stats().Used <= watermark(o.Limit, lowPercent) })
	settled(t, c)
	if s := c.Stats(); s.Files < 88 {
		t.Errorf("%d files left of 90", s.Files)
	}
}

// What cannot fit does not empty the cache.
func TestHopelessReservationEvictsNothing(t *testing.T) {
	const size = 8 * kb4
	o := options(t)
	o.Limit = room(3, size)
	c := open(t, o)
	for i := range 3 {
		ct, data := numbered(i, size)
		cached(t, c, ct, data)
	}
	settled(t, c)
	big, bigData := numbered(9, 5*size)
	f := mustOpen(t, c, big, &remote{data: bigData})
	wantErr(t, f.Fill(timeout(t)), ErrNoSpace)
	wantErr(t, c.ReserveUnsent(1<<62), ErrNoSpace)
	wantErr(t, c.ReserveUnsent(o.Limit), nil)
	c.ReleaseUnsent(o.Limit)
	if c.ReserveUnsent(-1) == nil || c.SetLimit(-1) == nil {
		t.Error("negative amounts accepted")
	}
}

func TestHopelessFillKeepsTheOthers(t *testing.T) {
	const size = 8 * kb4
	o := options(t)
	o.Limit = room(3, size)
	c := open(t, o)
	for i := range 3 {
		ct, data := numbered(i, size)
		cached(t, c, ct, data)
	}
	settled(t, c)
	big, bigData := numbered(9, 5*size)
	wantBytes(t, mustOpen(t, c, big, &remote{data: bigData}), bigData)
	if s := c.Stats(); s.Files != 3 || s.Evictions != 0 {
		t.Errorf("%+v", s)
	}
}

func TestSetLimit(t *testing.T) {
	const size = 8 * kb4
	c := open(t, options(t))
	var f *File
	for i := range 6 {
		ct, data := numbered(i, size)
		f = mustOpen(t, c, ct, &remote{data: data})
		if err := f.Fill(timeout(t)); err != nil {
			t.Fatal(err)
		}
		if i < 5 {
			f.Close()
		}
	}
	settled(t, c)
	if err := c.SetLimit(room(3, size)); err != nil {
		t.Fatal(err)
	}
	if s := c.Stats(); s.Used > s.Limit || s.Files < 2 {
		t.Errorf("%+v", s)
	}
	wantErr(t, c.SetLimit(kb4), ErrNoSpace) // one is open
	if s := c.Stats(); s.Files != 1 {
		t.Errorf("%+v", s)
	}
	f.Close()
	eventually(t, "the last goes when it is closed", func() bool { return c.Stats().Used == 0 })
	if err := c.SetLimit(0); err != nil || c.Stats().Limit != maxLimit {
		t.Error("no limit:", err)
	}
}

// Below the floor of free space nothing is stored, and reads go on.
func TestFreeFloor(t *testing.T) {
	o := options(t)
	o.FreeFloor = 1 << 60
	c := open(t, o)
	data := random(50, 30*kb4)
	r := &remote{data: data}
	f := mustOpen(t, c, contentOf(data), r)
	wantBytes(t, f, data)
	wantErr(t, f.Fill(timeout(t)), ErrNoSpace)
	if s := c.Stats(); s.Used != 0 || s.Reserved != 0 {
		t.Errorf("%+v", s)
	}
}

// Past the cache the same checks hold.
func TestBypass(t *testing.T) {
	data := random(51, 100*kb4+7)
	small := func(t *testing.T) *Cache {
		o := options(t)
		o.Limit = 20 * kb4
		return open(t, o)
	}
	t.Run("sequential reads cost one pass", func(t *testing.T) {
		c := small(t)
		r := &remote{data: data}
		f := mustOpen(t, c, contentOf(data), r)
		wantBytes(t, f, data)
		if n := r.bytes.Load(); n > int64(len(data))*11/10 {
			t.Errorf("%d bytes fetched of %d", n, len(data))
		}
		if r.opened.Load() != 1 {
			t.Errorf("%d fetches", r.opened.Load())
		}
		f.Close()
		settled(t, c)
		if r.closed.Load() != 1 || c.Stats().Used != 0 {
			t.Error("source left open, or something stored")
		}
	})
	t.Run("random reads, then the end", func(t *testing.T) {
		c := small(t)
		f := mustOpen(t, c, contentOf(data), &remote{data: data})
		p := make([]byte, 3*kb4)
		for _, off := range []int{50 * kb4, 3, 99 * kb4, 20*kb4 + 1, len(data) - 3*kb4, 0} {
			if n, err := f.ReadAt(timeout(t), p, int64(off)); n < kb4 || !bytes.Equal(p[:n], data[off:off+n]) {
				t.Errorf("at %d: %d, %v", off, n, err)
			}
		}
		wantBytes(t, f, data)
	})
	t.Run("tail alone at once", func(t *testing.T) {
		c := small(t)
		r := &remote{data: data}
		f := mustOpen(t, c, contentOf(data), r)
		if _, err := f.ReadAt(timeout(t), make([]byte, 5), int64(len(data)-5)); err != nil {
			t.Fatal(err)
		}
		if n := r.bytes.Load(); n > 3*kb4 {
			t.Errorf("%d bytes fetched", n)
		}
	})
	for name, seq := range map[string]bool{"corrupt, sequential": true, "corrupt, random": false} {
		t.Run(name, func(t *testing.T) {
			c := small(t)
			r := &remote{data: flipped(data, 60*kb4)}
			f := mustOpen(t, c, contentOf(data), r)
			if !seq {
				for b := range 8 { // more than a look
					if _, err := f.ReadAt(timeout(t), make([]byte, 5), int64(70+3*b)*kb4); err != nil {
						t.Fatal(err)
					}
				}
				_, err := f.ReadAt(timeout(t), make([]byte, 5), int64(len(data)-5))
				wantErr(t, err, ErrCorrupt)
			}
			got, err := readAll(timeout(t), f, 10_000)
			wantErr(t, err, ErrCorrupt)
			if len(got) > 100*kb4 {
				t.Error("read to the end")
			}
		})
	}
	t.Run("corrupt, then a good replica", func(t *testing.T) {
		c := small(t)
		r := &remote{data: data}
		r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
			if n == 0 {
				return bytes.NewReader(flipped(data, 60*kb4)).ReadAt(p, off)
			}
			return r.plain(p, off)
		}
		f := mustOpen(t, c, contentOf(data), r)
		_, err := readAll(timeout(t), f, kb4)
		wantErr(t, err, ErrCorrupt) // it was given the wrong bytes
		wantBytes(t, mustOpen(t, c, contentOf(data), r), data)
	})
	t.Run("many readers share", func(t *testing.T) {
		c := small(t)
		r := &remote{data: data}
		errs := make(chan error, 20)
		for range 20 {
			f := mustOpen(t, c, contentOf(data), r)
			go func() {
				got, err := readAll(timeout(t), f, kb4)
				if err == nil && !bytes.Equal(got, data) {
					err = ErrCorrupt
				}
				errs <- err
			}()
		}
		for range 20 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if r.opened.Load() != 1 || r.bytes.Load() > 3*int64(len(data)) {
			t.Errorf("%d fetches, %d bytes", r.opened.Load(), r.bytes.Load())
		}
	})
	t.Run("resident ends are used", func(t *testing.T) {
		o := options(t)
		o.Limit, o.Head, o.Tail = 20*kb4, 2*kb4, 2*kb4
		c := open(t, o)
		if err := c.Seed(contentOf(data), bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, mustOpen(t, c, contentOf(data), &remote{data: data}), data)
	})
}

// Somebody may open a content between its choice as a victim and its eviction.
func TestEvictionYieldsToLateOpen(t *testing.T) {
	o := options(t)
	o.Head = kb4
	c := open(t, o)
	ct, data := numbered(0, 9*kb4)
	f := mustOpen(t, c, ct, &remote{data: data})
	if err := f.Fill(timeout(t)); err != nil {
		t.Fatal(err)
	}
	settled(t, c)
	for _, keepEnds := range []bool{true, false} {
		c.mu.Lock()
		f.e.refs++ // the evictor's
		c.mu.Unlock()
		_, err := c.shrink(f.e, keepEnds)
		wantErr(t, err, ErrBusy)
		c.put(f.e)
		if _, ok := f.Passthrough(); !ok {
			t.Error("evicted under an open file")
		}
	}
}
