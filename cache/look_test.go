package cache

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

const lookBlock = 64 << 10

// looking is a cache whose looks begin at 1 MiB, and a content of 64 blocks.
func looking(t *testing.T) (*Cache, Content, []byte) {
	t.Helper()
	o := options(t)
	o.Block, o.Limit = lookBlock, 64<<20
	c := open(t, o)
	c.look.from, c.look.near, c.look.price = 1<<20, 1<<10, 4<<10
	data := random(40, 64*lookBlock)
	return c, contentOf(data), data
}

// away is the ith of places that are far from one another, none at the beginning or the end.
func away(i int) int64 { return int64(1+(i*17)%60)*lookBlock + int64(i*64) }

func lookAt(t *testing.T, f *File, data []byte, off int64, n int) {
	t.Helper()
	p := make([]byte, n)
	if m, err := f.ReadAt(timeout(t), p, off); err != nil || !bytes.Equal(p[:m], data[off:off+int64(n)]) {
		t.Fatalf("%d bytes at %d: %d, %v", n, off, m, err)
	}
}

// Who jumps about in a content gets what he asks for and nothing else is fetched, nor room taken;
// once somebody reads on, the rest follows.
func TestLooksFetchNothingElse(t *testing.T) {
	c, ct, data := looking(t)
	r := &remote{data: data}
	f := mustOpen(t, c, ct, r)
	for i := range 20 {
		p := make([]byte, 100)
		got, done, err := f.ReadShared(timeout(t), p, away(i))
		if err != nil || !bytes.Equal(got, data[away(i):away(i)+100]) {
			t.Fatal(len(got), err)
		}
		done()
	}
	r.mu.Lock()
	for i, x := range r.ranges {
		if x != [2]int64{away(i), 100} {
			t.Errorf("look %d asked for %v", i, x)
		}
	}
	n := len(r.ranges)
	r.mu.Unlock()
	if s := c.Stats(); n != 20 || r.opened.Load() != 1 || s.Used != 0 || s.Reserved != 0 || s.FetchedBytes != 2000 {
		t.Errorf("%d reads of %d sources, %+v", n, r.opened.Load(), s)
	}
	// Two parts of two blocks.
	lookAt(t, f, data, 9*lookBlock-50, 100)
	if got := r.ranges[20:]; !slices.Equal(got, [][2]int64{{9*lookBlock - 50, 50}, {9 * lookBlock, 50}}) {
		t.Errorf("a look over the end of a block: %v", got)
	}
	lookAt(t, f, data, 9*lookBlock+500, 100) // near by, and still a look
	if got := r.ranges[22:]; !slices.Equal(got, [][2]int64{{9*lookBlock + 500, 100}}) {
		t.Errorf("near the look before: %v", got)
	}
	lookAt(t, f, data, 9*lookBlock+600, 100) // goes on
	eventually(t, "the rest follows", f.Whole)
	wantBytes(t, f, data)
}

