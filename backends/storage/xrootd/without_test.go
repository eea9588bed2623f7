//go:build !xrdcl || !cgo

package xrootd

import (
	"errors"
	"strings"
	"testing"

	"tarn/backends"
)

func TestWithoutTheLibrary(t *testing.T) {
	_, err := Open(Options{URL: "root://host//data"})
	if !errors.Is(err, backends.ErrNotSupported) || !strings.Contains(err.Error(), "libxrootd-client-dev") {
		t.Errorf("open: %v", err)
	}
	if Library() != "" {
		t.Errorf("the library is %q", Library())
	}
}
