package rucio

import (
	"context"
	"fmt"
	"testing"

	"tarn/backends"
	"tarn/backends/index"
	"tarn/backends/query"
	"tarn/backends/servertest"
)

// indexed is the catalogue of a rig with an index.
type indexed struct {
	index.Hooks
	deeper
	x *index.Index
}

type deeper struct{ *Catalogue }

func (r *rig) indexed(t *testing.T, c *Catalogue) *indexed {
	t.Helper()
	o := index.Options{Dir: t.TempDir() + "/index", Catalogue: c, Lake: "test", Flat: !c.isLFN(), Metas: c.Metas, Stats: c.Stats, Complete: c.Own, Refresh: c.Refresh}
	if c.isLFN() {
		o.Home = c.Home
	}
	x, err := index.Open(o)
	must(t, err)
	t.Cleanup(func() { must(t, x.Close()) })
	return &indexed{x.Hooks(), deeper{c}, x}
}

var indexQueries = []string{
	"level=DL3", "run>=3 run<6", "run in 1,4", "tel=LST-1", "note=Missing", "type=dataset", "type=file level=DL3", "name like f*", "not level=DL3", "level=DL3 or run=2",
	"size>2", "mtime>2020-01-01 run=1", "adler32=00000002", "level=Any", "project=p1",
}

