package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// through is a storage on srv by way of a proxy that lets spoil handle some requests.
func through(t *testing.T, srv *servertest.Server, spoil func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) bool) *Storage {
	t.Helper()
	return behind(t, nil, srv, spoil)
}

// behind is the same with a proxy that speaks TLS, if pki is not nil.
func behind(t *testing.T, pki *servertest.PKI, srv *servertest.Server, spoil func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) bool) *Storage {
	t.Helper()
	proxy := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pass := func() *http.Response {
			out := r.Clone(context.WithoutCancel(r.Context())) // a server goes on when nobody waits
			out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", strings.TrimPrefix(srv.HTTP, "http://")
			resp, err := http.DefaultTransport.RoundTrip(out)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			return resp
		}
		if spoil(w, r, pass) {
			return
		}
		resp := pass()
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	}))
	t.Cleanup(proxy.Close)
	if pki == nil {
		proxy.Start()
	} else {
		dir := t.TempDir()
		cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		pki.Host.Write(t, cert, key)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		proxy.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
		proxy.StartTLS()
	}
	url := strings.NewReplacer("https:", "s3s:", "http:", "s3:").Replace(proxy.URL)
	return open(t, Options{URL: url + "/lake/x", PartSize: 5 * mib, Credentials: identity(t, pki, nil)})
}

// silent takes d for each CompleteMultipartUpload, counts them and HEADs, and answers with status unless that is 0.
func silent(d time.Duration, status int, completes, heads *atomic.Int64) func(http.ResponseWriter, *http.Request, func() *http.Response) bool {
	return func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) bool {
		switch {
		case r.Method == http.MethodHead:
			heads.Add(1)
		case r.Method == http.MethodPost && r.URL.Query().Has("uploadId"):
			completes.Add(1)
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			time.Sleep(d)
			if status != 0 {
				time.AfterFunc(d, func() { pass().Body.Close() })
				w.WriteHeader(status)
				return true
			}
		}
		return false
	}
}

// A server that is silent while it copies the parts is waited for, and what it publishes later is a success.
func TestCompleteIsSlow(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	data := backendstest.Bytes(1, 12*mib) // 1.2 s more than Stall
	for _, c := range []struct {
		name   string
		takes  time.Duration
		status int
		heads  bool
	}{
		{"it copies", 1700 * time.Millisecond, 0, false},
		{"it is very slow", 3500 * time.Millisecond, 0, true},
		{"so says a gateway", 1200 * time.Millisecond, http.StatusGatewayTimeout, true},
	} {
		var completes, heads atomic.Int64
		s := through(t, srv, silent(c.takes, c.status, &completes, &heads))
		s.o.Stall = time.Second
		if err := store(t.Context(), s, c.name, int64(len(data)), data); err != nil || completes.Load() != 1 || heads.Load() > 0 != c.heads {
			t.Errorf("%s: %v, after %d requests and %d looks", c.name, err, completes.Load(), heads.Load())
		}
		same(t, s, c.name, data)
	}
}

// The answer to CompleteMultipartUpload is lost, and the object is there.
func TestLostAnswerOfComplete(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	lost := 0
	s := through(t, srv, func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) bool {
		if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") {
			lost++
			pass().Body.Close()
			panic(http.ErrAbortHandler)
		}
		return false
	})
	data := backendstest.Bytes(1, 12*mib)
	if err := store(t.Context(), s, "f", int64(len(data)), data); err != nil {
		t.Fatal(err)
	}
	same(t, s, "f", data)
	if c, err := s.Checksum(t.Context(), "f"); err != nil || c != backendstest.Sums(data) || lost != 1 {
		t.Errorf("checksum %+v, %v, after %d answers were lost", c, err, lost)
	}
}

// A server that is busy, or breaks the connection, costs a part and no more.
func TestPartsAreSentAgain(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	for _, size := range []int64{22 * mib, -1} {
		var seen sync.Map
		var spoiled atomic.Int64
		s := through(t, srv, func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) bool {
			q := r.URL.Query()
			if r.Method != http.MethodPut && r.Method != http.MethodPost || !q.Has("uploadId") {
				return false
			}
			if _, again := seen.LoadOrStore(q.Get("partNumber"), true); again {
				return false
			}
			if spoiled.Add(1)%2 == 0 {
				refuse(w, 503, "SlowDown")
				return true
			}
			io.CopyN(io.Discard, r.Body, 2*mib)
			panic(http.ErrAbortHandler)
		})
		data := backendstest.Bytes(1, 22*mib)
		if err := store(t.Context(), s, "f", size, data); err != nil || spoiled.Load() != 6 {
			t.Errorf("announced as %d: %v, %d requests were spoiled", size, err, spoiled.Load())
		}
		same(t, s, "f", data)
		if left := uploads(t, s); len(left) > 0 {
			t.Errorf("uploads are left: %+v", left)
		}
	}
}

