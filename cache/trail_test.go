package cache

import (
	"bytes"
	"testing"
)

// halfway opens a content of which the first 8 blocks came and are on the disk, but not in
// memory any more, and the rest waits for the end of the test.
func halfway(t *testing.T) *File {
	t.Helper()
	c := open(t, options(t))
	ct, data := numbered(0, 100*kb4)
	r, _ := gated(t, data, 8*kb4)
	g := mustOpen(t, c, ct, r)
	if _, err := g.ReadAt(timeout(t), make([]byte, 8*kb4), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "8 blocks are kept", func() bool { return resident(c, ct.Key) == 8*kb4 })
	g.e.mu.Lock()
	g.e.fill.hideAllLocked()
	g.e.mu.Unlock()
	return mustOpen(t, c, ct, r)
}

// Asking for what is in memory leaves the trail of unverified blocks as it is when they are not:
// neither is one entered that is not given, nor one taken out that another read was given.
func TestShareLeavesTheTrail(t *testing.T) {
	f := halfway(t)
	trailed := func() bool {
		f.e.mu.Lock()
		defer f.e.mu.Unlock()
		return f.seen != nil && f.seen.blocks.Has(3)
	}
	if v := f.viewAs(3*kb4, 100, true); v.mem != nil || trailed() {
		t.Error("a look for memory entered a block that is on the disk")
	}
	if _, err := f.ReadAt(timeout(t), make([]byte, 100), 3*kb4); err != nil || !trailed() {
		t.Fatalf("block was read, %v, and is in the trail: %v", err, trailed())
	}
	if _, _, ok := f.Share(100, 3*kb4); ok || !trailed() {
		t.Errorf("shared from memory: %v; still in the trail: %v", ok, trailed())
	}
}

// A block that was exchanged between the look at it and the read is not given: the trail would
// have the checksum of other bytes than were given.
func TestReadOfAnExchangedBlock(t *testing.T) {
	for name, checked := range map[string]bool{"trusted": true, "to be checked": false} {
		t.Run(name, func(t *testing.T) {
			f := halfway(t)
			e := f.e
			if !checked {
				e.mu.Lock()
				e.checked.Remove(3)
				e.mu.Unlock()
			}
			v := f.view(3*kb4, 100)
			other := random(1, kb4)
			if err := e.change(e.fill.file, 3, 4, func() error {
				_, err := e.fill.file.WriteAt(other, 3*kb4)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			e.mu.Lock()
			e.crc[3] = blockSum(other)
			e.mu.Unlock()
			if n, err := f.readView(v, make([]byte, 100), 3*kb4); n != 0 || err != nil {
				t.Errorf("gave %d bytes, %v", n, err)
			}
			e.mu.Lock()
			if f.seen != nil && f.seen.blocks.Has(3) {
				t.Error("the block that was not given is in the trail")
			}
			e.dropBlockLocked(3)
			e.mu.Unlock()
		})
	}
}

// A block that is proved to be another one, after it was compared and before it is published,
// is given to nobody.
func TestDisprovedBlockIsNotPublished(t *testing.T) {
	for name, limit := range map[string]int64{"stored": 0, "past the cache": 10 * kb4} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			o.Limit = limit
			c := open(t, o)
			ct, data := numbered(0, 100*kb4)
			r, goOn := stalled(t, data, nil)
			f := mustOpen(t, c, ct, r)
			read := make(chan error, 1)
			go func() {
				_, err := f.ReadAt(timeout(t), make([]byte, 100), 0)
				read <- err
			}()
			eventually(t, "the source is read", func() bool { return r.reads() > 0 })
			e := f.e
			e.mu.Lock()
			fl := e.fill
			e.known.Add(20)
			e.crc[20] = blockSum(data[20*kb4 : 21*kb4])
			e.mu.Unlock()
			buf := lendBuf(kb4)
			copy(buf.data, flipped(data, 20*kb4+9)[20*kb4:])
			err := (&stream{fill: fl}).publish([]*memBlock{{b: 20, crc: blockSum(buf.data), data: buf.data, buf: buf}}, buf)
			buf.back()
			e.mu.Lock()
			if err != nil || fl.store != (limit == 0) || fl.hereLocked(20) || fl.recentLocked(20) != nil || e.checked.Has(20) {
				t.Errorf("published, %v: stored %v, in memory %v, checked %v", err, e.have.Has(20), fl.memLocked(20) != nil, e.checked.Has(20))
			}
			e.mu.Unlock()
			goOn()
			if err := <-read; err != nil {
				t.Fatal(err)
			}
			if got, err := readShared(timeout(t), f, 10_000); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if n := c.Stats().Corrupt; n != 0 {
				t.Errorf("%d blocks were found wrong: the disproved one was kept", n)
			}
		})
	}
}
