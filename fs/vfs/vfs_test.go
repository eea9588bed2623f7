package vfs_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/checksum"
	"tarn/backends/lake"
	"tarn/backends/storage/posix"
	"tarn/backends/tape/library"
	"tarn/cache"
	"tarn/cache/journal"
	"tarn/fs/vfs"
)

// world is an embedded lake with a disk and a tape RSE, and the state to reopen it.
type world struct {
	t     *testing.T
	dir   string
	opt   vfs.Options
	limit int64   // limit of the hot cache, 0: 1 GiB
	slow  float64 // speed of the tape library, 0: as fast as it goes
	cat   *embedded.Catalogue
	disk  *posix.Storage
	tape  *library.Library
	lake  *lake.Lake
	hot   *cache.Cache
	jrnl  *journal.Journal
	v     *vfs.FS

	onRemove func() // runs before the disk removes a copy
	onCreate func() // runs before the disk begins one
	tune     func(*embedded.Options, *lake.Options)
	onCommit func(want backends.Checksums)
}

// watched is a disk that tells of what it is about to do.
type watched struct {
	*posix.Storage
	w *world
}

func (s watched) Create(ctx context.Context, path string, size int64) (backends.Upload, error) {
	if f := s.w.onCreate; f != nil {
		f()
	}
	u, err := s.Storage.Create(ctx, path, size)
	if f := s.w.onCommit; f != nil && err == nil {
		u = watchedUpload{u, f}
	}
	return u, err
}

type watchedUpload struct {
	backends.Upload
	onCommit func(want backends.Checksums)
}

func (u watchedUpload) Commit(ctx context.Context, want backends.Checksums) (backends.Checksums, error) {
	u.onCommit(want)
	return u.Upload.Commit(ctx, want)
}

func (s watched) Remove(ctx context.Context, path string) error {
	if f := s.w.onRemove; f != nil {
		f()
	}
	return s.Storage.Remove(ctx, path)
}

func newWorld(t *testing.T, o vfs.Options) *world {
	return (&world{t: t, dir: t.TempDir(), opt: o}).start()
}

// newSlowWorld is newWorld with a tape library that needs minutes to write a file, so
// that what is registered does not become SAFE.
func newSlowWorld(t *testing.T, o vfs.Options) *world {
	return (&world{t: t, dir: t.TempDir(), opt: o, slow: 1}).start()
}

func (w *world) start() *world {
	t := w.t
	w.open()
	t.Cleanup(w.close)
	n, err := w.v.Mkdir(ctx, w.v.Root(), "ctao", 0o755, vfs.Caller{})
	must(t, err)
	n.Forget(1)
	return w
}

var ctx = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) open() {
	t := w.t
	t.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var err error
	must(t, os.MkdirAll(filepath.Join(w.dir, "cat"), 0o700))
	co := embedded.Options{Dir: filepath.Join(w.dir, "cat"), FreeFloor: 1, Log: log}
	if w.tune != nil {
		w.tune(&co, &lake.Options{})
	}
	w.cat, err = embedded.Open(co)
	must(t, err)
	for _, d := range []string{"disk", "tape"} {
		must(t, os.MkdirAll(filepath.Join(w.dir, d), 0o755))
	}
	w.disk, err = posix.Open(posix.Options{Dir: filepath.Join(w.dir, "disk"), Log: log})
	must(t, err)
	w.tape, err = library.Open(library.Options{Dir: filepath.Join(w.dir, "tape"), Speed: cmp.Or(w.slow, 1e5), Cartridges: 4, Log: log})
	must(t, err)
	lo := lake.Options{
		Catalogue: w.cat, Namespace: w.cat, Versions: w.cat, Rules: w.cat, Log: log, HoldWindow: 20 * time.Millisecond,
		RSEs: []*lake.RSE{
			{RSE: backends.RSE{Name: "DISK", Kind: backends.DiskKind}, Storage: watched{w.disk, w}},
			{RSE: backends.RSE{Name: "TAPE", Kind: backends.TapeKind}, Storage: w.tape, Tape: w.tape, Distance: 1},
		},
		WriteRules: []backends.Rule{{Copies: 1, Expression: "rse_type=DISK"}, {Copies: 1, Expression: "rse_type=TAPE"}},
	}
	if w.tune != nil {
		w.tune(&embedded.Options{}, &lo)
	}
	w.lake, err = lake.New(lo)
	must(t, err)
	w.hot, err = cache.Open(cache.Options{Dir: filepath.Join(w.dir, "hot"), Limit: cmp.Or(w.limit, 1<<30), Log: log,
		NewHash: func(a ...string) cache.Hasher { return checksum.New(a...) }})
	must(t, err)
	w.jrnl, err = journal.Open(journal.Options{Dir: filepath.Join(w.dir, "journal"), Algs: checksum.Default, Log: log,
		NewHash: func(a ...string) journal.Hasher { return checksum.New(a...) }})
	must(t, err)
	o := w.opt
	o.Lake, o.Cache, o.Journal, o.Log = w.lake, w.hot, w.jrnl, log
	if o.Delay == 0 {
		o.Delay = 20 * time.Millisecond
	}
	w.v, err = vfs.New(o)
	must(t, err)
}

