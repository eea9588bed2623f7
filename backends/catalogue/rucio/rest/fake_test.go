package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
)

// fake is a server that says what a test wants, where the real one cannot be made to: TestReal... below and in routes_test.go show what
// the real one says by itself.
type fake struct {
	*httptest.Server
	logins atomic.Int64
	valid  time.Duration // of the tokens
	paths  sync.Map      // escaped path of each request to its number
}

func newFake(t *testing.T, answer http.HandlerFunc, change ...func(*http.Server)) *fake {
	t.Helper()
	f := &fake{valid: time.Hour}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := f.paths.LoadOrStore(r.URL.EscapedPath(), new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		if r.URL.Path == "/auth/userpass" {
			if r.Header.Get("X-Rucio-Username") != "u" || r.Header.Get("X-Rucio-Password") != "p" {
				refuse(w, 401, "CannotAuthenticate", "no")
				return
			}
			w.Header().Set("X-Rucio-Auth-Token", fmt.Sprintf("token-%d", f.logins.Add(1)))
			w.Header().Set("X-Rucio-Auth-Token-Expires", time.Now().Add(f.valid).UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"))
			w.Header().Set("X-Rucio-Auth-Account", "acc")
			return
		}
		if strings.HasPrefix(r.URL.Path, "/auth/") {
			answer(w, r)
			return
		}
		if r.Header.Get("X-Rucio-Auth-Token") == "" && r.URL.Path != "/ping" {
			t.Errorf("%s without a token", r.URL)
		}
		if a := r.Header.Get("Accept"); a != "" {
			t.Errorf("%s with Accept %q", r.URL, a)
		}
		answer(w, r)
	}))
	for _, c := range change {
		c(f.Config)
	}
	f.Start()
	t.Cleanup(f.Close)
	return f
}

// before is asked first, and answers itself where it is false.
func before(first func(http.ResponseWriter, *http.Request) bool) func(*http.Server) {
	return func(s *http.Server) {
		then := s.Handler
		s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if first(w, r) {
				then.ServeHTTP(w, r)
			}
		})
	}
}

