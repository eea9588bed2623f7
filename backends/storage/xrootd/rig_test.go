//go:build xrdcl && cgo

package xrootd

import (
	"context"
	"errors"
	iofs "io/fs"
	"syscall"
	"testing"
)

// TestMain ends without the C++ destructors, which os.Exit runs in a program built with -race: threads of the library
// are still at work.
func TestMain(m *testing.M) { syscall.Exit(m.Run()) }

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
	for _, e := range []error{iofs.ErrNotExist, iofs.ErrPermission, iofs.ErrExist, iofs.ErrClosed, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			t.Errorf("%s: %v leaks %v", what, err, e)
		}
	}
}
