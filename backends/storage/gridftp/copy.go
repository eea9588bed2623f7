package gridftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/storage/marker"
)

const (
	// quiet is how long nothing may arrive of a copy between servers. Globus tells every five seconds how much has.
	quiet = 2 * time.Minute
	// slowest is what is expected, in bytes a second, of servers that do not tell.
	slowest = 1_000_000
	// longest is what the whole may take.
	longest = 30 * 24 * time.Hour
	// endings is what the other server has to end a transfer that has failed at one.
	endings = 2 * time.Second
)

// CopyTo makes the server of s send to that of to, over Streams connections in MODE E where both know it. Size and
// checksum are those of the source; adler32 is the one that is compared where it is known, as by Checksum.
func (s *Storage) CopyTo(ctx context.Context, src string, to backends.Storage, dst string, size int64, want backends.Checksums, progress func(int64)) (none backends.Checksums, err error) {
	t, ok := to.(*Storage)
	switch {
	case !ok:
		return none, s.opError("copy", src, fmt.Errorf("to a storage that is no GridFTP server: %w", backends.ErrNotSupported))
	case t.o.ReadOnly:
		return none, t.opError("copy", dst, backends.ErrReadOnly)
	case want.IsZero():
		return none, t.opError("copy", dst, fmt.Errorf("no checksum to verify with: %w", backends.ErrCorrupt))
	}
	if progress == nil {
		progress = func(int64) {}
	}
	c := &copying{from: s, to: t, src: src, dst: dst, size: size, want: want, progress: progress}
	if err := c.begin(ctx); err != nil {
		return none, err
	}
	got, err := c.run(ctx)
	if err != nil {
		return none, t.opError("copy", dst, err)
	}
	return got, nil
}

// copying is one copy by third party on its way.
type copying struct {
	from, to *Storage
	src, dst string
	size     int64
	want     backends.Checksums
	progress func(int64)

	out, in *session // of from and to
	tmp     string   // at to
}

// begin gets a session at either server, and makes the folders.
func (c *copying) begin(ctx context.Context) error {
	err := c.from.do(ctx, "copy", c.src, func(ss *session, _ bool) error {
		if isPrefix(c.src) {
			return backends.ErrIsDir
		}
		f, err := c.from.look(ctx, ss, c.src)
		switch {
		case err != nil:
			return absent(err)
		case f.isDir():
			return backends.ErrIsDir
		case f.size != c.size:
			return fmt.Errorf("the source has %d bytes, not %d: %w", f.size, c.size, backends.ErrCorrupt)
		}
		c.out, ss.detached = ss, true
		return nil
	})
	if err != nil {
		return err
	}
	err = c.to.do(ctx, "copy", c.dst, func(ss *session, _ bool) error {
		if err := c.to.prepare(ctx, ss, c.dst); err != nil {
			return err
		}
		c.in, ss.detached = ss, true
		return nil
	})
	if err != nil {
		c.from.giveBack(c.out)
	}
	return err
}

// run copies to a temporary, verifies that, and moves it into its place.
func (c *copying) run(ctx context.Context) (got backends.Checksums, err error) {
	defer c.to.giveBack(c.in)
	defer c.from.giveBack(c.out)
	c.tmp = c.to.remote(uploads + "/" + rand.Text())
	var at facts
	if err = c.exchange(ctx); err == nil {
		stop := c.in.watch(ctx)
		got, at, err = c.verify(ctx)
		stop()
	}
	if err == nil {
		err = c.to.publish(ctx, c.in, at, c.tmp, c.dst)
	}
	if err == nil {
		return got, nil
	}
	c.to.forget(uploads) // somebody may have removed it
	ctx, cancel := context.WithTimeout(context.Background(), min(cleanupTime, c.to.o.Timeout))
	defer cancel()
	if err := c.to.drop(ctx, c.tmp); err != nil {
		c.to.o.Log.Warn("an unfinished copy stays on the server for a day", "at", c.to.at(c.tmp), "err", err)
	}
	return got, err
}

// verify compares what has arrived.
func (c *copying) verify(ctx context.Context) (none backends.Checksums, at facts, err error) {
	if at, err = c.to.lookRemote(ctx, c.in, c.tmp); err != nil {
		return none, at, err
	}
	if at.size != c.size {
		return none, at, fmt.Errorf("%d bytes of %d have arrived: %w", at.size, c.size, backends.ErrCorrupt)
	}
	algs := []string{"adler32"}
	if c.want.Adler32 == "" {
		algs = checksum.Known(c.want)
	}
	got, err := c.to.sum(ctx, c.in, c.tmp, c.size, algs...)
	if err != nil {
		return none, at, err
	}
	return got, at, c.want.Match(got)
}

