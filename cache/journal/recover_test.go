package journal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRecover says for each state that a crash can leave what Open makes of it.
func TestRecover(t *testing.T) {
	ok := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	type want struct {
		state     State
		content   string
		recovered bool
		damaged   bool
		gone      bool   // no entry
		orphans   string // kinds of files found there
		verify    error
		after     State // after Verify
	}
	for _, c := range []struct {
		name  string
		leave func(*testing.T, *Entry) // before the crash, on an entry that holds "abc"
		spoil func(*testing.T, *Entry) // the files, after it
		want  want
	}{
		{name: "never synced", want: want{state: Abandoned, content: "abc", verify: ErrWriting, after: Abandoned}},
		{name: "synced", leave: func(t *testing.T, e *Entry) { ok(t, e.Sync()) },
			want: want{state: Writing, content: "abc", recovered: true, after: Sealed}},
		{name: "written to after a sync", leave: func(t *testing.T, e *Entry) { ok(t, e.Sync()); write(t, e, "d", 3) },
			want: want{state: Writing, content: "abcd", recovered: true, after: Sealed}},
		{name: "sealed", leave: func(t *testing.T, e *Entry) { seal(t, e) },
			want: want{state: Sealed, content: "abc", after: Sealed}},
		{name: "further on", leave: func(t *testing.T, e *Entry) {
			seal(t, e)
			ok(t, e.Update(func(r *Record) { r.State = Registered }))
		}, want: want{state: Registered, content: "abc", after: Registered}},
		{name: "appended to after a seal", leave: func(t *testing.T, e *Entry) { seal(t, e); write(t, e, "tail", 3) },
			want: want{state: Sealed, content: "abc", orphans: "tail txt", after: Sealed}},
		{name: "appended to and updated", leave: func(t *testing.T, e *Entry) {
			seal(t, e)
			write(t, e, "tail", 3)
			ok(t, e.Update(func(r *Record) { r.Mode = 0o600 }))
		}, want: want{state: Sealed, content: "abc", orphans: "tail txt", after: Sealed}},
		{name: "appended to and synced", leave: func(t *testing.T, e *Entry) { seal(t, e); write(t, e, "tail", 3); ok(t, e.Sync()) },
			want: want{state: Writing, content: "abctail", recovered: true, after: Sealed}},
		{name: "changed in place after a seal", leave: func(t *testing.T, e *Entry) { seal(t, e); write(t, e, "X", 1) },
			want: want{state: Writing, content: "aXc", recovered: true, after: Sealed}},
		{name: "cut after a seal", leave: func(t *testing.T, e *Entry) { seal(t, e); ok(t, e.Truncate(1)) },
			want: want{state: Writing, content: "a", recovered: true, after: Sealed}},
		{name: "sealed twice", leave: func(t *testing.T, e *Entry) { seal(t, e); write(t, e, "X", 1); seal(t, e) },
			want: want{state: Sealed, content: "aXc", after: Sealed}},
		{name: "rotted", leave: func(t *testing.T, e *Entry) { seal(t, e) },
			spoil: func(t *testing.T, e *Entry) { flip(t, e.Path(), 1) },
			want:  want{state: Sealed, content: "a\"c", verify: ErrDamaged, after: Sealed}},
		{name: "cut by somebody else", leave: func(t *testing.T, e *Entry) { seal(t, e) },
			spoil: func(t *testing.T, e *Entry) { ok(t, os.Truncate(e.Path(), 2)) },
			want:  want{state: Sealed, content: "ab", damaged: true, verify: ErrDamaged, after: Sealed}},
		{name: "data gone", leave: func(t *testing.T, e *Entry) { seal(t, e) },
			spoil: func(t *testing.T, e *Entry) { ok(t, os.Remove(e.Path())) },
			want:  want{state: Sealed, damaged: true, verify: ErrDamaged, after: Sealed}},
		{name: "data gone after a sync", leave: func(t *testing.T, e *Entry) { ok(t, e.Sync()) },
			spoil: func(t *testing.T, e *Entry) { ok(t, os.Remove(e.Path())) },
			want:  want{state: Writing, damaged: true, verify: ErrDamaged, after: Writing}},
		{name: "data gone and nothing promised", spoil: func(t *testing.T, e *Entry) { ok(t, os.Remove(e.Path())) },
			want: want{gone: true}},
		{name: "taken by the cache", leave: func(t *testing.T, e *Entry) {
			seal(t, e)
			ok(t, e.Update(func(r *Record) { r.State = Safe }))
		}, spoil: func(t *testing.T, e *Entry) { ok(t, os.Remove(e.Path())) }, want: want{gone: true}},
		{name: "record gone", leave: func(t *testing.T, e *Entry) { seal(t, e) },
			spoil: func(t *testing.T, e *Entry) { ok(t, os.Remove(e.recPath())) },
			want:  want{gone: true, orphans: "data txt"}},
		{name: "record gone of an empty file", leave: func(t *testing.T, e *Entry) { ok(t, e.Truncate(0)) },
			spoil: func(t *testing.T, e *Entry) { ok(t, os.Remove(e.recPath())) }, want: want{gone: true}},
		{name: "newer slot bad", leave: func(t *testing.T, e *Entry) {
			seal(t, e)
			ok(t, e.Update(func(r *Record) { r.State = Uploaded }))
		}, spoil: func(t *testing.T, e *Entry) { flip(t, e.recPath(), 60) },
			want: want{state: Sealed, content: "abc", after: Sealed}},
		{name: "both slots bad", leave: func(t *testing.T, e *Entry) { seal(t, e) },
			spoil: func(t *testing.T, e *Entry) { flip(t, e.recPath(), 60); flip(t, e.recPath(), 4096+60) },
			want:  want{gone: true, orphans: "data rec txt"}},
		{name: "record of another entry", leave: func(t *testing.T, e *Entry) { seal(t, e) },
			spoil: func(t *testing.T, e *Entry) {
				other := create(t, e.j, "other")
				ok(t, other.Sync())
				b, err := os.ReadFile(other.recPath())
				ok(t, err)
				ok(t, other.Remove())
				ok(t, os.WriteFile(e.recPath(), b, 0o600))
			}, want: want{gone: true, orphans: "data rec txt"}},
		{name: "record never written", spoil: func(t *testing.T, e *Entry) {
			ok(t, os.Truncate(e.Path(), 0))
			ok(t, os.WriteFile(e.recPath(), make([]byte, 8192), 0o600))
		}, want: want{gone: true}},
		{name: "record cut", leave: func(t *testing.T, e *Entry) {
			seal(t, e)
			ok(t, e.Update(func(r *Record) { r.State = Uploaded }))
		}, spoil: func(t *testing.T, e *Entry) { ok(t, os.Truncate(e.recPath(), 4096)) },
			want: want{state: Uploaded, content: "abc", after: Uploaded}},
		{name: "new record not yet renamed", leave: func(t *testing.T, e *Entry) { seal(t, e) },
			spoil: func(t *testing.T, e *Entry) { ok(t, os.WriteFile(e.recPath()+".new", []byte("half"), 0o600)) },
			want:  want{state: Sealed, content: "abc", after: Sealed}},
		{name: "only the new record", leave: func(t *testing.T, e *Entry) { seal(t, e) },
			spoil: func(t *testing.T, e *Entry) { ok(t, os.Rename(e.recPath(), e.recPath()+".new")) },
			want:  want{state: Sealed, content: "abc", after: Sealed}},
		{name: "strange file", leave: func(t *testing.T, e *Entry) { seal(t, e) },
			spoil: func(t *testing.T, e *Entry) {
				ok(t, os.WriteFile(filepath.Join(e.j.dir, "README"), nil, 0o600))
				ok(t, os.WriteFile(filepath.Join(e.j.dir, e.id+".bak"), nil, 0o600))
			}, want: want{state: Sealed, content: "abc", after: Sealed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := open(t, testOptions(t.TempDir()))
			e := create(t, j, "abc")
			if c.leave != nil {
				c.leave(t, e)
			}
			if c.spoil != nil {
				c.spoil(t, e)
			}
			was := e.Record()
			// A second crash before anything was done must find the same.
			for range 2 {
				j = open(t, crash(t, j))
				var kinds []string
				files, _ := os.ReadDir(j.orphanDir())
				for _, f := range files {
					kinds = append(kinds, strings.TrimPrefix(filepath.Ext(f.Name()), "."))
				}
				if got := strings.Join(kinds, " "); got != c.want.orphans {
					t.Fatalf("orphans: %q", got)
				}
				if len(j.Entries()) == 0 || c.want.gone {
					if !c.want.gone || len(j.Entries()) != 0 {
						t.Fatalf("entries: %d", len(j.Entries()))
					}
					continue
				}
				e = j.Entries()[0]
				r := e.Record()
				if r.State != c.want.state || r.Recovered != c.want.recovered || r.Damaged != c.want.damaged || (r.Error != "") != r.Damaged {
					t.Fatalf("found as %+v", r)
				}
				if e.missing() {
					if _, err := e.ReadAt(make([]byte, 1), 0); err == nil || errors.Is(err, os.ErrNotExist) {
						t.Fatal(err)
					}
				} else if got := content(t, e); got != c.want.content {
					t.Fatalf("content %q", got)
				}
			}
			if c.want.gone {
				return
			}
			if err := e.Verify(); !errors.Is(err, c.want.verify) {
				t.Fatal(err)
			}
			r := e.Record()
			if r.State != c.want.after || r.Damaged != (c.want.verify == ErrDamaged) {
				t.Fatalf("after Verify: %+v", r)
			}
			if r.Damaged {
				_, err := e.Seal()
				if err := e.Update(func(r *Record) { r.State = Uploaded }); !errors.Is(err, ErrDamaged) {
					t.Fatal("a damaged entry moved on")
				}
				if !strings.HasPrefix(string(r.Path), "/ctao/") || (r.State.Open() && err == nil) {
					t.Fatalf("%v %+v", err, r)
				}
				return
			}
			if c.want.state == Abandoned {
				if r := seal(t, e); !r.Recovered {
					t.Fatalf("sealed by hand: %+v", r)
				}
			}
			if r.State == was.State && r.Seq != was.Seq && r.State == c.want.state {
				t.Fatalf("Seq was %d, is %d", was.Seq, r.Seq)
			}
			// Life goes on.
			write(t, e, "!", e.Size())
			r = seal(t, e)
			j = open(t, crash(t, j))
			if again := j.Entries()[0].Record(); again.Seq != r.Seq || again.State != Sealed {
				t.Fatalf("sealed as %+v, found as %+v", r, again)
			}
		})
	}
}

