package webdav

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/credential"
	"tarn/backends/servertest"
)

// liar is a server of the test's own that says what it is told to.
func liar(t *testing.T, h http.HandlerFunc) *Storage {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return open(t, Options{URL: srv.URL + "/p", Stall: 2 * time.Second})
}

// file answers PROPFIND with one file of size bytes.
func file(w http.ResponseWriter, r *http.Request, size string) {
	w.WriteHeader(http.StatusMultiStatus)
	fmt.Fprintf(w, `<D:multistatus xmlns:D="DAV:"><D:response><D:href>%s</D:href><D:propstat><D:prop><D:getcontentlength>%s</D:getcontentlength></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>`, r.URL.EscapedPath(), size)
}

func TestSizesThatLie(t *testing.T) {
	for _, size := range []string{"-1", "x", "", "99999999999999999999", "1e3"} {
		s := liar(t, func(w http.ResponseWriter, r *http.Request) { file(w, r, size) })
		if _, err := s.Stat(t.Context(), "f"); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("size %q: %v", size, err)
		}
	}
}

func TestRangesThatLie(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   error
	}{
		"shifted": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 11-20/1000")
			w.WriteHeader(206)
			w.Write(make([]byte, 10))
		}, backends.ErrUnavailable},
		"without a range": {func(w http.ResponseWriter) { w.WriteHeader(206); w.Write(make([]byte, 10)) }, backends.ErrUnavailable},
		"of nonsense": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes -5-10/1000")
			w.WriteHeader(206)
		}, backends.ErrUnavailable},
		"too short": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 10-19/1000")
			w.WriteHeader(206)
			w.Write(make([]byte, 9))
			w.(http.Flusher).Flush()
		}, backends.ErrUnavailable},
		"of another file": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 10-19/999")
			w.WriteHeader(206)
			w.Write(make([]byte, 10))
		}, backends.ErrStale},
		"ignored":      {func(w http.ResponseWriter) { w.Write(make([]byte, 1000)) }, backends.ErrNotSupported},
		"past the end": {func(w http.ResponseWriter) { w.WriteHeader(416) }, backends.ErrStale},
		"endless": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 10-19/1000")
			w.WriteHeader(206)
			w.(http.Flusher).Flush()
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, backends.ErrUnavailable},
		"compressed": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Range", "bytes 10-19/1000")
			w.WriteHeader(206)
			w.Write(make([]byte, 10))
		}, backends.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := liar(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == "PROPFIND" {
					file(w, r, "1000")
					return
				}
				if got := r.Header.Get("Range"); got != "bytes=10-19" {
					t.Errorf("asked for %q", got)
				}
				c.answer(w)
			})
			o, err := s.Open(t.Context(), "f")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := o.ReadAt(t.Context(), make([]byte, 10), 10); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestListingsThatLie(t *testing.T) {
	entry := func(href string) string {
		return "<D:response><D:href>" + href + "</D:href><D:propstat><D:prop><D:getcontentlength>1</D:getcontentlength></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
	}
	folder := `<D:response><D:href>/p/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>`
	for name, text := range map[string]string{
		"a step up":          folder + entry("/p/../etc/passwd"),
		"two levels":         folder + entry("/p/a/b"),
		"elsewhere":          folder + entry("/q/a"),
		"a slash in a name":  folder + entry("/p/a%2Fb"),
		"dots":               folder + entry("/p/%2E%2E"),
		"a name of a NUL":    folder + entry("/p/a%00"),
		"nothing":            "",
		"an unknown entity":  folder + entry("/p/&lol;"),
		"a text without end": folder + "<D:response><D:href>" + strings.Repeat("x", 3<<20),
	} {
		s := liar(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(207)
			io.WriteString(w, `<D:multistatus xmlns:D="DAV:">`+text+`</D:multistatus>`)
		})
		n := 0
		var last error
		for _, err := range s.List(t.Context(), "") {
			n, last = n+1, err
		}
		if n != 1 || !errors.Is(last, backends.ErrUnavailable) {
			t.Errorf("%s: %d results, %v", name, n, last)
		}
	}
	// Cut short, a listing must not pass for a whole one.
	s := liar(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(207)
		io.WriteString(w, `<D:multistatus xmlns:D="DAV:">`+folder+entry("/p/a"))
	})
	for _, err := range s.List(t.Context(), "") {
		if !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("a listing without its end: %v", err)
		}
	}
}

