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
	backendstest.Storage(t, func(t *testing.T) backends.Storage {
		s, err := Open(Options{URL: folder(t, srv, srv.Root)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
