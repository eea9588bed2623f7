package vfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/checksum"
	"tarn/backends/lake"
	"tarn/cache/journal"
	"tarn/fs/vfs"
)

// until polls for a while.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// state is the state of the unsent content at p, "" for none.
func (w *world) state(p string) journal.State {
	for _, u := range w.v.Uploads() {
		if u.Path == p {
			return u.State
		}
	}
	return ""
}

// registered waits until p is in the catalogue and waits for its tape copy.
func (w *world) registered(p string) {
	w.t.Helper()
	until(w.t, p+" is registered", func() bool { return w.state(p) == journal.Ruled })
}

func (w *world) openFile(p string, flags int) *vfs.Handle {
	w.t.Helper()
	n, err := w.v.Resolve(ctx, p)
	must(w.t, err)
	defer n.Forget(1)
	h, err := w.v.Open(ctx, n, flags, vfs.Caller{})
	must(w.t, err)
	return h
}

func (w *world) shut(h *vfs.Handle) {
	w.t.Helper()
	must(w.t, h.Flush(ctx, vfs.Caller{}))
	h.Release()
}

// TestWriteAfterRestart: what was registered before a crash is not written in place after
// it, even before its upload is taken up again: its copies belong to that content (W7).
func TestWriteAfterRestart(t *testing.T) {
	w := newSlowWorld(t, vfs.Options{Delay: time.Millisecond})
	const files = 40
	name := func(i int) string { return fmt.Sprintf("/ctao/f%02d", i) }
	var old, now [files][]byte
	for i := range files {
		old[i] = random(5000)
		w.write(name(i), old[i])
	}
	for i := range files {
		w.registered(name(i))
	}
	w.opt.Uploads = 1 // most of them wait for their turn after the restart
	w.reopen()
	for i := range files {
		h := w.openFile(name(i), os.O_RDWR)
		now[i] = bytes.Clone(old[i])
		copy(now[i][500:], "CHANGED")
		_, err := h.WriteAt(ctx, []byte("CHANGED"), 500)
		must(t, err)
		w.shut(h)
	}
	for i := range files {
		var past backends.Past
		until(t, "the new content is registered", func() bool {
			for p, err := range w.cat.Pasts(ctx, backends.DID{Scope: "ctao", Name: name(i)}) {
				must(t, err)
				past = p
				return true
			}
			return false
		})
		for _, r := range past.Replicas {
			if r.RSE != "DISK" {
				continue
			}
			got, err := os.ReadFile(filepath.Join(w.dir, "disk", r.PFN))
			must(t, err)
			if !bytes.Equal(got, old[i]) {
				t.Errorf("%s: the replica of the old generation was overwritten", name(i))
			}
		}
		w.want(name(i), now[i])
	}
}

// TestFailedTruncate: a truncate for which there is no room leaves a closed file closed,
// and on its way (W6).
func TestFailedTruncate(t *testing.T) {
	w := (&world{t: t, dir: t.TempDir(), opt: vfs.Options{Delay: 200 * time.Millisecond}, limit: 64 << 20}).start()
	b := random(1000)
	w.write("/ctao/f", b)
	n, err := w.v.Resolve(ctx, "/ctao/f")
	must(t, err)
	size := int64(1 << 40)
	if err := w.v.SetAttr(ctx, n, vfs.SetAttr{Size: &size}); !errors.Is(err, backends.ErrNoSpace) {
		t.Fatalf("truncate to 1 TiB: %v", err)
	}
	n.Forget(1)
	w.want("/ctao/f", b)
	w.drain()
	if _, err := w.cat.Stat(ctx, backends.DID{Scope: "ctao", Name: "/ctao/f"}); err != nil {
		t.Fatal(err)
	}
}