// A listing that never ends costs bounded memory, whatever it is made of.
func TestListingWithoutEnd(t *testing.T) {
	for name, junk := range map[string]string{"elements": "<a>", "closed elements": "<a/>", "comment": "<!-- x", "attributes": ` x="y"`} {
		s := liar(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(207)
			io.WriteString(w, `<D:multistatus xmlns:D="DAV:"`)
			if name != "attributes" {
				io.WriteString(w, ">")
			}
			junk := []byte(strings.Repeat(junk, 10000))
			for {
				if _, err := w.Write(junk); err != nil {
					return
				}
			}
		})
		_, err := s.Stat(t.Context(), "f")
		if !errors.Is(err, backends.ErrUnavailable) || backends.IsTemporary(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestListOfHundredThousand(t *testing.T) {
	const n = many
	s := liar(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(207)
		io.WriteString(w, `<?xml version="1.0"?><D:multistatus xmlns:D="DAV:"><D:response><D:href>/p/d/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>`)
		for i := range n {
			fmt.Fprintf(w, `<D:response><D:href>/p/d/file-%06d</D:href><D:propstat><D:prop><D:getcontentlength>%d</D:getcontentlength><D:getlastmodified>Thu, 26 Nov 2026 16:21:20 GMT</D:getlastmodified><D:resourcetype/></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>`, n-1-i, i)
		}
		io.WriteString(w, `</D:multistatus>`)
	})
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start, k := time.Now(), 0
	for a, err := range s.List(t.Context(), "d") {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("d/file-%06d", k); a.Path != want || a.Size != int64(n-1-k) {
			t.Fatalf("entry %d is %+v", k, a)
		}
		if k++; k == n {
			runtime.GC()
			runtime.ReadMemStats(&after)
		}
	}
	if k != n {
		t.Errorf("%d entries", k)
	}
	held := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	if held > 40<<20 {
		t.Errorf("%d bytes are held for %d entries", held, n)
	}
	t.Logf("%d entries in %v, %d KiB held", n, time.Since(start), held>>10)
}

func TestRetryAfter(t *testing.T) {
	s := liar(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(503)
	})
	_, err := s.Stat(t.Context(), "f")
	if backends.RetryAfter(err) != 3*time.Second || !backends.IsTemporary(err) {
		t.Errorf("503: %v", err)
	}
}

func TestStatuses(t *testing.T) {
	for status, want := range map[int]error{
		401: backends.ErrPermission, 403: backends.ErrPermission, 404: backends.ErrNotExist, 410: backends.ErrNotExist,
		400: backends.ErrUnavailable, 408: backends.ErrTemporary, 423: backends.ErrBusy, 429: backends.ErrTemporary,
		500: backends.ErrTemporary, 599: backends.ErrTemporary, 502: backends.ErrTemporary, 503: backends.ErrTemporary, 504: backends.ErrTemporary,
		507: backends.ErrNoSpace, 200: backends.ErrNotSupported,
	} {
		s := liar(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) })
		if _, err := s.Stat(t.Context(), "f"); !errors.Is(err, want) || backends.IsAnswered(err) != (status == 500 || status == 599) {
			t.Errorf("status %d: %v (with this file alone: %v), want %v", status, err, backends.IsAnswered(err), want)
		}
	}
	full := liar(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			w.WriteHeader(507)
		}
	})
	u, err := full.Create(t.Context(), "f", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	_, err = u.Write(make([]byte, 1<<20))
	if err == nil {
		_, err = u.Commit(t.Context(), backends.Checksums{Adler32: "00000001"})
	}
	if !errors.Is(err, backends.ErrNoSpace) && !errors.Is(err, backends.ErrCorrupt) {
		t.Errorf("put on a full server: %v", err)
	}
}