// A good file that was thought damaged (a disk that was not mounted) is good again.
func TestDamageHeals(t *testing.T) {
	j := open(t, testOptions(t.TempDir()))
	e := create(t, j, "abc")
	seal(t, e)
	flip(t, e.Path(), 1)
	if err := e.Verify(); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	j = open(t, crash(t, j))
	e = j.Entries()[0]
	if r := e.Record(); !r.Damaged || !strings.Contains(r.Error, "adler32") {
		t.Fatalf("%+v", r)
	}
	flip(t, e.Path(), 1)
	if err := e.Verify(); err != nil || e.Record().Damaged || e.Record().Error != "" {
		t.Fatal(err, e.Record())
	}
	flip(t, e.Path(), 1)
	if err := e.Verify(); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	write(t, e, "d", 3)
	if _, err := e.Seal(); !errors.Is(err, ErrDamaged) {
		t.Fatal("a write to a damaged file has made it good:", err)
	}
	if err := e.Truncate(0); err != nil {
		t.Fatal(err)
	}
	write(t, e, "new", 0)
	if r := seal(t, e); r.Damaged || r.Error != "" {
		t.Fatalf("%+v", r)
	}
}

// What was appended and is too much to be copied at start stays in the file.
func TestBigTailStays(t *testing.T) {
	j := open(t, testOptions(t.TempDir()))
	e := create(t, j, "abc")
	seal(t, e)
	write(t, e, "x", maxTail+3)
	j = open(t, crash(t, j))
	e = j.Entries()[0]
	if r := e.Record(); r.State != Writing || !r.Recovered || e.Size() != maxTail+4 {
		t.Fatalf("%d %+v", e.Size(), r)
	}
	if err := e.Verify(); err != nil || e.Record().Size != maxTail+4 {
		t.Fatal(err, e.Record())
	}
}

