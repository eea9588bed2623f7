package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends/servertest"
)

// later does something in the background and gives a function that waits for it.
func later(d time.Duration, f func()) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(d)
		f()
	}()
	return func() { <-done }
}

// away is how long what a reader needs is not there.
const away = 6 * time.Second

// waits reads through the trouble and wants a pause that is no longer than the trouble needs.
func (p *pair) waits(trouble func() (over func())) {
	p.t.Helper()
	over := func() {}
	pause := p.read(func() { over = trouble() })
	over()
	p.t.Logf("the longest pause was %v", pause)
	if pause < time.Second || pause > away+15*time.Second {
		p.t.Errorf("the longest pause was %v, with trouble for %v", pause, away)
	}
	if s := p.state("ONE"); s != "AVAILABLE" {
		p.t.Errorf("the copy is %s", s)
	}
}

// R13: a proxy that expires in mid read is renewed: the reader, whom the server refuses meanwhile, goes on by itself.
func TestProxyIsRenewedInMidRead(t *testing.T) {
	pki := identity(t)
	xrd := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Authorize: true})
	ftp := servertest.GridFTP(t, servertest.GridFTPOptions{PKI: pki})
	for name, c := range map[string]struct {
		srv *servertest.Server
		url string
	}{
		"XRootD over HTTPS": {xrd, "davs" + strings.TrimPrefix(xrd.HTTPS, "https") + "/data"},
		"GridFTP":           {ftp, ftp.FTP + ftp.Dir},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "proxy")
			t.Setenv("X509_USER_PROXY", file)
			pki.User.Proxy(t, time.Hour).WriteProxy(t, file)
			p := newPair(t, "", c.url)
			p.waits(func() func() {
				pki.User.Proxy(t, -time.Minute).WriteProxy(t, file)
				c.srv.Kill() // connections that are open are not asked again
				c.srv.Start()
				return later(away, func() { pki.User.Proxy(t, time.Hour).WriteProxy(t, file) })
			})
		})
	}
}

// R13, for a token, which goes with each request.
func TestTokenIsRenewedInMidRead(t *testing.T) {
	pki := identity(t)
	t.Setenv("X509_USER_PROXY", "")
	issuer := servertest.NewIssuer(t, pki)
	xrd := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Authorize: true, Issuer: issuer})
	file := filepath.Join(t.TempDir(), "token")
	write := func(life time.Duration) {
		token := []byte(issuer.Token(t, "storage.read:/ storage.modify:/", life))
		if err := os.WriteFile(file+".new", token, 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Error(err)
		}
	}
	write(time.Hour)
	t.Setenv("BEARER_TOKEN_FILE", file)
	p := newPair(t, "", "davs"+strings.TrimPrefix(xrd.HTTPS, "https")+"/data")
	p.waits(func() func() {
		write(-time.Minute)
		return later(away, func() { write(time.Hour) })
	})
}

// R13: a server that comes back with a certificate of another authority is trusted when that authority arrives.
func TestAuthorityArrivesInMidRead(t *testing.T) {
	pki := identity(t)
	srv := servertest.NGINX(t, servertest.NGINXOptions{PKI: pki})
	p := newPair(t, "", "davs"+strings.TrimPrefix(srv.HTTPS, "https"))
	p.waits(func() func() {
		other := servertest.NewAuthority(t, "Other CA")
		srv.Kill()
		other.Host(t, "localhost", "127.0.0.1").Write(t, filepath.Join(pki.Dir, "hostcert.pem"), filepath.Join(pki.Dir, "hostkey.pem"))
		srv.Start()
		return later(away, func() { other.Trust(t, pki.Certificates) })
	})
}
