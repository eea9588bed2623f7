package fs_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"iter"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/checksum"
	"tarn/backends/lake"
	"tarn/backends/storage/posix"
	"tarn/cache"
	"tarn/cache/journal"
	"tarn/fs"
	"tarn/fs/vfs"
	"tarn/integration/needed"
)

var ctx = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mounted is a lake of two disk sites, mounted.
type mounted struct {
	t     *testing.T
	mnt   string
	sites []string // folders of the sites
	cat   *embedded.Catalogue
	hot   *cache.Cache
	v     *vfs.FS
	srv   *fs.Server
}

// noPoll polls a file of the mount, so that the kernel learns that it need not. Otherwise
// the runtime would, in the middle of os.Open, and wait for this very process.
func noPoll(t *testing.T, mnt string) {
	t.Helper()
	fd, err := unix.Open(filepath.Join(mnt, ".go-fuse-epoll-hack"), unix.O_RDONLY, 0) // go-fuse answers it
	must(t, err)
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) // ENOSYS is the purpose
	must(t, unix.Close(fd))
}

// cannot ends a test that needs a mount: a skip where users may not mount, and a failure
// for root and under CI, where a mount that fails is a defect.
func cannot(t *testing.T, err error) {
	t.Helper()
	if os.Getuid() == 0 || os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

func mount(t *testing.T, o fs.Options) *mounted {
	t.Helper()
	return mountNodes(t, o, 0)
}

// mountNodes is mount with a limit of nodes.
func mountNodes(t *testing.T, o fs.Options, nodes int) *mounted {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		cannot(t, err)
	}
	dir := t.TempDir()
	m := &mounted{t: t, mnt: filepath.Join(dir, "mnt")}
	for _, d := range []string{"mnt", "cat", "A", "B"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	}
	var err error
	m.cat, err = embedded.Open(embedded.Options{Dir: filepath.Join(dir, "cat"), FreeFloor: 1})
	must(t, err)
	t.Cleanup(func() { must(t, m.cat.Close()) })
	lo := lake.Options{Catalogue: m.cat, Namespace: m.cat, Versions: m.cat, Rules: m.cat}
	for i, name := range []string{"A", "B"} {
		m.sites = append(m.sites, filepath.Join(dir, name))
		s, err := posix.Open(posix.Options{Dir: m.sites[i]})
		must(t, err)
		t.Cleanup(func() { must(t, s.Close()) })
		lo.RSEs = append(lo.RSEs, &lake.RSE{RSE: backends.RSE{Name: name, Kind: backends.DiskKind}, Storage: s, Distance: i})
		lo.WriteRules = append(lo.WriteRules, backends.Rule{Copies: 1, Expression: name})
	}
	l, err := lake.New(lo)
	must(t, err)
	t.Cleanup(l.Close)
	m.hot, err = cache.Open(cache.Options{Dir: filepath.Join(dir, "hot"), Limit: 1 << 30,
		NewHash: func(a ...string) cache.Hasher { return checksum.New(a...) }})
	must(t, err)
	t.Cleanup(func() { must(t, m.hot.Close()) })
	j, err := journal.Open(journal.Options{Dir: filepath.Join(dir, "journal"), Algs: checksum.Default,
		NewHash: func(a ...string) journal.Hasher { return checksum.New(a...) }})
	must(t, err)
	t.Cleanup(func() { must(t, j.Close()) })
	m.v, err = vfs.New(vfs.Options{Lake: l, Cache: m.hot, Journal: j, Nodes: nodes, Delay: 10 * time.Millisecond, Log: log})
	must(t, err)
	t.Cleanup(func() { must(t, m.v.Close()) })
	o.VFS, o.Mountpoint, o.Log = m.v, m.mnt, log
	m.srv, err = fs.Mount(o)
	if err != nil {
		cannot(t, err)
	}
	noPoll(t, m.mnt)
	t.Cleanup(func() {
		for range 50 {
			if err = m.srv.Unmount(); err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("unmount: %v", err)
		unix.Unmount(m.mnt, unix.MNT_DETACH)
	})
	must(t, os.Mkdir(m.at("/ctao"), 0o755))
	return m
}

func (m *mounted) at(p string) string { return m.mnt + p }

// drain waits until all is safe.
func (m *mounted) drain() {
	m.t.Helper()
	c, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	must(m.t, m.v.Drain(c, nil))
}

func (m *mounted) open(p string, flags int) *os.File {
	m.t.Helper()
	f, err := os.OpenFile(m.at(p), flags, 0o644)
	must(m.t, err)
	m.t.Cleanup(func() { f.Close() })
	return f
}

func want(t *testing.T, what string, f io.ReaderAt, b []byte) {
	t.Helper()
	got := make([]byte, len(b)+1)
	n, err := f.ReadAt(got, 0)
	if err != nil && err != io.EOF || !bytes.Equal(got[:n], b) {
		t.Fatalf("%s: %d bytes, %v, not the %d expected", what, n, err, len(b))
	}
}

// wantNew reads through a handle of its own.
func (m *mounted) wantNew(what, p string, b []byte) {
	m.t.Helper()
	f := m.open(p, os.O_RDONLY)
	defer f.Close()
	want(m.t, what, f, b)
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// TestWriteUnderPassthrough: a file that somebody reads by passthrough can be opened for
// writing, written, truncated and read anew, and the reader keeps what it has (W7).
func TestWriteUnderPassthrough(t *testing.T) {
	m := mount(t, fs.Options{})
	if !m.srv.Passthrough() {
		if os.Getuid() == 0 {
			needed.Missing(t, "no passthrough: it needs Linux 6.9")
		}
		t.Skip("passthrough needs root")
	}
	m.srv.SetRest(0) // so that each round's reader has it
	b := random(200000)
	must(t, os.WriteFile(m.at("/ctao/f"), b, 0o644))
	m.drain()
	for round, flags := range []int{os.O_RDWR, os.O_WRONLY, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND} {
		time.Sleep(50 * time.Millisecond) // for what the kernel releases behind the last close
		reader := m.open("/ctao/f", os.O_RDONLY)
		want(t, "before", reader, b)
		st0, err := reader.Stat()
		must(t, err)
		writer := m.open("/ctao/f", flags)
		now := bytes.Clone(b)
		switch {
		case flags&os.O_TRUNC != 0:
			now = random(1000)
			_, err = writer.WriteAt(now, 0)
		case flags&os.O_APPEND != 0:
			now = append(now, "more"...)
			_, err = writer.Write([]byte("more"))
		default:
			copy(now[100:], fmt.Sprint("round", round))
			_, err = writer.WriteAt([]byte(fmt.Sprint("round", round)), 100)
		}
		must(t, err)
		if flags == os.O_RDWR {
			want(t, "through the writer", writer, now)
		}
		m.wantNew("opened beside the writer", "/ctao/f", now)
		want(t, "through the older handle", reader, b)
		must(t, writer.Close())
		m.wantNew("opened after the close", "/ctao/f", now)
		m.drain()
		m.wantNew("opened when it is safe", "/ctao/f", now)
		want(t, "through the older handle at the end", reader, b)
		st, err := os.Stat(m.at("/ctao/f"))
		must(t, err)
		if !os.SameFile(st0, st) || st.Size() != int64(len(now)) {
			t.Fatalf("another inode, or size %d", st.Size())
		}
		must(t, os.Chmod(m.at("/ctao/f"), 0o600+os.FileMode(round)))
		must(t, reader.Close())
		b = now
	}
	must(t, os.Rename(m.at("/ctao/f"), m.at("/ctao/g")))
	last := m.open("/ctao/g", os.O_RDWR)
	want(t, "renamed", last, b)
	must(t, os.Remove(m.at("/ctao/g")))
	must(t, last.Close())
	for range 500 { // until the kernel forgets it
		if m.srv.Twins() == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d twins of a file that is gone", m.srv.Twins())
}

// TestCorruptPagesGo: wrong bytes that a reader was given before the whole was verified
// are not served from the page cache to the next (R5).
func TestCorruptPagesGo(t *testing.T) {
	m := mount(t, fs.Options{NoPassthrough: true})
	b := random(20 << 20)
	must(t, os.WriteFile(m.at("/ctao/f"), b, 0o644))
	m.drain()
	n, err := m.v.Resolve(ctx, "/ctao/f")
	must(t, err)
	in := n.Info()
	n.Forget(1)
	reps, err := m.cat.Replicas(ctx, in.DID)
	must(t, err)
	for _, r := range reps {
		if r.RSE == "A" {
			p := filepath.Join(m.sites[0], r.PFN)
			must(t, os.Chmod(p, 0o600))
			f, err := os.OpenFile(p, os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("WRONG"), 5000)
			must(t, err)
			must(t, f.Close())
		}
	}
	must(t, m.hot.Drop(cache.Key(in.Generation)))
	m.v.Changed(ctx, "/ctao/f")
	if _, err := m.v.Evict(ctx, in); err != nil {
		t.Fatal(err)
	}
	for try := range 3 {
		got, err := os.ReadFile(m.at("/ctao/f"))
		t.Logf("try %d: %d bytes, %v", try, len(got), err)
		if err == nil && !bytes.Equal(got, b) {
			t.Fatalf("try %d: wrong bytes passed as the whole file", try)
		}
	}
}

// fill puts names into a directory of the catalogue.
func (m *mounted) fill(dir string, n int) {
	m.t.Helper()
	must(m.t, os.Mkdir(m.at(dir), 0o755))
	entries := func(yield func(backends.Entry, error) bool) {
		for i := range n {
			did := backends.DID{Scope: "ctao", Name: fmt.Sprintf("%s/f%05d", dir, i)}
			if !yield(backends.Entry{Info: backends.Info{DID: did, Type: backends.File, Mode: 0o644}}, nil) {
				return
			}
		}
	}
	_, err := m.cat.Import(ctx, iter.Seq2[backends.Entry, error](entries))
	must(m.t, err)
}

// names reads on from where the directory is, up to about max names.
func names(t *testing.T, fd, max int) (out []string) {
	t.Helper()
	buf := make([]byte, 4096)
	for len(out) < max {
		n, err := unix.Getdents(fd, buf)
		must(t, err)
		if n == 0 {
			return out
		}
		_, _, out = unix.ParseDirent(buf[:n], -1, out)
	}
	return out
}

// TestListWhileOthersList: a process that reads a directory slowly and removes what it has
// seen meets each name once, whatever other processes read and change meanwhile (N4).
func TestListWhileOthersList(t *testing.T) {
	m := mount(t, fs.Options{})
	m.fill("/ctao/d", 1200)
	_, err := os.ReadDir(m.at("/ctao/d")) // the kernel keeps it
	must(t, err)
	fd, err := unix.Open(m.at("/ctao/d"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(fd)
	seen := map[string]int{}
	for round := 0; ; round++ {
		got := names(t, fd, 400)
		if len(got) == 0 {
			break
		}
		for _, n := range got {
			seen[n]++
			must(t, os.Remove(m.at("/ctao/d/"+n)))
		}
		must(t, os.WriteFile(m.at(fmt.Sprintf("/ctao/d/a%d", round)), nil, 0o644))
		_, err := os.ReadDir(m.at("/ctao/d"))
		must(t, err)
	}
	for i := range 1200 {
		if n := fmt.Sprintf("f%05d", i); seen[n] != 1 {
			t.Fatalf("%s was seen %d times", n, seen[n])
		}
	}
}

// TestRandomOperations: several processes create, write, rename, replace and remove files
// in directories that they share, while uploads run; each finds what it left.
func TestRandomOperations(t *testing.T) {
	m := mount(t, fs.Options{})
	must(t, os.Mkdir(m.at("/ctao/d"), 0o755))
	must(t, os.Mkdir(m.at("/ctao/e"), 0o755))
	end := time.Now().Add(3 * time.Second)
	var wg sync.WaitGroup
	for p := range 6 {
		wg.Go(func() {
			rng := mrand.New(mrand.NewPCG(uint64(p), 1))
			has := map[string][]byte{}
			name := func() string {
				return m.at(fmt.Sprintf("/ctao/%c/%d-%d", 'd'+rune(rng.IntN(2)), p, rng.IntN(4)))
			}
			check := func(err error, what, p string) {
				if err != nil {
					t.Errorf("%s %s: %v", what, p, err)
				}
			}
			for time.Now().Before(end) && !t.Failed() {
				a, b := name(), name()
				old, there := has[a]
				switch rng.IntN(7) {
				case 0, 1:
					has[a] = random(rng.IntN(50000))
					check(os.WriteFile(a, has[a], 0o644), "write", a)
				case 2:
					if there && len(old) > 10 {
						f, err := os.OpenFile(a, os.O_RDWR, 0)
						check(err, "open", a)
						now := bytes.Clone(old)
						copy(now[5:], "CHANGED"[:min(7, len(now)-5)])
						_, err = f.WriteAt([]byte("CHANGED")[:min(7, len(now)-5)], 5)
						check(err, "write into", a)
						check(f.Close(), "close", a)
						has[a] = now
					}
				case 3:
					if there && a != b {
						check(os.Rename(a, b), "rename", a)
						has[b] = old
						delete(has, a)
					}
				case 4:
					if there {
						check(os.Remove(a), "remove", a)
						delete(has, a)
					}
				case 5:
					if there {
						n := int64(rng.IntN(len(old) + 1))
						check(os.Truncate(a, n), "truncate", a)
						has[a] = old[:n]
					}
				default:
					_, err := os.ReadDir(filepath.Dir(a))
					check(err, "list", a)
				}
				for f, want := range has {
					got, err := os.ReadFile(f)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: %d bytes, %v; %d were written", f, len(got), err, len(want))
						return
					}
					break
				}
			}
			m.drain()
			for f, want := range has {
				if got, err := os.ReadFile(f); err != nil || !bytes.Equal(got, want) {
					t.Errorf("at the end %s: %d bytes, %v; %d were written", f, len(got), err, len(want))
				}
			}
		})
	}
	wg.Wait()
}