func TestRedirects(t *testing.T) {
	pki := servertest.NewPKI(t)
	const secret = "s3cr3t-token-that-nobody-else-may-see"
	var seen atomic.Value // Authorization that the data server got
	data := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("Authorization") + r.Header.Get("Cookie"))
		switch r.Method {
		case "PUT":
			if b, _ := io.ReadAll(r.Body); len(b) != 5 {
				w.WriteHeader(400)
			}
		case "PROPFIND":
			file(w, r, "5")
		case "GET":
			w.Header().Set("Content-Range", "bytes 0-4/5")
			w.WriteHeader(206)
			io.WriteString(w, "bytes")
		}
	})
	start := func(h http.Handler) *httptest.Server {
		srv := httptest.NewUnstartedServer(h)
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{pki.Host.Cert.Raw}, PrivateKey: pki.Host.Key}}}
		srv.StartTLS()
		t.Cleanup(srv.Close)
		return srv
	}
	other := start(data)
	plain := httptest.NewServer(data)
	t.Cleanup(plain.Close)
	var to atomic.Value
	var first atomic.Value
	head := start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first.Store(r.Header.Get("Authorization"))
		http.Redirect(w, r, strings.ReplaceAll(to.Load().(string), "PATH", r.URL.Path), http.StatusTemporaryRedirect)
	}))
	s := open(t, Options{URL: head.URL + "/p", Stall: 2 * time.Second, Credentials: credentials(t, pki, map[string]string{"BEARER_TOKEN": secret})})
	// Another port is another server, as is plain HTTP; the same host in another spelling, too.
	for _, target := range []string{other.URL, plain.URL, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)} {
		to.Store(target + "PATH?authz=opaque")
		seen.Store("-")
		o, err := s.Open(t.Context(), "f")
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if n, err := o.ReadAt(t.Context(), b, 0); string(b[:n]) != "bytes" {
			t.Errorf("read through %s: %d, %v", target, n, err)
		}
		if seen.Load() != "" || first.Load() != "Bearer "+secret {
			t.Errorf("%s saw %q, the first server %q", target, seen.Load(), first.Load())
		}
	}
	// A server may put the token into the URL of another one, but not for all to read.
	for target, want := range map[string]error{other.URL: nil, plain.URL: errInClear} {
		to.Store(target + "PATH?authz=Bearer%20" + secret)
		if _, err := s.Stat(t.Context(), "f"); !errors.Is(err, want) || err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("redirect to %s with the token in the URL: %v", target, err)
		}
	}
	for name, target := range map[string]string{
		"a loop": head.URL + "PATH", "a file": "file:///etc/passwd", "no host": "https:///x", "nonsense": "http://[::1", "gopher": "gopher://localhost/x",
	} {
		to.Store(target)
		if _, err := s.Stat(t.Context(), "f"); !errors.Is(err, backends.ErrUnavailable) || backends.IsTemporary(err) {
			t.Errorf("redirect to %s: %v", name, err)
		}
	}
}

