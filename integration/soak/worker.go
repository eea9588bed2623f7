package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// model is what the files of one worker are, and the order that it gets for a round.
type model struct {
	Dir    string
	Epoch  string // file that changes when the daemon is hurt
	Seed   uint64
	Length time.Duration
	Files  map[string][]byte // by path below Dir
	Story  map[string]string // what was done to each, for the report
	Ops    int

	rnd  *rand.Rand
	made int
}

// change is what an operation may have done to one name when it was cut off.
type change struct {
	name     string
	old, new []byte // nil: not there
	mixed    bool   // each byte may be of either, each length between the two
}

func (c change) allows(b []byte, there bool) bool {
	switch {
	case !there:
		return c.old == nil || c.new == nil
	case c.old != nil && bytes.Equal(b, c.old), c.new != nil && bytes.Equal(b, c.new):
		return true
	case !c.mixed || len(b) < min(len(c.old), len(c.new)) || len(b) > max(len(c.old), len(c.new)):
		return false
	}
	for i := range b {
		if (i >= len(c.old) || b[i] != c.old[i]) && (i >= len(c.new) || b[i] != c.new[i]) {
			return false
		}
	}
	return true
}

// work is the life of a worker process: a model in, a model out.
func work(in io.Reader, out io.Writer) error {
	m := &model{}
	if err := json.NewDecoder(in).Decode(m); err != nil {
		return err
	}
	m.rnd, m.Ops = rand.New(rand.NewPCG(m.Seed, 1)), 0
	if m.Story == nil || len(m.Story) > 500 {
		m.Story = map[string]string{}
	}
	m.made = int(m.Seed % 1_000_000_000)
	for end := time.Now().Add(m.Length); time.Now().Before(end); {
		if err := m.step(); err != nil {
			return err
		}
	}
	return json.NewEncoder(out).Encode(m)
}

func (m *model) at(name string) string { return filepath.Join(m.Dir, name) }

func (m *model) epoch() string {
	b, _ := os.ReadFile(m.Epoch) // never missing: it is replaced by rename
	return string(b)
}

// step does one operation and takes its outcome into the model.
func (m *model) step() error {
	epoch := m.epoch()
	changes, op, what := m.choose()
	if op == nil {
		return nil
	}
	for _, c := range changes {
		s := m.Story[c.name] + time.Now().Format(" 04:05.000 ") + what
		m.Story[c.name] = s[max(0, len(s)-600):]
	}
	m.Ops++
	err := op()
	if err == nil {
		for _, c := range changes {
			m.set(c.name, c.new)
		}
		return nil
	}
	// A daemon that was hurt is an excuse, once it is there again: then see what became of it.
	for end := time.Now().Add(30 * time.Second); m.epoch() == epoch; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s in %s while the daemon lives: %w", what, m.Dir, err)
		}
	}
	return m.resolve(changes, what)
}

func (m *model) set(name string, b []byte) {
	if b == nil {
		delete(m.Files, name)
	} else {
		m.Files[name] = b
	}
}

// resolve takes what is there after an operation was cut off.
func (m *model) resolve(changes []change, what string) error {
	for _, c := range changes {
		for end := time.Now().Add(90 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			// Before the look and after it, or the name may be missing with the whole mount.
			epoch, before := m.epoch(), m.mounted()
			b, err := os.ReadFile(m.at(c.name))
			_, alive := os.Stat(m.Dir)
			there := err == nil
			if before && alive == nil && (there || errors.Is(err, os.ErrNotExist)) && m.mounted() && m.epoch() == epoch {
				if b == nil && there {
					b = []byte{}
				}
				if !c.allows(b, there) {
					return fmt.Errorf("%s was cut off: %s has %d bytes (there: %v), want the old %d or the new %d bytes; %s", what, m.at(c.name), len(b), there, len(c.old), len(c.new), m.Story[c.name])
				}
				if there {
					m.set(c.name, b)
				} else {
					m.set(c.name, nil)
				}
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("the mount does not come back: %w", errors.Join(err, alive))
			}
		}
	}
	return nil
}

// mounted tells whether a daemon answers.
func (m *model) mounted() bool {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(m.Dir)), ".tarn/stats"))
	return err == nil && len(b) > 0
}

func (m *model) bytes() []byte {
	n := m.rnd.IntN(60_000)
	if m.rnd.IntN(12) == 0 {
		n = m.rnd.IntN(1_500_000)
	}
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(m.made), byte(m.made >> 8), byte(m.made >> 16), byte(m.made >> 24)})
	r.Read(b) // never fails
	m.made++
	return b
}

func (m *model) fresh() string {
	m.made++
	if m.rnd.IntN(4) == 0 {
		return fmt.Sprintf("d%d/f%d", m.rnd.IntN(4), m.made)
	}
	return fmt.Sprintf("f%d", m.made)
}