// client is one with a short patience.
func (f *fake) client(t *testing.T, change ...func(*Options)) *Client {
	t.Helper()
	o := Options{Config: Config{Host: f.URL, Account: "acc", AuthType: Userpass, Username: "u", Password: "p"}, Patience: 3 * time.Second}
	for _, c := range change {
		c(&o)
	}
	c, err := New(o)
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

func refuse(w http.ResponseWriter, status int, class, message string) {
	w.Header().Set("Content-Type", "application/octet-stream") // so it says, though it is JSON
	w.Header().Set("ExceptionClass", class)
	w.Header().Set("ExceptionMessage", message)
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"ExceptionClass": %q, "ExceptionMessage": %q}`, class, message)
}

var d = backends.DID{Scope: "s", Name: "/a/b c"}

// Errors are what their class says, whatever the status.
func TestErrors(t *testing.T) {
	const secret = "INSERT INTO dids VALUES (%(x)s)"
	for _, x := range []struct {
		status    int
		class     string
		want      error
		temporary bool
	}{
		{500, "AccessDenied", backends.ErrPermission, false},
		{401, "AccessDenied", backends.ErrPermission, false},
		{500, "InvalidObject", backends.ErrName, false},
		{400, "InvalidObject", backends.ErrName, false},
		{500, "ReplicaNotFound", backends.ErrNotExist, false},
		{500, "RSENotFound", backends.ErrNotExist, false},
		{500, "UnsupportedOperation", backends.ErrNotSupported, false},
		{500, "InvalidMetadata", backends.ErrNotSupported, false},
		{404, "DataIdentifierNotFound", backends.ErrNotExist, false},
		{404, "ScopeNotFound", backends.ErrNotExist, false},
		{409, "DataIdentifierAlreadyExists", backends.ErrExist, false},
		{409, "FileAlreadyExists", backends.ErrExist, false},
		{409, "DuplicateContent", backends.ErrExist, false},
		{409, "DuplicateRule", backends.ErrExist, false},
		{409, "InsufficientAccountLimit", backends.ErrQuota, false},
		{409, "InsufficientTargetRSEs", backends.ErrNotSupported, false},
		{400, "InvalidRSEExpression", backends.ErrNotSupported, false},
		{412, "FileConsistencyMismatch", backends.ErrExist, false},
		{423, "ReplicaIsLocked", backends.ErrBusy, false},
		{503, "ResourceTemporaryUnavailable", backends.ErrUnavailable, true},
		{503, "DatabaseException", backends.ErrUnavailable, true},
		{500, "SomethingNew", backends.ErrUnavailable, false},
		{500, "", backends.ErrUnavailable, false},
		{404, "", backends.ErrUnavailable, false}, // a route, not a file
		{405, "", backends.ErrUnavailable, false},
		{502, "", backends.ErrUnavailable, true},
		{504, "", backends.ErrUnavailable, true},
		{429, "", backends.ErrUnavailable, true},
		{403, "", backends.ErrPermission, false},
	} {
		f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
			if x.class == "" {
				w.WriteHeader(x.status)
				io.WriteString(w, "<html>"+secret+"</html>")
				return
			}
			refuse(w, x.status, x.class, "Details: (psycopg.errors.UniqueViolation) duplicate [SQL: "+secret+"]")
		})
		c := f.client(t, func(o *Options) { o.Patience = -1 })
		_, err := c.Rule(t.Context(), "1")
		var e *Error
		if !errors.Is(err, x.want) || backends.IsTemporary(err) != x.temporary || !errors.As(err, &e) || e.Status != x.status || e.Class != x.class || e.Route != "/rules/ID" || e.Method != "GET" {
			t.Errorf("%d %s: %v, want %v, temporary %v", x.status, x.class, err, x.want, x.temporary)
		}
		if x.want != backends.ErrNotExist && errors.Is(err, backends.ErrNotExist) {
			t.Errorf("%d %s looks like a file that is not there", x.status, x.class)
		}
		if strings.Contains(err.Error(), "INSERT") || strings.Contains(err.Error(), "psycopg") {
			t.Errorf("SQL is shown: %v", err)
		}
		if n := f.logins.Load(); n != 1 {
			t.Errorf("%d %s: %d logins", x.status, x.class, n)
		}
	}
}

// How often a call is made that fails at first.
func TestRepeats(t *testing.T) {
	read := func(c *Client, ctx context.Context) error { _, err := c.BulkMeta(ctx, []backends.DID{d}); return err }
	write := func(c *Client, ctx context.Context) error {
		return c.AddDIDs(ctx, []NewDID{{Scope: "s", Name: "n", Type: TypeDataset}})
	}
	stream := func(c *Client, ctx context.Context) error { return c.Content(ctx, d, func(Child) error { return nil }) }
	status := func(code int, class string, h ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i+1 < len(h); i += 2 {
				w.Header().Set(h[i], h[i+1])
			}
			if class != "" {
				refuse(w, code, class, "")
				return
			}
			w.WriteHeader(code)
		}
	}
	drop := func(w http.ResponseWriter, _ *http.Request) { conn, _, _ := w.(http.Hijacker).Hijack(); conn.Close() }
	half := func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"scope": "s", "name": "n", "type": "FILE"}`+"\n")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	nothing := func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush(); panic(http.ErrAbortHandler) }
	for _, x := range []struct {
		name   string
		fails  int // so often, then it is well
		fail   http.HandlerFunc
		do     func(*Client, context.Context) error
		ok     bool
		calls  int64
		atMost time.Duration
		least  time.Duration
	}{
		{"reading, 503 twice", 2, status(503, "DatabaseException"), read, true, 3, 2 * time.Second, 300 * time.Millisecond},
		{"reading, 502", 1, status(502, ""), stream, true, 2, time.Second, 100 * time.Millisecond},
		{"reading, a connection that breaks", 2, drop, read, true, 3, 2 * time.Second, 0},
		{"reading, 500 without a class once", 1, status(500, ""), read, true, 2, time.Second, 100 * time.Millisecond},
		{"reading, 500 without a class for ever", 9, status(500, ""), read, false, 2, time.Second, 100 * time.Millisecond},
		{"reading, 500 with a class", 1, status(500, "InvalidMetadata"), read, false, 1, time.Second, 0},
		{"an RSE that is closed", 1, status(503, "ResourceTemporaryUnavailable"), read, false, 1, time.Second, 0},
		{"writing, 503", 1, status(503, "DatabaseException"), write, false, 1, time.Second, 0},
		{"writing, a connection that breaks", 1, drop, write, false, 1, time.Second, 0},
		{"told when to come again", 1, status(503, "", "Retry-After", "1"), read, true, 2, 2 * time.Second, time.Second},
		{"told to come much later", 1, status(503, "", "Retry-After", "3600"), read, false, 1, time.Second, 0},
		{"down for long", 99, status(503, ""), read, false, -1, 4 * time.Second, 800 * time.Millisecond},
		{"a stream that breaks before its first row", 1, nothing, stream, true, 2, time.Second, 0},
		{"a stream that breaks after its first row", 1, half, stream, false, 1, time.Second, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
				if n := calls.Add(1); int(n) <= x.fails {
					x.fail(w, r)
				}
			})
			c := f.client(t)
			start := time.Now()
			err := x.do(c, t.Context())
			took := time.Since(start)
			if (err == nil) != x.ok {
				t.Errorf("error %v", err)
			}
			if n := calls.Load(); x.calls >= 0 && n != x.calls || n > 10 {
				t.Errorf("%d calls, want %d", n, x.calls)
			}
			if took > x.atMost || took < x.least {
				t.Errorf("it took %v, want %v to %v", took, x.least, x.atMost)
			}
			if err != nil && strings.Contains(x.name, "stream") && (!errors.Is(err, backends.ErrUnavailable) || !backends.IsTemporary(err)) {
				t.Errorf("a truncated stream: %v", err)
			}
			if x.name == "told to come much later" && backends.RetryAfter(err) != maxAfter {
				t.Errorf("to be tried again after %v", backends.RetryAfter(err))
			}
		})
	}
}

