package webdav

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/storage/wire"
)

var _ backends.ThirdParty = (*Storage)(nil)

// CopyTo is third-party copy over HTTP as the WLCG has it: the receiving server is told to fetch the file, and when it does
// not do that, the sending one to bring it. What they answer is not believed: size and checksum of what has arrived in
// .tarn-uploads are compared before it is moved to its place.
func (s *Storage) CopyTo(ctx context.Context, src string, to backends.Storage, dst string, size int64, want backends.Checksums, progress func(int64)) (got backends.Checksums, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	err = s.do(ctx, "copy", src, func(ctx context.Context) error {
		t, ok := to.(*Storage)
		if !ok {
			return fmt.Errorf("a copy to a storage of another protocol: %w", backends.ErrNotSupported)
		}
		return t.do(ctx, "copy", dst, func(ctx context.Context) error {
			switch {
			case t.o.ReadOnly:
				return backends.ErrReadOnly
			case src == "" || dst == "":
				return backends.ErrIsDir
			case want.IsZero():
				return fmt.Errorf("no checksum to verify with: %w", backends.ErrCorrupt)
			}
			c := &copying{from: s, to: t, src: src, tmp: uploads + "/" + rand.Text(), size: size, progress: progress}
			got, err = c.run(ctx, dst, want)
			return c.ended(err)
		})
	})
	if err != nil {
		return backends.Checksums{}, err
	}
	return got, nil
}

// copying is one file on its way between two servers.
type copying struct {
	from, to *Storage
	src, tmp string
	size     int64
	progress func(int64)
	told     int64 // what progress has heard last
	begun    bool  // a server may be writing to tmp
}

func (c *copying) run(ctx context.Context, dst string, want backends.Checksums) (got backends.Checksums, err error) {
	if !slices.ContainsFunc(c.ways(), way.open) {
		return got, fmt.Errorf("neither server would copy from the other or to it when it was last asked: %w", backends.ErrNotSupported)
	}
	a, err := c.from.stat(ctx, c.src)
	switch {
	case err != nil:
		return got, c.from.edge("copy", c.src, err)
	case a.IsDir:
		return got, c.from.edge("copy", c.src, backends.ErrIsDir)
	case c.size >= 0 && a.Size != c.size:
		return got, c.from.edge("copy", c.src, fmt.Errorf("the file has %d bytes, not %d: %w", a.Size, c.size, backends.ErrCorrupt))
	}
	c.size = a.Size
	if err := c.to.makeParents(ctx, dst); err != nil {
		return got, err
	}
	c.to.cleanSometimes()
	u := &upload{s: c.to, path: dst, tmp: c.tmp, size: c.size}
	defer func() {
		if !u.moved {
			c.drop()
		}
	}()
	if err := c.transfer(ctx); err != nil {
		return got, err
	}
	if got, err = c.to.arrived(ctx, c.tmp, c.size, want); err != nil {
		return got, err
	}
	c.tell(c.size)
	return got, u.publish(ctx)
}

// ended says of a copy that failed whether that was for the end of a storage.
func (c *copying) ended(err error) error {
	if err != nil && (c.from.ctx.Err() != nil || c.to.ctx.Err() != nil) {
		return backends.ErrClosed
	}
	return err
}

// tell reports bytes that have arrived, and whether they are more than before.
func (c *copying) tell(n int64) bool {
	n = min(n, c.size)
	if n <= c.told {
		return false
	}
	c.told = n
	if c.progress != nil {
		c.progress(n)
	}
	return true
}

// drop removes what a failed copy has left. A server may go on although nobody listens any more: what it writes then lies
// hidden, and is removed after a day.
func (c *copying) drop() {
	if !c.begun {
		return
	}
	c.begun = false
	if err := c.to.drop(c.tmp); err != nil {
		c.to.o.Log.Warn("an unfinished copy stays on the server for a day", "at", c.to.at(c.tmp), "err", err)
	}
}

// way is one of asking a server for a copy.
type way struct {
	at   *Storage // whose server is asked
	name string
	ask  func(ctx context.Context) error
}

func (c *copying) ways() []way {
	return []way{
		{c.to, "pull from " + c.from.base.Host, c.pull},
		{c.from, "push to " + c.to.base.Host, c.push},
	}
}

// copyAgain is after what time a server that did not copy is asked once more.
const copyAgain = 10 * time.Minute

// maxRefusals bounds the memory of them; forgetting one costs a request.
const maxRefusals = 1 << 10

// open tells whether the server has not refused lately.
func (w way) open() bool {
	w.at.mu.Lock()
	defer w.at.mu.Unlock()
	at, ok := w.at.refusals[w.name]
	return !ok || w.at.o.Now().Sub(at).Abs() > copyAgain
}

func (w way) close() {
	w.at.mu.Lock()
	defer w.at.mu.Unlock()
	if len(w.at.refusals) >= maxRefusals {
		clear(w.at.refusals)
	}
	w.at.refusals[w.name] = w.at.o.Now()
}

// A refusal is the answer of a server that does not copy this way.
type refusal struct {
	error
	lasts bool // the next file will not fare better
}

// transfer asks for the copy, in one way after the other until a server does not refuse.
func (c *copying) transfer(ctx context.Context) error {
	var why error
	for _, w := range c.ways() {
		if !w.open() {
			continue
		}
		err := w.ask(ctx)
		var no *refusal
		if !errors.As(err, &no) {
			return err
		}
		if no.lasts {
			w.close()
		}
		c.drop()
		why = fmt.Errorf("%s: %v", w.name, no)
	}
	return fmt.Errorf("neither server copies from the other or to it (%v): %w", why, backends.ErrNotSupported)
}

