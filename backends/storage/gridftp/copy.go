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
)

// markers is within which time two servers that copy have to give a sign of life; Globus gives one every five seconds.
const markers = time.Minute

// CopyTo makes the servers of s and to copy a file between themselves, over Streams connections in MODE E where both know
// it: the bytes do not come by here. The file appears at dst, whole and verified, or never: size and checksums are those of
// the source, at least one checksum has to be given, and the receiving server computes it of what it has got.
func (s *Storage) CopyTo(ctx context.Context, src string, to *Storage, dst string, size int64, want backends.Checksums) (got backends.Checksums, err error) {
	if to.o.ReadOnly {
		return got, to.opError("copy", dst, backends.ErrReadOnly)
	}
	if want.IsZero() {
		return got, to.opError("copy", dst, fmt.Errorf("no checksum to verify with: %w", backends.ErrCorrupt))
	}
	if isPrefix(src) || isPrefix(dst) {
		return got, to.opError("copy", dst, backends.ErrIsDir)
	}
	err = s.do(ctx, "copy", src, func(from *session, _ bool) error {
		f, err := s.look(ctx, from, src)
		switch {
		case err != nil:
			return absent(err)
		case f.isDir():
			return backends.ErrIsDir
		case size >= 0 && f.size != size:
			return fmt.Errorf("the source has %d bytes, not %d: %w", f.size, size, backends.ErrCorrupt)
		}
		s.detach(from) // two storages, or one, with few slots each must not wait for one another
		return to.do(ctx, "copy", dst, func(into *session, _ bool) (err error) {
			if err := to.makeFolder(ctx, into, path.Dir(dst)); err != nil {
				return err
			}
			if err := to.makeFolder(ctx, into, uploads); err != nil {
				return err
			}
			to.detach(into)
			tmp := to.remote(uploads + "/" + rand.Text())
			defer func() {
				if err == nil {
					return
				}
				ctx, cancel := context.WithTimeout(context.Background(), min(cleanupTime, to.o.Timeout))
				defer cancel()
				if err := to.drop(ctx, into, tmp); err != nil {
					to.o.Log.Warn("an unfinished copy stays on the server for a day", "at", to.at(tmp), "err", err)
				}
			}()
			if err := s.between(ctx, from, s.remote(src), to, into, tmp); err != nil {
				return err
			}
			g, err := to.lookRemote(ctx, into, tmp)
			if err != nil {
				return err
			}
			if g.size != f.size {
				return fmt.Errorf("%d bytes of %d have arrived: %w", g.size, f.size, backends.ErrCorrupt)
			}
			if got, err = to.sum(ctx, into, tmp, f.size, checksum.Known(want)...); err != nil {
				return err
			}
			if err := want.Match(got); err != nil {
				return err
			}
			return to.rename(ctx, into, tmp, dst)
		})
	})
	if err != nil {
		return backends.Checksums{}, err
	}
	return got, nil
}

// between runs the transfer: the receiver listens, the sender connects, and both say how it went.
func (s *Storage) between(ctx context.Context, from *session, src string, to *Storage, into *session, dst string) error {
	blocks := from.setMode(ctx, s.o.Timeout, true) == nil && into.setMode(ctx, to.o.Timeout, true) == nil
	if !blocks {
		if err := errors.Join(from.setMode(ctx, s.o.Timeout, false), into.setMode(ctx, to.o.Timeout, false)); err != nil {
			return err
		}
	} else if err := from.setStreams(ctx, s.o.Timeout, s.o.Streams); err != nil {
		return err
	}
	at, err := into.passive(ctx, to.o.Timeout)
	if err != nil {
		return err
	}
	if _, err := from.ask(ctx, s.o.Timeout, portCommand(at)); err != nil {
		return err
	}
	if err := into.send(ctx, to.o.Timeout, "STOR "+dst); err != nil {
		return err
	}
	if err := from.send(ctx, s.o.Timeout, "RETR "+src); err != nil {
		into.bad = true
		return err
	}
	type end struct {
		who string
		ss  *session
		err error
	}
	ends := make(chan end, 2)
	go func() { ends <- end{"the receiving server", into, into.finish(ctx, markers)} }()
	go func() { ends <- end{"the sending server", from, from.finish(ctx, markers)} }()
	first := <-ends
	if first.err != nil {
		// The other one may wait for ever for what does not come.
		other := from
		if first.ss == from {
			other = into
		}
		t := time.AfterFunc(2*time.Second, func() { other.conn.SetDeadline(time.Unix(1, 0)) })
		defer t.Stop()
	}
	second := <-ends
	for _, e := range []end{first, second} {
		if e.err != nil {
			first.ss.bad, second.ss.bad = true, true
			if ctx.Err() != nil {
				from.abort()
				into.abort()
				return ctx.Err()
			}
			return fmt.Errorf("%s: %w", e.who, cut(e.err))
		}
	}
	return nil
}