// TestUnlinkedCopy: a file that is unlinked while its upload runs and then written into
// leaves nothing in the journal after its last close.
func TestUnlinkedCopy(t *testing.T) {
	w := newSlowWorld(t, vfs.Options{})
	b := random(1 << 20)
	w.write("/ctao/f", b)
	w.registered("/ctao/f")
	h := w.openFile("/ctao/f", os.O_RDWR)
	must(t, w.unlink("/ctao/f"))
	_, err := h.WriteAt(ctx, []byte("x"), 1<<19)
	must(t, err)
	b[1<<19] = 'x'
	got := make([]byte, len(b))
	_, err = h.ReadAt(ctx, got, 0, vfs.Caller{})
	must(t, err)
	if !bytes.Equal(got, b) {
		t.Fatal("wrong bytes through the handle")
	}
	w.shut(h)
	if up := w.v.Uploads(); len(up) != 0 {
		t.Fatalf("left: %+v", up)
	}
}

// TestWriteWhileSettling: a file can be written at any moment of its way into the cache.
func TestWriteWhileSettling(t *testing.T) {
	w := newWorld(t, vfs.Options{Delay: time.Millisecond})
	b := random(4 << 20)
	for i := range 12 {
		w.write("/ctao/f", b)
		h := w.openFile("/ctao/f", os.O_RDWR)
		for w.state("/ctao/f") != "" && i%3 != 0 {
			time.Sleep(time.Millisecond)
		}
		b[i]++
		if _, err := h.WriteAt(ctx, b[i:i+1], int64(i)); err != nil {
			t.Fatal(err)
		}
		w.shut(h)
		w.want("/ctao/f", b)
	}
	w.drain()
	w.want("/ctao/f", b)
}

