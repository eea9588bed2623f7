package rest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tarn/backends"
	"tarn/backends/servertest"
)

// rig is a lake of one user on a real server.
type rig struct {
	*servertest.RucioServer
	root, user *Client
	name       string
	scope      string
	disk       string
}

// both runs a test against both lines of Rucio.
func both(t *testing.T, f func(t *testing.T, r *rig)) {
	for _, v := range []string{"38", "41"} {
		t.Run(v, func(t *testing.T) {
			srv := servertest.Rucio(t, servertest.RucioOptions{Version: v})
			r := &rig{RucioServer: srv, name: srv.Unique("user"), scope: srv.Unique("scope")}
			srv.AddAccount(r.name, r.scope)
			r.disk = srv.AddRSE(servertest.RucioRSE{Name: srv.Unique("R") + "_USERDISK", Protocols: []servertest.RucioProtocol{{Scheme: "file", Prefix: t.TempDir()}}})
			srv.SetQuota(r.name, -1, r.disk)
			r.root, r.user = client(t, srv, "root"), client(t, srv, r.name)
			f(t, r)
		})
	}
}

func (r *rig) did(name string) backends.DID { return backends.DID{Scope: r.scope, Name: name} }

func (r *rig) make(t *testing.T, typ string, names ...string) {
	t.Helper()
	var all []NewDID
	for _, n := range names {
		all = append(all, NewDID{Scope: r.scope, Name: n, Type: typ})
	}
	must(t, r.user.AddDIDs(t.Context(), all))
}

// fill registers files at the disk and puts them into a dataset.
func (r *rig) fill(t *testing.T, set string, files ...NewReplica) {
	t.Helper()
	var dids []backends.DID
	for i := range files {
		files[i].Scope = r.scope
		dids = append(dids, r.did(files[i].Name))
	}
	must(t, r.user.AddReplicas(t.Context(), r.disk, files))
	must(t, r.user.Attach(t.Context(), []Attachment{{r.scope, set, dids}}))
}

// names of what a stream gives.
func names[T interface{ DID() backends.DID }](t *testing.T, stream func(f func(T) error) error) []string {
	t.Helper()
	var out []string
	must(t, stream(func(row T) error { out = append(out, row.DID().Name); return nil }))
	slices.Sort(out)
	return out
}

func equal[T comparable](t *testing.T, what string, got []T, want ...T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestDIDRoutes(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		ctx, c := t.Context(), r.user
		r.make(t, TypeContainer, "/top")
		r.make(t, TypeDataset, "/top/files", "/top/day_1", "meta") // two are called like routes
		must(t, c.Attach(ctx, []Attachment{{r.scope, "/top", []backends.DID{r.did("/top/files"), r.did("/top/day_1")}}}))
		var files []NewReplica
		for i := range 1500 {
			files = append(files, NewReplica{Name: fmt.Sprintf("/top/day_1/f%04d", i), Bytes: 7, Adler32: "0000002a"})
		}
		special := NewReplica{Name: "/top/files/a.b-c_d", Bytes: 3, Adler32: "00000007"}
		for range 2 { // the second time it is so already
			r.fill(t, "/top/day_1", files...)
			r.fill(t, "/top/files", special)
		}
		if n := c.Calls()["POST /dids/attachments"]; n != 1+6 {
			t.Errorf("%d calls of attachments, want 7", n)
		}

		equal(t, "content", names(t, func(f func(Child) error) error { return c.Content(ctx, r.did("/top"), f) }), "/top/day_1", "/top/files")
		equal(t, "content of a shadowed name", names(t, func(f func(Child) error) error { return c.Content(ctx, r.did("/top/files"), f) }), special.Name)
		equal(t, "orphans", names(t, func(f func(Child) error) error { return c.Orphans(ctx, r.scope, f) }), "/top", "meta")
		if up, err := c.Parents(ctx, r.did(special.Name)); err != nil || !slices.Equal(up, []backends.DID{r.did("/top/files")}) {
			t.Errorf("parents: %v, %v", up, err)
		}
		must(t, c.Detach(ctx, r.did("/top/files"), []backends.DID{r.did(special.Name)}))
		equal(t, "content after a detach", names(t, func(f func(Child) error) error { return c.Content(ctx, r.did("/top/files"), f) }))

		d := r.did("/top/day_1")
		must(t, c.SetMeta(ctx, d, map[string]any{"project": "ctao", "obs": 5, "it's": `a\"ü`}))
		if m, err := c.UserMeta(ctx, d); err != nil || m["project"] != "ctao" || fmt.Sprint(m["obs"]) != "5" || m["it's"] != `a\"ü` {
			t.Errorf("metadata: %v, %v", m, err)
		}
	})
}

