package wire

import (
	"errors"
	"strings"
	"testing"

	"tarn/backends"
)

func TestCheckPath(t *testing.T) {
	for _, p := range []string{"", "a", "a/b", "...", ".hidden", "a b", "ä/ö", "100%25", "a\\b", "-rf", "q?x=1#y", strings.Repeat("x", 5000)} {
		if err := CheckPath(p, "X"); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, p := range []string{"/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/./b", "a\x00b", "tab\there", "new\nline", "a\x7fb", "\u0085", "\xff\xfe", "a/\xc3"} {
		if err := CheckPath(p, "X"); !errors.Is(err, backends.ErrName) {
			t.Errorf("%q: %v", p, err)
		}
	}
	if err := CheckPath("a\nb", "S3"); err == nil || !strings.Contains(err.Error(), "S3") {
		t.Errorf("the protocol is not named: %v", err)
	}
}
