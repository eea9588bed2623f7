package lake_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
)

func (r *rig) dir(scope, name string, children ...backends.DID) backends.Info {
	r.t.Helper()
	in := r.add(backends.Info{DID: did(scope, name), Type: backends.Container})
	if len(children) > 0 {
		if err := r.cat.Attach(ctx, in.DID, children...); err != nil {
			r.t.Fatal(err)
		}
	}
	return in
}

func (r *rig) empty(scope, name string) backends.Info {
	r.t.Helper()
	return r.add(backends.Info{DID: did(scope, name), Type: backends.File})
}

func TestResolve(t *testing.T) {
	r := newRig(t)
	r.dir("ctao", "/ctao/dl3")
	r.empty("ctao", "/ctao/dl3/run1")
	r.empty("magic", "/path/like")
	r.empty("magic", "loose")
	r.dir("magic", "set", did("magic", "/path/like"))
	r.dir("magic", "box", did("magic", "set"), did("magic", "set2"))
	r.dir("magic", "set2", did("ctao", "/ctao/dl3/run1"), did("magic", "box")) // a cycle
	r.dir("magic", "top", did("magic", "box"), did("magic", "set"))
	for _, c := range []struct {
		path string
		want string
		err  error
	}{
		{"/", ":", nil},
		{"", ":", nil},
		{"/ctao", "ctao:/ctao", nil},
		{"ctao/dl3/", "ctao:/ctao/dl3", nil},
		{"/ctao/dl3/run1", "ctao:/ctao/dl3/run1", nil},
		{"/ctao/dl3/../dl3/run1", "ctao:/ctao/dl3/run1", nil},
		{"/ctao/dl3/run2", "", backends.ErrNotExist},
		{"/ctao/dl3/run1/x", "", backends.ErrNotDir},
		{"/nowhere", "", backends.ErrNotExist},
		{"/no where/x", "", backends.ErrNotExist},
		{"/.tarn", "", backends.ErrNotExist},
		{"/a\x00", "", backends.ErrName},
		{"/ctao/" + strings.Repeat("x", 256), "", backends.ErrNameTooLong},
		{"/magic", "magic:", nil},
		{"/magic/loose", "magic:loose", nil},
		{"/magic/top/set/%2Fpath%2Flike", "magic:/path/like", nil},
		{"/magic/top/set/loose", "", backends.ErrNotExist},          // exists, but is not in it
		{"/magic/top/box/%2Fpath%2Flike", "", backends.ErrNotExist}, // is in another
		{"/magic/%2Fpath%2Flike", "", backends.ErrNotExist},
		{"/magic/top/set/%2fpath%2flike", "", backends.ErrNotExist},
		{"/magic/top/box/set2/ctao:%2Fctao%2Fdl3%2Frun1", "ctao:/ctao/dl3/run1", nil},
		{"/magic/loose/x", "", backends.ErrNotDir},
		{"/magic/top/box/set2/box", "", backends.ErrLoop},
		{"/magic/top/box/set2/box/set2/box", "", backends.ErrLoop},
		{"/magic/top/" + strings.Repeat("box/set2/", 200), "", backends.ErrLoop},
	} {
		in, err := r.Resolve(ctx, c.path)
		if !errors.Is(err, c.err) || err == nil && in.DID.String() != c.want {
			t.Errorf("%.60q is %s (%v), want %s (%v)", c.path, in.DID, err, c.want, c.err)
		}
	}
	if in, _ := r.Resolve(ctx, "/"); in.Inode != 1 || in.Type != backends.Container {
		t.Errorf("root is %+v", in)
	}
	for scope, want := range map[string]backends.Layout{"ctao": backends.LayoutLFN, "magic": backends.LayoutContents} {
		if in, err := r.Resolve(ctx, "/"+scope); err != nil || in.Layout != want {
			t.Errorf("layout of %s is %q (%v)", scope, in.Layout, err)
		}
	}
}

