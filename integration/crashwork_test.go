package integration

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wish is what may be seen of one name after a crash.
type wish struct {
	whole  [][]byte // one of these
	absent bool     // or nothing
	grown  []byte   // or a beginning of this, of at least min bytes
	min    int
	zeros  bool // beyond min there may be zeros, as a power cut leaves on a local disk
}

func is(b []byte) wish { return wish{whole: [][]byte{b}} }

func (w wish) allows(b []byte, there bool) bool {
	switch {
	case !there:
		return w.absent
	case slices.ContainsFunc(w.whole, func(x []byte) bool { return bytes.Equal(x, b) }):
		return true
	}
	if w.grown == nil || len(b) < w.min || len(b) > len(w.grown) || !bytes.Equal(b[:w.min], w.grown[:w.min]) {
		return false
	}
	for i := w.min; i < len(b); i++ {
		if b[i] != w.grown[i] && !(w.zeros && b[i] == 0) {
			return false
		}
	}
	return true
}

func (w wish) String() string {
	var s []string
	for _, x := range w.whole {
		s = append(s, fmt.Sprintf("%d bytes %.8x", len(x), x))
	}
	if w.absent {
		s = append(s, "absent")
	}
	if w.grown != nil {
		s = append(s, fmt.Sprintf("%d to %d bytes of %.8x", w.min, len(w.grown), w.grown))
	}
	return strings.Join(s, ", or ")
}

// worker changes files in a folder of its own and knows at each moment what a crash may leave.
type worker struct {
	dir  string
	rnd  *rand.Rand
	seed uint64
	want map[string]wish
	made int
	ops  int
	did  map[string][]string // what was done to each name, for the report
	// lost tells what must not be lost in a step that touches two names.
	lost func(got map[string][]byte) string
	// over, if any, tells that what returns now is too late to count: the power is off.
	over func() error
}

// late is err, or what ended the world before it came.
func (w *worker) late(err error) error {
	if err == nil && w.over != nil {
		return w.over()
	}
	return err
}

func newWorker(dir string, seed uint64) *worker {
	return &worker{dir: dir, seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), want: map[string]wish{}, did: map[string][]string{}}
}

