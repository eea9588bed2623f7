package journal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// A checkpoint makes files for those that are still there, and then the log is not needed.
func TestCheckpointOfResidents(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	for i := range 8 {
		e := create(t, j, fmt.Sprint("content ", i))
		seal(t, e)
		if i%2 == 0 {
			if err := e.Remove(); err != nil {
				t.Fatal(err)
			}
		}
	}
	m := counted(disk)
	if err := j.wal.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if len(files(disk)) != 8 || m["open data"] != 4 || j.without.Load() != 0 {
		t.Fatal(files(disk), m, j.without.Load())
	}
	disk.fail = nil
	for name := range disk.dirs["/j"].now {
		if strings.HasPrefix(name, "log-") {
			delete(disk.dirs["/j"].durable, name)
		}
	}
	disk.cutAs(0)
	j = open(t, o)
	if list := j.Entries(); len(list) != 4 {
		t.Fatalf("%d entries", len(list))
	}
	for _, e := range j.Entries() {
		if err := e.Verify(); err != nil || e.State() != Sealed {
			t.Error(err, e.State())
		}
	}
}

// A content that was sealed again later needs no files for the segment that has the older one.
func TestCheckpointLeavesWhatIsNewer(t *testing.T) {
	disk, o, j := residentJournal(t, 64<<10)
	j.wal.widen()
	e := create(t, j, "abc")
	seal(t, e)
	j.wal.mu.Lock()
	j.wal.rotateLocked()
	j.wal.mu.Unlock()
	if _, err := e.WriteAt([]byte("def"), 3); err != nil {
		t.Fatal(err)
	}
	seal(t, e)
	if err := j.wal.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if got := files(disk); len(got) != 0 {
		t.Fatal(got)
	}
	disk.cutAs(0)
	if e := only(t, open(t, o)); content(t, e) != "abcdef" || e.State() != Sealed {
		t.Fatalf("%+v", e.Record())
	}
}

// A full disk keeps a checkpoint from making files: the log stays, nothing is lost, and it
// is done when there is room.
func TestCheckpointOnAFullDisk(t *testing.T) {
	for _, at := range []string{"open rec", "fallocate rec", "write rec", "open data", "write data"} {
		for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EIO} {
			disk, o, j := residentJournal(t, 256<<10)
			e := create(t, j, "abc")
			r := seal(t, e)
			disk.fail = func(op, name string) error {
				if at == op+" "+name[strings.LastIndexAny(name, "./")+1:] {
					return errno
				}
				return nil
			}
			err := j.wal.checkpoint()
			if at == "fallocate rec" && errno == unix.EIO { // not every file system has it
				if err != nil {
					t.Fatal(err)
				}
				continue
			}
			if !errors.Is(err, errno) {
				t.Fatalf("%s: %v", at, err)
			}
			if got := files(disk); len(got) != 0 {
				t.Fatalf("%s: %v are left", at, got)
			}
			if err := e.Update(func(r *Record) { r.Base = "x" }); err != nil || content(t, e) != "abc" {
				t.Fatalf("%s: %v", at, err)
			}
			if err := j.wal.checkpoint(); !errors.Is(err, errno) {
				t.Fatalf("%s: %v", at, err)
			}
			disk.fail = nil
			if err := j.wal.checkpoint(); err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			if got := files(disk); len(got) != 2 {
				t.Fatalf("%s: %v", at, got)
			}
			disk.cutAs(0)
			e = only(t, open(t, o))
			if got := e.Record(); got.Seq != r.Seq || got.State != Sealed || got.Base != "x" || content(t, e) != "abc" {
				t.Fatalf("%s: %+v", at, got)
			}
		}
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
		t.Skip(err)
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

// The bytes of a lazy seal stay in memory until the log is durable, and become so without it.
func TestLazyResident(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	a, b := create(t, j, "aaa"), create(t, j, "bbb")
	lazily := func(e *Entry) {
		if _, err := e.SealLazy(); err != nil {
			t.Fatal(err)
		}
	}
	if lazily(a); j.resident.Load() != 6 {
		t.Fatal(j.resident.Load())
	}
	if err := a.Sync(); err != nil || j.resident.Load() != 3 {
		t.Fatal(err, j.resident.Load())
	}
	lazily(b)
	disk.fail = func(op, name string) error {
		if op == "fdatasync" && strings.Contains(name, "/log-") {
			return unix.EIO
		}
		return nil
	}
	if err := b.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := files(disk); len(got) != 2 || j.resident.Load() != 0 {
		t.Fatal(got, j.resident.Load())
	}
	if err := j.wal.checkpoint(); err != nil { // the end of the log
		t.Fatal(err)
	}
	if len(files(disk)) != 4 {
		t.Fatal(files(disk))
	}
	disk.fail = nil
	disk.cutAs(0)
	j = open(t, o)
	if len(j.Entries()) != 2 {
		t.Fatalf("%d entries", len(j.Entries()))
	}
	for _, e := range j.Entries() {
		if err := e.Verify(); err != nil || e.State() != Sealed {
			t.Error(err, e.State())
		}
	}
}

// Close leaves nothing in memory or in the log.
func TestCloseGivesFiles(t *testing.T) {
	disk, o, j := residentJournal(t, 64<<10)
	j.wal.widen()
	want := map[string]bool{"writing": true}
	create(t, j, "writing")
	for i := range 9 {
		text := fmt.Sprint("sealed ", i)
		seal(t, create(t, j, text))
		want[text] = true
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for name := range disk.dirs["/j"].now {
		if strings.HasPrefix(name, "log-") {
			delete(disk.dirs["/j"].now, name)
		}
	}
	for _, e := range open(t, o).Entries() {
		delete(want, content(t, e))
	}
	if len(want) != 0 {
		t.Fatal("lost:", want)
	}
}

// Content in the log that does not fit its checksum is kept among the orphans.
func TestRotInTheOnlyCopy(t *testing.T) {
	disk, o, j := residentJournal(t, 64<<10)
	e := create(t, j, strings.Repeat("abc", 100))
	seal(t, e)
	in := disk.dirs["/j"].now["log-0"]
	at := bytes.LastIndex(in.durable, []byte("abcabc"))
	in.durable[at] ^= 1
	disk.cutAs(0)
	if list := open(t, o).Entries(); len(list) != 0 {
		t.Fatal(list)
	}
	found := false
	for name, in := range disk.dirs["/j/orphans"].now {
		found = found || strings.HasSuffix(name, ".data") && bytes.Contains(in.now, []byte("abcabc"))
	}
	if !found {
		t.Fatal(slices.Collect(maps.Keys(disk.dirs["/j/orphans"].now)))
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

// A sync that covers an earlier seal only does not take the bytes of a later one.
func TestLazyResidentSealedAgain(t *testing.T) {
	_, _, j := residentJournal(t, 256<<10)
	e := create(t, j, "abc")
	if _, err := e.SealLazy(); err != nil {
		t.Fatal(err)
	}
	early := j.wal.synced
	j.wal.synced = nil
	if _, err := e.WriteAt([]byte("d"), 3); err != nil {
		t.Fatal(err)
	}
	if _, err := e.SealLazy(); err != nil {
		t.Fatal(err)
	}
	for _, f := range early {
		f()
	}
	if j.resident.Load() != 4 {
		t.Fatal("the bytes are in no file, and their log is not synced")
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
