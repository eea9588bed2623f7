package cache

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"
)

// What a reader was lent stays as it is until it gives it back, whatever the fill does
// meanwhile, and the memory is used again afterwards.
func TestLentBytesStay(t *testing.T) {
	o := options(t)
	o.Memory = 7 * 64 * kb4 // so that what came last is soon pushed out
	c := open(t, o)
	ct, data := numbered(0, 1000*kb4)
	r, lift := gated(t, data, 8*kb4)
	f := mustOpen(t, c, ct, r)
	p := make([]byte, 100)
	lent, done, err := f.ReadShared(timeout(t), p, 3*kb4+5)
	if err != nil {
		t.Fatal(err)
	}
	if &lent[0] == &p[0] {
		t.Error("what came a moment ago was copied")
	}
	if again, back, ok := f.Share(100, 3*kb4+5); !ok || !bytes.Equal(again, lent) {
		t.Error("not shared without waiting")
	} else {
		back()
	}
	lift()
	if err := f.Fill(timeout(t)); err != nil {
		t.Fatal(err)
	}
	settled(t, c)
	if n := c.recentUsed.Load(); n != 0 {
		t.Errorf("%d bytes are still held after the fill", n)
	}
	var wg sync.WaitGroup
	for i := range 4 { // others use the buffers that are free
		wg.Go(func() {
			ct, data := numbered(i+1, 200*kb4)
			wantBytes(t, mustOpen(t, c, ct, &remote{data: data}), data)
		})
	}
	wg.Wait()
	if !bytes.Equal(lent, data[3*kb4+5:3*kb4+105]) {
		t.Error("lent bytes were overwritten")
	}
	done()
	if _, _, ok := f.Share(100, 3*kb4); ok {
		t.Error("shared from memory that was given back")
	}
}

// A reader gets bytes before they are on the disk. When the disk then refuses them, it still
// got the right ones, and all that follow.
func TestWriteFailsInMidFill(t *testing.T) {
	for name, quick := range map[string]Quick{"in order": {}, "by pieces": quick} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			o.Quick = quick
			c := open(t, o)
			ct, data := numbered(0, 100*kb4)
			r := &remote{data: data}
			f := mustOpen(t, c, ct, r)
			r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
				if off >= 40*kb4 { // from here on nothing can be written
					f.e.mu.Lock()
					if file := f.e.fill.file; file != nil {
						file.Close()
					}
					f.e.mu.Unlock()
				}
				return r.plain(p, off)
			}
			if got, err := readShared(timeout(t), f, 10_000); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("read %d bytes, %v", len(got), err)
			}
			f.Close() // a fill past the cache goes on as long as there are readers
			settled(t, c)
			r.onRead = nil
			g := mustOpen(t, c, ct, r)
			if err := g.Fill(timeout(t)); err != nil {
				t.Fatal(err)
			}
			wantBytes(t, g, data)
		})
	}
}

// Replicas that are wrong in one byte, or that end early, are never whole; the next one is
// taken, and of a content that has no good one no reader sees the end.
func TestWrongReplicaByPieces(t *testing.T) {
	ct, data := numbered(0, 300*kb4-7)
	cut := func(ctx context.Context, n int, p []byte, off int64) (int, error) {
		end := int64(len(data)) - 3
		return (&remote{data: data[:end]}).plain(p, off)
	}
	for name, bad := range map[string]func(ctx context.Context, n int, p []byte, off int64) (int, error){
		"first byte": (&remote{data: flipped(data, 0)}).at,
		"one byte":   (&remote{data: flipped(data, 123*kb4+45)}).at,
		"last byte":  (&remote{data: flipped(data, len(data)-1)}).at,
		"swapped blocks": (&remote{data: func() []byte {
			d := bytes.Clone(data)
			copy(d[10*kb4:], data[20*kb4:21*kb4])
			copy(d[20*kb4:], data[10*kb4:11*kb4])
			return d
		}()}).at,
		"cut": cut,
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, options(t))
			r := &remote{data: data}
			r.onRead = bad
			f := mustOpen(t, c, ct, r)
			if got, err := readShared(timeout(t), f, 10_000); err == nil || len(got) == len(data) {
				t.Errorf("read %d bytes of a wrong replica, %v", len(got), err)
			}
			settled(t, c)
			if f.Whole() {
				t.Error("whole")
			}
			if _, ok := f.Passthrough(); ok {
				t.Error("passed through")
			}
			r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
				if n%2 == 0 { // each second Source is bad
					return bad(ctx, n, p, off)
				}
				return r.plain(p, off)
			}
			g := mustOpen(t, c, ct, r)
			if err := g.Fill(timeout(t)); err != nil {
				t.Fatal(err)
			}
			wantBytes(t, g, data)
		})
	}
}

func (r *remote) at(ctx context.Context, n int, p []byte, off int64) (int, error) {
	return r.plain(p, off)
}

