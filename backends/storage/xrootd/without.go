//go:build !xrdcl || !cgo

package xrootd

import (
	"fmt"

	"tarn/backends"
)

// Library is the name and version of the library, "" in a build without it.
func Library() string { return "" }

func open(_ Options, end endpoint) (backends.Storage, error) {
	return nil, fmt.Errorf("%s: this tarn was built without libXrdCl, which speaks root and roots: install libxrootd-client-dev and g++ and run make build, or use davs: %w", end, backends.ErrNotSupported)
}
