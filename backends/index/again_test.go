package index

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"tarn/backends"
)

// What a cover is of can be removed and made again.
func TestRootMadeAgain(t *testing.T) {
	ctx := context.Background()
	r := small(t)
	r.build("/s/c")
	must(t, r.Remove(ctx, did("/s/c/h")))
	must(t, r.Remove(ctx, did("/s/c")))
	r.is("/s", "level=DL3", false)
	r.dir("/s/c", nil)
	r.file("/s/c/i", 4, backends.Meta{"level": "DL3"})
	r.is("/s/c", "level=DL3", true)
}

// What came in the place of its root with a directory above it is that, whether the removal was looked at before or after: then the index answers.
func TestRootRenamedInto(t *testing.T) {
	ctx := context.Background()
	r := small(t)
	r.build("/s/a/b")
	for _, p := range []string{"/s/a/b/f", "/s/a/b/g", "/s/a/b", "/s/a"} {
		must(t, r.Remove(ctx, did(p)))
	}
	r.dir("/s/n", nil)
	r.dir("/s/n/b", nil)
	r.file("/s/n/b/f", 4, backends.Meta{"level": "DL3"})
	must(t, r.Rename(ctx, did("/s/n"), did("/s/a")))
	r.same("/s/a/b", "level=DL3")
	r.same("/s/a/b", "name=Any")
	r.same("/s/a", "name=Any")
}

// Changes are looked at when they have ended: that of a file perhaps before that of its directory.
func TestFileBeforeItsDirectory(t *testing.T) {
	r := small(t)
	r.build("/")
	o := r.x.begin(change{what: wasPut, did: did("/s/new")}, change{what: wasPut, did: did("/s/new/sub")})
	for _, p := range []string{"/s/new", "/s/new/sub"} {
		must(t, r.cat.Add(context.Background(), backends.Info{DID: did(p), Type: backends.Container, Mode: 0o755}, backends.Meta{"level": "DL7"}))
	}
	r.file("/s/new/sub/f", 4, nil)
	r.is("/s/c", "level=DL3", true) // it has been looked at
	o.end(nil)
	r.is("/", "level=DL7", true)
	r.is("/s/new", "name=f", true)
}

// What is brought back is in the collections again that it was attached to, and with it the directory it was in.
func TestBroughtBack(t *testing.T) {
	ctx := context.Background()
	r := small(t)
	must(t, r.Add(ctx, backends.Info{DID: did("/s/set"), Type: backends.Dataset, Mode: 0o755}, nil))
	must(t, r.Attach(ctx, did("/s/set"), did("/s/c/h")))
	must(t, r.PutReplica(ctx, did("/s/c/h"), fileInfo("/s/c/h", 3).Generation, backends.Replica{RSE: "DISK", PFN: "h", State: backends.Available}))
	r.build("/")
	must(t, r.Remove(ctx, did("/s/c/h")))
	must(t, r.Remove(ctx, did("/s/c")))
	r.is("/s/set", "level=DL3", true)
	n := 0
	for p, err := range r.cat.Pasts(ctx, did("/s/c/h")) {
		must(t, err)
		must(t, r.Again(p.Info.DID, func() error { return r.cat.Undelete(ctx, p.Handle) }))
		n++
	}
	if n != 1 {
		t.Fatalf("%d are kept", n)
	}
	r.is("/s/set", "level=DL3", true)
	r.is("/s/c", "level=DL3", true)
	r.is("/", "name=c", true)
}

// A file that was removed and made again by another client at the same time is there, whoever's call ends last.
func TestRemovedAndMadeAgainAtOnce(t *testing.T) {
	ctx := context.Background()
	r := small(t)
	r.build("/")
	o := r.x.begin(change{what: wasDropped, did: did("/s/c/h")})
	must(t, r.cat.Remove(ctx, did("/s/c/h")))
	r.file("/s/c/h", 4, backends.Meta{"level": "DL3"})
	r.is("/s/c", "level=DL3", true)
	o.end(nil)
	r.is("/s/c", "level=DL3", true)
}

// A cover whose time has not come is as good as none: the clock was wrong when it was made.
func TestCoverOfTheFuture(t *testing.T) {
	r := small(t)
	must(t, r.x.Close())
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	r.opt.Now, r.opt.MaxAge = func() time.Time { return now }, 24*time.Hour
	r.open()
	r.build("/")
	r.is("/", "level=DL3", true)
	now = now.AddDate(-4, 0, 0)
	r.is("/", "level=DL3", false)
}

// An index that broke is not taken from under who still reads an answer from it.
func TestBeginAnewWhileFinding(t *testing.T) {
	ctx := context.Background()
	r := small(t)
	for i := range 3000 {
		r.file(fmt.Sprintf("/s/c/f%d", i), 5, backends.Meta{"level": "DL3"})
	}
	r.build("/")
	must(t, r.x.Close()) // so that it is in tables
	r.open()
	next, stop := iter.Pull2(r.Find(backends.WithIndex(ctx, &backends.Indexed{}), backends.DID{}, parse(t, "level=DL3")))
	defer stop()
	if _, err, ok := next(); !ok || err != nil {
		t.Fatal(err, ok)
	}
	r.x.breaks(errors.New("no space"))
	built := make(chan error, 1)
	go func() {
		_, err := r.x.Build(ctx, backends.DID{}, "/", nil)
		built <- err
	}()
	time.Sleep(500 * time.Millisecond)
	n := 1
	for {
		_, err, ok := next()
		if !ok {
			break
		}
		must(t, err)
		n++
	}
	if n < 3000 {
		t.Errorf("%d were found", n)
	}
	must(t, <-built)
	r.is("/", "level=DL3", true)
}
