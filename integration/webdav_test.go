package integration

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// TestLakeOnWebDAV is the whole way of a file on a lake whose storages are an XRootD with TLS and a
// proxy, and an nginx: written with two copies, verified, read from either, also while one is away, and deleted.
func TestLakeOnWebDAV(t *testing.T) {
	pki := servertest.NewPKI(t)
	xrootd := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Authorize: true})
	nginx := servertest.NGINX(t, servertest.NGINXOptions{})
	t.Setenv("X509_CERT_DIR", pki.Certificates)
	t.Setenv("X509_USER_PROXY", pki.Proxy(t, time.Hour))
	t.Setenv("BEARER_TOKEN", "")

	s := newSite(t, "")
	lake := fmt.Sprintf(`name: webdav
rses:
  - name: XROOTD
    attributes: {site: a}
    protocols: [{url: "davs://%s/data"}]
  - name: NGINX
    attributes: {site: b}
    distance: 1
    protocols: [{url: "%s"}]
scopes: [{name: ctao}]
write_rules: [{copies: 2, expression: rse_type=DISK}]
cache: {limit: 64MiB, free_floor: 0, head: 0, tail: 0}
catalogue: {grace: 1ms}
journal: {delay: 0s}
`, strings.TrimPrefix(xrootd.HTTPS, "https://"), nginx.HTTP)
	s.dir = filepath.Join(t.TempDir(), "lake")
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "lake.yaml"), []byte(lake), 0o600); err != nil {
		t.Fatal(err)
	}
	s.cache = filepath.Join(s.dir, "cache")
	s.ok("config", "check", s.dir)
	s.ok("init", s.dir)
	for _, rse := range []string{"XROOTD", "NGINX"} {
		rows := s.rows("--lake", s.dir, "rse", "test", rse)
		if len(rows) != 7 { // open, write, read, a small read, checksum, list, delete
			t.Errorf("rse test %s: %v", rse, rows)
		}
	}
	nginx.Kill()
	if r := s.try("--lake", s.dir, "rse", "test", "NGINX"); r.code == 0 || !strings.Contains(r.out+r.err, "connection refused") {
		t.Errorf("rse test of a dead server: exit %d\n%s%s", r.code, r.out, r.err)
	}
	nginx.Start()
	s.mount()

	data := backendstest.Bytes(7, 5<<20+123)
	file := filepath.Join(s.mnt, "ctao/run1/events with space.fits")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(s.mnt, "ctao/run1/empty")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.drain()

	// files are those of a server, without unfinished uploads.
	files := func(srv *servertest.Server) (out []string) {
		err := filepath.WalkDir(srv.Dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				out = append(out, p)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	wait := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: XRootD has %q, nginx %q\n%s", what, files(xrootd), files(nginx), s.log)
			}
		}
	}
	wait("two copies of two files", func() bool { return len(files(xrootd)) == 2 && len(files(nginx)) == 2 })
	for _, srv := range []*servertest.Server{xrootd, nginx} {
		found := false
		for _, f := range files(srv) {
			b, err := os.ReadFile(f)
			found = found || err == nil && bytes.Equal(b, data)
		}
		if !found {
			t.Errorf("%s has no whole copy", srv.Dir)
		}
	}
	wait("both are registered", func() bool {
		return len(s.rows("replicas", file)) == 2
	})
	s.ok("verify", file)

	read := func(what string) {
		t.Helper()
		s.ok("evict", file)
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %s: %d bytes, %v", what, len(got), err)
		}
	}
	read("with both")
	xrootd.Kill()
	read("without XRootD")
	xrootd.Start()
	nginx.Kill()
	read("without nginx")
	nginx.Start()

	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	s.umount()
	s.mount() // begins with a look for what has to go
	wait("deletion", func() bool { return len(files(xrootd)) == 0 && len(files(nginx)) == 0 })
}
