package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// crashLake settles fast: uploads begin at once, and what was replaced goes at once.
const crashLake = `
journal: {delay: 50ms}
catalogue: {grace: 1ms}
`

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
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.EIO)
}

func rounds(t testing.TB, short int) int {
	if n, err := strconv.Atoi(os.Getenv("TARN_CRASH_ROUNDS")); err == nil {
		return n
	}
	return short
}

// TestCrash kills the daemon at random moments under writers, readers, recalls, evictions
// and uploads: W2 to W6, N6, N7, R10.
func TestCrash(t *testing.T) {
	s := newSite(t, crashLake)
	// A removal that was cut in two: the journal keeps what it cannot explain.
	s.expect("kept among the orphans.*data file without a record")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	s.mount()
	tapes := map[string]int{}
	for i := range 12 {
		tapes[fmt.Sprintf("t%02d", i)] = 20_000 + 5_000*i
	}
	src := folder(t, tapes)
	s.onTape(src, "/ctao/tape")
	onTape := tree(t, src)

	var workers []*worker
	for i := range 3 {
		w := newWorker(s.path("ctao", fmt.Sprintf("w%d", i)), seed<<20+uint64(i)<<16)
		workers = append(workers, w)
		if err := os.Mkdir(w.dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := &mover{base: s.path("ctao", "moves"), rnd: rand.New(rand.NewPCG(seed, 9)), want: map[string]wish{}}
	if err := os.MkdirAll(m.dir(0), 0o755); err != nil {
		t.Fatal(err)
	}
	var slowest time.Duration
	n := rounds(t, 6)
	for round := range n {
		var killed atomic.Bool
		var wg sync.WaitGroup
		run := func(what string, f func() error) {
			wg.Go(func() {
				for {
					err := f()
					switch {
					case err == nil:
					case !killed.Load():
						t.Errorf("round %d: %s while the daemon lives: %v", round, what, err)
						return
					case !dead(err):
						t.Errorf("round %d: %s ended with %v", round, what, err)
						return
					default:
						return
					}
				}
			})
		}
		// The evicter is started before there are open files: a child of ours would close
		// its copies of them, and a close completes a file.
		stop := s.evictAllTheTime("/ctao/tape")
		for _, w := range workers {
			run("writer", w.step)
		}
		run("mover", m.step)
		run("reader", func() error {
			for name, want := range onTape {
				b, err := os.ReadFile(s.path("ctao/tape", name))
				if err != nil {
					return err
				}
				if got := sumOf(b); got != want {
					t.Errorf("round %d: %s read wrong", round, name)
				}
			}
			return nil
		})
		time.Sleep(time.Duration(200+rnd.IntN(1300)) * time.Millisecond)
		killed.Store(true)
		s.kill()
		ended := make(chan struct{})
		go func() { wg.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Fatalf("round %d: callers hang after the death of the daemon", round)
		}
		stop()
		began := time.Now()
		s.mount()
		slowest = max(slowest, time.Since(began))
		for _, w := range workers {
			w.check(t)
		}
		m.check(t)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	ops := m.made
	for _, w := range workers {
		ops += w.ops
	}
	t.Logf("%d kills, %d operations, slowest restart %v", n, ops, slowest.Round(time.Millisecond))
	if !raceEnabled && slowest > 5*time.Second {
		t.Errorf("a restart took %v", slowest)
	}
	s.allSafe(workers[0].dir, workers[1].dir, workers[2].dir, m.dir(m.n))
}

// evictAllTheTime runs the command until the function that it returns is called.
func (s *site) evictAllTheTime(path string) (stop func()) {
	s.t.Helper()
	cmd := exec.Command("bash", "-c", `while :; do "$0" evict "$1"; sleep 0.05; done`, tarn, path)
	cmd.Env = append(os.Environ(), "TARN_LAKE="+s.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // an error means that they have ended
		cmd.Wait()
	})
}

// settle waits until nothing is unsent but what a crash left unfinished.
func (s *site) settle() {
	s.t.Helper()
	s.within(time.Minute, "everything safe", func() bool {
		return !slices.ContainsFunc(s.rows("uploads", "ls"), func(r map[string]any) bool { return r["state"] != "ABANDONED" })
	})
}

// allSafe proves what is promised once a crash is digested: every file below the folders
// is registered once, has its two verified replicas with the right bytes, is read right
// through an empty cache, and nothing else lies at the storages.
func (s *site) allSafe(dirs ...string) {
	s.t.Helper()
	began := time.Now()
	var laps []string
	lap := func(what string) {
		laps = append(laps, fmt.Sprintf("%s %v", what, time.Since(began).Round(time.Millisecond)))
		began = time.Now()
	}
	s.settle()
	lap("settled")
	truth := map[string]string{}
	for _, d := range dirs {
		for name, b := range files(s.t, d) {
			truth[strings.TrimPrefix(filepath.Join(d, name), s.mnt)] = sumOf(b)
		}
	}
	// What was replaced goes soon after the next start.
	s.umount("--now", "--force")
	if err := os.RemoveAll(s.cache); err != nil {
		s.t.Fatal(err)
	}
	s.mount()
	lap("restart")
	copies := map[string][]string{}
	known := map[string]bool{}
	var strays []string
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		clear(copies)
		clear(known)
		for _, r := range s.rows("replicas", "/") {
			p, pfn := r["path"].(string), r["pfn"].(string)
			if r["state"] != "AVAILABLE" || r["verified"] == nil {
				s.t.Fatalf("replica %v", r)
			}
			copies[p] = append(copies[p], r["rse"].(string))
			known[filepath.Join(r["rse"].(string), pfn)] = true
		}
		if strays = s.strays(known); len(strays) == 0 {
			break
		}
		if time.Now().After(end) {
			s.t.Errorf("at the storages lies what nobody knows: %v", strays)
			for _, stray := range strays {
				id := stray[strings.LastIndex(stray, ".")+1:]
				for i, l := range s.logs {
					for line := range strings.Lines(l.String()) {
						if strings.Contains(line, id) {
							s.t.Logf("daemon %d: %s", i, line)
						}
					}
				}
			}
			break
		}
	}
	lap("reaped")
	for p, want := range truth {
		slices.Sort(copies[p])
		if got := strings.Join(copies[p], " "); got != "LAPALMA-DISK PIC-TAPE" {
			s.t.Errorf("%s has replicas at %s", p, got)
		}
		if got := sum(s.t, s.mnt+p); got != want {
			s.t.Errorf("%s through an empty cache: %s, want %s", p, got, want)
		}
	}
	lap("read")
	rules := map[string]int{}
	for _, r := range s.rows("rule", "ls") {
		did, _ := r["did"].(map[string]any)
		rules[fmt.Sprint(did["name"])]++
	}
	for p := range truth {
		if rules[p] != 2 {
			s.t.Errorf("%s has %d rules", p, rules[p])
		}
	}
	if r := s.try("verify", "/ctao"); r.code != 0 {
		s.t.Errorf("verify: exit %d\n%s%s", r.code, r.out, r.err)
	}
	lap("verified")
	s.t.Logf("%d files safe: %s", len(truth), strings.Join(laps, ", "))
}

// strays are files at the disk storages that no replica of a file is.
func (s *site) strays(known map[string]bool) (out []string) {
	s.t.Helper()
	root := filepath.Join(s.dir, "rse")
	for _, rse := range []string{"LAPALMA-DISK", "PIC-DISK", "CNAF-DISK"} {
		for p := range tree(s.t, filepath.Join(root, rse)) {
			if !known[filepath.Join(rse, p)] {
				out = append(out, filepath.Join(rse, p))
			}
		}
	}
	return out
}

func sumOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
