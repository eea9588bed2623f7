package journal

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/integration/needed"
)

// residentJournal is a journal with a log, whose entries have no files at first.
func residentJournal(t testing.TB, size int64) (*crashFS, Options, *Journal) {
	t.Helper()
	disk, o, j := loggedJournal(t, size)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	o.withFiles = false
	return disk, o, open(t, o)
}

// files lists the files of entries that are there.
func files(disk *crashFS) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(disk.dirs["/j"].now)) {
		if !strings.HasPrefix(name, "log-") {
			out = append(out, name)
		}
	}
	return out
}

func TestResidentHasNoFiles(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	m := counted(disk)
	e, gone := create(t, j, "abc"), create(t, j, "gone")
	r := seal(t, e)
	seal(t, gone)
	if err := e.Update(func(r *Record) { r.Path = []byte("/renamed") }); err != nil {
		t.Fatal(err)
	}
	if err := gone.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := e.Verify(); err != nil {
		t.Fatal(err)
	}
	if content(t, e) != "abc" || e.Blocks() != 8 {
		t.Fatal(content(t, e), e.Blocks())
	}
	if len(files(disk)) != 0 || j.resident.Load() != 0 || j.without.Load() != 1 {
		t.Fatal(files(disk), j.resident.Load(), j.without.Load())
	}
	for op := range m {
		if !strings.HasSuffix(op, " log-0") {
			t.Errorf("%s, which costs", op)
		}
	}
	disk.fail = nil
	disk.cutAs(0)
	j = open(t, o)
	e = only(t, j)
	if got := e.Record(); string(got.Path) != "/renamed" || got.Seq != r.Seq || got.State != Sealed || content(t, e) != "abc" {
		t.Fatalf("%+v", got)
	}
}

// What is written slowly gets files, so that kill -9 leaves it.
func TestSlowWriterGetsFiles(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	create(t, j, "")
	e := create(t, j, "abc")
	if j.spillOld(time.Hour); len(files(disk)) != 0 {
		t.Fatal(files(disk))
	}
	if j.spillOld(0); len(files(disk)) != 2 {
		t.Fatal(files(disk))
	}
	if _, err := e.WriteAt([]byte("def"), 3); err != nil {
		t.Fatal(err)
	}
	disk.kill()
	e = only(t, open(t, o))
	if e.State() != Abandoned || content(t, e) != "abcdef" {
		t.Fatalf("%+v", e.Record())
	}
}

// The same by itself, on a real folder.
func TestSlowWriterGetsFilesInTime(t *testing.T) {
	o := Options{Dir: t.TempDir(), NewHash: newSums, logSize: 256 << 10}
	j := open(t, o)
	if err := j.wal.make(); err != nil {
		needed.Missing(t, "the folder takes no log: %v", err)
	}
	e := create(t, j, "abc")
	if !e.isResident() {
		t.Fatal("it has files at once")
	}
	for end := time.Now().Add(20 * time.Second); e.isResident(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it has no files yet")
		}
	}
	if seal(t, e); content(t, e) != "abc" {
		t.Fatal(content(t, e))
	}
}

func TestResidentGetsFiles(t *testing.T) {
	big := strings.Repeat("x", logContent+1)
	for what, do := range map[string]func(e *Entry) error{
		"growing":     func(e *Entry) error { _, err := e.WriteAt([]byte(big), 3); return err },
		"growing far": func(e *Entry) error { _, err := e.WriteAt([]byte("x"), logContent); return err },
		"truncating":  func(e *Entry) error { return e.Truncate(logContent + 1) },
		"allocating":  func(e *Entry) error { return e.Allocate(0, 0, 10) },
		"syncing":     func(e *Entry) error { return e.Sync() },
		"updating":    func(e *Entry) error { return e.Update(func(r *Record) { r.Base = "x" }) },
	} {
		disk, _, j := residentJournal(t, 256<<10)
		e := create(t, j, "abc")
		before := content(t, e)
		if err := do(e); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := files(disk); len(got) != 2 {
			t.Errorf("%s: %v", what, got)
		}
		if !strings.HasPrefix(content(t, e), before) || j.resident.Load() != 0 {
			t.Errorf("%s: %.10q, %d in memory", what, content(t, e), j.resident.Load())
		}
	}
}

