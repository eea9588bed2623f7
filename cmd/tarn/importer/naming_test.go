package importer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn/backends"
)

func put(t *testing.T, p, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// pfn is where the copy of a lake file at an RSE lies.
func (s *site) pfn(t *testing.T, p, rse string) string {
	t.Helper()
	reps, err := s.cat.Replicas(t.Context(), backends.DID{Scope: "ctao", Name: p})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reps {
		if r.RSE == rse {
			return r.PFN
		}
	}
	return ""
}

// What is imported lies where the naming says: what an import that was killed left there is
// taken, what is something else there stays, and nothing is held afterwards.
func TestImportToANaming(t *testing.T) {
	s := newNamedSite(t, "identity")
	src := t.TempDir()
	for _, f := range []string{"new", "left", "other", "d/f"} {
		put(t, filepath.Join(src, f), "content of "+f)
	}
	put(t, filepath.Join(s.disk, "ctao/ctao/i/left"), "content of left")
	put(t, filepath.Join(s.disk, "ctao/ctao/i/other"), "content of OTHER")
	put(t, filepath.Join(s.disk, "ctao/ctao/i/d"), "in the way")
	o := Options{Source: src, Target: "/ctao/i", RSE: "DISK"}
	if res := s.run(t, o); res.Files != 4 || res.Failed != 0 {
		t.Fatalf("%+v", res)
	}
	for f, named := range map[string]bool{"new": true, "left": true, "other": false, "d/f": false} {
		p := "/ctao/i/" + f
		if at := s.pfn(t, p, "DISK"); (at == "ctao"+p) != named || s.read(t, p) != "content of "+f {
			t.Errorf("%s lies at %s", p, at)
		}
		if s.lake.Held("DISK", "ctao"+p) {
			t.Errorf("%s is held still", p)
		}
	}
	if b, err := os.ReadFile(filepath.Join(s.disk, "ctao/ctao/i/other")); err != nil || string(b) != "content of OTHER" {
		t.Errorf("a stranger's file: %q, %v", b, err)
	}
	if res := s.run(t, o); res.Skipped != 4 {
		t.Errorf("a second run: %+v", res)
	}
}

// shut is a storage that nothing can be written to.
type shut struct{ backends.Storage }

func (shut) Checksum(context.Context, string) (backends.Checksums, error) {
	return backends.Checksums{}, backends.ErrUnavailable
}

func (shut) Create(context.Context, string, int64) (backends.Upload, error) {
	return nil, backends.ErrUnavailable
}

// An import that fails does not delete what was there before it, and holds nothing.
func TestFailedImportLeavesWhatItFound(t *testing.T) {
	s := newNamedSite(t, "identity")
	src := t.TempDir()
	put(t, filepath.Join(src, "f"), "content")
	there := filepath.Join(s.disk, "ctao/ctao/i/f")
	put(t, there, "content")
	f, err := os.Open(filepath.Join(src, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := newRun(t.Context(), s.lake, Options{Source: src, Target: "/ctao/i", RSE: "DISK"})
	if err != nil {
		t.Fatal(err)
	}
	in := backends.Info{DID: backends.DID{Scope: "ctao", Name: "/ctao/i/f"}, Size: 7}
	if in.Checksums, err = r.digest(t.Context(), f, 7); err != nil {
		t.Fatal(err)
	}
	broken := *r.rse
	broken.Storage = shut{broken.Storage}
	r.rse = &broken
	if _, err := r.store(t.Context(), in, f); !errors.Is(err, backends.ErrUnavailable) {
		t.Fatalf("store: %v", err)
	}
	if b, err := os.ReadFile(there); err != nil || string(b) != "content" {
		t.Errorf("what was there: %q, %v", b, err)
	}
	if s.lake.Held("DISK", "ctao/ctao/i/f") {
		t.Error("the path is held still")
	}
}

// Files that are registered where they lie stay there, whatever the naming; the copy of
// another file of the lake is not registered as well.
func TestRegisterOnlyWithANaming(t *testing.T) {
	s := newNamedSite(t, "identity")
	put(t, filepath.Join(s.disk, "old/f"), "here already")
	put(t, filepath.Join(s.disk, "ctao/ctao/x/g"), "where it belongs")
	var told []string
	o := Options{Source: filepath.Join(s.disk, "old"), Target: "/ctao/old", RSE: "OLD", RegisterOnly: true, Folder: s.disk,
		Failed: func(_ string, err error) { told = append(told, err.Error()) }}
	s.run(t, o)
	if at := s.pfn(t, "/ctao/old/f", "OLD"); at != "old/f" {
		t.Errorf("it is registered at %q", at)
	}
	if res := s.run(t, o); res.Skipped != 1 || res.Failed != 0 {
		t.Errorf("a second run: %+v", res)
	}
	o.Target = "/ctao/again"
	if res := s.run(t, o); res.Failed != 1 || res.Files != 0 || len(told) != 1 || !strings.Contains(told[0], "another file") {
		t.Errorf("under another name: %+v, %q", res, told)
	}
	// Its content was changed from outside.
	put(t, filepath.Join(s.disk, "old/f"), "changed outside")
	o.Target, o.Replace = "/ctao/old", true
	if res := s.run(t, o); res.Failed != 0 || res.Files != 1 || s.read(t, "/ctao/old/f") != "changed outside" {
		t.Errorf("a new generation at the same place: %+v %q", res, told)
	}
	o.Source, o.Target, o.Replace = filepath.Join(s.disk, "ctao/ctao/x"), "/ctao/x", false
	s.run(t, o)
	if at := s.pfn(t, "/ctao/x/g", "OLD"); at != "ctao/ctao/x/g" {
		t.Errorf("it is registered at %q", at)
	}
}

// Of many files only those are held that may not be registered yet.
func TestImportHoldsFew(t *testing.T) {
	s := newNamedSite(t, "hash")
	r, err := newRun(t.Context(), s.lake, Options{Source: t.TempDir(), Target: "/ctao/i", RSE: "DISK"})
	if err != nil {
		t.Fatal(err)
	}
	n := fewHeld + 100
	hold := func(i int) string {
		in := backends.Info{DID: backends.DID{Scope: "ctao", Name: fmt.Sprintf("/ctao/f%d", i)}, Type: backends.File, Checksums: backends.Checksums{Adler32: "00000001"}}
		h, p := s.lake.NewHolder(), fmt.Sprint("p", i)
		if err := s.lake.Hold(h, "DISK", p); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 || i < 50 {
			if err := s.cat.Add(t.Context(), in, nil, backends.Replica{RSE: "DISK", PFN: p, State: backends.Available}); err != nil {
				t.Fatal(err)
			}
		}
		r.letGoLater(h, p)
		return p
	}
	for i := range n {
		hold(i)
	}
	for i, held := range map[int]bool{0: false, 49: false, 50: false, 51: true, 52: true, n - 1: true} {
		if got := s.lake.Held("DISK", fmt.Sprint("p", i)); got != held {
			t.Errorf("path %d is held: %v", i, got)
		}
	}
	r.letGo()
	if s.lake.Held("DISK", "p51") || s.lake.Held("DISK", fmt.Sprint("p", n-1)) {
		t.Error("something is held at the end")
	}
}