func TestSecretsAreInNoError(t *testing.T) {
	pki := servertest.NewPKI(t)
	const secret = "s3cr3t-token-that-nobody-else-may-see"
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(403)
		fmt.Fprintf(w, "no: %s", r.Header.Get("Authorization"))
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{pki.Host.Cert.Raw}, PrivateKey: pki.Host.Key}}}
	srv.StartTLS()
	defer srv.Close()
	s := open(t, Options{URL: srv.URL, Credentials: credentials(t, pki, map[string]string{"BEARER_TOKEN": secret})})
	_, err := s.Stat(t.Context(), "f")
	if !errors.Is(err, backends.ErrPermission) || strings.Contains(err.Error(), secret[:10]) {
		t.Errorf("%v", err)
	}
	for _, u := range []string{"https://user:hunter2@host/x", "https://hunter2@host/x", "davs://host/%zz?hunter2", "https://host/?token=hunter2", "hunter2", "ftp://x/hunter2"} {
		if _, err := Open(Options{URL: u}); !errors.Is(err, backends.ErrName) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", u, err)
		}
	}
}

// TestTroubleInWords wants each kind of trouble to be told apart.
func TestTroubleInWords(t *testing.T) {
	pki := servertest.NewPKI(t)
	stranger := servertest.NewPKI(t)
	nginx := servertest.NGINX(t, servertest.NGINXOptions{PKI: pki})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	old := filepath.Join(t.TempDir(), "old.pem")
	pki.User.Proxy(t, -time.Hour).WriteProxy(t, old)
	mtls := servertest.NGINX(t, servertest.NGINXOptions{PKI: pki, Server: "location /closed { return 403; }"})
	for _, c := range []struct {
		url  string
		cred *credential.Source
		want error
		say  string
	}{
		{"http://no-such-host.invalid/x", nil, backends.ErrUnavailable, "resolve"},
		{"http://" + closed + "/x", nil, backends.ErrTemporary, "connection refused"},
		{nginx.HTTPS, credentials(t, stranger, nil), backends.ErrUnavailable, "not trusted here"},
		{strings.Replace(nginx.HTTPS, "localhost", "127.0.0.2", 1), credentials(t, pki, nil), backends.ErrUnavailable, ""},
		{"https://" + strings.TrimPrefix(nginx.HTTP, "http://"), credentials(t, pki, nil), backends.ErrUnavailable, "TLS"},
		{mtls.HTTPS + "/closed", credentials(t, pki, map[string]string{"X509_USER_PROXY": old}), backends.ErrPermission, "expired at"},
		{mtls.HTTPS + "/closed", credentials(t, pki, nil), backends.ErrPermission, "neither a token nor a proxy"},
		{mtls.HTTP + "/closed", nil, backends.ErrPermission, "plain HTTP"},
	} {
		s := open(t, Options{URL: c.url, Credentials: c.cred, Connect: 3 * time.Second})
		_, err := s.Stat(t.Context(), "f")
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v; want %v and %q", c.url, err, c.want, c.say)
		}
	}
}

// A new authority comes while the client runs: the certificate of a server is of another one from one
// day to the next.
func TestAuthorityThatComesLater(t *testing.T) {
	pki, next := servertest.NewPKI(t), servertest.NewPKI(t)
	nginx := servertest.NGINX(t, servertest.NGINXOptions{PKI: next})
	s := open(t, Options{URL: nginx.HTTPS, Credentials: credentials(t, pki, nil)})
	if _, err := s.Stat(t.Context(), ""); !errors.Is(err, backends.ErrUnavailable) {
		t.Fatalf("stat with an unknown authority: %v", err)
	}
	next.CA.Trust(t, pki.Certificates)
	if _, err := s.Stat(t.Context(), ""); err != nil {
		t.Errorf("stat after it came: %v", err)
	}
	// The list says that the host's certificate is revoked.
	next.CA.Revoke(next.Host)
	next.CA.Trust(t, pki.Certificates)
	s2 := open(t, Options{URL: nginx.HTTPS, Credentials: credentials(t, pki, nil)})
	if _, err := s2.Stat(t.Context(), ""); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("stat of a revoked host: %v", err)
	}
}

