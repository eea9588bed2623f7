package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// files lists the files of one kind below a cache's directory.
func files(t testing.TB, dir, suffix string) (paths []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "?", "?", "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

func TestWarmRestart(t *testing.T) {
	o := options(t)
	o.Head, o.Tail = kb4, kb4
	c := open(t, o)
	k := []Content{}
	for i := range 20 {
		ct, data := numbered(i, 5*kb4+i)
		ct.Cost = time.Duration(i) * time.Minute
		cached(t, c, ct, data)
		k = append(k, ct)
	}
	until := time.Now().Add(time.Hour).Round(0)
	if err := c.Pin(k[3].Key, until); err != nil {
		t.Fatal(err)
	}
	settled(t, c)
	if _, err := c.Evict(k[4].Key); err != nil {
		t.Fatal(err)
	}
	before := c.List()
	used := c.Stats().Used
	shut(t, c)

	c = open(t, o)
	after := c.List()
	if len(after) != 20 || c.Stats().Used != used {
		t.Fatalf("%d contents, %d bytes used, before %d", len(after), c.Stats().Used, used)
	}
	for i := range before {
		b, a := before[i], after[i]
		if !a.Used.Equal(b.Used) || !a.Pinned.Equal(b.Pinned) {
			t.Errorf("times: %+v became %+v", b, a)
		}
		b.Used, b.Pinned, a.Used, a.Pinned = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		if a != b {
			t.Errorf("%+v became %+v", b, a)
		}
	}
	_, err := c.Evict(k[3].Key)
	wantErr(t, err, ErrBusy)
	for i, ct := range k {
		_, data := numbered(i, 5*kb4+i)
		r := nil2(t)
		if i == 4 {
			r = &remote{data: data}
		}
		wantBytes(t, mustOpen(t, c, ct, r), data)
	}
	for _, p := range append(files(t, o.Dir, dataSuffix), files(t, o.Dir, sideSuffix)...) {
		in, err := os.Stat(p)
		if err != nil || in.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", p, in.Mode(), err)
		}
		in, err = os.Stat(filepath.Dir(p))
		if err != nil || in.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", filepath.Dir(p), in.Mode(), err)
		}
	}
}

// Which goes first is remembered over a restart.
func TestOrderOfEvictionSurvives(t *testing.T) {
	const size = 8 * kb4
	o := options(t)
	c := open(t, o)
	var cts []Content
	for i := range 6 {
		ct, data := numbered(i, size)
		if i == 0 {
			ct.Cost = time.Hour
		}
		cached(t, c, ct, data)
		cts = append(cts, ct)
	}
	settled(t, c)
	wantBytes(t, mustOpen(t, c, cts[1], nil2(t)), random(1001, size))
	shut(t, c)
	o.Limit = room(2, size)
	c = open(t, o)
	var left []bool
	for _, ct := range cts {
		_, ok := c.Status(ct.Key)
		left = append(left, ok)
	}
	if fmt.Sprint(left) != "[true true false false false false]" {
		t.Errorf("left: %v", left)
	}
}

// One byte is flipped in every data file, and in every side file, with the cache up or
// down: readers get the right bytes.
func TestFlippedBytes(t *testing.T) {
	const n = 12
	for _, suffix := range []string{dataSuffix, sideSuffix} {
		for _, up := range []bool{true, false} {
			for _, opened := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s up=%v open=%v", suffix, up, opened), func(t *testing.T) {
					o := options(t)
					o.Head, o.Tail = 2*kb4, 2*kb4
					c := open(t, o)
					remotes := make([]*remote, n)
					fs := make([]*File, n)
					size := func(i int) int { return (10+i*7)*kb4 + i }
					for i := range n {
						ct, data := numbered(i, size(i))
						remotes[i] = &remote{data: data}
						cached(t, c, ct, data)
						if i%3 == 0 { // some with their ends only
							settled(t, c)
							if _, err := c.Evict(ct.Key); err != nil {
								t.Fatal(err)
							}
						}
						if opened {
							fs[i] = mustOpen(t, c, ct, remotes[i])
							if _, ok := fs[i].Passthrough(); ok != (i%3 != 0) {
								t.Error("passthrough", ok)
							}
						}
					}
					settled(t, c)
					if !up {
						shut(t, c)
					}
					for i, p := range files(t, o.Dir, suffix) {
						in, err := os.Stat(p)
						if err != nil {
							t.Fatal(err)
						}
						flip(t, p, []int64{0, in.Size() / 2, in.Size() - 1, kb4 - 1, 41}[i%5]%in.Size())
					}
					if !up {
						c = open(t, o)
					}
					for i := range n {
						ct, data := numbered(i, size(i))
						f := fs[i]
						if f == nil || !up {
							f = mustOpen(t, c, ct, remotes[i])
						}
						if p, ok := f.Passthrough(); ok {
							got := make([]byte, len(data))
							if _, err := p.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
								t.Fatalf("content %d: wrong bytes by passthrough", i)
							}
						}
						wantBytes(t, f, data)
						if err := f.Fill(timeout(t)); err != nil {
							t.Fatal(err)
						}
						if _, ok := f.Passthrough(); !ok {
							t.Errorf("content %d: not repaired", i)
						}
					}
					if suffix == dataSuffix && c.Stats().Corrupt == 0 {
						t.Error("no damage was counted")
					}
				})
			}
		}
	}
}

