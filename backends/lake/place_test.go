package lake_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
	"tarn/backends/naming"
)

// newNamed is newRig with a naming at FAR.
func newNamed(t *testing.T) *rig {
	a, _ := naming.ByName("identity")
	var cat *laketest.Catalogue
	r := newRig(t, func(o *lake.Options) {
		o.RSEs[1].Naming = a
		cat = o.Catalogue.(*laketest.Catalogue)
		o.Places = cat
	})
	return r
}

// place asks for a path at FAR for a holder of its own, and ends what that has.
func (r *rig) place(in backends.Info, adopt bool) (pfn string, found bool) {
	r.t.Helper()
	h := r.NewHolder()
	defer r.LetGo(h)
	pfn, found, err := r.Place(ctx, r.dFar, in, h, "", adopt)
	if err != nil {
		r.t.Fatal(err)
	}
	return pfn, found
}

func infoOf(name string) backends.Info {
	data := content(name)
	return backends.Info{DID: did("ctao", "/ctao/"+name), Type: backends.File, Size: int64(len(data)), Checksums: sums(data), Inode: 77}
}

// A path of the naming is given when nothing is there and nobody has it, on record or not.
func TestPlace(t *testing.T) {
	const at = "ctao/ctao/f"
	for name, c := range map[string]struct {
		before func(r *rig)
		adopt  bool
		named  bool
		found  bool
	}{
		"free": {named: true},
		"a replica": {before: func(r *rig) {
			r.add(infoOf("other"), backends.Replica{RSE: "FAR", PFN: at, State: backends.Available})
		}},
		"a copy that was begun": {before: func(r *rig) {
			r.add(infoOf("f"), backends.Replica{RSE: "FAR", PFN: at, State: backends.Copying})
		}},
		"a bad replica": {before: func(r *rig) {
			r.add(infoOf("f"), backends.Replica{RSE: "FAR", PFN: at, State: backends.Bad})
		}},
		"a replica of what was removed": {before: func(r *rig) {
			in := r.add(infoOf("f"), backends.Replica{RSE: "FAR", PFN: at, State: backends.Available})
			if err := r.cat.Remove(ctx, in.DID); err != nil {
				r.t.Fatal(err)
			}
		}},
		"that path at another RSE": {before: func(r *rig) {
			r.add(infoOf("f"), backends.Replica{RSE: "NEAR", PFN: at, State: backends.Available})
			r.near.Put(at, content("f"))
		}, named: true},
		"a file":                       {before: func(r *rig) { r.far.Put(at, []byte("x")) }},
		"the same file":                {before: func(r *rig) { r.far.Put(at, content("f")) }},
		"the same file, to be adopted": {before: func(r *rig) { r.far.Put(at, content("f")) }, adopt: true, named: true, found: true},
		"a file of that size":          {before: func(r *rig) { r.far.Put(at, content("g")) }, adopt: true},
		"the same file, which somebody has": {before: func(r *rig) {
			r.far.Put(at, content("f"))
			r.add(infoOf("other"), backends.Replica{RSE: "FAR", PFN: at, State: backends.Available})
		}, adopt: true},
		"somebody who has it": {before: func(r *rig) {
			if err := r.Hold("x", "FAR", at); err != nil {
				r.t.Fatal(err)
			}
		}},
		"what somebody wrote who makes the same copy": {before: func(r *rig) {
			if err := r.Hold("x", "FAR", at); err != nil {
				r.t.Fatal(err)
			}
			r.far.Put(at, content("f"))
		}, adopt: true},
		"somebody who had it": {before: func(r *rig) {
			if err := r.Hold("x", "FAR", at); err != nil {
				r.t.Fatal(err)
			}
			r.LetGo("x")
		}, named: true},
		"somebody at another RSE": {before: func(r *rig) {
			if err := r.Hold("x", "NEAR", at); err != nil {
				r.t.Fatal(err)
			}
		}, named: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newNamed(t)
			if c.before != nil {
				c.before(r)
			}
			for range 2 { // the first leaves nothing behind
				pfn, found := r.place(infoOf("f"), c.adopt)
				if got := pfn == at; got != c.named || found != c.found {
					t.Fatalf("%q, found %v; want %v that it is %q, and found %v", pfn, found, c.named, at, c.found)
				}
				if p, ok := lake.ParsePFN(pfn); !c.named && (!ok || !p.Is(did("ctao", "/ctao/f"))) {
					t.Fatalf("%q is no path of its own", pfn)
				}
			}
		})
	}
}

