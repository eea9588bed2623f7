package webdav

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/storage/wire"
)

// upload is one file on its way: a PUT that is fed by Write.
type upload struct {
	s     *Storage
	path  string
	tmp   string
	size  int64 // announced, or what has come at last; -1: not
	ctx   context.Context
	h     *checksum.Hasher
	only  []string // what Commit compares; nil: all that it is given
	spool *os.File // of an upload of unknown size, until Commit
	err   error    // sticky: a failed write cannot be followed by a good commit
	done  bool
	moved bool

	put *put // nil until the first byte
}

// put is the running request.
type put struct {
	w      *io.PipeWriter
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // when it has ended
}

// computed are the digests made of every upload: what servers know, and what names a content.
var computed = checksum.Default

// Create makes the parent folders; the request begins with the first byte. It goes on until Commit or
// Abort, and no longer than ctx.
func (s *Storage) Create(ctx context.Context, p string, size int64) (up backends.Upload, err error) {
	err = s.do(ctx, "create", p, func(ctx context.Context) error {
		switch {
		case s.o.ReadOnly:
			return backends.ErrReadOnly
		case p == "":
			return backends.ErrIsDir
		}
		if err := s.makeParents(ctx, p); err != nil {
			return err
		}
		s.cleanSometimes()
		u := &upload{s: s, path: p, tmp: uploads + "/" + rand.Text(), size: size, ctx: ctx, h: checksum.New(computed...)}
		if size < 0 {
			f, err := os.CreateTemp(s.o.SpoolDir, "tarn-upload-")
			if err != nil {
				return down("spool an upload of unknown size: %v", err)
			}
			os.Remove(f.Name())
			u.spool = f
		}
		up = u
		return nil
	})
	return up, err
}

// Expect implements backends.Expecter.
func (u *upload) Expect(_ backends.Checksums, compare ...string) {
	u.only, u.h = compare, checksum.New(checksum.With(compare, "adler32")...)
}

func (u *upload) Write(p []byte) (int, error) {
	if u.done {
		return 0, u.s.edge("write", u.path, backends.ErrClosed)
	}
	if u.err != nil || len(p) == 0 {
		return 0, u.err
	}
	if u.size >= 0 && u.h.Size()+int64(len(p)) > u.size {
		u.err = u.s.edge("write", u.path, fmt.Errorf("more than the announced %d bytes: %w", u.size, backends.ErrCorrupt))
		return 0, u.err
	}
	hashed := u.hash(p)
	var n int
	var err error
	if u.spool != nil {
		if n, err = u.spool.Write(p); err != nil {
			err = down("spool an upload of unknown size: %v", err)
		}
	} else {
		if u.put == nil {
			u.start(u.size, nil)
		}
		if n, err = u.put.w.Write(p); err != nil {
			<-u.put.ended // it does not take more
			err = u.put.failure()
		}
	}
	hashed()
	u.err = u.s.edge("write", u.path, err)
	return n, u.err
}

// hash computes the digests of p beside what its caller does meanwhile; the end of that is waited for by the call that it
// gives. After a write that failed they are of no interest.
func (u *upload) hash(p []byte) (wait func()) {
	if len(p) < 64<<10 {
		u.h.Write(p)
		return func() {}
	}
	var sums sync.WaitGroup
	sums.Go(func() { u.h.Write(p) })
	return sums.Wait
}

// failure is why a PUT ended before all bytes were given.
func (p *put) failure() error {
	if p.err == nil {
		return down("the server took a file for whole that was not")
	}
	return p.err
}

// start sends the request. Without whole its bytes come from Write.
func (u *upload) start(size int64, whole io.ReaderAt) {
	ctx, cancel := context.WithCancel(u.ctx)
	r, w := io.Pipe()
	u.put = &put{w: w, cancel: cancel, ended: make(chan struct{})}
	q := request{method: "PUT", url: u.s.url(u.tmp), header: http.Header{"Content-Type": {"application/octet-stream"}}}
	if size > 0 {
		// A server that refuses, or sends us elsewhere, says so before the bytes go. Without bytes
		// XRootD never ends the answer to this.
		q.header.Set("Expect", "100-continue")
	}
	u.s.tasks.Go(func() {
		f := u.s.begin(ctx, 0)
		b := &body{r: r, f: f}
		if whole != nil {
			b.r = io.NewSectionReader(whole, 0, size)
		}
		if size > 0 {
			q.body, q.length, q.again = b, size, func() bool { return !b.begun.Load() }
		} else {
			q.racy = true
		}
		resp, err := u.s.sendOn(f, q)
		f.End(resp)
		u.put.err = err
		r.CloseWithError(errors.New("the request has ended"))
		close(u.put.ended)
	})
}