func TestLaterFormatIsRefused(t *testing.T) {
	j := open(t, testOptions(t.TempDir()))
	e := create(t, j, "abc")
	seal(t, e)
	b, _ := os.ReadFile(e.recPath())
	copy(b, withVersion(b[:4096], 2))
	os.WriteFile(e.recPath(), b, 0o600)
	o := crash(t, j)
	if _, err := Open(o); !errors.Is(err, ErrVersion) {
		t.Fatal(err)
	}
	if _, err := os.Stat(e.Path()); err != nil {
		t.Fatal(err)
	}
}

// Recovery tells what it does, with names that cannot forge lines of the log.
func TestRecoveryIsLogged(t *testing.T) {
	var log bytes.Buffer
	o := testOptions(t.TempDir())
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	j := open(t, o)
	e, err := j.Create(Record{Path: []byte("a\nlevel=FATAL")})
	if err != nil {
		t.Fatal(err)
	}
	write(t, e, "abc", 0)
	seal(t, e)
	os.Truncate(e.Path(), 1)
	open(t, crash(t, j))
	if s := log.String(); !strings.Contains(s, "damaged") || !strings.Contains(s, e.ID()) || strings.Contains(s, "\nlevel=FATAL") {
		t.Fatal(s)
	}
}

// The order of sealing survives restarts, and goes on.
func TestEntriesOrder(t *testing.T) {
	j := open(t, testOptions(t.TempDir()))
	var list []*Entry
	for i := range 5 {
		list = append(list, create(t, j, fmt.Sprint(i)))
	}
	for _, i := range []int{3, 1, 4} {
		seal(t, list[i])
	}
	check := func(want string) {
		t.Helper()
		var got string
		for _, e := range j.Entries() {
			got += content(t, e)
		}
		if got != want {
			t.Fatalf("order %s, want %s", got, want)
		}
	}
	check("02314")
	j = open(t, crash(t, j))
	check("02314")
	for _, e := range j.Entries()[:1] {
		seal(t, e)
	}
	check("23140")
}

