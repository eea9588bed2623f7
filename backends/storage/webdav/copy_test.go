package webdav

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// TestThirdPartyContract has servers copy that know third-party copy on one side at least, and those that copy within
// themselves.
func TestThirdPartyContract(t *testing.T) {
	pki := servertest.NewPKI(t)
	run := func(name string, open func(t *testing.T) (from, to backends.Storage)) {
		t.Run(name, func(t *testing.T) { backendstest.ThirdParty(t, open) })
	}
	plain := servertest.XRootD(t, servertest.XRootDOptions{}) // makes no copies
	free := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki})
	nginx := servertest.NGINX(t, servertest.NGINXOptions{PKI: pki})
	apache := servertest.Apache(t, servertest.ApacheOptions{PKI: pki})
	at := func(t *testing.T, srv *servertest.Server, below string) *Storage {
		u := srv.HTTP
		if u == "" {
			u = srv.HTTPS
		}
		return open(t, Options{URL: u + prefix(t, srv, below), Credentials: credentials(t, pki, nil)})
	}
	run("XRootD pulls", func(t *testing.T) (from, to backends.Storage) { return at(t, plain, "data"), at(t, free, "data") })
	run("XRootD pushes", func(t *testing.T) (from, to backends.Storage) { return at(t, free, "data"), at(t, plain, "data") })
	run("XRootD pushes to Apache", func(t *testing.T) (from, to backends.Storage) { return at(t, free, "data"), at(t, apache, "") })
	run("within one nginx", func(t *testing.T) (from, to backends.Storage) { return at(t, nginx, ""), at(t, nginx, "") })
	data := backendstest.Bytes(1, 3<<20)
	for name, pair := range map[string][2]*Storage{
		"XRootD pulls from nginx with TLS": {open(t, Options{URL: nginx.HTTPS + prefix(t, nginx, ""), Credentials: credentials(t, pki, nil)}), at(t, free, "data")},
		"XRootD pulls from itself":         {at(t, free, "data"), at(t, free, "data")},
		"within one Apache":                {at(t, apache, ""), at(t, apache, "")},
	} {
		if err := copyOf(t, pair[0], pair[1], data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	issuer := servertest.NewIssuer(t, pki)
	var closed []*servertest.Server
	for range 2 {
		closed = append(closed, servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Authorize: true, Issuer: issuer}))
	}
	pair := func(t *testing.T) (from, to *Storage) {
		var out []*Storage
		for _, srv := range closed {
			p := prefix(t, srv, "data")
			dir := strings.TrimPrefix(p, "/data") // each token is for one side only
			token := issuer.Token(t, "storage.read:"+dir+" storage.modify:"+dir, time.Hour)
			out = append(out, open(t, Options{URL: srv.HTTPS + p, Credentials: credentials(t, pki, map[string]string{"BEARER_TOKEN": token})}))
		}
		return out[0], out[1]
	}
	run("XRootD with tokens", func(t *testing.T) (from, to backends.Storage) { return pair(t) })
	from, to := pair(t)
	(&copying{from: from, to: to}).ways()[0].close() // as if the receiving server had refused
	if err := copyOf(t, from, to, data); err != nil {
		t.Errorf("push with tokens: %v", err)
	}
}

// copyOf puts data at the source and copies it to "d/f".
func copyOf(t *testing.T, from, to *Storage, data []byte) error {
	t.Helper()
	backendstest.Put(t, from, "f", data)
	got, err := from.CopyTo(t.Context(), "f", to, "d/f", int64(len(data)), backendstest.Sums(data), nil)
	if err == nil && backendstest.Sums(data).Match(got) != nil {
		t.Errorf("verified: %+v", got)
	}
	return err
}

// left are the files in the folder of unfinished uploads.
func left(t *testing.T, srv *servertest.Server, prefix string) []string {
	t.Helper()
	l, err := filepath.Glob(srv.Path(prefix + "/" + uploads + "/*"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// XRootD says 201 before it has looked for the file.
func TestTrapCopyThatAnswers201AndFails(t *testing.T) {
	pki := servertest.NewPKI(t)
	srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki})
	p := prefix(t, srv, "data")
	to := open(t, Options{URL: srv.HTTPS + p, Credentials: credentials(t, pki, nil)})
	data := backendstest.Bytes(1, 3<<20)
	for name, get := range map[string]http.HandlerFunc{
		"of a source that refuses": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403) },
		"of a source that is gone": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) },
		"of a source that is cut in mid copy": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			if r.Method == "GET" {
				w.Write(data[:1<<20])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
		},
	} {
		src := newMemory()
		src.files["/p/f"] = data
		src.get = get
		from := open(t, Options{URL: src.start(t, nil) + "/p"})
		_, err := from.CopyTo(t.Context(), "f", to, "d/f", int64(len(data)), backendstest.Sums(data), nil)
		if !errors.Is(err, errFailed) || !backends.IsAnswered(err) {
			t.Errorf("copy %s: %v", name, err)
		}
		if _, err := to.Stat(t.Context(), "d/f"); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("%s: stat: %v", name, err)
		}
		if l := left(t, srv, p); len(l) > 0 {
			t.Errorf("%s: left %v", name, l)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), "COPY", srv.HTTPS+p+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Source", "http://127.0.0.1:1/none")
	resp, err := to.transport(&to.pool).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 201 {
		t.Logf("mended: a copy that fails has status %d", resp.StatusCode)
	}
}

