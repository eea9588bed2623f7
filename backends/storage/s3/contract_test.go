package s3

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/credential"
	"tarn/backends/servertest"
)

// identity has the keys of the test servers and the PKI's authority, with more variables, and no default files.
func identity(t testing.TB, pki *servertest.PKI, vars map[string]string) *credential.Source {
	t.Helper()
	m := map[string]string{"AWS_ACCESS_KEY_ID": servertest.S3Access, "AWS_SECRET_ACCESS_KEY": servertest.S3Secret}
	if pki != nil {
		m["X509_CERT_DIR"] = pki.Certificates
	}
	for k, v := range vars {
		m[k] = v
	}
	return credential.New(credential.Options{Getenv: func(k string) string { return m[k] }, UID: os.Geteuid(), TmpDir: t.TempDir()})
}

func open(t testing.TB, o Options) *Storage {
	t.Helper()
	if o.Stall == 0 {
		o.Stall = 10 * time.Second
	}
	if o.Credentials == nil {
		o.Credentials = identity(t, nil, nil)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// servers are those that the protocol is tested against.
func servers(pki *servertest.PKI) map[string]func(testing.TB) *servertest.Server {
	return map[string]func(t testing.TB) *servertest.Server{
		"plain": func(t testing.TB) *servertest.Server { return servertest.S3(t, servertest.S3Options{}) },
		"TLS":   func(t testing.TB) *servertest.Server { return servertest.S3(t, servertest.S3Options{PKI: pki}) },
		"MinIO": servertest.MinIO,
	}
}

func TestContract(t *testing.T) {
	pki := servertest.NewPKI(t)
	for name, start := range servers(pki) {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			srv := start(t)
			backendstest.Storage(t, func(t *testing.T) backends.Storage {
				return open(t, Options{URL: fmt.Sprintf("%s/lake/rse%d", srv.S3, n.Add(1)), Credentials: identity(t, pki, nil)})
			})
		})
	}
}
