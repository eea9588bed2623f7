package backendstest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
)

// catalogueTest is one open catalogue and one scope of layout lfn.
type catalogueTest struct {
	*testing.T
	Opened
	ctx   context.Context
	clock *clock
	scope string
	flat  string // a scope of layout contents, made when first asked for
}

// clock moves on by a millisecond whenever it is asked, so that no two times are equal.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(time.Millisecond)
	return c.at
}

func newCatalogueTest(t *testing.T, open Open) *catalogueTest {
	k := &catalogueTest{T: t, ctx: t.Context(), clock: &clock{at: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}}
	k.Opened = open(t, k.clock.now)
	t.Cleanup(func() {
		if k.Check != nil {
			k.Check(t)
		}
		if err := k.Catalogue.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	k.scope = k.newScope(backends.LayoutLFN) // "": it has none
	return k
}

func (k *catalogueTest) newScope(l backends.Layout) string {
	k.Helper()
	if k.NewScope != nil {
		return k.NewScope(k.T, l)
	}
	if k.Namespace == nil {
		k.Skip("no way to make scopes")
	}
	name := map[backends.Layout]string{backends.LayoutLFN: "tree", backends.LayoutContents: "flat"}[l]
	k.must(k.Namespace.AddScope(k.ctx, backends.Info{DID: backends.DID{Scope: name}, Layout: l, Mode: 0o755}))
	return name
}

// contentsScope gives a scope of layout contents, or skips the test.
func (k *catalogueTest) contentsScope() string {
	if k.flat == "" {
		if k.flat = k.newScope(backends.LayoutContents); k.flat == "" {
			k.Skip("no scopes of layout contents")
		}
	}
	return k.flat
}

// must fails the test on an error, and reopens the catalogue after a success.
func (k *catalogueTest) must(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
	k.reopen()
}

func (k *catalogueTest) reopen() {
	if k.Reopen != nil {
		k.Opened = k.Reopen(k.T)
	}
}

func (k *catalogueTest) wants(err, want error) {
	k.Helper()
	if !errors.Is(err, want) {
		k.Fatalf("error is %v, want %v", err, want)
	}
}

// did is a DID of the lfn scope, by its path below the scope.
func (k *catalogueTest) did(path string) backends.DID {
	return backends.DID{Scope: k.scope, Name: strings.TrimSuffix("/"+k.scope+"/"+path, "/")}
}

// flatDID is a DID of the contents scope.
func (k *catalogueTest) flatDID(name string) backends.DID {
	return backends.DID{Scope: k.contentsScope(), Name: name}
}

// sha makes up a digest.
func sha(n int) backends.Checksums {
	return backends.Checksums{SHA256: fmt.Sprintf("%064x", n), Adler32: fmt.Sprintf("%08x", n)}
}

func replica(rse string) backends.Replica {
	return backends.Replica{RSE: rse, PFN: "x/" + rse, State: backends.Available}
}

func fileInfo(d backends.DID, content int) backends.Info {
	return backends.Info{DID: d, Type: backends.File, Size: int64(content), Checksums: sha(content), Mode: 0o644, UID: 1, GID: 2,
		MTime: time.Date(2020, 1, 2, 3, 4, 5, 6, time.UTC)}
}

// file adds a file with one replica; content decides its size and digests.
func (k *catalogueTest) file(d backends.DID, content int) backends.Info {
	k.Helper()
	k.must(k.Catalogue.Add(k.ctx, fileInfo(d, content), nil, replica("DISK")))
	return k.stat(d)
}

func (k *catalogueTest) dir(d backends.DID) backends.Info {
	k.Helper()
	k.must(k.Catalogue.Add(k.ctx, backends.Info{DID: d, Type: backends.Container, Mode: 0o755}, nil))
	return k.stat(d)
}

func (k *catalogueTest) stat(d backends.DID) backends.Info {
	k.Helper()
	in, err := k.Catalogue.Stat(k.ctx, d)
	if err != nil {
		k.Fatal(err)
	}
	return in
}

func (k *catalogueTest) missing(d backends.DID) {
	k.Helper()
	_, err := k.Catalogue.Stat(k.ctx, d)
	k.wants(err, backends.ErrNotExist)
}

// collect reads a sequence to its end.
func collect[T any](k *catalogueTest, seq iter.Seq2[T, error]) (out []T) {
	k.Helper()
	for v, err := range seq {
		if err != nil {
			k.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

// failure gives the error that a sequence ends with, and checks that it ends there.
func failure[T any](k *catalogueTest, seq iter.Seq2[T, error]) (out error) {
	k.Helper()
	for _, err := range seq {
		if out != nil {
			k.Fatal("the sequence goes on after an error")
		}
		out = err
	}
	return out
}

func (k *catalogueTest) names(d backends.DID, after string) (out []string) {
	k.Helper()
	for _, in := range collect(k, k.Catalogue.Contents(k.ctx, d, after)) {
		out = append(out, in.DID.Name)
	}
	return out
}

func (k *catalogueTest) equal(what string, got, want any) {
	k.Helper()
	if g, w := fmt.Sprintf("%v", got), fmt.Sprintf("%v", want); g != w {
		k.Fatalf("%s is\n  %s\nwant\n  %s", what, g, w)
	}
}
