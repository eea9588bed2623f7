//go:build xrdcl && cgo

package xrootd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/credential"
	"tarn/backends/servertest"
)

// alone runs a test in a process of its own: the library reads the environment of credentials once in a process.
func alone(t *testing.T, test func(t *testing.T)) {
	const mark = "TARN_XROOTD_ALONE"
	if os.Getenv(mark) == t.Name() {
		test(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v=true", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if strings.Contains(string(out), "--- SKIP") {
		t.Skip(string(out))
	}
}

// environment takes away all credentials but these.
func environment(t *testing.T, vars ...string) {
	for _, name := range []string{"X509_USER_PROXY", "X509_CERT_DIR", "X509_VOMS_DIR", "BEARER_TOKEN", "BEARER_TOKEN_FILE", "XDG_RUNTIME_DIR", "XrdSecSSSKT", "XrdSecPROTOCOL"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	t.Setenv("HOME", t.TempDir())
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

// as is the credentials of a proxy file.
func as(proxy string) *credential.Source {
	return credential.New(credential.Options{UID: os.Geteuid(), TmpDir: "/nonexistent", Getenv: func(name string) string {
		return map[string]string{"X509_USER_PROXY": proxy}[name]
	}})
}

func storage(t *testing.T, o Options) *Storage {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*Storage)
}

func TestContractWithGSI(t *testing.T) {
	alone(t, func(t *testing.T) {
		pki := servertest.NewPKI(t)
		environment(t, "X509_CERT_DIR="+pki.Certificates)
		srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Login: []string{"gsi"}, Authorize: true})
		proxy := pki.Proxy(t, time.Hour)
		for name, base := range map[string]string{"in clear": srv.Root, "TLS": srv.Roots} {
			t.Run(name, func(t *testing.T) {
				backendstest.Storage(t, func(t *testing.T) backends.Storage {
					return storage(t, Options{URL: folder(t, srv, base), Credentials: as(proxy)})
				})
			})
		}
	})
}

// Two people in one process are two to the server, each with what it lets them do; one is a member of the VO by VOMS.
func TestIdentities(t *testing.T) {
	alone(t, func(t *testing.T) {
		pki := servertest.NewPKI(t)
		environment(t, "X509_CERT_DIR="+pki.Certificates)
		srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Login: []string{"gsi"}, Authorize: true})
		member, stranger := pki.CA.User(t, "A Member"), pki.CA.User(t, "A Stranger")
		strange := filepath.Join(t.TempDir(), "proxy")
		stranger.Proxy(t, time.Hour).WriteProxy(t, strange)
		url := folder(t, srv, srv.Root)
		for _, c := range []struct {
			who   string
			proxy string
			want  error
		}{{"mapped", pki.Proxy(t, time.Hour), nil}, {"stranger", strange, backends.ErrPermission}, {"member", pki.VOMSProxy(t, member, "/"+servertest.VO+"/Role=NULL/Capability=NULL"), nil}, {"stranger again", strange, backends.ErrPermission}} {
			s := storage(t, Options{URL: url, Credentials: as(c.proxy)})
			u, err := s.Create(t.Context(), c.who, 1)
			if err == nil {
				u.Write([]byte("x"))
				_, err = u.Commit(t.Context(), backendstest.Sums([]byte("x")))
				u.Abort()
			}
			wantErr(t, c.who, err, c.want)
		}
		if b, _ := os.ReadFile(srv.Log); !strings.Contains(string(b), servertest.GridUser) {
			t.Errorf("the server logged no %s", servertest.GridUser)
		}
	})
}

// A storage with a proxy of its own shows that and never the one of the environment, good or bad.
func TestNamedProxy(t *testing.T) {
	alone(t, func(t *testing.T) {
		pki := servertest.NewPKI(t)
		mapped, strange := pki.Proxy(t, time.Hour), filepath.Join(t.TempDir(), "strange")
		pki.CA.User(t, "A Stranger").Proxy(t, time.Hour).WriteProxy(t, strange)
		expired := filepath.Join(t.TempDir(), "expired")
		pki.User.Proxy(t, -time.Hour).WriteProxy(t, expired)
		environment(t, "X509_CERT_DIR="+pki.Certificates, "X509_USER_PROXY="+mapped)
		srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Login: []string{"gsi"}, Authorize: true})
		url := folder(t, srv, srv.Root)
		of := func(proxy string) *credential.Source { return as(mapped).Of(credential.Files{Proxy: proxy}) }
		for _, c := range []struct {
			who   string
			proxy string
			want  error
		}{{"stranger", strange, backends.ErrPermission}, {"mapped", mapped, nil}, {"expired", expired, backends.ErrPermission}, {"missing", expired + "-not", backends.ErrPermission}} {
			_, err := storage(t, Options{URL: url, Credentials: of(c.proxy)}).Stat(t.Context(), "")
			wantErr(t, c.who, err, c.want)
		}
	})
}

