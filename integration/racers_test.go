package integration

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// record is a text that tells by itself whether it is whole: who wrote it, its number and
// length, a body of these, and their checksum.
func record(who, seq, n int) []byte {
	line := fmt.Sprintf("body of %d, %d\n", who, seq)
	b := fmt.Appendf(nil, "record %d %d %d\n", who, seq, n)
	for left := n; left > 0; left -= len(line) {
		b = append(b, line[:min(left, len(line))]...)
	}
	return fmt.Appendf(b, "end %08x\n", crc32.ChecksumIEEE(b))
}

// records counts those in b, which must be nothing but whole ones.
func records(b []byte) (n int, err error) {
	for whole := b; len(b) > 0; n++ {
		var who, seq, size int
		if _, err := fmt.Sscanf(string(b[:min(len(b), 60)]), "record %d %d %d\n", &who, &seq, &size); err != nil {
			return n, fmt.Errorf("no record at %d of %d: %.40q", len(whole)-len(b), len(whole), b)
		}
		want := record(who, seq, size)
		if !bytes.HasPrefix(b, want) {
			i := 0
			for i < len(b) && b[i] == want[i] {
				i++
			}
			return n, fmt.Errorf("record %d %d %d at %d of %d is wrong from its byte %d: %.40q", who, seq, size, len(whole)-len(b), len(whole), i, b[i:])
		}
		b = b[len(want):]
	}
	return n, nil
}

// racer is one of the processes of TestRacers. The names a* are replaced by rename only, so
// that whoever opens one sees one record for ever; the names b* are also written and cut in
// place, under flock, so that whoever has the lock sees whole records; log has a line for
// each of its writer's appends; the names own* are changed by one racer each, who knows what
// must be there.
type racer struct {
	id, seq int
	dir     string
	rnd     *rand.Rand
	logged  int
	own     string // the name of its own file
	last    []byte // what it wrote there last
	ops     map[string]int
}

func (r *racer) name(kind string) string {
	return filepath.Join(r.dir, fmt.Sprint(kind, r.rnd.IntN(10)))
}

func (r *racer) next() []byte {
	r.seq++
	n := r.rnd.IntN(3000)
	if r.rnd.IntN(4) == 0 {
		n = r.rnd.IntN(300_000)
	}
	return record(r.id, r.seq, n)
}

// locked runs f with a b* name open and locked, when it still is that file.
func (r *racer) locked(flags, how int, f func(*os.File) error) error {
	p := r.name("b")
	file, err := os.OpenFile(p, flags, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), how); err != nil {
		return err
	}
	if how == unix.LOCK_EX { // of one that was replaced meanwhile nobody sees what is written
		mine, err := file.Stat()
		if err != nil {
			return err
		}
		if now, err := os.Stat(p); err != nil || !os.SameFile(mine, now) {
			return err
		}
	}
	if err := f(file); err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	return nil
}

// owns wants what the racer wrote last at the name that it gave last.
func (r *racer) owns() error {
	b, err := os.ReadFile(r.own)
	if err != nil && r.last != nil {
		return lasting(err)
	}
	if !bytes.Equal(b, r.last) {
		return fmt.Errorf("%s: %d bytes, %.20q; want %d, %.20q", r.own, len(b), b, len(r.last), r.last)
	}
	return nil
}

// lasting is an error about a file that nobody may remove: that it is missing is one, too.
func lasting(err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("an own file is lost: %v", err)
	}
	return err
}

func whole(f *os.File) error {
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	_, err = records(b)
	return err
}