// Every single byte of a side file counts: flipped, the entry is dropped at the next start
// and never half believed.
func TestEveryByteOfASideFile(t *testing.T) {
	o := options(t)
	c := open(t, o)
	ct, data := numbered(0, 3*kb4)
	cached(t, c, ct, data)
	shut(t, c)
	side := files(t, o.Dir, sideSuffix)[0]
	good, err := os.ReadFile(side)
	if err != nil {
		t.Fatal(err)
	}
	for at := range good {
		if _, err := decodeSide(flipped(good, at)); err == nil {
			t.Fatalf("byte %d does not matter", at)
		}
		if _, err := decodeSide(good[:at]); err == nil {
			t.Fatalf("cut at %d it is still accepted", at)
		}
	}
}

// A power cut may keep a side file and lose the data written before it: then the data
// file is as long and as old as the side file says, and its bytes are zeros.
func TestLostDataWithMatchingStamp(t *testing.T) {
	for _, size := range []int{10 * kb4, 10*kb4 + 5} {
		o := options(t)
		c := open(t, o)
		ct, data := numbered(0, size)
		cached(t, c, ct, data)
		shut(t, c)
		path := files(t, o.Dir, dataSuffix)[0]
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		restamp(t, o.Dir)
		c = open(t, o)
		r := &remote{data: data}
		f := mustOpen(t, c, ct, r)
		if _, ok := f.Passthrough(); ok {
			t.Error("zeros by passthrough")
		}
		wantBytes(t, f, data)
		if r.opened.Load() == 0 {
			t.Error("not fetched again")
		}
	}
}

// restamp makes side files agree with their data files as they are.
func restamp(t *testing.T, dir string) {
	for _, p := range files(t, dir, sideSuffix) {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		s, err := decodeSide(b)
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(strings.TrimSuffix(p, sideSuffix)+dataSuffix, &st); err != nil {
			t.Fatal(err)
		}
		s.st = stampOf(&st)
		if s.synced {
			t.Fatal("small files are not synced")
		}
		if err := os.WriteFile(p, s.encode(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A large whole file is synced, and needs no reading at the next start.
func TestSyncedFileIsTrustedByItsStamp(t *testing.T) {
	o := options(t)
	o.Block = 1 << 20
	c := open(t, o)
	data := random(60, syncMin)
	cached(t, c, contentOf(data), data)
	settled(t, c)
	shut(t, c)
	c = open(t, o)
	f := mustOpen(t, c, contentOf(data), nil2(t))
	f.e.mu.Lock()
	trusted := f.e.checked.Full() && f.e.synced
	f.e.mu.Unlock()
	if !trusted {
		t.Error("to be read again although nothing changed")
	}
	flip(t, files(t, o.Dir, dataSuffix)[0], 3<<20)
	if _, ok := f.Passthrough(); ok {
		t.Error("changed file passed through")
	}
}

// The data file is damaged, cut or removed while the content is open and its fill is
// under way or done.
func TestFileChangedUnderneath(t *testing.T) {
	for name, harm := range map[string]func(p string) error{
		"removed":   os.Remove,
		"truncated": func(p string) error { return os.Truncate(p, 3*kb4) },
		"emptied":   func(p string) error { return os.Truncate(p, 0) },
		"replaced": func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			return os.WriteFile(p, make([]byte, 20*kb4), 0o600)
		},
		"zeroed": func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt(make([]byte, 10*kb4), 0)
			return err
		},
	} {
		for _, half := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s half=%v", name, half), func(t *testing.T) {
				o := options(t)
				c := open(t, o)
				ct, data := numbered(0, 20*kb4)
				r := &remote{data: data}
				gate := make(chan struct{})
				if half {
					r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
						if off >= 8*kb4 {
							<-gate
						}
						return r.plain(p, off)
					}
				}
				f := mustOpen(t, c, ct, r)
				if _, err := f.ReadAt(timeout(t), make([]byte, 8), 4*kb4); err != nil {
					t.Fatal(err)
				}
				if !half {
					wantBytes(t, f, data)
					settled(t, c)
				}
				time.Sleep(20 * time.Millisecond) // the times of a file are no finer than some milliseconds
				if err := harm(files(t, o.Dir, dataSuffix)[0]); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond)
				close(gate)
				wantBytes(t, f, data)
				wantBytes(t, mustOpen(t, c, ct, r), data)
				settled(t, c)
				// What came last is read from memory, and the damage found at the end of the
				// fill only; then who reads on has it fetched again.
				wantBytes(t, f, data)
				settled(t, c)
				if _, ok := f.Passthrough(); !ok && name != "removed" && name != "replaced" {
					t.Error("not whole again")
				}
			})
		}
	}
}

