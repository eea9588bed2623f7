//go:build xrdcl && cgo

package xrootd

import (
	"os"
	"testing"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// folder makes one on the server and gives its URL.
func folder(t *testing.T, srv *servertest.Server, base string) string {
	t.Helper()
	dir, err := os.MkdirTemp(srv.Path("data"), "rse")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return base + "/" + dir[len(srv.Dir):]
}

func TestContract(t *testing.T) {
	srv := servertest.XRootD(t, servertest.XRootDOptions{})
	front := servertest.XRootD(t, servertest.XRootDOptions{Redirect: srv})
	bare := servertest.XRootD(t, servertest.XRootDOptions{NoChecksums: true})
	for _, c := range []struct {
		name string
		srv  *servertest.Server
		base string
	}{{"anonymous", srv, srv.Root}, {"behind a redirector", srv, front.Root}, {"without checksums", bare, bare.Root}} {
		t.Run(c.name, func(t *testing.T) {
			backendstest.Storage(t, func(t *testing.T) backends.Storage { return storage(t, Options{URL: folder(t, c.srv, c.base)}) })
		})
	}
}
