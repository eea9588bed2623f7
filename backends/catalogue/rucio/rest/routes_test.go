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

// names of what a stream gives.
func names[T interface{ DID() backends.DID }](t *testing.T, stream func(f func(T) error) error) []string {
	t.Helper()
	var out []string
	for row, err := range Seq(stream) {
		must(t, err)
		out = append(out, row.DID().Name)
	}
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
		var files []NewFile
		for i := range 1500 {
			files = append(files, NewFile{Scope: r.scope, Name: fmt.Sprintf("/top/day_1/f%04d", i), Bytes: 7, Adler32: "0000002a"})
		}
		special := NewFile{Scope: r.scope, Name: "/top/files/a.b-c_d", Bytes: 3, Adler32: "00000007", Meta: map[string]any{"guid": "11112222333344445555666677778888"}}
		attachments := []FileAttachment{{r.scope, "/top/day_1", r.disk, files}, {r.scope, "/top/files", r.disk, []NewFile{special}}}
		for range 2 { // the second time it is so already
			must(t, c.AttachFiles(ctx, attachments))
		}
		if n := c.Calls()["POST /dids/attachments"]; n != 1+4 {
			t.Errorf("%d calls of attachments, want 5", n)
		}

		equal(t, "content", names(t, func(f func(Child) error) error { return c.Content(ctx, r.did("/top"), f) }), "/top/day_1", "/top/files")
		equal(t, "content of a shadowed name", names(t, func(f func(Child) error) error { return c.Content(ctx, r.did("/top/files"), f) }), special.Name)
		equal(t, "orphans", names(t, func(f func(Child) error) error { return c.Orphans(ctx, r.scope, f) }), "/top", "meta")
		all := names(t, func(f func(FileRow) error) error { return c.Files(ctx, r.did("/top"), f) })
		if len(all) != 1501 {
			t.Errorf("%d files below the container", len(all))
		}
		equal(t, "a file's files", names(t, func(f func(FileRow) error) error { return c.Files(ctx, r.did(special.Name), f) }), special.Name)
		n := 0
		must(t, c.BulkFiles(ctx, []backends.DID{r.did("/top/files"), r.did("/top/day_1"), r.did("nosuch")}, func(row FileRow) error {
			if row.Parent() != r.did("/top/files") && row.Parent() != r.did("/top/day_1") || row.Bytes <= 0 {
				t.Fatalf("bulkfiles: %+v", row)
			}
			n++
			return nil
		}))
		if n != 1501 {
			t.Errorf("bulkfiles gives %d", n)
		}

		// One DID: open, counted, closed, and by a name that is a route's.
		d := r.did("/top/day_1")
		info, err := c.DID(ctx, d, "")
		if err != nil || !info.Open || info.Length != Unknown || info.Bytes != Unknown || info.Type != TypeDataset || info.Account != r.name {
			t.Errorf("an open dataset: %+v, %v", info, err)
		}
		if info, err = c.DID(ctx, d, TypeFile); err != nil || info.Length != 1500 || info.Bytes != 1500*7 {
			t.Errorf("counted: %+v, %v", info, err)
		}
		must(t, c.SetOpen(ctx, d, false))
		must(t, c.SetOpen(ctx, d, false))
		if info, err = c.DID(ctx, d, ""); err != nil || info.Open || info.Length != 1500 || info.Bytes != 1500*7 {
			t.Errorf("closed: %+v, %v", info, err)
		}
		if err := c.Attach(ctx, []Attachment{{r.scope, d.Name, []backends.DID{r.did(special.Name)}}}); !errors.Is(err, backends.ErrNotSupported) || !Is(err, "UnsupportedOperation") {
			t.Errorf("attached to what is closed: %v", err)
		}
		for _, name := range []string{"/top/files", "meta"} {
			if info, err = c.DID(ctx, r.did(name), ""); err != nil || info.Type != TypeDataset || info.Name != name || !info.Open {
				t.Errorf("the DID %q: %+v, %v", name, info, err)
			}
		}
		if info, err = c.DID(ctx, r.did(special.Name), ""); err != nil || info.Type != TypeFile || info.Bytes != 3 || info.Adler32 != "00000007" {
			t.Errorf("a file: %+v, %v", info, err)
		}
		for _, name := range []string{"/no/such", "/no/files"} {
			if _, err := c.DID(ctx, r.did(name), ""); !errors.Is(err, backends.ErrNotExist) || !Is(err, "DataIdentifierNotFound") {
				t.Errorf("a DID that is not there: %v", err)
			}
		}

		var sets []backends.DID
		must(t, c.DatasetsOf(ctx, special.Meta["guid"].(string), func(d backends.DID) error { sets = append(sets, d); return nil }))
		equal(t, "datasets of a GUID", sets, r.did("/top/files"))

		must(t, c.Detach(ctx, r.did("/top/files"), []backends.DID{r.did(special.Name)}))
		var former []Former
		must(t, c.History(ctx, r.did("/top/files"), func(f Former) error { former = append(former, f); return nil }))
		if len(former) != 1 || former[0].Name != special.Name || former[0].Deleted.IsZero() {
			t.Errorf("history: %+v", former)
		}

		must(t, c.SetMeta(ctx, d, map[string]any{"project": "ctao", "obs": 5, "it's": `a\"ü`}))
		if m, err := c.Meta(ctx, d, ""); err != nil || m["project"] != "ctao" || m["obs"] != nil {
			t.Errorf("columns: %v, %v", m, err)
		}
		if m, err := c.Meta(ctx, d, "JSON"); err != nil || fmt.Sprint(m["obs"]) != "5" || m["project"] != nil {
			t.Errorf("JSON: %v, %v", m, err)
		}
		search := func(o SearchOptions, filters ...map[string]any) []string {
			t.Helper()
			var out []string
			must(t, c.SearchRows(ctx, r.scope, o, filters, func(f Found) error { out = append(out, f.Name); return nil }))
			slices.Sort(out)
			return out
		}
		equal(t, "search by JSON", search(SearchOptions{}, map[string]any{"obs.gt": 4, "it's": `a\"ü`}), d.Name)
		equal(t, "search by a name", search(SearchOptions{Type: "dataset"}, map[string]any{"name": "/top/*"}), "/top/day_1", "/top/files")
		equal(t, "search by either", search(SearchOptions{Type: "all"}, map[string]any{"name": "meta"}, map[string]any{"name": "/top"}), "/top", "meta")
		if got := search(SearchOptions{Type: "file", Limit: 10}, map[string]any{"name": "*"}); len(got) != 10 {
			t.Errorf("a search with a limit gives %d", len(got))
		}
		if err := c.SearchRows(ctx, r.scope, SearchOptions{}, []map[string]any{{"obs": 5, "project": "ctao"}}, func(Found) error { return nil }); !Is(err, "InvalidMetadata") {
			t.Errorf("a search in two plug-ins: %v", err)
		}

		must(t, c.SetLifetime(ctx, r.did("meta"), 0))
		r.Daemons("undertaker")
		if _, err := c.DID(ctx, r.did("meta"), ""); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("a dataset after its life: %v", err)
		}
	})
}

