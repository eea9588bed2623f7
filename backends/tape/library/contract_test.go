package library_test

import (
	"testing"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/tape/library"
)

func openFast(t *testing.T, o library.Options) *library.Library {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Speed == 0 {
		o.Speed = 1e6
	}
	l, err := library.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestStorageContract(t *testing.T) {
	backendstest.Storage(t, func(t *testing.T) backends.Storage { return openFast(t, library.Options{}) })
}
