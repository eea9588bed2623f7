package library

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

const partSuffix = ".part"

// drive reads and writes one cartridge at a time; its goroutine is its only user.
type drive struct {
	n    int
	debt time.Duration // waiting that was too short to sleep for

	// Guarded by Library.mu, so that plans can be made.
	cart *cart
	head int64
}

// transfer is how long n bytes take under the head.
func (t Timing) transfer(n int64) time.Duration {
	return time.Duration(float64(n) / float64(t.Rate) * float64(time.Second))
}

// over is the part of a full-length movement that a distance takes.
func (l *Library) over(full time.Duration, distance int64) time.Duration {
	if distance < 0 {
		distance = -distance
	}
	return time.Duration(float64(full) * min(1, float64(distance)/float64(l.o.CartridgeSize)))
}

func (l *Library) unmountTime(head int64) time.Duration {
	return l.over(l.o.Timing.Rewind, head) + l.o.Timing.Unmount + l.o.Timing.Robot
}

func (l *Library) mountTime() time.Duration { return l.o.Timing.Robot + l.o.Timing.Mount }

// run is the life of a drive.
func (l *Library) run(ctx context.Context, d *drive) {
	for {
		c, write := l.assignment(ctx, d)
		if c == nil || l.mount(ctx, d, c) != nil {
			return
		}
		if write {
			l.writePass(ctx, d, c)
		} else {
			l.readPass(ctx, d, c)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// assignment waits for work and claims its cartridge. nil: the library closes.
func (l *Library) assignment(ctx context.Context, d *drive) (c *cart, write bool) {
	for {
		l.mu.Lock()
		l.expire()
		c, write = l.pick(d)
		if c != nil {
			c.drive = d
			l.unlock()
			return c, write
		}
		ch, until := l.changedCh, l.nextDeadline()
		l.unlock()
		t := time.NewTimer(until)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, false
		case <-ch:
		case <-t.C:
		}
		t.Stop()
	}
}

// nextDeadline is when the next thing happens without anybody's call.
func (l *Library) nextDeadline() time.Duration {
	next := time.Hour
	now := l.o.Now()
	if len(l.order) > 0 {
		next = min(next, l.order[0].expires.Sub(now))
	}
	for _, c := range l.carts {
		if c.retryAt.After(now) {
			next = min(next, c.retryAt.Sub(now))
		}
	}
	return max(next, time.Millisecond)
}

// pick gives the cartridge whose work has waited longest, most work first among equals. The
// one in the drive is preferred as long as nothing has waited longer than Patience; recalls
// are as much before migrations, unless somebody waits for those.
func (l *Library) pick(d *drive) (best *cart, write bool) {
	patience := time.Duration(float64(l.o.Patience) / l.o.Speed)
	now := l.o.Now()
	var bestKey time.Time
	bestFiles := 0
	for _, c := range l.carts {
		if c.f == nil || c.drive != nil && c.drive != d || c.retryAt.After(now) {
			continue
		}
		consider := func(key time.Time, files int, w bool) {
			if c == d.cart {
				key = key.Add(-patience)
			}
			if best == nil || key.Before(bestKey) || key.Equal(bestKey) && files > bestFiles {
				best, write, bestKey, bestFiles = c, w, key, files
			}
		}
		head := int64(0)
		if c == d.cart {
			head = d.head
		}
		if c.next(head, l.spare(), true) >= 0 {
			oldest := c.recalls[0].since
			for _, r := range c.recalls {
				if r.since.Before(oldest) {
					oldest = r.since
				}
			}
			consider(oldest, len(c.recalls), false)
		}
		if l.skipDead(c); len(c.writes) > 0 {
			key := c.since.Add(patience)
			if l.waiting > 0 {
				key = key.Add(-1000 * patience)
			}
			consider(key, len(c.writes), true)
		}
	}
	return best, write
}

// wait lets d time pass; the statistics count it in full, sleeping is divided by Speed.
func (l *Library) wait(ctx context.Context, d *drive, t time.Duration) error {
	l.mu.Lock()
	l.stats.TapeTime += t
	l.unlock()
	d.debt += time.Duration(math.Round(float64(t) / l.o.Speed))
	if d.debt < time.Millisecond {
		return ctx.Err()
	}
	t, d.debt = d.debt, 0
	return l.o.Sleep(ctx, t)
}

func (l *Library) mount(ctx context.Context, d *drive, c *cart) error {
	if d.cart == c {
		return nil
	}
	if old := d.cart; old != nil {
		if err := l.wait(ctx, d, l.unmountTime(d.head)); err != nil {
			return err
		}
		l.mu.Lock()
		d.cart, old.drive = nil, nil
		l.changed()
		l.unlock()
	}
	if err := l.wait(ctx, d, l.mountTime()); err != nil {
		return err
	}
	l.mu.Lock()
	d.cart, d.head = c, 0
	c.mounts++
	l.stats.Mounts++
	l.changed()
	l.unlock()
	return nil
}

func (l *Library) seek(ctx context.Context, d *drive, pos int64) error {
	if pos == d.head {
		return nil
	}
	err := l.wait(ctx, d, l.over(l.o.Timing.Seek, pos-d.head))
	l.mu.Lock()
	l.stats.Seeks++
	d.head = pos
	l.unlock()
	return err
}

func (l *Library) moveHead(d *drive, pos int64) {
	l.mu.Lock()
	d.head = pos
	l.unlock()
}

// readPass goes over the mounted cartridge once, from the head towards its end, and reads
// everything that waits, also what is asked for meanwhile and lies ahead.
func (l *Library) readPass(ctx context.Context, d *drive, c *cart) {
	for wrap := true; ctx.Err() == nil; wrap = false {
		l.mu.Lock()
		l.expire()
		r := l.takeRecall(c, d.head, wrap)
		l.unlock()
		if r == nil {
			return
		}
		if !l.reserve(r.f.size, 0) {
			// Somebody else took the space since takeRecall looked.
			l.mu.Lock()
			l.backToQueue(c, r)
			l.unlock()
			return
		}
		copyID, err := l.readFile(ctx, d, c, r)
		if err != nil {
			l.unreserve(r.f.size)
			if ctx.Err() != nil {
				return // closing; requests do not outlive it anyway
			}
		}
		l.finishRecall(c, r, copyID, err)
	}
}

// readFile brings one file into the buffer, verified. Its space is reserved.
func (l *Library) readFile(ctx context.Context, d *drive, c *cart, r *recall) (copyID uint64, err error) {
	f := r.f
	l.mu.Lock()
	copyID = l.newID()
	path := f.path()
	injected := l.failing[path]
	to := l.bufferPath(f.id, copyID)
	l.unlock()
	if err := l.seek(ctx, d, f.pos); err != nil {
		return 0, err
	}
	if injected != nil {
		return 0, injected
	}
	if err := os.MkdirAll(l.shard(f.id), 0o700); err != nil {
		return 0, translated(err)
	}
	out, err := os.OpenFile(to+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, translated(err)
	}
	h := checksum.New()
	w := &tapeWriter{ctx: ctx, l: l, d: d, w: out, h: h}
	in := io.NewSectionReader(c.f, f.pos, f.size)
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{in}, make([]byte, min(max(f.size, 512), 1<<20)))
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	l.moveHead(d, f.pos+n)
	if err = translated(err); err == nil {
		if err = f.check(n, h); err != nil {
			err = fmt.Errorf("read %s at %d: %w", c.name, f.pos, err)
		} else {
			err = translated(os.Rename(to+partSuffix, to))
		}
	}
	if err != nil {
		os.Remove(to + partSuffix)
		return 0, err
	}
	return copyID, nil
}

// finishRecall tells all that wait for r.
func (l *Library) finishRecall(c *cart, r *recall, copyID uint64, err error) {
	f := r.f
	l.mu.Lock()
	defer l.unlock()
	delete(l.recalls, f)
	l.changed()
	if err != nil {
		f.bad = f.bad || corrupt(err)
		l.stats.Failed++
		l.o.Log.Error("tape library: recall", "path", f.path(), "cartridge", c.name, "position", f.pos, "err", err)
		r.end(backends.RecallFailed, err.Error())
		return
	}
	c.read += f.size
	l.stats.BytesRead += f.size
	l.stats.Staged++
	b := &copied{f: f, id: copyID}
	if f.dead {
		l.trash = append(l.trash, trashed{name: l.bufferPath(f.id, copyID), size: f.size})
		r.end(backends.RecallFailed, "removed while it was recalled")
		return
	}
	f.buf, f.bad = b, false
	for _, it := range r.items {
		it.r, it.phase = nil, backends.RecallCompleted
		if !it.released {
			it.held = b
			b.holds++
		}
	}
	l.settle(b)
}

func corrupt(err error) bool { return errors.Is(err, backends.ErrCorrupt) }