// What the server shadows is what Shadowed says, whatever comes before it.
func TestShadowedNames(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		for _, last := range append(slices.Clone(suffixes), "guid", "dids/history", "history", "files2", "Files", "search", "bulkmeta", "new", "x") {
			for _, name := range []string{last, "/a/" + last, "a/" + last} {
				r.make(t, TypeDataset, name)
				var got DIDInfo
				err := r.user.ask(t.Context(), call{method: "GET", route: "/dids/SCOPE/NAME", path: didPath(r.did(name), "")}, &got)
				reached := err == nil && got.Name == name
				if reached == Shadowed(name) {
					t.Errorf("%q: reached %v (%v), Shadowed %v", name, reached, err, Shadowed(name))
				}
				if got, err := r.user.DID(t.Context(), r.did(name), ""); err != nil || got.Name != name {
					t.Errorf("DID(%q): %+v, %v", name, got, err)
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
				must(t, r.user.SetOpen(t.Context(), r.did(name), false))
				if got, err := r.user.DID(t.Context(), r.did(name), ""); err != nil || got.Open {
					t.Errorf("closed %q: %+v, %v", name, got, err)
				}
			}
		}
	})
}

func TestReplicaRoutes(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		ctx, c := t.Context(), r.user
		r.make(t, TypeDataset, "ds")
		must(t, c.AttachFiles(ctx, []FileAttachment{{r.scope, "ds", r.disk, []NewFile{{Scope: r.scope, Name: "a", Bytes: 1, Adler32: "00000001"}, {Scope: r.scope, Name: "b", Bytes: 2, Adler32: "00000002"}}}}))
		files := []backends.DID{r.did("a"), r.did("b"), r.did("nosuch")}
		list := func(o ListOptions, dids ...backends.DID) []string {
			t.Helper()
			return names(t, func(f func(Replicas) error) error { return c.StreamReplicas(ctx, dids, o, f) })
		}
		equal(t, "replicas", list(ListOptions{Schemes: []string{"file"}, Expression: r.disk, Sort: "geoip", Domain: "all", Site: "x"}, files...), "a", "b")
		equal(t, "replicas of a dataset", list(ListOptions{Sort: "random", Parents: true}, r.did("ds")), "a", "b")
		if err := c.StreamReplicas(ctx, files, ListOptions{Sort: "nosuch"}, func(Replicas) error { return nil }); !Is(err, "SortingAlgorithmNotSupported") {
			t.Errorf("an order that is none: %v", err)
		}

		states := []ReplicaState{{r.scope, "a", "U"}}
		if err := c.SetReplicaStates(ctx, r.disk, states); !errors.Is(err, backends.ErrPermission) {
			t.Errorf("a state set by a plain user: %v", err)
		}
		must(t, r.root.SetReplicaStates(ctx, r.disk, states))
		equal(t, "replicas of the dataset that can be read", list(ListOptions{}, r.did("ds")), "b")
		if err := r.root.SetReplicaStates(ctx, r.disk, []ReplicaState{{r.scope, "nosuch", "A"}}); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("a state of no replica: %v", err)
		}
		deep, err := c.DatasetReplicas(ctx, r.did("ds"), true)
		if err != nil || len(deep) != 1 || deep[0].RSE != r.disk || deep[0].Length != 2 || deep[0].AvailableLength != 1 || deep[0].AvailableBytes != 2 {
			t.Errorf("the dataset at RSEs: %+v, %v", deep, err)
		}
		must(t, r.root.SetReplicaStates(ctx, r.disk, []ReplicaState{{r.scope, "a", "A"}}))
		must(t, r.root.DeclareBad(ctx, r.did("a"), r.disk, "a test"))
		equal(t, "replicas but bad ones", list(ListOptions{}, r.did("ds")), "b")
		reps, err := c.ListReplicas(ctx, files)
		must(t, err)
		if got := reps[r.did("a")].States[r.disk]; got != "BAD" || len(reps) != 2 {
			t.Errorf("a bad replica: state %q of %d", got, len(reps))
		}
		for pfn := range reps[r.did("b")].PFNs {
			must(t, c.DeclareSuspicious(ctx, pfn, "a test"))
		}
		var at []backends.DID
		must(t, c.DatasetsAt(ctx, r.disk, func(d backends.DID) error { at = append(at, d); return nil }))
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
		} else if n := c.Calls()["POST /replicas"]; n != 3 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestRuleRoutes(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		ctx, c := t.Context(), r.user
		r.make(t, TypeDataset, "ds")
		must(t, c.AttachFiles(ctx, []FileAttachment{{r.scope, "ds", r.disk, []NewFile{{Scope: r.scope, Name: "a", Bytes: 1, Adler32: "00000001"}}}}))
		life := int64(3600)
		rule := NewRule{DIDs: []backends.DID{r.did("ds")}, Account: r.name, Copies: 1, Expression: r.disk, Lifetime: &life, Grouping: "DATASET", Priority: 3}
		id, err := c.AddRule(ctx, rule)
		must(t, err)
		var locks []Lock
		must(t, c.Locks(ctx, id, func(l Lock) error { locks = append(locks, l); return nil }))
		if len(locks) != 1 || locks[0].DID() != r.did("a") || locks[0].RSE != r.disk || locks[0].State != "OK" {
			t.Errorf("locks: %+v", locks)
		}
		var sets []DatasetLock
		must(t, c.DatasetLocks(ctx, r.did("ds"), func(l DatasetLock) error { sets = append(sets, l); return nil }))
		if len(sets) != 1 || sets[0].RuleID != id || sets[0].RSE != r.disk {
			t.Errorf("dataset locks: %+v", sets)
		}
		n := 0
		must(t, c.RulesHolding(ctx, r.did("a"), func(x Rule) error {
			if x.ID == id {
				n++
			}
			return nil
		}))
		if n != 1 {
			t.Errorf("%d rules hold the file", n)
		}
		if a, err := c.Analyse(ctx, id); err != nil || !strings.Contains(a.Error, "OK") {
			t.Errorf("analysis: %+v, %v", a, err)
		}
		if err := c.UpdateRule(ctx, id, map[string]any{"comment": "x"}); !errors.Is(err, backends.ErrPermission) {
			t.Errorf("a rule changed by a plain user: %v", err)
		}
		must(t, r.root.UpdateRule(ctx, id, map[string]any{"comment": "x", "lifetime": 7200}))
		if one, err := c.Rule(ctx, id); err != nil || one.Comments != "x" {
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
		if err := c.StreamReplicas(ctx, []backends.DID{r.did("a")}, ListOptions{Expression: "(("}, func(Replicas) error { return nil }); !Is(err, "InvalidRSEExpression") {
			t.Errorf("replicas by a bad expression: %v", err)
		}
		r.SetQuota(r.name, 0, r.disk)
		x = rule
		x.DIDs = []backends.DID{r.did("a")}
		if _, err := c.AddRule(ctx, x); !errors.Is(err, backends.ErrQuota) {
			t.Errorf("a rule without quota: %v", err)
		}
		if _, err := c.Request(ctx, r.did("a"), r.disk); !errors.Is(err, backends.ErrNotExist) || !Is(err, "RequestNotFound") {
			t.Errorf("a transfer that there is not: %v", err)
		}
		must(t, r.root.RequestsBetween(ctx, r.disk, r.disk, "Q,S,W", func(Request) error { return nil }))
	})
}

