package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func crashJournal(t testing.TB) (*crashFS, *Journal) {
	t.Helper()
	disk := newCrashFS(rand.New(rand.NewPCG(1, 2)))
	o := testOptions("/j")
	o.FS = disk
	return disk, open(t, o)
}

// failing gives errno to the n-th operation of a kind on names with a suffix.
func failing(op, suffix string, n int, errno error) func(string, string) error {
	return func(o, name string) error {
		if o == op && strings.HasSuffix(name, suffix) {
			if n--; n == 0 {
				return errno
			}
		}
		return nil
	}
}

// The disk's error reaches the caller as it is, whatever call it hits.
func TestErrnoReachesCaller(t *testing.T) {
	prepare := func(t *testing.T, e *Entry) { // sealed, then appended to
		write(t, e, "abc", 0)
		seal(t, e)
		write(t, e, "def", 3)
	}
	for _, c := range []struct {
		op, suffix string
		call       func(*Entry) error
	}{
		{"open", ".rec", func(e *Entry) error { _, err := e.j.Create(Record{}); return err }},
		{"fallocate", ".rec", func(e *Entry) error { _, err := e.j.Create(Record{}); return err }},
		{"write", ".rec", func(e *Entry) error { _, err := e.j.Create(Record{}); return err }},
		{"open", ".data", func(e *Entry) error { _, err := e.j.Create(Record{}); return err }},
		{"write", ".data", func(e *Entry) error { _, err := e.WriteAt([]byte("x"), 6); return err }},
		{"write", ".rec", func(e *Entry) error { _, err := e.WriteAt([]byte("x"), 0); return err }},
		{"truncate", ".data", func(e *Entry) error { return e.Truncate(5) }},
		{"fallocate", ".data", func(e *Entry) error { return e.Allocate(0, 0, 100) }},
		{"read", ".data", func(e *Entry) error { _, err := e.ReadAt(make([]byte, 1), 0); return err }},
		{"lseek", ".data", func(e *Entry) error { _, err := e.SeekData(0); return err }},
		{"fstat", ".data", func(e *Entry) error { _, err := e.Seal(); return err }},
		{"write", ".rec", func(e *Entry) error { _, err := e.Seal(); return err }},
		{"open", ".rec", func(e *Entry) error { _, err := e.Seal(); return err }},
		{"write", ".rec", func(e *Entry) error { return e.Sync() }},
		{"write", ".rec", func(e *Entry) error { return e.Update(func(r *Record) { r.Mode++ }) }},
		{"write", ".rec", func(e *Entry) error { return e.UpdateLazy(func(r *Record) { r.Mode++ }) }},
		{"rename", ".rec", func(e *Entry) error { return e.Update(func(r *Record) { r.Base = strings.Repeat("x", 5000) }) }},
		{"fsync", ".new", func(e *Entry) error { return e.Update(func(r *Record) { r.Base = strings.Repeat("x", 5000) }) }},
		{"remove", ".rec", func(e *Entry) error { return e.Remove() }},
		{"rename", "/note", func(e *Entry) error { return e.j.PutIntent("note", nil) }},
		{"readdir", "intents", func(e *Entry) error { _, err := e.j.Intents(); return err }},
	} {
		for _, errno := range []error{unix.ENOSPC, unix.EIO, unix.EROFS, unix.EMFILE} {
			if errno == unix.EROFS && c.suffix == ".data" && c.op == "open" {
				continue // opened for reading instead
			}
			t.Run(fmt.Sprintf("%s %s %v", c.op, c.suffix, errno), func(t *testing.T) {
				disk, j := crashJournal(t)
				e := create(t, j, "")
				prepare(t, e)
				hits := 0
				disk.fail = func(op, name string) error {
					if op == c.op && strings.HasSuffix(name, c.suffix) {
						hits++
						return errno
					}
					return nil
				}
				err := c.call(e)
				optional := c.op == "fallocate" && c.suffix == ".rec" && errno != unix.ENOSPC
				if hits == 0 || (err == nil) != optional || (err != nil && !errors.Is(err, errno)) {
					t.Fatalf("%d hits, %v", hits, err)
				}
				disk.fail = nil

				// None of them is sticky: no sync has failed.
				if _, gone := j.Entry(e.ID()); !gone {
					t.Fatal("the entry is gone")
				}
				seal(t, e)
				if err := e.Verify(); err != nil {
					t.Fatal(err)
				}
				want := len(j.Entries())
				for name := range disk.dirs["/j"].now {
					if id, kind, _ := strings.Cut(name, "."); kind != "" {
						if _, ok := j.Entry(id); !ok || kind == "rec.new" {
							t.Errorf("left behind: %s (%d entries)", name, want)
						}
					}
				}
			})
		}
	}
}

