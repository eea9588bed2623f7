package journal

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fullAt lets the disk be full for one kind of operation on entries' files.
func fullAt(disk *crashFS, at string) {
	hit := func(op, name string) bool {
		return !strings.Contains(name, "/log-") && at == op+" "+name[strings.LastIndexAny(name, "./")+1:]
	}
	disk.full = func(name string) bool { return hit("make", name) }
	disk.fail = func(op, name string) error {
		if hit(op, name) {
			return unix.ENOSPC
		}
		return nil
	}
}

// After a crash, a disk that is too full for the files of residents does not keep the journal
// from opening: they are there, can be read, changed, removed and sealed again, survive
// more crashes, and get their files when there is room.
func TestReplayOnAFullDisk(t *testing.T) {
	for _, at := range []string{"make rec", "fallocate rec", "write rec", "make data", "write data"} {
		disk, o, j := residentJournal(t, 256<<10)
		want := map[string]string{}
		for i := range 5 {
			text := fmt.Sprint("content ", i)
			e := create(t, j, text)
			seal(t, e)
			want[e.ID()] = text
			if i == 1 {
				if err := e.Update(func(r *Record) { r.Base = "x" }); err != nil {
					t.Fatal(err)
				}
			}
			if i == 2 {
				delete(want, e.ID())
				if err := e.Remove(); err != nil {
					t.Fatal(err)
				}
			}
		}
		check := func(when string, without int64) {
			t.Helper()
			if len(j.Entries()) != len(want) || j.without.Load() != without {
				t.Fatalf("%s, %s: %d entries, %d without files", at, when, len(j.Entries()), j.without.Load())
			}
			for _, e := range j.Entries() {
				if content(t, e) != want[e.ID()] || e.State() != Sealed || e.Verify() != nil {
					t.Errorf("%s, %s: %q instead of %q, %+v", at, when, content(t, e), want[e.ID()], e.Record())
				}
				if based := want[e.ID()] == "content 1"; based != (e.Record().Base == "x") {
					t.Errorf("%s, %s: %+v", at, when, e.Record())
				}
			}
		}
		again := func(when string, crash func(), without int64) {
			t.Helper()
			crash()
			fullAt(disk, at)
			var err error
			if j, err = Open(o); err != nil {
				t.Fatalf("%s, %s: %v", at, when, err)
			}
			check(when, without)
			if err := j.wal.checkpoint(); !isSpace(err) {
				t.Fatalf("%s, %s: a checkpoint says %v", at, when, err)
			}
			check(when+" and a checkpoint", without)
		}
		again("kill -9", disk.kill, 4)
		// The log still takes what it took before.
		e := j.Entries()[3]
		if err := e.Remove(); err != nil {
			t.Fatal(err)
		}
		delete(want, e.ID())
		e = create(t, j, "new")
		want[e.ID()] = "new"
		seal(t, e)
		e = j.Entries()[0]
		if _, err := e.WriteAt([]byte(" and more"), e.Size()); err != nil {
			t.Fatal(err)
		}
		seal(t, e)
		want[e.ID()] += " and more"
		check("changes", 4)
		again("a power cut", func() { disk.cutAs(0) }, 4)
		again("another", func() { disk.cutAs(0) }, 4)
		disk.fail, disk.full = nil, nil
		for range j.wal.segments() {
			if err := j.wal.checkpoint(); err != nil {
				t.Fatalf("%s: with room: %v", at, err)
			}
		}
		check("room", 0)
		if n := len(files(disk)); n != 8 {
			t.Errorf("%s: %d files", at, n)
		}
		for name := range disk.dirs["/j"].now {
			if strings.HasPrefix(name, "log-") { // it is not needed any more
				delete(disk.dirs["/j"].durable, name)
			}
		}
		disk.cutAs(0)
		j = open(t, o)
		check("the end", 0)
	}
}

// What a checkpoint had begun before the crash is no reason to need room either.
func TestReplayOfHalfACheckpointOnAFullDisk(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	e := create(t, j, "abc")
	seal(t, e)
	if err := e.spillNow(); err != nil {
		t.Fatal(err)
	}
	disk.dirs["/j"].now[e.ID()+".data"].now = nil
	disk.kill()
	fullAt(disk, "write data")
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if e := only(t, j); !e.isResident() || content(t, e) != "abc" {
		t.Fatalf("%+v", e.Record())
	}
	if got := files(disk); len(got) != 0 {
		t.Fatal(got)
	}
}

// What the log does not have in full does not go: it is the disk's error that is heard.
func TestReplayKeepsWhatTheLogHasNot(t *testing.T) {
	for what, change := range map[string]func(e *Entry) error{
		"a newer record": func(e *Entry) error {
			return e.writeRecord(stored{Record: Record{ID: e.id, State: Sealed, Size: 3, Seq: 1, Base: "x"}}, false)
		},
		"an append": func(e *Entry) error { _, err := e.WriteAt([]byte("def"), 3); return err },
	} {
		disk, o, j := residentJournal(t, 256<<10)
		e := create(t, j, "abc")
		seal(t, e)
		if err := e.spillNow(); err != nil {
			t.Fatal(err)
		}
		if err := change(e); err != nil {
			t.Fatal(err)
		}
		if what == "a newer record" {
			disk.dirs["/j"].now[e.ID()+".data"].now = nil
		} else {
			disk.dirs["/j"].now[e.ID()+".data"].now[0] = 'X'
		}
		disk.kill()
		fullAt(disk, "write data")
		if _, err := Open(o); !isSpace(err) {
			t.Errorf("%s: %v", what, err)
		}
		if got := files(disk); len(got) != 2 {
			t.Errorf("%s: only %v are left", what, got)
		}
	}
}

// A log of which a segment is gone comes to its end with the checkpoint that finds room.
func TestReplayOfOneSegmentOnAFullDisk(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	e := create(t, j, "abc")
	seal(t, e)
	disk.kill()
	delete(disk.dirs["/j"].now, "log-1")
	fullAt(disk, "make data")
	j = open(t, o)
	if e := only(t, j); content(t, e) != "abc" {
		t.Fatalf("%+v", e.Record())
	}
	for range 2 { // that it finds no room is not the end of it
		if err := j.wal.checkpoint(); !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	disk.fail, disk.full = nil, nil
	if err := j.wal.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if got := files(disk); len(got) != 2 || disk.dirs["/j"].now["log-0"] != nil {
		t.Fatal(got)
	}
	disk.cutAs(0)
	if e := only(t, open(t, o)); content(t, e) != "abc" {
		t.Fatalf("%+v", e.Record())
	}
}