// Looks are under way 32 at a time, and no more.
func TestLooksAtATime(t *testing.T) {
	c, ct, data := looking(t)
	r := &remote{data: data}
	var mu sync.Mutex
	now, most := 0, 0
	all := make(chan struct{})
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		mu.Lock()
		if now++; now > most {
			if most = now; most == looksAtOnce {
				close(all)
			}
		}
		mu.Unlock()
		select {
		case <-all:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		time.Sleep(10 * time.Millisecond) // one more would show
		mu.Lock()
		now--
		mu.Unlock()
		return r.plain(p, off)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		f := mustOpen(t, c, ct, r)
		wg.Go(func() {
			p := make([]byte, 100)
			if _, err := f.ReadAt(timeout(t), p, away(i)); err != nil || !bytes.Equal(p, data[away(i):away(i)+100]) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most != looksAtOnce {
		t.Errorf("%d at a time", most)
	}
}

// A look that gave wrong bytes is found out when the whole is verified; one that gave the right
// ones beside a source that is wrong elsewhere is not blamed.
func TestWrongLooks(t *testing.T) {
	c, ct, data := looking(t)
	r := &remote{data: data}
	bad := flipped(data, int(away(3))+7)
	wrong := true
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		if wrong {
			return copy(p, bad[off:]), nil
		}
		return r.plain(p, off)
	}
	f := mustOpen(t, c, ct, r)
	if _, err := f.ReadAt(timeout(t), make([]byte, 100), away(3)); err != nil {
		t.Fatal(err)
	}
	f2 := mustOpen(t, c, ct, r)
	wrong = false
	lookAt(t, f2, data, away(3), 100)
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		if n == 0 {
			return copy(p, bad[off:]), nil
		}
		return r.plain(p, off)
	}
	if err := mustOpen(t, c, ct, r).Fill(timeout(t)); err != nil {
		t.Fatal(err)
	}
	if c.Stats().Corrupt == 0 {
		t.Error("no source was wrong")
	}
	_, err := f.ReadAt(timeout(t), make([]byte, 100), 0)
	wantErr(t, err, ErrCorrupt)
	wantBytes(t, f2, data)
}

// Who has looked at more than a sixteenth of a content does not get its end before the whole is
// verified.
func TestLooksDoNotEscapeWithholding(t *testing.T) {
	c, ct, data := looking(t)
	c.look.price = 1 // all that there may be
	bad := &remote{data: flipped(data, 5)}
	f := mustOpen(t, c, ct, bad)
	for i := range 60 {
		lookAt(t, f, data, int64(1+i)*lookBlock+int64(i%2)*(lookBlock/2), 10<<10)
	}
	n, err := f.ReadAt(timeout(t), make([]byte, 100), 63*lookBlock+500)
	if n != 0 {
		t.Error("the end was given")
	}
	wantErr(t, err, ErrCorrupt)
	g := mustOpen(t, c, ct, &remote{data: data})
	lookAt(t, g, data, 63*lookBlock+500, 100) // who looks at it alone gets it
}

// A source that fails leaves its looks to the next one.
func TestLooksGoOnElsewhere(t *testing.T) {
	c, ct, data := looking(t)
	r := &remote{data: data}
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		if n == 0 {
			return copy(p, data[off:off+10]), errFlaky
		}
		return r.plain(p, off)
	}
	f := mustOpen(t, c, ct, r)
	lookAt(t, f, data, away(1), 100)
	if r.opened.Load() != 2 || r.bads[1] == nil {
		t.Errorf("%d sources, %v", r.opened.Load(), r.bads)
	}
	r.onRead = func(context.Context, int, []byte, int64) (int, error) { return 0, errFlaky }
	_, err := f.ReadAt(timeout(t), make([]byte, 100), away(2))
	wantErr(t, err, errFlaky)
	settled(t, c)
	if r.opened.Load() != r.closed.Load() {
		t.Error("sources left open")
	}
}

// A reader that goes away takes its look with it.
func TestLookIsCancelled(t *testing.T) {
	c, ct, data := looking(t)
	r := &remote{data: data}
	begun := make(chan struct{})
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		close(begun)
		<-ctx.Done()
		return 0, ctx.Err()
	}
	f := mustOpen(t, c, ct, r)
	ctx, cancel := context.WithCancel(timeout(t))
	go func() { <-begun; cancel() }()
	_, err := f.ReadAt(ctx, make([]byte, 100), away(1))
	wantErr(t, err, context.Canceled)
	settled(t, c)
	if r.closed.Load() != 1 {
		t.Error("the source is still open")
	}
}

// A source that nobody looks at any more is not kept open.
func TestIdleLooksEnd(t *testing.T) {
	c, ct, data := looking(t)
	c.look.idle = 5 * time.Millisecond
	r := &remote{data: data}
	f := mustOpen(t, c, ct, r)
	for i := range 3 {
		lookAt(t, f, data, away(i), 100)
		eventually(t, "the source is closed", func() bool { return r.closed.Load() == r.opened.Load() })
	}
}

// Contents for which looks are of no use, or not allowed, are fetched whole.
func TestWhoDoesNotLook(t *testing.T) {
	for name, change := range map[string]func(c *Cache, ct *Content){
		"small":           func(c *Cache, ct *Content) { c.look.from = ct.Size + 1 },
		"dear":            func(c *Cache, ct *Content) { ct.Cost = time.Minute },
		"strict":          func(c *Cache, ct *Content) { c.o.Strict = true },
		"large reads":     func(c *Cache, ct *Content) { c.look.most = 99 },
		"enough of them":  func(c *Cache, ct *Content) { c.look.count = 0 },
		"it costs enough": func(c *Cache, ct *Content) { c.look.price = ct.Size + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			c, ct, data := looking(t)
			change(c, &ct)
			f := mustOpen(t, c, ct, &remote{data: data})
			lookAt(t, f, data, away(2), 100)
			eventually(t, "it is fetched whole", f.Whole)
		})
	}
}