func FuzzSideFile(f *testing.F) {
	o := options(f)
	c := open(f, o)
	for i := range 3 {
		ct, data := numbered(i, 70*kb4*i+5)
		cached(f, c, ct, data)
	}
	shut(f, c)
	for _, p := range files(f, o.Dir, sideSuffix) {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:len(b)-4])
	}
	f.Add([]byte(sideMagic))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = decodeSide(body)
		// With the right checksum, so that the fields are reached.
		b := append(bytes.Clone(body), 0, 0, 0, 0)
		sum := blockSum(body)
		for i := range 4 {
			b[len(body)+i] = byte(sum >> (8 * i))
		}
		s, err := decodeSide(b)
		if err != nil {
			return
		}
		if got := s.encode(); int64(len(got)) != sideSize(s.key, s.lay, s.sums) {
			t.Fatalf("%d bytes, sideSize says %d", len(got), sideSize(s.key, s.lay, s.sums))
		}
		again, err := decodeSide(s.encode())
		if err != nil || again.key != s.key || again.lay != s.lay || again.st != s.st {
			t.Fatalf("%+v became %+v, %v", s, again, err)
		}
	})
}

// What a killed fill stored after its last side file is no part of the content, and its
// space is given back.
func TestUnclaimedSpaceIsGivenBack(t *testing.T) {
	o := options(t)
	o.Head, o.Tail = 2*kb4, 2*kb4
	c := open(t, o)
	ct, data := numbered(0, 200*kb4+10)
	if err := c.Seed(ct, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	shut(t, c)
	path := files(t, o.Dir, dataSuffix)[0]
	before := blocksOf(t, path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data[50*kb4:150*kb4], 50*kb4); err != nil {
		t.Fatal(err)
	}
	if blocksOf(t, path) < before+700 {
		t.Fatal("the test wrote nothing")
	}
	c = open(t, o)
	if n := blocksOf(t, path); n > before+16 { // the map of the file may have grown
		t.Errorf("%d disk blocks, before %d", n, before)
	}
	wantBytes(t, mustOpen(t, c, ct, &remote{data: data}), data)
}

// A data file that cannot be opened, as on a disk that fails, is as good as gone: its
// content is fetched again.
func TestDataThatCannotBeOpened(t *testing.T) {
	c := open(t, options(t))
	ct, data := numbered(0, 10*kb4+5)
	cached(t, c, ct, data)
	settled(t, c) // the fill has what came last in memory
	path := files(t, c.o.Dir, dataSuffix)[0]
	if err := errors.Join(os.Remove(path), os.Symlink("nowhere", path)); err != nil { // ELOOP
		t.Fatal(err)
	}
	r := &remote{data: data}
	wantBytes(t, mustOpen(t, c, ct, r), data)
	if r.opened.Load() == 0 {
		t.Error("not fetched again")
	}
}