// same compares what the index gives with what the walk gives, at and below each root; the former takes no call.
func (x *indexed) same(t *testing.T, roots ...backends.DID) {
	t.Helper()
	for _, root := range roots {
		for _, text := range indexQueries {
			q, err := query.Parse(text)
			must(t, err)
			i := &backends.Indexed{}
			ask := func(ctx context.Context, find func(context.Context, backends.DID, query.Expr) (seq func(func(backends.Info, error) bool))) map[backends.DID]backends.Info {
				got := map[backends.DID]backends.Info{}
				for in, err := range find(ctx, root, q) {
					must(t, err)
					got[in.DID] = in
				}
				return got
			}
			var got map[backends.DID]backends.Info
			n := calls(x.Catalogue, func() {
				got = ask(backends.WithIndex(t.Context(), i), func(ctx context.Context, d backends.DID, q query.Expr) func(func(backends.Info, error) bool) {
					return x.Find(ctx, d, q)
				})
			})
			want := ask(t.Context(), func(ctx context.Context, d backends.DID, q query.Expr) func(func(backends.Info, error) bool) {
				return x.Catalogue.Find(ctx, d, q)
			})
			if i.AsOf.IsZero() {
				t.Errorf("%s below %s is not from the index: %s", text, root, i.Why)
			}
			if n != 0 {
				t.Errorf("%s below %s took %d calls", text, root, n)
			}
			for d, in := range want {
				if h := got[d]; h.DID != in.DID || h.Type != in.Type || h.Size != in.Size || h.Inode != in.Inode || h.Checksums != in.Checksums || h.Generation != in.Generation || !in.IsDir() && !h.MTime.Equal(in.MTime) {
					t.Errorf("%s below %s: the index has %+v, want %+v", text, root, h, in)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%s below %s: the index gives %d, want %d", text, root, len(got), len(want))
			}
		}
	}
}

// settled waits until what was changed here has been looked at, so that its calls are not counted as those of a query.
func (x *indexed) settled(t *testing.T, root backends.DID) {
	t.Helper()
	q, _ := query.Parse("name=x")
	i := &backends.Indexed{}
	for _, err := range x.Find(backends.WithIndex(t.Context(), i), root, q) {
		must(t, err)
	}
}

func (x *indexed) setMeta(t *testing.T, d backends.DID, m backends.Meta) {
	t.Helper()
	must(t, x.SetMeta(t.Context(), d, m))
}

// In layout lfn the index gives what the walk gives, also after changes through here, and those of others when it is made again.
func TestIndexLFN(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c := r.lfn(t, Options{})
	x := r.indexed(t, c)
	mkdir(t, c, r.did("a"), backends.Container)
	mkdir(t, c, r.did("a/day"), backends.Dataset)
	mkdir(t, c, r.did("b"), backends.Container)
	for i := range 6 {
		add(t, c, r.file(fmt.Sprintf("a/day/f%d", i), int64(i)))
		x.setMeta(t, r.did(fmt.Sprintf("a/day/f%d", i)), backends.Meta{"run": i})
	}
	add(t, c, r.file("b/loose", 3))
	x.setMeta(t, r.did("a"), backends.Meta{"level": "DL3"})
	x.setMeta(t, r.did("a/day/f2"), backends.Meta{"level": "DL0", "tel": "LST-1", "project": "p1"})
	must(t, c.Attach(t.Context(), r.did("b"), r.did("a/day"))) // in two containers, of which the server follows one
	x.setMeta(t, r.did("b"), backends.Meta{"level": "DL3"})
	_, err := x.x.Build(t.Context(), backends.DID{}, "/", nil)
	must(t, err)
	roots := []backends.DID{{}, r.did(""), r.did("a"), r.did("a/day"), r.did("b"), r.did("a/day/f2")}
	x.same(t, roots...)

	must(t, x.Add(t.Context(), r.file("a/day/f9", 9).Info, backends.Meta{"run": 4}, r.file("a/day/f9", 9).Replicas...))
	x.setMeta(t, r.did("b"), backends.Meta{"note": "n", "level": "DL1"})
	x.setMeta(t, r.did("a/day/f0"), backends.Meta{"run": 5})
	must(t, x.Remove(t.Context(), r.did("a/day/f1")))
	must(t, x.Detach(t.Context(), r.did("b"), r.did("a/day")))
	mustImport(t, x, r.file("a/x", 7), r.file("a/day/f7", 8))
	x.settled(t, backends.DID{})
	x.same(t, roots...)

	// What another client has changed below a directory is met when its metadata is set.
	must(t, c.Remove(t.Context(), r.did("a/day/f3")))
	add(t, c, r.file("a/day/f8", 12))
	x.setMeta(t, r.did("a/day"), backends.Meta{"note": "m"})
	x.settled(t, backends.DID{})
	x.same(t, roots...)

	r.Run("did", "metadata", "add", "--key", "level", "--value", "DL9", r.did("b/loose").String())
	c.Refresh(backends.DID{})
	_, err = x.x.Build(t.Context(), backends.DID{}, "/", nil)
	must(t, err)
	x.same(t, roots...)
}

func mustImport(t *testing.T, x *indexed, all ...backends.Entry) {
	t.Helper()
	n, err := x.Import(t.Context(), func(yield func(backends.Entry, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	})
	if err != nil || n != int64(len(all)) {
		t.Fatalf("imported %d, %v", n, err)
	}
}

// In layout contents, too: collections hold one another and DIDs of other scopes, and who is in none stands in its scope.
func TestIndexContents(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c := r.open(t, Options{Scopes: []string{r.scope}})
	x := r.indexed(t, c)
	d := func(name string) backends.DID { return backends.DID{Scope: r.scope, Name: name} }
	for _, n := range []string{"box", "out"} {
		mkdir(t, c, d(n), backends.Container)
	}
	for _, n := range []string{"set", "other", "lone"} {
		mkdir(t, c, d(n), backends.Dataset)
	}
	for i := range 6 {
		e := r.file("", int64(i))
		e.Info.DID = d(fmt.Sprintf("f%d", i))
		add(t, c, e)
		must(t, c.SetMeta(t.Context(), e.Info.DID, backends.Meta{"run": i}))
	}
	// Of several collections that something is in the server follows one, whichever comes first: they have the same metadata here.
	must(t, c.Attach(t.Context(), d("set"), d("f0"), d("f1"), d("f2")))
	must(t, c.Attach(t.Context(), d("other"), d("f1"), d("f3")))
	must(t, c.Attach(t.Context(), d("box"), d("set"), d("other")))
	must(t, c.SetMeta(t.Context(), d("box"), backends.Meta{"level": "DL3"}))
	must(t, c.SetMeta(t.Context(), d("lone"), backends.Meta{"tel": "LST-1"}))
	_, err := x.x.Build(t.Context(), backends.DID{}, "/", nil)
	must(t, err)
	roots := []backends.DID{{}, d(""), d("box"), d("set"), d("other"), d("out"), d("f5")}
	x.same(t, roots...)

	must(t, x.Attach(t.Context(), d("out"), d("lone")))
	must(t, x.Attach(t.Context(), d("lone"), d("f4")))
	x.setMeta(t, d("out"), backends.Meta{"note": "n"})
	must(t, x.Detach(t.Context(), d("box"), d("other")))
	must(t, x.Detach(t.Context(), d("set"), d("f1")))
	must(t, x.Remove(t.Context(), d("f5")))
	x.settled(t, backends.DID{})
	x.same(t, roots[:6]...)
	must(t, x.Attach(t.Context(), d("out"), d("other")))
	e := r.file("", 20)
	e.Info.DID = d("f20")
	must(t, x.Add(t.Context(), e.Info, backends.Meta{"run": 4}, e.Replicas...))
	x.settled(t, backends.DID{})
	x.same(t, roots[:6]...)

	// One dataset alone: what is inherited from collections that are not indexed is followed as well.
	_, err = x.x.Drop(t.Context(), backends.DID{})
	must(t, err)
	_, err = x.x.Build(t.Context(), d("set"), "/set", nil)
	must(t, err)
	x.setMeta(t, d("out"), backends.Meta{"level": "DL3"})
	x.setMeta(t, d("box"), backends.Meta{"level": "DL2"})
	x.settled(t, d("set"))
	x.same(t, d("set"))
}

// Making an index of n files costs ceil(n/1000) calls for metadata, and as many and a few for the listing.
func TestIndexCalls(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c := r.lfn(t, Options{})
	x := r.indexed(t, c)
	mkdir(t, c, r.did("day"), backends.Dataset)
	const n = 2500
	var all []backends.Entry
	for i := range n {
		all = append(all, r.file(fmt.Sprintf("day/f%05d", i), int64(i)))
	}
	mustImport(t, x, all...)
	mkdir(t, c, r.did("more"), backends.Container)
	got := calls(c, func() {
		cover, err := x.x.Build(t.Context(), r.did(""), "/"+r.scope, nil)
		if err != nil || cover.DIDs != n+3 {
			t.Fatalf("%+v, %v", cover, err)
		}
	})
	if most := int64(3 + 3 + 3*4 + 2); got > most {
		t.Errorf("it took %d calls, want %d at most", got, most)
	}
	t.Logf("%d files: %d calls", n, got)
	q, err := query.Parse("name like f0*")
	must(t, err)
	found := 0
	if got := calls(c, func() {
		for _, err := range x.Find(backends.WithIndex(t.Context(), &backends.Indexed{}), r.did("day"), q) {
			must(t, err)
			found++
		}
	}); got != 0 || found != n {
		t.Errorf("a query gave %d of %d files, and took %d calls", found, n, got)
	}
}
