package cache

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// Looks that a server does not answer, as many as there may be in all contents, keep nobody waiting who asks for blocks: not
// of the content that is looked into, and not of another one.
func TestLooksStarveNoDemand(t *testing.T) {
	const contents, size = looksInAll/looksAtOnce + 1, 64 * kb4
	o := options(t)
	o.Limit = 64 << 20
	c := open(t, o)
	c.look.from, c.look.most, c.look.near, c.look.price = 1, kb4-1, 1<<10, 1
	c.demand = make(chan struct{}, looksInAll) // no more than of looks
	ctx, stop := context.WithCancel(timeout(t))
	defer stop()
	gate := make(chan struct{})
	var now atomic.Int64
	stuck := func(data []byte) *remote {
		r := &remote{data: data}
		r.onRead = func(ctx context.Context, _ int, p []byte, off int64) (int, error) {
			if len(p) < kb4 {
				now.Add(1)
				defer now.Add(-1)
				select {
				case <-gate:
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}
			return r.plain(p, off)
		}
		return r
	}
	var readers sync.WaitGroup
	var looked []*File
	for i := range contents {
		data := random(uint64(50+i), size)
		ct := contentOf(data)
		for j := range looksAtOnce {
			f := mustOpen(t, c, ct, stuck(data))
			if j == 0 {
				looked = append(looked, f)
			}
			readers.Go(func() { f.ReadAt(ctx, make([]byte, 100), int64(j+1)*kb4+50) })
		}
	}
	eventually(t, "as many looks are under way as there may be", func() bool { return now.Load() == looksInAll })
	for i, f := range looked[:2] {
		lookAt(t, f, random(uint64(50+i), size), 50*kb4, 8*kb4) // too much for a look
	}
	data := random(49, size)
	f := mustOpen(t, c, contentOf(data), stuck(data))
	if err := f.Fill(timeout(t)); err != nil {
		t.Error(err)
	}
	wantBytes(t, f, data)
	if n := now.Load(); n != looksInAll {
		t.Errorf("%d looks are under way", n)
	}
	close(gate)
	readers.Wait()
}

// What has gone through the hash, and is not kept, is not looked into: nothing would compare the look with it. Such a block
// is fetched whole; from where the hash is looks go on.
func TestNoLooksBehindTheHash(t *testing.T) {
	o := options(t)
	o.Block, o.Limit = lookBlock, 1<<20 // no room for the content
	c := open(t, o)
	c.look.from, c.look.near, c.look.price = 1<<20, 1<<10, 4<<10
	c.memMax = 2 * lookBlock
	data := random(41, 64*lookBlock)
	r := &remote{data: data}
	f := mustOpen(t, c, contentOf(data), r)
	const passed = 20
	for b := range int64(passed) {
		lookAt(t, f, data, b*lookBlock, lookBlock)
		eventually(t, "it has gone through the hash", func() bool {
			f.e.mu.Lock()
			defer f.e.mu.Unlock()
			return f.e.fill != nil && int64(f.e.fill.pos) == b+1
		})
	}
	g := mustOpen(t, c, contentOf(data), r)
	for _, x := range []struct {
		name string
		off  int64
		want [2]int64
	}{
		{"behind", 5*lookBlock + 64, [2]int64{5 * lookBlock, lookBlock}},
		{"ahead", 40*lookBlock + 64, [2]int64{40*lookBlock + 64, 100}},
		{"the block that comes next", passed*lookBlock + 64, [2]int64{passed*lookBlock + 64, 100}},
		{"behind, once more", 9*lookBlock + 64, [2]int64{9 * lookBlock, lookBlock}},
	} {
		r.mu.Lock()
		before := len(r.ranges)
		r.mu.Unlock()
		lookAt(t, g, data, x.off, 100)
		r.mu.Lock()
		if got := fmt.Sprint(r.ranges[before:]); got != fmt.Sprint([][2]int64{x.want}) {
			t.Errorf("%s: asked for %s, want %v", x.name, got, x.want)
		}
		r.mu.Unlock()
	}
}
