package webdav

import (
	"strings"
	"testing"
	"time"

	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// gfal-copy reads what we wrote, and we what it wrote.
func TestGfalSeesTheSame(t *testing.T) {
	pki := servertest.NewPKI(t)
	proxy := pki.Proxy(t, time.Hour)
	srv := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Authorize: true})
	url := strings.Replace(srv.HTTPS, "https", "davs", 1) + prefix(t, srv, "data")
	s := open(t, Options{URL: url, Credentials: credentials(t, pki, map[string]string{"X509_USER_PROXY": proxy})})
	servertest.GfalSeesTheSame(t, servertest.Seen{
		URL:  url,
		Vars: []string{"X509_USER_PROXY=" + proxy, "X509_CERT_DIR=" + pki.Certificates},
		Put:  func(p string, data []byte) { backendstest.Put(t, s, p, data) },
		Get:  func(p string) ([]byte, error) { return backendstest.Get(t.Context(), s, p) },
	})
}