// A proxy that expired, and none at all, are refused with words; a good one that comes in its place works at once.
func TestRenewedProxy(t *testing.T) {
	alone(t, func(t *testing.T) {
		pki := servertest.NewPKI(t)
		environment(t, "X509_CERT_DIR="+pki.Certificates)
		srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Login: []string{"gsi"}, Authorize: true})
		file := pki.Proxy(t, -time.Minute)
		s := storage(t, Options{URL: folder(t, srv, srv.Root), Credentials: as(file)})
		_, err := s.Stat(t.Context(), "")
		wantErr(t, "with an expired proxy", err, backends.ErrPermission)
		if err != nil && !strings.Contains(err.Error(), "expired") {
			t.Errorf("not told that it expired: %v", err)
		}
		pki.User.Proxy(t, time.Hour).WriteProxy(t, file)
		if _, err := s.Stat(t.Context(), ""); err != nil {
			t.Errorf("with a new proxy: %v", err)
		}
	})
}

func TestTokenOverTLS(t *testing.T) {
	alone(t, func(t *testing.T) {
		pki := servertest.NewPKI(t)
		issuer := servertest.NewIssuer(t, pki)
		srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Issuer: issuer, Login: []string{"ztn"}, Authorize: true})
		file := filepath.Join(t.TempDir(), "token")
		token := issuer.Token(t, "storage.read:/ storage.create:/ storage.modify:/", time.Hour)
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		environment(t, "X509_CERT_DIR="+pki.Certificates, "BEARER_TOKEN_FILE="+file)
		s := storage(t, Options{URL: folder(t, srv, srv.Roots)})
		data := backendstest.Bytes(1, 100_000)
		backendstest.Put(t, s, "d/f", data)
		if got, err := backendstest.Get(t.Context(), s, "d/f"); err != nil || string(got) != string(data) {
			t.Errorf("read: %v", err)
		}
		// A token goes to nobody in clear.
		w := newLine(t, strings.TrimPrefix(srv.Roots, "roots://"))
		clear := storage(t, Options{URL: "root://" + w.Addr().String() + "/" + s.end.prefix})
		if _, err := clear.Stat(t.Context(), "d/f"); err != nil { // the library may have gone over to TLS by itself
			wantErr(t, "in clear", err, backends.ErrPermission)
		}
		sent := w.sent()
		if len(sent) == 0 || bytes.Contains(sent, []byte(token)) {
			t.Errorf("%d bytes went to the server in clear; the token among them: %v", len(sent), len(sent) > 0)
		}
	})
}

// withToken is the credentials of a token file that a protocol names, beside an environment with another's.
func withToken(file, env string) *credential.Source {
	return credential.New(credential.Options{UID: os.Geteuid(), TmpDir: "/nonexistent", Getenv: func(name string) string {
		return map[string]string{"BEARER_TOKEN_FILE": env}[name]
	}}).Of(credential.Files{Token: file})
}

// tokenFile is one with a token that an issuer gives for all of /data.
func tokenFile(t *testing.T, i *servertest.Issuer, d time.Duration) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(i.Token(t, "storage.read:/ storage.create:/ storage.modify:/", d)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Two people with a token each are two to the servers of one process, also behind a manager, and neither is who the
// environment has.
func TestTokensOfTwo(t *testing.T) {
	alone(t, func(t *testing.T) {
		if !ownLogin() {
			t.Fatal("the library finds its own XrdSecLoadSecFactory")
		}
		pki := servertest.NewPKI(t)
		var issuers []*servertest.Issuer
		var urls, files []string
		var second *servertest.Server
		for i := range 2 {
			issuers = append(issuers, servertest.NewIssuer(t, pki))
			o := servertest.XRootDOptions{PKI: pki, Issuer: issuers[i], Login: []string{"ztn"}, Authorize: true}
			second = servertest.XRootD(t, o)
			urls, files = append(urls, folder(t, second, second.Roots)), append(files, tokenFile(t, issuers[i], time.Hour))
		}
		environment(t, "X509_CERT_DIR="+pki.Certificates, "BEARER_TOKEN_FILE="+files[0])
		for range 2 { // the second finds the connections of the first
			for i, url := range urls {
				for k, file := range files {
					s := storage(t, Options{URL: url, Credentials: withToken(file, files[0])})
					_, err := s.Stat(t.Context(), "")
					if i == k {
						wantErr(t, "with its token", err, nil)
						backendstest.Put(t, s, "f", []byte("x"))
					} else {
						wantErr(t, "with the other's", err, backends.ErrPermission)
					}
				}
			}
		}
		// They stay who they are at the server that they are sent on to.
		ahead := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Issuer: issuers[1], Login: []string{"ztn"}, Authorize: true, Redirect: second})
		backendstest.Put(t, storage(t, Options{URL: folder(t, second, ahead.Roots), Credentials: withToken(files[1], files[0])}), "g", []byte("x"))
		// One that names a proxy and no token does not show the token of the environment.
		s := storage(t, Options{URL: urls[0], Credentials: as("").Of(credential.Files{Proxy: pki.Proxy(t, time.Hour)})})
		_, err := s.Stat(t.Context(), "")
		wantErr(t, "with a proxy", err, backends.ErrPermission)
	})
}

