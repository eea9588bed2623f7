package webdav

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// The traps that real servers set, each met by its name. What the servers do is asked for as well: when
// one of them is mended, its test says so.

// plainXRootD is a server with a storage on it.
func plainXRootD(t *testing.T, config string) (*servertest.Server, *Storage, string) {
	t.Helper()
	srv := servertest.XRootD(t, servertest.XRootDOptions{Config: config})
	p := prefix(t, srv, "data")
	return srv, open(t, Options{URL: srv.HTTP + p}), p
}

// ask makes a request past the client.
func ask(t *testing.T, method, url string, h ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(h); i += 2 {
		req.Header.Set(h[i], h[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestTrapRangePastTheEndOfXRootD(t *testing.T) {
	srv, s, p := plainXRootD(t, "")
	data := backendstest.Bytes(1, 1000)
	backendstest.Put(t, s, "f", data)
	if resp := ask(t, "GET", srv.HTTP+p+"/f", "Range", "bytes=900-1099"); resp.StatusCode != 206 || resp.ContentLength != 200 {
		t.Logf("mended: XRootD answers a range past the end with %d and %d bytes", resp.StatusCode, resp.ContentLength)
	}
	o, err := s.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 200)
	if n, err := o.ReadAt(t.Context(), b, 900); n != 100 || err == nil || backends.IsTemporary(err) || !bytes.Equal(b[:n], data[900:]) {
		t.Errorf("read over the end: %d, %v", n, err)
	}
	if n, err := o.ReadAt(t.Context(), b, 1000); n != 0 || err == nil || backends.IsTemporary(err) {
		t.Errorf("read at the end: %d, %v", n, err)
	}
}

// A file that was cut after it was opened: XRootD announces bytes that it does not have.
func TestTrapFileCutBelowARange(t *testing.T) {
	srv, s, p := plainXRootD(t, "")
	backendstest.Put(t, s, "f", backendstest.Bytes(1, 1000))
	o, err := s.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(srv.Path(p+"/f"), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := o.ReadAt(t.Context(), make([]byte, 500), 500); !errors.Is(err, backends.ErrStale) {
		t.Errorf("read of what is cut off: %v", err)
	}
}

func TestTrapHeadOfXRootDHasNoTime(t *testing.T) {
	srv, s, p := plainXRootD(t, "")
	backendstest.Put(t, s, "f", []byte("x"))
	if resp := ask(t, "HEAD", srv.HTTP+p+"/f"); resp.Header.Get("Last-Modified") != "" || resp.Header.Get("ETag") != "" {
		t.Log("mended: HEAD of XRootD has a time or an ETag")
	}
	if a, err := s.Stat(t.Context(), "f"); err != nil || time.Since(a.MTime).Abs() > time.Hour {
		t.Errorf("stat: %+v, %v", a, err)
	}
}

func TestTrapDeleteOfAFullFolder(t *testing.T) {
	_, x, _ := plainXRootD(t, "") // status 500
	nginx := servertest.NGINX(t, servertest.NGINXOptions{})
	n := open(t, Options{URL: nginx.HTTP}) // deletes all that is in it
	_, a := onApache(t, "")                // as well
	for _, s := range []*Storage{x, n, a} {
		backendstest.Put(t, s, "d/f", []byte("x"))
		if err := s.Remove(t.Context(), "d"); !errors.Is(err, backends.ErrNotEmpty) {
			t.Errorf("%s: remove of a full folder: %v", s.base, err)
		}
		if _, err := s.Stat(t.Context(), "d/f"); err != nil {
			t.Errorf("%s: the file in the folder: %v", s.base, err)
		}
	}
}

func TestTrapDigestsInHexAndBase64(t *testing.T) {
	srv, s, p := plainXRootD(t, "")
	data := backendstest.Bytes(5, 12345)
	backendstest.Put(t, s, "f", data)
	sums := backendstest.Sums(data)
	for _, alg := range []string{"adler32", "md5"} {
		got := parseDigest(ask(t, "HEAD", srv.HTTP+p+"/f", "Want-Digest", alg).Header.Values("Digest"))
		if err := sums.Match(got); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
	for text, want := range map[string]backends.Checksums{
		"adler32=1a2b":                         {Adler32: "00001a2b"}, // zeros left out
		"ADLER32=0A0B0C0D, crc32c=AAAA":        {Adler32: "0a0b0c0d"},
		"md5=boCcvaBzKsSEWRalkBb5VA==":         {MD5: "6e809cbda0732ac4845916a59016f954"},
		"md5=6E809CBDA0732AC4845916A59016F954": {MD5: "6e809cbda0732ac4845916a59016f954"},
		"md5=nonsense,adler32=xyz,,sha-256=":   {},
		"adler32=123456789":                    {},
	} {
		if got := parseDigest([]string{text}); got != want {
			t.Errorf("%q is %+v, want %+v", text, got, want)
		}
	}
}

// After a checksum XRootD may answer the next request on the connection twice or not at all.
func TestTrapRequestAfterAChecksumOfXRootD(t *testing.T) {
	srv, s, p := plainXRootD(t, "")
	backendstest.Put(t, s, "warm", []byte("up")) // the server is known from here on
	var wg sync.WaitGroup
	for w := range 4 { // as many connections, so that each request comes at once on the one of the last
		s := open(t, Options{URL: srv.HTTP + p, Connections: 1, Stall: 3 * time.Second})
		wg.Go(func() {
			for i := range 100 {
				name := fmt.Sprintf("f%d-%d", w, i)
				data := backendstest.Bytes(uint64(w*100+i), 2000)
				if err := os.WriteFile(srv.Path(p+"/"+name), data, 0o644); err != nil {
					t.Error(err)
				}
				if c, err := s.Checksum(t.Context(), name); err != nil || backendstest.Sums(data).Match(c) != nil {
					t.Errorf("checksum of %s: %v, %v", name, c, err)
					return
				}
				if got, err := backendstest.Get(t.Context(), s, name); err != nil || !bytes.Equal(got, data) {
					t.Errorf("get %s: %v", name, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestTrapEmptyFileWithExpect(t *testing.T) {
	_, s, _ := plainXRootD(t, "")
	for i := range 20 {
		backendstest.Put(t, s, fmt.Sprintf("f%d", i), nil)
	}
	if a, err := s.Stat(t.Context(), "f0"); err != nil || a.Size != 0 {
		t.Errorf("stat: %+v, %v", a, err)
	}
}

// XRootD takes the destination of a MOVE as it stands; nginx and Apache as a URL.
func TestTrapEscapesInADestination(t *testing.T) {
	srv, x, p := plainXRootD(t, "")
	nginx := servertest.NGINX(t, servertest.NGINXOptions{})
	n := open(t, Options{URL: nginx.HTTP})
	apache, h := onApache(t, "")
	for _, name := range []string{"a b", "run%20one.fits", "a+b", "a,b;c=d"} {
		backendstest.Put(t, x, name, []byte("x"))
		backendstest.Put(t, n, name, []byte("x"))
		backendstest.Put(t, h, name, []byte("x"))
		for _, f := range []string{srv.Path(p + "/" + name), nginx.Path(name), apache.Path(name)} {
			if _, err := os.Stat(f); err != nil {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
}

// A PUT that ends in the middle leaves a file on XRootD: not under its name, and not for long.
func TestTrapLeftOverOfABrokenPut(t *testing.T) {
	srv, s, p := plainXRootD(t, "")
	u, err := s.Create(t.Context(), "d/f", 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	if err := u.Abort(); err != nil {
		t.Fatal(err)
	}
	left := func() []string {
		l, err := filepath.Glob(srv.Path(p + "/" + uploads + "/*"))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	deadline := time.Now().Add(5 * time.Second)
	for len(left()) > 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	if l := left(); len(l) > 0 {
		t.Errorf("left %v", l)
	}
	if _, err := s.Stat(t.Context(), "d/f"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("stat: %v", err)
	}
	// What a crash leaves is removed when it is a day old, and not before.
	for name, age := range map[string]time.Duration{"OLD": 25 * time.Hour, "YOUNG": 23 * time.Hour} {
		f := srv.Path(p + "/" + uploads + "/" + name)
		if err := os.WriteFile(f, []byte("half"), 0o644); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(f, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.Clean(t.Context()); n != 1 || err != nil {
		t.Errorf("clean: %d, %v", n, err)
	}
	if l := left(); len(l) != 1 || !strings.HasSuffix(l[0], "YOUNG") {
		t.Errorf("clean left %v", l)
	}
}

// The disk of a site that is not mounted looks empty: that is no file that is gone.
func TestPrefixThatIsNotThere(t *testing.T) {
	srv := servertest.XRootD(t, servertest.XRootDOptions{})
	nginx := servertest.NGINX(t, servertest.NGINXOptions{})
	apache := servertest.Apache(t, servertest.ApacheOptions{})
	for _, u := range []string{srv.HTTP + "/data/nothere", nginx.HTTP + "/nothere", apache.HTTP + "/nothere"} {
		s := open(t, Options{URL: u})
		if _, _, err := s.Space(t.Context()); !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrNotExist) {
			t.Errorf("%s: space: %v", u, err)
		}
		if _, err := s.Stat(t.Context(), ""); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%s: stat of the prefix: %v", u, err)
		}
	}
}

func TestServerThatIsKilledAndStartedAgain(t *testing.T) {
	srv, s, _ := plainXRootD(t, "")
	data := backendstest.Bytes(1, 100<<10)
	backendstest.Put(t, s, "f", data)
	o, err := s.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(data))
	srv.Kill()
	if _, err := o.ReadAt(t.Context(), b, 0); !errors.Is(err, backends.ErrUnavailable) || !backends.IsTemporary(err) || errors.Is(err, backends.ErrNotExist) {
		t.Errorf("read from a dead server: %v", err)
	}
	if err := s.Remove(t.Context(), "f"); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("remove at a dead server: %v", err)
	}
	srv.Start()
	if n, err := o.ReadAt(t.Context(), b, 0); n != len(b) || !bytes.Equal(b, data) {
		t.Errorf("read after the restart: %d, %v", n, err)
	}
}

func TestServerThatFreezes(t *testing.T) {
	srv := servertest.XRootD(t, servertest.XRootDOptions{})
	s := open(t, Options{URL: srv.HTTP + prefix(t, srv, "data"), Stall: 300 * time.Millisecond, Connect: 300 * time.Millisecond})
	backendstest.Put(t, s, "f", []byte("x"))
	srv.Pause()
	defer srv.Resume()
	start := time.Now()
	if _, err := s.Stat(t.Context(), "f"); !errors.Is(err, backends.ErrUnavailable) || !backends.IsTemporary(err) {
		t.Errorf("stat at a frozen server: %v", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}
