//go:build !amd64

package checksum

import "testing"

func without(*testing.T) {}