// A plain WebDAV server that is asked to push may look at the path of the Destination only.
func TestTrapCopyToAnotherHostThatStaysWithinOne(t *testing.T) {
	nginx := []*servertest.Server{servertest.NGINX(t, servertest.NGINXOptions{}), servertest.NGINX(t, servertest.NGINXOptions{})}
	apache := []*servertest.Server{servertest.Apache(t, servertest.ApacheOptions{}), servertest.Apache(t, servertest.ApacheOptions{})}
	data := backendstest.Bytes(1, 100000)
	for _, pair := range [][]*servertest.Server{nginx, apache, {nginx[0], apache[0]}, {apache[1], nginx[1]}} {
		from, to := open(t, Options{URL: pair[0].HTTP}), open(t, Options{URL: pair[1].HTTP})
		backendstest.Put(t, to, "old", []byte("x")) // both have the folder of uploads
		for range 2 {
			if err := copyOf(t, from, to, data); !errors.Is(err, backends.ErrNotSupported) || backends.IsTemporary(err) {
				t.Errorf("copy between %s and %s: %v", pair[0].Log, pair[1].Log, err)
			}
		}
		for _, srv := range pair {
			if l := left(t, srv, ""); len(l) > 0 {
				t.Errorf("left %v", l)
			}
		}
		if _, err := to.Stat(t.Context(), "d/f"); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("stat: %v", err)
		}
	}
	u, err := url.Parse(nginx[1].HTTP)
	if err != nil {
		t.Fatal(err)
	}
	resp := ask(t, "COPY", nginx[0].HTTP+"/f", "Destination", u.String()+"/stray")
	if _, err := os.Stat(nginx[0].Path("stray")); err != nil {
		t.Logf("mended: nginx does not copy to itself what is for another port: %d, %v", resp.StatusCode, err)
	}
}

// memory is a WebDAV server of the test's own.
type memory struct {
	get, copy http.HandlerFunc // in place of GET and HEAD, and of COPY
	noDigest  bool
	macaroon  string // that it gives

	mu    sync.Mutex // guards the rest
	files map[string][]byte
	asked []*http.Request
}

func newMemory() *memory { return &memory{files: map[string][]byte{}} }

// start serves it, with TLS if there is a PKI, and gives its URL.
func (m *memory) start(t *testing.T, pki *servertest.PKI) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(m)
	if pki != nil {
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{pki.Host.Cert.Raw}, PrivateKey: pki.Host.Key}}}
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return srv.URL
}

func (m *memory) file(p string) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.files[p]
	return b, ok
}

func (m *memory) put(p string, b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[p] = b
}

// copies are the requests to copy that came.
func (m *memory) copies() (out []*http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.asked {
		if r.Method == "COPY" {
			out = append(out, r)
		}
	}
	return out
}

