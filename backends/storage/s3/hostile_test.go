package s3

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/credential"
	"tarn/backends/servertest"
)

// liar is a storage on a server that answers as it likes.
func liar(t *testing.T, h http.HandlerFunc) *Storage {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return open(t, Options{URL: "s3" + strings.TrimPrefix(srv.URL, "http") + "/lake/x", Region: "us-east-1", Stall: 2 * time.Second})
}

// refuse is an error in XML.
func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?>\n<Error><Code>%s</Code><Message>so it is</Message></Error>", code)
}

func TestErrorsByClass(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		want   error
		temp   bool
		words  string
	}{
		{404, "NoSuchKey", backends.ErrNotExist, false, ""},
		{404, "NoSuchBucket", backends.ErrUnavailable, false, "the bucket lake is not there; make it"},
		{403, "AccessDenied", backends.ErrPermission, false, "as " + servertest.S3Access},
		{403, "InvalidAccessKeyId", backends.ErrPermission, false, "does not know the access key " + servertest.S3Access},
		{403, "SignatureDoesNotMatch", backends.ErrPermission, false, "the secret key of AWS_ACCESS_KEY_ID is not the one of " + servertest.S3Access},
		{400, "ExpiredToken", backends.ErrPermission, false, "get new ones"},
		{403, "RequestTimeTooSkewed", backends.ErrUnavailable, false, "clock"},
		{503, "SlowDown", backends.ErrUnavailable, true, ""},
		{500, "InternalError", backends.ErrUnavailable, true, ""},
		{502, "", backends.ErrUnavailable, true, ""},
		{429, "TooManyRequests", backends.ErrUnavailable, true, ""},
		{403, "QuotaExceeded", backends.ErrQuota, false, ""},
		{507, "XMinioStorageFull", backends.ErrNoSpace, false, ""},
		{403, "InvalidObjectState", backends.ErrOffline, false, ""},
		{412, "PreconditionFailed", backends.ErrStale, false, ""},
		{416, "InvalidRange", backends.ErrStale, false, ""},
		{400, "KeyTooLongError", backends.ErrNameTooLong, false, ""},
		{501, "NotImplemented", backends.ErrNotSupported, false, ""},
		{400, "BadDigest", backends.ErrCorrupt, false, ""},
		{400, "SomethingNew", backends.ErrUnavailable, false, "SomethingNew (so it is)"},
		{301, "PermanentRedirect", backends.ErrUnavailable, false, "elsewhere"},
	} {
		s := liar(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "7")
			refuse(w, c.status, c.code)
		})
		var err error
		for _, e := range s.List(t.Context(), "") {
			err = e
		}
		if !errors.Is(err, c.want) || backends.IsTemporary(err) != c.temp || !strings.Contains(fmt.Sprint(err), c.words) || strings.Contains(err.Error(), servertest.S3Secret) {
			t.Errorf("%s: %v", c.code, err)
		}
		if backends.IsAnswered(err) != (c.status == 500) {
			t.Errorf("%s: trouble with one object alone: %v", c.code, backends.IsAnswered(err))
		}
		if after := backends.RetryAfter(err); (after == 7*time.Second) != c.temp {
			t.Errorf("%s: again after %v", c.code, after)
		}
	}
}

// Of a HEAD that was refused the reason is asked for.
func TestWhyHeadIsRefused(t *testing.T) {
	s := liar(t, func(w http.ResponseWriter, r *http.Request) { refuse(w, 403, "InvalidAccessKeyId") })
	if _, err := s.Stat(t.Context(), "f"); !errors.Is(err, backends.ErrPermission) || !strings.Contains(err.Error(), "does not know the access key") {
		t.Error(err)
	}
	// Nor does "not there" say that of a bucket.
	s = liar(t, func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "NoSuchBucket") })
	if _, err := s.Stat(t.Context(), "f"); !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrNotExist) {
		t.Error(err)
	}
}

