package rucio

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// what a between does with a request.
type what int

const (
	pass    what = iota
	refuse       // 503, the server hears nothing
	drop         // the connection ends, the server hears nothing
	dropEnd      // the server does it, and its answer is lost
	cut          // the first line of the answer comes, and the end, as if that were all
	mute         // nothing is ever said
)

// between stands between a catalogue and the real server, and spoils what it is told to.
type between struct {
	url  string
	mu   sync.Mutex
	seen []string // method and path of the requests but for those of logins
	plan func(n int, request string) what
	late func(request string) // runs between the server's answer and its way back; nil: nothing does
}

// newBetween passes everything, until plan is set.
func newBetween(t testing.TB, to string) *between {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	b := &between{}
	done := make(chan struct{})
	proxy := &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		do := pass
		if !strings.HasPrefix(r.URL.Path, "/auth/") {
			b.mu.Lock()
			n, req := len(b.seen), r.Method+" "+r.URL.Path
			b.seen = append(b.seen, req)
			if b.plan != nil {
				do = b.plan(n, req)
			}
			b.mu.Unlock()
		}
		switch do {
		case pass:
			b.mu.Lock()
			late := b.late
			b.mu.Unlock()
			if late == nil {
				proxy.ServeHTTP(w, r)
				return
			}
			got := httptest.NewRecorder()
			proxy.ServeHTTP(got, r)
			late(r.Method + " " + r.URL.Path)
			for k, v := range got.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(got.Code)
			w.Write(got.Body.Bytes())
		case refuse:
			w.WriteHeader(http.StatusServiceUnavailable)
		case drop:
			panic(http.ErrAbortHandler)
		case dropEnd:
			io.Copy(io.Discard, reply(proxy, r).Body)
			panic(http.ErrAbortHandler)
		case cut:
			got := reply(proxy, r)
			all, _ := io.ReadAll(got.Body)
			w.Header().Set("Content-Type", got.Header.Get("Content-Type"))
			line, _, _ := strings.Cut(string(all), "\n")
			io.WriteString(w, line+"\n")
		case mute:
			select {
			case <-r.Context().Done():
			case <-done:
			}
			panic(http.ErrAbortHandler)
		}
	}))
	b.url = srv.URL
	t.Cleanup(func() {
		close(done)
		srv.Close()
	})
	return b
}

// reply is the server's answer to a request.
func reply(p *httputil.ReverseProxy, r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w.Result()
}

// hold lets f run before an answer goes back.
func (b *between) hold(f func(request string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.late = f
}

// spoil sets what is done with the requests from now on, which are counted anew.
func (b *between) spoil(plan func(n int, request string) what) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen, b.plan = nil, plan
}

// requests are those since spoil.
func (b *between) requests() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.seen...)
}

// only spoils the n-th request.
func only(n int, how what) func(int, string) what {
	return func(i int, _ string) what {
		if i == n {
			return how
		}
		return pass
	}
}

// through opens a catalogue of the rig's account whose requests go through b.
func (r *rig) through(t testing.TB, b *between, o Options) *Catalogue {
	t.Helper()
	at := *r
	srv := *r.RucioServer
	srv.URL = b.url
	at.RucioServer = &srv
	return at.open(t, o)
}
