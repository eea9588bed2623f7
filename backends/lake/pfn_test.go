package lake

import (
	"strings"
	"testing"

	"tarn/backends"
)

func TestParsePFNIsTheWayBack(t *testing.T) {
	l := &Lake{}
	for _, name := range []string{"/ctao/a/run.fits", "/ctao/b/run.fits", "/ctao/.hidden", "/ctao/a b", "/ctao/ü%41", "/ctao/" + strings.Repeat("x", 97)} {
		d := backends.DID{Scope: "ctao", Name: name}
		p, ok := ParsePFN(l.NewPFN(d, ""))
		if !ok || !p.Is(d) {
			t.Errorf("%q: %+v, %v", name, p, ok)
		}
		for _, other := range []backends.DID{{Scope: "ctao", Name: name + "x"}, {Scope: "x", Name: name}, {Scope: "ctao", Name: "/ctao/other" + name}} {
			if p.Is(other) {
				t.Errorf("%q is taken for %v", name, other)
			}
		}
	}
	for _, bad := range []string{"", "a/b", "ctao/00/00/x", "ctao/0g/00/x.1", "ctao/00/00/.x", "ctao/000/0/x.1", l.NewPFN(backends.DID{Scope: "ctao", Name: "/ctao/" + strings.Repeat("x", 100)}, "")} {
		if p, ok := ParsePFN(bad); ok {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}