// names are those of its files.
func (m *memory) names() (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range m.files {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func (m *memory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.asked = append(m.asked, r.Clone(context.Background()))
	m.mu.Unlock()
	p := path.Clean(r.URL.Path)
	b, ok := m.file(p)
	switch {
	case r.Method == "COPY":
		m.copy(w, r)
	case r.Method == "POST" && m.macaroon != "":
		fmt.Fprintf(w, `{"macaroon":%q}`, m.macaroon)
	case r.Method == "POST":
		w.WriteHeader(405)
	case r.Method == "PUT":
		body, _ := io.ReadAll(r.Body)
		m.put(p, body)
		w.WriteHeader(201)
	case r.Method == "PROPFIND" && ok:
		file(w, r, fmt.Sprint(len(b)))
	case r.Method == "MKCOL":
		w.WriteHeader(201)
	case r.Method == "MOVE" && ok:
		u, _ := url.Parse(r.Header.Get("Destination"))
		m.put(u.Path, b)
		fallthrough
	case r.Method == "DELETE" && ok:
		m.mu.Lock()
		delete(m.files, p)
		m.mu.Unlock()
		w.WriteHeader(204)
	case !ok:
		w.WriteHeader(404)
	case m.get != nil:
		m.get(w, r)
	default:
		if !m.noDigest {
			w.Header().Set("Digest", "adler32="+backendstest.Sums(b).Adler32)
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(b)))
	}
}

// perf is a marker of n bytes.
func perf(n int64) string {
	return fmt.Sprintf("Perf Marker\nTimestamp: 1\nStripe Index: 0\nStripe Bytes Transferred: %d\nTotal Stripe Count: 1\nEnd\n", n)
}

// say sends text at once.
func say(w http.ResponseWriter, text string) error {
	_, err := io.WriteString(w, text)
	w.(http.Flusher).Flush()
	return err
}

// repeat says something until nobody listens.
func repeat(w http.ResponseWriter, every time.Duration, text func(i int64) string) {
	for i := int64(0); say(w, text(i)) == nil; i++ {
		time.Sleep(every)
	}
}

// Servers whose COPY is not what it seems.
func TestCopiesThatLie(t *testing.T) {
	data := backendstest.Bytes(1, 200000)
	whole := func(m *memory, r *http.Request) { m.put(r.URL.Path, data) }
	for _, c := range []struct {
		name string
		copy func(m *memory, w http.ResponseWriter, r *http.Request)
		want error
	}{
		{"201 and failure", func(m *memory, w http.ResponseWriter, r *http.Request) {
			whole(m, r)
			w.WriteHeader(201)
			io.WriteString(w, perf(200000)+"failure: disk is on fire\n")
		}, errFailed},
		{"201 and failure without a reason", func(m *memory, w http.ResponseWriter, r *http.Request) {
			whole(m, r)
			w.WriteHeader(201)
			io.WriteString(w, perf(200000)+"Failure\n")
		}, errFailed},
		{"201 and silence", func(m *memory, w http.ResponseWriter, r *http.Request) { whole(m, r); w.WriteHeader(201) }, errSilent},
		{"201 and empty lines", func(m *memory, w http.ResponseWriter, r *http.Request) {
			whole(m, r)
			w.WriteHeader(201)
			io.WriteString(w, "\n\n")
		}, errSilent},
		{"markers and no last word", func(m *memory, w http.ResponseWriter, r *http.Request) {
			whole(m, r)
			w.WriteHeader(202)
			io.WriteString(w, perf(100000)+perf(200000))
		}, errCut},
		{"a word in the midst of a line", func(m *memory, w http.ResponseWriter, r *http.Request) {
			whole(m, r)
			io.WriteString(w, "no success: yet\n")
		}, errSilent},
		{"201 and a page", func(m *memory, w http.ResponseWriter, r *http.Request) {
			whole(m, r)
			w.WriteHeader(201)
			io.WriteString(w, "<html><h1>Created</h1></html>")
		}, errSilent},
		{"cut in mid copy", func(m *memory, w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(201)
			say(w, perf(5))
			panic(http.ErrAbortHandler)
		}, backends.ErrTemporary},
		{"202 and nothing any more", func(m *memory, w http.ResponseWriter, r *http.Request) {
			m.put(r.URL.Path, data[:5])
			w.WriteHeader(202)
			say(w, "")
			<-r.Context().Done()
		}, backends.ErrTemporary},
		{"no answer", func(m *memory, w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, backends.ErrTemporary},
		{"endless markers of nothing", func(m *memory, w http.ResponseWriter, r *http.Request) {
			repeat(w, 10*time.Millisecond, func(int64) string { return perf(0) })
		}, backends.ErrTemporary},
		{"endless markers of too much", func(m *memory, w http.ResponseWriter, r *http.Request) {
			repeat(w, 10*time.Millisecond, func(i int64) string { return perf(i << 40) })
		}, backends.ErrTemporary},
		{"endless pieces of a marker", func(m *memory, w http.ResponseWriter, r *http.Request) {
			repeat(w, 10*time.Millisecond, func(i int64) string { return "Perf Marker\nStripe Bytes Transferred: " + fmt.Sprint(i) + "\n" })
		}, backends.ErrTemporary},
		{"a line without end", func(m *memory, w http.ResponseWriter, r *http.Request) {
			repeat(w, 0, func(int64) string { return strings.Repeat("x", 8<<10) })
		}, backends.ErrUnavailable},
		{"stripes without end", func(m *memory, w http.ResponseWriter, r *http.Request) {
			repeat(w, 0, func(i int64) string { return fmt.Sprintf("Stripe Index: %d\nStripe Bytes Transferred: 0\nEnd\n", i) })
		}, backends.ErrTemporary},
		{"success, and other bytes", func(m *memory, w http.ResponseWriter, r *http.Request) {
			m.put(r.URL.Path, backendstest.Bytes(2, len(data)))
			io.WriteString(w, "success: Created\n")
		}, backends.ErrCorrupt},
		{"success, and other bytes, of a server without checksums", func(m *memory, w http.ResponseWriter, r *http.Request) {
			m.noDigest = true
			m.put(r.URL.Path, backendstest.Bytes(2, len(data)))
			io.WriteString(w, "success: Created\n")
		}, backends.ErrCorrupt},
		{"success, and too few bytes", func(m *memory, w http.ResponseWriter, r *http.Request) {
			m.put(r.URL.Path, data[:100])
			io.WriteString(w, "success: Created\n")
		}, backends.ErrCorrupt},
		{"success, and too few bytes with a checksum that is not theirs", func(m *memory, w http.ResponseWriter, r *http.Request) {
			m.get = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Digest", "adler32="+backendstest.Sums(data).Adler32)
			}
			m.put(r.URL.Path, data[:100])
			io.WriteString(w, "success: Created\n")
		}, backends.ErrCorrupt},
		{"success, and no file", func(m *memory, w http.ResponseWriter, r *http.Request) { io.WriteString(w, "success: Created\n") }, backends.ErrTemporary},
		{"trouble", func(m *memory, w http.ResponseWriter, r *http.Request) { whole(m, r); w.WriteHeader(503) }, backends.ErrTemporary},
		{"full", func(m *memory, w http.ResponseWriter, r *http.Request) { w.WriteHeader(507) }, backends.ErrNoSpace},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			src, dst := newMemory(), newMemory()
			src.files["/p/f"] = data
			src.copy = func(w http.ResponseWriter, r *http.Request) { t.Error("the source was asked"); w.WriteHeader(400) }
			dst.files["/p/old"] = []byte("old")
			dst.copy = func(w http.ResponseWriter, r *http.Request) { c.copy(dst, w, r) }
			from := open(t, Options{URL: src.start(t, nil) + "/p"})
			to := open(t, Options{URL: dst.start(t, nil) + "/p", Stall: time.Second, Connect: time.Second})
			_, err := from.CopyTo(t.Context(), "f", to, "old", int64(len(data)), backendstest.Sums(data), func(n int64) {
				if n < 0 || n > int64(len(data)) {
					t.Errorf("%d bytes have arrived", n)
				}
			})
			if !errors.Is(err, c.want) || errors.Is(err, backends.ErrNotSupported) || c.want == backends.ErrUnavailable && backends.IsTemporary(err) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if b, _ := dst.file("/p/old"); string(b) != "old" {
				t.Errorf("what was there has %d bytes now", len(b))
			}
			if got := dst.names(); !slices.Equal(got, []string{"/p/old"}) {
				t.Errorf("left %q", got)
			}
		})
	}
}