// With a server that is down, many calls together repeat little.
func TestRepeatsAreBounded(t *testing.T) {
	var calls atomic.Int64
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) { calls.Add(1); w.WriteHeader(503) })
	c := f.client(t, func(o *Options) { o.Patience = time.Second })
	var g sync.WaitGroup
	for range 50 {
		g.Go(func() { c.Scopes(t.Context()) })
	}
	g.Wait()
	if n := calls.Load(); n > 50+maxTenths/10 {
		t.Errorf("%d requests of 50 calls", n)
	}
}

// Nothing is sent when nobody listens, so that even a call that is no good twice is made again.
func TestNothingWasSent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l.Close()
	c, err := New(Options{Config: Config{Host: "http://" + l.Addr().String(), AuthType: OIDC}, Token: func() (string, error) { return "t", nil }, Patience: 10 * time.Second})
	must(t, err)
	defer c.Close()
	go func() {
		time.Sleep(700 * time.Millisecond)
		l, err := net.Listen("tcp", l.Addr().String())
		if err != nil {
			return
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(201) })}
		t.Cleanup(func() { srv.Close() })
		srv.Serve(l)
	}()
	must(t, c.AddDIDs(t.Context(), []NewDID{{Scope: "s", Name: "n", Type: TypeDataset}}))
	if n := c.Calls()["POST /dids"]; n < 2 {
		t.Errorf("%d calls", n)
	}
}

