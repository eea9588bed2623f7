package lake_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
	"tarn/backends/naming"
)

// byPath is a catalogue of layout lfn whose scopes follow from the paths, with one path in the root.
type byPath struct {
	*laketest.Catalogue
	entries map[backends.DID]backends.Info
	asked   []backends.DID
	asOf    time.Time
	forgot  []backends.DID
	members [][2]backends.DID
}

func (c *byPath) Stat(_ context.Context, d backends.DID) (backends.Info, error) {
	c.asked = append(c.asked, d)
	in, ok := c.entries[d]
	if !ok {
		return in, &backends.OpError{Op: "stat", DID: d, Err: backends.ErrNotExist}
	}
	return in, nil
}

func (c *byPath) Contents(_ context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		var names []string
		for x := range c.entries {
			if path.Dir(x.Name) == d.Name && path.Base(x.Name) > after {
				names = append(names, x.Name)
			}
		}
		slices.Sort(names)
		for _, n := range names {
			if !yield(c.entries[backends.DID{Scope: second(n), Name: n}], nil) {
				return
			}
		}
	}
}

func (c *byPath) Scopes(context.Context) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		yield(c.entries[backends.DID{Scope: "root", Name: "/ctao"}], nil)
	}
}

func (c *byPath) Refresh(d backends.DID)      { c.forgot = append(c.forgot, d) }
func (c *byPath) AsOf(backends.DID) time.Time { return c.asOf }

func (c *byPath) Member(ctx context.Context, dir, child backends.DID) (backends.Info, error) {
	c.members = append(c.members, [2]backends.DID{dir, child})
	return c.Catalogue.Stat(ctx, child)
}

func (c *byPath) Names(ctx context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error] {
	return c.Catalogue.Contents(ctx, d, after)
}

// second is the scope of a path at CTAO: its second element.
func second(p string) string {
	e := strings.Split(strings.Trim(p, "/"), "/")
	if len(e) < 2 {
		return "root"
	}
	return e[1]
}

func newByPath(t *testing.T) (*lake.Lake, *byPath) {
	c := &byPath{Catalogue: laketest.NewCatalogue(), entries: map[backends.DID]backends.Info{}}
	for i, p := range []string{"/ctao", "/ctao/north", "/ctao/north/dl0", "/ctao/south", "/other", "/other/x"} {
		d := did(second(p), p)
		c.entries[d] = backends.Info{DID: d, Type: backends.Container, Inode: uint64(i + 100)}
	}
	f := did("north", "/ctao/north/dl0/f")
	c.entries[f] = backends.Info{DID: f, Type: backends.File, Inode: 200}
	l, err := lake.New(lake.Options{Catalogue: c, Namespace: c, Cached: c, ScopeOf: second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, c
}

func TestScopeOfPath(t *testing.T) {
	l, c := newByPath(t)
	list := func(dir backends.Info) (out []string) {
		for n, err := range l.List(ctx, dir, "") {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, n.Name)
		}
		return out
	}
	if got := list(l.Root()); !slices.Equal(got, []string{"ctao"}) {
		t.Errorf("the root has %v", got)
	}
	in, err := l.Resolve(ctx, "/ctao")
	if err != nil || in.DID != did("root", "/ctao") || in.Layout != backends.LayoutLFN {
		t.Fatalf("/ctao is %v, %v", in, err)
	}
	if got := list(in); !slices.Equal(got, []string{"north", "south"}) {
		t.Errorf("/ctao has %v", got)
	}
	dir, err := l.Lookup(ctx, in, "north")
	if err != nil || dir.DID != did("north", "/ctao/north") {
		t.Fatalf("north is %v, %v", dir, err)
	}
	if f, err := l.Resolve(ctx, "/ctao/north/dl0/f"); err != nil || f.DID != did("north", "/ctao/north/dl0/f") {
		t.Errorf("f is %v, %v", f, err)
	}
	c.asked = nil
	for _, p := range []string{"/other", "/other/x", "/nothing"} { // not below what stands in the root
		if _, err := l.Resolve(ctx, p); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("%s: %v", p, err)
		}
	}
	if len(c.asked) > 0 {
		t.Errorf("asked for %v", c.asked)
	}
	for in, want := range map[*backends.Info]backends.DID{&in: did("new", "/ctao/new"), &dir: did("north", "/ctao/north/new")} {
		if d, err := l.ChildDID(*in, "new"); err != nil || d != want {
			t.Errorf("a child of %s is %s, %v", in.DID, d, err)
		}
	}
	if d := l.PathDID("/ctao/south/a/b"); d != did("south", "/ctao/south/a/b") {
		t.Errorf("PathDID gives %s", d)
	}
	if p := l.DIDPath(did("south", "/ctao/south/a")); p != "/ctao/south/a" {
		t.Errorf("DIDPath gives %s", p)
	}
	if _, err := lake.New(lake.Options{Catalogue: c, Namespace: c, ScopeOf: second, Layout: backends.LayoutContents}); err == nil {
		t.Error("a scope by path in layout contents")
	}
}

