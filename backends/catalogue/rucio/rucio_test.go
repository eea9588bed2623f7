package rucio

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/servertest"
)

// lfn opens a catalogue whose root is the rig's scope.
func (r *rig) lfn(t *testing.T, o Options) *Catalogue {
	t.Helper()
	o.Layout, o.ScopeOf, o.Roots = backends.LayoutLFN, first, []string{"/" + r.scope}
	c := r.open(t, o)
	must(t, c.AddScope(t.Context(), backends.Info{DID: r.did("")}))
	return c
}

func (r *rig) did(path string) backends.DID {
	return backends.DID{Scope: r.scope, Name: strings.TrimSuffix("/"+r.scope+"/"+path, "/")}
}

func (r *rig) file(path string, size int64) backends.Entry {
	d := r.did(path)
	sums := backends.Checksums{Adler32: fmt.Sprintf("%08x", size), MD5: fmt.Sprintf("%032x", size)}
	return backends.Entry{
		Info:     backends.Info{DID: d, Type: backends.File, Size: size, Checksums: sums, Generation: backends.GenerationOf(d, size, sums)},
		Replicas: []backends.Replica{{RSE: r.disk, PFN: strings.TrimLeft(d.Name, "/"), State: backends.Available}},
	}
}

func add(t *testing.T, c *Catalogue, e backends.Entry) {
	t.Helper()
	must(t, c.Add(t.Context(), e.Info, e.Meta, e.Replicas...))
}

func mkdir(t *testing.T, c *Catalogue, d backends.DID, typ backends.Type) {
	t.Helper()
	must(t, c.Add(t.Context(), backends.Info{DID: d, Type: typ}, nil))
}