// gunicorn closes connections that were idle for 2 s: a POST that is no good twice does not meet that, and another that does, where a server
// is even less patient, is made again.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	nothing := func(w http.ResponseWriter, r *http.Request) {}
	f := newFake(t, nothing, func(s *http.Server) { s.IdleTimeout = 2 * time.Second })
	var g sync.WaitGroup
	for i := range 20 {
		c := f.client(t)
		g.Go(func() {
			for range 2 {
				if err := c.AddDIDs(t.Context(), []NewDID{{Scope: "s", Name: "n", Type: TypeDataset}}); err != nil {
					t.Error(err)
				}
				time.Sleep(2*time.Second + time.Duration(i-10)*time.Millisecond/2)
			}
		})
	}
	g.Wait()

	f = newFake(t, nothing, func(s *http.Server) { s.IdleTimeout = 20 * time.Millisecond })
	c := f.client(t)
	for range 30 {
		_, err := c.BulkMeta(t.Context(), []backends.DID{d})
		must(t, err)
		time.Sleep(19 * time.Millisecond)
	}
}

func TestTokens(t *testing.T) {
	t.Run("a token that has ended is renewed once", func(t *testing.T) {
		var bad atomic.Value
		bad.Store("token-1")
		f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Rucio-Auth-Token") == bad.Load() {
				refuse(w, 401, "CannotAuthenticate", "Cannot authenticate with given credentials")
			}
		})
		c := f.client(t)
		_, err := c.Scopes(t.Context())
		must(t, err)
		if n := f.logins.Load(); n != 2 {
			t.Errorf("%d logins", n)
		}
		bad.Store("token-2")
		_, err = c.Scopes(t.Context())
		must(t, err)
	})
	t.Run("a server that takes no token is asked twice", func(t *testing.T) {
		f := newFake(t, func(w http.ResponseWriter, r *http.Request) { refuse(w, 401, "CannotAuthenticate", "no") })
		c := f.client(t)
		if _, err := c.Scopes(t.Context()); !errors.Is(err, backends.ErrPermission) {
			t.Error(err)
		}
		if n := c.Calls()["GET /scopes/"]; n != 2 || f.logins.Load() != 2 {
			t.Errorf("%d calls, %d logins", n, f.logins.Load())
		}
	})
	t.Run("before its end", func(t *testing.T) {
		f := newFake(t, func(w http.ResponseWriter, r *http.Request) {})
		var ahead atomic.Int64
		c := f.client(t, func(o *Options) { o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } })
		for _, at := range []time.Duration{0, 58 * time.Minute, 59*time.Minute + 30*time.Second} {
			ahead.Store(int64(at))
			_, err := c.Scopes(t.Context())
			must(t, err)
		}
		if n := f.logins.Load(); n != 2 {
			t.Errorf("%d logins", n)
		}
	})
	t.Run("one login for all", func(t *testing.T) {
		f := newFake(t, func(w http.ResponseWriter, r *http.Request) {}, before(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/auth/userpass" {
				time.Sleep(100 * time.Millisecond)
			}
			return true
		}))
		c := f.client(t)
		first, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond) // who began it does not wait for its end
		defer cancel()
		var g sync.WaitGroup
		g.Go(func() {
			if _, err := c.Scopes(first); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("who gave up: %v", err)
			}
		})
		time.Sleep(5 * time.Millisecond)
		for range 30 {
			g.Go(func() {
				if _, err := c.Scopes(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		g.Wait()
		if n := f.logins.Load(); n != 1 {
			t.Errorf("%d logins", n)
		}
	})
	t.Run("a login that fails fails for all", func(t *testing.T) {
		var logins atomic.Int64
		f := newFake(t, nil, before(func(w http.ResponseWriter, r *http.Request) bool {
			logins.Add(1)
			time.Sleep(100 * time.Millisecond)
			refuse(w, 401, "CannotAuthenticate", "no")
			return false
		}))
		c := f.client(t)
		var g sync.WaitGroup
		for range 30 {
			g.Go(func() {
				_, err := c.Scopes(t.Context())
				if !errors.Is(err, backends.ErrPermission) || strings.Contains(err.Error(), `"p"`) {
					t.Error(err)
				}
			})
		}
		g.Wait()
		if n := logins.Load(); n > 3 {
			t.Errorf("%d logins", n)
		}
	})
	t.Run("several accounts", func(t *testing.T) {
		f := newFake(t, nil, before(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("X-Rucio-Auth-Accounts", "alice,bob")
			w.WriteHeader(206)
			return false
		}))
		if err := f.client(t).Login(t.Context()); !errors.Is(err, backends.ErrPermission) || !strings.Contains(err.Error(), "alice,bob") {
			t.Error(err)
		}
	})
	t.Run("VO", func(t *testing.T) {
		var vo atomic.Value
		f := newFake(t, nil, before(func(w http.ResponseWriter, r *http.Request) bool {
			vo.Store(r.Header.Get("X-Rucio-VO") + "/" + r.Header.Get("X-Rucio-Account"))
			return true
		}))
		must(t, f.client(t, func(o *Options) { o.Config.VO = "cta" }).Login(t.Context()))
		if vo.Load() != "cta/acc" {
			t.Errorf("headers %v", vo.Load())
		}
	})
	t.Run("no server", func(t *testing.T) {
		f := newFake(t, nil)
		f.Server.Close()
		err := f.client(t, func(o *Options) { o.Patience = -1 }).Login(t.Context())
		if !errors.Is(err, backends.ErrUnavailable) || !backends.IsTemporary(err) {
			t.Error(err)
		}
	})
}