// pull asks the receiving server to fetch the file.
func (c *copying) pull(ctx context.Context) error {
	u := c.from.url(c.src)
	return c.copy(ctx, c.to, c.to.url(c.tmp), "Source", u, func(narrow bool) key { return c.from.key(ctx, u, narrow, "DOWNLOAD") })
}

// push asks the sending server to bring the file. One that knows nothing of other servers may copy it to the same path of its
// own, or leave out the host.
func (c *copying) push(ctx context.Context) error {
	u := c.to.url(c.tmp)
	err := c.copy(ctx, c.from, c.from.url(c.src), "Destination", u, func(narrow bool) key { return c.to.key(ctx, u, narrow, "UPLOAD", "DELETE", "LIST") })
	if !errors.Is(err, errSilent) {
		return err
	}
	if _, serr := c.to.stat(ctx, c.tmp); !errors.Is(serr, backends.ErrNotExist) {
		return serr // a copy within one server, to be verified
	}
	stray := *u
	stray.Scheme, stray.Host = c.from.base.Scheme, c.from.base.Host
	if derr := c.from.simple(ctx, "DELETE", &stray, nil); derr != nil && !errors.Is(derr, backends.ErrNotExist) {
		c.from.o.Log.Warn("a server that was asked to copy to another may have copied to itself", "at", stray.String(), "err", derr)
	}
	return &refusal{errors.New("the server copies within itself only"), true}
}

// copy sends a COPY and follows it to its end. peer is the file at the other server, and keyOf gives what that one lets in
// with: it goes over TLS, and to no server but the one that is asked. Where that sends us on to another, as a manager does to
// the server that is to have the file, a narrow one is asked for: who has it can do no more than copy this file.
func (c *copying) copy(ctx context.Context, at *Storage, u *url.URL, side string, peer *url.URL, keyOf func(narrow bool) key) error {
	var k key
	if at.base.Scheme == "https" {
		k = keyOf(false)
	}
	h := http.Header{side: {peer.String()}, "Credential": {"none"}, "RequireChecksumVerification": {"false"}} // we do that
	c.begun = true
	resp, f, err := c.send(ctx, at, u, h, k)
	narrowed := errors.Is(err, errElsewhere) && !k.narrow
	if narrowed {
		if k = keyOf(true); k.secret != "" {
			resp, f, err = c.send(ctx, at, u, h, k)
		}
	}
	if err != nil {
		return c.refused(err, side == "Destination")
	}
	err = c.follow(at, f, resp.Body, k.secret, at.tokenFor(u))
	if err == nil {
		f.End(resp)
		return nil
	}
	resp.Body.Close()
	f.End(nil)
	if errors.Is(err, errFailed) && peer.Scheme == "https" && (k.secret == "" || narrowed) {
		// Most likely it was not let in: nobody is without a token, and a macaroon that XRootD 5.5 gives for a token alone
		// allows nothing.
		return &refusal{err, true}
	}
	return err
}

// send makes the request of a COPY, with the key for the other server.
func (c *copying) send(ctx context.Context, at *Storage, u *url.URL, h http.Header, k key) (*http.Response, *wire.Flight, error) {
	r := request{method: "COPY", url: u, header: h}
	switch {
	case k.narrow:
		r.seen = byTLS
	case k.secret != "":
		r.seen = byNone
	}
	if k.secret != "" {
		h[transferToken] = []string{"Bearer " + k.secret}
	}
	resp, f, err := at.send(ctx, r)
	if status(err) == http.StatusBadRequest && at == c.to && at.server.Load() == xrootdServer {
		// A manager of XRootD has to look where the file is that is not there yet, and does not wait for that with a COPY.
		if _, serr := at.stat(ctx, c.tmp); errors.Is(serr, backends.ErrNotExist) {
			resp, f, err = at.send(ctx, r)
		}
	}
	return resp, f, err
}

// refused tells a server that does not copy from one that has trouble.
func (c *copying) refused(err error, push bool) error {
	lasts := errors.Is(err, backends.ErrNotSupported)
	switch status(err) {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusUnsupportedMediaType:
		lasts = true
	case http.StatusConflict, http.StatusBadGateway: // of servers that do not copy to others
		lasts = push
		if !push {
			return err
		}
	case http.StatusUnauthorized, http.StatusForbidden: // copies may be for others, and writing not
	default:
		if !lasts {
			return err
		}
	}
	c.begun = false
	return &refusal{err, lasts}
}

// arrived compares a file that others have written with what it should be: by the server's own checksum, or by what is read
// back where that does not help. Equal size is not enough.
func (s *Storage) arrived(ctx context.Context, p string, size int64, want backends.Checksums) (got backends.Checksums, err error) {
	a, err := s.stat(ctx, p)
	switch {
	case errors.Is(err, backends.ErrNotExist):
		return got, fmt.Errorf("the file that was copied is not there: %w", &backends.AnsweredError{Err: errTrouble})
	case err != nil:
		return got, err
	case a.IsDir || a.Size != size:
		return got, fmt.Errorf("%d bytes of %d have arrived: %w", a.Size, size, backends.ErrCorrupt)
	}
	got, err = s.digest(ctx, p, size)
	if err != nil && !errors.Is(err, backends.ErrNotSupported) {
		return got, err
	}
	known := checksum.Known(want)
	if !slices.ContainsFunc(checksum.Known(got), func(a string) bool { return slices.Contains(known, a) }) {
		if got, err = s.readBack(ctx, p, known); err != nil {
			return got, err
		}
	}
	if err := want.Match(got); err != nil {
		return got, fmt.Errorf("other bytes than wanted have arrived: %w", err)
	}
	return got, nil
}
