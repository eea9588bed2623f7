package rest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"tarn/backends"
	"tarn/backends/servertest"
)

// by gives a client of a real server that logs in in another way.
func by(t *testing.T, srv *servertest.RucioServer, c Config, change ...func(*Options)) *Client {
	t.Helper()
	c.Host, c.CA = srv.URL, srv.CA
	o := Options{Config: c, Patience: -1}
	for _, f := range change {
		f(&o)
	}
	cl, err := New(o)
	must(t, err)
	t.Cleanup(cl.Close)
	return cl
}

func logsInAs(t *testing.T, c *Client, want string) {
	t.Helper()
	if a, err := c.WhoAmI(t.Context()); err != nil || a != want {
		t.Errorf("%s: %q, %v", c.o.Config.AuthType, a, err)
	}
	if a, expires := c.Account(); a != want || time.Until(expires) < 30*time.Minute || time.Until(expires) > 2*time.Hour {
		t.Errorf("%s: account %q until %v", c.o.Config.AuthType, a, expires)
	}
}

func refused(t *testing.T, c *Client, want error, words string) {
	t.Helper()
	_, err := c.WhoAmI(t.Context())
	if !errors.Is(err, want) || !strings.Contains(err.Error(), words) || backends.IsTemporary(err) {
		t.Errorf("%s: %v, want %v and %q", c.o.Config.AuthType, err, want, words)
	}
}

func TestPasswords(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		for _, password := range []string{"geheim", "it's # % 100", "schlüssel£ÿ"} {
			name := r.Unique("pw")
			r.AddIdentity(r.name, "USERPASS", name, password)
			logsInAs(t, by(t, r.RucioServer, Config{AuthType: Userpass, Account: r.name, Username: name, Password: password}), r.name)
			wrong := by(t, r.RucioServer, Config{AuthType: Userpass, Account: r.name, Username: name, Password: password + "x"})
			refused(t, wrong, backends.ErrPermission, "CannotAuthenticate")
			if _, err := wrong.WhoAmI(t.Context()); strings.Contains(err.Error(), password) {
				t.Errorf("the password is in the error: %v", err)
			}
		}
		refused(t, by(t, r.RucioServer, Config{AuthType: Userpass, Account: "nosuch", Username: r.name, Password: servertest.RucioPassword}), backends.ErrPermission, "CannotAuthenticate")
		refused(t, by(t, r.RucioServer, Config{AuthType: OIDC}, func(o *Options) { o.Token = func() (string, error) { return "made-up", nil } }), backends.ErrPermission, "")
	})
}

func TestSSH(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		must(t, err)
		pub, err := ssh.NewPublicKey(&key.PublicKey)
		must(t, err)
		r.AddIdentity(r.name, "SSH", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))+" "+r.name+"@localhost", "")
		dir := t.TempDir()
		write := func(name string, block *pem.Block, err error) string {
			t.Helper()
			must(t, err)
			file := filepath.Join(dir, name)
			must(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
			return file
		}
		block, err := ssh.MarshalPrivateKey(key, "")
		good := write("good", block, err)
		logsInAs(t, by(t, r.RucioServer, Config{AuthType: SSH, Account: r.name, SSHKey: good}), r.name)

		other, err := rsa.GenerateKey(rand.Reader, 2048)
		must(t, err)
		block, err = ssh.MarshalPrivateKey(other, "")
		refused(t, by(t, r.RucioServer, Config{AuthType: SSH, Account: r.name, SSHKey: write("other", block, err)}), backends.ErrPermission, "CannotAuthenticate")
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("geheim"))
		refused(t, by(t, r.RucioServer, Config{AuthType: SSH, Account: r.name, SSHKey: write("locked", block, err)}), backends.ErrPermission, "passphrase")
		_, ed, err := ed25519.GenerateKey(rand.Reader)
		must(t, err)
		block, err = ssh.MarshalPrivateKey(ed, "")
		refused(t, by(t, r.RucioServer, Config{AuthType: SSH, Account: r.name, SSHKey: write("ed", block, err)}), backends.ErrNotSupported, "ssh-rsa")
		must(t, os.Chmod(good, 0o644))
		refused(t, by(t, r.RucioServer, Config{AuthType: SSH, Account: r.name, SSHKey: good}), backends.ErrPermission, "alone")
		refused(t, by(t, r.RucioServer, Config{AuthType: SSH, Account: r.name, SSHKey: filepath.Join(dir, "nosuch")}), backends.ErrPermission, "nosuch")
	})
}