func TestPlaceElsewhere(t *testing.T) {
	r := newNamed(t)
	for _, c := range []struct {
		rse  *lake.RSE
		name string
	}{{r.dNear, "f"}, {r.dFar, ".tarn-uploads/f"}, {r.dFar, "a\nb"}, {r.dFar, strings.Repeat("x", 256)}} {
		in := infoOf(c.name)
		pfn, found, err := r.Place(ctx, c.rse, in, r.NewHolder(), "salt", true)
		if err != nil || found || pfn != r.NewPFN(in.DID, "salt") {
			t.Errorf("%s at %s: %q, %v, %v", in.DID, c.rse.Name, pfn, found, err)
		}
	}
	// When nobody can tell there is no path at all, and nobody has it afterwards.
	in := infoOf("f")
	for _, fail := range []func(bool){
		func(on bool) {
			r.far.Fail(nil)
			if on {
				r.far.Fail(func(op, _ string) error { return laketest.ErrDown })
			}
		},
		func(on bool) {
			r.cat.Fail(nil)
			if on {
				r.cat.Fail(func(op string, _ backends.DID) error {
					if op == "holders" {
						return laketest.ErrDown
					}
					return nil
				})
			}
		},
	} {
		fail(true)
		if pfn, _, err := r.Place(ctx, r.dFar, in, r.NewHolder(), "", false); err == nil || r.Held("FAR", "ctao/ctao/f") {
			t.Errorf("%q, %v; held: %v", pfn, err, r.Held("FAR", "ctao/ctao/f"))
		}
		fail(false)
	}
	if pfn, _ := r.place(in, false); pfn != "ctao/ctao/f" {
		t.Errorf("afterwards: %q", pfn)
	}
}

func TestNamingNeedsPlaces(t *testing.T) {
	a, _ := naming.ByName("hash")
	cat := laketest.NewCatalogue()
	disk := &lake.RSE{RSE: backends.RSE{Name: "D", Kind: backends.DiskKind}, Storage: laketest.NewStorage(), Naming: a}
	if l, err := lake.New(lake.Options{Catalogue: cat, Namespace: cat, RSEs: []*lake.RSE{disk}}); err == nil {
		l.Close()
		t.Error("a lake without Places has a naming")
	}
}

// Copy puts new copies where the naming says, or where the storage takes them.
func TestCopyToANaming(t *testing.T) {
	r := newNamed(t)
	in := r.file("a", "NEAR")
	if rep, err := r.Copy(ctx, in, r.dFar, nil); err != nil || rep.PFN != "ctao/ctao/a" || r.replica(in, "FAR").PFN != rep.PFN || r.far.Get(rep.PFN) == nil {
		t.Errorf("%+v, %v", rep, err)
	}
	for _, why := range []error{backends.ErrNotDir, backends.ErrIsDir, backends.ErrExist, backends.ErrName, backends.ErrNameTooLong} {
		in := r.file("b-"+why.Error(), "NEAR")
		named := "ctao" + in.DID.Name
		r.far.Fail(func(op, path string) error {
			if op == "create" && path == named {
				return why
			}
			return nil
		})
		rep, err := r.Copy(ctx, in, r.dFar, nil)
		if err != nil || rep.PFN == named || r.replica(in, "FAR") != rep || r.far.Get(rep.PFN) == nil {
			t.Errorf("%v: %+v, %v", why, rep, err)
		}
		if r.Held("FAR", named) {
			t.Errorf("%v: the path is held still", why)
		}
	}
	r.far.Fail(nil)
	if got := len(r.far.Paths()); got != 6 {
		t.Errorf("%d files: %q", got, r.far.Paths())
	}
}

