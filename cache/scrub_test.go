package cache

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// flipBit changes one bit of a file.
func flipBit(t testing.TB, path string, bit int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[bit/8] ^= 1 << (bit % 8)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b[bit/8:bit/8+1], bit/8); err != nil {
		t.Fatal(err)
	}
}

// flippedBits gives bits of a file: the first, the last, and some between.
func flippedBits(t testing.TB, rnd *rand.Rand, path string, n int) []int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	all := []int64{0, st.Size()*8 - 1}
	for range n {
		all = append(all, rnd.Int64N(st.Size()*8))
	}
	return all
}

// One bit of any file of the cache that is wrong is found, and nothing else, while the
// cache is open and after it was opened again.
func TestScrubFindsOneFlippedBit(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 0))
	o := options(t)
	c := open(t, o)
	var cts []Content
	var datas [][]byte
	for i := range 3 {
		ct, data := numbered(i, 3*kb4+100*i+1)
		cts, datas = append(cts, ct), append(datas, data)
	}
	for _, reopen := range []bool{false, true} {
		for i, ct := range cts {
			for _, suffix := range []string{dataSuffix, sideSuffix} {
				file := filepath.Join(o.Dir, fileName(ct.Key)[:1], fileName(ct.Key)[1:2], fileName(ct.Key)+suffix)
				refill := func() {
					for k := range cts {
						cached(t, c, cts[k], datas[k])
					}
					settled(t, c)
				}
				refill()
				n := 10
				if suffix == sideSuffix {
					n = 40
				}
				for _, bit := range flippedBits(t, rnd, file, n) {
					if reopen {
						shut(t, c)
					}
					flipBit(t, file, bit)
					if reopen {
						c = open(t, o)
					}
					r, err := c.Scrub(timeout(t), nil)
					if err != nil {
						t.Fatal(err)
					}
					if suffix == dataSuffix && (!slices.Equal(r.Damaged, []Key{ct.Key}) || len(r.Index) > 0) ||
						suffix == sideSuffix && (!slices.Equal(r.Index, []string{file}) || len(r.Damaged) > 0) {
						t.Fatalf("content %d, bit %d of %s, reopened %v: %+v", i, bit, suffix, reopen, r)
					}
					if r, err := c.Scrub(timeout(t), nil); err != nil || len(r.Damaged)+len(r.Index) > 0 {
						t.Fatalf("once more: %+v, %v", r, err)
					}
					refill()
				}
			}
		}
	}
	// What was written anew is believed at the next start.
	shut(t, c)
	c = open(t, o)
	if l := c.List(); len(l) != len(cts) {
		t.Errorf("%d contents are left", len(l))
	}
}

// What is resident of a content that is being fetched is compared as well: the fetch may
// wait for a tape for days. The fill then brings it again.
func TestScrubOfAContentBeingFilled(t *testing.T) {
	o := options(t)
	o.Head = 2 * kb4
	c := open(t, o)
	ct, data := numbered(1, 40*kb4)
	cached(t, c, ct, data)
	settled(t, c)
	if _, err := c.Evict(ct.Key); err != nil {
		t.Fatal(err)
	}
	tape, waiting := make(chan struct{}), make(chan struct{})
	r := &remote{data: data, onFetch: func(ctx context.Context, n int, _ error) error {
		if n > 0 {
			return nil
		}
		close(waiting)
		select {
		case <-tape:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	f := mustOpen(t, c, ct, r)
	got := make(chan error, 1)
	go func() {
		b, err := readAll(context.Background(), f, 10_000)
		if err == nil && !slices.Equal(b, data) {
			t.Error("wrong bytes")
		}
		got <- err
	}()
	select {
	case <-waiting:
	case <-timeout(t).Done():
		t.Fatal("nobody fetches")
	}
	if s, err := c.Scrub(timeout(t), nil); err != nil || s.Files != 1 || len(s.Damaged) > 0 || s.Bytes != 2*kb4 {
		t.Errorf("before: %+v, %v", s, err)
	}
	flip(t, c.path(fileName(ct.Key), dataSuffix), kb4+5)
	if s, err := c.Scrub(timeout(t), nil); err != nil || !slices.Equal(s.Damaged, []Key{ct.Key}) {
		t.Errorf("damaged while it is filled: %+v, %v", s, err)
	}
	close(tape)
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-timeout(t).Done():
		t.Fatal("the reader waits")
	}
	settled(t, c)
	if !f.Whole() {
		t.Error("the content is not whole")
	}
	if s, err := c.Scrub(timeout(t), nil); err != nil || len(s.Damaged)+len(s.Index) > 0 || s.Bytes != int64(len(data)) {
		t.Errorf("after: %+v, %v", s, err)
	}
}

// Contents of which nothing lies on the disk are passed over.
func TestScrubOfNothing(t *testing.T) {
	c := open(t, options(t))
	ct, _ := numbered(1, 3*kb4)
	mustOpen(t, c, ct, nil2(t))
	empty := Content{Key: "empty"}
	mustOpen(t, c, empty, nil2(t))
	if s, err := c.Scrub(timeout(t), nil); err != nil || s.Files != 0 || s.Bytes != 0 || len(s.Damaged)+len(s.Index) > 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if left := files(t, c.o.Dir, ""); len(left) > 0 {
		t.Errorf("on the disk: %s", strings.Join(left, " "))
	}
}
