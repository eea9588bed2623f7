package rucio

import (
	"context"
	"io"
	"iter"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/servertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	servertest.StopRucio()
	os.Exit(code)
}

// rig is an account of a real server with a disk.
type rig struct {
	*servertest.RucioServer
	account, scope, disk string
}

// CTAO's own policy: names begin with a slash, scopes are the second element of a path, and "root" of the first.
func TestCTAO(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("make test-long runs it")
	}
	srv := servertest.Rucio(t, servertest.RucioOptions{Own: true, CTAO: true})
	disk := srv.AddRSE(servertest.RucioRSE{Name: "DISK", Protocols: []servertest.RucioProtocol{{Scheme: "file", Prefix: "/lake/"}}})
	srv.AddScope("root", "lst")
	algorithm, _ := ScopeAlgorithm("ctao_bdms")
	r := &rig{RucioServer: srv, account: "root", disk: disk}
	c := r.open(t, Options{Layout: backends.LayoutLFN, ScopeOf: algorithm, Roots: []string{"/ctao"}, Lifetime: time.Hour})
	must(t, c.AddScope(t.Context(), backends.Info{DID: backends.DID{Scope: "root", Name: "/ctao"}}))
	dir := ""
	for _, p := range []string{"/ctao/lst", "/ctao/lst/DL0", "/ctao/lst/DL0/LSTN-01"} {
		mkdir(t, c, backends.DID{Scope: "lst", Name: p}, backends.Container)
		dir = p
	}
	day := backends.DID{Scope: "lst", Name: dir + "/2025-02-04"}
	mkdir(t, c, day, backends.Dataset)
	name := day.Name + "/TEL001_SDH0000_20250204T213354_SBID0000000002000000000_OBSID0000000002000000000_CHUNK001.fits.fz"
	d := backends.DID{Scope: "lst", Name: name}
	sums := backends.Checksums{Adler32: "00000007", MD5: strings.Repeat("7", 32)}
	in := backends.Info{DID: d, Type: backends.File, Size: 7, Checksums: sums, Generation: backends.GenerationOf(d, 7, sums)}
	rse, err := c.rse(t.Context(), disk)
	must(t, err)
	pfns, err := c.c.PFNs(t.Context(), disk, "file", []backends.DID{d})
	must(t, err)
	below, ok := rse.Below(pfns[d.String()])
	t.Logf("%s: %s", rse.Algorithm, pfns)
	if !ok {
		t.Fatalf("%v is at none of %+v", pfns, rse.Protocols)
	}
	must(t, c.Add(t.Context(), in, backends.Meta{"obs_id": 2000000000}, backends.Replica{RSE: disk, PFN: below, State: backends.Available}))
	if got, err := c.Stat(t.Context(), d); err != nil || got.Size != 7 || got.Checksums != sums {
		t.Errorf("stat: %+v, %v", got, err)
	}
	if reps, err := c.Replicas(t.Context(), d); err != nil || len(reps) != 1 || reps[0].PFN != below {
		t.Errorf("replicas: %+v, %v, want at %s", reps, err, below)
	}
	for _, p := range []string{"/ctao", "/ctao/lst/DL0/LSTN-01", day.Name} {
		if l := names(t, c, backends.DID{Scope: algorithm(p), Name: p}); len(l) != 1 {
			t.Errorf("%s shows %q", p, l)
		}
	}
	if id, err := c.AddRule(t.Context(), backends.Rule{DID: d, Copies: 1, Expression: disk}); err != nil || id == "" {
		t.Errorf("rule: %q, %v", id, err)
	}
	must(t, c.Remove(t.Context(), d))
	if l := names(t, c, day); len(l) != 0 {
		t.Errorf("the day shows %q", l)
	}
}

func newRig(t testing.TB, o servertest.RucioOptions) *rig {
	t.Helper()
	srv := servertest.Rucio(t, o)
	r := &rig{RucioServer: srv, account: srv.Unique("user"), scope: srv.Unique("sc")}
	srv.AddAccount(r.account, r.scope)
	r.disk = srv.AddRSE(servertest.RucioRSE{Name: strings.ToUpper(srv.Unique("RIG")) + "_USERDISK", NonDeterministic: true, Protocols: []servertest.RucioProtocol{{Scheme: "file", Prefix: "/lake"}}})
	srv.SetQuota(r.account, -1, r.disk)
	return r
}