// object answers HEAD for 1000 bytes, and GET by get.
func objectOf(get http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", "Thu, 26 Nov 2026 12:00:00 GMT")
		w.Header().Set("ETag", `"one"`)
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Length", "1000")
			return
		}
		get(w, r)
	}
}

func TestReadsOfLiars(t *testing.T) {
	for _, c := range []struct {
		name string
		get  http.HandlerFunc
		want error
	}{
		{"another range", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 200-299/1000")
			w.WriteHeader(206)
			w.Write(make([]byte, 100))
		}, backends.ErrUnavailable},
		{"no range", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(206)
			w.Write(make([]byte, 100))
		}, backends.ErrUnavailable},
		{"a negative range", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 100--199/-1000")
			w.WriteHeader(206)
			w.Write(make([]byte, 100))
		}, backends.ErrUnavailable},
		{"the whole", func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1000)) }, backends.ErrNotSupported},
		{"a short body", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 100-199/1000")
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(206)
			w.Write(make([]byte, 50))
		}, backends.ErrTemporary},
		{"a short length", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 100-199/1000")
			w.Header().Set("Content-Length", "50")
			w.WriteHeader(206)
			w.Write(make([]byte, 50))
		}, backends.ErrUnavailable},
		{"an endless body", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 100-199/1000")
			w.WriteHeader(206)
			for b := make([]byte, 1<<16); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, backends.ErrUnavailable},
		{"another ETag", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 100-199/1000")
			w.Header().Set("ETag", `"two"`)
			w.WriteHeader(206)
			w.Write(make([]byte, 100))
		}, backends.ErrStale},
		{"another size", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 100-199/2000")
			w.WriteHeader(206)
			w.Write(make([]byte, 100))
		}, backends.ErrStale},
		{"an encoding", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 100-199/1000")
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(206)
			w.Write(make([]byte, 100))
		}, backends.ErrUnavailable},
		{"no more", func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "NoSuchKey") }, backends.ErrNotExist},
		{"silence", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 100-199/1000")
			w.WriteHeader(206)
			w.Write(make([]byte, 10))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, backends.ErrTemporary},
	} {
		s := liar(t, objectOf(c.get))
		o, err := s.Open(t.Context(), "f")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if n, err := o.ReadAt(t.Context(), make([]byte, 100), 100); !errors.Is(err, c.want) || n == 100 {
			t.Errorf("%s: %d, %v", c.name, n, err)
		}
		if d := time.Since(start); d > 8*time.Second {
			t.Errorf("%s took %v", c.name, d)
		}
	}
	for name, h := range map[string]http.HandlerFunc{
		"no length": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Last-Modified", "Thu, 26 Nov 2026 12:00:00 GMT")
		},
		"no time": func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "1") },
	} {
		if _, err := liar(t, h).Stat(t.Context(), "f"); !errors.Is(err, backends.ErrUnavailable) || backends.IsTemporary(err) {
			t.Errorf("stat, %s: %v", name, err)
		}
	}
}

// A server that points elsewhere is not followed, and nobody there sees keys or signatures.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var seen atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen.Add(1) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := liar(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", other.URL+r.URL.Path)
			w.Header().Set("Last-Modified", "Thu, 26 Nov 2026 12:00:00 GMT")
			w.WriteHeader(status)
		})
		_, serr := s.Stat(t.Context(), "f")
		for _, err := range []error{serr, store(t.Context(), s, "f", 3, []byte("abc")), store(t.Context(), s, "f", 20*mib, make([]byte, 20*mib)), s.Remove(t.Context(), "f")} {
			if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), other.Listener.Addr().String()) {
				t.Errorf("%d: %v", status, err)
			}
		}
	}
	if seen.Load() != 0 {
		t.Errorf("the other host was asked %d times", seen.Load())
	}
}

