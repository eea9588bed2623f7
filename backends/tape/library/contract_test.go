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

func TestTapeContract(t *testing.T) {
	for _, drives := range []int{1, 3} {
		backendstest.Tape(t, func(t *testing.T) backendstest.TapeUnderTest {
			const buffer = 1 << 20
			l := openFast(t, library.Options{Drives: drives, Cartridges: 4, BufferSize: buffer, Spread: func(p string) int { return int(p[len(p)-1]) }})
			return backendstest.TapeUnderTest{
				Storage: l, Tape: l, Buffer: buffer,
				MakeNearline: func(t *testing.T, paths ...string) {
					if err := l.EvictBuffer(t.Context(), paths...); err != nil {
						t.Fatal(err)
					}
				},
				Recalls: func() int64 { return l.Stats().Staged },
			}
		})
	}
}
