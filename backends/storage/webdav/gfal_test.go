package webdav

import (
	"bytes"
	"os"
	"path/filepath"
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
	data := backendstest.Bytes(13, 5<<20+3)
	backendstest.Put(t, s, "d/ours", data)
	copied := filepath.Join(t.TempDir(), "copy")
	vars := []string{"X509_USER_PROXY=" + proxy, "X509_CERT_DIR=" + pki.Certificates}
	servertest.GfalCopy(t, vars, url+"/d/ours", "file://"+copied)
	if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, data) {
		t.Errorf("gfal-copy reads other bytes: %v", err)
	}
	servertest.GfalCopy(t, vars, "-K", "adler32", "file://"+copied, url+"/d/theirs")
	if got, err := backendstest.Get(t.Context(), s, "d/theirs"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("we read other bytes than gfal-copy wrote: %v", err)
	}
}