// What servers answer that do not copy is remembered, for each pair and for a while.
func TestServersThatDoNotCopy(t *testing.T) {
	data := []byte("data")
	for _, status := range []int{400, 404, 405, 415, 501, 303} {
		src, dst := newMemory(), newMemory()
		src.files["/p/f"] = data
		src.copy = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/")
			w.WriteHeader(status)
		}
		dst.copy = src.copy
		var late atomic.Int64
		clock := func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
		from, to := open(t, Options{URL: src.start(t, nil) + "/p", Now: clock}), open(t, Options{URL: dst.start(t, nil) + "/p", Now: clock})
		try := func(want int) {
			t.Helper()
			_, err := from.CopyTo(t.Context(), "f", to, "f", 4, backendstest.Sums(data), nil)
			if !errors.Is(err, backends.ErrNotSupported) || backends.IsTemporary(err) || errors.Is(err, backends.ErrUnavailable) {
				t.Errorf("status %d: %v", status, err)
			}
			if a, b := len(src.copies()), len(dst.copies()); a != want || b != want {
				t.Errorf("status %d: asked %d and %d times, want %d", status, a, b, want)
			}
		}
		try(1)
		try(1)
		late.Store(int64(copyAgain + time.Second))
		try(2)
	}
	// Being refused is none of this.
	src, dst := newMemory(), newMemory()
	src.files["/p/f"] = data
	src.copy = func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403) }
	dst.copy = src.copy
	from, to := open(t, Options{URL: src.start(t, nil) + "/p"}), open(t, Options{URL: dst.start(t, nil) + "/p"})
	for i := range 2 {
		if _, err := from.CopyTo(t.Context(), "f", to, "f", 4, backendstest.Sums(data), nil); !errors.Is(err, backends.ErrNotSupported) || len(dst.copies()) != i+1 {
			t.Errorf("403: %v", err)
		}
	}
}

