//go:build xrdcl && cgo

package xrootd

import (
	"bytes"
	"os"
	"path/filepath"
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
				data := backendstest.Bytes(13, 5<<20+3)
				backendstest.Put(t, s, "d/ours", data)
				copied := filepath.Join(t.TempDir(), "copy")
				servertest.GfalCopy(t, vars, url+"/d/ours", "file://"+copied)
				if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, data) {
					t.Errorf("gfal-copy reads other bytes: %v", err)
				}
				servertest.GfalCopy(t, vars, "-K", "adler32", "file://"+copied, url+"/d/theirs")
				if got, err := backendstest.Get(t.Context(), s, "d/theirs"); err != nil || !bytes.Equal(got, data) {
					t.Errorf("we read other bytes than gfal-copy wrote: %v", err)
				}
			})
		}
	})
}
