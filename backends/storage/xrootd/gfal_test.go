//go:build xrdcl && cgo

package xrootd

import (
	"testing"
	"time"

	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// gfal-copy reads what we wrote, and we what it wrote.
func TestGfalSeesTheSame(t *testing.T) {
	alone(t, func(t *testing.T) {
		pki := servertest.NewPKI(t)
		environment(t, "X509_CERT_DIR="+pki.Certificates)
		open := servertest.XRootD(t, servertest.XRootDOptions{})
		gsi := servertest.XRootD(t, servertest.XRootDOptions{PKI: pki, Login: []string{"gsi"}, Authorize: true})
		proxy := pki.Proxy(t, time.Hour)
		vars := []string{"X509_USER_PROXY=" + proxy, "X509_CERT_DIR=" + pki.Certificates}
		for name, url := range map[string]string{"anonymous": folder(t, open, open.Root), "GSI": folder(t, gsi, gsi.Root)} {
			t.Run(name, func(t *testing.T) {
				s := storage(t, Options{URL: url, Credentials: as(proxy)})
				servertest.GfalSeesTheSame(t, servertest.Seen{
					URL:  url,
					Vars: vars,
					Put:  func(p string, data []byte) { backendstest.Put(t, s, p, data) },
					Get:  func(p string) ([]byte, error) { return backendstest.Get(t.Context(), s, p) },
				})
			})
		}
	})
}
