// Package needed ends tests of all packages that miss something of the machine: a skip for
// a developer, a failure where CI in the environment says that everything must be there.
package needed

import (
	"os"
	"testing"
)

// Missing ends the test.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("needed here: "+format, args...)
	}
	t.Skipf(format, args...)
}

// Root skips the test for everybody else, under CI too: who runs it has chosen so.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// Server skips a test that starts a storage server, where SHORT in the environment says to do without.
func Server(t testing.TB) {
	t.Helper()
	if os.Getenv("SHORT") != "" {
		t.Skip("SHORT: no servers")
	}
}