func TestSilence(t *testing.T) {
	wait := make(chan struct{})
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "/slow"): // a line at a time, together longer than the silence
			for range 8 {
				io.WriteString(w, "{}\n")
				w.(http.Flusher).Flush()
				time.Sleep(50 * time.Millisecond)
			}
		case strings.Contains(r.URL.Path, "/stuck"):
			io.WriteString(w, "{}\n")
			w.(http.Flusher).Flush()
			<-wait
		case strings.Contains(r.URL.Path, "/mute"):
			<-wait
		default:
			io.WriteString(w, strings.Repeat("{}\n", 10_000))
		}
	})
	defer close(wait)
	c := f.client(t, func(o *Options) { o.Silence = 200 * time.Millisecond; o.Patience = -1 })
	count := func(name string, f func(Child) error) error {
		return c.Content(t.Context(), backends.DID{Scope: "s", Name: name}, f)
	}
	must(t, count("slow", func(Child) error { return nil }))
	for _, name := range []string{"stuck", "mute"} {
		start := time.Now()
		err := count(name, func(Child) error { return nil })
		if !errors.Is(err, backends.ErrUnavailable) || !backends.IsTemporary(err) || errors.Is(err, context.Canceled) || time.Since(start) > time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(start))
		}
	}
	n := 0
	must(t, count("much", func(Child) error { // who reads it thinks for longer than that
		if n++; n == 1 {
			time.Sleep(400 * time.Millisecond)
		}
		return nil
	}))
	if n != 10_000 {
		t.Errorf("%d rows", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Content(ctx, backends.DID{Scope: "s", Name: "mute"}, nil); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("the caller's deadline: %v", err)
	}
}

// A time-out of the network's own calls itself context.DeadlineExceeded, too, and is none of the caller's.
func TestNetworkTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	c := newFake(t, nil).client(t)
	_, err = (&net.Dialer{Timeout: 1}).Dial("tcp", l.Addr().String())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("it is %v", err)
	}
	err = c.broken(t.Context(), call{}, err)
	if errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, backends.ErrUnavailable) || !backends.IsTemporary(err) {
		t.Error(err)
	}
}