// Tokens go over TLS and to the two servers only: each its own, and the other's to the one that is to use it.
func TestTokensOfACopy(t *testing.T) {
	pki := servertest.NewPKI(t)
	data := []byte("data")
	const read, write = "token-to-read-from-the-source", "token-to-write-to-the-destination"
	for _, c := range []struct {
		name         string
		fromTLS      bool
		toTLS        bool
		pull         bool
		auth, passed string
	}{
		{"pull", true, true, true, "Bearer " + write, "Bearer " + read},
		{"pull from plain HTTP", false, true, true, "Bearer " + write, ""},
		{"pull by plain HTTP", true, false, true, "", ""},
		{"push", true, true, false, "Bearer " + read, "Bearer " + write},
		{"push to plain HTTP", true, false, false, "Bearer " + read, ""},
		{"push by plain HTTP", false, true, false, "", ""},
	} {
		src, dst := newMemory(), newMemory()
		src.files["/p/f"] = data
		never := func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(405) }
		src.copy, dst.copy = never, never
		at := src
		if c.pull {
			at = dst
		}
		at.copy = func(w http.ResponseWriter, r *http.Request) {
			to := r.URL.Path
			if !c.pull {
				u, _ := url.Parse(r.Header.Get("Destination"))
				to = u.Path
			}
			dst.put(to, data)
			io.WriteString(w, "success: Created\n")
		}
		start := func(m *memory, withTLS bool, token string) *Storage {
			var p *servertest.PKI
			if withTLS {
				p = pki
			}
			return open(t, Options{URL: m.start(t, p) + "/p", Credentials: credentials(t, pki, map[string]string{"BEARER_TOKEN": token})})
		}
		from, to := start(src, c.fromTLS, read), start(dst, c.toTLS, write)
		if _, err := from.CopyTo(t.Context(), "f", to, "f", 4, backendstest.Sums(data), nil); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		r := at.copies()[0]
		if got := r.Header.Get("Authorization"); got != c.auth {
			t.Errorf("%s: Authorization is %q, want %q", c.name, got, c.auth)
		}
		if got := r.Header.Get("TransferHeaderAuthorization"); got != c.passed {
			t.Errorf("%s: the other's is %q, want %q", c.name, got, c.passed)
		}
		if got := r.Header.Get("Credential"); got != "none" {
			t.Errorf("%s: Credential is %q", c.name, got)
		}
	}
}

// A server that is sent the request by another gets no token, but a macaroon for this copy, and that over TLS only.
func TestCopyThatIsSentToAnotherHost(t *testing.T) {
	pki := servertest.NewPKI(t)
	data := []byte("data")
	const read, write, narrow = "token-to-read-from-the-source", "token-to-write-to-the-destination", "macaroon-for-one-file"
	for _, c := range []struct {
		token, macaroon string
		plain           bool // the other host is without TLS
		works           bool
	}{
		{read, "", false, false}, {"", "", false, true}, {read, narrow, false, true}, {read, narrow, true, false},
	} {
		src, dst, other := newMemory(), newMemory(), newMemory()
		src.files["/p/f"], src.macaroon = data, c.macaroon
		src.copy = func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(405) }
		tls := pki
		if c.plain {
			tls = nil
		}
		elsewhere := other.start(t, tls)
		dst.copy = func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere+r.URL.Path+"?authz=opaque", http.StatusTemporaryRedirect)
		}
		other.copy = func(w http.ResponseWriter, r *http.Request) {
			dst.put(r.URL.Path, data)
			io.WriteString(w, "success: Created\n")
		}
		from := open(t, Options{URL: src.start(t, pki) + "/p", Credentials: credentials(t, pki, map[string]string{"BEARER_TOKEN": c.token})})
		to := open(t, Options{URL: dst.start(t, pki) + "/p", Credentials: credentials(t, pki, map[string]string{"BEARER_TOKEN": write})})
		_, err := from.CopyTo(t.Context(), "f", to, "f", 4, backendstest.Sums(data), nil)
		if c.works && err != nil || !c.works && (!errors.Is(err, backends.ErrNotSupported) || len(other.copies()) > 0) {
			t.Errorf("%+v: %v, and the other host was asked %d times", c, err, len(other.copies()))
		}
		for _, r := range other.copies() {
			if got := r.Header.Get("Authorization"); got != "" {
				t.Errorf("%+v: the other host saw %q", c, got)
			}
			if got := strings.TrimPrefix(r.Header.Get("TransferHeaderAuthorization"), "Bearer "); got != c.macaroon {
				t.Errorf("%+v: the other host is to show %q", c, got)
			}
		}
	}
}