// A failed sync is an error for this file for ever, also when the next would succeed; the
// others are not touched. After a restart the file is there, and not uploaded.
func TestSyncErrorIsSticky(t *testing.T) {
	type call struct {
		name string
		do   func(*Entry) error
	}
	sync := call{"sync", (*Entry).Sync}
	sealing := call{"seal", func(e *Entry) error { _, err := e.Seal(); return err }}
	for _, c := range []struct{ op, suffix string }{{"fdatasync", ".data"}, {"fdatasync", ".rec"}, {"fsync", "/j"}} {
		for _, first := range []call{sync, sealing} {
			t.Run(c.op+c.suffix+" in "+first.name, func(t *testing.T) {
				disk, j := crashJournal(t)
				before, e := create(t, j, "before"), create(t, j, "abc")
				seal(t, before)
				disk.fail = failing(c.op, c.suffix, 1, unix.EIO)
				if err := first.do(e); !errors.Is(err, unix.EIO) {
					t.Fatal(err)
				}
				disk.fail = nil
				for range 2 {
					for _, again := range []call{sync, sealing} {
						if err := again.do(e); !errors.Is(err, unix.EIO) {
							t.Fatalf("then %s: %v", again.name, err)
						}
					}
				}
				if err := e.Verify(); err == nil {
					t.Fatal("verified")
				}
				if got := content(t, e); got != "abc" {
					t.Fatal(got)
				}
				after := create(t, j, "after")
				seal(t, after)
				seal(t, before)
				disk.cutAs(0)
				o := testOptions("/j")
				o.FS = disk
				j = open(t, o)
				for _, good := range []*Entry{before, after} {
					e, ok := j.Entry(good.ID())
					if !ok || e.Verify() != nil {
						t.Fatal("a file that had nothing to do with it is lost")
					}
				}
				if e, ok := j.Entry(e.ID()); ok && c.suffix == ".data" {
					if err := e.Verify(); err == nil || !e.Record().Damaged {
						t.Fatalf("%v %+v", err, e.Record())
					}
					if _, err := e.Seal(); err == nil {
						t.Fatal("sealed after a restart")
					}
				}
			})
		}
	}
}

// A failed sync of the record of a sealed entry says nothing about its content: the change
// is refused, tried again in a new file, and durable then.
func TestRecordSyncErrorOfSealed(t *testing.T) {
	for _, lazy := range []bool{false, true} {
		disk, j := crashJournal(t)
		e := create(t, j, "abc")
		seal(t, e)
		disk.fail = failing("fdatasync", ".rec", 1, unix.EIO)
		if lazy {
			if err := e.UpdateLazy(func(r *Record) { r.Mode = 0o600 }); err != nil {
				t.Fatal(err)
			}
			if _, err := e.Seal(); !errors.Is(err, unix.EIO) {
				t.Fatal(err)
			}
		} else if err := e.Update(func(r *Record) { r.Mode = 0o600 }); !errors.Is(err, unix.EIO) {
			t.Fatal(err)
		}
		disk.fail = failing("fsync", ".new", 1, unix.EIO)
		if _, err := e.Seal(); !errors.Is(err, unix.EIO) {
			t.Fatal("a sync that failed counts as done", err)
		}
		disk.fail = nil
		if err := e.Update(func(r *Record) { r.Mode = 0o640 }); err != nil {
			t.Fatal(err)
		}
		seal(t, e)
		if err := e.Verify(); err != nil {
			t.Fatal(err)
		}
		disk.cutAs(0)
		o := testOptions("/j")
		o.FS = disk
		e, ok := open(t, o).Entry(e.ID())
		if !ok || e.Verify() != nil || e.Record().Mode != 0o640 || content(t, e) != "abc" {
			t.Fatalf("lazy %v: %v %+v", lazy, ok, e.Record())
		}
	}
}

