package journal

import (
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lateOptions are of a journal where checksums come late from few bytes on.
func lateOptions(dir string, algs ...string) Options {
	return Options{Dir: dir, NewHash: newSums, Algs: algs, Log: slog.New(slog.DiscardHandler), late: 64 << 10, lateTime: time.Hour}
}

// sealedLate is a file that was written fast, and its content.
func sealedLate(t *testing.T, j *Journal) (*Entry, string) {
	t.Helper()
	s := noise(rand.New(rand.NewPCG(1, 2)), 300_000)
	e := create(t, j, "")
	for off := 0; off < len(s); off += 10_000 {
		write(t, e, s[off:off+10_000], int64(off))
	}
	r := seal(t, e)
	if !r.SumsLate || len(r.Sums) != 1 {
		t.Fatalf("not late: %v", r.Sums)
	}
	return e, s
}

func verified(t *testing.T, e *Entry, want string) {
	t.Helper()
	if err := e.Verify(); err != nil {
		t.Fatal(err)
	}
	if r := e.Record(); r.SumsLate || r.Damaged || r.State != Sealed || !maps.Equal(r.Sums, sumsOf(want)) {
		t.Fatalf("after Verify: %+v", r)
	}
}

// Seal waits for the quick checksums of a big file; Verify adds the others, and they are
// there after a crash too.
func TestSlowChecksumsComeWithVerify(t *testing.T) {
	j := open(t, lateOptions(t.TempDir(), allAlgs...))
	e, s := sealedLate(t, j)
	if got := e.Record().Sums; !maps.Equal(got, sumsOf(s, "adler32")) {
		t.Fatalf("quick ones: %v", got)
	}
	verified(t, e, s)
	j = open(t, crash(t, j))
	if r := only(t, j).Record(); r.SumsLate || !maps.Equal(r.Sums, sumsOf(s)) {
		t.Fatalf("after a crash: %+v", r)
	}
}

// A crash between the two leaves it to the next process, whatever that is configured for.
func TestSlowChecksumsAfterACrash(t *testing.T) {
	for _, algs := range [][]string{allAlgs, {"sha256"}} {
		j := open(t, lateOptions(t.TempDir(), allAlgs...))
		_, s := sealedLate(t, j)
		o := crash(t, j)
		o.Algs = algs
		e := only(t, open(t, o))
		if r := e.Record(); !r.SumsLate || r.State != Sealed {
			t.Fatalf("after a crash: %+v", r)
		}
		verified(t, e, s)
	}
}

// Without a quick one among the algorithms the journal has its own.
func TestOwnChecksumUntilTheSlowOnesCome(t *testing.T) {
	j := open(t, lateOptions(t.TempDir(), "sha256"))
	e, s := sealedLate(t, j)
	if got := e.Record().Sums[ownSum]; len(got) != 8 {
		t.Fatalf("own checksum: %v", e.Record().Sums)
	}
	flip(t, e.Path(), 123_456)
	if err := e.Verify(); !errors.Is(err, ErrDamaged) {
		t.Fatalf("rotten: %v", err)
	}
	flip(t, e.Path(), 123_456)
	if err := e.Verify(); err != nil {
		t.Fatal(err)
	}
	if r := e.Record(); r.Damaged || !maps.Equal(r.Sums, sumsOf(s, "sha256")) {
		t.Fatalf("after Verify: %+v", r)
	}
	if r := seal(t, create(t, j, "abc")); r.SumsLate || !maps.Equal(r.Sums, sumsOf("abc", "sha256")) {
		t.Fatalf("a small one: %+v", r)
	}
}

// What rots between Seal and Verify never gets the checksums of the rot, nor any further.
func TestRotBeforeTheSlowChecksums(t *testing.T) {
	j := open(t, lateOptions(t.TempDir(), allAlgs...))
	e, s := sealedLate(t, j)
	flip(t, e.Path(), 123_456)
	for range 2 { // also after a restart
		if err := e.Verify(); !errors.Is(err, ErrDamaged) {
			t.Fatalf("rotten: %v", err)
		}
		if r := e.Record(); !r.Damaged || !r.SumsLate || !maps.Equal(r.Sums, sumsOf(s, "adler32")) {
			t.Fatalf("rotten: %+v", r)
		}
		if err := e.Update(func(r *Record) { r.State = Uploaded }); !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
		j = open(t, crash(t, j))
		e = only(t, j)
	}
	flip(t, e.Path(), 123_456)
	verified(t, e, s)
}

// No state after SEALED without all checksums, and no caller sets them.
func TestNothingGoesOnWithoutTheSlowChecksums(t *testing.T) {
	j := open(t, lateOptions(t.TempDir(), allAlgs...))
	e, s := sealedLate(t, j)
	for _, state := range []State{Uploaded, Registered, Safe} {
		if err := e.Update(func(r *Record) { r.State, r.SumsLate, r.Sums = state, false, sumsOf(s) }); !errors.Is(err, ErrNotVerified) {
			t.Fatalf("to %s: %v", state, err)
		}
	}
	if err := e.Update(func(r *Record) { r.SumsLate, r.Path = false, []byte("/b") }); err != nil || !e.Record().SumsLate {
		t.Fatal(err, e.Record())
	}
	verified(t, e, s)
	if err := e.Update(func(r *Record) { r.State = Uploaded }); err != nil {
		t.Fatal(err)
	}
}

// A sealed file that is written to again is late again, however it was changed.
func TestSlowChecksumsOfAChangedFile(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *Entry, string) string{
		"appended":    func(t *testing.T, e *Entry, s string) string { write(t, e, "abc", int64(len(s))); return s + "abc" },
		"overwritten": func(t *testing.T, e *Entry, s string) string { write(t, e, "abc", 0); return "abc" + s[3:] },
	} {
		for _, first := range []bool{false, true} { // Verify before the change
			t.Run(name, func(t *testing.T) {
				j := open(t, lateOptions(t.TempDir(), allAlgs...))
				e, s := sealedLate(t, j)
				if first {
					verified(t, e, s)
				}
				s = change(t, e, s)
				if err := e.Verify(); !errors.Is(err, ErrWriting) {
					t.Fatal(err)
				}
				if r := seal(t, e); !r.SumsLate || !maps.Equal(r.Sums, sumsOf(s, "adler32")) {
					t.Fatalf("%+v", r)
				}
				verified(t, e, s)
				if err := e.Truncate(10_000); err != nil {
					t.Fatal(err)
				}
				if r := seal(t, e); r.SumsLate || !maps.Equal(r.Sums, sumsOf(s[:10_000])) {
					t.Fatalf("cut to a small one: %+v", r)
				}
			})
		}
	}
}