// A manager of XRootD sends us, and a copy, on to the server that is to have the file, with a token in the URL.
func TestCopyThroughManager(t *testing.T) {
	pki := servertest.NewPKI(t)
	issuer := servertest.NewIssuer(t, pki)
	secret := filepath.Join(pki.Dir, "macaroon.key")
	if err := os.WriteFile(secret, []byte(base64.StdEncoding.EncodeToString(backendstest.Bytes(1, 64))+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	src := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Issuer: issuer, Authorize: true,
		Config: "tpc.trace all\nall.sitename test\nmacaroons.secretkey " + secret + "\nofs.authlib ++ libXrdMacaroons.so\nhttp.exthandler xrdmacaroons libXrdMacaroons.so\n"})
	manager := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Manager: true})
	node := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Of: manager, Issuer: issuer, Authorize: true, Config: "tpc.trace all"})
	vars := map[string]string{"BEARER_TOKEN": issuer.Token(t, "storage.read:/ storage.create:/ storage.modify:/", time.Hour)}
	there := manager.HTTPS + prefix(t, node, "data")
	to := open(t, Options{URL: there, Credentials: credentials(t, pki, vars)})
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if _, err = to.Stat(t.Context(), ""); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatalf("there is no cluster: %v\n%s", err, manager.LogTail())
	}
	count := func(srv *servertest.Server, what string) int {
		b, err := os.ReadFile(srv.Log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), what)
	}
	data := backendstest.Bytes(1, 3<<20)
	backendstest.Put(t, to, "d/up", data)
	if got, err := backendstest.Get(t.Context(), to, "d/up"); err != nil || string(got) != string(data) {
		t.Errorf("read through the manager: %d bytes, %v", len(got), err)
	}
	for _, c := range []struct {
		proxy  string
		pulled bool
	}{{"", false}, {pki.Proxy(t, time.Hour), true}} { // XRootD gives macaroons that are of use to who has a proxy
		vars["X509_USER_PROXY"] = c.proxy
		from := open(t, Options{URL: src.HTTPS + prefix(t, src, "data"), Credentials: credentials(t, pki, vars)})
		to := open(t, Options{URL: there, Credentials: credentials(t, pki, vars)}) // has no memory of refusals
		for range 2 {
			pulls, pushes := count(node, "TPC_PullRequest: event=TRANSFER_SUCCESS"), count(src, "TPC_PushRequest: event=TRANSFER_SUCCESS")
			if err := copyOf(t, from, to, data); err != nil {
				t.Fatalf("%v\n%s", err, src.LogTail())
			}
			pulls, pushes = count(node, "TPC_PullRequest: event=TRANSFER_SUCCESS")-pulls, count(src, "TPC_PushRequest: event=TRANSFER_SUCCESS")-pushes
			if pulls+pushes != 1 || c.pulled != (pulls == 1) {
				t.Errorf("%+v: the node fetched it %d times, and the source sent it %d times", c, pulls, pushes)
			}
		}
	}
}

// Nobody learns a token from what a server says of a copy.
func TestTokensAreInNoErrorOfACopy(t *testing.T) {
	pki := servertest.NewPKI(t)
	const read, write = "token-to-read-from-the-source", "token-to-write-to-the-destination"
	for _, tell := range []string{"Authorization", "TransferHeaderAuthorization"} {
		for _, code := range []int{403, 500} {
			src, dst := newMemory(), newMemory()
			src.files["/p/f"] = []byte("data")
			src.copy = func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(code)
				fmt.Fprintf(w, "no: %s\n", strings.TrimPrefix(r.Header.Get(tell), "Bearer "))
			}
			dst.copy = src.copy
			from := open(t, Options{URL: src.start(t, pki) + "/p", Credentials: credentials(t, pki, map[string]string{"BEARER_TOKEN": read})})
			to := open(t, Options{URL: dst.start(t, pki) + "/p", Credentials: credentials(t, pki, map[string]string{"BEARER_TOKEN": write})})
			_, err := from.CopyTo(t.Context(), "f", to, "f", 4, backendstest.Sums([]byte("data")), nil)
			if err == nil || strings.Contains(err.Error(), "token-to") {
				t.Errorf("%d: %v", code, err)
			}
		}
		src, dst := newMemory(), newMemory()
		src.files["/p/f"] = []byte("data")
		dst.copy = func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "failure: no: %s\n", r.Header.Get(tell)) }
		from := open(t, Options{URL: src.start(t, pki) + "/p", Credentials: credentials(t, pki, map[string]string{"BEARER_TOKEN": read})})
		to := open(t, Options{URL: dst.start(t, pki) + "/p", Credentials: credentials(t, pki, map[string]string{"BEARER_TOKEN": write})})
		_, err := from.CopyTo(t.Context(), "f", to, "f", 4, backendstest.Sums([]byte("data")), nil)
		if !errors.Is(err, errFailed) || strings.Contains(err.Error(), "token-to") {
			t.Errorf("%v", err)
		}
	}
}