func (w *world) close() {
	w.t.Helper()
	if w.v == nil {
		return
	}
	must(w.t, w.v.Close())
	w.lake.Close()
	must(w.t, w.jrnl.Close())
	must(w.t, w.hot.Close())
	must(w.t, w.tape.Close())
	must(w.t, w.disk.Close())
	must(w.t, w.cat.Close())
	w.v = nil
}

func (w *world) reopen() { w.close(); w.open() }

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	fmt.Fprintf(os.Stderr, "%s: %s", w.t.Name(), p)
	return len(p), nil
}

// dir resolves a directory, making it if need be; the node is never forgotten.
func (w *world) mkdir(p string) *vfs.Node {
	w.t.Helper()
	n, err := w.v.Resolve(ctx, p)
	if errors.Is(err, backends.ErrNotExist) {
		n, err = w.v.Mkdir(ctx, w.mkdir(filepath.Dir(p)), filepath.Base(p), 0o755, vfs.Caller{})
	}
	must(w.t, err)
	return n
}

func (w *world) write(p string, b []byte) {
	w.t.Helper()
	n, h, err := w.v.Create(ctx, w.mkdir(filepath.Dir(p)), filepath.Base(p), os.O_RDWR|os.O_TRUNC, 0o644, vfs.Caller{})
	must(w.t, err)
	for off := 0; off < len(b); {
		k, err := h.WriteAt(ctx, b[off:min(off+100000, len(b))], int64(off))
		must(w.t, err)
		off += k
	}
	must(w.t, h.Flush(ctx, vfs.Caller{}))
	h.Release()
	n.Forget(1)
}

func (w *world) read(p string) ([]byte, error) {
	n, err := w.v.Resolve(ctx, p)
	if err != nil {
		return nil, err
	}
	defer n.Forget(1)
	h, err := w.v.Open(ctx, n, os.O_RDONLY, vfs.Caller{})
	if err != nil {
		return nil, err
	}
	defer h.Release()
	b := make([]byte, n.Info().Size+1)
	k, err := io.NewSectionReader(handleReader{h}, 0, 1<<40).ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	return b[:k], err
}

type handleReader struct{ h *vfs.Handle }

func (r handleReader) ReadAt(p []byte, off int64) (int, error) {
	return r.h.ReadAt(ctx, p, off, vfs.Caller{})
}

func (w *world) want(p string, b []byte) {
	w.t.Helper()
	got, err := w.read(p)
	if err != nil {
		w.t.Fatalf("read %s: %v", p, err)
	}
	if !bytes.Equal(got, b) {
		w.t.Fatalf("%s: %d bytes read differ from the %d written", p, len(got), len(b))
	}
}

func (w *world) gone(p string) {
	w.t.Helper()
	if _, err := w.v.Resolve(ctx, p); !errors.Is(err, backends.ErrNotExist) {
		w.t.Fatalf("%s: %v, want ErrNotExist", p, err)
	}
}