// A name that ends like a route, so that the server takes a question for the DID as one for what is above it (GET /dids/s/a/files lists the
// files of a), is reached by all that asks for a DID.
func TestShadowedNames(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		for _, last := range []string{"files", "meta", "dids", "rules", "parents", "status", "associated_rules", "follow", "guid", "dids/history", "search", "bulkmeta", "new", "x"} {
			for _, name := range []string{last, "/a/" + last, "a/" + last} {
				r.make(t, TypeDataset, name)
				if rows, err := r.user.BulkMeta(t.Context(), []backends.DID{r.did(name)}); err != nil || rows[r.did(name)].Type != TypeDataset {
					t.Errorf("row of %q: %+v, %v", name, rows, err)
				}
				must(t, r.user.Content(t.Context(), r.did(name), func(Child) error { return nil }))
				must(t, r.user.SetMeta(t.Context(), r.did(name), map[string]any{"k": name, "l": 1}))
				must(t, r.user.DeleteMeta(t.Context(), r.did(name), "l"))
				if m, err := r.user.UserMeta(t.Context(), r.did(name)); err != nil || m["k"] != name || len(m) != 1 {
					t.Errorf("metadata of %q: %v, %v", name, m, err)
				}
				if _, err := r.user.Parents(t.Context(), r.did(name)); err != nil {
					t.Errorf("parents of %q: %v", name, err)
				}
				must(t, r.user.RulesOf(t.Context(), r.did(name), func(Rule) error { return nil }))
			}
		}
	})
}