// Only Quick's checksum is compared of a content that has it and is longer than a block; of
// others, and without Quick, all are.
func TestWhichChecksumsAreCompared(t *testing.T) {
	for _, x := range []struct {
		name string
		size int
		q    Quick
		ok   bool
	}{
		{"large, quick", 10 * kb4, quick, true},
		{"one block, quick", kb4, quick, false},
		{"large, all", 10 * kb4, Quick{}, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			o := options(t)
			o.Quick = x.q
			c := open(t, o)
			ct, data := numbered(0, x.size)
			_, other := numbered(1, x.size)
			ct.Sums["sha256"] = contentOf(other).Sums["sha256"]
			f := mustOpen(t, c, ct, &remote{data: data})
			if err := f.Fill(timeout(t)); (err == nil) != x.ok {
				t.Errorf("fill with a wrong sha256 and the right adler32: %v", err)
			}
		})
	}
}

// A byte that somebody else changes between two writes of a fill is found when it is whole,
// though nothing that the fill itself wrote is read again.
func TestRotBetweenWritesOfAFill(t *testing.T) {
	o := options(t)
	c := open(t, o)
	ct, data := numbered(0, 100*kb4)
	r, lift := gated(t, data, 40*kb4)
	f := mustOpen(t, c, ct, r)
	if _, err := f.ReadAt(timeout(t), make([]byte, 40*kb4), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "40 blocks are written", func() bool { return resident(c, ct.Key) == 40*kb4 })
	time.Sleep(20 * time.Millisecond) // and nothing is being written
	flip(t, files(t, o.Dir, dataSuffix)[0], 7*kb4+3)
	lift()
	wantBytes(t, f, data)
	settled(t, c)
	if d, ok := f.Passthrough(); ok {
		got := make([]byte, len(data))
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
			t.Fatal("wrong bytes by passthrough")
		}
	}
	if c.Stats().Corrupt == 0 {
		t.Error("not noticed")
	}
	wantBytes(t, mustOpen(t, c, ct, r), data)
}

// A byte that changes after the fill and before the first read of the file is found by it.
func TestRotAfterFill(t *testing.T) {
	o := options(t)
	c := open(t, o)
	ct, data := numbered(0, 100*kb4)
	r := &remote{data: data}
	f := mustOpen(t, c, ct, r)
	wantBytes(t, f, data)
	settled(t, c)
	if _, ok := f.Passthrough(); !ok {
		t.Fatal("not whole after the fill")
	}
	flip(t, files(t, o.Dir, dataSuffix)[0], 7*kb4+3)
	if _, ok := f.Passthrough(); ok {
		t.Error("passed through")
	}
	wantBytes(t, mustOpen(t, c, ct, r), data)
	if c.Stats().Corrupt != 1 {
		t.Errorf("%d blocks found damaged", c.Stats().Corrupt)
	}
}

// A content with very many blocks of the configured size has larger ones, and keeps them when
// it is found again.
func TestBlocksGrowWithTheContent(t *testing.T) {
	for _, x := range []struct {
		block int
		size  int64
		want  int
	}{
		{kb4, 0, kb4}, {kb4, 4 << 20, kb4}, {kb4, 4<<20 + kb4, 2 * kb4}, {kb4, 1 << 30, 1 << 20}, {kb4, 1 << 50, 1 << 20},
		{1 << 20, 1 << 40, 1 << 20}, {3 << 20, 1 << 40, 3 << 20},
	} {
		o := Options{Block: x.block}
		if got := o.blockOf(x.size); got != x.want {
			t.Errorf("blocks of %d, content of %d: %d, want %d", x.block, x.size, got, x.want)
		}
	}
	o := options(t)
	c := open(t, o)
	ct, data := numbered(0, 9<<20+5)
	cached(t, c, ct, data)
	settled(t, c)
	shut(t, c)
	c = open(t, o)
	f := mustOpen(t, c, ct, &remote{data: data})
	if f.e.lay.Block != 4*kb4 {
		t.Errorf("block %d", f.e.lay.Block)
	}
	flip(t, files(t, o.Dir, dataSuffix)[0], 5<<20)
	wantBytes(t, f, data)
}

// What is held for readers past the cache and of running fills is bounded in bytes.
func TestMemoryOfGrownBlocks(t *testing.T) {
	o := options(t)
	o.Memory, o.Limit = 7*256<<10, 1<<20 // no room: all is read past the cache
	c := open(t, o)
	ct, data := numbered(0, 9<<20)
	f := mustOpen(t, c, ct, &remote{data: data})
	got, err := readShared(timeout(t), f, 32<<10)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if n := c.memUsed.Load(); n > 256<<10+16<<10 {
		t.Errorf("%d bytes in memory", n)
	}
	f.Close()
	settled(t, c)
	if n := c.memUsed.Load() + c.recentUsed.Load(); n != 0 {
		t.Errorf("%d bytes in memory after all", n)
	}
}
