package journal

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// SealLazy: nothing is synced, kill -9 loses nothing, a Sync or an Update makes it durable.
func TestSealLazy(t *testing.T) {
	for _, c := range []struct {
		name  string
		then  func(*Entry) error
		after func(*crashFS)
		found bool
	}{
		{"kill", nil, (*crashFS).kill, true},
		{"power cut", nil, func(d *crashFS) { d.cutAs(0) }, false},
		{"sync", (*Entry).Sync, func(d *crashFS) { d.cutAs(0) }, true},
		{"seal", func(e *Entry) error { _, err := e.Seal(); return err }, func(d *crashFS) { d.cutAs(0) }, true},
		{"update", func(e *Entry) error { return e.Update(func(r *Record) { r.Mode = 1 }) }, func(d *crashFS) { d.cutAs(0) }, true},
		{"checkpoint", func(e *Entry) error { return e.j.wal.checkpoint() }, func(d *crashFS) { d.cutAs(0) }, true},
		{"interval", func(e *Entry) error { return e.j.wal.sync() }, func(d *crashFS) { d.cutAs(0) }, true},
		{"close", func(e *Entry) error { return e.j.Close() }, func(d *crashFS) { d.cutAs(0) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk, o, j := loggedJournal(t, 128<<10)
			e := create(t, j, "abc")
			m := counted(disk)
			if _, err := e.SealLazy(); err != nil {
				t.Fatal(err)
			}
			for k := range m {
				if strings.Contains(k, "sync") {
					t.Fatal(m)
				}
			}
			disk.fail = nil
			if c.then != nil {
				if err := c.then(e); err != nil {
					t.Fatal(err)
				}
			}
			c.after(disk)
			j = open(t, o)
			if !c.found {
				if len(j.Entries()) != 0 {
					t.Fatal("found: the model is wrong")
				}
				return
			}
			if e := only(t, j); e.State() != Sealed || content(t, e) != "abc" || e.Verify() != nil {
				t.Fatalf("%+v", e.Record())
			}
		})
	}
}

// The interval does it by itself.
func TestSealLazyIsSyncedSoon(t *testing.T) {
	o := testOptions(t.TempDir())
	o.logSize, o.SyncEvery = 512<<10, time.Millisecond
	j := open(t, o)
	defer j.Close()
	if err := j.wal.make(); err != nil {
		t.Fatal(err)
	}
	synced := make(chan struct{}, 10)
	do := j.wal.group.do
	j.wal.group.do = func() error { defer func() { synced <- struct{}{} }(); return do() }
	if _, err := create(t, j, "abc").SealLazy(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-synced:
	case <-time.After(30 * time.Second):
		t.Fatal("not synced")
	}
}

// A seal that comes while a checkpoint frees what an earlier one is in waits for the next sync
// of the log; until then the earlier one must be found.
func TestLazySealDuringCheckpoint(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	list := []*Entry{create(t, j, "aaa"), create(t, j, "bbb")}
	for _, e := range list {
		seal(t, e)
	}
	var once sync.Once
	slow := &slowSync{crashFS: disk, at: func() {
		once.Do(func() {
			for _, e := range list {
				if !e.op.TryLock() {
					continue // it is the one that is being synced
				}
				e.op.Unlock()
				write(t, e, "+", 3)
				if _, err := e.SealLazy(); err != nil {
					t.Error(err)
				}
			}
		})
	}}
	j.fs, j.files.fs = slow, slow
	if err := j.wal.checkpoint(); err != nil {
		t.Fatal(err)
	}
	disk.cutAs(0)
	j = open(t, o)
	if len(j.Entries()) != 2 {
		t.Fatalf("%d entries of 2 sealed ones", len(j.Entries()))
	}
	for _, e := range j.Entries() {
		if e.State() != Sealed {
			t.Errorf("%s is %s", e.ID(), e.State())
		}
		if err := e.Verify(); err != nil {
			t.Error(err)
		}
		if got := content(t, e); len(got) < 3 || len(got) > 4 {
			t.Errorf("content %q", got)
		}
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

// After a sync of the log that failed no later one proves anything: what came while it ran stays
// in memory until it is durable without the log.
func TestLazyResidentBesideAFailedSync(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	lazily := func(text string) {
		if _, err := create(t, j, text).SealLazy(); err != nil {
			t.Fatal(err)
		}
	}
	lazily("aaa")
	disk.fail = failing("fdatasync", "/log-0", 1, unix.EIO)
	if _, err := j.wal.group.sync(); !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	lazily("bbb") // nobody has taken note of the failure yet
	if err := j.wal.sync(); !errors.Is(err, unix.EIO) {
		t.Fatal("synced after a failed sync:", err)
	}
	if n := j.resident.Load(); n != 6 {
		t.Fatalf("%d bytes in memory", n)
	}
	if err := j.wal.checkpoint(); err != nil { // the end of the log
		t.Fatal(err)
	}
	disk.cutAs(0)
	j = open(t, o)
	if len(j.Entries()) != 2 {
		t.Fatalf("%d entries", len(j.Entries()))
	}
	for _, e := range j.Entries() {
		if err := e.Verify(); err != nil {
			t.Error(err)
		}
	}
}
