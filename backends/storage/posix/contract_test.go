package posix_test

import (
	"testing"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/storage/posix"
)

func TestContract(t *testing.T) {
	for _, algs := range [][]string{nil, {"md5"}, {"adler32"}} {
		backendstest.Storage(t, func(t *testing.T) backends.Storage {
			s, err := posix.Open(posix.Options{Dir: t.TempDir(), Checksums: algs})
			if err != nil {
				t.Fatal(err)
			}
			return s
		})
	}
}
