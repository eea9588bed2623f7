package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// content is a version of a file whatever its name is.
type content struct {
	ino   uint64
	size  int64
	mtime int64
}

func contentOf(f File) content { return content{f.Ino, f.Size, f.MTime.UnixNano()} }

// storm changes a folder at random, and knows which contents nobody had open.
type storm struct {
	t      *testing.T
	dir    string
	rnd    *rand.Rand
	open   map[int]*os.File
	writes map[uint64]int // open for writing, by inode
	closed map[content]bool
	n      int
}

func (s *storm) path() string {
	return filepath.Join(s.dir, []string{"", "a", "b", "a/c"}[s.rnd.IntN(4)], fmt.Sprint("f", s.rnd.IntN(6)))
}

func (s *storm) folder() string {
	return filepath.Join(s.dir, []string{"a", "b", "a/c", "d"}[s.rnd.IntN(4)])
}

func (s *storm) stat(f *os.File) content {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		s.t.Fatal(err)
	}
	return contentOf(fileOf("", &st))
}

func (s *storm) begin(flags int) {
	f, err := os.OpenFile(s.path(), flags|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	s.n++
	s.open[s.n] = f
	s.writes[s.stat(f).ino]++
}

func (s *storm) end(k int) {
	f := s.open[k]
	delete(s.open, k)
	c := s.stat(f)
	if s.writes[c.ino]--; s.writes[c.ino] == 0 {
		s.closed[c] = true
	}
	f.Close()
}

func (s *storm) handle() (int, bool) {
	if len(s.open) == 0 {
		return 0, false
	}
	keys := slices.Sorted(maps.Keys(s.open))
	return keys[s.rnd.IntN(len(keys))], true
}

func (s *storm) step() {
	switch s.rnd.IntN(14) {
	case 0, 1, 2:
		s.begin(os.O_CREATE | os.O_APPEND)
	case 3:
		s.begin(os.O_CREATE | os.O_TRUNC)
	case 4, 5, 6:
		if k, ok := s.handle(); ok {
			_, _ = s.open[k].Write(make([]byte, 1+s.rnd.IntN(7)))
		}
	case 7, 8, 9:
		if k, ok := s.handle(); ok {
			s.end(k)
		}
	case 10:
		_ = os.Rename(s.path(), s.path())
	case 11:
		_ = os.Remove(s.path())
	case 12:
		_ = os.Mkdir(s.folder(), 0o755)
	case 13:
		if s.rnd.IntN(4) > 0 {
			return
		}
		_ = os.Rename(s.folder(), s.folder())
	}
}

func (s *storm) finally() map[string]File {
	out := map[string]File{}
	_ = filepath.WalkDir(s.dir, func(p string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && d.Type().IsRegular() && unix.Lstat(p, &st) == nil {
			rel, _ := filepath.Rel(s.dir, p)
			out[rel] = fileOf(rel, &st)
		}
		return nil
	})
	return out
}

// Whatever happens in the folder: no version is told that a writer had open, none is told
// twice, and in the end all that are there have been told.
func TestStorm(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(o *Options){
		"events": nil,
		"looks":  func(o *Options) { o.Watches, o.Rescan = 1, 50*time.Millisecond },
		"both":   func(o *Options) { o.Rescan = 100 * time.Millisecond },
		"narrow": func(o *Options) { o.Pending, o.Rescan = 3, 300*time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, change)
			r.w.settle = 15 * time.Millisecond // more than a tick of a file system's clock
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			s := &storm{t: t, dir: r.dir, rnd: rand.New(rand.NewPCG(seed, 1)), open: map[int]*os.File{}, writes: map[uint64]int{}, closed: map[content]bool{}}
			var mu sync.Mutex
			var told []File
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() {
				ended <- r.w.Run(ctx, func(_ context.Context, f File) error {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, f)
					return nil
				})
			}()
			for range 60 {
				for range s.rnd.IntN(60) {
					s.step()
				}
				time.Sleep(time.Duration(s.rnd.IntN(int(80 * time.Millisecond))))
			}
			for len(s.open) > 0 {
				k, _ := s.handle()
				s.end(k)
			}
			want := s.finally()
			missing := func() (out []string) {
				mu.Lock()
				defer mu.Unlock()
				last := map[string]File{}
				for _, f := range told {
					last[f.Path] = f
				}
				for p, f := range want {
					if !last[p].Same(f) {
						out = append(out, p)
					}
				}
				return out
			}
			deadline := time.Now().Add(5 * time.Second)
			for len(missing()) > 0 && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
			}
			until(t, "nothing is incomplete", func() bool { n, b := r.w.Incomplete(); return n == 0 && b == 0 })
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if m := missing(); len(m) > 0 {
				t.Errorf("not told: %q", m)
			}
			seen := map[File]bool{}
			for _, f := range told {
				f.Mode, f.UID, f.GID = 0, 0, 0
				if seen[f] {
					t.Errorf("told twice: %+v", f)
				}
				seen[f] = true
				if !s.closed[contentOf(f)] {
					t.Errorf("told while a writer had it: %+v", f)
				}
			}
			t.Logf("%d told, %d there, %d contents", len(told), len(want), len(s.closed))
		})
	}
}