// Looks that cost as much as the content are the last ones.
func TestManyLooksFetchTheWhole(t *testing.T) {
	c, ct, data := looking(t)
	c.look.price = ct.Size / 10
	r := &remote{data: data}
	f := mustOpen(t, c, ct, r)
	for i := range 10 {
		lookAt(t, f, data, away(i), 100)
	}
	if s := c.Stats(); s.FetchedBytes != 1000 {
		t.Errorf("%d bytes fetched", s.FetchedBytes)
	}
	lookAt(t, f, data, away(10), 100)
	eventually(t, "it is fetched whole", f.Whole)
}

// While readers jump about nothing is read ahead, unless somebody wants the whole.
func TestReadAheadPausesForLooks(t *testing.T) {
	c, ct, data := looking(t)
	c.chunk = lookBlock
	r := &remote{data: data}
	gate := make(chan struct{})
	lift := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(lift)
	r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		if off > 0 && len(p) == lookBlock {
			<-gate
		}
		return r.plain(p, off)
	}
	f := mustOpen(t, c, ct, r)
	lookAt(t, f, data, 0, 100) // no look: read-ahead begins, and waits at the gate
	for i := range c.look.pause {
		lookAt(t, f, data, away(30+i), 100)
	}
	lift()
	eventually(t, "what was under way is here", func() bool {
		f.e.mu.Lock()
		defer f.e.mu.Unlock()
		return f.e.fill == nil || f.e.fill.busy.Count() == 0
	})
	for range 3 {
		if got := resident(c, ct.Key); got > 4*lookBlock {
			t.Errorf("%d bytes were read ahead", got)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := f.Fill(timeout(t)); err != nil {
		t.Error(err)
	}
}

// What is proved of a block holds for all of it, so that it is fetched whole.
func TestKnownBlocksAreNotLookedAt(t *testing.T) {
	c, ct, data := looking(t)
	r := &remote{data: data}
	f := mustOpen(t, c, ct, r)
	f.e.mu.Lock()
	b := f.e.lay.Of(away(2))
	f.e.known.Add(b)
	f.e.crc[b] = blockSum(data[b*lookBlock : (b+1)*lookBlock])
	f.e.mu.Unlock()
	lookAt(t, f, data, away(2), 100)
	r.mu.Lock()
	defer r.mu.Unlock()
	if want := [2]int64{int64(b) * lookBlock, lookBlock}; r.ranges[0] != want {
		t.Errorf("asked for %v, want %v", r.ranges[0], want)
	}
}

// Who stays by a fetch asks for nothing, and keeps it going for others who leave.
func TestStay(t *testing.T) {
	c, ct, data := looking(t)
	r, lift := gated(t, data, 40*lookBlock)
	g := mustOpen(t, c, ct, r)
	ctx, cancel := context.WithCancel(timeout(t))
	stayed := make(chan struct{})
	go func() { g.Stay(ctx); close(stayed) }()
	eventually(t, "it stays", func() bool { return waiting(c, ct.Key) == 1 })
	f := mustOpen(t, c, ct, r)
	for i := range 5 {
		lookAt(t, f, data, int64(30-3*i)*lookBlock, 100)
	}
	if s := c.Stats(); s.FetchedBytes != 500 || s.Reserved != 0 {
		t.Errorf("%+v", s)
	}
	leaving, leave := context.WithCancel(timeout(t))
	go func() {
		eventually(t, "a reader waits", func() bool { return waiting(c, ct.Key) == 2 })
		leave()
	}()
	_, err := f.ReadAt(leaving, make([]byte, 2*lookBlock), 50*lookBlock)
	wantErr(t, err, context.Canceled)
	lift()
	<-stayed // it is whole
	if !g.Whole() {
		t.Error("the fetch was given up")
	}
	cancel()
}
