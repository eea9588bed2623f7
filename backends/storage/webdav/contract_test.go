package webdav

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/credential"
	"tarn/backends/servertest"
)

// env is an environment for credentials.
func env(m map[string]string) func(string) string { return func(k string) string { return m[k] } }

// credentials are those of the PKI's authority with more variables, and of no default files.
func credentials(t *testing.T, pki *servertest.PKI, vars map[string]string) *credential.Source {
	t.Helper()
	m := map[string]string{}
	if pki != nil {
		m["X509_CERT_DIR"] = pki.Certificates
	}
	for k, v := range vars {
		m[k] = v
	}
	return credential.New(credential.Options{Getenv: env(m), UID: os.Geteuid(), TmpDir: t.TempDir()})
}

var prefixes atomic.Int64

// prefix makes an empty folder on a server's disk, with the owner of the folder above, and gives its path.
func prefix(t *testing.T, s *servertest.Server, below string) string {
	t.Helper()
	p := filepath.Join(below, fmt.Sprintf("rse%d", prefixes.Add(1)))
	if err := os.Mkdir(s.Path(p), 0o755); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(s.Path(below))
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	if err := os.Chown(s.Path(p), int(st.Uid), int(st.Gid)); err != nil {
		t.Fatal(err)
	}
	return "/" + p
}

func open(t *testing.T, o Options) *Storage {
	t.Helper()
	if o.Stall == 0 {
		o.Stall = 10 * time.Second
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	pki := servertest.NewPKI(t)
	run := func(name string, open func(t *testing.T) backends.Storage) {
		t.Run(name, func(t *testing.T) { backendstest.Storage(t, open) })
	}
	proxy := pki.Proxy(t, time.Hour)

	nginx := servertest.NGINX(t, servertest.NGINXOptions{PKI: pki})
	run("nginx", func(t *testing.T) backends.Storage {
		return open(t, Options{URL: "dav://" + nginx.HTTP[len("http://"):] + prefix(t, nginx, "")})
	})
	run("nginx with TLS", func(t *testing.T) backends.Storage {
		return open(t, Options{URL: "davs://" + nginx.HTTPS[len("https://"):] + prefix(t, nginx, ""), Credentials: credentials(t, pki, nil)})
	})

	apache := servertest.Apache(t, servertest.ApacheOptions{PKI: pki})
	run("Apache", func(t *testing.T) backends.Storage {
		return open(t, Options{URL: "dav://" + apache.HTTP[len("http://"):] + prefix(t, apache, "")})
	})
	run("Apache with TLS", func(t *testing.T) backends.Storage {
		return open(t, Options{URL: "davs://" + apache.HTTPS[len("https://"):] + prefix(t, apache, ""), Credentials: credentials(t, pki, nil)})
	})

	plain := servertest.XRootD(t, servertest.XRootDOptions{})
	run("XRootD", func(t *testing.T) backends.Storage {
		return open(t, Options{URL: plain.HTTP + prefix(t, plain, "data")})
	})

	o := servertest.XRootDOptions{PKI: pki, Authorize: true}
	if os.Geteuid() == 0 {
		o.Issuer = servertest.NewIssuer(t, pki)
	}
	secure := servertest.XRootD(t, o)
	run("XRootD with a proxy", func(t *testing.T) backends.Storage {
		return open(t, Options{URL: secure.HTTPS + prefix(t, secure, "data"), Credentials: credentials(t, pki, map[string]string{"X509_USER_PROXY": proxy})})
	})
	if o.Issuer == nil {
		return
	}
	run("XRootD with a token", func(t *testing.T) backends.Storage {
		token := o.Issuer.Token(t, "storage.read:/ storage.modify:/", time.Hour)
		return open(t, Options{URL: secure.HTTPS + prefix(t, secure, "data"), Credentials: credentials(t, pki, map[string]string{"BEARER_TOKEN": token})})
	})
}
