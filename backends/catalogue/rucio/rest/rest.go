// Package rest speaks Rucio's REST interface as a filesystem needs it: bulk calls, streams that are
// decoded as they arrive, and errors by class rather than by status, which Rucio's are not reliable in.
// One file is one group of routes; lib/rucio/web/rest/flaskapi/v1 of Rucio 38 to 41 is the source.
//
// A Client bounds its connections and the requests under way, logs in when it must, and asks again only where
// the server cannot have done anything. Repeating calls that failed temporarily is package retry's.
package rest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"tarn/backends"
)

// Page is how many DIDs or replicas one call may carry (schema/generic.py: lists of at most 1000).
const Page = 1000

// Options describe a server and who uses it.
type Options struct {
	// Config is where the server is and how to log in.
	Config Config
	// Atmost (8) is how many requests are under way at most.
	AtMost int
	// Silence (1 min) is how long the server may say nothing; an answer may take as long as it likes as long as it comes.
	Silence time.Duration
	// Agent is the User-Agent.
	Agent string
	// TLS gives the settings for a server, e.g. credential.Source's: nil is the system's authorities, and Config.CA.
	TLS *tls.Config
	// Token gives a ready-made bearer token (auth_type oidc); nil: there is none.
	Token func() (string, error)
	// Proxy gives the certificate of auth_type x509_proxy; nil: from the file that Config names.
	Proxy func() (tls.Certificate, error)
	// TokenDir is a folder of the user's where tokens are kept for the next program; "": they are not.
	TokenDir string
	// Log gets what is of interest; nil is nowhere.
	Log *slog.Logger
	// Now is the clock.
	Now func() time.Time
}

// Client is a connection to one Rucio server by one account. Its methods may be called in parallel.
type Client struct {
	o     Options
	http  *http.Client
	turns chan struct{}

	mu     sync.Mutex // guards the rest
	token  token
	login  chan struct{}    // non-nil while somebody logs in
	counts map[string]int64 // calls by route
}

// New makes a client; nothing is asked yet.
func New(o Options) (*Client, error) {
	if err := o.Config.check(); err != nil {
		return nil, err
	}
	if o.AtMost <= 0 {
		o.AtMost = 8
	}
	if o.Silence <= 0 {
		o.Silence = time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Agent == "" {
		o.Agent = "tarn"
	}
	c := &Client{o: o, turns: make(chan struct{}, o.AtMost), counts: map[string]int64{}}
	conf, err := c.tlsConfig()
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			TLSClientConfig: conf, TLSHandshakeTimeout: 15 * time.Second, ForceAttemptHTTP2: false,
			MaxIdleConnsPerHost: o.AtMost, MaxConnsPerHost: o.AtMost,
			// gunicorn closes what was idle for 2 s by default, and a request that meets that is lost.
			IdleConnTimeout: 1500 * time.Millisecond,
		},
		// Redirects carry the token in a header of its own, which net/http would send anywhere: they are followed on the same host only.
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Host != via[0].URL.Host || len(via) > 5 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	return c, nil
}

// Close gives the connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// URL is the server's.
func (c *Client) URL() string { return c.o.Config.Host }

// Calls tells how many requests were made, by method and route (their variable parts left out), since the client was made.
func (c *Client) Calls() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]int64, len(c.counts))
	for k, v := range c.counts {
		out[k] = v
	}
	return out
}

func (c *Client) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what]++
}

// call is one request.
type call struct {
	method string
	route  string     // for counts and errors: /dids/SCOPE/NAME/meta
	path   string     // escaped
	query  url.Values // nil: none
	body   any        // marshalled as JSON; nil: none
}

// segment escapes one component of a path: slashes of names too.
func segment(s string) string {
	// PathEscape leaves what a path may hold, among it ":" and "@", and writes a space as %20.
	return url.PathEscape(s)
}

// didPath is /dids/SCOPE/NAME and what follows.
func didPath(d backends.DID, suffix string) string {
	return "/dids/" + segment(d.Scope) + "/" + segment(d.Name) + suffix
}

// maxBody is how much of an answer that is no stream is read, and maxLine how long a line of one that is may be.
const (
	maxBody = 64 << 20
	maxLine = 4 << 20
)

// ask makes a call and decodes its JSON answer into out, which may be nil.
func (c *Client) ask(ctx context.Context, k call, out any) error {
	return c.open(ctx, k, func(r *http.Response) error {
		b, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err != nil {
			return c.broken(k, err)
		}
		if len(b) > maxBody {
			return c.fault(k, fmt.Errorf("an answer of more than %d bytes: %w", maxBody, backends.ErrUnavailable))
		}
		if out == nil || len(bytes.TrimSpace(b)) == 0 {
			return nil
		}
		if err := decode(b, out); err != nil {
			return c.fault(k, fmt.Errorf("the answer does not parse: %w: %w", err, backends.ErrUnavailable))
		}
		return nil
	})
}

