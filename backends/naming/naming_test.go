package naming

import (
	"slices"
	"strings"
	"testing"

	"tarn/backends"
)

// The values of hash were computed by another program:
//
//	hashlib.md5(b"user.ada:my.file.root").hexdigest() == "1ba5e1c67defdbe5e77043ec53a0d2a8"
var known = []struct{ algorithm, scope, name, want string }{
	{"hash", "mc23_13p6TeV", "EVNT.34567890._000001.pool.root.1", "mc23_13p6TeV/3a/3d/EVNT.34567890._000001.pool.root.1"},
	{"hash", "user.ada", "my.file.root", "user/ada/1b/a5/my.file.root"},
	{"hash", "group.phys-higgs.prod", "a/b.root", "group/phys-higgs/prod/e7/16/a/b.root"},
	{"hash", "users", "x", "users/cc/3e/x"},
	{"hash", "userdata.x", "f", "userdata/x/fd/46/f"},
	{"hash", "ctao", "plain", "ctao/9f/4d/plain"},
	// The slash that a name begins with counts in the hash; Rucio's double slash is folded, as storages do.
	{"hash", "ctao", "/ctao/dl3/crab/run 1.fits", "ctao/bb/74/ctao/dl3/crab/run 1.fits"},
	{"hash", "ctao", "/ctao/ä/ö", "ctao/b0/b1/ctao/ä/ö"},
	{"hash", "ctao", "/ctao/DL0/LSTN-01/ctao-north/event/2025/02/04/TEL001_SDH0000_20250204T213354_SBID0000000002000000066_OBSID0000000002000000200_CHUNK001.fits.fz",
		"ctao/06/04/ctao/DL0/LSTN-01/ctao-north/event/2025/02/04/TEL001_SDH0000_20250204T213354_SBID0000000002000000066_OBSID0000000002000000200_CHUNK001.fits.fz"},
	{"identity", "data", "run1/f.root", "data/run1/f.root"},
	{"identity", "user.ada", "f", "user/ada/f"},
	{"identity", "mc.ada", "f", "mc.ada/f"},
	{"identity", "ctao", "/ctao/dl3/f", "ctao/ctao/dl3/f"},
	{"belleii", "belle", "/belle/MC/release-06/f.root", "belle/MC/release-06/f.root"},
	{"belleii", "belle", "f", "f"},
}

func TestPathsAreThoseOfRucio(t *testing.T) {
	for _, k := range known {
		a, ok := ByName(k.algorithm)
		if !ok {
			t.Fatalf("no %s", k.algorithm)
		}
		d := backends.DID{Scope: k.scope, Name: k.name}
		got, ok := a.Path(d)
		if got != k.want || !ok {
			t.Errorf("%s of %s: %q, %v, want %q", a, d, got, ok, k.want)
		}
		if back := a.DIDs(k.scope, k.want); !slices.Contains(back, d) {
			t.Errorf("%s of %s: back from the path %v", a, d, back)
		}
	}
}

func TestWhatNoPathCanSay(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, a := range all {
		for name, want := range map[string]bool{
			"": false, "/": false, "//a": false, "/s//a": false, "/s/a/": false, "/s/./a": false, "/s/../a": false, "..": false, "/s/a/..": false,
			"/s/a\nb": false, "/s/a\x7f": false, "/s/\u0085": false, "/s/\xff": false, "/s/a\x00": false,
			"/.tarn-uploads/a": false, "/s/.tarn-uploads/a": false, "/s/.tarn": false,
			"/s/" + long: true, "/s/" + long + "x": false, "/s/" + strings.Repeat(long+"/", 3) + "x": true, "/s/" + strings.Repeat(long+"/", 4) + "x": false,
			"/s/...": true, "/s/.hidden": true, "/s/a b?c#d%e\\": true,
		} {
			if p, ok := a.Path(backends.DID{Scope: "s", Name: name}); ok != want {
				t.Errorf("%s of %.20q: %.40q, %v, want %v", &a, name, p, ok, want)
			}
		}
		for _, scope := range []string{"", "user.", "user..a"} {
			if p, ok := a.Path(backends.DID{Scope: scope, Name: "f"}); ok && (a.word != "belleii" && a.word != "ctao_bdms" || scope == "") {
				t.Errorf("%s of a file in %q: %q", &a, scope, p)
			}
		}
	}
}

func TestWords(t *testing.T) {
	if got := Words(); !slices.Equal(got, []string{"unique", "hash", "identity", "belleii", "ctao_bdms"}) {
		t.Errorf("words %q", got)
	}
	for _, w := range append(Words(), "") {
		a, ok := ByName(w)
		if want := strings.TrimSpace(w); !ok || want != "" && a.String() != want || want == "" && a.String() != Unique {
			t.Errorf("%q gives %s, %v", w, a, ok)
		}
	}
	if a, ok := ByName("Hash"); ok || a != nil {
		t.Errorf("a word that is none gives %v", a)
	}
}

// FuzzPath: a path that a DID has is relative and clean, tells the DID, and no path tells
// one that does not have it.
func FuzzPath(f *testing.F) {
	for _, k := range known {
		f.Add(k.scope, k.name)
		f.Add(k.scope, k.want)
	}
	f.Fuzz(func(t *testing.T, scope, s string) {
		for i := range all {
			a := &all[i]
			d := backends.DID{Scope: scope, Name: s}
			if p, ok := a.Path(d); ok {
				for _, e := range strings.Split(p, "/") {
					if e == "" || e == "." || e == ".." || strings.HasPrefix(e, ".tarn") {
						t.Fatalf("%s of %q is %q", a, d, p)
					}
				}
				if !slices.Contains(a.DIDs(scope, p), d) {
					t.Fatalf("%s of %q is %q, which tells %q", a, d, p, a.DIDs(scope, p))
				}
			}
			for _, d := range a.DIDs(scope, s) {
				if p, ok := a.Path(d); !ok || p != s || d.Scope != scope {
					t.Fatalf("%s: %q tells %q, whose path is %q", a, s, d, p)
				}
			}
		}
	})
}
