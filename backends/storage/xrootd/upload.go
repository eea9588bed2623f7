//go:build xrdcl && cgo

package xrootd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

const (
	// cleanupTime bounds what an upload that failed may take to remove its traces.
	cleanupTime = 5 * time.Second
	// window is how many writes of an upload are out at once, writeSize how much each carries.
	window    = 8
	writeSize = 2 << 20
)

// upload is one file on its way: writes that are out side by side, the next one being filled.
type upload struct {
	s     *Storage
	path  string
	tmp   string // on the server; "" once it is published
	old   string // on the server, where what had the name is kept meanwhile; "" when nothing is
	size  int64  // announced; -1: not
	ctx   context.Context
	file  *counted
	h     *checksum.Hasher
	only  []string // what Commit compares; nil: all that it is given
	at    int64    // offset of the next byte; less than what is hashed after a Resume
	out   *flow    // over file
	err   error    // sticky: a failed write cannot be followed by a good commit, unless it is resumed
	over  bool     // there was a file of this name at Create
	fresh bool     // a manager remembers that there was none
	done  bool
}

// Create makes the folders and opens the new file. The upload goes on no longer than ctx.
func (s *Storage) Create(ctx context.Context, p string, size int64) (backends.Upload, error) {
	if s.o.ReadOnly {
		return nil, s.edge("create", p, backends.ErrReadOnly)
	}
	u := &upload{s: s, path: p, size: size, ctx: ctx, h: checksum.New(s.algorithms()...)}
	err := s.do(ctx, "create", p, func() error {
		if err := u.prepare(ctx); err != nil {
			return err
		}
		return u.begin(ctx, "")
	})
	if err != nil {
		return nil, err
	}
	u.out = u.flow(0)
	return u, nil
}

// algorithms are those of uploads, with the one that servers know.
func (s *Storage) algorithms() []string { return checksum.With(s.o.Checksums, "adler32") }

// Expect implements backends.Expecter.
func (u *upload) Expect(_ backends.Checksums, compare ...string) {
	u.only, u.h = compare, checksum.New(checksum.With(compare, "adler32")...)
}

// prepare looks at what has the name, and makes the folders.
func (u *upload) prepare(ctx context.Context) error {
	s, p := u.s, u.path
	if p == "" {
		return backends.ErrIsDir
	}
	i, err := s.lookRemote(ctx, s.remote(p))
	switch {
	case err == nil && i.flags&isDir != 0:
		return backends.ErrIsDir
	case err != nil && !absent(err):
		return err
	}
	u.over, u.fresh = err == nil, nowhere(err)
	if s.o.Marker != "" {
		if err := s.present(ctx); err != nil {
			return err
		}
	}
	if err := s.makeFolder(ctx, path.Dir(p)); err != nil {
		return err
	}
	if err := s.makeFolder(ctx, uploads); err != nil {
		return err
	}
	s.clean(ctx)
	return nil
}

// begin opens the new file, with what else its URL is to say.
func (u *upload) begin(ctx context.Context, query string) error {
	err := u.beginOnce(ctx, query)
	if errors.Is(err, backends.ErrNotExist) { // somebody removed the folder
		u.s.forget(uploads)
		if err = u.s.makeFolder(ctx, uploads); err == nil {
			err = u.beginOnce(ctx, query)
		}
	}
	return err
}

func (u *upload) beginOnce(ctx context.Context, query string) (err error) {
	u.tmp = u.s.remote(uploads + "/" + rand.Text())
	u.file, _, err = u.s.openFile(ctx, withQuery(u.s.url(u.tmp), query), creating, u.s.o.Timeout)
	return err
}

func (u *upload) fail(op string, err error) error { return u.s.edge(op, u.path, err) }

// Write copies the bytes to where the library takes them from, while their checksums are computed.
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
	n, err = u.out.write(u.ctx, p)
	sums.Wait()
	u.at += int64(n)
	if err != nil {
		u.err = u.fail("write", err)
	}
	return n, u.err
}

// Flush implements backends.Resumer.
func (u *upload) Flush(ctx context.Context) error {
	if u.done {
		return u.fail("flush", backends.ErrClosed)
	}
	if u.err == nil {
		if err := u.out.settle(ctx); err != nil {
			u.err = u.fail("flush", err)
		}
	}
	return u.err
}