// listing is a page in XML.
func listing(w http.ResponseWriter, next string, keys ...string) {
	fmt.Fprint(w, `<?xml version="1.0"?><ListBucketResult><Name>lake</Name>`)
	if next != "" {
		fmt.Fprintf(w, "<IsTruncated>true</IsTruncated><NextContinuationToken>%s</NextContinuationToken>", next)
	}
	for _, k := range keys {
		fmt.Fprint(w, "<Contents><Key>")
		xml.EscapeText(w, []byte(k))
		fmt.Fprint(w, "</Key><LastModified>2026-11-26T12:00:00.000Z</LastModified><ETag>&#34;e&#34;</ETag><Size>7</Size><StorageClass>STANDARD</StorageClass></Contents>")
	}
	fmt.Fprint(w, "</ListBucketResult>")
}

// growth is how much more memory is in use while f runs, in MiB.
func growth(f func()) int64 {
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	done, peak := make(chan struct{}), int64(0)
	go func() {
		f()
		close(done)
	}()
	for {
		select {
		case <-done:
			return peak >> 20
		case <-time.After(20 * time.Millisecond):
			runtime.ReadMemStats(&now)
			peak = max(peak, int64(now.HeapAlloc)-int64(before.HeapAlloc))
		}
	}
}

func TestListingsOfLiars(t *testing.T) {
	entity := `<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><ListBucketResult><Name>lake</Name><Contents><Key>x/&b;</Key></Contents></ListBucketResult>`
	for _, c := range []struct {
		name string
		h    http.HandlerFunc
	}{
		{"one page for ever", func(w http.ResponseWriter, r *http.Request) { listing(w, "more", "x/a") }},
		{"tokens for ever", func(w http.ResponseWriter, r *http.Request) {
			listing(w, "t"+r.URL.Query().Get("continuation-token"), "x/a")
		}},
		{"not sorted", func(w http.ResponseWriter, r *http.Request) { listing(w, "", "x/b", "x/a") }},
		{"of another place", func(w http.ResponseWriter, r *http.Request) { listing(w, "", "y/b") }},
		{"truncated without a token", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "<ListBucketResult><Name>lake</Name><IsTruncated>true</IsTruncated></ListBucketResult>")
		}},
		{"entities", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, entity) }},
		{"no XML", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "what?") }},
		{"cut short", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "<ListBucketResult><Name>lake</Name><Contents><Key>x/a")
		}},
		{"another document", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html></html>") }},
		{"a negative size", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "<ListBucketResult><Name>lake</Name><Contents><Key>x/a</Key><Size>-1</Size></Contents></ListBucketResult>")
		}},
		{"too many", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "<ListBucketResult><Name>lake</Name>")
			for i := range 3000 {
				fmt.Fprintf(w, "<Contents><Key>x/%05d</Key></Contents>", i)
			}
			fmt.Fprint(w, "</ListBucketResult>")
		}},
		{"an endless page", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "<ListBucketResult><Name>lake</Name>")
			for {
				if _, err := io.WriteString(w, strings.Repeat("<Contents></Contents>", 100)); err != nil {
					return
				}
			}
		}},
		{"an endless key", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "<ListBucketResult><Name>lake</Name><Contents><Key>")
			for b := []byte(strings.Repeat("a", 1<<16)); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}},
		{"a deep page", func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := io.WriteString(w, strings.Repeat("<a>", 100)); err != nil {
					return
				}
			}
		}},
	} {
		s := liar(t, c.h)
		var err error
		n := 0
		used := growth(func() {
			for _, e := range s.List(t.Context(), "") {
				n, err = n+1, e
			}
		})
		if !errors.Is(err, backends.ErrUnavailable) || n > 2 {
			t.Errorf("%s: %d results, %v", c.name, n, err)
		}
		if used > 200 {
			t.Errorf("%s took %d MiB", c.name, used)
		}
	}
	// A listing that does not end does not fill memory.
	s := liar(t, func(w http.ResponseWriter, r *http.Request) {
		var k int
		fmt.Sscan(r.URL.Query().Get("continuation-token"), &k)
		var keys []string
		for i := range 1000 {
			keys = append(keys, fmt.Sprintf("x/%09d", k+i))
		}
		listing(w, fmt.Sprint(k+1000), keys...)
	})
	s.o.Entries = 20_000
	var err error
	for _, err = range s.List(t.Context(), "") {
	}
	if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "more than 20000") {
		t.Error(err)
	}
}