func names(t *testing.T, c *Catalogue, d backends.DID) (out []string) {
	t.Helper()
	for in, err := range c.Contents(t.Context(), d, "") {
		must(t, err)
		out = append(out, c.key(in.DID))
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// calls are the requests that f makes.
func calls(c *Catalogue, f func()) (n int64) {
	before := c.c.Calls()
	f()
	for k, v := range c.c.Calls() {
		n += v - before[k]
	}
	return n
}

// A listing of n files costs ceil(n/1000) calls and a few, registering them too, and what is known costs none.
func TestCalls(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c := r.lfn(t, Options{})
	mkdir(t, c, r.did("day"), backends.Dataset)
	const n = 3500
	files := func(yield func(backends.Entry, error) bool) {
		for i := range n {
			if !yield(r.file(fmt.Sprintf("day/f%05d", i), int64(i)), nil) {
				return
			}
		}
	}
	c.RSEs(t.Context())
	got := calls(c, func() {
		added, err := c.Import(t.Context(), files)
		if err != nil || added != n {
			t.Fatalf("imported %d, %v", added, err)
		}
	})
	if most := int64(4*4 + 3); got > most {
		t.Errorf("registering %d files took %d calls, want %d at most", n, got, most)
	}
	if got := calls(c, func() {
		if added, err := c.Import(t.Context(), files); err != nil || added != 0 {
			t.Fatalf("imported again: %d, %v", added, err)
		}
	}); got > 4*4+3 {
		t.Errorf("the same again took %d calls", got)
	}
	c.Refresh(backends.DID{})
	if got := calls(c, func() {
		if l := names(t, c, r.did("day")); len(l) != n || !slices.IsSorted(l) {
			t.Errorf("%d names", len(l))
		}
	}); got > 4+2 {
		t.Errorf("listing %d files took %d calls", n, got)
	}
	if got := calls(c, func() { names(t, c, r.did("day")) }); got != 0 {
		t.Errorf("listing what is known took %d calls", got)
	}
	// Look-ups that come together go together.
	c.Refresh(backends.DID{})
	done := make(chan error, 500)
	if got := calls(c, func() {
		for i := range cap(done) {
			go func() {
				_, err := c.Stat(t.Context(), r.did(fmt.Sprintf("day/f%05d", i)))
				done <- err
			}()
		}
		for range cap(done) {
			must(t, <-done)
		}
	}); got > 30 {
		t.Errorf("%d look-ups took %d calls", cap(done), got)
	}
}

// A look-up in a directory whose content is known costs nothing, and in another two calls.
func TestMember(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c := r.open(t, Options{})
	set, box := backends.DID{Scope: r.scope, Name: "set"}, backends.DID{Scope: r.scope, Name: "box"}
	mkdir(t, c, set, backends.Dataset)
	mkdir(t, c, box, backends.Container)
	f, g := r.file("f", 5), r.file("g", 6)
	f.Info.DID.Name, g.Info.DID.Name = "f", "g"
	add(t, c, f)
	add(t, c, g)
	must(t, c.Attach(t.Context(), set, f.Info.DID))
	must(t, c.Attach(t.Context(), box, g.Info.DID))
	is := func(dir, child backends.DID, want error, most int64) {
		t.Helper()
		var in backends.Info
		var err error
		n := calls(c, func() { in, err = c.Member(t.Context(), dir, child) })
		if !errors.Is(err, want) || err == nil && in.DID != child {
			t.Errorf("%s in %s: %v, %v, want %v", child, dir, in.DID, err, want)
		}
		if n > most {
			t.Errorf("%s in %s took %d calls, want %d at most", child, dir, n, most)
		}
	}
	c.Refresh(backends.DID{})
	is(set, f.Info.DID, nil, 2)
	is(set, g.Info.DID, backends.ErrNotExist, 2)
	is(box, g.Info.DID, nil, 2) // a loose file
	is(box, loose(box), backends.ErrNotExist, 2)
	names(t, c, set)
	is(set, f.Info.DID, nil, 0)
	is(set, g.Info.DID, backends.ErrNotExist, 0)
}

// Loose files of a container lie in a dataset that nobody sees.
func TestLooseFiles(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c := r.lfn(t, Options{})
	mkdir(t, c, r.did("d"), backends.Container)
	add(t, c, r.file("d/f", 5))
	mkdir(t, c, r.did("d/sub"), backends.Container)
	add(t, c, r.file("d/g", 6))
	if l := names(t, c, r.did("d")); !slices.Equal(l, []string{"f", "g", "sub"}) {
		t.Errorf("the directory shows %q", l)
	}
	if _, err := c.Stat(t.Context(), loose(r.did("d"))); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("the dataset: %v", err)
	}
	if out := r.Run("list-content", r.did("d").String()); !strings.Contains(out, filesName) {
		t.Errorf("Rucio's own client does not show the dataset:\n%s", out)
	}
	for p, err := range c.Parents(t.Context(), r.did("d/f")) {
		if err != nil || p != r.did("d") {
			t.Errorf("parent %v, %v", p, err)
		}
	}
	mkdir(t, c, r.did("day"), backends.Dataset)
	if err := c.Add(t.Context(), backends.Info{DID: r.did("day/x"), Type: backends.Container}, nil); !errors.Is(err, backends.ErrImmutable) {
		t.Errorf("a directory in a dataset: %v", err)
	}
	must(t, c.Remove(t.Context(), r.did("d/f")))
	must(t, c.Remove(t.Context(), r.did("d/g")))
	if l := names(t, c, r.did("d")); !slices.Equal(l, []string{"sub"}) {
		t.Errorf("after the files were removed it shows %q", l)
	}
	must(t, c.Remove(t.Context(), r.did("d/sub")))
	must(t, c.Remove(t.Context(), r.did("d")))
	if l := names(t, c, r.did("")); !slices.Equal(l, []string{"day"}) {
		t.Errorf("the root shows %q", l)
	}
}

// A removed name is not found by anybody, comes back with the same content, and with no other.
func TestRemovedNames(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	c, other := r.lfn(t, Options{}), r.open(t, Options{Layout: backends.LayoutLFN, ScopeOf: first, Roots: []string{"/" + r.scope}})
	mkdir(t, c, r.did("d"), backends.Container)
	f := r.file("d/f", 5)
	add(t, c, f)
	must(t, c.Remove(t.Context(), f.Info.DID))
	for _, c := range []*Catalogue{c, other} {
		if _, err := c.Stat(t.Context(), f.Info.DID); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("stat of a removed file: %v", err)
		}
		if l := names(t, c, r.did("d")); len(l) != 0 {
			t.Errorf("its directory shows %q", l)
		}
	}
	g := r.file("d/f", 6)
	if err := c.Add(t.Context(), g.Info, nil, g.Replicas...); !errors.Is(err, backends.ErrExist) || !strings.Contains(err.Error(), "another content") {
		t.Errorf("another content: %v", err)
	}
	add(t, c, f)
	other.Refresh(backends.DID{})
	if in, err := other.Stat(t.Context(), f.Info.DID); err != nil || in.Size != 5 {
		t.Errorf("the same content again: %+v, %v", in, err)
	}
	must(t, c.Remove(t.Context(), f.Info.DID))
	must(t, c.Remove(t.Context(), r.did("d")))
	mkdir(t, c, r.did("d"), backends.Container)
	if in, err := c.Stat(t.Context(), r.did("d")); err != nil || !in.IsDir() {
		t.Errorf("a directory that is made again: %+v, %v", in, err)
	}
	r.Daemons("undertaker")
	c.Refresh(backends.DID{})
	if _, err := c.Stat(t.Context(), r.did("d")); err != nil {
		t.Errorf("after the undertaker came by: %v", err)
	}
}

