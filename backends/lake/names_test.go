package lake

import (
	"errors"
	"strings"
	"testing"

	"tarn/backends"
)

func TestCleanPath(t *testing.T) {
	for in, want := range map[string]string{
		"": "/", "/": "/", "ctao": "/ctao", "/ctao//dl3/": "/ctao/dl3", "/ctao/./dl3/../dl0": "/ctao/dl0",
		"/../../etc/passwd": "/etc/passwd", "..": "/", "/ctao/...": "/ctao/...",
	} {
		if got, err := CleanPath(in); err != nil || got != want {
			t.Errorf("CleanPath(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]error{
		"/a\x00b":                               backends.ErrName,
		"/" + strings.Repeat("a", 256):          backends.ErrNameTooLong,
		strings.Repeat("/aaaaaaaaaaaaaaa", 300): backends.ErrNameTooLong,
	} {
		if _, err := CleanPath(in); !errors.Is(err, want) {
			t.Errorf("CleanPath(%.20q) is %v, want %v", in, err, want)
		}
	}
}

func TestEncodeName(t *testing.T) {
	for _, c := range []struct{ scope, name, want string }{
		{"s", "run1.fits", "run1.fits"},
		{"s", "/belle/run 1", "%2Fbelle%2Frun 1"},
		{"s", ".", "%2E"},
		{"s", "..", "%2E."},
		{"s", "...", "..."},
		{"s", ".hidden", ".hidden"},
		{"s", "", "%_"},
		{"s", "%_", "%25_"},
		{"s", "a\x00b", "a%00b"},
		{"s", "100%", "100%"},
		{"s", "100%done", "100%done"}, // %do is no escape
		{"s", "100%deal", "100%25deal"},
		{"s", "%2F", "%252F"},
		{"s", "%/", "%%2F"},
		{"s", "12:30:00", "12%3A30:00"}, // 12 could be a scope
		{"s", "a b:c", "a b:c"},         // "a b" could not
		{"s", "t:y", "t%3Ay"},
		{"t", "y", "t:y"},
		{"t", "a:b", "t:a:b"},
		{"t", "..", "t:.."},
		{"t", "", "t:"},
		{"s", "käse", "käse"},
	} {
		d := backends.DID{Scope: c.scope, Name: c.name}
		got := EncodeName("s", d)
		if got != c.want {
			t.Errorf("%s is %q, want %q", d, got, c.want)
		}
		back, err := DecodeName("s", got)
		if err != nil || back != d {
			t.Errorf("%q is %s (%v), want %s", got, back, err, d)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "a%2fb", "%41", "s:a", "%2E%2E", "t:%_", "%~", "%" + "~0123456789abcdef0123456789abcdef"} {
		if d, err := DecodeName("s", bad); err == nil {
			t.Errorf("%q is %s, want an error", bad, d)
		}
	}
}

func TestLongNamesAreCut(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range []string{
		strings.Repeat("a", 256), strings.Repeat("a", 257), strings.Repeat("/", 300), "x" + strings.Repeat("/", 300),
		"xy" + strings.Repeat("/", 300), strings.Repeat("ü", 200), "x" + strings.Repeat("ü", 200),
	} {
		for _, scope := range []string{"s", "t"} {
			got := EncodeName("s", backends.DID{Scope: scope, Name: name})
			if len(got) > 255 || checkElement(got) != nil || seen[got] || !isCut(got) {
				t.Errorf("%s %.20q is %q of %d bytes", scope, name, got, len(got))
			}
			if strings.Contains(got, "%2%") || strings.Contains(got, "\xc3%") {
				t.Errorf("%q is cut within an escape or a rune", got)
			}
			seen[got] = true
		}
	}
	if got := EncodeName("s", backends.DID{Scope: "s", Name: strings.Repeat("a", 255)}); len(got) != 255 || isCut(got) {
		t.Errorf("255 bytes become %q", got)
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"run1", "/a/b", "..", ".", "%2F", "%_", "a:b", "t:y", "%~", "\x00", strings.Repeat("%/", 100), ""} {
		f.Add("s", s, "t")
		f.Add("t", s, "s")
		f.Add("../x", s, "s")
	}
	f.Fuzz(func(t *testing.T, scope, name, other string) {
		d := backends.DID{Scope: scope, Name: name}
		enc := EncodeName("s", d)
		if err := checkElement(enc); err != nil {
			t.Fatalf("%q is shown as %q: %v", d, enc, err)
		}
		if !isCut(enc) {
			back, err := DecodeName("s", enc)
			if err != nil || back != d {
				t.Fatalf("%q is shown as %q, which is %q (%v)", d, enc, back, err)
			}
		}
		if x := (backends.DID{Scope: other, Name: name}); x != d && EncodeName("s", x) == enc {
			t.Fatalf("%q and %q are both shown as %q", d, x, enc)
		}
		// What a user types is a name of at most one DID.
		if d, err := DecodeName("s", name); err == nil && EncodeName("s", d) != name {
			t.Fatalf("%q is read as %q, which is shown as %q", name, d, EncodeName("s", d))
		}
	})
}
