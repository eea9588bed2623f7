// Package rest speaks Rucio's REST interface as a filesystem needs it: bulk calls, streams that are
// decoded as they arrive, and errors by class rather than by status, which Rucio's are not reliable in.
// One file is one group of routes; lib/rucio/web/rest/flaskapi/v1 of Rucio 38 to 41 is the source.
//
// A Client bounds its connections and the requests under way, logs in when it must, and makes a call again for a few seconds (Options.Patience)
// where that can do no harm; who needs longer asks again, as the journal does. A function that gets rows of a stream
// must not make calls of the same Client: the stream has one of its turns.
package rest

import (
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
	// AtMost (8) is how many requests are under way at most.
	AtMost int
	// Silence (1 min) is how long the server may say nothing; an answer may take as long as it likes as long as it comes.
	Silence time.Duration
	// Patience (5 s) is how long after a call has begun it may be made again where that is harmless and the server may be well the next
	// moment (a connection that broke, 502, 503, 504); negative: not at all.
	Patience time.Duration
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

	life  context.Context // ends with Close
	end   context.CancelFunc
	under sync.WaitGroup // logins

	mu     sync.Mutex // guards the rest
	token  token
	login  *flight          // non-nil while somebody logs in
	counts map[string]int64 // calls by route
	tenths int              // of further attempts that may be made, over all calls
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
	if o.Patience == 0 {
		o.Patience = 5 * time.Second
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
	c := &Client{o: o, turns: make(chan struct{}, o.AtMost), counts: map[string]int64{}, tenths: maxTenths}
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
		CheckRedirect: sameServer,
	}
	c.life, c.end = context.WithCancel(context.Background())
	return c, nil
}

// sameServer follows a redirect at the same server only: the token is in a header of its own, which net/http would send anywhere. Nor does it
// let a POST become a GET, which 301 and 302 do and which would look like success.
func sameServer(r *http.Request, via []*http.Request) error {
	first := via[0]
	if r.URL.Host != first.URL.Host || r.URL.Scheme != first.URL.Scheme || r.Method != first.Method || len(via) > 5 {
		return http.ErrUseLastResponse
	}
	return nil
}

// Close gives the connections back, and ends a login that is under way.
func (c *Client) Close() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.under.Wait()
	c.http.CloseIdleConnections()
}

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
	twice  bool       // a POST, PUT or DELETE that may be made twice: it reads, or does nothing the second time
	given  *bool      // set when the caller has had some of the answer, so that it cannot be asked for again
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
		err = c.send(ctx, k, body, http.Header{authToken: {t.value}}, use)
		var e *Error
		if again && errors.As(err, &e) && e.Class == "CannotAuthenticate" {
			c.forget(t)
			continue
		}
		return err
	}
}

// Ping gives the server's version (GET /ping). It needs no login.
func (c *Client) Ping(ctx context.Context) (version string, err error) {
	var v struct {
		Version string `json:"version"`
	}
	k := call{method: http.MethodGet, route: "/ping", path: "/ping"}
	err = c.send(ctx, k, nil, nil, func(r *http.Response) error {
		b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return c.broken(ctx, k, err)
		}
		if err := decode(b, &v); err != nil || v.Version == "" {
			return c.fault(k, fmt.Errorf("this does not look like a Rucio server: %w", backends.ErrUnavailable))
		}
		return nil
	})
	return v.Version, err
}