// A folder of many files is listed as it comes, in the order of names, in a memory that its size does not matter to.
func TestLongListing(t *testing.T) {
	const n = many
	var requests atomic.Int64
	s := liar(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		q := r.URL.Query()
		if q.Get("prefix") != "x/d/" {
			listing(w, "") // the folder "run" is none
			return
		}
		var k int
		fmt.Sscan(q.Get("continuation-token"), &k)
		var keys []string
		for i := k; i < min(k+1000, n); i++ {
			keys = append(keys, fmt.Sprintf("x/d/run-%06d.fits", i))
		}
		next := ""
		if k+1000 < n {
			next = fmt.Sprint(k + 1000)
		}
		listing(w, next, keys...)
	})
	got, last := 0, ""
	used := growth(func() {
		for a, err := range s.List(t.Context(), "d") {
			if err != nil || a.Path <= last || a.Size != 7 {
				t.Errorf("%+v after %s, %v", a, last, err)
				return
			}
			last = a.Path
			got++
		}
	})
	if got != n || requests.Load() > n/1000+2 {
		t.Errorf("%d entries by %d requests", got, requests.Load())
	}
	if used > 64 {
		t.Errorf("it took %d MiB", used)
	}
	t.Logf("%d MiB", used)
}

// What a server says of uploads that it has not done is not believed.
func TestUploadsToLiars(t *testing.T) {
	begun := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && r.URL.Query().Has("uploads") {
			w.Header().Set("X-Amz-Checksum-Algorithm", "CRC32C")
			fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>")
			return true
		}
		return false
	}
	head := func(w http.ResponseWriter, etag, size string) {
		w.Header().Set("Last-Modified", "Thu, 26 Nov 2026 12:00:00 GMT")
		w.Header().Set("ETag", etag)
		w.Header().Set("Content-Length", size)
	}
	for _, c := range []struct {
		name string
		size int
		h    http.HandlerFunc
		want error
	}{
		{"of another length", 100, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				head(w, `"e"`, "99")
				return
			}
			io.Copy(io.Discard, r.Body)
			w.Header().Set("ETag", `"e"`)
			if r.Method == http.MethodDelete {
				w.WriteHeader(204)
			}
		}, backends.ErrCorrupt},
		{"of another checksum", 100, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("X-Amz-Checksum-Crc32c", crcText(1))
			if r.Method == http.MethodDelete {
				w.WriteHeader(204)
			}
		}, backends.ErrCorrupt},
		{"no ID", 20 * mib, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "<InitiateMultipartUploadResult></InitiateMultipartUploadResult>")
		}, backends.ErrUnavailable},
		{"a part taken early", 20 * mib, func(w http.ResponseWriter, r *http.Request) {
			if !begun(w, r) && r.Method == http.MethodPut {
				w.Header().Set("ETag", `"p"`)
				w.Header().Set("Connection", "close")
			}
		}, backends.ErrUnavailable},
		{"a part of another checksum", 20 * mib, func(w http.ResponseWriter, r *http.Request) {
			if !begun(w, r) && r.Method == http.MethodPut {
				io.Copy(io.Discard, r.Body)
				w.Header().Set("X-Amz-Checksum-Crc32c", crcText(1))
			}
		}, backends.ErrCorrupt},
		{"an error after status 200", 20 * mib, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case begun(w, r):
			case r.Method == http.MethodPut:
				io.Copy(io.Discard, r.Body)
				w.Header().Set("ETag", `"p"`)
			case r.Method == http.MethodPost:
				fmt.Fprint(w, "<Error><Code>InternalError</Code><Message>later</Message></Error>")
			case r.Method == http.MethodHead:
				w.WriteHeader(404)
			case r.Method == http.MethodDelete:
				w.WriteHeader(204)
			default:
				refuse(w, 404, "NoSuchUpload")
			}
		}, backends.ErrTemporary},
	} {
		s := liar(t, c.h)
		err := store(t.Context(), s, "f", int64(c.size), make([]byte, c.size))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Keys that are replaced in their file count from the next request on.
func TestKeysAreReplacedWhileRunning(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	file := filepath.Join(t.TempDir(), "keys")
	keys := func(id, secret string, mode os.FileMode) {
		t.Helper()
		os.Remove(file)
		if err := os.WriteFile(file, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", id, secret), mode); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, Options{URL: srv.S3 + "/lake/x", KeyFile: file, Credentials: credential.New(credential.Options{UID: os.Geteuid()})})
	put := func() error { return store(t.Context(), s, "f", 3, []byte("abc")) }
	if err := put(); !errors.Is(err, backends.ErrPermission) || !strings.Contains(err.Error(), file) {
		t.Errorf("no file: %v", err)
	}
	keys(servertest.S3Access, servertest.S3Secret, 0o600)
	if err := put(); err != nil {
		t.Errorf("good keys: %v", err)
	}
	keys(servertest.S3Access, "wr0ng", 0o600)
	if err := put(); !errors.Is(err, backends.ErrPermission) || !strings.Contains(err.Error(), "is not the one of "+servertest.S3Access) || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("a wrong secret: %v", err)
	}
	keys("SOMEBODY", "else", 0o600)
	if _, err := s.Stat(t.Context(), "f"); !errors.Is(err, backends.ErrPermission) || !strings.Contains(err.Error(), "does not know the access key SOMEBODY of "+file) {
		t.Errorf("an unknown key: %v", err)
	}
	keys(servertest.S3Access, servertest.S3Secret, 0o644)
	if err := put(); !errors.Is(err, backends.ErrPermission) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by all: %v", err)
	}
	keys(servertest.S3Access, servertest.S3Secret, 0o600)
	if err := put(); err != nil {
		t.Errorf("good keys again: %v", err)
	}
	// Nobody is refused by name, too.
	nobody := open(t, Options{URL: srv.S3 + "/lake/x", Credentials: credential.None()})
	if _, err := nobody.Stat(t.Context(), "f"); !errors.Is(err, backends.ErrPermission) || !strings.Contains(err.Error(), "no S3 keys were found") {
		t.Errorf("nobody: %v", err)
	}
}

// An authority that is not trusted is named, and counts when it comes.
func TestAuthorityComes(t *testing.T) {
	pki, other := servertest.NewPKI(t), servertest.NewPKI(t)
	srv := servertest.S3(t, servertest.S3Options{PKI: pki})
	s := open(t, Options{URL: srv.S3 + "/lake/x", Credentials: identity(t, other, nil)})
	if err := store(t.Context(), s, "f", 3, []byte("abc")); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "which is not trusted here") {
		t.Errorf("an unknown authority: %v", err)
	}
	pki.CA.Trust(t, other.Certificates)
	if err := store(t.Context(), s, "f", 3, []byte("abc")); err != nil {
		t.Errorf("the authority that came: %v", err)
	}
	plain := open(t, Options{URL: "s3" + strings.TrimPrefix(srv.S3, "s3s") + "/lake/x"})
	if _, err := plain.Stat(t.Context(), "f"); err == nil || errors.Is(err, backends.ErrNotExist) {
		t.Errorf("plain HTTP to TLS: %v", err)
	}
}