// A transfer that is under way is seen.
func TestRequest(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		ctx, c := t.Context(), r.user
		to := r.AddRSE(servertest.RucioRSE{Name: r.Unique("TO") + "_USERDISK", Protocols: []servertest.RucioProtocol{{Scheme: "file", Prefix: t.TempDir()}}})
		r.SetQuota(r.name, -1, to)
		r.make(t, TypeDataset, "ds")
		must(t, c.AttachFiles(ctx, []FileAttachment{{r.scope, "ds", r.disk, []NewFile{{Scope: r.scope, Name: "dir/a", Bytes: 1, Adler32: "00000001"}}}}))
		id, err := c.AddRule(ctx, NewRule{DIDs: []backends.DID{r.did("ds")}, Account: r.name, Copies: 1, Expression: to, Grouping: "DATASET", Priority: 3})
		must(t, err)
		got, err := c.Request(ctx, r.did("dir/a"), to)
		if err != nil || got.Name != "dir/a" || got.Type != "TRANSFER" || got.State == "" || got.DestRSE != to && got.DestRSE != "" || got.Created.IsZero() {
			t.Errorf("request: %+v, %v", got, err)
		}
		if one, err := c.Rule(ctx, id); err != nil || one.State != "REPLICATING" || one.Replicating != 1 {
			t.Errorf("rule: %+v, %v", one, err)
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