func (r *rig) client(t testing.TB) *rest.Client {
	t.Helper()
	c, err := rest.New(rest.Options{Config: rest.Config{Host: r.URL, Account: r.account, AuthType: rest.Userpass, Username: r.account, Password: servertest.RucioPassword}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// open opens a catalogue that is closed with the test, if not before.
func (r *rig) open(t testing.TB, o Options) *Catalogue {
	t.Helper()
	o.Client = r.client(t)
	if o.Layout == "" {
		o.Layout = backends.LayoutContents
	}
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// first is the scope algorithm of the suite: the first element.
func first(p string) string { return strings.Split(p, "/")[1] }

// stored gives files of the suites, which have no replicas, one: without, Rucio has no file.
type stored struct {
	*Catalogue
	disk string
}

func (s stored) Add(ctx context.Context, in backends.Info, meta backends.Meta, at ...backends.Replica) error {
	return s.Catalogue.Add(ctx, in, meta, s.with(in, at)...)
}

func (s stored) with(in backends.Info, at []backends.Replica) []backends.Replica {
	if in.Type != backends.File || in.IsSymlink() {
		return at
	}
	return append(at, backends.Replica{RSE: s.disk, PFN: strings.TrimLeft(in.DID.Name, "/"), State: backends.Available})
}

func (s stored) Import(ctx context.Context, entries iter.Seq2[backends.Entry, error]) (int64, error) {
	return s.Catalogue.Import(ctx, func(yield func(backends.Entry, error) bool) {
		for e, err := range entries {
			e.Replicas = s.with(e.Info, e.Replicas)
			if !yield(e, err) {
				return
			}
		}
	})
}

func TestContract(t *testing.T) { contract(t, servertest.RucioOptions{Own: true}) }

// The other line of versions, for make test-long.
func TestContract41(t *testing.T) { contract(t, servertest.RucioOptions{Own: true, Version: "41"}) }

func contract(t *testing.T, o servertest.RucioOptions) {
	srv := servertest.Rucio(t, o)
	for _, name := range []string{"SUITE", "DISK", "TAPE", "ELSEWHERE", "A", "B", "C"} {
		srv.AddRSE(servertest.RucioRSE{Name: name, NonDeterministic: true, Protocols: []servertest.RucioProtocol{{Scheme: "file", Prefix: "/lake/"}}, Attributes: map[string]string{"country": "ES", "type": "DISK"}})
	}
	srv.AddAccount("a") // in whose name a rule of the suite is
	srv.SetQuota("a", -1, "DISK", "A")
	for _, layout := range []backends.Layout{backends.LayoutLFN, backends.LayoutContents} {
		t.Run(string(layout), func(t *testing.T) {
			backendstest.Catalogue(t, func(t *testing.T, _ func() time.Time) backendstest.Opened {
				r := &rig{RucioServer: srv, account: "root", scope: srv.Unique("sc")}
				srv.AddScope("root", r.scope)
				o := Options{Layout: layout, Scopes: []string{r.scope}, TTL: time.Nanosecond, NegativeTTL: time.Nanosecond, Stale: time.Nanosecond, Lifetime: time.Hour}
				if layout == backends.LayoutLFN {
					o.ScopeOf, o.Roots = first, []string{"/" + r.scope}
				}
				c := r.open(t, o)
				s := stored{c, "SUITE"}
				return backendstest.Opened{Catalogue: s, Namespace: c, Rules: c, Importer: s, Cannot: cannot, NewScope: func(t *testing.T, l backends.Layout) string {
					if l != layout {
						return ""
					}
					if l == backends.LayoutLFN {
						if err := c.AddScope(t.Context(), backends.Info{DID: backends.DID{Scope: r.scope, Name: "/" + r.scope}}); err != nil {
							t.Fatal(err)
						}
					}
					return r.scope
				}}
			})
		})
	}
}

// cannot is what of the suite a Rucio server has otherwise.
var cannot = map[string]string{
	"Stat gives what Add was given": "times are the server's",
	"no copy is no error":           "a file has a copy",
	"PutReplica adds, and replaces the one at the same RSE; Replicas gives all states":    "the files of this test have one copy more",
	"a file that exists with the same generation is success and gets what it lacks":       "the files of this test have one copy more",
	"DropReplica forgets, twice is success":                                               "the reaper removes copies, when it comes",
	"Usage counts files and bytes":                                                        "it counts what rules hold",
	"Inodes are unique, and one that is taken is ErrExist":                                "inodes follow from names",
	"after an error nothing has changed":                                                  "metadata has no bound here",
	"a name that another child has is ErrExist":                                           "any DIDs go into a collection",
	"RemoveScope deletes an empty scope":                                                  "scopes stay",
	"Scopes streams the scopes in ascending order, as their collections":                  "roots are of the lake file",
	"SetRuleState and DeleteRule of no rule are ErrNotExist":                              "a rule goes an hour later",
	"AllRules streams every rule, or those in one of the states":                          "states are the judge's",
	"RulesOf streams the rules on d and on the collections above it":                      "rules on files are on their dataset",
	"AddRule of the same copies changes what it says, keeps the rest, and ends no sooner": "the first one stays as it is",
	"AddRule stores the rule with state REPLICATING; an equal one gives its ID":           "rules on files are on their dataset",
	"AddRule keeps how the copies are made, and another source is another rule":           "sources do not tell rules apart",
	"Import adds every entry, and skips what exists with the same generation":             "the files of this test have one copy more",
	"Find in a contents scope":                                                            "the server hands metadata down to what is in a collection, also in layout contents",
	"Find knows DIRAC's standard names":                                                   "a guid is a UUID in Rucio, and a file has a copy",
	"DropReplica of another path forgets nothing":                                         "the files of this test have one copy more",
	"all methods may be called in parallel":                                               "it renames",
}

// startProxy serves h on a free port, and gives its URL.
func startProxy(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(srv.Close)
	return srv.URL
}