// An entry made before the folder's sync failed for another one must not be acknowledged
// by a later sync of the folder that succeeds.
func TestFolderSyncErrorHitsAllItsNames(t *testing.T) {
	disk, j := crashJournal(t)
	a, b := create(t, j, "a"), create(t, j, "b")
	disk.fail = failing("fsync", "/j", 1, unix.EIO)
	if _, err := a.Seal(); !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	if _, err := b.Seal(); !errors.Is(err, unix.EIO) {
		t.Fatalf("its name may be lost: %v", err)
	}
	seal(t, create(t, j, "c"))
}

// The error of a sync that came because too many files were open waits for the next Sync.
func TestSyncErrorAtEviction(t *testing.T) {
	disk := newCrashFS(rand.New(rand.NewPCG(1, 2)))
	o := testOptions("/j")
	o.FS, o.DirtyFiles = disk, 1
	j := open(t, o)
	a := create(t, j, "a")
	disk.fail = failing("fdatasync", a.ID()+".data", 1, unix.EIO)
	create(t, j, "b")
	create(t, j, "c")
	if n := j.files.count(); n > 1 {
		t.Fatal(n, "files are open")
	}
	disk.fail = nil
	if err := a.Sync(); !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
}

// A write that comes while the data is being synced is not taken for synced.
func TestWriteDuringSync(t *testing.T) {
	disk, j := crashJournal(t)
	e := create(t, j, "abc")
	var once sync.Once
	inSync := make(chan struct{})
	slow := &slowSync{crashFS: disk, at: func() { once.Do(func() { close(inSync); write(t, e, "X", 1) }) }}
	j.fs, j.files.fs = slow, slow
	j.files.drop(&e.data)
	e.data.file = nil // opened again through slow
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	<-inSync
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	disk.cutAs(0)
	o := testOptions("/j")
	o.FS = disk
	j = open(t, o)
	if got := content(t, j.Entries()[0]); got != "aXc" {
		t.Fatalf("%q", got)
	}
}

// slowSync lets something happen at the end of a sync of data.
type slowSync struct {
	*crashFS
	at func()
}

type slowFile struct {
	File
	at func()
}

func (s *slowSync) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := s.crashFS.OpenFile(name, flag, perm)
	if err == nil && filepath.Ext(name) == ".data" {
		return slowFile{f, s.at}, nil
	}
	return f, err
}

func (f slowFile) DataSync() error {
	err := f.File.DataSync()
	f.at()
	return err
}

// With no descriptors left the journal closes idle files, and has some held back for
// what close(2) needs.
func TestNoDescriptorsLeft(t *testing.T) {
	limit := &fdLimit{crashFS: newCrashFS(rand.New(rand.NewPCG(1, 2)))}
	limit.max.Store(1000)
	o := testOptions("/j")
	o.FS = limit
	j := open(t, o)
	var all []*Entry
	for range 20 {
		e := create(t, j, "abc")
		seal(t, e)
		all = append(all, e)
	}
	dirty := create(t, j, "dirty")
	limit.max.Store(limit.open.Load())
	seal(t, dirty)
	if n := limit.open.Load(); n > always+1 {
		t.Fatalf("%d still open", n)
	}
	limit.max.Store(1000)
	for _, e := range all[:3] {
		write(t, e, "x", 3)
	}
	dirty.Idle()
	limit.max.Store(limit.open.Load()) // nothing idle to shed, only what is held back
	for _, e := range all[:3] {
		seal(t, e)
	}
	for _, e := range all[:3] {
		write(t, e, "y", 4)
	}
	limit.max.Store(0)
	if _, err := j.Create(Record{}); !errors.Is(err, unix.EMFILE) {
		t.Fatal(err)
	}
	limit.max.Store(1000)
	seal(t, create(t, j, "works again"))
	for _, e := range all {
		e.Idle()
	}
	j.Close()
	if n := limit.open.Load(); n != 0 {
		t.Fatalf("%d open after Close", n)
	}
}