// errStop ends a stream early, without an error.
var errStop = errors.New("enough")

// stream makes a call and gives each line of its answer to f as it comes; errStop from f is the end.
// Rucio ends a stream that fails half way as if it were whole (common.py, try_stream): who knows how many lines
// there must be compares.
func (c *Client) stream(ctx context.Context, k call, f func(line []byte) error) error {
	return c.open(ctx, k, func(r *http.Response) error {
		in := bufio.NewScanner(r.Body)
		in.Buffer(make([]byte, 64<<10), maxLine)
		for in.Scan() {
			line := bytes.TrimSpace(in.Bytes())
			if len(line) == 0 {
				continue
			}
			if err := f(line); errors.Is(err, errStop) {
				return nil
			} else if err != nil {
				return err
			}
		}
		if err := in.Err(); err != nil {
			return c.broken(k, err)
		}
		return nil
	})
}

// rows streams decoded lines.
func rows[T any](ctx context.Context, c *Client, k call, f func(T) error) error {
	return c.stream(ctx, k, func(line []byte) error {
		var row T
		if err := decode(line, &row); err != nil {
			return c.fault(k, fmt.Errorf("a line of the answer does not parse: %w: %w", err, backends.ErrUnavailable))
		}
		return f(row)
	})
}

// open makes a call with a token, logging in once more when the server does not take that one.
func (c *Client) open(ctx context.Context, k call, use func(*http.Response) error) error {
	var body []byte
	if k.body != nil {
		var err error
		if body, err = json.Marshal(k.body); err != nil {
			return c.fault(k, err)
		}
	}
	for again := true; ; again = false {
		t, err := c.auth(ctx)
		if err != nil {
			return err
		}
		err = c.once(ctx, k, body, http.Header{authToken: {t.value}}, use)
		var e *Error
		if again && errors.As(err, &e) && e.Class == "CannotAuthenticate" {
			c.forget(t)
			continue
		}
		return err
	}
}

// once makes one request in its turn.
func (c *Client) once(ctx context.Context, k call, body []byte, h http.Header, use func(*http.Response) error) error {
	select {
	case c.turns <- struct{}{}:
		defer func() { <-c.turns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(c.o.Silence, func() { cancel(errSilent) })
	defer quiet.Stop()

	host := c.o.Config.Host
	if strings.HasPrefix(k.path, "/auth/") {
		host = c.o.Config.AuthHost
	}
	target := strings.TrimSuffix(host, "/") + k.path
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	var rd io.Reader
	if body != nil {
		rd = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, rd)
	if err != nil {
		return c.fault(k, fmt.Errorf("%w: %w", err, backends.ErrName))
	}
	for n, v := range h {
		req.Header[n] = v
	}
	req.Header.Set("User-Agent", c.o.Agent)
	req.Header.Set("X-Rucio-Script", "tarn")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	c.count(k.method + " " + k.route)
	resp, err := c.http.Do(req)
	if err != nil {
		return c.broken(k, orSilent(ctx, err))
	}
	defer resp.Body.Close()
	quiet.Reset(c.o.Silence)
	resp.Body = &heard{resp.Body, func() { quiet.Reset(c.o.Silence) }}
	if resp.StatusCode >= 300 {
		return c.refusal(k, resp)
	}
	err = use(resp)
	if err != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), errSilent) {
		return c.broken(k, errSilent)
	}
	return err
}

var errSilent = errors.New("no answer in time")

func orSilent(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// heard notes that the server is saying something.
type heard struct {
	io.ReadCloser
	note func()
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	if n > 0 {
		h.note()
	}
	return n, err
}

// Ping gives the server's version (GET /ping). It needs no login.
func (c *Client) Ping(ctx context.Context) (version string, err error) {
	var v struct {
		Version string `json:"version"`
	}
	k := call{method: http.MethodGet, route: "/ping", path: "/ping"}
	err = c.once(ctx, k, nil, nil, func(r *http.Response) error {
		b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return c.broken(k, err)
		}
		if err := decode(b, &v); err != nil || v.Version == "" {
			return c.fault(k, fmt.Errorf("this does not look like a Rucio server: %w", backends.ErrUnavailable))
		}
		return nil
	})
	return v.Version, err
}
