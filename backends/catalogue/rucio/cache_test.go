package rucio

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/servertest"
)

// A listing, or a look-up, that began before a change here is not taken for what is there after it.
func TestAnswersOlderThanAChange(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	b := newBetween(t, r.URL)
	c := r.through(t, b, r.paths())
	r.root(t, c)
	mkdir(t, c, r.did("d"), backends.Dataset)
	add(t, c, r.copyAt("d/a", 1))
	c.Refresh(backends.DID{})
	// The answer of the first listing is held back on its way, until a file was added.
	var first atomic.Bool
	began, goOn := make(chan struct{}), make(chan struct{})
	b.hold(func(request string) {
		if strings.HasSuffix(request, "/dids") && strings.HasPrefix(request, "GET") {
			if first.CompareAndSwap(false, true) { // sync.Once would hold the others back too
				close(began)
				<-goOn
			}
		}
	})
	old := make(chan []string, 1)
	go func() { old <- names(t, c, r.did("d")) }()
	<-began
	add(t, c, r.copyAt("d/b", 2))
	if got := names(t, c, r.did("d")); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("after the file was added the directory shows %q", got)
	}
	close(goOn)
	if got := <-old; !slices.Equal(got, []string{"a"}) {
		t.Errorf("the listing that began before shows %q", got)
	}
	if got := names(t, c, r.did("d")); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("after the older listing ended the directory shows %q", got)
	}
}

// A server that takes requests and says nothing costs a moment where older answers are at hand, once.
func TestMuteServer(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	b := newBetween(t, r.URL)
	o := r.paths()
	var mu sync.Mutex
	now := time.Now()
	o.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	later := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	c := r.through(t, b, o)
	r.root(t, c)
	mkdir(t, c, r.did("d"), backends.Dataset)
	add(t, c, r.copyAt("d/a", 1))
	names(t, c, r.did("d"))
	stat := func(p string) error { _, err := c.Stat(t.Context(), r.did(p)); return err }
	must(t, stat("d/a"))
	if _, err := c.Replicas(t.Context(), r.did("d/a")); err != nil {
		t.Fatal(err)
	}
	b.spoil(func(int, string) what { return mute })
	later(2 * time.Minute)
	begun := time.Now()
	for range 20 {
		must(t, stat("d/a"))
		if got := names(t, c, r.did("d")); !slices.Equal(got, []string{"a"}) {
			t.Fatalf("the directory shows %q", got)
		}
	}
	if took := time.Since(begun); took > 3*slow {
		t.Errorf("40 questions to a mute server took %v", took)
	}
	if c.AsOf(r.did("d/a")).IsZero() {
		t.Error("not told as of when it is")
	}
	if reps, err := c.Replicas(t.Context(), r.did("d/a")); err != nil || len(reps) != 1 {
		t.Errorf("replicas %v, %v", reps, err)
	}
	later(25 * time.Hour) // Stale
	b.spoil(func(int, string) what { return refuse })
	if err := stat("d/a"); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("after too long: %v", err)
	}
	for _, err := range c.Contents(t.Context(), r.did("d"), "") {
		if !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrNotExist) {
			t.Errorf("listing after too long: %v", err)
		}
	}
	b.spoil(nil)
	must(t, stat("d/a"))
	if at := c.AsOf(r.did("d/a")); !at.IsZero() {
		t.Errorf("as of %v, though the server answers", at)
	}
}

// The stream of a closed dataset that ends early is an error, and not a shorter listing.
func TestTruncatedListing(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	b := newBetween(t, r.URL)
	c := r.through(t, b, r.paths())
	r.root(t, c)
	mkdir(t, c, r.did("d"), backends.Dataset)
	for i := range 3 {
		add(t, c, r.copyAt(fmt.Sprintf("d/%d", i), i+1))
	}
	r.Do("PUT", "/dids/"+r.scope+"/"+strings.ReplaceAll(r.did("d").Name, "/", "%2F")+"/status", map[string]any{"open": false})
	c.Refresh(backends.DID{})
	b.spoil(func(_ int, request string) what {
		if strings.HasPrefix(request, "GET") && strings.HasSuffix(request, "/dids") {
			return cut
		}
		return pass
	})
	var got int
	var failed error
	for _, err := range c.Contents(t.Context(), r.did("d"), "") {
		if failed = err; err == nil {
			got++
		}
	}
	if !errors.Is(failed, backends.ErrUnavailable) || !backends.IsTemporary(failed) || got > 0 {
		t.Errorf("%d entries, %v", got, failed)
	}
	b.spoil(nil)
	if got := names(t, c, r.did("d")); len(got) != 3 {
		t.Errorf("the directory shows %q", got)
	}
}