func TestStreams(t *testing.T) {
	gone := make(chan struct{}, 1)
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-json-stream")
		switch name := r.URL.Path; {
		case strings.Contains(name, "/odd"):
			io.WriteString(w, `{"scope": "s", "name": "Infinity \" NaN", "type": "FILE", "bytes": 317.0, "new": {"x": [Infinity, -Infinity, NaN]}}`+"\n\n"+
				`{"scope": "s", "name": "n", "type": "DATASET", "bytes": null, "adler32": null}`+"\n"+`{"bytes": Infinity}`)
		case strings.Contains(name, "/endless"):
			for {
				if _, err := io.WriteString(w, "{}\n"); err != nil {
					break
				}
			}
			gone <- struct{}{}
		case strings.Contains(name, "/long"):
			io.WriteString(w, `{"name": "`+strings.Repeat("x", maxLine+1)+`"}`+"\n")
		case strings.Contains(name, "/cut"):
			io.WriteString(w, "{}\n{\"name\": \"x")
		case strings.Contains(name, "/html"):
			io.WriteString(w, "<html>\n")
		case strings.Contains(name, "/two"):
			io.WriteString(w, "{}{}\n")
		case strings.Contains(name, "/three"):
			io.WriteString(w, "{}\n{}\n{}\n")
		}
	})
	c := f.client(t, func(o *Options) { o.Patience = -1 })
	of := func(name string) func(func(Child) error) error {
		return func(f func(Child) error) error {
			return c.Content(t.Context(), backends.DID{Scope: "s", Name: name}, f)
		}
	}
	all := func(stream func(func(Child) error) error) (out []Child, err error) {
		err = stream(func(row Child) error { out = append(out, row); return nil })
		return out, err
	}
	rows, err := all(of("odd"))
	if err != nil || len(rows) != 3 || rows[0].Bytes != 317 || rows[0].Name != `Infinity " NaN` || rows[1].Bytes != Unknown || rows[2].Bytes != Unknown {
		t.Errorf("%+v, %v", rows, err)
	}
	if rows, err := all(of("empty")); err != nil || len(rows) != 0 {
		t.Errorf("%v, %v", rows, err)
	}
	must(t, of("endless")(func(Child) error { return ErrStop }))
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("who breaks off does not end the connection")
	}
	for name, temporary := range map[string]bool{"long": false, "cut": true, "html": false, "two": false} {
		if _, err := all(of(name)); !errors.Is(err, backends.ErrUnavailable) || backends.IsTemporary(err) != temporary {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, good := range map[int64]bool{-1: true, 0: true, 3: true, 4: false} {
		rows, err := all(Whole(want, of("three")))
		if (err == nil) != good || len(rows) != 3 || err != nil && (!errors.Is(err, backends.ErrUnavailable) || !backends.IsTemporary(err)) {
			t.Errorf("%d rows of %d: %v", len(rows), want, err)
		}
	}
	if err := Whole(4, of("three"))(func(Child) error { return ErrStop }); err != nil { // breaking off is no truncation
		t.Error(err)
	}
}

func TestPaths(t *testing.T) {
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {})
	c := f.client(t)
	for name, want := range map[string]string{
		"a/b":         "a%2Fb",
		"/ctao/x/y":   "%2Fctao%2Fx%2Fy",
		"a b+c":       "a%20b+c",
		"100%/é?x#y;": "100%25%2F%C3%A9%3Fx%23y%3B",
		"a//b":        "a%2F%2Fb",
	} {
		must(t, c.Content(t.Context(), backends.DID{Scope: "s", Name: name}, func(Child) error { return nil }))
		if _, ok := f.paths.Load("/dids/s/" + want + "/dids"); !ok {
			t.Errorf("%q is not asked for as %q", name, want)
		}
	}
}