func TestRefreshAndAsOf(t *testing.T) {
	l, c := newByPath(t)
	c.asOf = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if d := did("north", "/ctao/north"); !l.Refresh(d) || !slices.Equal(c.forgot, []backends.DID{d}) || !l.AsOf(d).Equal(c.asOf) {
		t.Errorf("forgot %v, as of %v", c.forgot, l.AsOf(d))
	}
	r := newRig(t)
	if r.Refresh(did("ctao", "/ctao")) || !r.AsOf(did("ctao", "/ctao")).IsZero() {
		t.Error("a catalogue that remembers nothing was refreshed")
	}
}

// In layout contents a path tells the DID, as EncodeName has written it, without a question to anybody.
func TestPathDIDContents(t *testing.T) {
	cat := laketest.NewCatalogue()
	l, err := lake.New(lake.Options{Catalogue: cat, Namespace: cat, Layout: backends.LayoutContents})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	for p, want := range map[string]backends.DID{
		"/magic/box/f":            did("magic", "f"),
		"/magic/box/a%2Ff":        did("magic", "a/f"),
		"/magic/lst:set/f":        did("lst", "f"),
		"/magic/lst:set/magic:g":  did("magic", "g"),
		"/magic/lst:set%2Fx/%2Ff": did("lst", "/f"),
		"/magic/" + lake.EncodeName("magic", did("lst", strings.Repeat("x", 300))) + "/f": did("lst", "f"),
	} {
		if got := l.PathDID(p); got != want {
			t.Errorf("PathDID(%s) is %s, want %s", p, got, want)
		}
	}
	if n := cat.Calls("stat") + cat.Calls("scopes"); n > 0 {
		t.Errorf("%d questions", n)
	}
	if p := l.DIDPath(did("magic", "/a/f")); p != "/magic/%2Fa%2Ff" {
		t.Errorf("DIDPath gives %s", p)
	}
}