// choose picks an operation, what it means for the model, and words for it.
func (m *model) choose() ([]change, func() error, string) {
	names := slices.Sorted(maps.Keys(m.Files))
	op := m.rnd.IntN(13)
	switch {
	case len(names) < 3:
		op = 0
	case len(names) > 40:
		op = 12
	}
	if op < 3 {
		name, b, sync := m.fresh(), m.bytes(), op == 2
		return []change{{name: name, new: b, mixed: sync}}, func() error {
			return m.write(name, os.O_CREATE|os.O_TRUNC, b, sync)
		}, fmt.Sprintf("create %d", len(b))
	}
	name := names[m.rnd.IntN(len(names))]
	old := m.Files[name]
	switch op {
	case 3:
		b := m.bytes()
		return []change{{name: name, old: old, new: b}}, func() error { return m.write(name, os.O_TRUNC, b, false) }, fmt.Sprintf("overwrite with %d", len(b))
	case 4:
		b := append(slices.Clone(old), m.bytes()...)
		return []change{{name: name, old: old, new: b, mixed: true}}, func() error { return m.write(name, os.O_APPEND, b[len(old):], false) }, fmt.Sprintf("append to %d", len(b))
	case 5, 6:
		if len(old) < 100 {
			return nil, nil, ""
		}
		off, part := m.rnd.IntN(len(old)-50), m.bytes()
		part = part[:min(len(part), 50)]
		b := slices.Clone(old)
		copy(b[off:], part)
		if op == 5 {
			return []change{{name: name, old: old, new: b, mixed: true}}, func() error { return m.patch(name, part, int64(off)) }, fmt.Sprintf("write at %d", off)
		}
		return []change{{name: name, old: old, new: b, mixed: true}}, func() error { return m.mapped(name, part, off) }, fmt.Sprintf("map and write at %d", off)
	case 7: // as editors do
		tmp, b := m.fresh(), m.bytes()
		return []change{{name: tmp, new: nil, old: b}, {name: name, old: old, new: b}}, func() error {
			if err := m.write(tmp, os.O_CREATE|os.O_TRUNC, b, false); err != nil {
				return err
			}
			return os.Rename(m.at(tmp), m.at(name))
		}, fmt.Sprintf("replace by %s of %d", tmp, len(b))
	case 8:
		to := m.fresh()
		return []change{{name: name, old: old}, {name: to, new: old}}, func() error {
			if err := m.dirOf(to); err != nil {
				return err
			}
			return os.Rename(m.at(name), m.at(to))
		}, "rename to " + to
	case 9, 10, 11:
		return []change{{name: name, old: old, new: old}}, func() error {
			b, err := os.ReadFile(m.at(name))
			if err == nil && !bytes.Equal(b, old) {
				fmt.Fprintf(os.Stderr, "%s: %d wrong bytes, want %d; %s\n", m.at(name), len(b), len(old), m.Story[name])
				os.Exit(1) // no excuse for this one
			}
			return err
		}, "read"
	default:
		return []change{{name: name, old: old}}, func() error { return os.Remove(m.at(name)) }, "unlink"
	}
}

// dirOf makes the directory of a name, and nothing below a mountpoint without a mount.
func (m *model) dirOf(name string) error {
	dir := filepath.Dir(m.at(name))
	if dir == m.Dir {
		return nil
	}
	if err := os.Mkdir(dir, 0o755); !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

func (m *model) write(name string, flags int, b []byte, sync bool) error {
	if err := m.dirOf(name); err != nil {
		return err
	}
	f, err := os.OpenFile(m.at(name), os.O_WRONLY|flags, 0o644)
	if err != nil {
		return err
	}
	for len(b) > 0 && err == nil {
		n := min(len(b), 1+m.rnd.IntN(100_000))
		_, err = f.Write(b[:n])
		b = b[n:]
		if sync && err == nil {
			err = f.Sync()
		}
	}
	return errors.Join(err, f.Close())
}

func (m *model) patch(name string, b []byte, off int64) error {
	f, err := os.OpenFile(m.at(name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, off)
	return errors.Join(err, f.Close())
}

// mapped writes through a shared mapping. msync makes the outcome known.
func (m *model) mapped(name string, b []byte, off int) (err error) {
	f, err := os.OpenFile(m.at(name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	p, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Munmap(p)) }()
	return fault(func() error {
		copy(p[off:], b)
		return unix.Msync(p, unix.MS_SYNC)
	})
}

// look reads all files of the model's folder.
func (m *model) look() (map[string][]byte, error) {
	got := map[string][]byte{}
	err := filepath.WalkDir(m.Dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		got[strings.TrimPrefix(p, m.Dir+"/")] = b
		return err
	})
	return got, err
}

var errFault = fmt.Errorf("the mapping is gone: %w", syscall.EFAULT)
