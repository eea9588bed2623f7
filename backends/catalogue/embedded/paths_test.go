package embedded

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"tarn/backends"
)

// A look-up that begins after a rename has returned never finds the old path, however
// many others fill the memory of paths meanwhile.
func TestNoStalePathsAfterARename(t *testing.T) {
	c := open(t, Options{InMemory: true})
	ctx := t.Context()
	s := func(path string) backends.DID { return backends.DID{Scope: "s", Name: "/s" + path} }
	if err := c.AddScope(ctx, backends.Info{DID: s("")}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"/0", "/0/a", "/0/a/b"} {
		if err := c.Add(ctx, backends.Info{DID: s(d), Type: backends.Container}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Add(ctx, backends.Info{DID: s("/0/a/b/f"), Type: backends.File}, nil); err != nil {
		t.Fatal(err)
	}
	var now atomic.Int64 // the last rename that has returned
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := now.Load()
				if n == 0 {
					continue
				}
				_, err := c.Stat(ctx, s(fmt.Sprintf("/%d/a/b/f", n-1)))
				if !errors.Is(err, backends.ErrNotExist) {
					t.Errorf("the path before rename %d: %v", n, err)
					return
				}
				if _, err := c.Stat(ctx, s(fmt.Sprintf("/%d/a/b/f", n))); err != nil && now.Load() == n && !errors.Is(err, backends.ErrNotExist) {
					t.Error(err)
				}
			}
		}()
	}
	for i := range 500 {
		if err := c.Rename(ctx, s(fmt.Sprintf("/%d", i)), s(fmt.Sprintf("/%d", i+1))); err != nil {
			t.Fatal(err)
		}
		now.Store(int64(i + 1))
	}
	close(stop)
	wg.Wait()
}

// What an operation found or made and did not keep is forgotten with it.
func TestAFailedImportLeavesNoPaths(t *testing.T) {
	c := open(t, Options{InMemory: true})
	ctx := t.Context()
	s := func(path string) backends.DID { return backends.DID{Scope: "s", Name: "/s" + path} }
	if err := c.AddScope(ctx, backends.Info{DID: s("")}); err != nil {
		t.Fatal(err)
	}
	err := c.update(ctx, false, func(t *tx) error {
		f := t.find()
		for _, in := range []backends.Info{{DID: s("/d"), Type: backends.Container}, {DID: s("/d/f"), Type: backends.File}} {
			if _, err := t.add(f, in, nil, nil, true); err != nil {
				return err
			}
		}
		return errors.New("changed its mind")
	})
	if err == nil {
		t.Fatal("no error")
	}
	_, err = c.Import(ctx, func(yield func(backends.Entry, error) bool) {
		yield(backends.Entry{Info: backends.Info{DID: s("/d/f"), Type: backends.File}}, nil)
	})
	if !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("import below what was never made: %v", err)
	}
}

func TestPathsOfAnotherEpochAreNeitherKeptNorUsed(t *testing.T) {
	p := newPaths(16)
	old := p.begin()
	p.put(old, "/a", ref{ino: 1})
	if _, ok := p.get(old, "/a"); !ok {
		t.Error("a path is not remembered")
	}
	p.suspend()
	during := p.begin()
	p.put(during, "/a", ref{ino: 2})
	if _, ok := p.get(during, "/a"); ok {
		t.Error("a path is used while a collection moves")
	}
	p.resume()
	now := p.begin()
	p.put(old, "/a", ref{ino: 3})
	if _, ok := p.get(now, "/a"); ok {
		t.Error("a path of the state before is kept")
	}
	p.put(now, "/a", ref{ino: 4})
	if _, ok := p.get(old, "/a"); ok {
		t.Error("a path of the state after is used on the state before")
	}
	if r, ok := p.get(now, "/a"); !ok || r.ino != 4 {
		t.Error("a path is not remembered")
	}
}

// Homes and members of one collection come in order over many pages.
func TestPagesOfHomesAndMembers(t *testing.T) {
	c := open(t, Options{InMemory: true})
	ctx := t.Context()
	s := func(path string) backends.DID { return backends.DID{Scope: "s", Name: "/s" + path} }
	if err := c.AddScope(ctx, backends.Info{DID: s("")}); err != nil {
		t.Fatal(err)
	}
	const n = 2 * pageSize
	_, err := c.Import(ctx, func(yield func(backends.Entry, error) bool) {
		for _, d := range []string{"/d", "/e"} {
			yield(backends.Entry{Info: backends.Info{DID: s(d), Type: backends.Container}}, nil)
		}
		for i := range n {
			// Members are thick at the start, homes at the end.
			yield(backends.Entry{Info: backends.Info{DID: s(fmt.Sprintf("/e/%06d", 2*i+1)), Type: backends.File}}, nil)
			yield(backends.Entry{Info: backends.Info{DID: s(fmt.Sprintf("/d/%06d", 6*i)), Type: backends.File}}, nil)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < n; i += 64 {
		var some []backends.DID
		for j := i; j < i+64; j++ {
			some = append(some, s(fmt.Sprintf("/e/%06d", 2*j+1)))
		}
		if err := c.Attach(ctx, s("/d"), some...); err != nil {
			t.Fatal(err)
		}
	}
	last, total := "", 0
	for in, err := range c.Contents(ctx, s("/d"), "") {
		if err != nil {
			t.Fatal(err)
		}
		name := treeName(false, in.DID)
		if name <= last {
			t.Fatalf("%q comes after %q", name, last)
		}
		last = name
		total++
	}
	if total != 2*n {
		t.Errorf("%d children, want %d", total, 2*n)
	}
}

// History of a removed collection is deleted, in parts.
func TestHistoryOfRemovedCollectionsIsSwept(t *testing.T) {
	c := open(t, Options{InMemory: true})
	ctx := t.Context()
	s := func(path string) backends.DID { return backends.DID{Scope: "s", Name: "/s" + path} }
	if err := c.AddScope(ctx, backends.Info{DID: s("")}); err != nil {
		t.Fatal(err)
	}
	if err := c.Add(ctx, backends.Info{DID: s("/d"), Type: backends.Container}, nil); err != nil {
		t.Fatal(err)
	}
	in, err := c.Stat(ctx, s("/d"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		d := s(fmt.Sprintf("/d/%d", i))
		if err := c.Add(ctx, backends.Info{DID: d, Type: backends.File}, nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Remove(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Remove(ctx, s("/d")); err != nil {
		t.Fatal(err)
	}
	c.sweepAll(ctx)
	err = c.read(ctx, func(v *view) error {
		for _, prefix := range [][]byte{beKey(prefixHistory, in.Inode), {prefixTrash}} {
			if left, err := v.any(prefix); err != nil || left {
				t.Errorf("records %q are left, %v", prefix[:1], err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