func TestResolveSeesScopesComeAndGo(t *testing.T) {
	r := newRig(t)
	if _, err := r.Resolve(ctx, "/lst"); !errors.Is(err, backends.ErrNotExist) {
		t.Fatal(err)
	}
	for _, layout := range []backends.Layout{backends.LayoutLFN, backends.LayoutContents} {
		if err := r.cat.AddScope(ctx, backends.Info{DID: did("lst", ""), Layout: layout}); err != nil {
			t.Fatal(err)
		}
		if in, err := r.Resolve(ctx, "/lst"); err != nil || in.Layout != layout {
			t.Fatalf("%+v, %v", in, err)
		}
		r.cat.RemoveScope(ctx, "lst")
		if _, err := r.Resolve(ctx, "/lst"); !errors.Is(err, backends.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func TestCatalogueDownIsNotAbsence(t *testing.T) {
	r := newRig(t)
	r.cat.Fail(func(string, backends.DID) error { return laketest.ErrDown })
	if _, err := r.Resolve(ctx, "/ctao/x"); !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrNotExist) {
		t.Errorf("resolve: %v", err)
	}
	if in, err := r.Resolve(ctx, "/"); err != nil || in.Inode != 1 {
		t.Errorf("the root: %v", err)
	}
	if got, err := names(r.List(ctx, r.Root(), "")); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("list: %v, %v", got, err)
	}
}

func TestListIsSortedByName(t *testing.T) {
	r := newRig(t)
	dl3 := r.dir("ctao", "/ctao/dl3")
	for _, n := range []string{"b", "a", "c"} {
		r.empty("ctao", "/ctao/dl3/"+n)
	}
	var members []backends.DID
	for _, n := range []string{"a/b", "a-b", "a0b", "..", "z", "ctao:x", strings.Repeat("q", 300)} {
		members = append(members, r.empty("magic", n).DID)
	}
	members = append(members, did("ctao", "/ctao/dl3/a"), did("ctao", "/ctao/dl3"))
	set := r.dir("magic", "set", members...)

	check := func(dir backends.Info, want ...string) {
		t.Helper()
		all, err := names(r.List(ctx, dir, ""))
		if err != nil || want != nil && !slices.Equal(all, want) {
			t.Fatalf("%s lists %q (%v), want %q", dir.DID, all, err, want)
		}
		if !slices.IsSorted(all) {
			t.Fatalf("%s lists %q", dir.DID, all)
		}
		for i, n := range all {
			rest, err := names(r.List(ctx, dir, n))
			if err != nil || !slices.Equal(rest, all[i+1:]) {
				t.Fatalf("after %q come %q (%v)", n, rest, err)
			}
			if in, err := r.Lookup(ctx, dir, n); err != nil {
				t.Errorf("look up %q: %v", n, err)
			} else if dir.Inode != 1 {
				if d, err := r.ChildDID(dir, n); len(n) < 250 && (err != nil || d != in.DID) {
					t.Errorf("ChildDID(%q) is %s (%v), want %s", n, d, err, in.DID)
				}
			}
		}
	}
	check(r.Root(), "ctao", "magic")
	check(dl3, "a", "b", "c")
	check(set)
	magic, _ := r.Resolve(ctx, "/magic")
	check(magic, "set")
	if got, _ := names(r.List(ctx, set, "")); len(got) != len(members) {
		t.Errorf("%d of %d members: %q", len(got), len(members), got)
	}
	if _, err := names(r.List(ctx, r.empty("ctao", "/ctao/f"), "")); !errors.Is(err, backends.ErrNotDir) {
		t.Errorf("list a file: %v", err)
	}
}

// A directory of more entries than are kept in memory at a time comes out whole and sorted.
func TestListOfManyInContents(t *testing.T) {
	r := newRig(t)
	const n = 1<<15 + 100
	var members []backends.DID
	for i := range n {
		members = append(members, r.empty("magic", fmt.Sprintf("%c/%d", "-/0z"[i%4], i*7919%n)).DID)
	}
	set := r.dir("magic", "set", members...)
	got, err := names(r.List(ctx, set, ""))
	if err != nil || len(got) != n || !slices.IsSorted(got) {
		t.Fatalf("%d names of %d, %v", len(got), n, err)
	}
	if c := slices.Compact(got); len(c) != n {
		t.Fatalf("%d distinct names of %d", len(c), n)
	}
	count := 0
	for range r.List(ctx, set, "") {
		if count++; count == 3 {
			break
		}
	}
}

// What a bad catalogue returns never leads out of its directory.
func TestNamesThatLeadOutAreNotShown(t *testing.T) {
	bad := func(in backends.Info) *evil {
		return &evil{laketest.NewCatalogue(), in}
	}
	for _, d := range []backends.DID{did("ctao", "/ctao/.."), did("ctao", "/ctao/."), did("ctao", "/ctao/a/b"), did("ctao", "/etc/passwd"),
		did("other", "/ctao/x"), did("ctao", "/ctao/"), did("ctao", "/ctao/a\x00"), did("ctao", "/ctao/"+strings.Repeat("x", 256))} {
		e := bad(backends.Info{DID: d, Type: backends.File})
		r := newRig(t, func(o *lake.Options) { o.Catalogue = e })
		e.Catalogue = r.cat
		dir, err := r.Resolve(ctx, "/ctao")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := names(r.List(ctx, dir, "")); err != nil || len(got) > 0 {
			t.Errorf("%q is shown as %q (%v)", d, got, err)
		}
	}
}

type evil struct {
	*laketest.Catalogue
	in backends.Info
}

func TestChildDID(t *testing.T) {
	r := newRig(t)
	lfn, _ := r.Resolve(ctx, "/ctao")
	contents, _ := r.Resolve(ctx, "/magic")
	for _, c := range []struct {
		dir  backends.Info
		name string
		want string
		err  error
	}{
		{r.Root(), "new", "new:/new", nil},
		{r.Root(), "a b", "", backends.ErrName},
		{lfn, "a b", "ctao:/ctao/a b", nil},
		{lfn, "a:b", "ctao:/ctao/a:b", nil},
		{lfn, "..", "", backends.ErrName},
		{lfn, strings.Repeat("x", 256), "", backends.ErrNameTooLong},
		{contents, "%2Fx", "magic:/x", nil},
		{contents, "ctao:x", "ctao:x", nil},
		{contents, "%41", "", backends.ErrName},
	} {
		d, err := r.ChildDID(c.dir, c.name)
		if !errors.Is(err, c.err) || err == nil && d.String() != c.want {
			t.Errorf("%.20q in %s is %s (%v), want %s (%v)", c.name, c.dir.DID, d, err, c.want, c.err)
		}
	}
}

func (e *evil) Contents(context.Context, backends.DID, string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) { yield(e.in, nil) }
}
