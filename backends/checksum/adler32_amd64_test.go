package checksum

import "testing"

// without has the test run as on a processor without vectors.
func without(t *testing.T) {
	had := hasVectors
	hasVectors = false
	t.Cleanup(func() { hasVectors = had })
}
