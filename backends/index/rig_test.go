package index

import (
	"context"
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/query"
)

// rig is an index on a catalogue in memory.
type rig struct {
	t   testing.TB
	cat *embedded.Catalogue
	x   *Index
	opt Options
	*indexed
}

// indexed is how a lake has it.
type indexed struct {
	Hooks
	below
}

type below struct{ *embedded.Catalogue }

var _ Catalogue = (*indexed)(nil)

func home(d backends.DID) (backends.DID, bool) {
	up := path.Dir(d.Name)
	return backends.DID{Scope: d.Scope, Name: up}, up != "/"
}

func newRig(t testing.TB) *rig {
	cat, err := embedded.Open(embedded.Options{InMemory: true})
	must(t, err)
	r := &rig{t: t, cat: cat, opt: Options{Dir: t.TempDir() + "/index", Catalogue: cat, Lake: "test", Home: home}}
	r.open()
	t.Cleanup(func() {
		if err := r.x.Close(); err != nil {
			t.Error(err)
		}
		if err := cat.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) open() {
	x, err := Open(r.opt)
	must(r.t, err)
	r.x, r.indexed = x, &indexed{x.Hooks(), below{r.cat}}
}

func (r *rig) scope(name string) {
	r.t.Helper()
	must(r.t, r.AddScope(context.Background(), backends.Info{DID: backends.DID{Scope: name, Name: "/" + name}, Type: backends.Container, Mode: 0o755, Layout: backends.LayoutLFN}))
}

func did(p string) backends.DID {
	scope, _, _ := strings.Cut(p[1:], "/")
	return backends.DID{Scope: scope, Name: p}
}

func (r *rig) dir(p string, m backends.Meta) {
	r.t.Helper()
	must(r.t, r.Add(context.Background(), backends.Info{DID: did(p), Type: backends.Container, Mode: 0o755}, m))
}

func (r *rig) file(p string, size int64, m backends.Meta) {
	r.t.Helper()
	must(r.t, r.Add(context.Background(), fileInfo(p, size), m))
}

func fileInfo(p string, size int64) backends.Info {
	sums := backends.Checksums{Adler32: fmt.Sprintf("%08x", size)}
	return backends.Info{DID: did(p), Type: backends.File, Size: size, Checksums: sums, Generation: backends.GenerationOf(did(p), size, sums),
		Mode: 0o644, MTime: time.Date(2026, 11, 1+int(size%28), 3, 0, 0, 0, time.UTC)}
}

func (r *rig) build(root string) {
	r.t.Helper()
	d := backends.DID{}
	if root != "/" {
		d = did(root)
	}
	_, err := r.x.Build(context.Background(), d, root, nil)
	must(r.t, err)
}

// found is what a Find gives, by DID; and whether it was from the index.
func (r *rig) found(root backends.DID, q query.Expr) (map[backends.DID]backends.Info, *backends.Indexed) {
	r.t.Helper()
	i := &backends.Indexed{}
	return collect(r.t, r.Find(backends.WithIndex(context.Background(), i), root, q)), i
}

func collect(t testing.TB, seq func(func(backends.Info, error) bool)) map[backends.DID]backends.Info {
	t.Helper()
	out := map[backends.DID]backends.Info{}
	for in, err := range seq {
		must(t, err)
		in.MTime, in.CTime = in.MTime.UTC(), in.CTime.UTC()
		out[in.DID] = in
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func parse(t testing.TB, s string) query.Expr {
	t.Helper()
	q, err := query.Parse(s)
	must(t, err)
	return q
}