// Registering files in many directories costs calls by the thousand files, not by the directory.
func TestImportOfDirectories(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c := r.open(t, r.paths())
	r.root(t, c)
	const dirs, each = 40, 5
	var all []backends.Entry
	for i := range dirs {
		typ := backends.Container
		if i%2 == 0 {
			typ = backends.Dataset
		}
		all = append(all, r.collection(fmt.Sprintf("%02d", i), typ))
		for k := range each {
			all = append(all, r.copyAt(fmt.Sprintf("%02d/%d", i, k), i*each+k+1))
		}
	}
	if got := calls(c, func() {
		if n, err := c.Import(t.Context(), seq(all)); err != nil || n != int64(len(all)) {
			t.Fatalf("%d added, %v", n, err)
		}
	}); got > 16 {
		t.Errorf("%d calls for %d directories", got, dirs)
	}
	if got := len(r.tree(t, c, r.did(""))); got != len(all) {
		t.Errorf("%d entries, want %d", got, len(all))
	}
	if n, err := c.Import(t.Context(), seq(all)); err != nil || n != 0 {
		t.Errorf("again: %d added, %v", n, err)
	}
}

// A directory that is removed leaves nothing that would stand somewhere else, and can be made and filled again, by others too.
func TestDirectoryMadeAgain(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c, other := r.lfn(t, Options{}), r.open(t, r.paths())
	mkdir(t, c, r.did("d"), backends.Container)
	f := r.copyAt("d/f", 1)
	add(t, c, f)
	add(t, other, r.copyAt("d/g", 2))
	must(t, c.Remove(t.Context(), r.did("d/f")))
	must(t, c.Remove(t.Context(), r.did("d/g")))
	must(t, c.Remove(t.Context(), r.did("d")))
	r.Daemons("undertaker")
	c.Refresh(backends.DID{})
	other.Refresh(backends.DID{})
	mkdir(t, c, r.did("d"), backends.Container)
	h := r.copyAt("d/h", 3)
	add(t, other, h)
	add(t, c, f)
	for _, x := range []*Catalogue{c, other} {
		x.Refresh(backends.DID{})
		if got := names(t, x, r.did("d")); !slices.Equal(got, []string{"f", "h"}) {
			t.Errorf("the directory shows %q", got)
		}
	}
}

// A mkdir whose process dies before the directory is attached is done by the next one, and only then.
func TestUnattachedDirectory(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c := r.lfn(t, Options{})
	d := r.did("half")
	r.Do("POST", "/dids", []map[string]any{{"scope": d.Scope, "name": d.Name, "type": "CONTAINER"}})
	in := backends.Info{DID: d, Type: backends.Container}
	must(t, c.Add(t.Context(), in, nil))
	if got := names(t, c, r.did("")); !slices.Equal(got, []string{"half"}) {
		t.Errorf("the root shows %q", got)
	}
	if err := c.Add(t.Context(), in, nil); !errors.Is(err, backends.ErrExist) {
		t.Errorf("again: %v", err)
	}
}

// What Add was given as inode stays as long as the process does.
func TestInodeOfAdd(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c := r.lfn(t, Options{})
	e := r.copyAt("f", 1)
	e.Info.Inode = 1 << 50
	add(t, c, e)
	in, err := c.Stat(t.Context(), e.Info.DID)
	must(t, err)
	for x, err := range c.Contents(t.Context(), r.did(""), "") {
		must(t, err)
		if x.Inode != 1<<50 || in.Inode != 1<<50 {
			t.Errorf("inodes %d, %d", x.Inode, in.Inode)
		}
	}
}
