package rest

import (
	"crypto/md5"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"slices"
	"testing"

	"tarn/backends"
	"tarn/backends/naming"
	"tarn/backends/servertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	servertest.StopRucio()
	os.Exit(code)
}

// client is one of an account of a real server.
func client(t *testing.T, srv *servertest.RucioServer, account string) *Client {
	t.Helper()
	c, err := New(Options{Config: Config{Host: srv.URL, CA: srv.CA, Account: account, AuthType: Userpass, Username: account, Password: servertest.RucioPassword}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestRoutes(t *testing.T) {
	srv := servertest.Rucio(t, servertest.RucioOptions{})
	user, scope := srv.Unique("user"), srv.Unique("scope")
	srv.AddAccount(user, scope)
	dir := t.TempDir()
	disk := srv.AddRSE(servertest.RucioRSE{Name: srv.Unique("T") + "_USERDISK", Protocols: []servertest.RucioProtocol{{Scheme: "file", Prefix: dir}}, Attributes: map[string]string{"country": "ES"}})
	srv.SetQuota(user, -1, disk)
	c, ctx := client(t, srv, user), t.Context()

	if v, err := c.Ping(ctx); err != nil || v == "" {
		t.Errorf("ping: %q, %v", v, err)
	}
	if a, err := c.WhoAmI(ctx); err != nil || a != user {
		t.Errorf("whoami: %q, %v", a, err)
	}
	if all, err := c.Scopes(ctx); err != nil || !slices.Contains(all, scope) {
		t.Errorf("scopes: %v, %v", all, err)
	}
	ds := backends.DID{Scope: scope, Name: "a/b-c/ds"}
	if err := c.AddDIDs(ctx, []NewDID{{Scope: ds.Scope, Name: ds.Name, Type: TypeDataset}}); err != nil {
		t.Fatal(err)
	}
	if err := c.AddDIDs(ctx, []NewDID{{Scope: ds.Scope, Name: ds.Name, Type: TypeDataset}}); !errors.Is(err, backends.ErrExist) {
		t.Errorf("a dataset made twice: %v", err)
	}
	var files []NewReplica
	var dids []backends.DID
	for i := range 2500 {
		name := fmt.Sprintf("dir/meta/f%04d", i)
		if i == 0 {
			name = "dir/files" // the name of a route
		}
		files = append(files, NewReplica{Scope: scope, Name: name, Bytes: int64(i), Adler32: fmt.Sprintf("%08x", i), MD5: fmt.Sprintf("%x", md5.Sum([]byte(name)))})
		dids = append(dids, backends.DID{Scope: scope, Name: name})
	}
	for range 2 { // the second time it is so already
		if err := c.AddReplicas(ctx, disk, files); err != nil {
			t.Fatal(err)
		}
		for part := range slices.Chunk(dids, Page) {
			if err := c.Attach(ctx, []Attachment{{ds.Scope, ds.Name, part}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	n := 0
	must(t, c.Content(ctx, ds, func(r Child) error {
		if r.Type != TypeFile || r.Bytes < 0 || len(r.Adler32) != 8 {
			t.Errorf("child %+v", r)
		}
		n++
		return nil
	}))
	if n != len(files) {
		t.Errorf("%d children, want %d", n, len(files))
	}
	before := c.Calls()["POST /dids/bulkmeta"]
	rows, err := c.BulkMeta(ctx, append(dids, ds, backends.DID{Scope: scope, Name: "nosuch"}))
	must(t, err)
	if calls := c.Calls()["POST /dids/bulkmeta"] - before; calls != 4 { // the last page lacks one, which is asked for again
		t.Errorf("bulkmeta of %d took %d calls", len(dids)+2, calls)
	}
	if len(rows) != len(files)+1 {
		t.Errorf("bulkmeta gives %d rows", len(rows))
	}
	if m := rows[dids[0]]; m.Type != TypeFile || m.Bytes != 0 || m.Created.IsZero() || m.Updated.IsZero() {
		t.Errorf("a file whose name is that of a route: %+v", m)
	}
	if m := rows[ds]; m.Type != TypeDataset || m.Open == nil || !*m.Open || m.Length != Unknown {
		t.Errorf("the dataset: %+v", m)
	}
	reps, err := c.ListReplicas(ctx, dids[:2])
	must(t, err)
	rse, err := c.RSE(ctx, disk)
	must(t, err)
	if !rse.Deterministic || rse.Algorithm != "hash" || rse.Type != "DISK" || !rse.Write || rse.Attributes["country"] != "ES" || len(rse.Protocols) != 1 {
		t.Errorf("RSE: %+v", rse)
	}
	for _, d := range dids[:2] {
		r := reps[d]
		if r.States[disk] != "AVAILABLE" || len(r.RSEs[disk]) != 1 {
			t.Fatalf("replicas of %s: %+v", d, r)
		}
		below, ok := rse.Below(r.RSEs[disk][0])
		if want := hash(t, d); !ok || below != want {
			t.Errorf("%s lies at %q, want %q below %q", d, below, want, rse.Protocols[0].Prefix)
		}
	}
	if _, err := c.RSE(ctx, "NOSUCH"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("an RSE that is not there: %v", err)
	}
	if names, err := c.RSEs(ctx, "country=ES"); err != nil || !slices.Contains(names, disk) {
		t.Errorf("RSEs of an expression: %v, %v", names, err)
	}

	m := backends.Meta{"obs_id": 123, "level": "DL0", "when's": "ü"}
	must(t, c.BulkSetMeta(ctx, []DIDMeta{{scope, dids[1].Name, m}}))
	got, err := c.UserMeta(ctx, dids[1])
	if err != nil || fmt.Sprint(got["obs_id"]) != "123" || got["when's"] != "ü" || len(got) != len(m) {
		t.Errorf("metadata %v, %v", got, err)
	}
	must(t, c.DeleteMeta(ctx, dids[1], "level"))
	must(t, c.DeleteMeta(ctx, dids[1], "level"))

	life := int64(3600)
	rule := NewRule{DIDs: []backends.DID{ds}, Account: user, Copies: 1, Expression: disk, Lifetime: &life, Grouping: "DATASET", Priority: 3, Asynchronous: true}
	id, err := c.AddRule(ctx, rule)
	must(t, err)
	if _, err := c.AddRule(ctx, rule); !Is(err, "DuplicateRule") {
		t.Errorf("the same rule again: %v", err)
	}
	srv.Daemons("injector", "evaluator")
	one, err := c.Rule(ctx, id)
	if err != nil || one.State != "OK" || one.OK != Int(len(files)) || one.Expires.IsZero() {
		t.Errorf("rule: %+v, %v", one, err)
	}
	n = 0
	must(t, c.Rules(ctx, url.Values{"scope": {scope}, "name": {ds.Name}}, func(Rule) error { n++; return nil }))
	must(t, c.RulesOf(ctx, ds, func(Rule) error { n++; return nil }))
	if n != 2 {
		t.Errorf("%d rules in two lists", n)
	}
	if p, err := c.Parents(ctx, dids[1]); err != nil || !slices.Equal(p, []backends.DID{ds}) {
		t.Errorf("parents: %v, %v", p, err)
	}
	must(t, c.Detach(ctx, ds, dids[1:2]))
	if err := c.Detach(ctx, ds, dids[1:2]); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("detached twice: %v", err)
	}
	if u, err := c.AccountUsage(ctx, user); err != nil || len(u) != 1 || u[0].Limit != Unknown {
		t.Errorf("usage: %+v, %v", u, err)
	}
	if err := c.AddReplicas(ctx, disk, []NewReplica{{Scope: scope, Name: "bad name", Bytes: 1, Adler32: "00000001"}}); err == nil {
		t.Log("the server takes names with spaces")
	}
}

// What the server computes of a name is what we compute.
func TestPFN(t *testing.T) {
	srv := servertest.Rucio(t, servertest.RucioOptions{})
	c := client(t, srv, "root")
	disk := srv.AddRSE(servertest.RucioRSE{Name: srv.Unique("PFN"), Protocols: []servertest.RucioProtocol{{Scheme: "file", Prefix: "/x/y/"}}})
	for _, d := range []backends.DID{{Scope: "ctao", Name: "run1.fits"}, {Scope: "user.max", Name: "a/b c/ü+x"}, {Scope: "group.a.b", Name: "x"}, {Scope: "a.b", Name: "x"}} {
		got, err := c.PFNs(t.Context(), disk, "file", []backends.DID{d})
		must(t, err)
		if want := "file://" + path.Join("/x/y", hash(t, d)); got[d.String()] != want {
			t.Errorf("%s: the server says %q, we %q", d, got[d.String()], want)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func hash(t *testing.T, d backends.DID) string {
	t.Helper()
	a, _ := naming.ByName("hash")
	p, ok := a.Path(d)
	if !ok {
		t.Fatalf("no path for %s", d)
	}
	return p
}