// caughtUp waits for the follower.
func (r *runningHash) caughtUp() {
	for {
		r.mu.Lock()
		run := r.run
		r.mu.Unlock()
		if run == nil {
			return
		}
		<-run.ended
	}
}

// Who writes more slowly than they are computed has them all at the Seal, as has who asks
// for it.
func TestNoSlowChecksumIsLateForASlowWriter(t *testing.T) {
	slow := lateOptions(t.TempDir(), allAlgs...)
	slow.late, slow.lateTime = 1<<20, 0
	asked := lateOptions(t.TempDir(), allAlgs...)
	asked.AllSums = true
	for _, o := range []Options{slow, asked} {
		e := create(t, open(t, o), "")
		s := noise(rand.New(rand.NewPCG(1, 2)), 5_000_000)
		for off := 0; off < len(s); off += 500_000 {
			write(t, e, s[off:off+500_000], int64(off))
			e.hash.caughtUp()
		}
		if r := seal(t, e); r.SumsLate || !maps.Equal(r.Sums, sumsOf(s)) {
			t.Fatalf("%+v", r)
		}
	}
}

// What a crash left synced and unsealed is sealed by Verify, with all checksums.
func TestVerifySealsABigFileWithAllChecksums(t *testing.T) {
	j := open(t, lateOptions(t.TempDir(), allAlgs...))
	e := create(t, j, "")
	s := noise(rand.New(rand.NewPCG(1, 2)), 300_000)
	write(t, e, s, 0)
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	verified(t, only(t, open(t, crash(t, j))), s)
}

// shortDisk writes half of a block and fails, once half is set; it counts what is read back.
type shortDisk struct {
	osFS
	half atomic.Bool
	read atomic.Int64
}

func (s *shortDisk) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := s.osFS.OpenFile(name, flag, perm)
	if err != nil || !strings.HasSuffix(name, ".data") {
		return f, err
	}
	return shortFile{f, s}, nil
}

type shortFile struct {
	File
	disk *shortDisk
}

func (f shortFile) ReadAt(p []byte, off int64) (int, error) {
	f.disk.read.Add(int64(len(p)))
	return f.File.ReadAt(p, off)
}

func (f shortFile) WriteAt(p []byte, off int64) (int, error) {
	if !f.disk.half.CompareAndSwap(true, false) {
		return f.File.WriteAt(p, off)
	}
	n, err := f.File.WriteAt(p[:len(p)/2], off)
	return n, errors.Join(err, unix.ENOSPC)
}

// The blocks of a fast writer are hashed while they are written, and the rests that the
// kernel cuts off them too. What was hashed and did not get written does not count.
func TestHashedWhileWritten(t *testing.T) {
	for _, fails := range []bool{false, true} {
		disk := &shortDisk{}
		o := lateOptions(t.TempDir(), allAlgs...)
		o.FS = disk
		j := open(t, o)
		s := noise(rand.New(rand.NewPCG(3, 4)), 4<<20)
		e := create(t, j, "")
		for off, k := 0, 0; off < len(s); k++ {
			p := s[off:min(len(s), off+[]int{300_000, 3_000}[k%2])]
			disk.half.Store(fails && k == 10)
			n, err := e.WriteAt([]byte(p), int64(off))
			if (err != nil) != (fails && k == 10) {
				t.Fatal(k, n, err)
			}
			off += n
		}
		r := seal(t, e)
		if want := sumsOf(s, "adler32"); !r.SumsLate || !maps.Equal(r.Sums, want) {
			t.Fatalf("fails %t: sums %v, want %v", fails, r.Sums, want)
		}
		if read := disk.read.Load(); !fails && read > 2<<20 || fails && read < int64(len(s)) {
			t.Errorf("fails %t: %d bytes were read back for the checksum of %d", fails, read, len(s))
		}
		verified(t, e, s)
	}
}
