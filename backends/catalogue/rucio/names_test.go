package rucio

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/servertest"
)

// infos lists the files of a collection, which must be as many.
func infos(t *testing.T, n int, of func(yield func(backends.Info, error) bool)) (out []backends.Info) {
	t.Helper()
	for in, err := range of {
		must(t, err)
		out = append(out, in)
	}
	if len(out) != n {
		t.Fatalf("%d files, want %d", len(out), n)
	}
	return out
}

// undated counts files whose times are not told.
func undated(all []backends.Info) (n int) {
	for _, in := range all {
		if in.Undated() {
			n++
		}
	}
	return n
}

// The names of many files cost no call a thousand of them; their times are asked for when somebody wants to see them, once.
func TestNamesFirst(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	b := newBetween(t, r.URL)
	o := r.paths()
	var mu sync.Mutex
	now := time.Now()
	o.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	later := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	c := r.through(t, b, o)
	r.root(t, c)
	day := r.did("day")
	mkdir(t, c, day, backends.Dataset)
	const n = 2500
	if added, err := c.Import(t.Context(), func(yield func(backends.Entry, error) bool) {
		for i := range n {
			if !yield(r.copyAt(fmt.Sprintf("day/f%05d", i), i+1), nil) {
				return
			}
		}
	}); err != nil || added != n {
		t.Fatalf("imported %d, %v", added, err)
	}
	costs := func(what string, most int64, f func()) {
		t.Helper()
		if got := calls(c, f); got > most {
			t.Errorf("%s took %d calls, want %d at most", what, got, most)
		}
	}
	c.Refresh(backends.DID{})
	costs("names", 2, func() {
		for i, in := range infos(t, n, c.Names(t.Context(), day, "")) {
			if !in.Undated() || in.Size != int64(i+1) || in.Checksums.Adler32 != fmt.Sprintf("%08x", i+1) || in.Generation == "" {
				t.Fatalf("file %d is %+v", i, in)
			}
		}
	})

	// Who looks at one asks for one, and who looks at one after the other for many.
	costs("a look-up", 1, func() {
		in, err := c.Stat(t.Context(), r.did("day/f02000"))
		must(t, err)
		if in.Undated() {
			t.Error("it has no times")
		}
	})
	if all := infos(t, n, c.Names(t.Context(), day, "")); undated(all) != n-1 {
		t.Errorf("one look-up told the times of %d files", n-undated(all))
	}
	costs("1000 look-ups in order", 3, func() {
		for i := range 1000 {
			in, err := c.Stat(t.Context(), r.did(fmt.Sprintf("day/f%05d", i)))
			must(t, err)
			if in.Undated() || in.Size != int64(i+1) {
				t.Fatalf("file %d is %+v", i, in)
			}
		}
	})

	// With the server away there are names, and no times.
	b.spoil(func(int, string) what { return refuse })
	last := infos(t, n, c.Contents(t.Context(), day, ""))[n-1]
	if last.MTime.Unix() != 0 || last.Size != n {
		t.Errorf("with the server away the last file is %+v", last)
	}
	b.spoil(nil)
	later(awayFor + time.Second)
	costs("times", 3, func() {
		if all := infos(t, n, c.Contents(t.Context(), day, "")); undated(all) != 0 || all[n-1].MTime.Unix() == 0 {
			t.Errorf("%d files have no times, the last is of %v", undated(all), all[n-1].MTime)
		}
	})
	costs("names that are known with their times", 0, func() {
		if all := infos(t, n, c.Names(t.Context(), day, "")); undated(all) != 0 {
			t.Errorf("the times of %d files were forgotten", undated(all))
		}
	})

	// What came later is seen, and the times of the others are those of their bytes for ever.
	add(t, c, r.copyAt("day/g", 7))
	later(2 * time.Minute)
	costs("times, one file later", 3, func() {
		all := infos(t, n+1, c.Contents(t.Context(), day, ""))
		if g := all[n]; undated(all) != 0 || !strings.HasSuffix(g.DID.Name, "/g") || g.Size != 7 {
			t.Errorf("%d have no times, the new one is %+v", undated(all), g)
		}
	})
}