// A token that has expired, others may read, or is not there is refused with words; a good one that comes in its place
// counts at once, and without a restart.
func TestRenewedToken(t *testing.T) {
	alone(t, func(t *testing.T) {
		pki := servertest.NewPKI(t)
		issuer := servertest.NewIssuer(t, pki)
		environment(t, "X509_CERT_DIR="+pki.Certificates, "X509_USER_PROXY=") // set to nothing is not set
		srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Issuer: issuer, Login: []string{"ztn"}, Authorize: true})
		file, good := tokenFile(t, issuer, -time.Minute), tokenFile(t, issuer, time.Hour)
		s := storage(t, Options{URL: folder(t, srv, srv.Roots), Credentials: withToken(file, good)})
		refused := func(word string) {
			t.Helper()
			_, err := s.Stat(t.Context(), "")
			wantErr(t, "stat", err, backends.ErrPermission)
			if err != nil && !strings.Contains(err.Error(), word) {
				t.Errorf("want %q: %v", word, err)
			}
		}
		refused("expired")
		b, err := os.ReadFile(good)
		if err != nil {
			t.Fatal(err)
		}
		renew := func(b []byte, mode os.FileMode) {
			t.Helper()
			os.Remove(file)
			if err := os.WriteFile(file, b, mode); err != nil {
				t.Fatal(err)
			}
		}
		renew(b, 0o644)
		refused("chmod 600")
		os.Remove(file)
		refused("is not there")
		renew(b, 0o600)
		_, err = s.Stat(t.Context(), "")
		wantErr(t, "with a new token", err, nil)
		backendstest.Put(t, s, "f", []byte("x"))
		// One that allows less goes by a connection of its own.
		renew([]byte(issuer.Token(t, "storage.read:/", time.Hour)), 0o600)
		_, err = s.Create(t.Context(), "g", 1)
		wantErr(t, "create with a token for reading", err, backends.ErrPermission)
		if got, err := backendstest.Get(t.Context(), s, "f"); err != nil || string(got) != "x" {
			t.Errorf("read: %q, %v", got, err)
		}
	})
}

func TestKeytab(t *testing.T) {
	alone(t, func(t *testing.T) {
		pki := servertest.NewPKI(t)
		srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Login: []string{"sss"}, Authorize: true})
		environment(t, "XrdSecSSSKT="+srv.Keytab, "X509_CERT_DIR="+pki.Certificates)
		s := storage(t, Options{URL: folder(t, srv, srv.Root)})
		backendstest.Put(t, s, "f", []byte("x"))
		if got, err := backendstest.Get(t.Context(), s, "f"); err != nil || string(got) != "x" {
			t.Errorf("read: %q, %v", got, err)
		}
	})
}

// A server comes back in mid read with a certificate of another authority, which becomes known a while later.
func TestAuthorityChangesInMidRead(t *testing.T) {
	alone(t, func(t *testing.T) {
		pki := servertest.NewPKI(t)
		trusted := t.TempDir()
		pki.CA.Trust(t, trusted)
		environment(t, "X509_CERT_DIR="+trusted)
		srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki})
		s := storage(t, Options{URL: folder(t, srv, srv.Roots), Timeout: 5 * time.Second})
		data := backendstest.Bytes(1, 8<<20)
		backendstest.Put(t, s, "f", data)
		o := openIt(t, s, "f")
		if err := readAt(t.Context(), o, data, 0, 1<<20); err != nil {
			t.Fatal(err)
		}
		u, err := s.Create(t.Context(), "g", int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		defer u.Abort()
		u.Write(data[:4<<20])

		srv.Kill()
		u.Write(data[4<<20:]) // to a TLS connection that is gone, which must not end the process
		next := servertest.NewAuthority(t, "Next CA")
		next.Trust(t, pki.Certificates) // the server's own folder
		srv.Certify(next.Host(t, "localhost", "127.0.0.1"))
		srv.Start()
		isDown(t, "read from an unknown server", readAt(t.Context(), o, data, 1<<20, 1<<20))
		next.Trust(t, trusted)
		if err := readAt(t.Context(), o, data, 1<<20, 1<<20); err != nil {
			t.Errorf("once the authority is there: %v", err)
		}
	})
}

func TestUnknownAuthority(t *testing.T) {
	alone(t, func(t *testing.T) {
		pki := servertest.NewPKI(t)
		trusted := t.TempDir()
		servertest.NewAuthority(t, "Another CA").Trust(t, trusted)
		environment(t, "X509_CERT_DIR="+trusted)
		srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki})
		s := storage(t, Options{URL: folder(t, srv, srv.Roots), Timeout: 5 * time.Second})
		_, err := s.Stat(t.Context(), "")
		wantErr(t, "of an unknown authority", err, backends.ErrUnavailable)
		if err != nil && !strings.Contains(err.Error(), "X509_CERT_DIR") {
			t.Errorf("the cure is not named: %v", err)
		}
		// The authority comes at run time, as does the way to the server.
		pki.CA.Trust(t, trusted)
		for end := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			_, err = s.Stat(t.Context(), "")
		}
		if err != nil {
			t.Errorf("once the authority is there: %v", err)
		}
	})
}
