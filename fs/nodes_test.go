package fs_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/fs"
)

// TestKernelForgets: with more files known than the limit, the kernel is asked to forget,
// in the way that it knows; what is open stays what it was, and so do inode numbers and a
// listing that is being read.
func TestKernelForgets(t *testing.T) {
	for name, old := range map[string]bool{"prune": false, "old kernel": true} {
		t.Run(name, func(t *testing.T) {
			const limit, files = 500, 3000
			m := mountNodes(t, fs.Options{}, limit)
			if old {
				m.srv.OldKernel()
			}
			m.fill("/ctao/d", files)
			b := random(5000)
			must(t, os.WriteFile(m.at("/ctao/kept"), b, 0o644))
			m.drain()
			kept := m.open("/ctao/kept", os.O_RDONLY)
			want(t, "before", kept, b)
			writer := m.open("/ctao/new", os.O_RDWR|os.O_CREATE)
			must1(t)(writer.Write(b[:100]))
			dir, err := unix.Open(m.at("/ctao/d"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
			must(t, err)
			defer unix.Close(dir)
			seen := names(t, dir, 300)
			inode := func(p string) uint64 {
				st, err := os.Lstat(m.at(p))
				must(t, err)
				return st.Sys().(*syscall.Stat_t).Ino
			}
			before := map[string]uint64{"/ctao/kept": inode("/ctao/kept"), "/ctao/new": inode("/ctao/new"), "/ctao/d": inode("/ctao/d")}
			for i := range files {
				p := fmt.Sprintf("/ctao/d/f%05d", i)
				before[p] = inode(p)
			}
			for range 500 {
				if m.v.Stats().Nodes <= limit {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			s := m.v.Stats()
			t.Logf("%d nodes, %d were asked for", s.Nodes, s.NodesForget)
			if s.Nodes > limit || s.NodesForget == 0 {
				t.Errorf("%d nodes after a look at %d, with a limit of %d; %d were asked for", s.Nodes, files, limit, s.NodesForget)
			}
			for {
				more := names(t, dir, 300)
				if len(more) == 0 {
					break
				}
				seen = append(seen, more...)
			}
			if once := map[string]bool{}; true {
				for _, n := range seen {
					once[n] = true
				}
				if len(seen) != files || len(once) != files {
					t.Errorf("the listing that was read meanwhile has %d names, %d different ones", len(seen), len(once))
				}
			}
			for p, was := range before {
				if now := inode(p); now != was {
					t.Fatalf("%s is inode %d, it was %d", p, now, was)
				}
			}
			want(t, "the open file", kept, b)
			must1(t)(writer.Write(b[100:]))
			want(t, "the file being written", writer, b)
			if fi, err := kept.Stat(); err != nil || fi.Size() != int64(len(b)) {
				t.Errorf("the open file: %v, %v", fi, err)
			}
			if at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", kept.Fd())); err != nil || at != m.at("/ctao/kept") {
				t.Errorf("the open file is at %q, %v", at, err)
			}
			must(t, os.Rename(m.at("/ctao/d"), m.at("/ctao/e")))
			if now := inode("/ctao/e/f00000"); now != before["/ctao/d/f00000"] {
				t.Errorf("in the renamed directory it is inode %d, it was %d", now, before["/ctao/d/f00000"])
			}
		})
	}
}

// must1 is must for calls that give a number, too.
func must1(t *testing.T) func(int, error) {
	return func(_ int, err error) { t.Helper(); must(t, err) }
}