func TestCertificates(t *testing.T) {
	p := servertest.NewPKI(t)
	srv := servertest.Rucio(t, servertest.RucioOptions{PKI: p})
	srv.AddAccount("alice")
	srv.AddIdentity("alice", "X509", servertest.RucioDN(p.User), "")
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	p.User.Write(t, cert, key)
	logsInAs(t, by(t, srv, Config{AuthType: X509, Account: "alice", Cert: cert, Key: key}), "alice")
	proxy := p.Proxy(t, time.Hour)
	logsInAs(t, by(t, srv, Config{AuthType: X509Proxy, Account: "alice", Proxy: proxy}), "alice")
	logsInAs(t, by(t, srv, Config{AuthType: X509Proxy, Proxy: proxy}), "alice") // the server finds the account
	logsInAs(t, by(t, srv, Config{AuthType: X509Proxy, Account: "alice"}, func(o *Options) {
		o.Proxy = func() (tls.Certificate, error) { return tls.LoadX509KeyPair(proxy, proxy) }
	}), "alice")

	strange := filepath.Join(dir, "strange.pem")
	p.CA.User(t, "Stranger").WriteProxy(t, strange)
	refused(t, by(t, srv, Config{AuthType: X509Proxy, Account: "alice", Proxy: strange}), backends.ErrPermission, "")
	refused(t, by(t, srv, Config{AuthType: X509Proxy, Account: "alice", Proxy: filepath.Join(dir, "nosuch")}), backends.ErrPermission, "nosuch")
	// A server of an authority that is not trusted gets neither certificate nor password.
	c, err := New(Options{Config: Config{Host: srv.URL, AuthType: Userpass, Account: "root", Username: "root", Password: servertest.RucioPassword}})
	must(t, err)
	defer c.Close()
	refused(t, c, backends.ErrUnavailable, "certificate")
	// X509_CERT_DIR's form of a folder.
	c = by(t, srv, Config{AuthType: Userpass, Account: "root", Username: "root", Password: servertest.RucioPassword}, func(o *Options) { o.Config.CA = p.Certificates })
	logsInAs(t, c, "root")
}

// A token that ends at the server before its time is got anew.
func TestTokenEndsAtServer(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		c := r.user
		logsInAs(t, c, r.name)
		c.mu.Lock()
		before := c.token.value
		c.token.value = before + "x" // as good as ended
		c.mu.Unlock()
		logsInAs(t, c, r.name)
		if n := c.Calls()["GET /auth/userpass"]; n != 2 {
			t.Errorf("%d logins", n)
		}
		// A refusal is none of the token's.
		if err := c.AddScope(t.Context(), r.name, r.Unique("sc")); !errors.Is(err, backends.ErrPermission) || !Is(err, "AccessDenied") {
			t.Errorf("a scope made by a plain user: %v", err)
		}
		if n := c.Calls()["GET /auth/userpass"]; n != 2 {
			t.Errorf("%d logins after a refusal", n)
		}
	})
}

func TestTokenFile(t *testing.T) {
	f := newFake(t, nil)
	dir := filepath.Join(t.TempDir(), "tokens")
	login := func(at time.Duration) *Client {
		t.Helper()
		c := f.client(t, func(o *Options) { o.TokenDir = dir; o.Now = func() time.Time { return time.Now().Add(at) } })
		must(t, c.Login(t.Context()))
		return c
	}
	logins := func(want int64) {
		t.Helper()
		if n := f.logins.Load(); n != want {
			t.Errorf("%d logins, want %d", n, want)
		}
	}
	c := login(0)
	logins(1)
	fi, err := os.Stat(c.tokenFile())
	must(t, err)
	folder, err := os.Stat(dir)
	must(t, err)
	if fi.Mode().Perm() != 0o600 || folder.Mode().Perm() != 0o700 {
		t.Errorf("modes %v, %v", fi.Mode(), folder.Mode())
	}
	login(0)
	logins(1)
	login(time.Hour - early) // not good for long
	logins(2)
	must(t, os.Chmod(c.tokenFile(), 0o644)) // others may have put it there
	login(0)
	logins(3)
	must(t, os.WriteFile(c.tokenFile(), []byte("x"), 0o600))
	old := login(0)
	logins(4)
	stale := old.token
	must(t, os.Remove(c.tokenFile()))
	login(0) // another program has renewed it
	logins(5)
	old.forget(stale)
	must(t, old.Login(t.Context()))
	logins(5)
	if old.token.value == stale.value {
		t.Error("the token that was dropped is in use")
	}
}
