package ingest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/fault"
)

// start adds an ingest of the rules and runs it.
func (r *rig) start(d Definition) *Set {
	s := r.open(r.replicate())
	r.must(s.Add(r.t.Context(), d))
	r.background(s.Run)
	return s
}

// deleted waits until so many files are.
func (r *rig) deleted(n int64) Status {
	r.t.Helper()
	var st Status
	r.until(fmt.Sprint(n, " files are deleted"), func() bool {
		var err error
		st, err = r.set.Status("dl0")
		r.must(err)
		return st.Deleted.Files == n
	})
	return st
}

// TestDestinationDown: an outage costs a few tries, not some of every file, and all arrive when it is over.
func TestDestinationDown(t *testing.T) {
	for name, why := range map[string]error{"down": fault.ErrTemporary, "full": backends.ErrNoSpace, "expired": fmt.Errorf("%w: %w", backends.ErrPermission, backends.ErrExpired)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			mend := r.disks["A"].On("Create", fault.Always(why))
			for i := range 60 {
				r.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
			}
			s := r.start(r.definition("A"))
			r.until("it is seen", func() bool {
				st, err := s.Status("dl0")
				r.must(err)
				return st.Error != "" && st.Failures > 0
			})
			time.Sleep(300 * time.Millisecond) // it must be left alone meanwhile
			if st, _ := s.Status("dl0"); st.Failures > 50 || st.StuckAll > 0 || st.Deleted.Files > 0 {
				t.Errorf("%d failures, %d stuck, %d deleted", st.Failures, st.StuckAll, st.Deleted.Files)
			}
			mend()
			r.deleted(60)
		})
	}
}