func TestReplicaRoutes(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		ctx, c := t.Context(), r.user
		r.make(t, TypeDataset, "ds")
		r.fill(t, "ds", NewReplica{Name: "a", Bytes: 1, Adler32: "00000001"}, NewReplica{Name: "b", Bytes: 2, Adler32: "00000002"})
		files := []backends.DID{r.did("a"), r.did("b"), r.did("nosuch")}
		must(t, r.root.DeclareBad(ctx, r.did("a"), r.disk, "a test"))
		reps, err := c.ListReplicas(ctx, files)
		must(t, err)
		if got := reps[r.did("a")].States[r.disk]; got != "BAD" || len(reps) != 2 {
			t.Errorf("a bad replica: state %q of %d", got, len(reps))
		}
		for pfn := range reps[r.did("b")].PFNs {
			must(t, c.DeclareSuspicious(ctx, pfn, "a test"))
		}
		must(t, r.root.Tombstone(ctx, r.did("b"), r.disk))
		if err := r.user.AddReplicas(ctx, r.disk, []NewReplica{{Scope: r.scope, Name: "b", Bytes: 99, Adler32: "0000dead"}}); err != nil {
			t.Errorf("a file registered with another size: %v", err) // the server heeds it not: who registers compares
		}
		if all, err := c.BulkMeta(ctx, []backends.DID{r.did("b")}); err != nil || all[r.did("b")].Bytes != 2 {
			t.Errorf("its size: %+v, %v", all, err)
		}
		if err := c.AddReplicas(ctx, "NOSUCH_USERDISK", []NewReplica{{Scope: r.scope, Name: "c", Bytes: 1}}); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("an RSE that is not there: %v", err)
		}
		r.Do("PUT", "/rses/"+r.disk, map[string]any{"availability_write": false})
		if err := c.AddReplicas(ctx, r.disk, []NewReplica{{Scope: r.scope, Name: "c", Bytes: 1}}); !Is(err, "ResourceTemporaryUnavailable") || !backends.IsTemporary(err) {
			t.Errorf("an RSE that is closed: %v", err)
		} else if n := c.Calls()["POST /replicas"]; n != 4 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestRuleRoutes(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		ctx, c := t.Context(), r.user
		r.make(t, TypeDataset, "ds")
		r.fill(t, "ds", NewReplica{Name: "a", Bytes: 1, Adler32: "00000001"})
		life := int64(3600)
		rule := NewRule{DIDs: []backends.DID{r.did("ds")}, Account: r.name, Copies: 1, Expression: r.disk, Lifetime: &life, Grouping: "DATASET", Priority: 3}
		id, err := c.AddRule(ctx, rule)
		must(t, err)
		var locks []Lock
		must(t, c.Locks(ctx, id, func(l Lock) error { locks = append(locks, l); return nil }))
		if len(locks) != 1 || locks[0].DID() != r.did("a") || locks[0].RSE != r.disk || locks[0].State != "OK" {
			t.Errorf("locks: %+v", locks)
		}
		if a, err := c.Analyse(ctx, id); err != nil || !strings.Contains(a.Error, "OK") {
			t.Errorf("analysis: %+v, %v", a, err)
		}
		if one, err := c.Rule(ctx, id); err != nil || one.Copies != 1 || one.Expression != r.disk {
			t.Errorf("the rule: %+v, %v", one, err)
		}
		if _, err := c.Rule(ctx, strings.Repeat("0", 32)); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("a rule that is not there: %v", err)
		}
		if err := r.root.Tombstone(ctx, r.did("a"), r.disk); !errors.Is(err, backends.ErrBusy) {
			t.Errorf("a replica that a rule holds: %v", err)
		}
		if err := c.DeleteRule(ctx, id); !errors.Is(err, backends.ErrPermission) {
			t.Errorf("a rule deleted by a plain user: %v", err)
		}
		must(t, r.root.DeleteRule(ctx, id))

		for what, want := range map[string]error{"NOSUCH": backends.ErrNotSupported, "((": backends.ErrNotSupported} {
			x := rule
			x.Expression = what
			if _, err := c.AddRule(ctx, x); !errors.Is(err, want) || !Is(err, "InvalidRSEExpression") {
				t.Errorf("a rule on %s: %v", what, err)
			}
		}
		x := rule
		x.Copies = 2
		if _, err := c.AddRule(ctx, x); !Is(err, "InsufficientTargetRSEs") {
			t.Errorf("more copies than RSEs: %v", err)
		}
		r.SetQuota(r.name, 0, r.disk)
		x = rule
		x.DIDs = []backends.DID{r.did("a")}
		if _, err := c.AddRule(ctx, x); !errors.Is(err, backends.ErrQuota) {
			t.Errorf("a rule without quota: %v", err)
		}
	})
}

func TestScopesAndUsage(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		ctx, c := t.Context(), r.root
		scope := r.Unique("sc")
		must(t, c.AddScope(ctx, r.name, scope))
		if err := c.AddScope(ctx, r.name, scope); !errors.Is(err, backends.ErrExist) {
			t.Errorf("a scope made twice: %v", err)
		}
		if all, err := c.Scopes(ctx); err != nil || !slices.Contains(all, scope) {
			t.Errorf("scopes: %v, %v", all, err)
		}
		tape := r.AddRSE(servertest.RucioRSE{Tape: true, Attributes: map[string]string{"site": "CTAO-S"}})
		if s, err := c.RSE(ctx, tape); err != nil || s.Type != "TAPE" || s.Attributes["site"] != "CTAO-S" {
			t.Errorf("RSE: %+v, %v", s, err)
		}
		r.Do("PUT", "/rses/"+tape+"/usage", map[string]any{"source": "storage", "used": 10, "free": 5 << 40})
		if u, err := c.Usage(ctx, tape); err != nil || !slices.ContainsFunc(u, func(u Usage) bool { return u.Source == "storage" && u.Free == 5<<40 && u.Total == 10+5<<40 }) {
			t.Errorf("usage: %+v, %v", u, err)
		}
	})
}