// Parts that are too large to be kept are sent while they come.
func TestLargeParts(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	s := open(t, Options{URL: srv.S3 + "/lake/x"})
	s.o.PartSize = 40 * mib
	data := backendstest.Bytes(1, 90*mib)
	if err := store(t.Context(), s, "f", int64(len(data)), data); err != nil {
		t.Fatal(err)
	}
	same(t, s, "f", data)
}

// A part whose writer is slow is no request that idles: servers and gateways end such requests.
func TestSlowWriter(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	var parts atomic.Int64
	s := through(t, srv, func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) bool {
		if r.URL.Query().Has("partNumber") {
			parts.Add(1)
		}
		return false
	})
	data := backendstest.Bytes(1, 12*mib)
	u, err := s.Create(t.Context(), "f", int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	for b := data; len(b) > 0; {
		piece := min(len(b), 3*mib)
		if _, err := u.Write(b[:piece]); err != nil {
			t.Fatal(err)
		}
		b = b[piece:]
		time.Sleep(200 * time.Millisecond)
		if whole := int64(len(data)-len(b)) / (5 * mib); len(b) > 0 && parts.Load() > whole {
			t.Errorf("%d parts are being sent of which %d are whole", parts.Load(), whole)
		}
	}
	if _, err := u.Commit(t.Context(), backendstest.Sums(data)); err != nil {
		t.Fatal(err)
	}
	same(t, s, "f", data)
}

// Of a server that compares no CRC32C the parts are proved by sha256 and md5, or no checksums are kept.
func TestWithoutCRC32C(t *testing.T) {
	pki := servertest.NewPKI(t)
	srv := servertest.S3(t, servertest.S3Options{})
	for _, c := range []struct {
		name    string
		changed bool // on its way
		blind   bool // the server does not compare
		kms     bool
	}{
		{"good", false, false, false},
		{"encrypted", false, false, true},
		{"changed, and encrypted", true, false, true},
		{"changed, and stored", true, true, false},
	} {
		data := backendstest.Bytes(1, 12*mib)
		s := behind(t, pki, srv, func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) bool {
			q := r.URL.Query()
			switch {
			case q.Has("uploads") && r.Header.Get("x-amz-checksum-algorithm") != "":
				refuse(w, http.StatusNotImplemented, "NotImplemented")
				return true
			case !q.Has("partNumber"):
				return false
			case c.kms:
				w.Header().Set("x-amz-server-side-encryption", "aws:kms")
			}
			if c.changed {
				body, _ := io.ReadAll(r.Body)
				body[len(body)/2] ^= 4
				r.Body = io.NopCloser(bytes.NewReader(body))
				if c.blind {
					w.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprintf("%x", md5.Sum(body))))
					return true
				}
			}
			return false
		})
		err := store(t.Context(), s, c.name, int64(len(data)), data)
		if c.changed {
			if _, serr := s.Stat(t.Context(), c.name); !errors.Is(err, backends.ErrCorrupt) || !errors.Is(serr, backends.ErrNotExist) {
				t.Errorf("%s: %v; then %v", c.name, err, serr)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		same(t, s, c.name, data)
		sums, err := s.Checksum(t.Context(), c.name)
		if none := errors.Is(err, backends.ErrNotSupported); none != c.kms || !none && (err != nil || sums != backendstest.Sums(data)) {
			t.Errorf("%s: checksum %+v, %v", c.name, sums, err)
		}
	}
}

// A HEAD that fails does not make a failure of what is published, and what is removed is no later object.
func TestLookAtWhatIsPublished(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	direct := open(t, Options{URL: srv.S3 + "/lake/x"})
	data, later := backendstest.Bytes(1, mib), backendstest.Bytes(2, mib)
	for _, c := range []struct {
		name  string
		sum   string // that the server tells of what it was sent
		later bool   // somebody else writes there before it is looked at
		want  error
		left  []byte
	}{
		{"no checksum", "", false, nil, data},
		{"another checksum", crcText(1), false, backends.ErrCorrupt, nil},
		{"another checksum, and a later object", crcText(1), true, backends.ErrCorrupt, later},
	} {
		var heads atomic.Int64
		s := through(t, srv, func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) bool {
			switch {
			case r.Method == http.MethodHead && heads.Add(1) <= 4:
				w.WriteHeader(http.StatusServiceUnavailable)
			case r.Method == http.MethodPut:
				resp := pass()
				resp.Body.Close()
				w.Header().Set("ETag", resp.Header.Get("ETag"))
				w.Header().Set("x-amz-checksum-crc32c", c.sum)
				if c.later {
					if err := store(t.Context(), direct, c.name, int64(len(later)), later); err != nil {
						t.Error(err)
					}
				}
				w.WriteHeader(resp.StatusCode)
			default:
				return false
			}
			return true
		})
		if err := store(t.Context(), s, c.name, int64(len(data)), data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.left != nil {
			same(t, direct, c.name, c.left)
		} else if _, err := direct.Stat(t.Context(), c.name); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("%s: stat: %v", c.name, err)
		}
	}
}
