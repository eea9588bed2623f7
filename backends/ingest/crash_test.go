package ingest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"tarn/backends"
)

// TestCrashAtEveryStep: wherever a pass ends, the next one carries it on: all files are stored once, registered and deleted.
func TestCrashAtEveryStep(t *testing.T) {
	for _, step := range []string{"seal", "send", "sent", "verified", "import", "imported", "reread", "safe", "delete", "hide", "leased", "hidden", "prove", "unlinked", "deleted"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			for i := range 5 {
				r.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
			}
			s := r.open(nil)
			var crashes atomic.Int32
			s.o.hook = func(at, _ string) error {
				if at == step && crashes.Add(1) >= 1 {
					return errCrash
				}
				return nil
			}
			d := r.definition("A")
			if _, err := s.Once(t.Context(), d, nil); !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			r.must(s.Close())
			s = r.open(nil)
			st, err := s.Once(t.Context(), d, nil)
			if err != nil || st.Deleted.Files != 5 || st.Found.Files != 5 || len(r.sources()) != 0 {
				t.Errorf("%+v, %v, left %q", st, err, r.sources())
			}
			for i := range 5 {
				if got := r.read(fmt.Sprint("/ctao/dl0/f", i)); got != fmt.Sprint("content ", i) {
					t.Errorf("f%d: %q", i, got)
				}
			}
			n := 0
			_ = filepath.WalkDir(filepath.Join(r.base, "A"), func(p string, e os.DirEntry, err error) error {
				if err == nil && !e.IsDir() && !strings.Contains(p, ".tarn-uploads") {
					n++
				}
				return nil
			})
			if n != 5 {
				t.Errorf("%d files are at the RSE", n)
			}
		})
	}
}

// TestRemoveUnhides: a file that has its hidden name when the ingest is removed is not left with it.
func TestRemoveUnhides(t *testing.T) {
	r := newRig(t)
	r.write("f", "content")
	s := r.open(nil)
	s.o.hook = func(at, _ string) error {
		if at == "prove" {
			return errCrash
		}
		return nil
	}
	if _, err := s.Once(t.Context(), r.definition("A"), nil); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	if left := r.sources(); len(left) != 1 || left[0] == "f" {
		t.Fatalf("sources: %q", left)
	}
	r.must(s.Close())
	s = r.open(nil)
	r.must(r.cat.DropReplica(t.Context(), s.links["dl0"].link.did("f"), "A", "")) // it is not safe any more
	if err := s.Remove(t.Context(), "dl0", false); !errors.Is(err, backends.ErrNotEmpty) && err != nil {
		t.Errorf("remove: %v", err)
	}
	if left := r.sources(); len(left) != 1 || left[0] != "f" {
		t.Errorf("sources: %q", left)
	}
}
