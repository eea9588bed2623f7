// Package wire is what storages over HTTP have in common: connections made with the user's credentials, paths that they carry,
// requests that end when nothing moves, and words for what went wrong on the way.
//
//	tr := wire.Transport(wire.Options{Credentials: src, Connect: 10 * time.Second, Connections: 64})
//	f := wire.Begin(ctx, life, wire.Deadlines{Connect: 10 * time.Second, Stall: time.Minute})
//	defer f.End(nil)
//	resp, err := tr.RoundTrip(req.WithContext(f.Ctx))
//	if err != nil {
//		return f.Broken(err, src)
//	}
package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"tarn/backends"
	"tarn/backends/credential"
)

// Deadlines bound the waiting of one request.
type Deadlines struct {
	Connect time.Duration // DNS, TCP and TLS together
	Stall   time.Duration // for the next byte in either direction
}

// Flight is a request on its way: it ends with its caller, with its storage, or when it stalls.
type Flight struct {
	Caller context.Context
	Ctx    context.Context // of the request

	d      Deadlines
	cancel context.CancelCauseFunc
	unbind func() bool
	timer  *time.Timer
}

var errStalled = errors.New("stalled")

// Begin starts the clock of a request of caller. The end of life ends it with backends.ErrClosed. End must be called.
func Begin(caller, life context.Context, d Deadlines) *Flight {
	f := &Flight{Caller: caller, d: d}
	f.Ctx, f.cancel = context.WithCancelCause(caller)
	f.unbind = context.AfterFunc(life, func() { f.cancel(backends.ErrClosed) })
	f.timer = time.AfterFunc(d.Stall+d.Connect, func() { f.cancel(errStalled) })
	return f
}

// Progress says that something moved.
func (f *Flight) Progress() { f.timer.Reset(f.d.Stall) }

// Hold says that it is not the server who is waited for.
func (f *Flight) Hold() { f.timer.Stop() }

// End gives everything back. What little is left of the body is read, for the connection's sake.
func (f *Flight) End(resp *http.Response) {
	if resp != nil {
		io.CopyN(io.Discard, resp.Body, 64<<10)
		resp.Body.Close()
	}
	f.timer.Stop()
	f.unbind()
	f.cancel(nil)
}

// Options say how connections are made.
type Options struct {
	Credentials *credential.Source
	Connect     time.Duration // bounds DNS, TCP and TLS together
	Connections int           // to one host
	// Dial (nil: that of package net) makes TCP connections.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Transport makes HTTP/1.1 connections, with TLS by the credentials.
func Transport(o Options) *http.Transport {
	if o.Dial == nil {
		o.Dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	return &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeoutCause(ctx, o.Connect, errConnect)
			defer cancel()
			c, err := o.Dial(ctx, "tcp", addr)
			return c, because(ctx, err)
		},
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeoutCause(ctx, o.Connect, errConnect)
			defer cancel()
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			c, err := o.Credentials.Handshake(ctx, host, func(ctx context.Context) (net.Conn, error) { return o.Dial(ctx, "tcp", addr) })
			if err != nil {
				return nil, because(ctx, err) // no nil *tls.Conn as a net.Conn
			}
			return c, nil
		},
		MaxConnsPerHost: o.Connections, MaxIdleConnsPerHost: o.Connections, IdleConnTimeout: 30 * time.Second,
		ExpectContinueTimeout: 3 * time.Second, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize: 128 << 10, ReadBufferSize: 64 << 10,
	}
}

var errConnect = errors.New("no connection in time")

// because says of an error that is the end of ctx why that ended.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause == errConnect {
		return errConnect
	}
	return err
}