// What the log has is not lost by a change that nobody sealed.
func TestResidentChangedAfterSeal(t *testing.T) {
	for what, x := range map[string]struct {
		do   func(e *Entry) error
		want string
	}{
		"appended":          {func(e *Entry) error { _, err := e.WriteAt([]byte("def"), 3); return err }, "abc"},
		"appended, in time": {func(e *Entry) error { _, err := e.WriteAt([]byte("def"), 3); e.j.spillOld(0); return err }, "abc"},
		"changed":           {func(e *Entry) error { _, err := e.WriteAt([]byte("X"), 0); return err }, "Xbc"},
		"cut":               {func(e *Entry) error { return e.Truncate(1) }, "a"},
	} {
		disk, o, j := residentJournal(t, 256<<10)
		e := create(t, j, "abc")
		r := seal(t, e)
		if err := x.do(e); err != nil {
			t.Fatal(err)
		}
		disk.kill()
		e = only(t, open(t, o))
		if got := content(t, e); got != x.want {
			t.Errorf("%s: %q", what, got)
		}
		if got := e.Record(); x.want == "abc" && (got.State != Sealed || got.Seq != r.Seq) {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

// Entries without files are made only where they can get some.
func TestResidentsAreBounded(t *testing.T) {
	disk, _, j := residentJournal(t, 256<<10)
	if create(t, j, "abc"); len(files(disk)) != 0 {
		t.Fatal(files(disk))
	}
	disk.free = 100 << 10
	if create(t, j, "abc"); len(files(disk)) != 2 {
		t.Fatal(files(disk))
	}
	disk.free = 0
	j.resident.Add(residentOpen)
	if create(t, j, "abc"); len(files(disk)) != 4 {
		t.Fatal(files(disk))
	}
	j.resident.Add(-residentOpen)
	if create(t, j, "abc"); len(files(disk)) != 4 {
		t.Fatal(files(disk))
	}
	j.wal.mu.Lock()
	j.wal.breakLocked(unix.EIO)
	j.wal.mu.Unlock()
	if create(t, j, "abc"); len(files(disk)) != 6 {
		t.Fatal(files(disk))
	}
}

// TestCrashAtEveryCall kills, cuts the power or fails a call at each of the system calls of a
// life of entries without files.
func TestCrashAtEveryCall(t *testing.T) {
	life := func(j *Journal) (acked map[string]string, gone map[string]bool, err error) {
		acked, gone = map[string]string{}, map[string]bool{}
		step := func(e *Entry, text string) error {
			if _, err := e.WriteAt([]byte(text), e.Size()); err != nil {
				return err
			}
			if _, err := e.Seal(); err != nil {
				return err
			}
			acked[e.id] += text
			return nil
		}
		var list []*Entry
		for i := range 3 {
			e, err := j.Create(Record{Path: []byte("x")})
			if err != nil {
				return acked, gone, err
			}
			list = append(list, e)
			if err := step(e, fmt.Sprint("first of ", i)); err != nil {
				return acked, gone, err
			}
		}
		todo := []func() error{
			func() error { return step(list[0], " and more") },
			func() error {
				gone[list[1].id] = false
				if err := list[1].Remove(); err != nil {
					return err
				}
				gone[list[1].id] = true
				return nil
			},
			func() error { return list[2].Update(func(r *Record) { r.Base = "y" }) },
			j.wal.checkpoint,
			func() error { return step(list[0], " and even more") },
			func() error {
				e, err := j.Create(Record{})
				if err != nil {
					return err
				}
				if _, err = e.WriteAt([]byte("slow"), 0); err != nil {
					return err
				}
				j.spillOld(0)
				if _, err = e.Seal(); err == nil {
					acked[e.id] = "slow"
				}
				return err
			},
			j.wal.checkpoint,
		}
		for _, do := range todo {
			if e := do(); e != nil && err == nil {
				if errors.Is(e, errPower) {
					return acked, gone, e
				}
				err = e
			}
		}
		return acked, gone, err
	}
	check := func(what string, o Options, acked map[string]string, gone map[string]bool) {
		t.Helper()
		j := open(t, o)
		for id, text := range acked {
			e, ok := j.Entry(id)
			if _, leaving := gone[id]; leaving && !ok {
				continue
			}
			if gone[id] && ok {
				t.Errorf("%s: removed, and back", what)
			}
			if !ok || !strings.HasPrefix(content(t, e), text) {
				t.Errorf("%s: %q is lost", what, text)
			} else if err := e.Verify(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		j.Close()
	}
	for mode := range 6 {
		for at := 1; !t.Failed(); at++ {
			disk, o, j := residentJournal(t, 128<<10)
			disk.ops = 0
			what := fmt.Sprintf("mode %d, call %d", mode, at)
			switch mode {
			case 0, 1, 2, 3:
				disk.offAt = at
			default:
				n := 0
				errno := []unix.Errno{unix.ENOSPC, unix.EIO}[mode-4]
				disk.fail = func(op, name string) error {
					if n++; n == at && op != "read" {
						return errno
					}
					return nil
				}
			}
			acked, gone, err := life(j)
			done := disk.ops < at
			disk.fail = nil
			if err != nil && done {
				t.Fatal(what, err)
			}
			if mode < 3 {
				disk.cutAs(mode)
			} else {
				disk.kill()
			}
			check(what, o, acked, gone)
			if done {
				break
			}
		}
	}
}

// Places that no file can have are errors, as of a file.
func TestResidentAtNoPlace(t *testing.T) {
	_, _, j := residentJournal(t, 256<<10)
	e := create(t, j, "abc")
	if _, err := e.WriteAt([]byte("x"), math.MaxInt64); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
	if _, err := e.ReadAt(make([]byte, 1), -1); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
	if _, err := e.SeekData(-1); err == nil {
		t.Error("data before the first byte")
	}
	if content(t, e) != "abc" {
		t.Error(content(t, e))
	}
}

// A write that comes while an entry gets its file is not forgotten: the file is synced before
// it is closed.
func TestWrittenWhileItGetsItsFile(t *testing.T) {
	disk := newCrashFS(nil)
	f, err := disk.OpenFile("/x", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	flushed := false
	h := &handle{mem: &memory{}, flush: func(File) { flushed = true }}
	d := newDescriptors(disk, 5, 5)
	d.setDirty(h, true)
	d.settled(h, f, false) // as it was before that write
	for d.shedDirty() {
	}
	d.shed()
	if !flushed || h.file != nil {
		t.Fatal("closed without a sync")
	}
}
