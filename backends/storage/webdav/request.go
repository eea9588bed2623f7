package webdav

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/storage/wire"
)

// request is one HTTP request.
type request struct {
	method string
	url    *url.URL
	header http.Header
	body   io.ReadCloser // nil: none
	length int64         // of body
	again  func() bool   // whether body can still be sent from its start
	ok     func(status int) bool
	seen   visibility    // by whom, when it is redirected
	work   time.Duration // for which the server may be busy before it says anything
	racy   bool          // of those that go in a lane, where the server is XRootD
}

// visibility is which servers may see a request, beside our own.
type visibility int

const (
	byAll visibility = iota
	byTLS            // those that are reached over TLS
	byNone
)

// redirects is how many are followed.
const redirects = 5

var (
	errLoop = fmt.Errorf("more than %d redirects: %w", redirects, backends.ErrUnavailable)
	// errElsewhere is of requests that our own server alone may see.
	errElsewhere = fmt.Errorf("redirected to another host, which may not see the token: %w", backends.ErrNotSupported)
	// errInClear is of a server that puts the token that it was shown into the URL of another one.
	errInClear = fmt.Errorf("redirected to plain HTTP with our token in the URL, where everybody could read it (XRootD: http.desthttps): %w", backends.ErrUnavailable)
)

func (s *Storage) begin(ctx context.Context, work time.Duration) *wire.Flight {
	return wire.Begin(ctx, s.ctx, wire.Deadlines{Connect: s.o.Connect, Stall: s.o.Stall + work})
}

// url is that of a path, with everything escaped that could mean something to somebody.
func (s *Storage) url(p string) *url.URL {
	u := *s.base
	if p != "" {
		u.Path += "/" + p
	}
	if u.Path == "" {
		u.Path = "/"
	}
	u.RawPath = escape(u.Path)
	return &u
}