// What frees descriptors, for a close, may lose them to others in the same process: it waits for a moment, and tells it
// when they keep them.
func TestOthersTakeDescriptors(t *testing.T) {
	limit := &fdLimit{crashFS: newCrashFS(rand.New(rand.NewPCG(1, 2)))}
	limit.max.Store(1000)
	o := testOptions("/j")
	o.FS = limit
	j := open(t, o)
	defer j.Close()
	e := create(t, j, "abc")
	limit.max.Store(0)
	time.AfterFunc(othersTime/10, func() { limit.max.Store(1000) })
	if _, err := e.Seal(); err != nil {
		t.Errorf("close while others had all for a moment: %v", err)
	}
	e = create(t, j, "def")
	limit.max.Store(0)
	begun := time.Now()
	if _, err := e.Seal(); !errors.Is(err, unix.EMFILE) {
		t.Errorf("close while others keep all: %v, want EMFILE", err)
	}
	if d := time.Since(begun); d > 10*othersTime {
		t.Errorf("it took %v", d)
	}
	limit.max.Store(1000)
	seal(t, e)
}

// always is what is open without any entry: what is held back, two folders, and two
// segments of the log.
const always = spareFiles + 4

// fdLimit counts what is open and refuses more.
type fdLimit struct {
	*crashFS
	open, max atomic.Int64
}

type limitedFile struct {
	File
	l *fdLimit
}

func (l *fdLimit) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	if l.open.Add(1) > l.max.Load() {
		l.open.Add(-1)
		return nil, unix.EMFILE
	}
	f, err := l.crashFS.OpenFile(name, flag, perm)
	if err != nil {
		l.open.Add(-1)
		return nil, err
	}
	return limitedFile{f, l}, nil
}

func (f limitedFile) Close() error {
	f.l.open.Add(-1)
	return f.File.Close()
}

// However many entries there are, idle ones hold no more than the options say.
func TestDescriptorsAreBounded(t *testing.T) {
	limit := &fdLimit{crashFS: newCrashFS(rand.New(rand.NewPCG(1, 2)))}
	limit.max.Store(1000)
	o := testOptions("/j")
	o.FS, o.IdleFiles, o.DirtyFiles = limit, 5, 7
	j := open(t, o)
	var all []*Entry
	for i := range 100 {
		e := create(t, j, "abc")
		all = append(all, e)
		if i%2 == 0 {
			seal(t, e)
		}
		if n := limit.open.Load(); n > 5+7+always {
			t.Fatalf("%d open after %d entries", n, i)
		}
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 200 {
				e := all[(i*7+w*13)%len(all)]
				switch i % 4 {
				case 0:
					e.WriteAt([]byte("x"), int64(i))
				case 1:
					e.ReadAt(make([]byte, 3), 0)
				case 2:
					e.Seal()
				case 3:
					e.Idle()
				}
			}
		})
	}
	wg.Wait()
	j.wal.stop() // a checkpoint has more open while it runs
	more := max(0, int64(len(j.wal.segments()))-2)
	if n := limit.open.Load(); n > 5+7+always+more {
		t.Fatalf("%d open", n)
	}
	for _, e := range all {
		seal(t, e)
		if err := e.Verify(); err != nil {
			t.Fatal(err)
		}
	}
}
