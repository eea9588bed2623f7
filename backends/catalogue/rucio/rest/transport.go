package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"tarn/backends"
)

const (
	firstWait   = 250 * time.Millisecond // as Rucio's own client (client/baseclient.py)
	longestWait = 10 * time.Second
	maxAttempts = 10 // of one call
	// maxTenths bounds how much load repeating adds to a server in trouble, in tenths of an attempt, over all calls: 10 further
	// attempts, and one more for every 10 calls that succeed (gRFC A6).
	maxTenths = 100
)

// send makes a request, again for as long as Patience where that is harmless.
func (c *Client) send(ctx context.Context, k call, body []byte, h http.Header, use func(*http.Response) error) error {
	for n, start := 0, time.Now(); ; n++ {
		wrote, err := c.once(ctx, k, body, h, use)
		if err == nil {
			c.earn()
			return nil
		}
		wait := firstWait << min(n, 10)
		wait = min(wait, longestWait)
		wait = wait/2 + rand.N(wait/2)             // so that clients do not come back in step
		wait = max(wait, backends.RetryAfter(err)) // no sooner than the server asked for
		if !c.mayRepeat(k, n, wrote, err) || time.Since(start)+wait > c.o.Patience || ctx.Err() != nil || !c.spend() {
			return err
		}
		c.o.Log.Debug("asking Rucio again", "method", k.method, "route", k.route, "attempt", n+2, "wait", wait, "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// mayRepeat tells whether a call that failed may be made again: the server may be well the next moment, and making it twice does no harm,
// since it reads, or is idempotent, or nothing of it was sent. n is how often it was made again already.
func (c *Client) mayRepeat(k call, n int, wrote bool, err error) bool {
	if n+1 >= maxAttempts || k.given != nil && *k.given {
		return false
	}
	twice := k.twice || k.method == http.MethodGet
	var e *Error
	if !errors.As(err, &e) { // there was no answer, or not the whole of one
		return backends.IsTemporary(err) && (twice || !wrote)
	}
	switch {
	case e.Class == "ResourceTemporaryUnavailable": // an RSE that is closed, perhaps for days
		return false
	case e.Status == http.StatusInternalServerError && e.Class == "": // a fault of the server's, as a rule the same the next time
		return twice && n == 0
	}
	return twice && backends.IsTemporary(err)
}

func (c *Client) spend() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tenths < 10 {
		return false
	}
	c.tenths -= 10
	return true
}

func (c *Client) earn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tenths = min(c.tenths+1, maxTenths)
}

// once makes one request in its turn, and tells whether any of it may have been sent. No Accept goes with it: one that does not fit
// is refused with 406.
func (c *Client) once(ctx context.Context, k call, body []byte, h http.Header, use func(*http.Response) error) (wrote bool, err error) {
	select {
	case c.turns <- struct{}{}:
		defer func() { <-c.turns }()
	case <-ctx.Done():
		return false, fmt.Errorf("%s %s: %w", k.method, k.route, ctx.Err())
	}
	caller := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(c.o.Silence, func() { cancel(errSilent) })
	defer quiet.Stop()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})

	req, err := c.request(ctx, k, body, h)
	if err != nil {
		return false, err
	}
	c.count(k.method + " " + k.route)
	resp, err := c.http.Do(req)
	if err != nil {
		return sent.Load(), c.broken(caller, k, orSilent(ctx, err))
	}
	defer resp.Body.Close()
	resp.Body = &heard{resp.Body, quiet, c.o.Silence}
	if resp.StatusCode >= 300 {
		return true, c.refusal(k, resp)
	}
	err = use(resp)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return true, c.broken(caller, k, errSilent)
	}
	return true, err
}

func (c *Client) request(ctx context.Context, k call, body []byte, h http.Header) (*http.Request, error) {
	conf := c.o.Config
	host := conf.Host
	if strings.HasPrefix(k.path, "/auth/") {
		host = conf.AuthHost
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
		return nil, c.fault(k, fmt.Errorf("its address is none: %w", backends.ErrName))
	}
	if conf.Account != "" {
		req.Header.Set("X-Rucio-Account", conf.Account)
	}
	if conf.VO != "" {
		req.Header.Set("X-Rucio-VO", conf.VO)
	}
	for n, v := range h {
		req.Header[n] = v
	}
	req.Header.Set("User-Agent", c.o.Agent)
	req.Header.Set("X-Rucio-Script", "tarn")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

var errSilent = errors.New("no answer in time")

func orSilent(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// heard bounds how long the server may say nothing while it is waited for, which is not while who reads the answer thinks about it.
type heard struct {
	io.ReadCloser
	quiet   *time.Timer
	silence time.Duration
}

func (h *heard) Read(p []byte) (int, error) {
	h.quiet.Reset(h.silence)
	defer h.quiet.Stop()
	return h.ReadCloser.Read(p)
}