// TestRottenLocally: an unsent file whose bytes changed on the local disk after its close
// is an error for readers and is not uploaded, and can be written anew.
func TestRottenLocally(t *testing.T) {
	w := newWorld(t, vfs.Options{Delay: time.Hour})
	b := random(10000)
	w.write("/ctao/f", b)
	id := w.v.Uploads()[0].ID
	w.crash(func() {
		f, err := os.OpenFile(filepath.Join(w.dir, "journal", id+".data"), os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt([]byte{b[77] ^ 1}, 77)
		must(t, err)
		must(t, f.Close())
	})
	until(t, "it is found", func() bool { return w.v.Uploads()[0].Error != "" })
	if _, err := w.read("/ctao/f"); !errors.Is(err, backends.ErrCorrupt) {
		t.Fatalf("read: %v", err)
	}
	now := random(100)
	w.write("/ctao/f", now)
	w.want("/ctao/f", now)
	w.hasten("/ctao/f")
	w.drain()
	w.want("/ctao/f", now)
}

// TestRottenSinceTheClose: what is found to have rotted after the close that read it is told as
// that by its upload, which does not try again.
func TestRottenSinceTheClose(t *testing.T) {
	w := newWorld(t, vfs.Options{Delay: time.Hour})
	b := random(10000)
	w.write("/ctao/f", b)
	e := w.jrnl.Entries()[0]
	f, err := os.OpenFile(e.Path(), os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{b[77] ^ 1}, 77)
	must(t, err)
	must(t, f.Close())
	if err := e.Verify(); !errors.Is(err, journal.ErrDamaged) {
		t.Fatal(err)
	}
	w.hasten("/ctao/f")
	until(t, "it is told", func() bool { return e.Record().Attempts > 0 })
	if up := w.v.Uploads()[0]; !strings.Contains(up.Error, "changed on disk") || len(e.Record().Copies) != 0 {
		t.Fatalf("%+v", up)
	}
}

// writeFast writes a big file so fast that its checksums come late.
func (w *world) writeFast(p string) ([]byte, *journal.Entry) {
	w.t.Helper()
	b := bytes.Repeat(random(1<<20), 80)
	for range 10 {
		w.write(p, b)
		if e := w.jrnl.Entries()[0]; e.Record().SumsLate {
			return b, e
		}
		must(w.t, w.unlink(p))
	}
	w.t.Fatal("its checksums were never late: this machine writes too slowly")
	return nil, nil
}

// TestSlowChecksumsComeBeforeTheUpload: of a big file that was written fast no checksum is
// shown until all are known, and none is registered without. That holds over a restart.
func TestSlowChecksumsComeBeforeTheUpload(t *testing.T) {
	for _, restart := range []bool{false, true} {
		w := newWorld(t, vfs.Options{Delay: time.Hour})
		b, _ := w.writeFast("/ctao/f")
		var stored []backends.Checksums
		w.onCommit = func(want backends.Checksums) { stored = append(stored, want) }
		shown := func() string {
			n, err := w.v.Resolve(ctx, "/ctao/f")
			must(t, err)
			defer n.Forget(1)
			x, err := w.v.GetXattr(ctx, n, "user.tarn.checksum")
			if err != nil && !errors.Is(err, vfs.ErrNoAttr) {
				t.Fatal(err)
			}
			return string(x)
		}
		if x, in := shown(), w.stat("/ctao/f"); x != "" || !in.Checksums.IsZero() {
			t.Fatalf("before they are known: %s, %v", x, in.Checksums)
		}
		w.want("/ctao/f", b)
		if restart {
			w.crash(func() {})
		} else {
			w.hasten("/ctao/f")
		}
		w.drain()
		h := checksum.New()
		h.Write(b)
		if in := w.stat("/ctao/f"); in.Checksums != h.Sum() {
			t.Fatalf("registered with %+v", in.Checksums)
		}
		if x := shown(); x != h.Sum().String() {
			t.Fatal(x)
		}
		if len(stored) != 1 || stored[0] != h.Sum() {
			t.Fatalf("stored with %+v", stored)
		}
		w.want("/ctao/f", b)
		w.close()
	}
}

// TestRottenBeforeTheSlowChecksums: what rots between the close of a big file and the look
// at it before its upload is not uploaded, and gets no checksums of the rot.
func TestRottenBeforeTheSlowChecksums(t *testing.T) {
	w := newWorld(t, vfs.Options{Delay: time.Hour})
	b, e := w.writeFast("/ctao/f")
	f, err := os.OpenFile(e.Path(), os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{b[77] ^ 1}, 77)
	must(t, err)
	must(t, f.Close())
	w.hasten("/ctao/f")
	until(t, "it is found", func() bool { return w.v.Uploads()[0].Error != "" })
	if r := e.Record(); !r.Damaged || len(r.Sums) != 1 || len(r.Copies) != 0 {
		t.Fatalf("%+v", r)
	}
	if left := w.stored(); len(left) != 0 {
		t.Fatalf("at the storage: %v", left)
	}
	if _, err := w.read("/ctao/f"); !errors.Is(err, backends.ErrCorrupt) {
		t.Fatalf("read: %v", err)
	}
	if in := w.stat("/ctao/f"); !in.Checksums.IsZero() {
		t.Fatal(in.Checksums)
	}
}

// TestSlowChecksumsOfWhatIsThere: a file that was uploaded before a crash, and of which nothing
// has to be read for that reason, gets its slow checksums all the same before it counts as stored.
func TestSlowChecksumsOfWhatIsThere(t *testing.T) {
	w := newWorld(t, vfs.Options{Delay: time.Hour})
	b, e := w.writeFast("/ctao/f")
	h := checksum.New()
	h.Write(b)
	rse, ok := w.lake.RSE("DISK")
	if !ok {
		t.Fatal("no RSE of this name")
	}
	pfn := w.lake.NewPFN(backends.DID{Scope: "ctao", Name: "/ctao/f"}, e.ID())
	_, err := w.lake.Store(ctx, rse, pfn, bytes.NewReader(b), int64(len(b)), h.Sum(), nil)
	must(t, err)
	must(t, e.Update(func(r *journal.Record) { r.Copies = []journal.Copy{{RSE: "DISK", PFN: pfn}} }))
	w.hasten("/ctao/f")
	w.drain()
	if in := w.stat("/ctao/f"); in.Checksums != h.Sum() {
		t.Fatalf("registered with %+v", in.Checksums)
	}
	if s := w.v.Stats(); s.UploadErrors != 0 {
		t.Fatalf("%d uploads failed", s.UploadErrors)
	}
}

// Each byte that is sent counts once, however many steps it takes.
func TestSentBytes(t *testing.T) {
	w := newWorld(t, vfs.Options{Delay: time.Hour})
	b := bytes.Repeat([]byte("0123456789"), 500_000)
	w.write("/ctao/f", b)
	w.hasten("/ctao/f")
	w.drain()
	if s := w.v.Stats(); s.Uploads == 0 || s.SentBytes != s.Uploads*int64(len(b)) {
		t.Errorf("%d uploads of %d bytes: %d were sent", s.Uploads, len(b), s.SentBytes)
	}
}

// TestReplacedFromOutside: a file that was registered here and then replaced by another
// client of the catalogue is read with the content that is current.
func TestReplacedFromOutside(t *testing.T) {
	w := newSlowWorld(t, vfs.Options{})
	w.write("/ctao/other", random(2000))
	now := random(3000)
	w.write("/ctao/other", now)
	w.write("/ctao/f", random(1000))
	w.registered("/ctao/f")
	w.registered("/ctao/other")
	h := w.openFile("/ctao/f", os.O_RDONLY)
	in := w.stat("/ctao/f")
	other := w.stat("/ctao/other")
	reps, err := w.cat.Replicas(ctx, other.DID)
	must(t, err)
	in.Size, in.Checksums, in.Generation, in.Inode = other.Size, other.Checksums, other.Generation, 0
	must(t, w.cat.Add(ctx, in, nil, reps[0]))
	until(t, "the older content is given up", func() bool { return w.state("/ctao/f") == "" })
	h.Release()
	w.want("/ctao/f", now)
}

// TestReadWhileSettling: a file can be read at every moment of its way into the cache,
// also when nobody had it open before.
func TestReadWhileSettling(t *testing.T) {
	w := newSlowWorld(t, vfs.Options{Delay: time.Millisecond})
	const files = 40
	b := random(30000)
	for i := range files {
		w.write(fmt.Sprintf("/ctao/f%d", i), b)
	}
	for i := range files {
		w.registered(fmt.Sprintf("/ctao/f%d", i))
	}
	w.slow = 0
	w.reopen()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for len(w.v.Uploads()) > 0 {
				for i := range files {
					p := fmt.Sprintf("/ctao/f%d", i)
					if got, err := w.read(p); err != nil || !bytes.Equal(got, b) {
						t.Errorf("%s: %d bytes, %v", p, len(got), err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// farStorage lets every new file wait as a server far away does, and counts how many do at a time.
type farStorage struct {
	backends.Storage
	wait      time.Duration
	now, most *atomic.Int64
}

func (s farStorage) Create(ctx context.Context, path string, size int64) (backends.Upload, error) {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for was := s.most.Load(); n > was && !s.most.CompareAndSwap(was, n); was = s.most.Load() {
	}
	time.Sleep(s.wait)
	return s.Storage.Create(ctx, path, size)
}

// Of small files that wait for a server far away, many go at a time; of large ones a few.
func TestUploadsAtATime(t *testing.T) {
	var now, most atomic.Int64
	w := &world{t: t, dir: t.TempDir(), opt: vfs.Options{Delay: time.Millisecond}}
	w.tune = func(_ *embedded.Options, lo *lake.Options) {
		for _, r := range lo.RSEs {
			if r.Name == "DISK" {
				r.Storage = farStorage{r.Storage, 100 * time.Millisecond, &now, &most}
			}
		}
		lo.WriteRules = []backends.Rule{{Copies: 1, Expression: "DISK"}}
	}
	w.start()
	for i := range 300 {
		w.write(fmt.Sprintf("/ctao/s%03d", i), []byte(strconv.Itoa(i)))
	}
	must(t, w.v.Drain(ctx, nil))
	if n := most.Load(); n < 8 || n > 32 {
		t.Errorf("%d small files at a time", n)
	}
	most.Store(0)
	big := make([]byte, 16<<20+1)
	for i := range 12 {
		w.write(fmt.Sprintf("/ctao/b%02d", i), big)
	}
	must(t, w.v.Drain(ctx, nil))
	if n := most.Load(); n > 4 {
		t.Errorf("%d large files at a time", n)
	}
	w.want("/ctao/s299", []byte("299"))
}