// A redirect is followed at the same server with the same method only.
func TestRedirects(t *testing.T) {
	var stolen atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { stolen.Store(true) }))
	defer other.Close()
	var got atomic.Value
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		switch {
		case strings.HasSuffix(r.URL.Path, "/there"):
			got.Store(r.Method + string(b))
			io.WriteString(w, `["id"]`)
		case r.URL.Path == "/accounts/whoami":
			w.Header().Set("Location", "/accounts/me")
			w.WriteHeader(303)
		case r.URL.Path == "/accounts/me":
			io.WriteString(w, `{"account": "me"}`)
		case r.URL.Path == "/rules/":
			http.Redirect(w, r, "http://"+r.Host+"/rules/there", http.StatusPermanentRedirect)
		case r.URL.Path == "/dids":
			http.Redirect(w, r, "/dids/there", http.StatusMovedPermanently)
		case r.URL.Path == "/scopes/":
			http.Redirect(w, r, other.URL+"/scopes/", http.StatusPermanentRedirect)
		}
	})
	c := f.client(t)
	if a, err := c.WhoAmI(t.Context()); err != nil || a != "me" {
		t.Errorf("whoami: %q, %v", a, err)
	}
	if id, err := c.AddRule(t.Context(), NewRule{Account: "x"}); err != nil || id != "id" || !strings.HasPrefix(fmt.Sprint(got.Load()), `POST{"dids"`) {
		t.Errorf("308: %q, %v, %v", id, err, got.Load())
	}
	if err := c.AddDIDs(t.Context(), nil); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("a POST that is to become a GET: %v", err)
	}
	if _, err := c.Scopes(t.Context()); !errors.Is(err, backends.ErrUnavailable) || stolen.Load() || !strings.Contains(err.Error(), other.URL) {
		t.Errorf("another server: %v, asked %v", err, stolen.Load())
	}
}

// At most so many requests are under way, and connections open.
func TestAtMost(t *testing.T) {
	var now, most atomic.Int64
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(5 * time.Millisecond)
		now.Add(-1)
	})
	c := f.client(t, func(o *Options) { o.AtMost = 3 })
	var g sync.WaitGroup
	for range 40 {
		g.Go(func() {
			if _, err := c.Scopes(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	if m := most.Load(); m != 3 {
		t.Errorf("%d at a time", m)
	}
	if n := c.Calls()["GET /scopes/"]; n != 40 {
		t.Errorf("%d calls counted", n)
	}
}

func TestPages(t *testing.T) {
	var sizes sync.Map
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		n := strings.Count(string(b), `"name":"n`)
		sizes.Store(r.URL.Path+fmt.Sprint(n), true)
		if n > Page {
			refuse(w, 500, "InvalidObject", "too many")
		}
	})
	c, ctx := f.client(t), t.Context()
	dids, replicas := []backends.DID{}, []NewReplica{}
	for i := range 2300 {
		dids = append(dids, backends.DID{Scope: "s", Name: fmt.Sprintf("n%d", i)})
		replicas = append(replicas, NewReplica{Scope: "s", Name: fmt.Sprintf("n%d", i)})
	}
	_, err := c.BulkMeta(ctx, dids)
	must(t, err)
	_, err = c.ListReplicas(ctx, dids)
	must(t, err)
	must(t, c.AddReplicas(ctx, "R", replicas))
	must(t, c.Detach(ctx, d, dids))
	must(t, c.Attach(ctx, []Attachment{{"s", "p", dids[:700]}, {"s", "q", dids[700:2300]}, {"s", "r", nil}}))
	for route, want := range map[string]int64{"POST /dids/bulkmeta": 3, "POST /replicas/list": 3, "POST /replicas": 3, "DELETE /dids/SCOPE/NAME/dids": 3, "POST /dids/attachments": 3} {
		if n := c.Calls()[route]; n != want {
			t.Errorf("%s: %d calls, want %d", route, n, want)
		}
	}
	if _, err := c.BulkMeta(ctx, nil); err != nil || c.Calls()["POST /dids/bulkmeta"] != 3 {
		t.Errorf("nothing is asked for nothing: %v", err)
	}
}

// An answer that broke off makes no DID one that does not exist: what it lacks is asked for again, until an answer has none of it.
func TestBulkMetaThatBreaksOff(t *testing.T) {
	most := 2 // rows of an answer
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		var body struct{ DIDs []backends.DID }
		must(t, json.NewDecoder(r.Body).Decode(&body))
		n := 0
		for _, d := range body.DIDs {
			if n < most && !strings.HasPrefix(d.Name, "none") {
				n++
				fmt.Fprintf(w, `{"scope": "s", "name": %q, "did_type": "FILE"}`+"\n", d.Name)
			}
		}
	})
	c, ctx := f.client(t), t.Context()
	var dids []backends.DID
	for _, name := range []string{"none1", "a", "b", "c", "none2", "d", "e"} {
		dids = append(dids, backends.DID{Scope: "s", Name: name})
	}
	rows, err := c.BulkMeta(ctx, dids)
	if err != nil || len(rows) != 5 || c.Calls()["POST /dids/bulkmeta"] != 4 { // 2, 2, 1 and none
		t.Errorf("%d of 5 rows in %d calls: %v", len(rows), c.Calls()["POST /dids/bulkmeta"], err)
	}
	metas, err := c.BulkUserMeta(ctx, dids)
	if err != nil || len(metas) != 5 {
		t.Errorf("%d of 5: %v", len(metas), err)
	}
	most = 1
	if _, err := c.BulkMeta(ctx, dids); !errors.Is(err, backends.ErrUnavailable) || !backends.IsTemporary(err) {
		t.Errorf("answers that break off again and again: %v", err)
	}
}

