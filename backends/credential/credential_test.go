package credential

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/servertest"
)

// source is one with an environment and a folder for default files.
func source(t *testing.T, vars map[string]string) (*Source, string) {
	t.Helper()
	dir := t.TempDir()
	return New(Options{Getenv: func(k string) string { return vars[k] }, UID: os.Geteuid(), TmpDir: dir, SystemDir: filepath.Join(dir, "none")}), dir
}

func write(t *testing.T, file, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
}

func jwt(sub string, exp time.Time) string {
	body := fmt.Sprintf(`{"sub":%q,"exp":%d}`, sub, exp.Unix())
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(body)) + ".c2ln"
}

// The order of WLCG's Bearer Token Discovery.
func TestTokensAreFoundInTheOrderOfWLCG(t *testing.T) {
	vars := map[string]string{}
	s, tmp := source(t, vars)
	run := t.TempDir()
	name := fmt.Sprintf("bt_u%d", os.Geteuid())
	want := func(secret, from string) {
		t.Helper()
		if got, err := s.Token(); err != nil || got.Secret != secret || got.From != from {
			t.Errorf("got %q of %q, %v; want %q of %q", got.Secret, got.From, err, secret, from)
		}
	}
	want("", "")
	write(t, filepath.Join(tmp, name), "one\n", 0o600)
	want("one", filepath.Join(tmp, name))
	vars["XDG_RUNTIME_DIR"] = run
	want("one", filepath.Join(tmp, name))
	write(t, filepath.Join(run, name), "\ttwo", 0o600)
	want("two", filepath.Join(run, name))
	file := filepath.Join(run, "mine")
	write(t, file, "three", 0o600)
	vars["BEARER_TOKEN_FILE"] = file
	want("three", file)
	vars["BEARER_TOKEN"] = " four\n"
	want("four", "BEARER_TOKEN")
}

func TestTokensAreReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	s, _ := source(t, map[string]string{"BEARER_TOKEN_FILE": file})
	if _, err := s.Token(); !errors.Is(err, backends.ErrPermission) {
		t.Errorf("a named file that is not there: %v", err)
	}
	for i := range 20 { // of the same length, and within the clock's grain
		write(t, file, fmt.Sprintf("token%02d", i), 0o600)
		if got, err := s.Token(); err != nil || got.Secret != fmt.Sprintf("token%02d", i) {
			t.Fatalf("token %d: %q, %v", i, got.Secret, err)
		}
	}
}

func TestTokensThatAreOfNoUse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	s, _ := source(t, map[string]string{"BEARER_TOKEN_FILE": file})
	for what, text := range map[string]string{
		"expired": jwt("ada", time.Now().Add(-time.Minute)), "empty": "\n", "two lines": "s3cr3t-a\ns3cr3t-b", "too long": strings.Repeat("s3cr3t-x", maxFile),
	} {
		write(t, file, text, 0o600)
		got, err := s.Token()
		if err == nil || got.Secret != "" || strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(s.Hint(false), file) {
			t.Errorf("%s: %q, %v, %s", what, got.Secret, err, s.Hint(false))
		}
	}
	write(t, file, jwt("ada", time.Now().Add(time.Minute)), 0o600)
	if got, err := s.Token(); err != nil || got.Subject != "ada" || got.Secret == "" {
		t.Errorf("%+v, %v", got, err)
	}
	if l := s.List(); len(l) != 1 || l[0].Name != "ada" || l[0].Problem != "" {
		t.Errorf("list: %+v", l)
	}
}