// Where the server is away, what was known is shown with its date, and what was not is unavailable, and never missing.
func TestServerAway(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{Own: true})
	c := r.lfn(t, Options{TTL: 2 * time.Second, NegativeTTL: time.Millisecond})
	mkdir(t, c, r.did("d"), backends.Container)
	add(t, c, r.file("d/f", 5))
	want := names(t, c, r.did("d"))
	_, err := c.Stat(t.Context(), r.did("d/f"))
	must(t, err)
	_, err = c.Replicas(t.Context(), r.did("d/f"))
	must(t, err)
	if at := c.AsOf(r.did("d/f")); !at.IsZero() {
		t.Errorf("as of %v while it is fresh", at)
	}
	r.Stop()
	time.Sleep(2 * time.Second)
	if got := names(t, c, r.did("d")); !slices.Equal(got, want) {
		t.Errorf("listing %q, want %q", got, want)
	}
	if in, err := c.Stat(t.Context(), r.did("d/f")); err != nil || in.Size != 5 {
		t.Errorf("stat: %+v, %v", in, err)
	}
	if at := c.AsOf(r.did("d/f")); at.IsZero() || time.Since(at) > time.Minute {
		t.Errorf("as of %v", at)
	}
	if _, err := c.Replicas(t.Context(), r.did("d/f")); err != nil {
		t.Errorf("replicas: %v", err)
	}
	for _, d := range []backends.DID{r.did("nosuch"), r.did("d/nosuch")} {
		if _, err := c.Stat(t.Context(), d); !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrNotExist) || !backends.IsTemporary(err) {
			t.Errorf("stat of what is not known: %v", err)
		}
	}
	r.Start()
	if _, err := c.Stat(t.Context(), r.did("nosuch")); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("stat after it is back: %v", err)
	}
	if at := c.AsOf(r.did("d")); !at.IsZero() {
		names(t, c, r.did("d"))
		if at := c.AsOf(r.did("d")); !at.IsZero() {
			t.Errorf("as of %v after it is back", at)
		}
	}
}

// A registration that fails at its nth request, before or after the server has done it, is repeated, and ends with one file in its dataset.
func TestFailuresInAdd(t *testing.T) {
	r := newRig(t, servertest.RucioOptions{})
	r.lfn(t, Options{})
	target, err := url.Parse(r.URL)
	must(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	for _, late := range []bool{false, true} {
		for nth := int64(1); ; nth++ {
			if nth > 30 {
				t.Fatal("it never succeeds at once")
			}
			var asked atomic.Int64
			srv := startProxy(t, func(w http.ResponseWriter, q *http.Request) {
				if q.URL.Path != "/auth/userpass" && asked.Add(1) == nth {
					if late {
						proxy.ServeHTTP(discard{http.Header{}}, q)
					}
					panic(http.ErrAbortHandler)
				}
				proxy.ServeHTTP(w, q)
			})
			client, err := rest.New(rest.Options{Config: rest.Config{Host: srv, Account: r.account, AuthType: rest.Userpass, Username: r.account, Password: servertest.RucioPassword}})
			must(t, err)
			c, err := Open(Options{Client: client, Layout: backends.LayoutLFN, ScopeOf: first, Roots: []string{"/" + r.scope}})
			must(t, err)
			dir := fmt.Sprintf("d%v%d", late, nth)
			e := r.file(dir+"/f", nth)
			e.Meta = backends.Meta{"obs_id": nth}
			work := func() error {
				err := c.Add(t.Context(), backends.Info{DID: r.did(dir), Type: backends.Container}, nil)
				if err != nil && !errors.Is(err, backends.ErrExist) {
					return err
				}
				if err := c.Add(t.Context(), e.Info, e.Meta, e.Replicas...); err != nil {
					return err
				}
				_, err = c.AddRule(t.Context(), backends.Rule{DID: e.Info.DID, Copies: 1, Expression: r.disk, Expires: time.Now().Add(time.Hour)})
				return err
			}
			failed := work()
			if failed != nil && !backends.IsTemporary(failed) {
				t.Errorf("the failure at request %d (late: %v) is not temporary: %v", nth, late, failed)
			}
			if failed != nil {
				if err := work(); err != nil {
					t.Errorf("again after request %d failed (late: %v): %v", nth, late, err)
				}
			}
			c.Close()
			sees := r.open(t, Options{Layout: backends.LayoutLFN, ScopeOf: first, Roots: []string{"/" + r.scope}})
			if l := names(t, sees, r.did(dir)); !slices.Equal(l, []string{"f"}) {
				t.Errorf("request %d (late: %v): the directory shows %q", nth, late, l)
			}
			if m, err := sees.Meta(t.Context(), e.Info.DID); err != nil || fmt.Sprint(m["obs_id"]) != fmt.Sprint(nth) {
				t.Errorf("request %d: metadata %v, %v", nth, m, err)
			}
			rules := 0
			for s, err := range sees.RulesOf(t.Context(), e.Info.DID) {
				must(t, err)
				if s.DID != loose(r.did(dir)) {
					t.Errorf("a rule on %s", s.DID)
				}
				rules++
			}
			if rules != 1 {
				t.Errorf("request %d (late: %v): %d rules", nth, late, rules)
			}
			if failed == nil && asked.Load() < nth {
				break
			}
		}
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
