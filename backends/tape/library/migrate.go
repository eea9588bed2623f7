package library

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

// One pass of a drive writes at most so much before recalls get their turn.
const (
	passFiles = 1000
	passBytes = 4 << 30
)

// retryDelay is how long a cartridge rests after an error of the disk below.
const retryDelay = 10 * time.Second

// migrate queues f, which is in the buffer only, for a cartridge.
func (l *Library) migrate(f *file) {
	c := l.choose(f.path(), f.dir, f.size)
	if c == nil {
		l.o.Log.Error("tape library: no cartridge has room", "path", f.path(), "size", f.size)
		l.homeless = append(l.homeless, f)
		return
	}
	if len(c.writes) == 0 {
		c.since = l.o.Now()
	}
	c.writes = append(c.writes, f)
	c.promised += f.size
	l.unmigrated += f.size
	l.unwritten++
	l.changed()
}

// settled ends the migration of f, with or without success.
func (l *Library) settled(f *file) {
	l.unmigrated -= f.size
	l.unwritten--
	l.changed()
}

// skipDead drops files that were removed before they were written.
func (l *Library) skipDead(c *cart) {
	for len(c.writes) > 0 && c.writes[0].dead {
		f := c.writes[0]
		c.writes = c.writes[1:]
		c.promised -= f.size
		l.settled(f)
	}
}

// toWrite is one file of a pass.
type toWrite struct {
	f   *file
	c   *copied
	pos int64
}

// writePass appends files that wait for the mounted cartridge, and makes them known
// with one fsync of the cartridge and one record group.
func (l *Library) writePass(ctx context.Context, d *drive, c *cart) {
	var done []toWrite
	var bytes int64
	for len(done) < passFiles && bytes < passBytes && ctx.Err() == nil {
		l.mu.Lock()
		l.skipDead(c)
		if len(c.writes) == 0 {
			l.unlock()
			break
		}
		w := toWrite{f: c.writes[0], c: c.writes[0].buf, pos: c.end}
		c.writes = c.writes[1:]
		c.promised -= w.f.size
		c.end += w.f.size
		c.writing++
		w.c.refs++
		from := l.bufferPath(w.f.id, w.c.id)
		l.unlock()

		if err := l.writeFile(ctx, d, c, w, from); err != nil {
			l.giveUp(c, []toWrite{w}, err)
			break
		}
		bytes += w.f.size
		done = append(done, w)
	}
	if len(done) == 0 {
		return
	}
	var lines []byte
	for _, w := range done {
		r := record{kind: kindTape, id: w.f.id, cart: int16(c.n), pos: w.pos}
		lines = r.appendTo(lines)
	}
	err := c.f.Sync()
	if err == nil {
		err = l.idx.append(lines, "", func() {
			l.mu.Lock()
			defer l.unlock()
			for _, w := range done {
				l.migrated(c, w)
			}
		})
	}
	if err != nil {
		l.giveUp(c, done, translated(err))
	}
}

func (l *Library) migrated(c *cart, w toWrite) {
	c.writing--
	if !w.f.dead {
		w.f.cart, w.f.pos = int16(c.n), w.pos
		c.live++
		c.bytes += w.f.size
	}
	c.written += w.f.size
	l.stats.Migrated++
	l.stats.BytesWritten += w.f.size
	l.settled(w.f)
	l.unref(w.c)
}

// giveUp puts files back into the queue; what is damaged in the buffer stays there and never
// reaches a tape. One that was removed while the drive was about to read it is no failure.
func (l *Library) giveUp(c *cart, ws []toWrite, err error) {
	l.mu.Lock()
	defer l.unlock()
	failed := ""
	for _, w := range slices.Backward(ws) {
		c.writing--
		l.unref(w.c)
		if w.f.dead {
			l.settled(w.f)
			continue
		}
		failed = w.f.path()
		if corrupt(err) {
			w.f.bad = true
			l.settled(w.f)
			continue
		}
		c.writes = slices.Insert(c.writes, 0, w.f)
		c.promised += w.f.size
	}
	if l.closed || failed == "" {
		return
	}
	l.o.Log.Error("tape library: migration", "cartridge", c.name, "file", failed, "err", err)
	if !corrupt(err) {
		c.retryAt = l.o.Now().Add(retryDelay)
	}
}

// writeFile copies one file to its position and makes sure that it is what was committed.
func (l *Library) writeFile(ctx context.Context, d *drive, c *cart, w toWrite, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return translated(err)
	}
	defer in.Close()
	if err := l.seek(ctx, d, w.pos); err != nil {
		return err
	}
	h := checksum.New()
	out := &tapeWriter{ctx: ctx, l: l, d: d, w: io.NewOffsetWriter(c.f, w.pos), h: h}
	n, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, min(max(w.f.size, 512), 1<<20)))
	if err != nil {
		return translated(err)
	}
	if err := w.f.check(n, h); err != nil {
		return fmt.Errorf("disk buffer: %w", err)
	}
	l.moveHead(d, w.pos+w.f.size)
	return nil
}

// check compares what was read with what was committed.
func (f *file) check(n int64, h *checksum.Hasher) error {
	if n != f.size {
		return fmt.Errorf("%d bytes of %d: %w", n, f.size, backends.ErrCorrupt)
	}
	return f.sums().Match(h.Sum())
}

// tapeWriter writes at the speed of the tape.
type tapeWriter struct {
	ctx context.Context
	l   *Library
	d   *drive
	w   io.Writer
	h   *checksum.Hasher
}

func (t *tapeWriter) Write(p []byte) (int, error) {
	if err := t.l.wait(t.ctx, t.d, t.l.o.Timing.transfer(int64(len(p)))); err != nil {
		return 0, err
	}
	n, err := t.w.Write(p)
	t.h.Write(p[:n])
	return n, err
}
