package journal

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// testOptions are of a journal whose entries have files from the start, at which most tests look.
func testOptions(dir string) Options {
	return Options{Dir: dir, withFiles: true, NewHash: newSums, Log: slog.New(slog.DiscardHandler)}
}

func open(t testing.TB, o Options) *Journal {
	t.Helper()
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// crash gives the folder to the next Open as a killed process would leave it.
func crash(t testing.TB, j *Journal) Options {
	t.Helper()
	j.files.close()
	if err := j.closeAll(); err != nil {
		t.Fatal(err)
	}
	return Options{Dir: j.dir, NewHash: newSums, Algs: j.algs, Log: j.log, Now: j.now, FS: j.fs, late: j.late, lateTime: j.lateTime}
}

func create(t testing.TB, j *Journal, content string) *Entry {
	t.Helper()
	e, err := j.Create(Record{Path: []byte("/ctao/" + t.Name())})
	if err == nil && content != "" {
		_, err = e.WriteAt([]byte(content), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func seal(t testing.TB, e *Entry) Record {
	t.Helper()
	r, err := e.Seal()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func content(t testing.TB, e *Entry) string {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(e, 0, e.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func sumsOf(s string, algs ...string) map[string]string {
	h := newSums(algs...)
	io.WriteString(h, s)
	return h.Sums()
}

func write(t testing.TB, e *Entry, s string, off int64) {
	t.Helper()
	if n, err := e.WriteAt([]byte(s), off); err != nil || n != len(s) {
		t.Fatal(n, err)
	}
}

// Whatever the order of the changes, Seal gives the checksums of the content, and reads
// the file only when it must.
func TestSealSums(t *testing.T) {
	type step func(*testing.T, *Entry)
	w := func(s string, off int64) step { return func(t *testing.T, e *Entry) { write(t, e, s, off) } }
	ok := func(f func(*Entry) error) step {
		return func(t *testing.T, e *Entry) {
			if err := f(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	trunc := func(n int64) step { return ok(func(e *Entry) error { return e.Truncate(n) }) }
	alloc := func(mode uint32, off, n int64) step {
		return ok(func(e *Entry) error { return e.Allocate(mode, off, n) })
	}
	sealed := ok(func(e *Entry) error { _, err := e.Seal(); return err })
	const keep, punch, zero = unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE
	for _, c := range []struct {
		name  string
		steps []step
		want  string
		reads bool // Seal at the end has to read
	}{
		{"empty", nil, "", false},
		{"in order", []step{w("abc", 0), w("def", 3)}, "abcdef", false},
		{"in order over several seals", []step{w("abc", 0), sealed, w("def", 3), sealed, w("g", 6)}, "abcdefg", false},
		{"backwards", []step{w("def", 3), w("abc", 0)}, "abcdef", true},
		{"written over", []step{w("abc", 0), w("X", 1)}, "aXc", true},
		{"written over after a seal", []step{w("abc", 0), sealed, w("X", 1)}, "aXc", true},
		{"in order again after a read", []step{w("abc", 0), w("X", 1), sealed, w("d", 3)}, "aXcd", false},
		{"with a hole", []step{w("abc", 0), w("def", 5)}, "abc\x00\x00def", true},
		{"hole filled later", []step{w("abc", 0), w("fg", 5), w("de", 3)}, "abcdefg", true},
		{"overlapping", []step{w("abcd", 0), w("XY", 3)}, "abcXY", true},
		{"cut", []step{w("abcdef", 0), trunc(2)}, "ab", true},
		{"cut to nothing", []step{w("abcdef", 0), trunc(0), w("xy", 0)}, "xy", false},
		{"cut to nothing after a seal", []step{w("abcdef", 0), sealed, trunc(0), w("xy", 0)}, "xy", false},
		{"grown", []step{w("ab", 0), trunc(4)}, "ab\x00\x00", true},
		{"size known before", []step{trunc(4), w("abcd", 0)}, "abcd", false},
		{"blocks known before", []step{alloc(0, 0, 4), w("abcd", 0)}, "abcd", false},
		{"blocks beyond the end", []step{w("ab", 0), alloc(keep, 0, 1<<16)}, "ab", false},
		{"punched", []step{w("abcd", 0), alloc(punch|keep, 1, 2)}, "a\x00\x00d", true},
		{"punched after a seal", []step{w("abcd", 0), sealed, alloc(punch|keep, 1, 2)}, "a\x00\x00d", true},
		{"punched beyond the end", []step{w("ab", 0), alloc(punch|keep, 2, 9)}, "ab", false},
		{"zeroed and grown", []step{w("abcd", 0), alloc(zero, 2, 4)}, "ab\x00\x00\x00\x00", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := testOptions(t.TempDir())
			var reads countReads
			o.FS = &reads
			j := open(t, o)
			e := create(t, j, "")
			for _, s := range c.steps {
				s(t, e)
			}
			reads.n = 0
			r := seal(t, e)
			if (reads.n > 0) != c.reads {
				t.Errorf("Seal read %d times", reads.n)
			}
			if got := content(t, e); got != c.want || r.Size != int64(len(c.want)) {
				t.Errorf("content %q (%d), want %q", got, r.Size, c.want)
			}
			if !maps.Equal(r.Sums, sumsOf(c.want)) {
				t.Errorf("sums %v, want %v", r.Sums, sumsOf(c.want))
			}
			if err := e.Verify(); err != nil {
				t.Error(err)
			}
			if _, n := j.Usage(); n != int64(len(c.want)) {
				t.Errorf("usage %d", n)
			}
		})
	}
}

// countReads counts the reads of data files.
type countReads struct {
	osFS
	n int
}

type countedFile struct {
	File
	c *countReads
}

func (c *countReads) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := c.osFS.OpenFile(name, flag, perm)
	if err != nil || !strings.HasSuffix(name, ".data") {
		return f, err
	}
	return countedFile{f, c}, nil
}

func (f countedFile) ReadAt(p []byte, off int64) (int, error) {
	f.c.n++
	return f.File.ReadAt(p, off)
}

// Writers that race for the same bytes may leave either's, but never a checksum that is
// not the content's.
func TestSealSumsOfRacingWriters(t *testing.T) {
	j := open(t, testOptions(t.TempDir()))
	for round := range 50 {
		e := create(t, j, "")
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for off := int64(0); off < 40; off += 10 {
					e.WriteAt(bytes.Repeat([]byte{byte('a' + w)}, 12), off)
				}
				if w == 0 {
					e.Seal()
				}
			})
		}
		wg.Wait()
		r := seal(t, e)
		if !maps.Equal(r.Sums, sumsOf(content(t, e))) {
			t.Fatalf("round %d: sums are not those of %q", round, content(t, e))
		}
		if err := e.Verify(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInvalidArguments(t *testing.T) {
	j := open(t, testOptions(t.TempDir()))
	e := create(t, j, "abc")
	_, err := e.WriteAt([]byte("x"), -1)
	for what, c := range map[string]struct{ got, want error }{
		"write":            {err, unix.EINVAL},
		"truncate":         {e.Truncate(-1), unix.EINVAL},
		"allocate nothing": {e.Allocate(0, 0, 0), unix.EINVAL},
		"allocate before":  {e.Allocate(0, -1, 1), unix.EINVAL},
		"allocate beyond":  {e.Allocate(0, 1<<62, 1<<62), unix.EINVAL},
		"collapse":         {e.Allocate(unix.FALLOC_FL_COLLAPSE_RANGE, 0, 1), unix.EOPNOTSUPP},
		"copy from short":  {e.CopyFrom(strings.NewReader("ab"), 3), io.ErrUnexpectedEOF},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v", what, c.got)
		}
	}
}

func TestReadSeekBlocksCopy(t *testing.T) {
	j := open(t, testOptions(t.TempDir()))
	e := create(t, j, "")
	if err := e.CopyFrom(strings.NewReader("content"), 7); err != nil {
		t.Fatal(err)
	}
	if got := content(t, e); got != "content" {
		t.Fatal(got)
	}
	p := make([]byte, 10)
	if n, err := e.ReadAt(p, 3); n != 4 || err != io.EOF {
		t.Fatal(n, err)
	}
	if err := e.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if off, err := e.SeekData(0); off != 0 || err != nil {
		t.Fatal(off, err)
	}
	hole, err := e.SeekHole(0)
	if err != nil || hole < 7 || hole > 1<<20 {
		t.Fatal(hole, err)
	}
	if _, err := e.SeekData(1 << 21); !errors.Is(err, unix.ENXIO) {
		t.Fatal(err)
	}
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	if b := e.Blocks(); b < 1 || b >= 2048 {
		t.Fatal(b)
	}
	f, err := e.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, _ := f.ReadAt(p, 0); string(p[:min(n, 7)]) != "content" {
		t.Fatal(p)
	}
	if _, err := f.Write([]byte("x")); err == nil {
		t.Fatal("the file of an entry can be written past it")
	}
}

// What Update may do and may not.
func TestUpdateRules(t *testing.T) {
	j := open(t, testOptions(t.TempDir()))
	e := create(t, j, "abc")
	to := func(s State) error { return e.Update(func(r *Record) { r.State = s; r.Error = string(s) }) }
	if err := to(Sealed); !errors.Is(err, ErrWriting) || e.Record().Error != "" {
		t.Fatal(err, e.Record())
	}
	was := seal(t, e)
	if err := to(Writing); err == nil {
		t.Fatal("Update made it WRITING")
	}
	err := e.Update(func(r *Record) {
		*r = Record{State: Uploaded, Path: []byte("new"), Copies: []Copy{{RSE: "A", PFN: "p", State: Uploaded}}, Meta: map[string]any{"k": "v"}}
	})
	if err != nil {
		t.Fatal(err)
	}
	r := e.Record()
	if r.ID != was.ID || r.Size != 3 || !maps.Equal(r.Sums, was.Sums) || r.Seq != was.Seq || r.Sealed != was.Sealed || r.Created != was.Created {
		t.Fatalf("Update changed what is the journal's: %+v", r)
	}
	if again := seal(t, e); again.Seq != was.Seq || again.State != Uploaded {
		t.Fatalf("Seal of an unchanged entry: %+v", again)
	}
	write(t, e, "d", 3)
	if r := e.Record(); r.State != Writing || r.Copies[0].State != Writing {
		t.Fatalf("after a write: %+v", r)
	}
	if err := to(Registered); !errors.Is(err, ErrWriting) {
		t.Fatal(err)
	}
	if err := e.Verify(); !errors.Is(err, ErrWriting) {
		t.Fatal(err)
	}
	if r := seal(t, e); r.Seq <= was.Seq || r.State != Sealed {
		t.Fatalf("sealed again: %+v", r)
	}
}

func TestUpdateOutgrowsSlot(t *testing.T) {
	j := open(t, testOptions(t.TempDir()))
	e := create(t, j, "abc")
	seal(t, e)
	long := strings.Repeat("x", 20000)
	for i := range 3 {
		if err := e.Update(func(r *Record) { r.Base = long; r.Attempts = i }); err != nil {
			t.Fatal(err)
		}
	}
	in, err := os.Stat(e.recPath())
	if err != nil || in.Size() < 40000 || in.Size()%8192 != 0 {
		t.Fatal(in.Size(), err)
	}
	if err := e.Update(func(r *Record) { r.Base = strings.Repeat("x", maxSlot) }); !errors.Is(err, ErrTooBig) {
		t.Fatal(err)
	}
	j = open(t, crash(t, j))
	e, _ = j.Entry(e.ID())
	if r := e.Record(); r.Base != long || r.Attempts != 2 || r.State != Sealed {
		t.Fatalf("%d %+v", len(r.Base), r.State)
	}
	if left, _ := filepath.Glob(filepath.Join(j.dir, "*.new")); left != nil {
		t.Fatal(left)
	}
}

func TestRemoveAndTake(t *testing.T) {
	dir := t.TempDir()
	j := open(t, testOptions(filepath.Join(dir, "j")))
	a, b := create(t, j, "abc"), create(t, j, "def")
	seal(t, b)
	move := func(path string) error { return os.Rename(path, filepath.Join(dir, "taken")) }
	if err := b.TakeData(move); !errors.Is(err, ErrNotSafe) {
		t.Fatal(err)
	}
	if err := b.UpdateLazy(func(r *Record) { r.State = Safe }); err != nil {
		t.Fatal(err)
	}
	full := errors.New("cache is full")
	if err := b.TakeData(func(string) error { return full }); !errors.Is(err, full) {
		t.Fatal(err)
	}
	if got := content(t, b); got != "def" {
		t.Fatal(got)
	}
	if err := b.TakeData(move); err != nil {
		t.Fatal(err)
	}
	if err := a.Remove(); err != nil {
		t.Fatal(err)
	}
	for _, e := range []*Entry{a, b} {
		_, werr := e.WriteAt([]byte("x"), 0)
		_, rerr := e.ReadAt(make([]byte, 1), 0)
		_, serr := e.Seal()
		_, ferr := e.File()
		for i, err := range []error{werr, rerr, serr, ferr, e.Sync(), e.Truncate(1), e.Remove(), e.Verify(), e.Update(func(*Record) {})} {
			if !errors.Is(err, ErrRemoved) {
				t.Errorf("%d: %v", i, err)
			}
		}
	}
	if n, bytes := j.Usage(); n != 0 || bytes != 0 {
		t.Fatal(n, bytes)
	}
	if left, _ := filepath.Glob(filepath.Join(j.dir, "*.*")); left != nil {
		t.Fatal(left)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "taken")); string(got) != "def" {
		t.Fatalf("%q", got)
	}
}

func TestClosedAndLocked(t *testing.T) {
	dir := t.TempDir()
	j := open(t, testOptions(dir))
	if _, err := Open(testOptions(dir)); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "process ") {
		t.Fatal(err)
	}
	e := create(t, j, "abc")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, werr := e.WriteAt([]byte("x"), 0)
	_, cerr := j.Create(Record{})
	_, ierr := j.Intents()
	for i, err := range []error{werr, cerr, ierr, e.Sync(), e.Remove(), e.Update(func(*Record) {}), j.PutIntent("a", nil)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
	open(t, testOptions(dir))
}

// A clock that stands still makes ids alike but for their random part.
func TestCreateWithIDThatIsThere(t *testing.T) {
	o := testOptions(t.TempDir())
	j := open(t, o)
	e := create(t, j, "abc")
	calls := 0
	again := &existing{fail: func(name string) bool { calls++; return calls <= 2 && filepath.Ext(name) == ".rec" }}
	j.fs, j.files.fs = again, again
	seal(t, create(t, j, "def"))
	again.fail = func(name string) bool { return filepath.Ext(name) == ".rec" }
	if _, err := j.Create(Record{}); !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	again.fail = func(string) bool { return false }
	seal(t, e)
}

// existing says that files to be created are there.
type existing struct {
	osFS
	fail func(string) bool
}

func (x *existing) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	if flag&os.O_EXCL != 0 && x.fail(name) {
		return nil, os.ErrExist
	}
	return x.osFS.OpenFile(name, flag, perm)
}

func TestFoldersArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	j := open(t, testOptions(dir))
	e := create(t, j, "x")
	for name, want := range map[string]os.FileMode{dir: 0o700, j.intentDir(): 0o700, j.orphanDir(): 0o700, e.Path(): 0o600, e.recPath(): 0o600} {
		if in, err := os.Stat(name); err != nil || in.Mode().Perm() != want {
			t.Errorf("%s: %v %v", name, in.Mode(), err)
		}
	}
}

// flip changes one byte of a file; a negative place counts from the end.
func flip(t testing.TB, name string, at int) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0x40
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