// A proxy expires and is renewed, and a token too, while the client runs.
func TestCredentialsThatAreRenewed(t *testing.T) {
	pki := servertest.NewPKI(t)
	o := servertest.XRootDOptions{PKI: pki, Authorize: true}
	if os.Geteuid() == 0 {
		o.Issuer = servertest.NewIssuer(t, pki)
	}
	srv := servertest.XRootD(t, o)
	p := prefix(t, srv, "data")
	proxy := filepath.Join(t.TempDir(), "proxy.pem")
	pki.User.Proxy(t, -time.Hour).WriteProxy(t, proxy)
	s := open(t, Options{URL: srv.HTTPS + p, Credentials: credentials(t, pki, map[string]string{"X509_USER_PROXY": proxy})})
	if _, err := s.Stat(t.Context(), ""); !errors.Is(err, backends.ErrPermission) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("stat with an expired proxy: %v", err)
	}
	pki.User.Proxy(t, time.Hour).WriteProxy(t, proxy)
	if _, err := s.Stat(t.Context(), ""); err != nil {
		t.Errorf("stat with a renewed proxy: %v", err)
	}
	if o.Issuer == nil {
		return
	}
	file := filepath.Join(t.TempDir(), "token")
	write := func(life time.Duration) {
		if err := os.WriteFile(file, []byte(o.Issuer.Token(t, "storage.read:/ storage.modify:/", life)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(-time.Minute)
	s = open(t, Options{URL: srv.HTTPS + p, Credentials: credentials(t, pki, map[string]string{"BEARER_TOKEN_FILE": file})})
	if _, err := s.Stat(t.Context(), ""); !errors.Is(err, backends.ErrPermission) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("stat with an expired token: %v", err)
	}
	write(time.Hour)
	if _, err := s.Stat(t.Context(), ""); err != nil {
		t.Errorf("stat with a renewed token: %v", err)
	}
}

// Calls end with their context and leave no goroutine behind.
func TestNothingIsLeftRunning(t *testing.T) {
	hang := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "MKCOL" {
			return
		}
		<-hang
	}))
	defer srv.Close()
	defer close(hang)
	before := runtime.NumGoroutine()
	s, err := Open(Options{URL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := s.Stat(ctx, "f"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stat: %v", err)
	}
	u, err := s.Create(t.Context(), "f", 10)
	if err == nil {
		u.Write(make([]byte, 5))
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_ = ctx
		go func() { time.Sleep(200 * time.Millisecond); s.Close() }()
		_, err = u.Commit(t.Context(), backends.Checksums{Adler32: "00000001"})
	}
	if err == nil {
		t.Error("commit to a server that never answers")
	}
	s.Close()
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
	stacks := func() []string {
		b := make([]byte, 1<<20)
		var out []string
		for _, g := range strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n") {
			if strings.Contains(g, "webdav.(*") {
				out = append(out, g)
			}
		}
		return out
	}
	deadline := time.Now().Add(5 * time.Second)
	for len(stacks()) > 1 && time.Now().Before(deadline) { // this test is one
		time.Sleep(10 * time.Millisecond)
	}
	if left := slices.DeleteFunc(stacks(), func(g string) bool { return strings.Contains(g, "TestNothingIsLeftRunning") }); len(left) > 0 {
		t.Errorf("%d goroutines before; left:\n%s", before, strings.Join(left, "\n\n"))
	}
}

func FuzzListing(f *testing.F) {
	f.Add([]byte(`<D:multistatus xmlns:D="DAV:"><D:response><D:href>/p/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>`))
	var body atomic.Value
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(207)
		w.Write(body.Load().([]byte))
	}))
	f.Cleanup(srv.Close)
	s, err := Open(Options{URL: srv.URL + "/p"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	f.Fuzz(func(t *testing.T, b []byte) {
		body.Store(b)
		last := ""
		for a, err := range s.List(t.Context(), "") {
			if err == nil && (a.Path <= last || strings.Contains(a.Path, "/") || a.Size < 0 || a.Path == "..") {
				t.Errorf("%+v after %q", a, last)
			}
			last = a.Path
		}
	})
}