func (w *world) drain() {
	w.t.Helper()
	c, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if err := w.v.Drain(c, nil); err != nil {
		w.t.Fatalf("drain: %v; left: %+v", err, w.v.Uploads())
	}
}

func (w *world) rename(from, to string) error {
	return w.v.Rename(ctx, w.mkdir(filepath.Dir(from)), filepath.Base(from), w.mkdir(filepath.Dir(to)), filepath.Base(to), 0)
}

func (w *world) unlink(p string) error {
	return w.v.Unlink(ctx, w.mkdir(filepath.Dir(p)), filepath.Base(p))
}

func (w *world) names(p string) (out []string) {
	w.t.Helper()
	for after := ""; ; {
		es, err := w.v.List(ctx, w.mkdir(p), after)
		must(w.t, err)
		if len(es) == 0 {
			return out
		}
		for _, e := range es {
			out = append(out, e.Name)
		}
		after = es[len(es)-1].Name
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// TestWriteBecomesSafe follows W1, W6: a closed file is seen at once, becomes two
// verified replicas, one on tape, and is read from the hot cache, and from the sites
// through an empty cache.
func TestWriteBecomesSafe(t *testing.T) {
	w := newWorld(t, vfs.Options{})
	b := random(3<<20 + 17)
	w.write("/ctao/dl3/run1.fits", b)
	w.want("/ctao/dl3/run1.fits", b)
	ino := w.stat("/ctao/dl3/run1.fits").Inode
	w.drain()
	w.want("/ctao/dl3/run1.fits", b)
	in := w.stat("/ctao/dl3/run1.fits")
	if in.Inode != ino || in.Size != int64(len(b)) || in.Checksums.SHA256 == "" {
		t.Fatalf("published as %+v, inode was %d (N6)", in, ino)
	}
	reps, err := w.cat.Replicas(ctx, in.DID)
	must(t, err)
	if len(reps) != 2 || reps[0].Verified.IsZero() || reps[1].Verified.IsZero() {
		t.Fatalf("replicas %+v, want two verified ones", reps)
	}
	for _, r := range reps {
		rse, _ := w.lake.RSE(r.RSE)
		if rse.Tape == nil {
			continue
		}
		if ok, err := w.lake.StoredOnTape(ctx, rse, r.PFN); err != nil || !ok {
			t.Fatalf("SAFE, but on tape: %v %v", ok, err)
		}
	}
	if up := w.v.Uploads(); len(up) != 0 {
		t.Fatalf("left: %+v", up)
	}
	must(t, w.hot.Drop(cache.Key(in.Generation)))
	w.want("/ctao/dl3/run1.fits", b)
}

func (w *world) stat(p string) backends.Info {
	w.t.Helper()
	n, err := w.v.Resolve(ctx, p)
	must(w.t, err)
	defer n.Forget(1)
	return n.Info()
}

// TestRename covers renames of unsent and published files and directories, over each
// other, with the content that the last name must have (N7).
func TestRename(t *testing.T) {
	for _, c := range []struct {
		name         string
		srcPub, dst  bool
		dstPub, both bool // both: the source has an unsent generation over a published one
	}{
		{"unsent to new", false, false, false, false},
		{"unsent over unsent", false, true, false, false},
		{"unsent over published", false, true, true, false},
		{"published to new", true, false, false, false},
		{"published over unsent", true, true, false, false},
		{"published over published", true, true, true, false},
		{"new generation to new", true, false, false, true},
		{"new generation over published", true, true, true, true},
		{"new generation over unsent", true, true, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, vfs.Options{})
			src, dst := random(50000), random(60000)
			if c.dst {
				w.write("/ctao/d/dst", dst)
				if c.dstPub {
					w.drain()
				}
			}
			hold := w.opt.Delay
			_ = hold
			w.write("/ctao/d/src", src)
			if c.srcPub {
				w.drain()
			}
			if c.both {
				src = random(70000)
				w.write("/ctao/d/src", src)
			}
			must(t, w.rename("/ctao/d/src", "/ctao/d/dst"))
			w.gone("/ctao/d/src")
			w.want("/ctao/d/dst", src)
			w.drain()
			w.gone("/ctao/d/src")
			w.want("/ctao/d/dst", src)
			w.reopen()
			w.gone("/ctao/d/src")
			w.want("/ctao/d/dst", src)
			if got := w.names("/ctao/d"); len(got) != 1 {
				t.Fatalf("names %q", got)
			}
		})
	}
	t.Run("directory with unsent and published files", func(t *testing.T) {
		w := newWorld(t, vfs.Options{})
		a, b := random(1000), random(2000)
		w.write("/ctao/old/sub/a", a)
		w.drain()
		w.write("/ctao/old/sub/b", b)
		must(t, w.rename("/ctao/old", "/ctao/new"))
		w.gone("/ctao/old")
		w.want("/ctao/new/sub/a", a)
		w.want("/ctao/new/sub/b", b)
		w.drain()
		w.reopen()
		w.gone("/ctao/old/sub/b")
		w.want("/ctao/new/sub/a", a)
		w.want("/ctao/new/sub/b", b)
	})
}