func escape(p string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(p) {
		c := p[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("/-._~", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// folderURL has the slash that some servers want at the end of a folder.
func folderURL(u *url.URL) *url.URL {
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
		u.RawPath += "/"
	}
	return u
}

// pool is a transport whose connections were made with one identity.
type pool struct {
	mu    sync.Mutex
	tr    *http.Transport
	proxy string
}

// transport gives that of a pool, made with the proxy of now.
func (s *Storage) transport(p *pool) *http.Transport {
	id := ""
	if s.base.Scheme == "https" {
		if p, _ := s.o.Credentials.Proxy(); p.Cert != nil {
			id = string(p.Cert.Certificate[0])
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tr != nil && p.proxy == id {
		return p.tr
	}
	p.close()
	p.tr, p.proxy = wire.Transport(wire.Options{Credentials: s.o.Credentials, Connect: s.o.Connect, Connections: s.o.Connections}), id
	return p.tr
}

// close is called with mu held, or by the last user.
func (p *pool) close() {
	if p.tr != nil {
		p.tr.CloseIdleConnections()
	}
}

// A lane carries the requests that XRootD answers from another thread than the one that reads the
// connection: what comes on it soon after, its end as well, is answered twice or never, or ends the
// server (XRootD 5.5.4: one in some hundred). So such a connection is neither closed nor used again before
// it has rested. Answers to what waits for a turn of computing are lost, too: few are asked for at a time.
type lane struct {
	pool
	at time.Time // of the last answer
}

const (
	lanes    = 8  // of one storage, from the start
	maxLanes = 64 // of one that is busy: more are made while none has rested
	laneRest = 50 * time.Millisecond
	inLanes  = 2 // requests of all storages of one server
)

// turns has the room for the requests in lanes, by server.
var turns sync.Map // of host to chan struct{}

// another tells whether one more lane may be made.
func (s *Storage) another() bool {
	for n := s.spare.Load(); n > 0; n = s.spare.Load() {
		if s.spare.CompareAndSwap(n, n-1) {
			return true
		}
	}
	return false
}

// inLane makes a round trip in a lane that has rested.
func (s *Storage) inLane(f *wire.Flight, req *http.Request) (*http.Response, error) {
	f.Hold()
	var l *lane
	select {
	case l = <-s.lanes:
	case <-f.Ctx.Done():
		return nil, context.Cause(f.Ctx)
	}
	if time.Since(l.at) < laneRest && s.another() {
		s.lanes <- l // has room for all
		l = &lane{}
	}
	defer func() {
		l.at = time.Now()
		s.lanes <- l
	}()
	select {
	case <-time.After(laneRest - time.Since(l.at)):
	case <-f.Ctx.Done():
		return nil, context.Cause(f.Ctx)
	}
	t, _ := turns.LoadOrStore(s.base.Host, make(chan struct{}, inLanes))
	turn := t.(chan struct{})
	select {
	case turn <- struct{}{}:
	case <-f.Ctx.Done():
		return nil, context.Cause(f.Ctx)
	}
	defer func() { <-turn }()
	f.Progress()
	return s.transport(&l.pool).RoundTrip(req)
}

// send makes a request and follows redirects. Without an error the response is one of success, and
// Flight.End must be called with it.
func (s *Storage) send(ctx context.Context, r request) (*http.Response, *wire.Flight, error) {
	f := s.begin(ctx, r.work)
	resp, err := s.sendOn(f, r)
	if err != nil {
		f.End(nil)
		return nil, nil, err
	}
	return resp, f, nil
}

func (s *Storage) sendOn(f *wire.Flight, r request) (*http.Response, error) {
	u, dst := r.url, r.header.Get("Destination")
	for hop := 0; ; hop++ {
		req := (&http.Request{Method: r.method, URL: u, Header: http.Header{}, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(f.Ctx)
		for k, v := range r.header {
			req.Header[k] = v
		}
		if dst != "" {
			req.Header.Set("Destination", dst)
		}
		req.Header.Set("User-Agent", "tarn")
		req.Header["X-Idempotency-Key"] = nil // not sent: an idle connection that was closed meanwhile costs nothing
		over := func() {}
		if r.body != nil {
			body := r.body
			if r.header.Get("Expect") != "" {
				g, ctx := newGate(f.Ctx, body)
				body, req = g, req.WithContext(ctx)
				over = func() { close(g.answered) }
			}
			req.Body, req.ContentLength = body, r.length
			req.GetBody = func() (io.ReadCloser, error) {
				if !r.again() {
					return nil, errors.New("the connection broke while bytes were sent")
				}
				return body, nil
			}
		}
		token := s.tokenFor(u)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		var resp *http.Response
		var err error
		if r.racy && s.server.Load() != otherServer {
			resp, err = s.inLane(f, req)
		} else {
			resp, err = s.transport(&s.pool).RoundTrip(req)
		}
		over()
		if err != nil {
			return nil, s.broken(f, err)
		}
		f.Progress()
		s.meet(resp.Header.Get("Server"))
		if resp.StatusCode >= 300 && resp.StatusCode < 400 && resp.Header.Get("Location") != "" {
			next, err := s.follow(u, resp)
			discard(resp)
			switch {
			case err != nil:
				return nil, err
			case hop == redirects:
				return nil, errLoop
			case !s.home(next) && (r.seen == byNone || r.seen == byTLS && next.Scheme != "https"):
				return nil, errElsewhere
			case next.Scheme == "http" && s.tells(next):
				return nil, errInClear
			case r.body != nil && !r.again():
				return nil, fmt.Errorf("redirected after bytes were sent: %w, %w", backends.ErrUnavailable, backends.ErrTemporary)
			}
			if r.method == "MOVE" {
				dst = alongside(dst, u, next)
			}
			u = next
			continue
		}
		ok := resp.StatusCode >= 200 && resp.StatusCode < 300
		if r.ok != nil {
			ok = r.ok(resp.StatusCode)
		}
		if !ok {
			defer discard(resp)
			return nil, s.refused(resp, token)
		}
		return resp, nil
	}
}

// discard ends a response that nobody wants, and keeps its connection when little is left of it.
func discard(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
}

// follow gives where a redirect leads to.
func (s *Storage) follow(from *url.URL, resp *http.Response) (*url.URL, error) {
	next, err := from.Parse(resp.Header.Get("Location"))
	switch {
	case err != nil:
		return nil, fmt.Errorf("redirected to what is no URL: %w", backends.ErrUnavailable)
	case next.Scheme != "http" && next.Scheme != "https":
		return nil, fmt.Errorf("redirected to a URL of scheme %q: %w", next.Scheme, backends.ErrUnavailable)
	case next.Hostname() == "":
		return nil, fmt.Errorf("redirected to a URL without a host: %w", backends.ErrUnavailable)
	case resp.StatusCode == http.StatusSeeOther && resp.Request.Method != "GET" && resp.Request.Method != "HEAD":
		return nil, fmt.Errorf("a %s was redirected to a page (status 303): %w", resp.Request.Method, backends.ErrNotSupported)
	}
	next.User, next.Fragment = nil, ""
	return next, nil
}

// alongside gives the destination of a MOVE that was sent on: a file is moved within a server, and what lets us in at the
// other one, which stands in its URL, counts for both names.
func alongside(dst string, from, next *url.URL) string {
	d, err := url.Parse(dst)
	if err != nil || path.Clean(next.Path) != path.Clean(from.Path) {
		return dst
	}
	d.Scheme, d.Host, d.RawQuery = next.Scheme, next.Host, next.RawQuery
	return d.String()
}

// tokenFor is the bearer token that a URL may see: that of our own host, over TLS. A server that we are
// redirected to has to do with what stands in its URL.
func (s *Storage) tokenFor(u *url.URL) string {
	if u.Scheme != "https" || !s.home(u) {
		return ""
	}
	t, _ := s.o.Credentials.Token() // what is wrong with it is told to who is refused
	return t.Secret
}

// tells whether a URL has our token in it.
func (s *Storage) tells(u *url.URL) bool {
	t, _ := s.o.Credentials.Token()
	q, _ := url.QueryUnescape(u.RawQuery)
	return t.Secret != "" && strings.Contains(q, t.Secret)
}

// home tells whether a URL is of the server that the storage is configured with.
func (s *Storage) home(u *url.URL) bool {
	return u.Scheme == s.base.Scheme && strings.EqualFold(u.Hostname(), s.base.Hostname()) && portOf(u) == portOf(s.base)
}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// simple is a request whose answer is its status.
func (s *Storage) simple(ctx context.Context, method string, u *url.URL, h http.Header) error {
	resp, f, err := s.send(ctx, request{method: method, url: u, header: h})
	if err != nil {
		return err
	}
	f.End(resp)
	if resp.StatusCode == http.StatusMultiStatus { // of what is below, something failed
		return fmt.Errorf("%s: some of it failed: %w", method, backends.ErrUnavailable)
	}
	return nil
}

// What is known of the server.
const (
	unknownServer = iota
	xrootdServer
	otherServer
)

// meet takes a response's word for what the server is.
func (s *Storage) meet(name string) {
	switch {
	case name == "":
	case strings.HasPrefix(strings.ToLower(name), "xrootd"):
		s.server.Store(xrootdServer)
	default:
		s.server.CompareAndSwap(unknownServer, otherServer) // a front may stand before some of its requests
	}
}