// acts are what racers do, each about as often.
var acts = map[string]func(r *racer) error{
	"replace": func(r *racer) error {
		tmp := filepath.Join(r.dir, fmt.Sprintf(".%d.tmp", r.id))
		if err := os.WriteFile(tmp, r.next(), 0o644); err != nil {
			return err
		}
		return os.Rename(tmp, r.name([]string{"a", "b"}[r.rnd.IntN(2)]))
	},
	"rename": func(r *racer) error {
		kind := []string{"a", "b"}[r.rnd.IntN(2)]
		return os.Rename(r.name(kind), r.name(kind))
	},
	"unlink": func(r *racer) error {
		if r.rnd.IntN(3) > 0 {
			return nil
		}
		return os.Remove(r.name([]string{"a", "b"}[r.rnd.IntN(2)]))
	},
	"read": func(r *racer) error {
		f, err := os.Open(r.name("a"))
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if n, err := records(b); n != 1 || err != nil || st.Size() != int64(len(b)) {
			return fmt.Errorf("%s: %d records in %d bytes, size %d: %w", f.Name(), n, len(b), st.Size(), err)
		}
		return nil
	},
	"read locked": func(r *racer) error { return r.locked(os.O_RDONLY, unix.LOCK_SH, whole) },
	"overwrite": func(r *racer) error {
		return r.locked(os.O_RDWR|os.O_CREATE, unix.LOCK_EX, func(f *os.File) error {
			if err := whole(f); err != nil {
				return err
			}
			b := r.next()
			if r.rnd.IntN(2) == 0 {
				if err := f.Truncate(0); err != nil {
					return err
				}
			}
			if _, err := f.WriteAt(b, 0); err != nil {
				return err
			}
			return f.Truncate(int64(len(b)))
		})
	},
	"append": func(r *racer) error {
		return r.locked(os.O_RDWR|os.O_APPEND|os.O_CREATE, unix.LOCK_EX, func(f *os.File) error {
			if _, err := f.Write(r.next()); err != nil {
				return err
			}
			return whole(f)
		})
	},
	"log": func(r *racer) error {
		f, err := os.OpenFile(filepath.Join(r.dir, "log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		if _, err = fmt.Fprintf(f, "%d %d\n", r.id, r.logged); err == nil {
			r.logged++
		}
		return errors.Join(err, f.Close())
	},
	"own": func(r *racer) error {
		if err := r.owns(); err != nil { // uploaded and evicted meanwhile, perhaps
			return err
		}
		for range 2 { // the second while the first is on its way, often
			r.last = r.next()
			f, err := os.OpenFile(r.own, os.O_RDWR|os.O_CREATE, 0o644)
			if err != nil {
				return lasting(err)
			}
			_, err = f.WriteAt(r.last, 0)
			if err := errors.Join(err, f.Truncate(int64(len(r.last))), f.Close()); err != nil {
				return lasting(err)
			}
			time.Sleep(time.Duration(r.rnd.IntN(2)*r.rnd.IntN(100)) * time.Millisecond)
		}
		to := filepath.Join(r.dir, fmt.Sprintf("own%d-%d", r.id, r.rnd.IntN(3)))
		if err := os.Rename(r.own, to); err != nil {
			return lasting(err)
		}
		r.own = to
		return r.owns()
	},
	"stat": func(r *racer) error {
		st, err := os.Stat(r.name("a"))
		if err == nil && (st.Size() == 0 || !st.Mode().IsRegular()) {
			return fmt.Errorf("%s: %v, %d bytes", st.Name(), st.Mode(), st.Size())
		}
		return err
	},
	"list": func(r *racer) error {
		es, err := os.ReadDir(r.dir)
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, e := range es {
			if seen[e.Name()] {
				return fmt.Errorf("%s is listed twice", e.Name())
			}
			seen[e.Name()] = true
		}
		return nil
	},
}

// race is the racer's process; it prints how many lines it logged and what it did.
func race(id int, dir string, d time.Duration) error {
	r := &racer{id: id, dir: dir, own: filepath.Join(dir, fmt.Sprintf("own%d-0", id)), rnd: rand.New(rand.NewPCG(uint64(id), uint64(time.Now().UnixNano()))), ops: map[string]int{}}
	names := slices.Sorted(maps.Keys(acts))
	for end := time.Now().Add(d); time.Now().Before(end); {
		what := names[r.rnd.IntN(len(names))]
		began := time.Now()
		if err := acts[what](r); err != nil && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("racer %d: %s: %w", id, what, err)
		}
		if took := time.Since(began); took > 20*time.Second {
			return fmt.Errorf("racer %d: %s took %v", id, what, took)
		}
		r.ops[what]++
	}
	if err := r.owns(); err != nil {
		return fmt.Errorf("racer %d: %w", id, err)
	}
	fmt.Println(r.logged, r.ops)
	return nil
}