func TestProxies(t *testing.T) {
	pki := servertest.NewPKI(t)
	vars := map[string]string{}
	s, tmp := source(t, vars)
	if p, err := s.Proxy(); err != nil || p.Cert != nil {
		t.Errorf("none: %+v, %v", p, err)
	}
	file := filepath.Join(tmp, fmt.Sprintf("x509up_u%d", os.Geteuid()))
	pki.User.Proxy(t, time.Hour).WriteProxy(t, file)
	p, err := s.Proxy()
	if err != nil || p.Cert == nil || p.Subject != pki.User.DN() || time.Until(p.Expires) > time.Hour || len(p.Cert.Certificate) != 2 {
		t.Errorf("default place: %+v, %v", p, err)
	}
	vars["X509_USER_PROXY"] = filepath.Join(tmp, "named")
	if _, err := s.Proxy(); !errors.Is(err, backends.ErrPermission) {
		t.Errorf("a named one that is not there: %v", err)
	}
	pki.User.Proxy(t, -time.Minute).WriteProxy(t, vars["X509_USER_PROXY"])
	if p, err := s.Proxy(); !errors.Is(err, backends.ErrPermission) || p.Cert != nil || !strings.Contains(err.Error(), "expired at") || !s.Expired() {
		t.Errorf("expired: %v", err)
	}
	pki.User.Proxy(t, time.Hour).WriteProxy(t, vars["X509_USER_PROXY"])
	if p, err := s.Proxy(); err != nil || p.Cert == nil || s.Expired() {
		t.Errorf("renewed: %v", err)
	}
	if err := os.Chmod(vars["X509_USER_PROXY"], 0o644); err != nil {
		t.Fatal(err)
	}
	s2, _ := source(t, vars)
	if p, err := s2.Proxy(); !errors.Is(err, backends.ErrPermission) || p.Cert != nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by all: %v", err)
	}
	write(t, vars["X509_USER_PROXY"], "nothing", 0o600)
	if _, err := s2.Proxy(); !errors.Is(err, backends.ErrDamaged) {
		t.Errorf("no proxy at all: %v", err)
	}
}

// server makes TLS with an identity and tells what certificates it was shown.
func server(t *testing.T, id *servertest.Identity) (addr string, shown chan int) {
	t.Helper()
	shown = make(chan int, 10)
	l, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{id.Cert.Raw}, PrivateKey: id.Key}}, ClientAuth: tls.RequestClientCert,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if tc := c.(*tls.Conn); tc.Handshake() == nil {
				shown <- len(tc.ConnectionState().PeerCertificates)
			}
			c.Close()
		}
	}()
	return l.Addr().String(), shown
}

func handshake(t *testing.T, s *Source, host, addr string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := s.Handshake(ctx, host, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp4", addr)
	})
	if err == nil {
		c.Close()
	}
	return err
}

func TestHandshake(t *testing.T) {
	pki, other := servertest.NewPKI(t), servertest.NewPKI(t)
	vars := map[string]string{"X509_CERT_DIR": pki.Certificates}
	s, _ := source(t, vars)
	addr, shown := server(t, pki.Host)
	if err := handshake(t, s, "localhost", addr); err != nil {
		t.Fatal(err)
	}
	if n := <-shown; n != 0 {
		t.Errorf("%d certificates were shown without a proxy", n)
	}
	vars["X509_USER_PROXY"] = pki.Proxy(t, time.Hour)
	if err := handshake(t, s, "localhost", addr); err != nil {
		t.Fatal(err)
	}
	if n := <-shown; n != 2 {
		t.Errorf("%d certificates were shown with a proxy", n)
	}
	if err := handshake(t, s, "example.org", addr); err == nil {
		t.Error("a certificate for localhost passes for example.org")
	}
	strange, _ := server(t, other.Host)
	if err := handshake(t, s, "localhost", strange); err == nil {
		t.Error("an unknown authority passes")
	}
	other.CA.Trust(t, pki.Certificates)
	if err := handshake(t, s, "localhost", strange); err != nil {
		t.Errorf("the authority that came: %v", err)
	}
	other.CA.Distrust(t, pki.Certificates)
	time.Sleep(1100 * time.Millisecond) // the folder's time is looked at
	if err := handshake(t, s, "localhost", strange); err == nil {
		t.Error("the authority that went still passes")
	}
	pki.CA.Revoke(pki.Host)
	pki.CA.Trust(t, pki.Certificates)
	if err := handshake(t, s, "localhost", addr); !errors.Is(err, ErrRevoked) {
		t.Errorf("a revoked certificate: %v", err)
	}
	// A list that somebody else has signed says nothing.
	write(t, filepath.Join(pki.Certificates, "00000000.0"), "garbage", 0o644)
	fresh := servertest.NewPKI(t)
	vars["X509_CERT_DIR"] = fresh.Certificates
	good, _ := server(t, fresh.Host)
	if err := handshake(t, s, "localhost", good); err != nil {
		t.Errorf("another folder: %v", err)
	}
	vars["X509_CERT_DIR"] = filepath.Join(t.TempDir(), "none")
	if err := handshake(t, s, "localhost", good); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "X509_CERT_DIR") {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// A certificate of old, with "host/NAME" as its CN and of any use, is a grid service's but no web server's.
func TestGSIConfig(t *testing.T) {
	pki := servertest.NewPKI(t)
	s, _ := source(t, map[string]string{"X509_CERT_DIR": pki.Certificates, "X509_USER_PROXY": pki.Proxy(t, time.Hour)})
	addr, shown := server(t, pki.CA.User(t, "host/localhost"))
	try := func(host string) error {
		c, err := tls.Dial("tcp4", addr, s.GSIConfig(host))
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := try("localhost"); err != nil {
		t.Fatal(err)
	}
	if n := <-shown; n != 2 {
		t.Errorf("%d certificates were shown", n)
	}
	if err := try("example.org"); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "use that name") {
		t.Errorf("another host: %v", err)
	}
	if err := handshake(t, s, "localhost", addr); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("as a web server's: %v", err)
	}
}

