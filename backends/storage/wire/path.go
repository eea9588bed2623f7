package wire

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"tarn/backends"
)

// CheckPath refuses what is no clean relative path, and what XML and headers cannot carry. protocol is its name for people.
func CheckPath(p, protocol string) error {
	if p == "" {
		return nil
	}
	for e := range strings.SplitSeq(p, "/") {
		if e == "" || e == "." || e == ".." {
			return fmt.Errorf("path %q: %w", p, backends.ErrName)
		}
	}
	if !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) {
		return fmt.Errorf("path %q has bytes that %s cannot carry: %w", p, protocol, backends.ErrName)
	}
	return nil
}