// TestGenerations: writing in place makes a new generation (W7), and the old one can be
// had back.
func TestGenerations(t *testing.T) {
	w := newWorld(t, vfs.Options{})
	old := random(3 << 20)
	w.write("/ctao/f", old)
	w.drain()
	first := w.stat("/ctao/f")
	n, err := w.v.Resolve(ctx, "/ctao/f")
	must(t, err)
	h, err := w.v.Open(ctx, n, os.O_RDWR, vfs.Caller{})
	must(t, err)
	now := bytes.Clone(old)
	copy(now[1000:], "CHANGED")
	_, err = h.WriteAt(ctx, []byte("CHANGED"), 1000)
	must(t, err)
	must(t, h.Flush(ctx, vfs.Caller{}))
	h.Release()
	w.want("/ctao/f", now)
	w.drain()
	w.want("/ctao/f", now)
	second := w.stat("/ctao/f")
	if second.Inode != first.Inode || second.Generation == first.Generation {
		t.Fatalf("first %v, second %v", first, second)
	}
	var past []backends.Past
	for p, err := range w.cat.Pasts(ctx, second.DID) {
		must(t, err)
		past = append(past, p)
	}
	if len(past) != 1 || past[0].Info.Generation != first.Generation {
		t.Fatalf("pasts %+v", past)
	}
	must(t, w.v.Undelete(ctx, "/ctao/f", past[0].Handle))
	w.want("/ctao/f", old)
}

// TestUnlink: the name goes at once, an open handle keeps the bytes, nothing comes back
// after a restart (W9).
func TestUnlink(t *testing.T) {
	for _, published := range []bool{false, true} {
		t.Run(fmt.Sprintf("published=%v", published), func(t *testing.T) {
			w := newWorld(t, vfs.Options{})
			b := random(100000)
			w.write("/ctao/d/f", b)
			if published {
				w.drain()
			}
			n, err := w.v.Resolve(ctx, "/ctao/d/f")
			must(t, err)
			h, err := w.v.Open(ctx, n, os.O_RDWR, vfs.Caller{})
			must(t, err)
			must(t, w.unlink("/ctao/d/f"))
			w.gone("/ctao/d/f")
			got, err := io.ReadAll(io.NewSectionReader(handleReader{h}, 0, 1<<40))
			if err != nil || !bytes.Equal(got, b) {
				t.Fatalf("through the handle: %d bytes, %v", len(got), err)
			}
			_, err = h.WriteAt(ctx, []byte("x"), 5)
			must(t, err)
			w.write("/ctao/d/f", []byte("another"))
			w.want("/ctao/d/f", []byte("another"))
			must(t, h.Flush(ctx, vfs.Caller{}))
			h.Release()
			n.Forget(1)
			w.want("/ctao/d/f", []byte("another"))
			must(t, w.unlink("/ctao/d/f"))
			w.drain()
			w.reopen()
			w.gone("/ctao/d/f")
			if got := w.names("/ctao/d"); len(got) != 0 {
				t.Fatalf("names %q", got)
			}
		})
	}
}

