package gridftp

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/credential"
	"tarn/backends/servertest"
)

func stat(t *testing.T, s *Storage) error {
	t.Helper()
	_, err := s.Stat(t.Context(), "")
	return err
}

func TestVersionsOfTLS(t *testing.T) {
	r := grid(t)
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		if err := stat(t, r.open(t, func(o *Options) { o.maxTLS = v })); err != nil {
			t.Errorf("%s: %v", tls.VersionName(v), err)
		}
	}
}

func TestNotInTheGridMap(t *testing.T) {
	pki := servertest.NewPKI(t)
	s := gridOf(t, servertest.GridFTPOptions{PKI: pki, DNs: []string{"/DC=org/CN=Somebody else"}}).open(t, nil)
	want(t, "stat", stat(t, s), backends.ErrPermission, "grid-mapfile", "530")
	want(t, "put", put(s, "f", nil), backends.ErrPermission)
}

func TestProxyExpiredAndRenewed(t *testing.T) {
	r := grid(t)
	file := filepath.Join(t.TempDir(), "proxy")
	s := r.open(t, func(o *Options) { o.Credentials = identity(file, r.pki.Certificates) })
	want(t, "no proxy", stat(t, s), backends.ErrPermission, "voms-proxy-init", file)
	r.pki.User.Proxy(t, -time.Hour).WriteProxy(t, file)
	want(t, "expired proxy", stat(t, s), backends.ErrPermission, "expired at", "voms-proxy-init")
	// The server's clock decides when ours is wrong.
	late := r.open(t, func(o *Options) {
		o.Credentials = credential.New(credential.Options{
			UID: os.Geteuid(), Getenv: env(file, r.pki.Certificates), Now: func() time.Time { return time.Now().Add(-20 * time.Minute) },
		})
	})
	r.pki.User.Proxy(t, -10*time.Minute).WriteProxy(t, file)
	want(t, "expired proxy, with a slow clock", stat(t, late), backends.ErrPermission, "refuses the certificate")
	r.pki.User.Proxy(t, time.Hour).WriteProxy(t, file)
	if err := stat(t, s); err != nil {
		t.Errorf("a renewed proxy: %v", err)
	}
	write(t, file, []byte("no proxy"))
	s2 := r.open(t, func(o *Options) { o.Credentials = identity(file, r.pki.Certificates) })
	want(t, "nonsense", stat(t, s2), backends.ErrPermission, "it is none")
}

func TestRevokedUser(t *testing.T) {
	r := grid(t)
	s := r.open(t, nil)
	if err := stat(t, s); err != nil {
		t.Fatal(err)
	}
	r.pki.CA.Revoke(r.pki.User)
	r.pki.CA.Trust(t, r.pki.Certificates)
	want(t, "a new session", stat(t, r.open(t, nil)), backends.ErrPermission, "refuses the certificate")
}

func TestRevokedHost(t *testing.T) {
	r := grid(t)
	r.pki.CA.Revoke(r.pki.Host)
	r.pki.CA.Trust(t, r.pki.Certificates)
	want(t, "stat", stat(t, r.open(t, nil)), backends.ErrUnavailable, "revoked")
}

// The host's certificate comes from an authority that nobody knows, until it is installed: no restart of anything.
func TestNewAuthorityAtRunTime(t *testing.T) {
	pki := servertest.NewPKI(t)
	young := servertest.NewAuthority(t, "Young CA")
	pki.Host = young.Host(t, "localhost")
	r := gridOf(t, servertest.GridFTPOptions{PKI: pki})
	young.Trust(t, pki.Certificates) // the server wants to know its own
	ours := t.TempDir()
	pki.CA.Trust(t, ours)
	s := r.open(t, func(o *Options) { o.Credentials = identity(r.proxy, ours) })
	want(t, "unknown authority", stat(t, s), backends.ErrUnavailable, backends.ErrTemporary, "Young CA", "install")
	young.Trust(t, ours)
	if err := stat(t, s); err != nil {
		t.Errorf("after it was installed: %v", err)
	}
}

func TestOtherHostName(t *testing.T) {
	pki := servertest.NewPKI(t)
	pki.Host = pki.CA.Host(t, "se.example.org")
	s := gridOf(t, servertest.GridFTPOptions{PKI: pki}).open(t, nil)
	want(t, "stat", stat(t, s), backends.ErrUnavailable, "se.example.org")
}

func TestWrongDoor(t *testing.T) {
	for url, words := range map[string][]any{
		"ftp://no-such-host.invalid/x": {backends.ErrUnavailable, backends.ErrTemporary, "does not resolve"},
		"ftp://127.0.0.1:1/x":          {backends.ErrUnavailable, backends.ErrTemporary, "refused"},
	} {
		s, err := Open(Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		want(t, url, stat(t, s), words...)
		s.Close()
	}
	r := anonymous(t)
	g := grid(t)
	s := g.open(t, func(o *Options) { o.URL = "gsiftp" + r.FTP[len("ftp"):] + r.Dir })
	want(t, "gsiftp to a server without", stat(t, s), backends.ErrNotSupported)
	s = r.open(t, func(o *Options) { o.URL = "ftp" + g.FTP[len("gsiftp"):] + g.Dir })
	want(t, "anonymous at a grid's server", stat(t, s), backends.ErrPermission)
}

// A server may want data channels to be authenticated and encrypted, which ours are not.
func TestServerThatWantsDataEncrypted(t *testing.T) {
	s := gridOf(t, servertest.GridFTPOptions{PKI: servertest.NewPKI(t), Config: "encrypt_data 1"}).open(t, nil)
	want(t, "put", put(s, "f", []byte("x")), backends.ErrNotSupported, "DCAU")
	for _, err := range s.List(t.Context(), "") {
		want(t, "list", err, backends.ErrNotSupported, "DCAU")
	}
}