// A server that goes on after it was left writes what nobody sees.
func TestCopyThatGoesOnAfterItWasCancelled(t *testing.T) {
	pki := servertest.NewPKI(t)
	srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki})
	p := prefix(t, srv, "data")
	var late atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	to := open(t, Options{URL: srv.HTTPS + p, Credentials: credentials(t, pki, nil), Now: clock})
	data := backendstest.Bytes(1, 3<<20)
	src := newMemory()
	src.files["/p/f"] = data
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gone := make(chan struct{})
	src.get = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if r.Method == "GET" {
			w.Write(data[:1<<20])
			w.(http.Flusher).Flush()
			cancel()
			<-gone
			w.Write(data[1<<20:])
		}
	}
	from := open(t, Options{URL: src.start(t, nil) + "/p"})
	_, err := from.CopyTo(ctx, "f", to, "d/f", int64(len(data)), backendstest.Sums(data), nil)
	close(gone)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("copy: %v", err)
	}
	// As it would be if the server had opened its file after that.
	if err := os.WriteFile(srv.Path(p+"/"+uploads+"/LATE"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if l := left(t, srv, p); len(l) != 1 || path.Base(l[0]) != "LATE" {
		t.Errorf("left %v", l)
	}
	for a, err := range to.List(t.Context(), "") {
		if err != nil || a.Path != "d" {
			t.Errorf("list: %+v, %v", a, err)
		}
	}
	if _, err := to.Stat(t.Context(), "d/f"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("stat: %v", err)
	}
	late.Store(int64(25 * time.Hour))
	if _, err := to.Clean(t.Context()); err != nil {
		t.Error(err)
	}
	if l := left(t, srv, p); len(l) > 0 {
		t.Errorf("a day later: %v", l)
	}
}

// A copy ends with either of its storages, at once.
func TestCopyEndsWithItsStorages(t *testing.T) {
	for i := range 2 {
		src, dst := newMemory(), newMemory()
		src.files["/p/f"] = []byte("data")
		var pair []*Storage
		for _, m := range []*memory{src, dst} {
			pair = append(pair, open(t, Options{URL: m.start(t, nil) + "/p", Stall: time.Hour}))
		}
		dst.copy = func(w http.ResponseWriter, r *http.Request) {
			say(w, perf(1))
			go pair[i].Close()
			<-r.Context().Done()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := pair[0].CopyTo(ctx, "f", pair[1], "f", 4, backendstest.Sums([]byte("data")), nil)
		if !errors.Is(err, backends.ErrClosed) || ctx.Err() != nil {
			t.Errorf("storage %d was closed: %v", i, err)
		}
	}
}

// A server may read a large file for longer than it may be silent otherwise, to tell its checksum.
func TestChecksumThatTakesLong(t *testing.T) {
	const size = 64 << 30 // half an hour at digestRate
	s := liar(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PROPFIND" {
			file(w, r, fmt.Sprint(int64(size)))
			return
		}
		select {
		case <-time.After(3 * time.Second):
		case <-r.Context().Done():
		}
		w.Header().Set("Digest", "adler32=0a0b0c0d")
	})
	s.o.Stall, s.o.Connect = time.Second, time.Second
	if _, err := s.arrived(t.Context(), "f", size, backends.Checksums{Adler32: "0a0b0c0d"}); err != nil {
		t.Errorf("after its time: %v", err)
	}
	if _, err := s.digest(t.Context(), "f", 0); !errors.Is(err, backends.ErrTemporary) {
		t.Errorf("a server that is silent: %v", err)
	}
}

