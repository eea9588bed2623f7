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
	"tarn/backends/storage/xrootd"
	"tarn/integration/needed"
)

// TestLakeOnWebDAV is the journey on an XRootD with TLS and a proxy, and an nginx.
func TestLakeOnWebDAV(t *testing.T) {
	pki := identity(t)
	xrootd := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Authorize: true})
	nginx := servertest.NGINX(t, servertest.NGINXOptions{})
	journey(t, xrootd, nginx, "davs://"+strings.TrimPrefix(xrootd.HTTPS, "https://")+"/data", nginx.HTTP)
}

// TestLakeOnGridFTP is the journey on a GridFTP server with GSI and an anonymous one.
func TestLakeOnGridFTP(t *testing.T) {
	gsi := servertest.GridFTP(t, servertest.GridFTPOptions{PKI: identity(t)})
	anon := servertest.GridFTP(t, servertest.GridFTPOptions{})
	journey(t, gsi, anon, gsi.FTP+gsi.Dir, anon.FTP+anon.Dir)
}

// TestLakeOnXRootD is the journey on a server with GSI and TLS, and an anonymous one behind a redirector.
func TestLakeOnXRootD(t *testing.T) {
	needXrdCl(t)
	one := servertest.XRootD(t, servertest.XRootDOptions{PKI: identity(t), Login: []string{"gsi"}, Authorize: true})
	two := servertest.XRootD(t, servertest.XRootDOptions{})
	front := servertest.XRootD(t, servertest.XRootDOptions{Redirect: two})
	journey(t, one, two, one.Roots+"//data", front.Root+"//data")
}

// TestLakeWithTokens is the journey on two servers that let in one person each, by a token that only the protocol names.
func TestLakeWithTokens(t *testing.T) {
	for _, scheme := range []string{"davs", "roots"} {
		t.Run(scheme, func(t *testing.T) {
			if scheme == "roots" {
				needXrdCl(t)
			}
			pki := identity(t)
			t.Setenv("X509_USER_PROXY", "")
			var srv []*servertest.Server
			var urls []string
			for range 2 {
				issuer := servertest.NewIssuer(t, pki)
				file := filepath.Join(t.TempDir(), "token")
				if err := os.WriteFile(file, []byte(issuer.Token(t, "storage.read:/ storage.create:/ storage.modify:/", time.Hour)), 0o600); err != nil {
					t.Fatal(err)
				}
				one := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Issuer: issuer, Authorize: true, Login: []string{"ztn"}})
				url := one.Roots + "//data"
				if scheme == "davs" {
					url = "davs" + strings.TrimPrefix(one.HTTPS, "https") + "/data"
				}
				srv, urls = append(srv, one), append(urls, url+", token: "+file)
			}
			journey(t, srv[0], srv[1], urls...)
		})
	}
}

// TestLakeOnS3 is the journey on a server with TLS, by keys of the environment, and a plain one, by a file of keys.
func TestLakeOnS3(t *testing.T) {
	tls, plain := servertest.S3(t, servertest.S3Options{PKI: identity(t)}), servertest.S3(t, servertest.S3Options{})
	t.Setenv("AWS_ACCESS_KEY_ID", servertest.S3Access)
	t.Setenv("AWS_SECRET_ACCESS_KEY", servertest.S3Secret)
	keys := filepath.Join(t.TempDir(), "keys")
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", servertest.S3Access, servertest.S3Secret)
	if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	journey(t, tls, plain, tls.S3+"/lake/one", fmt.Sprintf("%s/lake, keys: %s, style: path", plain.S3, keys))
}

// needXrdCl is for tests of root://.
func needXrdCl(t testing.TB) {
	t.Helper()
	needed.Server(t)
	if xrootd.Library() == "" {
		missing(t, "this build is without libXrdCl (make test sets the tag xrdcl where libxrootd-client-dev is)")
	}
}

// identity gives the daemon a proxy and the authority behind it.
func identity(t *testing.T) *servertest.PKI {
	pki := servertest.NewPKI(t)
	t.Setenv("X509_CERT_DIR", pki.Certificates)
	t.Setenv("X509_USER_PROXY", pki.Proxy(t, time.Hour))
	t.Setenv("BEARER_TOKEN", "")
	return pki
}

// journey is the whole way of a file on a lake whose storages are two servers, at the given URLs: written
// with two copies, verified, read from either, also while one is away, and deleted. Behind a URL more of its protocol may
// stand, as in the lake file.
func journey(t *testing.T, one, two *servertest.Server, urls ...string) {
	s := elsewhere(t, urls...)
	for _, rse := range []string{"ONE", "TWO"} {
		rows := s.rows("--lake", s.dir, "rse", "test", rse)
		if len(rows) != 7 { // open, write, read, a small read, checksum, list, delete
			t.Errorf("rse test %s: %v", rse, rows)
		}
	}
	two.Kill()
	if r := s.try("--lake", s.dir, "rse", "test", "TWO"); r.code == 0 || !strings.Contains(r.out+r.err, "connection refused") {
		t.Errorf("rse test of a dead server: exit %d\n%s%s", r.code, r.out, r.err)
	}
	two.Start()
	s.mount()

	data := backendstest.Bytes(7, 9<<20+123)
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

	wait := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: one has %q, two %q\n%s", what, stored(t, one), stored(t, two), s.log)
			}
		}
	}
	wait("two copies of two files", func() bool { return len(stored(t, one)) == 2 && len(stored(t, two)) == 2 })
	for _, srv := range []*servertest.Server{one, two} {
		found := false
		for _, f := range stored(t, srv) {
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
	one.Kill()
	read("without one")
	one.Start()
	two.Kill()
	read("without two")
	two.Start()

	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	s.umount()
	s.mount() // begins with a look for what has to go
	wait("deletion", func() bool { return len(stored(t, one)) == 0 && len(stored(t, two)) == 0 })
}

// elsewhere is a lake of two storages at these URLs, on which every file is to have two copies.
func elsewhere(t *testing.T, urls ...string) *site {
	return newLake(t, fmt.Sprintf(`name: elsewhere
rses:
  - name: ONE
    attributes: {site: a}
    protocols: [{url: %s}]
  - name: TWO
    attributes: {site: b}
    distance: 1
    protocols: [{url: %s}]
scopes: [{name: ctao}]
write_rules: [{copies: 2, expression: rse_type=DISK}]
cache: {limit: 64MiB, free_floor: 0, head: 0, tail: 0}
catalogue: {grace: 1ms}
journal: {delay: 0s}
`, urls[0], urls[1]))
}

// stored are the files of a server.
func stored(t testing.TB, srv *servertest.Server) (out []string) {
	t.Helper()
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
