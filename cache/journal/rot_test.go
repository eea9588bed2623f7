package journal

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// rot flips a bit of the content, wherever the log has it.
func rot(t *testing.T, disk *crashFS, content string) {
	t.Helper()
	disk.mu.Lock()
	defer disk.mu.Unlock()
	n := 0
	for name, in := range disk.dirs["/j"].now {
		if !strings.HasPrefix(name, "log-") {
			continue
		}
		for _, b := range [][]byte{in.now, in.durable} {
			if i := bytes.Index(b, []byte(content)); i >= 0 {
				b[i+len(content)/2] ^= 1
				n++
			}
		}
	}
	if n == 0 {
		t.Fatalf("%q is not in the log", content)
	}
}

// What rots in the log is not given to a reader and does not get into a data file as if it
// were right, whoever finds it; what is left is kept, and the other files are none the worse.
func TestRotWhileOpen(t *testing.T) {
	const text = "what was sealed"
	for what, find := range map[string]func(e *Entry) error{
		"a read":            func(e *Entry) error { _, err := e.ReadAt(make([]byte, 100), 0); return err },
		"a read of a part":  func(e *Entry) error { _, err := e.ReadAt(make([]byte, 2), 1); return err },
		"the look":          func(e *Entry) error { return e.Verify() },
		"an append":         func(e *Entry) error { _, err := e.WriteAt([]byte("x"), e.Size()); return err },
		"a change":          func(e *Entry) error { _, err := e.WriteAt([]byte("x"), 0); return err },
		"a cut":             func(e *Entry) error { return e.Truncate(3) },
		"growing":           func(e *Entry) error { return e.Truncate(logContent + 1) },
		"the file":          func(e *Entry) error { return e.spillNow() },
		"the checkpoint":    func(e *Entry) error { return errors.Join(e.j.wal.checkpoint(), e.Verify()) },
		"the end":           func(e *Entry) error { return errors.Join(e.j.Close(), ErrDamaged) },
		"a big record":      func(e *Entry) error { return e.Update(func(r *Record) { r.Base = strings.Repeat("x", logContent) }) },
		"a seal that waits": func(e *Entry) error { e.j.wal.sync(); _, err := e.ReadAt(make([]byte, 1), 0); return err },
	} {
		disk, o, j := residentJournal(t, 256<<10)
		e, other := create(t, j, text), create(t, j, "something else")
		if strings.HasPrefix(what, "a seal") {
			if _, err := e.SealLazy(); err != nil {
				t.Fatal(err)
			}
			if err := j.wal.sync(); err != nil {
				t.Fatal(err)
			}
		}
		seal(t, e)
		seal(t, other)
		rot(t, disk, text)
		if err := find(e); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
		if what != "the end" {
			if b := make([]byte, 100); !e.Damaged() {
				n, err := e.ReadAt(b, 0)
				t.Errorf("%s: not damaged: %q, %v", what, b[:n], err)
			}
			if err := j.wal.checkpoint(); err != nil {
				t.Errorf("%s: checkpoint: %v", what, err)
			}
			if n := j.without.Load(); n != 0 {
				t.Errorf("%s: %d have no files", what, n)
			}
			if content(t, other) != "something else" || other.Verify() != nil {
				t.Errorf("%s: the other: %+v", what, other.Record())
			}
		}
		disk.cutAs(0)
		j = open(t, o)
		if len(j.Entries()) != 2 {
			t.Fatalf("%s: %d entries", what, len(j.Entries()))
		}
		for _, e := range j.Entries() {
			if rotten := e.Size() != int64(len("something else")); rotten != e.Damaged() || rotten != errors.Is(e.Verify(), ErrDamaged) {
				t.Errorf("%s: after a restart: %+v", what, e.Record())
			}
			if e.Damaged() && e.Size() == int64(len(text)) && len(content(t, e)) != len(text) {
				t.Errorf("%s: of the damaged one only %q is left", what, content(t, e))
			}
		}
	}
}

// A content that is emptied or written anew is good again.
func TestEmptyingHealsRot(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	e := create(t, j, "what was sealed")
	seal(t, e)
	rot(t, disk, "what was sealed")
	if err := e.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := e.WriteAt([]byte("anew"), 0); err != nil {
		t.Fatal(err)
	}
	seal(t, e)
	disk.cutAs(0)
	if e = only(t, open(t, o)); e.Damaged() || e.Verify() != nil || content(t, e) != "anew" {
		t.Fatalf("%+v", e.Record())
	}
}

// The cache does not get what has rotted.
func TestRotIsNotTaken(t *testing.T) {
	disk, _, j := residentJournal(t, 256<<10)
	e := create(t, j, "what was sealed")
	seal(t, e)
	if err := e.Update(func(r *Record) { r.State = Safe }); err != nil {
		t.Fatal(err)
	}
	rot(t, disk, "what was sealed")
	if err := e.TakeData(func(string) error { t.Error("it was given"); return nil }); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	if err := e.Remove(); err != nil || len(files(disk)) != 0 {
		t.Fatal(err, files(disk))
	}
}

// A disk that fails to read a content costs its readers EIO, and the checkpoint no more than
// that file.
func TestUnreadableInTheLog(t *testing.T) {
	disk, _, j := residentJournal(t, 256<<10)
	e := create(t, j, "what was sealed")
	seal(t, e)
	disk.fail = func(op, name string) error {
		if op == "read" && strings.HasPrefix(name, "/j/log-") {
			return unix.EIO
		}
		return nil
	}
	if _, err := e.ReadAt(make([]byte, 100), 0); !errors.Is(err, unix.EIO) || e.Damaged() {
		t.Fatal(err, e.Damaged()) // it may be read another time
	}
	if err := j.wal.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if !e.Damaged() || j.without.Load() != 0 {
		t.Fatal(e.Record(), j.without.Load())
	}
}

// A flipped bit in the log never gives wrong bytes for right ones, and costs nothing when the
// files are good.
func TestRotInTheLog(t *testing.T) {
	const was = "what was sealed"
	for _, lost := range []bool{false, true} { // the files did not reach the disk
		damaged := 0
		for bit := 0; bit < 8*(segStart+logUnit); bit += 7 {
			if bit/8%segCopy > 2000 {
				continue // padding
			}
			disk, o, j := loggedJournal(t, 32<<10)
			seal(t, create(t, j, was))
			in := disk.dirs["/j"].now["log-0"]
			in.durable[bit/8] ^= 1 << (bit % 8)
			in.now = bytes.Clone(in.durable)
			if lost {
				disk.cutAs(0)
			} else {
				disk.kill()
			}
			j = open(t, o)
			list := j.Entries()
			if len(list) == 0 || list[0].State() == Abandoned || list[0].Verify() != nil {
				damaged++
				if !lost && len(list) == 0 {
					t.Fatalf("bit %d: the file is lost", bit)
				}
				continue
			}
			if got := content(t, list[0]); got != was {
				t.Fatalf("bit %d: %q", bit, got)
			}
		}
		t.Logf("files lost %v: %d flips made a difference", lost, damaged)
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
