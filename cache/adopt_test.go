package cache

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/integration/needed"
)

// localFile writes data to a new file of the same file system as the cache, or of another.
func localFile(t *testing.T, dir string, data []byte) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "unsent-*")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Cleanup(func() { os.Remove(f.Name()) })
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func otherFileSystem(t *testing.T, than string) string {
	t.Helper()
	var a, b unix.Stat_t
	if unix.Stat("/dev/shm", &a) != nil || unix.Stat(filepath.Dir(than), &b) != nil || a.Dev == b.Dev {
		needed.Missing(t, "no second file system at hand: /dev/shm is missing or the same")
	}
	dir, err := os.MkdirTemp("/dev/shm", "tarn-cache-test")
	if err != nil {
		needed.Missing(t, "cannot write to /dev/shm: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestAdopt(t *testing.T) {
	for _, where := range []string{"same", "other"} {
		for _, size := range []int{0, 5, 30*kb4 + 1} {
			o := options(t)
			c := open(t, o)
			dir := t.TempDir()
			if where == "other" {
				dir = otherFileSystem(t, o.Dir)
			}
			ct, data := numbered(size, size)
			path := localFile(t, dir, data)
			if err := c.Adopt(ct, path); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(path); !os.IsNotExist(err) {
				t.Error("the file is still there:", err)
			}
			for range 2 {
				f := mustOpen(t, c, ct, nil2(t))
				if !f.Whole() {
					t.Error("not whole")
				}
				if _, ok := f.Passthrough(); !ok && size > 0 {
					t.Error("no passthrough")
				}
				wantBytes(t, f, data)
				shut(t, c)
				c = open(t, o)
			}
		}
	}
}

func TestAdoptRefuses(t *testing.T) {
	o := options(t)
	o.Limit = 20 * kb4
	c := open(t, o)
	dir := t.TempDir()
	ct, data := numbered(0, 8*kb4)
	big, bigData := numbered(1, 30*kb4)
	for _, c2 := range []struct {
		ct   Content
		data []byte
		want error
	}{{ct, flipped(data, 5), ErrCorrupt}, {ct, data[:100], ErrCorrupt}, {ct, append(bytes.Clone(data), 1), ErrCorrupt}, {big, bigData, ErrNoSpace}} {
		path := localFile(t, dir, c2.data)
		wantErr(t, c.Adopt(c2.ct, path), c2.want)
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, c2.data) {
			t.Error("the file was not left alone", err)
		}
		if s := c.Stats(); s.Used != 0 || s.Reserved != 0 || s.Files != 0 {
			t.Errorf("%+v", s)
		}
	}
	if err := c.Adopt(ct, filepath.Join(dir, "none")); err == nil {
		t.Error("adopted nothing")
	}
	// While a fetch waits, e.g. for tape.
	f := mustOpen(t, c, ct, &remote{data: data, onFetch: func(ctx context.Context, n int, bad error) error { <-ctx.Done(); return ctx.Err() }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Fill(ctx) }()
	eventually(t, "it fetches", func() bool { return c.Stats().Reserved > 0 })
	wantErr(t, c.Adopt(ct, localFile(t, dir, data)), ErrBusy)
	if err := c.Seed(ct, bytes.NewReader(data)); err != nil { // the fetch brings more
		t.Error(err)
	}
	cancel()
	<-done
}

// Files that are open go on with the adopted bytes, and what was partial is completed.
func TestAdoptUnderOpenFiles(t *testing.T) {
	o := options(t)
	o.Head, o.Tail = kb4, kb4
	c := open(t, o)
	ct, data := numbered(0, 30*kb4)
	if err := c.Seed(ct, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	f := mustOpen(t, c, ct, nil2(t))
	p := make([]byte, kb4)
	if _, err := f.ReadAt(timeout(t), p, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Adopt(ct, localFile(t, t.TempDir(), data)); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, f, data)
	if _, ok := f.Passthrough(); !ok {
		t.Error("no passthrough")
	}
	// Once more: it is there already.
	path := localFile(t, t.TempDir(), data)
	if err := c.Adopt(ct, path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error("the file is still there")
	}
}

func TestSeed(t *testing.T) {
	for _, c := range []struct {
		size, head, tail int64
		resident         int64
		whole            bool
	}{
		{100 * kb4, 2 * kb4, kb4, 3 * kb4, false},
		{100 * kb4, -1, kb4, kb4, false},
		{100 * kb4, kb4, -1, kb4, false},
		{100*kb4 + 10, 1, 1, kb4 + 10, false},
		{100 * kb4, -1, -1, 0, false},
		{3 * kb4, 2 * kb4, kb4, 3 * kb4, true},
		{10, 100, 100, 10, true},
		{0, 100, 100, 0, true},
	} {
		o := options(t)
		o.Head, o.Tail = c.head, c.tail
		ca := open(t, o)
		ct, data := numbered(7, int(c.size))
		for range 2 { // the second time changes nothing
			if err := ca.Seed(ct, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			if n := resident(ca, ct.Key); n != c.resident {
				t.Errorf("%+v: %d resident", c, n)
			}
		}
		r := &remote{data: data}
		f := mustOpen(t, ca, ct, r)
		if f.Whole() != c.whole {
			t.Errorf("%+v: whole %v", c, f.Whole())
		}
		wantBytes(t, f, data)
		if got := r.bytes.Load(); got != c.size-c.resident {
			t.Errorf("%+v: %d bytes fetched", c, got)
		}
	}
}

func TestSeedRefuses(t *testing.T) {
	o := options(t)
	o.Head, o.Tail, o.Limit = 2*kb4, 2*kb4, 20*kb4
	c := open(t, o)
	small, smallData := numbered(1, 3*kb4)
	wantErr(t, c.Seed(small, bytes.NewReader(flipped(smallData, 9))), ErrCorrupt)
	ct, data := numbered(2, 10*kb4)
	if err := c.Seed(ct, bytes.NewReader(data[:kb4])); err == nil {
		t.Error("seeded from half a file")
	}
	if err := c.Seed(ct, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Evict(ct.Key); err != nil {
		t.Fatal(err)
	}
	if err := c.ReserveUnsent(15 * kb4); err != nil {
		t.Fatal(err)
	}
	third, thirdData := numbered(3, 10*kb4)
	if err := c.ReserveUnsent(3 * kb4); err != nil {
		t.Fatal(err)
	}
	wantErr(t, c.Seed(third, bytes.NewReader(thirdData)), ErrNoSpace)
}

// What a Seed brings while a fill waits for its turn reaches the readers that wait.
func TestSeedBeforeWaitingFill(t *testing.T) {
	o := options(t)
	o.Head, o.Tail = 2*kb4, 2*kb4
	c := open(t, o)
	ct, data := numbered(2, 20*kb4)
	f := mustOpen(t, c, ct, &remote{data: data, onFetch: func(ctx context.Context, n int, bad error) error { <-ctx.Done(); return ctx.Err() }})
	f.e.owner <- struct{}{} // as Seed has it
	done := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(timeout(t), make([]byte, 10), 0)
		done <- err
	}()
	eventually(t, "it waits", func() bool { return waiting(c, ct.Key) == 1 })
	if err := f.e.seed(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	<-f.e.owner
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A wrong seed does not make a content unreadable for ever: the whole-file checksum has
// the last word.
func TestWrongSeedIsDoubted(t *testing.T) {
	o := options(t)
	o.Head, o.Tail = kb4, kb4
	c := open(t, o)
	ct, data := numbered(2, 20*kb4)
	if err := c.Seed(ct, bytes.NewReader(flipped(data, 5))); err != nil {
		t.Fatal(err)
	}
	f := mustOpen(t, c, ct, &remote{data: data})
	if err := f.Fill(timeout(t)); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, f, data)
}

func TestPinDropAndStatus(t *testing.T) {
	o := options(t)
	o.Head, o.Tail = kb4, kb4
	c := open(t, o)
	ct, data := numbered(0, 9*kb4)
	hour := time.Now().Add(time.Hour)
	wantErr(t, c.Pin(ct.Key, hour), ErrNotCached)
	wantErr(t, c.Unpin(ct.Key), ErrNotCached)
	wantErr(t, c.Drop(ct.Key), ErrNotCached)
	_, err := c.Evict(ct.Key)
	wantErr(t, err, ErrNotCached)
	if _, ok := c.Status(ct.Key); ok || len(c.List()) != 0 {
		t.Error("something is there")
	}
	f := mustOpen(t, c, ct, &remote{data: data})
	if s, ok := c.Status(ct.Key); !ok || s.Open != 1 || s.Resident != 0 {
		t.Errorf("%+v, %v", s, ok)
	}
	wantBytes(t, f, data)
	settled(t, c)
	_, err = c.Evict(ct.Key)
	wantErr(t, err, ErrBusy)
	if err := c.Pin(ct.Key, hour); err != nil {
		t.Fatal(err)
	}
	// Dropped while open and pinned: its user goes on, after it all is gone.
	if err := c.Drop(ct.Key); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, f, data)
	if _, ok := f.Passthrough(); !ok {
		t.Error("no passthrough of a dropped content in use")
	}
	f.Close()
	if _, ok := c.Status(ct.Key); ok || c.Stats().Used != 0 || len(files(t, o.Dir, "")) != 0 {
		t.Errorf("left: %+v, %v", c.Stats(), files(t, o.Dir, ""))
	}
	cached(t, c, ct, data)
	settled(t, c)
	for _, until := range []time.Time{hour, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if err := c.Pin(ct.Key, until); err != nil {
			t.Fatal(err)
		}
		shut(t, c)
		c = open(t, o)
		_, err = c.Evict(ct.Key)
		wantErr(t, err, ErrBusy)
		if c.Stats().Pinned == 0 {
			t.Error("not counted")
		}
	}
	if err := c.Unpin(ct.Key); err != nil {
		t.Fatal(err)
	}
	if freed, err := c.Evict(ct.Key); err != nil || freed != 7*kb4 {
		t.Error(freed, err)
	}
	if err := c.Drop(ct.Key); err != nil {
		t.Fatal(err)
	}
	if len(c.List()) != 0 || len(files(t, o.Dir, "")) != 0 {
		t.Error("not dropped")
	}
}

func TestScrub(t *testing.T) {
	o := options(t)
	o.Head, o.Tail = kb4, kb4
	c := open(t, o)
	var cts []Content
	for i := range 6 {
		ct, data := numbered(i, 9*kb4+i)
		cached(t, c, ct, data)
		cts = append(cts, ct)
	}
	settled(t, c)
	if _, err := c.Evict(cts[5].Key); err != nil {
		t.Fatal(err)
	}
	_, openData := numbered(1, 9*kb4+1)
	f := mustOpen(t, c, cts[1], &remote{data: openData})
	var last, total int64
	r, err := c.Scrub(timeout(t), func(d, n int64) { last, total = d, n })
	if err != nil || r.Files != 6 || len(r.Damaged) != 0 || last != total || r.Bytes != last {
		t.Fatalf("%+v, %v; progress %d of %d", r, err, last, total)
	}
	for _, i := range []int{1, 2, 5} {
		flip(t, c.path(fileName(cts[i].Key), dataSuffix), 17)
	}
	if err := os.Remove(c.path(fileName(cts[3].Key), dataSuffix)); err != nil {
		t.Fatal(err)
	}
	r, err = c.Scrub(timeout(t), nil)
	if err != nil || r.Files != 6 || len(r.Damaged) != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	var left []Key
	for _, s := range c.List() {
		left = append(left, s.Key)
	}
	if len(left) != 3 {
		t.Errorf("left: %v", left)
	}
	wantBytes(t, f, openData)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = c.Scrub(ctx, nil)
	wantErr(t, err, context.Canceled)
}

// Beyond the budget of descriptors reads open the file for themselves, and passthrough is
// refused.
func TestDescriptorBudget(t *testing.T) {
	c := open(t, options(t))
	c.maxFDs = 3
	var fs []*File
	for i := range 8 {
		ct, data := numbered(i, 3*kb4)
		cached(t, c, ct, data)
		f := mustOpen(t, c, ct, nil2(t))
		_, ok := f.Passthrough()
		if ok != (i < 3) {
			t.Errorf("file %d: passthrough %v", i, ok)
		}
		wantBytes(t, f, data)
		fs = append(fs, f)
	}
	for _, f := range fs {
		f.Close()
		f.Close()
	}
	if n := c.fds.Load(); n != 0 {
		t.Errorf("%d descriptors are still counted", n)
	}
}

// TestPassthroughBesideClose: the descriptor that an open content was given stays open until
// its Close, also when another File was the last one a moment before.
func TestPassthroughBesideClose(t *testing.T) {
	c := open(t, options(t))
	ct, data := numbered(0, 3*kb4)
	cached(t, c, ct, data)
	f := mustOpen(t, c, ct, nil2(t))
	d, ok := f.Passthrough()
	if !ok {
		t.Fatal("no passthrough of a whole content")
	}
	f.e.closeFiles(true) // the end of the other one's Close
	b := make([]byte, 10)
	if n, err := unix.Pread(int(d.Fd()), b, kb4); n != 10 || !bytes.Equal(b, data[kb4:kb4+10]) {
		t.Errorf("read %d, %v", n, err)
	}
	f.Close()
	if n := c.fds.Load(); n != 0 {
		t.Errorf("%d descriptors are still counted", n)
	}
}
