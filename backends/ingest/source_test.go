package ingest

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWriterBeforeHiding: who writes to a file in the last moment before it gets its hidden name, and puts its mtime back as
// rsync does, does not lose what was written: the writer has to wait, or the file is kept.
func TestWriterBeforeHiding(t *testing.T) {
	r := newRig(t)
	r.write("f", "content")
	s := r.open(nil)
	wrote := false
	s.o.hook = func(at, path string) error {
		if at != "leased" {
			return nil
		}
		p := filepath.Join(r.dir, path)
		st, err := os.Stat(p)
		r.must(err)
		fd, err := unix.Open(p, unix.O_WRONLY|unix.O_NONBLOCK, 0) // without, it waits for the lease
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		}
		r.must(err)
		_, err = unix.Write(fd, []byte("CONTENT"))
		r.must(errors.Join(err, unix.Close(fd), os.Chtimes(p, st.ModTime(), st.ModTime())))
		wrote = true
		return nil
	}
	st, err := s.Once(t.Context(), r.definition("A"), nil)
	if wrote && len(r.sources()) == 0 {
		t.Errorf("what was written last is lost: %+v, %v", st, err)
	}
}

// TestTriggerAfterACrash: a trigger file does not outlive its file when the process ends between the two: the next file of
// that name would be complete as soon as it is there.
func TestTriggerAfterACrash(t *testing.T) {
	r := newRig(t)
	r.write("f", "content")
	r.write("f.done", "")
	d := r.definition("A")
	d.Complete = "trigger:.done"
	s := r.open(nil)
	var crashed atomic.Bool
	s.o.hook = func(at, _ string) error {
		if at == "unlinked" && crashed.CompareAndSwap(false, true) {
			return errCrash
		}
		return nil
	}
	if _, err := s.Once(t.Context(), d, nil); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	r.must(s.Close())
	s = r.open(nil)
	st, err := s.Once(t.Context(), d, nil)
	if left := r.sources(); err != nil || st.Deleted.Files != 1 || len(left) != 0 {
		t.Errorf("%+v, %v, left %q", st, err, left)
	}
}

// TestRipenCoarse: where times are kept in whole seconds a file is not read before the second is over in which it changed:
// a later change could not be told from it.
func TestRipenCoarse(t *testing.T) {
	k := &link{tick: tick}
	now := time.Now()
	f := (&Record{CTime: now.Truncate(time.Second), MTime: now.Truncate(time.Second)}).file()
	if d := k.ripen(f); d < time.Second || d > coarse {
		t.Errorf("whole seconds: %v", d)
	}
	f.CTime = now.Add(-coarse).Truncate(time.Second)
	if d := k.ripen(f); d != 0 {
		t.Errorf("whole seconds, long ago: %v", d)
	}
	f.CTime = now.Add(time.Hour).Truncate(time.Second).Add(123456789)
	if d := k.ripen(f); d != tick { // its clock is not ours
		t.Errorf("of the future: %v", d)
	}
	f.CTime = time.Now().Add(-tick / 2).Truncate(time.Microsecond).Add(1)
	if d := k.ripen(f); d <= 0 || d > tick {
		t.Errorf("fine: %v", d)
	}
}

// TestDiskNotMounted: a folder whose disk is not mounted when the process starts is a failure, and not one whose files are
// gone: nothing is forgotten and no deletion is noted.
func TestDiskNotMounted(t *testing.T) {
	r := newRig(t)
	r.write("f", "content")
	d := r.definition("A")
	d.Delete = DeleteNever
	s := r.open(nil)
	r.must(s.Add(t.Context(), d))
	stop := r.background(s.Run)
	r.until("f is safe", func() bool { st, _ := s.Status("dl0"); return st.Safe.Files == 1 })
	stop()
	r.must(s.Close())

	disk := r.dir + ".disk"
	r.must(errors.Join(os.Rename(r.dir, disk), os.Mkdir(r.dir, 0o755)))
	s = r.open(nil)
	e := s.links["dl0"]
	e.link.keep = -1 // after-rules, from now on
	stop = r.background(s.Run)
	r.until("it has failed", func() bool { st, _ := s.Status("dl0"); return st.State == Failed })
	if st, _ := s.Status("dl0"); st.Deleted.Files != 0 || st.Safe.Files != 1 {
		t.Errorf("without the disk: %+v", st)
	}
	stop()
	r.must(errors.Join(os.Remove(r.dir), os.Rename(disk, r.dir)))
	stop = r.background(s.Run)
	r.deleted(1)
	e.link.keep = -2
	r.write("g", "more")
	r.until("g is safe", func() bool { st, _ := s.Status("dl0"); return st.Safe.Files == 2 })
	stop()

	// Another folder is taken when its owner says so.
	r.must(errors.Join(os.Rename(r.dir, disk), os.Mkdir(r.dir, 0o755)))
	r.write("h", "other")
	r.background(s.Run)
	r.until("it has failed", func() bool { st, _ := s.Status("dl0"); return st.State == Failed })
	r.must(s.Resume("dl0"))
	r.until("h is safe", func() bool { st, _ := s.Status("dl0"); return st.Safe.Files == 3 })
}