// exchange runs the transfer: the receiver listens, the sender connects, and both say how it went.
func (c *copying) exchange(ctx context.Context) error {
	octx, endOut := context.WithCancel(ctx)
	defer endOut()
	defer c.out.watch(octx)()
	ictx, endIn := context.WithCancel(ctx)
	defer endIn()
	defer c.in.watch(ictx)()
	if err := c.start(ctx); err != nil {
		return err
	}
	type end struct {
		sent bool
		err  error
	}
	ends := make(chan end, 2)
	go func() { ends <- end{false, c.arrive(ictx)} }()
	go func() { ends <- end{true, c.out.finish(octx, longest)} }() // it says nothing meanwhile: the receiver does
	first := <-ends
	if first.err != nil || !first.sent { // the other one may wait for ever for what does not come
		wait, other := c.from.o.Timeout, endOut
		if first.err != nil {
			wait = endings
		}
		if first.sent {
			other = endIn
		}
		defer time.AfterFunc(wait, other).Stop()
	}
	second := <-ends
	in, out := first.err, second.err
	if first.sent {
		in, out = out, in
	}
	if out != nil {
		c.out.bad = true
	}
	if in == nil { // what it has got is compared
		c.progress(c.size)
		return ctx.Err()
	}
	c.in.bad, c.out.bad = true, true
	if ctx.Err() != nil {
		c.out.abort()
		c.in.abort()
		return ctx.Err()
	}
	if first.sent && first.err != nil {
		return broke("sending", out, "receiving", in)
	}
	return broke("receiving", in, "sending", out)
}

// broke gives the reason of a transfer that failed, at one server first. What storage or rights lack says more than that a
// connection was lost, which may follow from it.
func broke(who string, err error, other string, second error) error {
	for _, word := range []error{backends.ErrNoSpace, backends.ErrQuota, backends.ErrPermission} {
		switch {
		case errors.Is(err, word):
			return fmt.Errorf("the %s server: %w", who, err)
		case errors.Is(second, word):
			return fmt.Errorf("the %s server: %w", other, second)
		}
	}
	return fmt.Errorf("the %s server: %w", who, cut(err))
}

// start tells both servers what to do.
func (c *copying) start(ctx context.Context) error {
	ours, theirs := c.from.o.Timeout, c.to.o.Timeout
	blocks := c.out.setMode(ctx, ours, true) == nil && c.in.setMode(ctx, theirs, true) == nil
	if !blocks {
		if err := errors.Join(c.out.setMode(ctx, ours, false), c.in.setMode(ctx, theirs, false)); err != nil {
			return err
		}
	} else if err := c.out.setStreams(ctx, ours, c.from.o.Streams); err != nil {
		return err
	}
	at, err := c.in.passive(ctx, theirs)
	if err != nil {
		return err
	}
	if _, err := c.out.ask(ctx, ours, portCommand(at)); err != nil {
		return err
	}
	if err := c.in.send(ctx, theirs, "STOR "+c.tmp); err != nil {
		return err
	}
	if err := c.out.send(ctx, ours, "RETR "+c.from.remote(c.src)); err != nil {
		c.in.bad = true
		return err
	}
	return nil
}

// arrive reads what the receiving server says until the end.
func (c *copying) arrive(ctx context.Context) error {
	var stripes marker.Stripes
	told := int64(0)
	limit, last := quiet+time.Duration(c.size/slowest)*time.Second, time.Now()
	for {
		rep, err := c.in.read(ctx, time.Until(last.Add(limit)))
		switch {
		case err != nil:
			return err
		case rep.class() == 2:
			return nil
		case rep.class() != 1:
			return refused(rep)
		}
		if rep.code != 112 {
			continue
		}
		for _, l := range rep.lines {
			stripes.Line(l)
		}
		if n := stripes.Arrived(); n > told && n <= c.size {
			told, limit, last = n, quiet, time.Now()
			c.progress(n)
		}
	}
}

// giveBack ends the use of a session that was kept beyond the call that acquired it.
func (s *Storage) giveBack(ss *session) {
	ss.detached = false
	s.keep(ss)
}

// prepare looks whether a file can be put at p, and makes the folders for it and for unfinished uploads.
func (s *Storage) prepare(ctx context.Context, ss *session, p string) error {
	if isPrefix(p) {
		return backends.ErrIsDir
	}
	if s.o.Marker != "" {
		if err := s.present(ctx, ss); err != nil {
			return err
		}
	}
	switch f, err := s.look(ctx, ss, p); {
	case err == nil && f.isDir():
		return backends.ErrIsDir
	case err != nil && !errors.Is(err, backends.ErrNotExist):
		return err
	}
	if err := s.makeFolder(ctx, ss, path.Dir(p)); err != nil {
		return err
	}
	if err := s.makeFolder(ctx, ss, uploads); err != nil {
		return err
	}
	s.clean(ctx, ss)
	return nil
}