func TestOIDC(t *testing.T) {
	var want atomic.Value
	want.Store("one")
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Rucio-Auth-Token") != want.Load() {
			refuse(w, 401, "CannotAuthenticate", "no")
		}
	})
	has := "one"
	c := f.client(t, func(o *Options) {
		o.Config.AuthType = OIDC
		o.Token = func() (string, error) { return has, nil }
	})
	_, err := c.Scopes(t.Context())
	must(t, err)
	want.Store("two")
	if _, err := c.Scopes(t.Context()); !errors.Is(err, backends.ErrPermission) {
		t.Errorf("a token that is refused: %v", err)
	}
	has = "two" // somebody has renewed it
	_, err = c.Scopes(t.Context())
	must(t, err)
	has = ""
	if _, err := c.Scopes(t.Context()); !errors.Is(err, backends.ErrPermission) || f.logins.Load() != 0 {
		t.Errorf("no token: %v", err)
	}
}

func TestErrorsNameNoSecrets(t *testing.T) {
	for _, host := range []string{"http://user:geheim@127.0.0.1:1", "http://geheim@[::1", "geheim"} {
		c := Config{Host: host, AuthType: Userpass, Username: "u", Password: "geheim"}
		_, err := New(Options{Config: c})
		if err == nil || host != "geheim" && strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", host, err)
		}
		c.Host = ""
		if s := fmt.Sprintf("%v %+v %#v %s", c, c, c, c); strings.Contains(s, "geheim") {
			t.Error(s)
		}
	}
	c, err := New(Options{Config: Config{Host: "http://127.0.0.1:1", AuthType: Userpass, Username: "u", Password: "geheim\n"}, Patience: -1})
	must(t, err)
	defer c.Close()
	if err := c.Login(t.Context()); err == nil || strings.Contains(err.Error(), "geheim") {
		t.Error(err)
	}
	c.Close()
	if _, err := c.Scopes(t.Context()); !errors.Is(err, backends.ErrClosed) {
		t.Error("a closed client logs in")
	}
}