// TestAnotherDestination: files go to another RSE that the rule allows while one is down.
func TestAnotherDestination(t *testing.T) {
	r := newRig(t)
	r.disks["A"].On("Create", fault.Always(fault.ErrTemporary))
	for i := range 20 {
		r.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	r.start(r.definition("A|B"))
	r.deleted(20)
	if n := len(r.replicas("/ctao/dl0/f7")); n != 1 {
		t.Errorf("%d replicas", n)
	}
}

// TestCorruptedOnItsWay: what arrives with other bytes is not registered; it is sent again.
func TestCorruptedOnItsWay(t *testing.T) {
	r := newRig(t)
	r.disks["A"].On("Commit", fault.Times(1, backends.ErrCorrupt))
	r.write("f", "content")
	r.start(r.definition("A"))
	st := r.deleted(1)
	if st.Failures != 1 || r.read("/ctao/dl0/f") != "content" {
		t.Errorf("%d failures", st.Failures)
	}
}

// TestCatalogueDown: nothing is lost and nothing sent twice while the catalogue does not answer.
func TestCatalogueDown(t *testing.T) {
	r := newRig(t)
	for i := range 30 {
		r.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	s := r.open(r.replicate())
	r.must(s.Add(t.Context(), r.definition("A")))
	mend := r.index.On("Add", fault.Always(fault.ErrTemporary))
	r.background(s.Run)
	r.until("all are stored", func() bool {
		n := 0
		_ = filepath.WalkDir(filepath.Join(r.base, "A"), func(p string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !strings.Contains(p, ".tarn-uploads") {
				n++
			}
			return nil
		})
		return n == 30
	})
	if st, _ := s.Status("dl0"); st.Registered.Files != 0 || len(r.sources()) != 30 {
		t.Errorf("%d registered, %d sources", st.Registered.Files, len(r.sources()))
	}
	mend()
	if st := r.deleted(30); st.Attempts != 30 {
		t.Errorf("%d attempts", st.Attempts)
	}
}

// TestSourceChanges: a file that is written while it is sent is not registered as it was, and its last content arrives.
func TestSourceChanges(t *testing.T) {
	r := newRig(t)
	r.write("f", strings.Repeat("old", 100))
	r.disks["A"].On("Commit", func(string) error {
		if b, _ := os.ReadFile(filepath.Join(r.dir, "f")); strings.HasPrefix(string(b), "old") {
			time.Sleep(2 * tick)
			r.write("f", strings.Repeat("new", 100))
		}
		return nil
	})
	r.start(r.definition("A"))
	st := r.deleted(1)
	if got := r.read("/ctao/dl0/f"); got != strings.Repeat("new", 100) || st.Changed != 1 {
		t.Errorf("%.10q, changed %d", got, st.Changed)
	}
	n := 0
	_ = filepath.WalkDir(filepath.Join(r.base, "A", "ctao"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if n != 1 {
		t.Errorf("%d files at the RSE", n)
	}
}

// TestNewGeneration: a file that is written again after it was taken becomes a new generation.
func TestNewGeneration(t *testing.T) {
	r := newRig(t)
	d := r.definition("A")
	d.Delete = DeleteNever
	r.write("f", "one")
	s := r.start(d)
	safe := func(n string) {
		r.until(n+" is safe", func() bool {
			for rec, err := range s.Files(t.Context(), "dl0", Safe) {
				r.must(err)
				return r.read("/ctao/dl0/f") == n && rec.Size == int64(len(n))
			}
			return false
		})
	}
	safe("one")
	r.write("f", "the second")
	safe("the second")
	if st, _ := s.Status("dl0"); st.Changed != 1 || len(r.sources()) != 1 {
		t.Errorf("%+v", st)
	}
}

// TestRemovedFromTheLake: a file that somebody removed in the lake is not deleted at the source, and not sent again
// until that is asked for.
func TestRemovedFromTheLake(t *testing.T) {
	r := newRig(t)
	r.write("f", "content")
	d := r.definition("A", "B")
	s := r.open(nil) // without replication it is not safe
	r.must(s.Add(t.Context(), d))
	r.background(s.Run)
	r.until("it is registered", func() bool { st, _ := s.Status("dl0"); return st.Registered.Files == 1 })
	r.must(r.cat.Remove(t.Context(), backends.DID{Scope: "ctao", Name: "/ctao/dl0/f"}))
	r.until("it is stuck", func() bool { st, _ := s.Status("dl0"); return st.StuckAll == 1 && len(st.Stuck) == 1 })
	if err := s.Remove(t.Context(), "dl0", false); !errors.Is(err, backends.ErrNotEmpty) {
		t.Errorf("remove: %v", err)
	}
	if n, err := s.Retry("dl0"); n != 1 || err != nil {
		t.Errorf("retry: %d, %v", n, err)
	}
	r.until("it is registered again", func() bool { st, _ := s.Status("dl0"); return st.Registered.Files == 1 && st.Attempts == 2 })
	r.replicate()
	r.deleted(1)
	r.must(s.Remove(t.Context(), "dl0", false))
	if _, err := s.Status("dl0"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("after remove: %v", err)
	}
	r.must(s.Add(t.Context(), d))
}

// TestOpenForWriting: a file that somebody has open is not deleted before that ends.
func TestOpenForWriting(t *testing.T) {
	r := newRig(t)
	r.write("f", "content")
	s := r.open(nil)
	d := r.definition("A")
	d.Delete = DeleteNever
	st, err := s.Once(t.Context(), d, nil)
	r.must(err)
	if st.Safe.Files != 1 || st.State != Done {
		t.Fatalf("%+v", st)
	}
	f, err := os.OpenFile(filepath.Join(r.dir, "f"), os.O_WRONLY, 0)
	r.must(err)
	defer f.Close()
	d.Delete = DeleteAfterRules
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if st, err = s.Once(ctx, d, nil); !errors.Is(err, context.DeadlineExceeded) || st.Deleted.Files != 0 {
		t.Errorf("%+v, %v", st, err)
	}
	if left := r.sources(); len(left) != 1 || left[0] != "f" {
		t.Errorf("sources: %q", left)
	}
	f.Close()
	if st, err = s.Once(t.Context(), d, nil); err != nil || st.Deleted.Files != 1 || len(r.sources()) != 0 {
		t.Errorf("%+v, %v, %q", st, err, r.sources())
	}
}

// TestKeepNewest: only what is over the size goes, the oldest first.
func TestKeepNewest(t *testing.T) {
	r := newRig(t)
	for i := range 10 {
		r.write(fmt.Sprint("f", i), strings.Repeat("x", 100))
		at := time.Now().Add(time.Duration(i-100) * time.Minute)
		r.must(os.Chtimes(filepath.Join(r.dir, fmt.Sprint("f", i)), at, at))
	}
	d := r.definition("A")
	d.Delete = "keep-newest:300"
	r.start(d)
	r.deleted(7)
	if left := strings.Join(r.sources(), " "); left != "f7 f8 f9" {
		t.Errorf("left: %s", left)
	}
}

// TestCompany: the trigger goes with its file, and so does a side file, whose words are metadata; other files stay.
func TestCompany(t *testing.T) {
	r := newRig(t)
	r.write("f.fits", "content")
	r.write("f.fits.json", `{"zenith": 20}`)
	r.write("other.fits", "no trigger")
	r.write("f.fits.trigger", "")
	d := r.definition("A")
	d.Complete = "trigger:.trigger"
	r.start(d)
	r.deleted(1)
	if left := r.sources(); len(left) != 1 || left[0] != "other.fits" {
		t.Errorf("left: %q", left)
	}
	m, err := r.cat.Meta(t.Context(), backends.DID{Scope: "ctao", Name: "/ctao/dl0/f.fits"})
	r.must(err)
	if fmt.Sprint(m["zenith"]) != "20" {
		t.Errorf("metadata: %v", m)
	}
}

// TestPauseAndReopen: what was sent is not sent again by the next process, and a pause outlives it.
func TestPauseAndReopen(t *testing.T) {
	r := newRig(t)
	kick := r.replicate()
	s := r.open(kick)
	r.must(s.Add(t.Context(), r.definition("A")))
	stop := r.background(s.Run)
	r.write("a", "a")
	r.deleted(1)
	r.must(s.Pause("dl0"))
	r.write("b", "b")
	stop()
	r.must(s.Close())
	s = r.open(kick)
	if _, err := Open(Options{Dir: filepath.Join(r.base, "ingests"), Lake: r.lake}); !errors.Is(err, backends.ErrBusy) {
		t.Errorf("second process: %v", err)
	}
	r.background(s.Run)
	if st, _ := s.Status("dl0"); st.State != Paused || st.Deleted.Files != 1 {
		t.Errorf("%+v", st)
	}
	r.must(s.Resume("dl0"))
	r.deleted(2)
}

// TestOneIngestAFolder: two ingests on one folder are refused, within a set and by the lock of the folder.
func TestOneIngestAFolder(t *testing.T) {
	r := newRig(t)
	s := r.open(nil)
	d := r.definition("A")
	r.must(s.Add(t.Context(), d))
	r.must(os.MkdirAll(filepath.Join(r.dir, "in"), 0o755))
	r.must(os.Symlink(r.dir, filepath.Join(r.base, "link")))
	for _, dir := range []string{r.dir, filepath.Join(r.dir, "in"), filepath.Join(r.base, "link", "in"), r.base, filepath.Join(r.base, "A")} {
		d.Name, d.Dir = "other", dir
		if err := s.Add(t.Context(), d); !errors.Is(err, backends.ErrBusy) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	f, err := openFolder(r.dir)
	r.must(err)
	defer f.close()
	r.background(s.Run)
	r.until("it says so", func() bool {
		st, _ := s.Status("dl0")
		return st.State == Failed && strings.Contains(st.Error, "another ingest")
	})
}

// TestEveryFaultOfADefinition: all that is wrong is told at once.
func TestEveryFaultOfADefinition(t *testing.T) {
	r := newRig(t)
	s := r.open(nil)
	err := s.Add(t.Context(), Definition{Name: "a/b", Dir: "rel", Target: "/nowhere/x", Rules: []backends.Rule{{Copies: 3, Expression: "A|B"}, {Copies: 1, Expression: "(("}},
		Pattern: []string{"["}, Complete: "soon", Delete: "perhaps", Order: "random", Schedule: "25:00-1", Bandwidth: -1, Metadata: "none"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, word := range []string{`"a/b"`, `"rel"`, "nowhere", "2 RSEs", "((", `"["`, "soon", "perhaps", "random", "25:00", "bandwidth", `"none"`} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in %v", word, err)
		}
	}
	if len(s.List()) != 0 {
		t.Error("it was added")
	}
}

// TestOnceTakesWhatIsFresh: a pass takes files that were written the moment before, and leaves those that are open.
func TestOnceTakesWhatIsFresh(t *testing.T) {
	r := newRig(t)
	s := r.open(nil)
	d := r.definition("A")
	d.Name, d.Complete = "", "age:300ms"
	r.write("f", "content")
	heard := 0
	st, err := s.Once(t.Context(), d, func(Status) { heard++ })
	if err != nil || st.Deleted.Files != 1 || st.State != Done || heard == 0 {
		t.Errorf("%+v, %v, heard %d", st, err, heard)
	}
	r.write("g", "content")
	if st, err = s.Once(t.Context(), d, nil); err != nil || st.Deleted.Files != 2 {
		t.Errorf("%+v, %v", st, err)
	}
}