func FuzzToken(f *testing.F) {
	f.Add("a.b.c")
	f.Add(jwt("x", time.Unix(1<<33, 0)))
	f.Fuzz(func(t *testing.T, text string) {
		if tok, err := parseToken(text, "x"); err == nil && strings.ContainsAny(tok.Secret, "\r\n ") {
			t.Errorf("%q", tok.Secret)
		}
	})
}

// Files that are named are the only credentials, are read again as the others are, and belong to their owner alone.
func TestNamedFiles(t *testing.T) {
	pki := servertest.NewPKI(t)
	vars := map[string]string{"BEARER_TOKEN": jwt("env", time.Now().Add(time.Hour)), "X509_USER_PROXY": pki.Proxy(t, time.Hour), "X509_CERT_DIR": pki.Certificates}
	s, dir := source(t, vars)
	other := pki.CA.User(t, "Another One")
	proxy, token := filepath.Join(dir, "proxy"), filepath.Join(dir, "token")
	other.Proxy(t, time.Hour).WriteProxy(t, proxy)
	write(t, token, jwt("mine", time.Now().Add(time.Hour)), 0o600)
	if again := s.Of(Files{Proxy: proxy}); s.Of(Files{}) != s || s.Of(Files{Proxy: proxy}) != again || s.Named() != (Files{}) {
		t.Error("not the same source")
	}
	for _, c := range []struct {
		files    Files
		dn, name string
	}{{Files{}, pki.User.DN(), "env"}, {Files{Proxy: proxy}, other.DN(), ""}, {Files{Token: token}, "", "mine"}, {Files{Proxy: proxy, Token: token}, other.DN(), "mine"}} {
		own := s.Of(c.files)
		p, perr := own.Proxy()
		tok, terr := own.Token()
		if perr != nil || terr != nil || p.Subject != c.dn || (p.Cert != nil) != (c.dn != "") || tok.Subject != c.name || own.Named() != c.files {
			t.Errorf("%+v: %q (%v), %q (%v)", c.files, p.Subject, perr, tok.Subject, terr)
		}
		if a := own.Authorities(); a.Trusted != 1 {
			t.Errorf("%+v: %+v", c.files, a)
		}
	}
	if l := s.Of(Files{Token: token}).List(); len(l) != 1 || l[0].Name != "mine" {
		t.Errorf("list: %+v", l)
	}
	own := s.Of(Files{Proxy: proxy, Token: token})
	write(t, token, jwt("renewed", time.Now().Add(time.Hour)), 0o600)
	if tok, err := own.Token(); err != nil || tok.Subject != "renewed" {
		t.Errorf("renewed: %+v, %v", tok, err)
	}
	write(t, token, jwt("open", time.Now().Add(time.Hour)), 0o640)
	if tok, err := own.Token(); !errors.Is(err, backends.ErrPermission) || tok.Secret != "" || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by others: %v", err)
	}
	if s.Expired() {
		t.Error("expired")
	}
	write(t, token, jwt("late", time.Now().Add(-time.Hour)), 0o600)
	if _, err := own.Token(); !errors.Is(err, backends.ErrExpired) || !s.Expired() {
		t.Errorf("expired: %v", err)
	}
	os.Remove(token)
	os.Remove(proxy)
	for _, err := range []error{second(own.Token()), second(own.Proxy())} {
		if !errors.Is(err, backends.ErrPermission) || !strings.Contains(err.Error(), dir) {
			t.Errorf("not there: %v", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