// Who has a proxy and no token lets one server into the other by a macaroon.
func TestCopyWithProxiesByMacaroons(t *testing.T) {
	pki := servertest.NewPKI(t)
	proxy := pki.Proxy(t, time.Hour)
	secret := filepath.Join(pki.Dir, "macaroon.key")
	if err := os.WriteFile(secret, []byte(base64.StdEncoding.EncodeToString(backendstest.Bytes(1, 64))+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	data := backendstest.Bytes(1, 2<<20)
	for _, gives := range []bool{true, false} {
		o := servertest.XRootDOptions{PKI: pki, Authorize: true}
		if gives {
			o.Config = "all.sitename test\nmacaroons.secretkey " + secret + "\nofs.authlib ++ libXrdMacaroons.so\nhttp.exthandler xrdmacaroons libXrdMacaroons.so\n"
		}
		var srv []*servertest.Server
		var prefixes []string
		var at []*Storage
		for i := range 2 {
			srv = append(srv, servertest.XRootD(t, o))
			prefixes = append(prefixes, prefix(t, srv[i], "data"))
			at = append(at, open(t, Options{URL: srv[i].HTTPS + prefixes[i], Credentials: credentials(t, pki, map[string]string{"X509_USER_PROXY": proxy})}))
		}
		for _, what := range []string{"pull", "push"} {
			err := copyOf(t, at[0], at[1], data)
			if gives && err != nil {
				t.Errorf("%s: %v\n%s", what, err, srv[1].LogTail())
			}
			if !gives && !errors.Is(err, backends.ErrNotSupported) {
				t.Errorf("%s without macaroons: %v", what, err)
			}
			(&copying{from: at[0], to: at[1]}).ways()[0].close() // as if the receiving server had refused
		}
		if l := left(t, srv[1], prefixes[1]); len(l) > 0 {
			t.Errorf("left %v", l)
		}
	}
}

// A macaroon is asked for where it is of use, and what is none is not taken for one.
func TestMacaroonsThatLie(t *testing.T) {
	pki := servertest.NewPKI(t)
	proxy := pki.Proxy(t, time.Hour)
	for answer, want := range map[string]string{
		`{"macaroon":"MDAx"}`: "MDAx", `{}`: "", `not JSON`: "", `{"macaroon":"a\r\nX-Evil: 1"}`: "", `{"macaroon":"` + strings.Repeat("x", maxMacaroon) + `"}`: "",
	} {
		var asked atomic.Int64
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			if b, _ := io.ReadAll(r.Body); r.Method != "POST" || !strings.Contains(string(b), `"activity:DOWNLOAD"`) {
				t.Errorf("%s %s", r.Method, b)
			}
			io.WriteString(w, answer)
		}))
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{pki.Host.Cert.Raw}, PrivateKey: pki.Host.Key}}}
		srv.StartTLS()
		t.Cleanup(srv.Close)
		for vars, asks := range map[string]int64{"X509_USER_PROXY": 1, "": 0} {
			asked.Store(0)
			s := open(t, Options{URL: srv.URL + "/p", Credentials: credentials(t, pki, map[string]string{vars: proxy})})
			for range 2 {
				if got := s.key(t.Context(), s.url("f"), false, "DOWNLOAD").secret; asks > 0 && got != want || asks == 0 && got != "" {
					t.Errorf("%.40s: key %q", answer, got)
				}
			}
			if want != "" {
				asks *= 2 // each copy has its own; a server that gives none is left alone
			}
			if n := asked.Load(); n != asks {
				t.Errorf("%.40s: asked %d times, want %d", answer, n, asks)
			}
		}
	}
}

// A server may tell a digest of another kind than the one that is asked for, and than the one that is computed on the way.
func TestUploadWhereTheServerKnowsSHA256Alone(t *testing.T) {
	data := backendstest.Bytes(1, 300_000)
	for _, c := range []struct {
		name   string
		digest func([]byte) string
		know   backends.Checksums // of the bytes
		want   error
	}{
		{"known", func(b []byte) string { return digestSHA256(b) }, backendstest.Sums(data), nil},
		{"known, and of other bytes", func(b []byte) string { return digestSHA256(b[1:]) }, backendstest.Sums(data), backends.ErrCorrupt},
		{"not known", func(b []byte) string { return digestSHA256(b[1:]) }, backends.Checksums{Adler32: backendstest.Sums(data).Adler32}, nil},
	} {
		m := newMemory()
		m.get = func(w http.ResponseWriter, r *http.Request) {
			b, _ := m.file(r.URL.Path)
			w.Header().Set("Digest", c.digest(b))
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(b)))
		}
		s := open(t, Options{URL: m.start(t, nil) + "/p"})
		u, err := s.Create(t.Context(), "f", int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		defer u.Abort()
		backends.Expect(u, c.know, "adler32")
		if _, err := u.Write(data); err != nil {
			t.Fatal(err)
		}
		got, err := u.Commit(t.Context(), c.know)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if proved := got.SHA256 != ""; proved != (c.name == "known") || got.Adler32 != "" {
			t.Errorf("%s: it gives %+v as proved", c.name, got)
		}
	}
}

func digestSHA256(b []byte) string {
	sum, _ := hex.DecodeString(backendstest.Sums(b).SHA256)
	return "sha-256=" + base64.StdEncoding.EncodeToString(sum)
}
