package webdav

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// The traps of Apache httpd with mod_dav, as those of the others in traps_test.go.

func onApache(t *testing.T, config string) (*servertest.Server, *Storage) {
	t.Helper()
	srv := servertest.Apache(t, servertest.ApacheOptions{Config: config})
	return srv, open(t, Options{URL: srv.HTTP})
}

// age makes a file look older.
func age(t *testing.T, file string, by time.Duration) {
	t.Helper()
	at := time.Now().Add(-by)
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestTrapFolderOfApacheIsRedirected(t *testing.T) {
	srv, s := onApache(t, "")
	backendstest.Put(t, s, "d/f", []byte("x"))
	if resp := ask(t, "PROPFIND", srv.HTTP+"/d", "Depth", "0"); resp.StatusCode != 301 {
		t.Logf("mended: Apache answers PROPFIND of a folder without a slash with %d", resp.StatusCode)
	}
	if a, err := s.Stat(t.Context(), "d"); err != nil || !a.IsDir {
		t.Errorf("stat: %+v, %v", a, err)
	}
}

// A PROPFIND that says nothing of depth asks for all that is below, which Apache refuses.
func TestTrapDepthInfinityIsRefused(t *testing.T) {
	srv, s := onApache(t, "")
	backendstest.Put(t, s, "d/e/f", []byte("x"))
	for _, depth := range [][]string{nil, {"Depth", "infinity"}} {
		if resp := ask(t, "PROPFIND", srv.HTTP+"/", depth...); resp.StatusCode != 403 {
			t.Logf("mended: Apache answers PROPFIND with %q with %d", depth, resp.StatusCode)
		}
	}
	for _, dir := range []string{"", "d", "d/e"} {
		n := 0
		for _, err := range s.List(t.Context(), dir) {
			if err != nil {
				t.Errorf("list %q: %v", dir, err)
			}
			n++
		}
		if n != 1 {
			t.Errorf("list %q: %d entries", dir, n)
		}
	}
}

// A MOVE that may overwrite takes a folder away with all that is in it.
func TestTrapMoveOverAFolder(t *testing.T) {
	srv, s := onApache(t, "")
	backendstest.Put(t, s, "d/f", []byte("x"))
	u, err := s.Create(t.Context(), "d", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	u.Write([]byte("y"))
	if _, err := u.Commit(t.Context(), backendstest.Sums([]byte("y"))); !errors.Is(err, backends.ErrIsDir) {
		t.Errorf("commit in place of a folder: %v", err)
	}
	if b, err := os.ReadFile(srv.Path("d/f")); err != nil || string(b) != "x" {
		t.Errorf("what was in the folder: %q, %v", b, err)
	}
	backendstest.Put(t, s, "g", []byte("g"))
	resp := ask(t, "MOVE", srv.HTTP+"/g", "Destination", srv.HTTP+"/d/", "Overwrite", "T")
	if _, err := os.Stat(srv.Path("d/f")); err == nil {
		t.Logf("mended: Apache answers MOVE over a folder with %d", resp.StatusCode)
	}
}

// The ETag of a file is a weak one within a second of its change, and then another: the file is the same.
func TestTrapETagThatBecomesStrong(t *testing.T) {
	srv, s := onApache(t, "")
	data := backendstest.Bytes(1, 1000)
	backendstest.Put(t, s, "f", data)
	o, err := s.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	first := ask(t, "HEAD", srv.HTTP+"/f").Header.Get("ETag")
	if !strings.HasPrefix(first, "W/") {
		t.Logf("mended, or slow: the ETag of a new file is %s", first)
	}
	b := make([]byte, 100)
	for range 3 {
		if n, err := o.ReadAt(t.Context(), b, 0); n != 100 || err != nil {
			t.Errorf("read: %d, %v", n, err)
		}
		time.Sleep(600 * time.Millisecond)
	}
	if last := ask(t, "HEAD", srv.HTTP+"/f").Header.Get("ETag"); last == first {
		t.Logf("mended, or slow: the ETag stays %s", first)
	}
}

// Apache takes a part of a file, in a PUT with a Content-Range, and writes it into the file that is there (RFC 9110 14.5
// advises against that). Who has the file open notices.
func TestTrapPutOfARangeChangesAFile(t *testing.T) {
	srv, s := onApache(t, "")
	data := backendstest.Bytes(1, 1000)
	backendstest.Put(t, s, "f", data)
	age(t, srv.Path("f"), time.Hour)
	o, err := s.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := o.ReadAt(t.Context(), b, 0); n != 100 || err != nil {
		t.Fatalf("read: %d, %v", n, err)
	}
	resp := tell(t, "PUT", srv.HTTP+"/f", "XXXXX", "Content-Range", "bytes 500-504/1000")
	if got, _ := os.ReadFile(srv.Path("f")); len(got) != 1000 || string(got[500:505]) != "XXXXX" {
		t.Logf("mended: a PUT of a range has status %d", resp.StatusCode)
		return
	}
	if _, err := o.ReadAt(t.Context(), b, 500); !errors.Is(err, backends.ErrStale) {
		t.Errorf("read of what was changed: %v", err)
	}
}

// tell makes a request with a body past the client.
func tell(t *testing.T, method, url, body string, h ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(h); i += 2 {
		req.Header.Set(h[i], h[i+1])
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// Other clients lock files. What is locked is in use, and free again later; a lock is no file.
func TestTrapLockOfAnotherClient(t *testing.T) {
	srv, s := onApache(t, "")
	backendstest.Put(t, s, "d/f", []byte("old"))
	const lock = `<?xml version="1.0"?><lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>`
	resp := tell(t, "LOCK", srv.HTTP+"/d/f", lock, "Timeout", "Second-600", "Content-Type", "application/xml")
	token := resp.Header.Get("Lock-Token")
	if resp.StatusCode != 200 || token == "" {
		t.Fatalf("lock: %d, %q\n%s", resp.StatusCode, token, srv.LogTail())
	}
	put := func() error {
		u, err := s.Create(t.Context(), "d/f", 3)
		if err != nil {
			return err
		}
		defer u.Abort()
		u.Write([]byte("new"))
		_, err = u.Commit(t.Context(), backendstest.Sums([]byte("new")))
		return err
	}
	for what, err := range map[string]error{"remove": s.Remove(t.Context(), "d/f"), "replace": put()} {
		if !errors.Is(err, backends.ErrBusy) || !backends.IsTemporary(err) {
			t.Errorf("%s a locked file: %v", what, err)
		}
	}
	if b, err := backendstest.Get(t.Context(), s, "d/f"); err != nil || string(b) != "old" {
		t.Errorf("the locked file: %q, %v", b, err)
	}
	for a, err := range s.List(t.Context(), "d") {
		if err != nil || a.Path != "d/f" {
			t.Errorf("list: %+v, %v", a, err)
		}
	}
	if resp := tell(t, "UNLOCK", srv.HTTP+"/d/f", "", "Lock-Token", token); resp.StatusCode != 204 {
		t.Fatalf("unlock: %d", resp.StatusCode)
	}
	if err := put(); err != nil {
		t.Errorf("replace what is free again: %v", err)
	}
}

// Properties that other clients set are in a hidden folder of the folder: that has nothing in it all the same.
func TestTrapFolderOfProperties(t *testing.T) {
	srv, s := onApache(t, "")
	backendstest.Put(t, s, "d/f", []byte("x"))
	const set = `<?xml version="1.0"?><propertyupdate xmlns="DAV:"><set><prop><x xmlns="urn:x">y</x></prop></set></propertyupdate>`
	if resp := tell(t, "PROPPATCH", srv.HTTP+"/d/f", set, "Content-Type", "application/xml"); resp.StatusCode != 207 {
		t.Fatalf("proppatch: %d\n%s", resp.StatusCode, srv.LogTail())
	}
	if _, err := os.Stat(srv.Path("d/.DAV")); err != nil {
		t.Logf("mended: properties are elsewhere: %v", err)
	}
	if a, err := s.Stat(t.Context(), "d/f"); err != nil || a.Size != 1 {
		t.Errorf("stat: %+v, %v", a, err)
	}
	for a, err := range s.List(t.Context(), "d") {
		if err != nil || a.Path != "d/f" {
			t.Errorf("list: %+v, %v", a, err)
		}
	}
	for _, p := range []string{"d/f", "d"} {
		if err := s.Remove(t.Context(), p); err != nil {
			t.Errorf("remove %s: %v", p, err)
		}
	}
}

// Apache takes no body of more than 1 GiB unless it is told to (LimitRequestBody). It says so before the bytes go.
func TestTrapFileThatIsTooLargeForApache(t *testing.T) {
	_, s := onApache(t, "")
	u, err := s.Create(t.Context(), "f", 2<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	sent := 0
	for err == nil && sent < 64<<20 {
		var n int
		n, err = u.Write(make([]byte, 1<<20))
		sent += n
	}
	if err == nil {
		t.Log("mended: Apache takes files of more than 1 GiB")
	} else if !errors.Is(err, backends.ErrNoSpace) || backends.IsTemporary(err) || !strings.Contains(err.Error(), "LimitRequestBody") {
		t.Errorf("write: %v", err)
	}
	if sent > 8<<20 && err != nil {
		t.Errorf("%d bytes went before", sent)
	}
}