func cpuTime() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestManyEntries: 10^4 pending files are found again in less than 2 s, without
// holding descriptors.
func TestManyEntries(t *testing.T) {
	n := 10_000
	if testing.Short() || raceDetector {
		n = 1000
	}
	dir := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "journal"); err == nil { // making them is not what is measured
		t.Cleanup(func() { os.RemoveAll(shm) })
		dir = shm
	}
	j := open(t, testOptions(dir))
	for i := range n {
		e, err := j.Create(Record{Path: fmt.Appendf(nil, "/ctao/%d", i)})
		if err == nil {
			_, err = e.WriteAt([]byte("x"), 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		// As sealed, without the disk's time for 10^4 syncs.
		st := e.snapshot()
		st.State, st.Size, st.Seq, st.Sums = Sealed, 1, uint64(i+1), sumsOf("x")
		if err := e.writeRecord(st, false); err != nil {
			t.Fatal(err)
		}
	}
	o := crash(t, j)
	start, cpu := time.Now(), cpuTime()
	j = open(t, o)
	took := cpuTime() - cpu // what other processes take is not counted
	t.Logf("%d entries found in %v, %v of processors", n, time.Since(start), took)
	if files, bytes := j.Usage(); files != n || bytes != int64(n) {
		t.Fatal(files, bytes)
	}
	if took > 2*time.Second && !raceDetector {
		t.Errorf("it took %v", took)
	}
	if open := j.files.count(); open != 0 {
		t.Errorf("%d files are open", open)
	}
	if err := j.Entries()[n-1].Verify(); err != nil {
		t.Error(err)
	}
}
