package vfs_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"tarn/backends"
	"tarn/fs/vfs"
)

// place lists a directory, lets something happen, and places what was listed, as a
// process does that reads a directory slowly.
func (w *world) place(p string, between func()) map[string]*vfs.Node {
	w.t.Helper()
	dir := w.mkdir(p)
	entries, err := w.v.List(ctx, dir, "")
	must(w.t, err)
	between()
	out := map[string]*vfs.Node{}
	for _, e := range entries {
		if n := w.v.Place(ctx, dir, e); n != nil {
			out[e.Name] = n
		}
	}
	return out
}

// TestPlaceAfterRegistration: a file that was listed while it was unsent, and is SAFE when
// its node is made, can be read.
func TestPlaceAfterRegistration(t *testing.T) {
	w := newWorld(t, vfs.Options{Delay: 100 * time.Millisecond})
	b := random(1000)
	w.write("/ctao/d/f", b)
	n := w.place("/ctao/d", w.drain)["f"]
	if in := n.Info(); in.Generation == "" || in.DID.Scope != "ctao" {
		t.Fatalf("placed as %+v", in)
	}
	w.want("/ctao/d/f", b)
	n.Forget(1)
}

// TestPlaceAfterRename: a listing that is read on after a rename brings no old name back,
// and does not move the node to it.
func TestPlaceAfterRename(t *testing.T) {
	for _, published := range []bool{false, true} {
		w := newWorld(t, vfs.Options{})
		b := random(1000)
		w.write("/ctao/d/old", b)
		if published {
			w.drain()
		}
		n, err := w.v.Resolve(ctx, "/ctao/d/old")
		must(t, err)
		placed := w.place("/ctao/d", func() { must(t, w.rename("/ctao/d/old", "/ctao/d/new")) })
		if placed["old"] != nil {
			t.Errorf("published=%v: the old name came back", published)
		}
		if p := n.Path(); p != "/ctao/d/new" {
			t.Errorf("published=%v: the node is at %s", published, p)
		}
		n.Forget(1)
	}
	w := newWorld(t, vfs.Options{})
	b := random(1000)
	w.write("/ctao/a/sub/f", b)
	w.drain()
	dir := w.mkdir("/ctao/a/sub")
	entries, err := w.v.List(ctx, dir, "")
	must(t, err)
	must(t, w.rename("/ctao/a", "/ctao/b"))
	n := w.v.Place(ctx, dir, entries[0])
	if did := n.Info().DID; did.Name != "/ctao/b/sub/f" {
		t.Errorf("below a renamed directory: %s", did)
	}
	n.Forget(1)
}

// TestFreedPages: a page's room goes to another list when it is given back, and not before.
func TestFreedPages(t *testing.T) {
	w := newWorld(t, vfs.Options{})
	const n = 1500
	w.mkdir("/ctao/a")
	w.mkdir("/ctao/b")
	for _, dir := range []string{"a", "b"} {
		for i := range n {
			name := fmt.Sprintf("/ctao/%s/%s%05d", dir, dir, i)
			must(t, w.cat.Add(ctx, backends.Info{DID: backends.DID{Scope: "ctao", Name: name}, Type: backends.File, Mode: 0o644}, nil))
		}
	}
	check := func(page []vfs.Entry, dir string, from int) {
		t.Helper()
		for i, e := range page {
			if want := fmt.Sprintf("%s%05d", dir, from+i); e.Name != want || e.Info.DID.Name != "/ctao/"+dir+"/"+want {
				t.Fatalf("entry %d is %s, %s; want %s", from+i, e.Name, e.Info.DID, want)
			}
		}
	}
	list := func(dir, after string, want int) []vfs.Entry {
		t.Helper()
		page, err := w.v.List(ctx, w.mkdir("/ctao/"+dir), after)
		must(t, err)
		if len(page) != want {
			t.Fatalf("%d entries of %s after %q, want %d", len(page), dir, after, want)
		}
		return page
	}
	for range 10 {
		a, b := list("a", "", vfs.Page), list("b", "", vfs.Page)
		last := a[len(a)-1].Name
		check(a, "a", 0)
		w.v.Free(a)
		rest := list("a", last, n-vfs.Page)
		check(rest, "a", vfs.Page)
		check(b, "b", 0)
		w.v.Free(rest)
		w.v.Free(b)
	}
}

// TestUndeleteWaits: nothing is undeleted under a content that is not SAFE.
func TestUndeleteWaits(t *testing.T) {
	w := newSlowWorld(t, vfs.Options{})
	w.write("/ctao/f", random(1000))
	w.registered("/ctao/f")
	now := random(1000)
	w.write("/ctao/f", now)
	until(t, "the second content is registered", func() bool {
		for p, err := range w.cat.Pasts(ctx, backends.DID{Scope: "ctao", Name: "/ctao/f"}) {
			must(t, err)
			err := w.v.Undelete(ctx, "/ctao/f", p.Handle)
			if !errors.Is(err, backends.ErrBusy) {
				t.Fatalf("undelete: %v", err)
			}
			return true
		}
		return false
	})
	w.want("/ctao/f", now)
}

// TestNodesGo: look-ups, listings and failures leave no node behind.
func TestNodesGo(t *testing.T) {
	w := newWorld(t, vfs.Options{})
	for i := range 5 {
		w.write(fmt.Sprintf("/ctao/d/e/f%d", i), random(10))
	}
	w.drain()
	w.reopen()
	for range 3 {
		for p := range map[string]int{"/ctao/d/e/f1": 0, "/ctao/d/e/none": 0, "/ctao/d": 0} {
			n, err := w.v.Resolve(ctx, p)
			if err == nil {
				n.Forget(1)
			}
		}
		for _, err := range w.v.Walk(ctx, "/") {
			must(t, err)
		}
		if _, err := w.read("/ctao/d/e/f2"); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.v.Stats().Nodes; n != 1 {
		t.Errorf("%d nodes are left, want the root", n)
	}
}
