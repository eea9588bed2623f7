package gridftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

const (
	// stale is the age from which an unfinished upload is taken for left over by a crash: others may write to the same storage.
	stale = 24 * time.Hour
	// maxFolders bounds the memory of folders known to be there; forgetting one costs a command.
	maxFolders = 1 << 14
	// cleanupTime bounds what an upload that failed may take to remove its traces.
	cleanupTime = 5 * time.Second
)

// sink is the data channel of an upload.
type sink interface {
	Write(p []byte) (int, error)
	end() error // all has been written
	Close() error
}

// end of a plain stream is the end of the connection.
func (c *channel) end() error { return c.Close() }

// upload is one file on its way.
type upload struct {
	s    *Storage
	path string
	tmp  string // on the server; "" once it is published
	size int64  // announced; -1: not
	ss   *session
	data sink
	h    *checksum.Hasher
	at   int64    // offset of the next byte; less than what is hashed after a Resume
	only []string // what Commit compares; nil: all that it is given
	err  error    // sticky: a failed write cannot be followed by a good commit, unless it is resumed
	sent bool     // the server has said that it has all
	done bool

	scattered bool  // it goes over several connections: its size on the server tells nothing
	marked    marks // what the server has of it then
}

// Create makes the folders and begins the transfer.
func (s *Storage) Create(ctx context.Context, p string, size int64) (backends.Upload, error) {
	if s.o.ReadOnly {
		return nil, s.opError("create", p, backends.ErrReadOnly)
	}
	u := &upload{s: s, path: p, size: size, h: checksum.New(s.o.Checksums...)}
	err := s.do(ctx, "create", p, func(ss *session, _ bool) error {
		if err := s.prepare(ctx, ss, p); err != nil {
			return err
		}
		err := u.begin(ctx, ss)
		if errors.Is(err, backends.ErrNotExist) { // somebody removed the folder
			s.forget(uploads)
			if err = s.makeFolder(ctx, ss, uploads); err == nil {
				err = u.begin(ctx, ss)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

func (u *upload) begin(ctx context.Context, ss *session) (err error) {
	s := u.s
	u.tmp = s.remote(uploads + "/" + rand.Text())
	u.scattered = s.o.Streams > 1 && (u.size < 0 || u.size >= blocksFrom)
	if u.scattered && ss.setMode(ctx, s.o.Timeout, true) != nil {
		u.scattered = false // the server has no MODE E
	}
	return u.store(ctx, ss, new(int64))
}

// store begins to send from an offset on, or from the beginning, where the server refuses that.
func (u *upload) store(ctx context.Context, ss *session, off *int64) (err error) {
	s := u.s
	if err := ss.setMode(ctx, s.o.Timeout, u.scattered); err != nil {
		return err
	}
	var data sink
	from := fmt.Sprint(*off)
	if u.scattered {
		from = "0-" + from
		data, err = s.connectBlocks(ctx, ss, s.o.Streams, *off)
	} else {
		data, err = s.connectData(ctx, ss)
	}
	if err != nil {
		return err
	}
	if *off > 0 {
		rep, err := ss.command(ctx, s.o.Timeout, "REST "+from)
		if err != nil {
			data.Close()
			return err
		}
		if rep.class() != 3 {
			data.Close()
			*off = 0
			return u.store(ctx, ss, off)
		}
	}
	if *off == 0 {
		u.marked = marks{} // the server empties the file
	}
	if err := ss.transfer(ctx, s.o.Timeout, "STOR "+u.tmp); err != nil {
		data.Close()
		return err
	}
	ss.marked = &u.marked
	u.data, u.ss, ss.detached = data, ss, true
	return nil
}

// makeFolder makes a folder below the prefix and those above it.
func (s *Storage) makeFolder(ctx context.Context, ss *session, dir string) error {
	s.mu.Lock()
	_, known := s.folders[dir]
	s.mu.Unlock()
	if known || isPrefix(dir) { // the prefix is not ours to make
		return nil
	}
	if err := s.makeRemote(ctx, ss, s.remote(dir)); err != nil {
		return err
	}
	s.mu.Lock()
	if len(s.folders) >= maxFolders {
		clear(s.folders)
	}
	s.folders[strings.Clone(dir)] = struct{}{}
	s.mu.Unlock()
	return nil
}

func (s *Storage) makeRemote(ctx context.Context, ss *session, dir string) error {
	_, err := ss.ask(ctx, s.o.Timeout, "MKD "+dir)
	if errors.Is(err, backends.ErrNotExist) && len(path.Dir(dir)) > len(s.end.prefix) {
		if err := s.makeRemote(ctx, ss, path.Dir(dir)); err != nil {
			return err
		}
		_, err = ss.ask(ctx, s.o.Timeout, "MKD "+dir)
	}
	var r *replyError
	if err == nil || !errors.As(err, &r) {
		return err
	}
	// Servers differ in what they say of a folder that is there.
	f, lerr := s.lookRemote(ctx, ss, dir)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case lerr != nil:
		return err
	case !f.isDir():
		return fmt.Errorf("%s: %w", dir, backends.ErrNotDir)
	}
	return nil
}

// forget is for a folder that may be gone, and those below it.
func (s *Storage) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.folders {
		if d == dir || strings.HasPrefix(d, dir+"/") {
			delete(s.folders, d)
		}
	}
}

// clean removes what uploads that ended with a crash have left, when that was not looked for lately.
func (s *Storage) clean(ctx context.Context, ss *session) {
	now := s.o.Now()
	s.mu.Lock()
	due := s.cleaned.IsZero() || now.Sub(s.cleaned) >= stale
	if due {
		s.cleaned = now
	}
	s.mu.Unlock()
	if !due {
		return
	}
	found, err := s.entries(ctx, ss, s.remote(uploads))
	for _, f := range found {
		if err == nil && f.kind == "file" && now.Sub(f.mtime) >= stale && !strings.ContainsRune(f.name, '/') {
			_, err = ss.ask(ctx, s.o.Timeout, "DELE "+s.remote(uploads)+"/"+f.name)
			if errors.Is(err, backends.ErrNotExist) {
				err = nil
			}
		}
	}
	if err != nil {
		s.o.Log.Warn("cleaning up unfinished uploads", "at", s.at(uploads), "err", err)
	}
}

func (u *upload) fail(op string, err error) error { return u.s.opError(op, u.path, err) }

// Expect implements backends.Expecter.
func (u *upload) Expect(_ backends.Checksums, compare ...string) {
	u.only, u.h = compare, checksum.New(checksum.With(compare, "adler32")...)
}

// Write sends the bytes while their checksums are computed.
func (u *upload) Write(p []byte) (n int, err error) {
	if u.done {
		return 0, u.fail("write", backends.ErrClosed)
	}
	if u.err != nil {
		return 0, u.err
	}
	if u.size >= 0 && u.at+int64(len(p)) > u.size {
		u.err = u.fail("write", fmt.Errorf("more than the announced %d bytes: %w", u.size, backends.ErrCorrupt))
		return 0, u.err
	}
	var sums sync.WaitGroup
	fresh := p[min(u.h.Size()-u.at, int64(len(p))):]
	if len(fresh) >= 64<<10 {
		sums.Go(func() { u.h.Write(fresh) })
	} else {
		u.h.Write(fresh)
	}
	n, err = u.data.Write(p)
	sums.Wait()
	u.at += int64(n)
	if err != nil {
		u.err = u.fail("write", u.reason(err))
	}
	return n, u.err
}

// Flush implements backends.Resumer.
func (u *upload) Flush(ctx context.Context) error {
	if u.done {
		return u.fail("flush", backends.ErrClosed)
	}
	if u.err != nil || u.sent {
		return u.err
	}
	stop := u.ss.watch(ctx)
	err := u.flush(ctx)
	stop()
	if err != nil {
		u.err = u.fail("flush", err)
	}
	return u.err
}

func (u *upload) flush(ctx context.Context) error {
	if err := u.data.end(); err != nil {
		return u.reason(err)
	}
	u.data = nil
	if err := u.ss.finish(ctx, u.s.patience(u.at)); err != nil {
		return err
	}
	u.sent = true
	return nil
}

// Resume implements backends.Resumer: from where the file on the server ends (REST before STOR, RFC 959 4.1.3) or, where it went over several
// connections, from the first byte that the server's restart markers do not have (GFD.020 sections 3.3 and 5).
func (u *upload) Resume(ctx context.Context) (off int64, err error) {
	if u.done {
		return 0, u.fail("resume", backends.ErrClosed)
	}
	u.hangUp(ctx)
	err = u.s.do(ctx, "resume", u.path, func(ss *session, _ bool) error {
		at, err := u.s.lookRemote(ctx, ss, u.tmp)
		if err != nil && !errors.Is(err, backends.ErrNotExist) {
			return err
		}
		off = min(u.at, at.size)
		if u.scattered {
			off = min(u.marked.upTo(), at.size)
		}
		return u.store(ctx, ss, &off)
	})
	if err != nil {
		return 0, err
	}
	u.err, u.at, u.sent = nil, off, false
	return off, nil
}

// hangUp ends the connections that an upload still has.
func (u *upload) hangUp(ctx context.Context) {
	if u.data != nil { // the server takes the end of the connection for that of the file
		u.data.Close()
		u.data = nil
		if u.ss != nil && !u.ss.bad {
			u.ss.final(ctx, min(u.s.o.Timeout, 2*time.Second)) // whatever it says; when nothing, the session is bad
		}
	}
	if u.ss != nil {
		u.ss.detached, u.ss.marked = false, nil
		u.s.keep(u.ss)
		u.ss = nil
	}
}

// reason is why the server closed the data channel, which it says on the other one.
func (u *upload) reason(err error) error {
	u.data.Close()
	u.data = nil
	rep, rerr := u.ss.final(context.Background(), min(u.s.o.Timeout, 2*time.Second))
	if rerr == nil && rep.class() > 3 {
		return refused(rep)
	}
	u.ss.bad = true
	return network("data channel", err)
}

func (u *upload) Commit(ctx context.Context, want backends.Checksums) (backends.Checksums, error) {
	if u.done {
		return backends.Checksums{}, u.fail("commit", backends.ErrClosed)
	}
	defer u.Abort()
	if u.only != nil {
		want = checksum.Only(want, u.only...)
	}
	if u.ss == nil { // a Resume has failed
		return backends.Checksums{}, u.err
	}
	stop := u.ss.watch(ctx)
	got, at, err := u.verify(ctx, want)
	stop()
	if err == nil {
		err = u.s.publish(ctx, u.ss, at, u.tmp, u.path)
	}
	if err != nil {
		return backends.Checksums{}, u.fail("commit", err)
	}
	u.tmp = ""
	return got, nil
}

// verify compares what was sent with what was wanted, and with size and checksums that the server has. It gives the
// digests that the server computed, which are none where it cannot.
func (u *upload) verify(ctx context.Context, want backends.Checksums) (none backends.Checksums, at facts, err error) {
	if err := ctx.Err(); err != nil {
		return none, at, err
	}
	if u.err != nil {
		return none, at, u.err
	}
	n := u.h.Size()
	if u.size >= 0 && n != u.size {
		return none, at, fmt.Errorf("%d bytes of the announced %d came: %w", n, u.size, backends.ErrCorrupt)
	}
	if !u.sent {
		if err := u.flush(ctx); err != nil {
			return none, at, err
		}
	}
	if at, err = u.s.lookRemote(ctx, u.ss, u.tmp); err != nil {
		return none, at, err
	}
	if at.size != n {
		return none, at, fmt.Errorf("the server has %d bytes of the %d sent: %w", at.size, n, backends.ErrCorrupt)
	}
	sums := u.h.Sums()
	ask := []string{"adler32"} // all servers have it
	for _, a := range checksum.Known(want) {
		if sums[a] == "" && a != "adler32" {
			ask = append(ask, a)
		}
	}
	shown := map[string]string{}
	for _, a := range ask {
		c, err := u.s.sum(ctx, u.ss, u.tmp, n, a)
		if errors.Is(err, backends.ErrNotSupported) && sums[a] != "" {
			continue
		}
		if err != nil {
			return none, at, err
		}
		v := checksum.ToMap(c)[a]
		if sums[a] != "" && sums[a] != v {
			return none, at, fmt.Errorf("the server has %s %s of what has %s: %w", a, v, sums[a], backends.ErrCorrupt)
		}
		sums[a], shown[a] = v, v
	}
	return checksum.FromMap(shown), at, want.Match(checksum.FromMap(sums))
}

// publish moves a temporary to its path. What was begun is carried through whatever becomes of ctx: a server
// whose client has gone still moves it.
func (s *Storage) publish(ctx context.Context, ss *session, f facts, tmp, p string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := backends.Outlive(ctx, cleanupTime)
	defer cancel()
	err := s.rename(ctx, ss, tmp, p)
	if broken(err) && ctx.Err() == nil && f.unique != "" {
		// The answer is lost: the server knows whether it was done.
		derr := s.do(ctx, "commit", p, func(ss *session, _ bool) error {
			g, err := s.look(ctx, ss, p)
			if err == nil && !g.same(f) {
				err = backends.ErrNotExist
			}
			return err
		})
		if derr == nil {
			err = nil
		}
	}
	return err
}

// rename moves a temporary to a path, over what is there.
func (s *Storage) rename(ctx context.Context, ss *session, tmp, p string) error {
	move := func() error {
		if _, err := ss.ask(ctx, s.o.Timeout, "RNFR "+tmp); err != nil {
			return err
		}
		_, err := ss.ask(ctx, s.o.Timeout, "RNTO "+s.remote(p))
		return err
	}
	err := move()
	switch {
	case errors.Is(err, backends.ErrNotExist): // somebody removed the empty parent
		s.forget(path.Dir(p))
		if err = s.makeFolder(ctx, ss, path.Dir(p)); err == nil {
			err = move()
		}
	case errors.Is(err, backends.ErrExist): // a server that does not replace
		if _, err = ss.ask(ctx, s.o.Timeout, "DELE "+s.remote(p)); err == nil {
			err = move()
		}
	}
	if errors.Is(err, backends.ErrNotEmpty) {
		err = backends.ErrIsDir
	}
	return err
}

// Abort removes what was written, unless Commit has published it.
func (u *upload) Abort() error {
	if u.done {
		return nil
	}
	u.done = true
	ctx, cancel := context.WithTimeout(context.Background(), min(cleanupTime, u.s.o.Timeout))
	defer cancel()
	u.hangUp(ctx)
	if u.tmp == "" {
		return nil
	}
	if err := u.s.drop(ctx, u.tmp); err != nil {
		return u.fail("abort", fmt.Errorf("%s stays on the server for a day: %w", u.tmp, err))
	}
	return nil
}

// drop removes a temporary.
func (s *Storage) drop(ctx context.Context, tmp string) error {
	err := s.do(ctx, "abort", "", func(ss *session, _ bool) error {
		_, err := ss.ask(ctx, s.o.Timeout, "DELE "+tmp)
		return err
	})
	if errors.Is(err, backends.ErrNotExist) {
		return nil
	}
	return err
}
