package journal

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// What was removed does not come back out of the log, whatever else was lost.
func TestRemovalIsInTheLog(t *testing.T) {
	disk, o, j := loggedJournal(t, 128<<10)
	e := create(t, j, "abc")
	seal(t, e)
	m := counted(disk)
	if err := e.Remove(); err != nil {
		t.Fatal(err)
	}
	if m["fdatasync log-0"] != 1 || m["fsync j"] != 0 {
		t.Fatal(m)
	}
	disk.fail = nil
	disk.cutAs(0)
	j = open(t, o)
	if len(j.Entries()) != 0 {
		t.Fatal("it is back")
	}
}

// A removal that fails after it was noted is taken back.
func TestRemovalThatFails(t *testing.T) {
	disk, o, j := loggedJournal(t, 128<<10)
	e := create(t, j, "abc")
	seal(t, e)
	disk.fail = failing("remove", ".rec", 1, unix.EIO)
	if err := e.Remove(); !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	disk.fail = nil
	seal(t, e)
	disk.cutAs(0)
	if got := content(t, only(t, open(t, o))); got != "abc" {
		t.Fatal(got)
	}
}

// The log has room for the removal of all that it knows, over all its segments.
func TestResidentsCanBeRemoved(t *testing.T) {
	disk, o, j := residentJournal(t, 96<<10)
	for range 4 {
		j.wal.widen()
	}
	for len(files(disk)) == 0 {
		seal(t, create(t, j, "abc"))
	}
	if n := len(j.wal.olds); n < 2 {
		t.Fatalf("%d segments are full", n)
	}
	for _, e := range j.Entries() {
		if err := e.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	disk.cutAs(0)
	if left := open(t, o).Entries(); len(left) != 0 {
		t.Fatalf("%d are back", len(left))
	}
}

func TestTakeDataOfResident(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	disk.Mkdir("/cache", 0)
	e := create(t, j, "abc")
	seal(t, e)
	if err := e.Update(func(r *Record) { r.State = Safe }); err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	if err := e.TakeData(func(string) error { return no }); !errors.Is(err, no) {
		t.Fatal(err)
	}
	if got := files(disk); len(got) != 0 || content(t, e) != "abc" {
		t.Fatal(got, content(t, e))
	}
	if err := e.TakeData(func(path string) error {
		if err := disk.Rename(path, "/cache/x"); err != nil {
			return err
		}
		return syncDir(disk, "/cache")
	}); err != nil {
		t.Fatal(err)
	}
	if got := files(disk); len(got) != 0 || j.without.Load() != 0 {
		t.Fatal(got, j.without.Load())
	}
	if err := j.wal.sync(); err != nil {
		t.Fatal(err)
	}
	disk.cutAs(0)
	if in := disk.dirs["/cache"].now["x"]; in == nil || string(in.now) != "abc" {
		t.Fatal("it is not durable where it went")
	}
	if list := open(t, o).Entries(); len(list) != 0 {
		t.Fatalf("%+v", list[0].Record())
	}
}

// hookedHash tells when the checksums of a content are asked for.
type hookedHash struct {
	Hasher
	at *func()
}

func (h hookedHash) Sums() map[string]string {
	if f := *h.at; f != nil {
		*h.at = nil
		f()
	}
	return h.Hasher.Sums()
}

// An entry that is removed while it is looked at gets no files, whatever the look finds.
func TestVerifyOfRemovedResident(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	var at func()
	j.newHash = func(algs ...string) Hasher { return hookedHash{newSums(algs...), &at} }
	e := create(t, j, "abc")
	seal(t, e)
	e.mu.Lock()
	e.st.Sums["sha256"] = "of something else"
	e.mu.Unlock()
	at = func() {
		if err := e.Remove(); err != nil {
			t.Error(err)
		}
	}
	if err := e.Verify(); !errors.Is(err, ErrRemoved) || at != nil {
		t.Error(err)
	}
	if got := files(disk); len(got) != 0 {
		t.Error(got)
	}
	disk.cutAs(0)
	if list := open(t, o).Entries(); len(list) != 0 {
		t.Errorf("%+v", list[0].Record())
	}
}

// When the log fails while an entry is taken, it gets files of its own. They stay when nobody
// takes them.
func TestTakeDataOfResidentThatGetsFiles(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	e := create(t, j, "abc")
	seal(t, e)
	if err := e.UpdateLazy(func(r *Record) { r.State = Safe }); err != nil {
		t.Fatal(err)
	}
	disk.fail = failing("fdatasync", "/log-0", 1, unix.EIO)
	no := errors.New("no")
	if err := e.TakeData(func(string) error { return no }); !errors.Is(err, no) {
		t.Fatal(err)
	}
	if e.isResident() {
		t.Fatal("it has no files")
	}
	check := func() {
		t.Helper()
		if got := files(disk); len(got) != 2 || content(t, e) != "abc" || e.State() != Safe {
			t.Fatalf("%v, %+v", got, e.Record())
		}
	}
	check()
	disk.cutAs(0)
	e = only(t, open(t, o))
	check()
}
