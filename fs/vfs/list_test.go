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
