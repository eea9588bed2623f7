package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// The data that is handed over is durable, although only the log had it.
func TestTakenDataIsDurable(t *testing.T) {
	disk, _, j := loggedJournal(t, 128<<10)
	disk.Mkdir("/cache", 0)
	e := create(t, j, "abc")
	seal(t, e)
	if err := e.Update(func(r *Record) { r.State = Safe }); err != nil {
		t.Fatal(err)
	}
	if err := e.TakeData(func(path string) error {
		if err := disk.Rename(path, "/cache/x"); err != nil {
			return err
		}
		return syncDir(disk, "/cache")
	}); err != nil {
		t.Fatal(err)
	}
	disk.cutAs(0)
	if in := disk.dirs["/cache"].now["x"]; in == nil || string(in.now) != "abc" {
		t.Fatalf("%+v", in)
	}
}

// A state that is noted while the seal before it was not synced never counts without it.
func TestStateNeedsItsContent(t *testing.T) {
	long := strings.Repeat("x", 3000)
	for seed := range uint64(100) {
		disk := newCrashFS(rand.New(rand.NewPCG(seed, 3)))
		o := testOptions("/j")
		o.FS, o.manualLog, o.logSize = disk, true, 128<<10
		j := open(t, o)
		e := create(t, j, "abc")
		seal(t, e)
		if err := j.wal.checkpoint(); err != nil {
			t.Fatal(err)
		}
		write(t, e, long, 3)
		if _, err := e.SealLazy(); err != nil {
			t.Fatal(err)
		}
		disk.fail = func(op, name string) error {
			if op == "fdatasync" {
				disk.off = true
				return errPower
			}
			return nil
		}
		if err := e.Update(func(r *Record) { r.State = Uploaded }); !errors.Is(err, errPower) {
			t.Fatal(err)
		}
		disk.fail = nil
		disk.cutAs(2)
		e = only(t, open(t, o))
		if err := e.Verify(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got := content(t, e); got != "abc" && got != "abc"+long {
			t.Fatalf("seed %d: %d bytes", seed, len(got))
		}
	}
}

// A replay that is cut short at any of its system calls is done again, with both segments in
// use: one has what the other removed or replaced.
func TestReplayCutShort(t *testing.T) {
	build := func() (*crashFS, Options, string) {
		disk, o, j := loggedJournal(t, 96<<10)
		gone, a, b := create(t, j, "gone"), create(t, j, "a1"), create(t, j, "b")
		for _, e := range []*Entry{gone, a, b} {
			seal(t, e)
		}
		j.wal.mu.Lock()
		j.wal.rotateLocked()
		j.wal.mu.Unlock()
		if err := gone.Remove(); err != nil {
			t.Fatal(err)
		}
		write(t, a, "a2", 2)
		seal(t, a)
		if err := b.Update(func(r *Record) { r.Base = "b2" }); err != nil {
			t.Fatal(err)
		}
		return disk, o, gone.ID()
	}
	for mode := range 4 { // 3: killed
		for at := 1; ; at++ {
			disk, o, gone := build()
			disk.cutAs(0)
			if mode > 0 {
				disk.rnd = rand.New(rand.NewPCG(uint64(at), uint64(mode)))
			}
			disk.offAt = at
			j, err := Open(o)
			done := err == nil
			if done {
				crash(t, j)
			} else if !errors.Is(err, errPower) {
				t.Fatal(err)
			}
			if mode == 3 {
				disk.kill()
			} else {
				disk.cutAs(mode)
			}
			j = open(t, o)
			if _, ok := j.Entry(gone); ok {
				t.Fatalf("mode %d, operation %d: what was removed is back", mode, at)
			}
			var got []string
			for _, e := range j.Entries() {
				if err := e.Verify(); err != nil {
					t.Fatalf("mode %d, operation %d: %v", mode, at, err)
				}
				got = append(got, content(t, e)+e.Record().Base)
			}
			if fmt.Sprint(got) != "[bb2 a1a2]" {
				t.Fatalf("mode %d, operation %d: %q", mode, at, got)
			}
			if done {
				break
			}
		}
	}
}

// A seal whose content did not reach the log counts when the data file has it, and then it
// is durable before anything says so.
func TestTornContent(t *testing.T) {
	for n := 1; ; n++ {
		at := (n + 31) / 32 // each with several ways to lose what was not synced
		disk, o, j := loggedJournal(t, 96<<10)
		e := create(t, j, "")
		seal(t, e)
		write(t, e, strings.Repeat("x", 3000), 0)
		if _, err := e.SealLazy(); err != nil {
			t.Fatal(err)
		}
		in := disk.dirs["/j"].now["log-0"]
		at0 := strings.LastIndex(string(in.now), "xxx")
		in.change(writeTo([]byte("y"), int64(at0)))
		disk.kill()
		disk.offAt = at
		j, err := Open(o)
		done := err == nil
		disk.offAt = 0
		if done {
			if got := content(t, only(t, j)); len(got) != 3000 {
				t.Fatal(len(got))
			}
			crash(t, j)
		}
		disk.rnd = rand.New(rand.NewPCG(uint64(n), 9))
		disk.cutAs(2)
		e = only(t, open(t, o))
		if err := e.Verify(); err != nil {
			t.Fatalf("operation %d: %v", at, err)
		}
		if done {
			return
		}
	}
}
