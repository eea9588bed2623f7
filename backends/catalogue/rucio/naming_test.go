package rucio

import (
	"log/slog"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/naming"
	"tarn/backends/servertest"
)

// TestNaming has the server tell paths that are known here, too.
func TestNaming(t *testing.T) {
	srv := servertest.Rucio(t, servertest.RucioOptions{})
	r := &rig{RucioServer: srv, account: "root"}
	c := r.open(t, Options{Layout: backends.LayoutContents, Lifetime: time.Hour})
	scope := srv.Unique("user.naming")
	srv.AddScope("root", scope)
	for _, word := range []string{"hash", "identity"} {
		name := srv.AddRSE(servertest.RucioRSE{Protocols: []servertest.RucioProtocol{{Scheme: "davs", Host: "door.example.org", Port: 2880, Prefix: "/pnfs/lake/"}}, Attributes: map[string]string{"lfn2pfn_algorithm": word}})
		rse, err := c.c.RSE(t.Context(), name)
		must(t, err)
		asked := Naming(c.c, rse, slog.New(slog.DiscardHandler))
		if asked.String() != word {
			t.Errorf("it is called %s, want %s", asked, word)
		}
		known, _ := naming.ByName(word)
		for _, n := range []string{"a.dat", "run 7/b.dat", "d/e/f.dat"} {
			d := backends.DID{Scope: scope, Name: n}
			want, _ := known.Path(d)
			for range 2 {
				if got, ok := asked.Path(d); !ok || got != want {
					t.Errorf("%s of %s: %q, %v; want %q", word, d, got, ok, want)
				}
			}
		}
		before := c.c.Calls()["GET /rses/RSE/lfns2pfns"]
		asked.Path(backends.DID{Scope: scope, Name: "a.dat"})
		if n := c.c.Calls()["GET /rses/RSE/lfns2pfns"] - before; n != 0 {
			t.Errorf("%d questions for what is known", n)
		}
		rse.Name = "NO-SUCH-RSE"
		if p, ok := Naming(c.c, rse, slog.New(slog.DiscardHandler)).Path(backends.DID{Scope: scope, Name: "a.dat"}); ok {
			t.Errorf("an RSE that is not there has the path %q", p)
		}
	}
	if Naming(c.c, rest.RSE{Name: "BARE"}, slog.New(slog.DiscardHandler)) != nil {
		t.Error("an RSE without protocols has a naming")
	}
}
