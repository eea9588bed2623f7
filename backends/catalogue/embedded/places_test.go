package embedded

import (
	"errors"
	"fmt"
	"testing"

	"tarn/backends"
)

// TestPathsAreKeptWhateverChangedTheCatalogue: an RSE that is named for the first time, and
// one of a catalogue that was changed without it, have all paths on record; otherwise
// nothing is made anew.
func TestPathsAreKeptWhateverChangedTheCatalogue(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	with := func(places []string, do func(c *Catalogue)) {
		t.Helper()
		c, err := Open(small(Options{Dir: dir, Places: places}))
		if err != nil {
			t.Fatal(err)
		}
		checkRecords(t, c)
		do(c)
		checkRecords(t, c)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	put := func(c *Catalogue, from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			in := backends.Info{DID: backends.DID{Scope: "s", Name: fmt.Sprintf("/s/f%d", i)}, Type: backends.File, Size: 1, Checksums: backends.Checksums{Adler32: "00000001"}}
			at := func(rse string) backends.Replica {
				return backends.Replica{RSE: rse, PFN: fmt.Sprint("p", i/2), State: backends.Available}
			}
			if err := c.Add(ctx, in, nil, at("A"), at("B")); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				if err := c.Remove(ctx, in.DID); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	holders := func(c *Catalogue, rse, pfn string, want int) {
		t.Helper()
		if n, err := c.Holders(ctx, rse, pfn); n != want || err != nil {
			t.Errorf("holders of %s at %s: %d, %v, want %d", pfn, rse, n, err, want)
		}
	}
	with(nil, func(c *Catalogue) {
		if err := c.AddScope(ctx, backends.Info{DID: backends.DID{Scope: "s"}}); err != nil {
			t.Fatal(err)
		}
		put(c, 0, 40)
		if _, err := c.Holders(ctx, "A", "p1"); !errors.Is(err, backends.ErrNotSupported) {
			t.Errorf("holders of an RSE that is not kept: %v", err)
		}
	})
	with([]string{"A"}, func(c *Catalogue) {
		holders(c, "A", "p1", 2)
		holders(c, "A", "./p1", 2)
		holders(c, "A", "p20", 0)
		put(c, 40, 41)
		holders(c, "A", "p20", 1)
	})
	with(nil, func(c *Catalogue) { put(c, 41, 43) })
	with([]string{"A", "B"}, func(c *Catalogue) {
		for _, rse := range []string{"A", "B"} {
			holders(c, rse, "p20", 2)
			holders(c, rse, "p21", 1)
		}
	})
	with([]string{"B"}, func(c *Catalogue) { put(c, 43, 44) })
	// What is on record as of the last transaction is believed: a record of no use stays.
	with([]string{"B"}, func(c *Catalogue) {
		if err := c.commitBadger(map[string][]byte{string(pathKey("B", "x")): countVal(7)}, c.count.encode()); err != nil {
			t.Fatal(err)
		}
		holders(c, "B", "x", 7)
		if err := c.commitBadger(map[string][]byte{string(pathKey("B", "x")): nil}, c.count.encode()); err != nil {
			t.Fatal(err)
		}
	})
	with([]string{"A", "B"}, func(c *Catalogue) { holders(c, "A", "p21", 2); holders(c, "B", "p21", 2) })
}

// TestManyPathsArePutOnRecord: more than one transaction holds.
func TestManyPathsArePutOnRecord(t *testing.T) {
	dir := t.TempDir()
	c := openFor(t, Options{Dir: dir})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.AddScope(t.Context(), backends.Info{DID: backends.DID{Scope: "s"}}))
	n := 25000
	_, err := c.Import(t.Context(), func(yield func(backends.Entry, error) bool) {
		for i := range n {
			e := backends.Entry{Info: backends.Info{DID: backends.DID{Scope: "s", Name: fmt.Sprintf("/s/f%d", i)}, Type: backends.File, Checksums: backends.Checksums{Adler32: "00000001"}},
				Replicas: []backends.Replica{{RSE: "A", PFN: fmt.Sprint("p", i), State: backends.Available}}}
			if !yield(e, nil) {
				return
			}
		}
	})
	must(err)
	must(c.Close())
	for range 2 {
		c = openFor(t, Options{Dir: dir, Places: []string{"A"}})
		for _, i := range []int{0, 12345, n - 1} {
			if got, err := c.Holders(t.Context(), "A", fmt.Sprint("p", i)); got != 1 || err != nil {
				t.Errorf("path %d: %d, %v", i, got, err)
			}
		}
		checkRecords(t, c)
		must(c.Close())
	}
}

func openFor(t *testing.T, o Options) *Catalogue {
	t.Helper()
	c, err := Open(small(o))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