// TestCopyLeavesAHeldPathAlone: whoever has the path of the naming makes this copy mostly, and is let end it.
func TestCopyLeavesAHeldPathAlone(t *testing.T) {
	r := newNamed(t)
	in := r.file("a", "NEAR")
	const named = "ctao/ctao/a"
	if err := r.Hold("somebody", "FAR", named); err != nil {
		t.Fatal(err)
	}
	r.far.Put(named, []byte("half"))
	for range 2 {
		rep, err := r.Copy(ctx, in, r.dFar, nil)
		if !errors.Is(err, backends.ErrBusy) || !backends.IsTemporary(err) {
			t.Errorf("%+v, %v", rep, err)
		}
	}
	if x := r.replica(in, "FAR"); x.RSE != "" || string(r.far.Get(named)) != "half" || len(r.far.Paths()) != 1 || r.near.Calls("open") > 0 {
		t.Errorf("on record %+v, at FAR %q with %q, NEAR opened %d times", x, r.far.Paths(), r.far.Get(named), r.near.Calls("open"))
	}
	if !r.Held("FAR", named) {
		t.Error("the path is let go")
	}
	// Elsewhere, and of another file, there is nothing to wait for.
	if err := r.Hold("somebody", "NEAR", "ctao/ctao/b"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in backends.Info
		to *lake.RSE
	}{{r.file("b", "NEAR"), r.dFar}, {r.file("c", "FAR"), r.dNear}} {
		if rep, err := r.Copy(ctx, c.in, c.to, nil); err != nil || rep.State != backends.Available {
			t.Errorf("%s to %s: %+v, %v", c.in.DID, c.to.Name, rep, err)
		}
	}
	r.LetGo("somebody")
	r.far.Remove(ctx, named)
	if rep, err := r.Copy(ctx, in, r.dFar, nil); err != nil || rep.PFN != named {
		t.Errorf("afterwards: %+v, %v", rep, err)
	}
}

// While a copy is under way its path is nobody else's, whatever becomes of its file: what is
// deleted at its end, or comes into view, is not another one's.
func TestCopyKeepsItsPath(t *testing.T) {
	for name, bad := range map[string]bool{"a new copy": false, "one that replaces a bad one": true} {
		t.Run(name, func(t *testing.T) {
			r := newNamed(t)
			in := r.file("f", "NEAR")
			if bad {
				if err := r.cat.PutReplica(ctx, in.DID, "", backends.Replica{RSE: "FAR", PFN: "ctao/ctao/f", State: backends.Bad}); err != nil {
					t.Fatal(err)
				}
			}
			began, goOn := make(chan struct{}), make(chan struct{})
			r.far.Fail(func(op, path string) error {
				if op == "create" {
					close(began)
					<-goOn
				}
				return nil
			})
			done := make(chan error)
			go func() {
				_, err := r.Copy(context.Background(), in, r.dFar, nil)
				done <- err
			}()
			<-began
			if err := r.cat.Remove(ctx, in.DID); err != nil {
				t.Fatal(err)
			}
			for p := range r.cat.Pasts(ctx, backends.DID{}) {
				if err := r.cat.Purge(ctx, p.Handle); err != nil {
					t.Fatal(err)
				}
			}
			other := infoOf("f")
			if pfn, _ := r.place(other, true); pfn == "ctao/ctao/f" {
				t.Error("the path is another's while the copy is under way")
			}
			r.far.Fail(func(op, path string) error { return nil })
			close(goOn)
			if err := <-done; !errors.Is(err, backends.ErrStale) {
				t.Errorf("copy: %v", err)
			}
			if got := r.far.Paths(); len(got) != 0 {
				t.Errorf("left: %q", got)
			}
			if pfn, _ := r.place(other, false); pfn != "ctao/ctao/f" {
				t.Errorf("afterwards %q", pfn)
			}
		})
	}
}

// A copy that replaces a bad one gets a path of its own; the bad file is deleted, unless
// another replica has its path.
func TestCopyInPlaceOfABadOne(t *testing.T) {
	for _, shared := range []bool{false, true} {
		r := newNamed(t)
		in := r.file("f", "NEAR")
		r.far.Put("ctao/ctao/f", content("g"))
		bad := backends.Replica{RSE: "FAR", PFN: "ctao/ctao/f", State: backends.Bad}
		if err := r.cat.PutReplica(ctx, in.DID, "", bad); err != nil {
			t.Fatal(err)
		}
		if shared {
			bad.State = backends.Available
			r.add(infoOf("g"), bad)
		}
		rep, err := r.Copy(ctx, in, r.dFar, nil)
		if err != nil || rep.PFN == bad.PFN {
			t.Fatalf("%+v, %v", rep, err)
		}
		if there := r.far.Get(bad.PFN) != nil; there != shared {
			t.Errorf("shared %v: the file of the bad one is there: %v", shared, there)
		}
	}
}