// TestRecallIsShared: many readers of a tape file make one recall, and one that is
// cancelled ends at once and harms nobody (R2, R3).
func TestRecallIsShared(t *testing.T) {
	w := newWorld(t, vfs.Options{})
	b := random(5 << 20)
	w.write("/ctao/f", b)
	w.drain()
	w.tapeOnly("/ctao/f")
	var wg sync.WaitGroup
	errs := make(chan error, 50)
	for range 50 {
		wg.Go(func() {
			got, err := w.read("/ctao/f")
			if err == nil && !bytes.Equal(got, b) {
				err = errors.New("wrong bytes")
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		must(t, err)
	}
	if s := w.lake.Stats(); s.FilesRecalled != 1 {
		t.Fatalf("%+v, want one recall", s)
	}
}

// tapeOnly takes the disk replica, the tape buffer's copy and the cached bytes away.
func (w *world) tapeOnly(p string) {
	w.t.Helper()
	in := w.stat(p)
	w.offDisk(p)
	must(w.t, w.hot.Drop(cache.Key(in.Generation)))
	locs, err := w.v.Localities(ctx, []backends.Info{w.stat(p)})
	must(w.t, err)
	if locs[0] != backends.Nearline {
		w.t.Fatalf("%s is %s, want NEARLINE", p, locs[0])
	}
}

// offDisk takes the disk replica and the tape buffer's copy away.
func (w *world) offDisk(p string) {
	w.t.Helper()
	in := w.stat(p)
	reps, err := w.cat.Replicas(ctx, in.DID)
	must(w.t, err)
	for _, r := range reps {
		if r.RSE != "DISK" {
			must(w.t, w.tape.EvictBuffer(ctx, r.PFN))
			continue
		}
		must(w.t, w.disk.Remove(ctx, r.PFN))
		must(w.t, w.cat.DropReplica(ctx, in.DID, r.RSE, ""))
	}
}

// TestCorruptReplica: wrong bytes at one site are never read; the site is declared BAD
// and the next one serves (R5).
func TestCorruptReplica(t *testing.T) {
	w := newWorld(t, vfs.Options{})
	b := random(3 << 20)
	w.write("/ctao/f", b)
	w.drain()
	in := w.stat("/ctao/f")
	must(t, w.hot.Drop(cache.Key(in.Generation)))
	reps, err := w.cat.Replicas(ctx, in.DID)
	must(t, err)
	for _, r := range reps {
		if r.RSE == "DISK" {
			p := filepath.Join(w.dir, "disk", r.PFN)
			must(t, os.Chmod(p, 0o600))
			f, err := os.OpenFile(p, os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt([]byte{b[2<<20] ^ 1}, 2<<20)
			must(t, err)
			must(t, f.Close())
		}
	}
	w.want("/ctao/f", b)
	reps, err = w.cat.Replicas(ctx, in.DID)
	must(t, err)
	for _, r := range reps {
		if (r.RSE == "DISK") != (r.State == backends.Bad) {
			t.Errorf("replica %+v", r)
		}
	}
}

// TestListWhilePublishing: a name that stays is seen exactly once by every listing,
// while files go from the journal into the catalogue (N4).
func TestListWhilePublishing(t *testing.T) {
	w := newWorld(t, vfs.Options{Delay: time.Millisecond, Uploads: 8})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	w.mkdir("/ctao/d")
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			seen := map[string]int{}
			for _, n := range w.names("/ctao/d") {
				seen[n]++
				if seen[n] > 1 {
					t.Errorf("%s seen twice", n)
				}
			}
		}
	})
	for i := range 60 {
		w.write(fmt.Sprintf("/ctao/d/f%03d", i), []byte("x"))
		if got := len(w.names("/ctao/d")); got != i+1 {
			t.Errorf("%d names after %d files", got, i+1)
		}
	}
	close(stop)
	wg.Wait()
}

// TestCloseRegistered: close waits for the catalogue (W2).
func TestCloseRegistered(t *testing.T) {
	w := newWorld(t, vfs.Options{Close: vfs.CloseRegistered})
	w.write("/ctao/f", []byte("hello"))
	if _, err := w.cat.Stat(ctx, backends.DID{Scope: "ctao", Name: "/ctao/f"}); err != nil {
		t.Fatal(err)
	}
}