// note keeps what is done to a name.
func (w *worker) note(name, format string, args ...any) {
	w.did[name] = append(w.did[name], time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

func (w *worker) bytes() []byte {
	w.seed += 1 << 8
	n := w.rnd.IntN(40_000)
	switch w.rnd.IntN(10) {
	case 0:
		n = 0
	case 1:
		n = w.rnd.IntN(2_000_000)
	}
	return content(w.seed, n)
}

// some gives the name and content of one of the worker's files.
func (w *worker) some() (string, []byte, bool) {
	var names []string
	for n, x := range w.want {
		if !x.absent && len(x.whole) == 1 {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return "", nil, false
	}
	slices.Sort(names)
	n := names[w.rnd.IntN(len(names))]
	return n, w.want[n].whole[0], true
}

// write is open, write in pieces and close; half, if any, is called when half is written.
func write(path string, flags int, b []byte, half func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|flags, 0o644)
	if err != nil {
		return err
	}
	parts := [][]byte{b[:len(b)/2], b[len(b)/2:]}
	for i, p := range parts {
		if _, err = f.Write(p); err == nil && i == 0 && half != nil {
			err = half(f)
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// step does one operation; an error leaves want as the crash may have left the files.
func (w *worker) step() error {
	defer func() { w.ops++ }()
	name, old, have := w.some()
	op := w.rnd.IntN(12)
	if !have || len(w.want) < 3 {
		op = 0
	}
	if len(w.want) > 25 {
		op = 11
	}
	switch op {
	case 0, 1, 2: // create
		name, b := w.fresh(), w.bytes()
		w.note(name, "create %d", len(b))
		w.want[name] = wish{absent: true, whole: [][]byte{b}}
		return w.done(write(w.at(name), os.O_CREATE|os.O_EXCL, b, nil), name, is(b))
	case 3, 4: // create, with an fsync in between
		name, b := w.fresh(), w.bytes()
		w.note(name, "create with fsync %d", len(b))
		w.want[name] = wish{absent: true, whole: [][]byte{b}, grown: b, min: len(b) / 2}
		return w.done(write(w.at(name), os.O_CREATE|os.O_EXCL, b, func(f *os.File) error {
			err := w.late(f.Sync())
			if err == nil {
				w.note(name, "synced")
				w.want[name] = wish{grown: b, min: len(b) / 2}
			}
			return err
		}), name, is(b))
	case 5: // anew
		b := w.bytes()
		w.note(name, "truncate and write %d", len(b))
		w.want[name] = wish{whole: [][]byte{old, b}}
		return w.done(write(w.at(name), os.O_TRUNC, b, nil), name, is(b))
	case 6: // append
		b := append(slices.Clone(old), w.bytes()...)
		w.note(name, "append to %d", len(b))
		w.want[name] = wish{grown: b, min: len(old)}
		return w.done(write(w.at(name), os.O_APPEND, b[len(old):], nil), name, is(b))
	case 7: // in place
		if len(old) < 200 {
			return nil
		}
		b := slices.Clone(old)
		off := w.rnd.IntN(len(b) - 100)
		copy(b[off:], content(w.seed+1, 100))
		w.note(name, "write at %d of %d", off, len(b))
		w.want[name] = wish{whole: [][]byte{old, b}}
		f, err := os.OpenFile(w.at(name), os.O_RDWR, 0)
		if err == nil {
			_, err = f.WriteAt(b[off:off+100], int64(off))
			err = errors.Join(err, f.Close())
		}
		return w.done(err, name, is(b))
	case 8, 9: // as editors do
		tmp, b := w.fresh(), w.bytes()
		w.note(tmp, "create %d", len(b))
		w.want[tmp] = wish{absent: true, whole: [][]byte{b}}
		if err := w.done(write(w.at(tmp), os.O_CREATE|os.O_EXCL, b, nil), tmp, is(b)); err != nil {
			return err
		}
		return w.rename(tmp, b, name, old)
	case 10: // to a free name
		return w.rename(name, old, w.fresh(), nil)
	default:
		w.note(name, "unlink")
		w.want[name] = wish{absent: true, whole: [][]byte{old}}
		return w.done(os.Remove(w.at(name)), name, wish{absent: true})
	}
}

func (w *worker) rename(from string, b []byte, to string, over []byte) error {
	w.note(from, "rename to %s", to)
	w.note(to, "rename from %s, over %v", from, over != nil)
	w.want[from] = wish{absent: true, whole: [][]byte{b}}
	w.want[to] = wish{absent: over == nil, whole: [][]byte{b}}
	if over != nil {
		w.want[to] = wish{whole: [][]byte{b, over}}
	}
	w.lost = func(got map[string][]byte) string {
		_, f := got[from]
		t, there := got[to]
		if moved := there && bytes.Equal(t, b); f == moved && !bytes.Equal(b, over) {
			return fmt.Sprintf("rename of %s to %s: at the old name %v, at the new one %v", from, to, f, moved)
		}
		return ""
	}
	if err := w.late(os.Rename(w.at(from), w.at(to))); err != nil {
		w.note(from, "%v", err)
		return err
	}
	w.lost = nil
	delete(w.want, from)
	return w.done(nil, to, is(b))
}

func (w *worker) done(err error, name string, is wish) error {
	err = w.late(err)
	if err != nil {
		w.note(name, "%v", err)
	}
	if err == nil {
		w.note(name, "done")
		w.want[name] = is
		if is.absent {
			delete(w.want, name)
		}
	}
	return err
}

func (w *worker) at(name string) string { return filepath.Join(w.dir, name) }

func (w *worker) fresh() string {
	w.made++
	return fmt.Sprintf("f%04d", w.made)
}

// files reads all regular files of a folder.
func files(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]byte{}
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		got[n.Name()] = b
	}
	return got
}

// check compares what is there with what may be, and takes it as the truth from here on.
func (w *worker) check(t testing.TB) {
	t.Helper()
	got := files(t, w.dir)
	for name, b := range got {
		if x, ok := w.want[name]; !ok {
			t.Errorf("%s/%s is there, %d bytes, and should not; %q", w.dir, name, len(b), w.did[name])
		} else if x.zeros = w.over != nil; !x.allows(b, true) {
			t.Errorf("%s/%s has %d bytes %.8x; want %v; %q", w.dir, name, len(b), b, x, w.did[name])
		}
	}
	for name, x := range w.want {
		if _, ok := got[name]; !ok && !x.allows(nil, false) {
			t.Errorf("%s/%s is not there; want %v; %q", w.dir, name, x, w.did[name])
		}
	}
	if w.lost != nil {
		if why := w.lost(got); why != "" {
			t.Errorf("%s: %s", w.dir, why)
		}
	}
	w.lost = nil
	w.want = map[string]wish{}
	for name := range w.did {
		w.note(name, "looked at after a crash: %d bytes", len(got[name]))
	}
	for name, b := range got {
		w.want[name] = is(b)
	}
}

// mover renames a folder with unsent files in it.
type mover struct {
	base string
	n    int
	rnd  *rand.Rand
	want map[string]wish // of the files, wherever the folder is
	made int
}

func (m *mover) dir(n int) string { return filepath.Join(m.base, fmt.Sprintf("d%d", n)) }

func (m *mover) step() error {
	for range 1 + m.rnd.IntN(3) {
		name, b := fmt.Sprintf("g%d", m.made), content(uint64(m.made)+7, m.rnd.IntN(30_000))
		m.made++
		m.want[name] = wish{absent: true, whole: [][]byte{b}}
		if err := write(filepath.Join(m.dir(m.n), name), os.O_CREATE, b, nil); err != nil {
			return err
		}
		m.want[name] = is(b)
	}
	for len(m.want) > 40 {
		name := slices.Sorted(maps.Keys(m.want))[0] // the oldest, or about so
		gone := m.want[name]
		gone.absent = true
		m.want[name] = gone
		if err := os.Remove(filepath.Join(m.dir(m.n), name)); err != nil {
			return err
		}
		delete(m.want, name)
	}
	err := os.Rename(m.dir(m.n), m.dir(m.n+1))
	if err == nil {
		m.n++
	}
	return err
}

func (m *mover) check(t testing.TB) {
	t.Helper()
	names, err := os.ReadDir(m.base)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 1 || names[0].Name() != filepath.Base(m.dir(m.n)) && names[0].Name() != filepath.Base(m.dir(m.n+1)) {
		t.Fatalf("the folder d%d, or d%d, is alone there: %v", m.n, m.n+1, names)
	}
	if names[0].Name() == filepath.Base(m.dir(m.n+1)) {
		m.n++
	}
	w := &worker{dir: m.dir(m.n), want: m.want}
	w.check(t)
	m.want = w.want
}

// dead tells the errors that callers see when the daemon dies under them.
func dead(err error) bool {
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.EIO) ||
		errors.Is(err, syscall.ECANCELED) // of a mount over io_uring
}