// body feeds a PUT. While it waits for the writer nobody is to blame but him.
type body struct {
	r     io.Reader
	f     *wire.Flight
	begun atomic.Bool
}

func (b *body) Read(p []byte) (int, error) {
	b.begun.Store(true)
	b.f.Hold()
	n, err := b.r.Read(p)
	b.f.Progress()
	return n, err
}

// Close is called by the transport when it is done with one attempt, of perhaps several.
func (b *body) Close() error { return nil }

func (u *upload) Commit(ctx context.Context, want backends.Checksums) (got backends.Checksums, err error) {
	if u.done {
		return got, u.s.edge("commit", u.path, backends.ErrClosed)
	}
	defer u.Abort()
	known := want
	if u.only != nil {
		want = checksum.Only(want, u.only...)
	}
	err = u.s.do(ctx, "commit", u.path, func(ctx context.Context) error {
		if err := u.finish(ctx, want); err != nil {
			return err
		}
		got, err = u.verify(ctx, want, known)
		if err != nil {
			return err
		}
		return u.publish(ctx)
	})
	if err != nil {
		return backends.Checksums{}, err
	}
	return got, nil
}

// finish compares what was written with what was announced, and waits for the server to have it.
func (u *upload) finish(ctx context.Context, want backends.Checksums) error {
	if u.err != nil {
		return u.err
	}
	n := u.h.Size()
	if u.size >= 0 && n != u.size {
		return fmt.Errorf("%d bytes of the announced %d came: %w", n, u.size, backends.ErrCorrupt)
	}
	u.size = n
	sums := u.h.Sums()
	if known := checksum.Known(want); len(known) == 0 || slices.ContainsFunc(known, func(a string) bool { return sums[a] != "" }) {
		if err := want.Match(u.h.Sum()); err != nil {
			return err
		}
	}
	if u.put == nil {
		u.start(n, u.whole())
	}
	u.put.w.Close()
	select {
	case <-u.put.ended:
		return u.put.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// whole is the spooled file.
func (u *upload) whole() io.ReaderAt {
	if u.spool == nil {
		return nil // no bytes at all
	}
	return u.spool
}

// verify compares with what the server has: by its own checksum, or at least by the size. Digests that
// were not computed on the way are computed of what is read back. It gives those of the server and of what was read.
// What is known of the bytes beside want helps where the server tells a digest of another kind.
func (u *upload) verify(ctx context.Context, want, known backends.Checksums) (proof backends.Checksums, err error) {
	sums := u.h.Sums()
	known = checksum.And(u.h.Sum(), known)
	found, err := u.s.digest(ctx, u.tmp, u.size)
	if found = checksum.Only(found, checksum.Known(known)...); err == nil && found.IsZero() {
		err = backends.ErrNotSupported // none that can be compared
	}
	switch {
	case err == nil:
		if err := known.Match(found); err != nil {
			return found, fmt.Errorf("the server has other bytes than were sent: %w", err)
		}
	case errors.Is(err, backends.ErrNotSupported):
		a, err := u.s.stat(ctx, u.tmp)
		if err != nil {
			return found, err
		}
		if a.Size != u.h.Size() {
			return found, fmt.Errorf("the server has %d of %d bytes: %w", a.Size, u.h.Size(), backends.ErrCorrupt)
		}
	default:
		return found, err
	}
	shown := checksum.ToMap(found)
	var missing []string
	for _, a := range checksum.Known(want) {
		if sums[a] == "" {
			missing = append(missing, a)
		}
	}
	if len(missing) > 0 {
		c, err := u.s.readBack(ctx, u.tmp, missing)
		if err != nil {
			return c, err
		}
		for a, v := range checksum.ToMap(c) {
			sums[a], shown[a] = v, v
		}
	}
	return checksum.FromMap(shown), want.Match(checksum.FromMap(sums))
}

// replaceTries is how often a file is moved over another that others replace, too.
const replaceTries = 5

// publish moves the file to its place. At first nothing may be overwritten, since to WebDAV a folder
// with all that is in it may be; what stands in the way is looked at then. What was begun is carried through
// whatever becomes of ctx: a server whose client has gone still moves it.
func (u *upload) publish(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := backends.Outlive(ctx, abortTime)
	defer cancel()
	err := u.move(ctx, "F")
	if err == nil {
		return u.note(nil)
	}
	switch status(err) {
	case http.StatusPreconditionFailed, http.StatusConflict, http.StatusNotFound, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusInternalServerError:
	case http.StatusMovedPermanently: // to nowhere: Apache's word for a folder
	default:
		return err
	}
	a, serr := u.s.stat(ctx, u.path)
	switch {
	case serr == nil && a.IsDir:
		return backends.ErrIsDir
	case serr == nil && status(err) == http.StatusNotFound && a.Size == u.size:
		// The answer to a first MOVE may have been lost with its connection: then the file is not at its old place.
		if _, terr := u.s.stat(ctx, u.tmp); errors.Is(terr, backends.ErrNotExist) {
			return u.note(nil)
		}
	case serr != nil && !errors.Is(serr, backends.ErrNotExist):
		return err
	case serr != nil: // somebody removed the empty parent
		u.s.forgetAbove(u.path)
		if perr := u.s.makeParents(ctx, u.path); perr != nil {
			return perr
		}
	}
	for range replaceTries {
		if err = u.note(u.move(ctx, "T")); status(err) != http.StatusNotFound {
			break
		}
		// Apache removes what is there before it renames: of two that replace one file at a time one may find nothing.
		if _, terr := u.s.stat(ctx, u.tmp); terr != nil {
			break
		}
	}
	if status(err) == http.StatusInternalServerError && special(u.path) && u.s.server.Load() == xrootdServer {
		return fmt.Errorf("XRootD cannot move a file to a name like this: %v: %w", err, backends.ErrName)
	}
	return err
}

// special is a name that stands in a URL in another form than its own.
func special(p string) bool { return escape(p) != p }

func (u *upload) move(ctx context.Context, overwrite string) error {
	to := u.s.url(u.path)
	dest := to.String()
	if special(u.path) && u.s.server.Load() == xrootdServer {
		dest = to.Scheme + "://" + to.Host + to.Path // it takes the name as it stands, with its %20
	}
	err := u.s.simple(ctx, "MOVE", u.s.url(u.tmp), http.Header{"Destination": {dest}, "Overwrite": {overwrite}})
	if err != nil || !special(u.path) {
		return err
	}
	if a, err := u.s.stat(ctx, u.path); err != nil || a.Size != u.size {
		return fmt.Errorf("the server cannot move a file to a name like %q: %w", u.path, backends.ErrName)
	}
	return nil
}

func (u *upload) note(err error) error {
	u.moved = u.moved || err == nil
	return err
}

// abortTime is how long Abort may take to remove what was sent.
const abortTime = 15 * time.Second

// Abort ends the request and removes what was sent, unless Commit has published it.
func (u *upload) Abort() error {
	if u.done {
		return nil
	}
	u.done = true
	if u.spool != nil {
		u.spool.Close()
	}
	if u.put == nil {
		return nil
	}
	u.put.cancel()
	u.put.w.CloseWithError(errors.New("aborted"))
	<-u.put.ended
	if u.moved {
		return nil
	}
	return u.s.edge("abort", u.path, u.s.drop(u.tmp))
}

// drop removes what is in .tarn-uploads.
func (s *Storage) drop(tmp string) error {
	ctx, cancel := context.WithTimeout(s.ctx, abortTime) // the caller's may be what has ended
	defer cancel()
	err := s.simple(ctx, "DELETE", s.url(tmp), nil)
	if errors.Is(err, backends.ErrNotExist) || s.ctx.Err() != nil {
		return nil
	}
	return err
}