func init() {
	roles["racer"] = func(args []string) error {
		id, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		d, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		return race(id, args[1], d)
	}
}

// TestRacers: processes that create, replace, write, append to, rename, remove, read and
// list the same names. None sees a torn or mixed content; afterwards every name has one
// whole content, the same here, at the storages and through an empty cache. W1, W6, N7.
func TestRacers(t *testing.T) {
	s := newSite(t, crashLake)
	s.mount()
	dir := s.path("ctao/dl3")
	n, d := 18, 5*time.Second
	var cmds []*exec.Cmd
	outs := make([]bytes.Buffer, n)
	for i := range n {
		cmd := helper("racer", strconv.Itoa(i), dir, d.String())
		cmd.Stdout, cmd.Stderr = &outs[i], &outs[i]
		must(t, cmd.Start())
		cmds = append(cmds, cmd)
	}
	stop := s.evictAllTheTime("/ctao/dl3")
	defer stop()
	logged, ops := map[string]int{}, 0
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, outs[i].String())
			continue
		}
		count, did, _ := strings.Cut(outs[i].String(), " ")
		lines, err := strconv.Atoi(count)
		must(t, err)
		if lines > 0 {
			logged[strconv.Itoa(i)] = lines
		}
		for f := range strings.FieldsSeq(did) {
			if _, x, ok := strings.Cut(strings.TrimSuffix(f, "]"), ":"); ok {
				done, _ := strconv.Atoi(x)
				ops += done
			}
		}
	}
	stop()
	if t.Failed() {
		return
	}
	left, err := filepath.Glob(filepath.Join(dir, ".*.tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	check := func(when string) map[string][]byte {
		t.Helper()
		got := files(t, dir)
		for name, b := range got {
			if name == "log" {
				continue
			}
			if n, err := records(b); err != nil || (name[0] == 'a' || name[0] == 'o') && n != 1 {
				t.Errorf("%s: %s: %d records: %v", when, name, n, err)
			}
		}
		next := map[string]int{}
		for line := range strings.Lines(string(got["log"])) {
			who, seq, _ := strings.Cut(strings.TrimSpace(line), " ")
			if seq != strconv.Itoa(next[who]) {
				t.Fatalf("%s: line %q of the log, want %d", when, line, next[who])
			}
			next[who]++
		}
		if !maps.Equal(next, logged) {
			t.Errorf("%s: the log has %v lines, want %v", when, next, logged)
		}
		return got
	}
	was := check("at once")
	s.settle()
	if now := check("after the drain"); !maps.EqualFunc(was, now, bytes.Equal) {
		t.Error("the drain changed contents")
	}
	s.allSafe(dir)
	if now := check("through an empty cache"); !maps.EqualFunc(was, now, bytes.Equal) {
		t.Error("other contents through an empty cache")
	}
	for _, r := range s.rows("uploads", "ls") {
		t.Errorf("left in the journal: %v", r)
	}
	for _, name := range s.journalFiles() {
		t.Errorf("left in the journal: %s", name)
	}
	t.Logf("%d operations by %d processes, %d names left", ops, n, len(was))
}

// journalFiles are those of the journal's that hold something of a user's.
func (s *site) journalFiles() (out []string) {
	s.t.Helper()
	for _, sub := range []string{"", "intents", "orphans"} {
		es, err := os.ReadDir(filepath.Join(s.dir, "journal", sub))
		must(s.t, err)
		for _, e := range es {
			if e.Type().IsRegular() && e.Name() != "lock" && !strings.HasPrefix(e.Name(), "log-") { // its own
				out = append(out, filepath.Join(sub, e.Name()))
			}
		}
	}
	return out
}