// A path of the naming comes to another file, and to a bad copy again: what was made in place of the first one stays.
func TestCopyInPlaceLeavesThatOfAnotherAlone(t *testing.T) {
	const at = "ctao/ctao/f"
	bad := backends.Replica{RSE: "FAR", PFN: at, State: backends.Bad, Error: "lost"}
	replaced := func(r *rig, name string, inode uint64, put backends.Replica) (backends.Info, backends.Replica) {
		in := infoOf(name)
		in.Inode = inode
		r.near.Put("n/"+name, content(name))
		in = r.add(in, backends.Replica{RSE: "NEAR", PFN: "n/" + name, State: backends.Available}, put)
		rep, err := r.Copy(ctx, in, r.dFar, nil)
		if err != nil {
			t.Fatal(err)
		}
		return in, rep
	}
	r := newNamed(t)
	_, first := replaced(r, "f", 77, bad)
	_, second := replaced(r, "g", 78, bad)
	if first.PFN == second.PFN {
		t.Fatalf("both are at %s", first.PFN)
	}
	for name, rep := range map[string]backends.Replica{"f": first, "g": second} {
		if got := r.far.Get(rep.PFN); string(got) != string(content(name)) {
			t.Errorf("%s at %s: %d bytes", name, rep.PFN, len(got))
		}
	}

	// The same content is there once more, as one that came back: its record keeps the path, and the copy goes to the next one.
	again := infoOf("h")
	again.Inode = 79
	taken := lake.Replacements(r.add(again), at)[0]
	r.add(infoOf("other"), backends.Replica{RSE: "FAR", PFN: taken, State: backends.Available})
	_, third := replaced(r, "h", 79, bad)
	if third.PFN == taken || third.PFN == at {
		t.Errorf("the third is at %s", third.PFN)
	}
}

// A path of the caller's may by now be a folder of other files' paths: nothing of the
// caller's is there.
func TestRemoveAt(t *testing.T) {
	r := newNamed(t)
	r.far.Put("d/f", []byte("x"))
	r.far.Put("g", []byte("x"))
	for _, err := range []error{backends.ErrNotEmpty, backends.ErrIsDir, laketest.ErrDown} {
		r.far.Fail(func(op, _ string) error {
			if op == "remove" {
				return err
			}
			return nil
		})
		if got := r.RemoveAt(ctx, r.dFar, "d", 0); (got == nil) == errors.Is(err, laketest.ErrDown) {
			t.Errorf("%v gives %v", err, got)
		}
	}
	r.far.Fail(nil)
	for range 2 {
		if err := r.RemoveAt(ctx, r.dFar, "g", 0); err != nil {
			t.Error(err)
		}
	}
	r.add(infoOf("f"), backends.Replica{RSE: "FAR", PFN: "d/f", State: backends.Copying})
	if err := r.RemoveAt(ctx, r.dFar, "d/f", 0); err != nil || r.far.Get("d/f") == nil {
		t.Errorf("the file of another: %v", err)
	}
	if err := r.RemoveAt(ctx, r.dFar, "d/f", 1); err != nil || r.far.Get("d/f") != nil {
		t.Errorf("its own: %v", err)
	}
}

// A copy is not put on record of another file that has the name and the same content by now:
// the one that it was made for still has its path.
func TestCopyIsNotAnotherFiles(t *testing.T) {
	r := newNamed(t)
	in := r.file("f", "NEAR")
	r.far.Fail(func(op, _ string) error {
		if op == "create" { // as if it was renamed meanwhile, and a new file made
			if err := r.cat.Remove(ctx, in.DID); err != nil {
				t.Error(err)
			}
			again := in
			again.Inode = 0
			r.add(again, backends.Replica{RSE: "NEAR", PFN: "NEAR/f", State: backends.Available})
		}
		return nil
	})
	if rep, err := r.Copy(ctx, in, r.dFar, nil); !errors.Is(err, backends.ErrStale) {
		t.Errorf("%+v, %v", rep, err)
	}
	if now := r.replica(in, "FAR"); now.PFN != "" {
		t.Errorf("the other file has %+v", now)
	}
}