// In layout contents a catalogue that remembers what is in a directory is asked that, and not for a DID and its parents.
func TestLookupAsksForMember(t *testing.T) {
	c := &byPath{Catalogue: laketest.NewCatalogue()}
	l, err := lake.New(lake.Options{Catalogue: c.Catalogue, Namespace: c.Catalogue, Cached: c, Layout: backends.LayoutContents})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	set, f := did("magic", "set"), did("magic", "a/f")
	for _, in := range []backends.Info{{DID: did("magic", "")}, {DID: set, Type: backends.Dataset}, {DID: f, Type: backends.File, Size: 1, Checksums: sums([]byte("x"))}} {
		if in.Type == 0 {
			in.Layout = backends.LayoutContents
			err = c.AddScope(ctx, in)
		} else {
			err = c.Add(ctx, in, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if in, err := l.Lookup(ctx, backends.Info{DID: set, Type: backends.Dataset}, "a%2Ff"); err != nil || in.DID != f {
		t.Errorf("found %v, %v", in.DID, err)
	}
	if want := [][2]backends.DID{{set, f}}; !slices.Equal(c.members, want) || c.Calls("parents") > 0 {
		t.Errorf("asked for members %v, want %v, and %d times for parents", c.members, want, c.Calls("parents"))
	}
}

// Every DID has a path, also one that is in a collection.
func TestMemberByScope(t *testing.T) {
	cat := laketest.NewCatalogue()
	l, err := lake.New(lake.Options{Catalogue: cat, Namespace: cat, Layout: backends.LayoutContents})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(cat.AddScope(ctx, backends.Info{DID: did("magic", ""), Layout: backends.LayoutContents}))
	must(cat.Add(ctx, backends.Info{DID: did("magic", "set"), Type: backends.Dataset}, nil))
	must(cat.Add(ctx, backends.Info{DID: did("magic", "a/f"), Type: backends.File, Size: 1, Checksums: sums([]byte("x"))}, nil))
	must(cat.Attach(ctx, did("magic", "set"), did("magic", "a/f")))
	for _, p := range []string{"/magic/set/a%2Ff", l.DIDPath(did("magic", "a/f"))} {
		if in, err := l.Resolve(ctx, p); err != nil || in.DID != did("magic", "a/f") {
			t.Errorf("%s is %v, %v", p, in.DID, err)
		}
	}
	set, err := l.Resolve(ctx, "/magic/set")
	must(err)
	if l.Named(set, did("magic", "set/f")) {
		t.Error("a name makes a member in layout contents")
	}
	if _, err := l.Lookup(ctx, set, "nothing"); !errors.Is(err, backends.ErrNotExist) {
		t.Error(err)
	}
}

// A deterministic RSE takes a copy at the path of its name and nowhere else.
func TestBoundPlace(t *testing.T) {
	hash, _ := naming.ByName("hash")
	r := newRig(t, func(o *lake.Options) {
		o.RSEs[0].Naming, o.RSEs[0].Bound = hash, true
		o.Places = o.Catalogue.(backends.Places)
	})
	name := func(d backends.DID) string { p, _ := hash.Path(d); return p }
	d := did("ctao", "/ctao/f")
	data := content("f")
	in := backends.Info{DID: d, Type: backends.File, Size: int64(len(data)), Checksums: sums(data)}
	put := func(pfn string, data []byte) {
		t.Helper()
		if _, err := r.Store(ctx, r.dNear, pfn, strings.NewReader(string(data)), int64(len(data)), sums(data), nil); err != nil {
			t.Fatal(err)
		}
	}
	// What nobody has on record is overwritten.
	put(name(d), content("left behind"))
	h := r.NewHolder()
	pfn, found, err := r.Place(ctx, r.dNear, in, h, "", false)
	if err != nil || found || pfn != name(d) {
		t.Fatalf("place is %q, %v, %v", pfn, found, err)
	}
	if _, _, err := r.Place(ctx, r.dNear, in, r.NewHolder(), "", false); !errors.Is(err, backends.ErrBusy) {
		t.Errorf("two have one path: %v", err)
	}
	put(pfn, data)
	if err := r.cat.Add(ctx, in, nil, backends.Replica{RSE: "NEAR", PFN: pfn, State: backends.Available}); err != nil {
		t.Fatal(err)
	}
	r.LetGo(h)
	// The same content is there; another one is refused, and its holder has nothing.
	if pfn, found, err := r.Place(ctx, r.dNear, in, h, "", false); err != nil || !found || pfn != name(d) {
		t.Errorf("the same again: %q, %v, %v", pfn, found, err)
	}
	r.LetGo(h)
	other := in
	other.Checksums, other.Size = sums(content("g")), int64(len(content("g")))
	if _, _, err := r.Place(ctx, r.dNear, other, r.NewHolder(), "", false); !errors.Is(err, backends.ErrExist) || !strings.Contains(err.Error(), "another name") {
		t.Errorf("another content: %v", err)
	}
	if r.Held("NEAR", name(d)) {
		t.Error("the path is held by who was refused")
	}
	if r.dNear.Elsewhere(backends.ErrNotDir) || !r.dNear.Astray(did("ctao", "/ctao/g"), pfn) || r.dNear.Astray(d, pfn) || r.dFar.Astray(d, "x") {
		t.Error("a bound RSE takes copies elsewhere")
	}
	if _, err := lake.New(lake.Options{Catalogue: r.cat, Namespace: r.cat, RSEs: []*lake.RSE{{RSE: r.dNear.RSE, Storage: r.near, Bound: true}}}); err == nil {
		t.Error("a bound RSE without an algorithm")
	}
}

// A large directory of layout contents comes in the order of its names, each once, however many are put in order at a time.
func TestListManyContents(t *testing.T) {
	c := laketest.NewCatalogue()
	l, err := lake.New(lake.Options{Catalogue: c, Namespace: c, Layout: backends.LayoutContents})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	set := did("magic", "set")
	const n = 12_000 // more than two batches
	if err := c.AddScope(t.Context(), backends.Info{DID: did("magic", ""), Layout: backends.LayoutContents}); err != nil {
		t.Fatal(err)
	}
	if err := c.Add(t.Context(), backends.Info{DID: set, Type: backends.Dataset}, nil); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		d := did("magic", fmt.Sprintf("%d/%%%05d", i%7, i*7919%n)) // what is encoded changes the order
		if err := c.Add(t.Context(), backends.Info{DID: d, Type: backends.File, Size: 1, Checksums: sums([]byte("x"))}, nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Attach(t.Context(), set, d); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := c.Stat(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for e, err := range l.List(t.Context(), dir, "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, e.Name)
	}
	if len(names) != n || !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != n {
		t.Fatalf("%d names, in order: %t", len(names), slices.IsSorted(names))
	}
	var after []string
	for e, err := range l.List(t.Context(), dir, names[2500]) {
		if err != nil {
			t.Fatal(err)
		}
		after = append(after, e.Name)
	}
	if !slices.Equal(after, names[2501:]) {
		t.Errorf("after the 2501st there are %d", len(after))
	}
}
