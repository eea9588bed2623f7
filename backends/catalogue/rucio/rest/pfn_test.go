package rest

import (
	"fmt"
	"testing"

	"tarn/backends"
	"tarn/backends/servertest"
)

// The server says the same of every name, protocol and algorithm that PFN speaks of.
func TestPFNIsTheServers(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		dids := []backends.DID{{Scope: "ctao", Name: "run1.fits"}, {Scope: "ctao", Name: "/ctao/dl0/x/y"}, {Scope: "user.max", Name: "a/b c/ü+x"},
			{Scope: "user", Name: "x"}, {Scope: "users.a.b", Name: "x//y/"}, {Scope: "group.a.b", Name: "x%20"}, {Scope: "a.user.b", Name: "x"}, {Scope: "a-b_c.d", Name: "'\"`$"}}
		n := 0
		for _, algorithm := range []string{"hash", "identity"} {
			for _, p := range []Protocol{
				{Scheme: "file", Hostname: "localhost", Prefix: "/x/y/", Impl: "rucio.rse.protocols.posix.Default"},
				{Scheme: "file", Hostname: "h", Port: 7, Prefix: "x/y", Impl: "rucio.rse.protocols.posix.Symlink"},
				{Scheme: "davs", Hostname: "door.example.org", Port: 443, Prefix: "//x//y/", Impl: "rucio.rse.protocols.gfal.Default"},
				{Scheme: "davs", Hostname: "door.example.org", Prefix: "/x", Impl: "rucio.rse.protocols.gfal.NoRename"},
				{Scheme: "root", Hostname: "root://door.example.org", Port: 1094, Prefix: "//eos/", Impl: "rucio.rse.protocols.gfal.Default"},
				{Scheme: "srm", Hostname: "door.example.org", Port: 8443, Prefix: "/x/", Impl: "rucio.rse.protocols.gfal.Default", Extended: map[string]any{"web_service_path": "/srm/managerv2?SFN=", "space_token": "T"}},
				{Scheme: "root", Hostname: "door.example.org", Port: 1094, Prefix: "/eos/", Impl: "rucio.rse.protocols.xrootd.Default"},
				{Scheme: "https", Hostname: "door.example.org", Prefix: "/x/", Impl: "rucio.rse.protocols.webdav.Default"},
				{Scheme: "mock", Hostname: "localhost", Port: 17, Prefix: "/x/", Impl: "rucio.rse.protocols.mock.Default"},
			} {
				name := r.AddRSE(servertest.RucioRSE{Attributes: map[string]string{"lfn2pfn_algorithm": algorithm}})
				all := map[string]Int{"read": 1, "write": 1, "delete": 1}
				p.Domains = map[string]map[string]Int{"lan": all, "wan": all}
				must(t, r.root.AddProtocol(t.Context(), name, p))
				rse, err := r.root.RSE(t.Context(), name)
				must(t, err)
				want, err := r.root.PFNs(t.Context(), name, p.Scheme, dids)
				must(t, err)
				for _, d := range dids {
					got, ok := PFN(rse.Algorithm, rse.Protocols[0], d)
					if !ok || got != want[d.String()] {
						t.Errorf("%s %+v: %q, %v, the server says %q", algorithm, p, got, ok, want[d.String()])
					}
					n++
				}
			}
		}
		t.Log(n, "PFNs")
	})
	for _, x := range []struct{ algorithm, impl string }{{"ctao_bdms", "rucio.rse.protocols.posix.Default"}, {"hash", "rucio.rse.protocols.rclone.Default"}, {"hash", "some.body.Else"}, {"", ""}} {
		if pfn, ok := PFN(x.algorithm, Protocol{Impl: x.impl}, d); ok {
			t.Errorf("%v: %q", x, pfn)
		}
	}
}

// What we know of exceptions are exceptions of Rucio's.
func TestClassesAreTheServers(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		var known []string
		for c := range classes {
			known = append(known, c)
		}
		out := r.Python("from rucio.common import exception\nprint([c for c in names if not hasattr(exception, c)], len(names))", map[string]any{"names": known})
		if want := fmt.Sprintf("[] %d\n", len(known)); out != want {
			t.Errorf("the server knows nothing of %q", out)
		}
	})
}

// The server's Python reads of filters what we wrote.
func TestFiltersArePython(t *testing.T) {
	r := servertest.Rucio(t, servertest.RucioOptions{})
	texts := []string{`it's "quoted"`, `back\slash\`, "ü€😀", "line\nbreak\t\x00\x7f\u2028", "'}, {'x': 'y", `\u0041\x41{}`, ""}
	var all []map[string]any
	for _, s := range texts {
		all = append(all, map[string]any{s: s, "k.gt": 1.5e300, "n": int64(-7), "t": true, "f": false, "none": nil})
	}
	text, err := pythonFilters(all)
	must(t, err)
	out := r.Python("import ast\nv = ast.literal_eval(text)\nprint(v == [{s: s, 'k.gt': 1.5e300, 'n': -7, 't': True, 'f': False, 'none': None} for s in texts], len(v))", map[string]any{"text": text, "texts": texts})
	if want := fmt.Sprintf("True %d\n", len(texts)); out != want {
		t.Errorf("Python reads something else: %q of %s", out, text)
	}
}