// Resume implements backends.Resumer: the file is opened once more, and written from the first byte on that the server did not say it has.
func (u *upload) Resume(ctx context.Context) (int64, error) {
	if u.done {
		return 0, u.fail("resume", backends.ErrClosed)
	}
	off := u.out.had()
	u.hangUp()
	var at info
	err := u.s.do(ctx, "resume", u.path, func() (err error) {
		u.file, at, err = u.s.openFile(ctx, u.s.url(u.tmp), updating, u.s.o.Timeout)
		if absent(err) { // it was removed meanwhile
			at = info{}
			return u.begin(ctx, "")
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	off = min(off, at.size)
	u.err, u.at, u.out = nil, off, u.flow(off)
	return off, nil
}

// hangUp ends what is out, and leaves the file.
func (u *upload) hangUp() {
	if u.out != nil {
		u.out.end()
	}
	if u.file != nil {
		u.s.leave(u.file)
		u.file = nil
	}
}

func (u *upload) Commit(ctx context.Context, want backends.Checksums) (backends.Checksums, error) {
	if u.done {
		return backends.Checksums{}, u.fail("commit", backends.ErrClosed)
	}
	defer u.Abort()
	if u.only != nil {
		want = checksum.Only(want, u.only...)
	}
	got, at, err := u.verify(ctx, want)
	if err == nil {
		err = u.publish(ctx, at)
	}
	if err != nil {
		return backends.Checksums{}, u.fail("commit", err)
	}
	return got, nil
}

// verify compares what was sent with what was wanted, and with size and checksum that the server has. It gives the
// digests of the server, or of what was read back.
func (u *upload) verify(ctx context.Context, want backends.Checksums) (none backends.Checksums, at info, err error) {
	s := u.s
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
	if err := u.out.settle(ctx); err != nil {
		return none, at, err
	}
	d := s.patience(n)
	if _, err := s.request(ctx, u.file, d, func(f done) { u.file.sync(d, f) }); err != nil {
		return none, at, err
	}
	if _, err := s.request(ctx, u.file, d, func(f done) { u.file.close(d, f) }); err != nil {
		return none, at, err
	}
	if at, err = s.lookRemote(ctx, u.tmp); err != nil {
		return none, at, err
	}
	if at.size != n {
		return none, at, fmt.Errorf("the server has %d bytes of the %d sent: %w", at.size, n, backends.ErrCorrupt)
	}
	sums := u.h.Sums()
	// What was not computed on the way, and what the server cannot give, is had by reading.
	var read []string
	for _, a := range checksum.Known(want) {
		if _, ok := sums[a]; !ok {
			read = append(read, a)
		}
	}
	server, err := s.sum(ctx, u.tmp, n)
	if errors.Is(err, backends.ErrNotSupported) {
		read = append(read, "adler32")
	} else if err != nil {
		return none, at, err
	}
	if len(read) > 0 {
		server, err = u.readBack(ctx, at, read)
		if err != nil {
			return none, at, err
		}
	}
	if server.Adler32 != "" && server.Adler32 != sums["adler32"] {
		return none, at, fmt.Errorf("the server has adler32 %s of what has %s: %w", server.Adler32, sums["adler32"], backends.ErrCorrupt)
	}
	for a, v := range checksum.ToMap(server) {
		sums[a] = v
	}
	return server, at, want.Match(checksum.FromMap(sums))
}

// readBack computes digests of what the server has.
func (u *upload) readBack(ctx context.Context, at info, algs []string) (backends.Checksums, error) {
	file, now, err := u.s.openFile(ctx, u.s.url(u.tmp), reading, u.s.o.Timeout)
	if err != nil {
		return backends.Checksums{}, err
	}
	o := &object{s: u.s, path: path.Join(uploads, path.Base(u.tmp)), was: now, file: file, opening: make(chan struct{}, 1)}
	defer o.Close()
	if now.size != at.size {
		return backends.Checksums{}, fmt.Errorf("the server opens %d bytes of the %d sent: %w", now.size, at.size, backends.ErrCorrupt)
	}
	return checksum.Object(ctx, o, algs...)
}

// Abort removes what was written, unless Commit has published it.
func (u *upload) Abort() error {
	if u.done {
		return nil
	}
	u.done = true
	d := min(cleanupTime, u.s.o.Timeout)
	ctx, cancel := context.WithTimeout(context.Background(), 2*d)
	defer cancel()
	if u.out != nil { // a copy that the servers make has none
		early, stop := context.WithTimeout(ctx, d)
		u.out.await(early) // whatever became of them
		stop()
	}
	u.hangUp()
	if u.tmp == "" {
		return nil
	}
	_, err := u.s.ask(ctx, d, fsRm, u.tmp, "")
	if err == nil || errors.Is(err, backends.ErrNotExist) {
		return nil
	}
	return u.fail("abort", fmt.Errorf("%s stays on the server for a day: %w", u.tmp, err))
}
