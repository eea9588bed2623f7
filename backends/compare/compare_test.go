package compare_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/checksum"
	"tarn/backends/compare"
	"tarn/backends/fault"
	"tarn/backends/lake"
	"tarn/backends/servertest"
	"tarn/backends/storage/posix"
	"tarn/backends/storage/webdav"
)

var ctx = context.Background()

// rig is a lake over a storage with faults, A, and a second one, B.
type rig struct {
	*lake.Lake
	t    *testing.T
	cat  *embedded.Catalogue
	a, b *fault.Storage
	dirB string
	now  time.Time
}

func newRig(t *testing.T, a backends.Storage) *rig {
	t.Helper()
	r := &rig{t: t, dirB: t.TempDir(), now: time.Now().Add(2 * time.Hour)}
	var err error
	if r.cat, err = embedded.Open(embedded.Options{InMemory: true, CacheBytes: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.cat.Close() })
	r.a, r.b = fault.NewStorage(a), fault.NewStorage(folder(t, r.dirB))
	r.Lake, err = lake.New(lake.Options{Catalogue: r.cat, Namespace: r.cat, Versions: r.cat, Rules: r.cat, Records: r.cat, RSEs: []*lake.RSE{
		{RSE: backends.RSE{Name: "A", Kind: backends.DiskKind}, Storage: r.a}, {RSE: backends.RSE{Name: "B", Kind: backends.DiskKind}, Storage: r.b}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	r.must(r.cat.AddScope(ctx, backends.Info{DID: backends.DID{Scope: "s"}, Mode: 0o755}))
	return r
}

func folder(t *testing.T, dir string) backends.Storage {
	t.Helper()
	s, err := posix.Open(posix.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func did(name string) backends.DID { return backends.DID{Scope: "s", Name: "/s/" + name} }

// file stores one at some RSEs and registers it.
func (r *rig) file(name string, at ...string) backends.DID {
	r.t.Helper()
	data := []byte(strings.Repeat(name, 50))
	h := checksum.New()
	h.Write(data)
	in := backends.Info{DID: did(name), Type: backends.File, Size: int64(len(data)), Checksums: h.Sum()}
	var reps []backends.Replica
	for _, rse := range at {
		x, _ := r.RSE(rse)
		backendstest.Put(r.t, x.Storage, "d/"+name, data)
		reps = append(reps, backends.Replica{RSE: rse, PFN: "d/" + name, State: backends.Available})
	}
	r.must(r.cat.Add(ctx, in, nil, reps...))
	return in.DID
}

// run compares the RSEs and gives what is found, sorted.
func (r *rig) run(o compare.Options, rses ...string) (out []string, sum compare.Summary) {
	r.t.Helper()
	o.Lake, o.Scratch, o.Now = r.Lake, r.t.TempDir(), func() time.Time { return r.now }
	var list []*lake.RSE
	for _, n := range rses {
		x, _ := r.RSE(n)
		list = append(list, x)
	}
	sum, err := compare.Storages(ctx, o, list, func(f compare.Finding) error {
		word := f.What
		if f.Repaired {
			word += "!"
		}
		if f.Note {
			word = "(" + word + ")"
		}
		at := f.PFN
		if f.What == compare.Gone {
			at = f.DID.Name
		}
		out = append(out, strings.Join(strings.Fields(word+" "+f.RSE+" "+at), " "))
		return nil
	})
	r.must(err)
	slices.Sort(out)
	return out, sum
}

func (r *rig) finds(o compare.Options, want ...string) {
	r.t.Helper()
	got, _ := r.run(o, "A", "B")
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		r.t.Errorf("found\n   %s\nwant\n   %s", strings.Join(got, "\n   "), strings.Join(want, "\n   "))
	}
}

// story is all kinds of harm, on any storage.
func story(t *testing.T, a backends.Storage) {
	r := newRig(t, a)
	for i := range 10 {
		r.file(fmt.Sprint("f", i), "A", "B")
	}
	only := r.file("only", "A")
	past := r.file("past", "A")
	r.must(r.cat.Remove(ctx, past))
	got, sum := r.run(compare.Options{Deep: true}, "A", "B")
	if len(got) > 0 || sum.Good != 21 || sum.Replicas != 21 || sum.Files != 22 {
		t.Fatalf("a lake in order: %q, %+v", got, sum)
	}

	r.must(a.Remove(ctx, "d/f0"))
	backendstest.Put(t, a, "d/f1", []byte("short"))
	backendstest.Put(t, a, "d/f2", []byte(strings.Repeat("F2", 50)))
	r.must(a.Remove(ctx, "d/only"))
	backendstest.Put(t, a, "x/y/dark", []byte("dark"))
	backendstest.Put(t, a, "unsent", []byte("unsent"))
	o := compare.Options{Unsent: func() compare.Unsent { return compare.Unsent{Places: []compare.Place{{RSE: "A", PFN: "unsent"}}} }}
	want := []string{"lost A d/f0", "lost A d/f1", "lost A d/only", "gone /s/only", "dark A x/y/dark"}
	r.finds(o, want...)
	o.Grace = 100 * time.Hour
	r.finds(o, want[:4]...) // the dark one is too young
	o.Grace, o.Deep = 0, true
	r.finds(o, append(want, "bad A d/f2")...)
	o.Repair, o.DeleteDark = true, true
	r.finds(o, "lost! A d/f0", "lost! A d/f1", "lost! A d/only", "gone /s/only", "dark! A x/y/dark", "bad! A d/f2")
	reps, err := r.cat.Replicas(ctx, did("f2"))
	r.must(err)
	for _, x := range reps {
		if (x.State == backends.Bad) != (x.RSE == "A") || x.RSE == "B" && x.Verified.IsZero() {
			t.Errorf("f2: %+v", x)
		}
	}
	// What is BAD is no new problem, and good again when it is.
	backendstest.Put(t, a, "d/f2", []byte(strings.Repeat("f2", 50)))
	o.Repair, o.Deep = false, false
	r.finds(o, "gone /s/only")
	o.Repair = true
	r.finds(o, "back! A d/f2", "gone /s/only")
	r.finds(compare.Options{}, "dark A unsent", "gone /s/only")
	o.Unsent = func() compare.Unsent {
		return compare.Unsent{Places: []compare.Place{{RSE: "A", PFN: "unsent"}}, Files: []backends.DID{only}}
	}
	r.finds(o) // it is to be sent anew
}

func TestOnAFolder(t *testing.T) { story(t, folder(t, t.TempDir())) }

// TestOnXRootD lists and asks for checksums by WebDAV on a real server.
func TestOnXRootD(t *testing.T) {
	srv := servertest.XRootD(t, servertest.XRootDOptions{})
	s, err := webdav.Open(webdav.Options{URL: srv.HTTP + "/data/compare"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	story(t, s)
}

// TestStorageThatDoesNotAnswer: nothing is said of its replicas, whether it fails at once or in the middle.
func TestStorageThatDoesNotAnswer(t *testing.T) {
	r := newRig(t, folder(t, t.TempDir()))
	for i := range 8 {
		r.file(fmt.Sprint("f", i), "A", "B")
	}
	o := compare.Options{Repair: true, Deep: true, DeleteDark: true}
	up := r.a.On("List", fault.At("d", fault.Always(fault.ErrTemporary)))
	r.finds(o, "unavailable A")
	up()
	// One that lists and does not tell: that is no proof.
	up = r.a.On("Stat", fault.Always(fault.ErrTemporary))
	got, _ := r.run(o, "A")
	if len(got) != 8 || strings.Contains(strings.Join(got, " "), "!") {
		t.Errorf("found %q", got)
	}
	up()
	up = r.a.On("Open", fault.Always(fault.ErrTemporary))
	got, _ = r.run(o, "A")
	if len(got) != 8 || strings.Contains(strings.Join(got, " "), "lost") || strings.Contains(strings.Join(got, " "), "bad") {
		t.Errorf("found %q", got)
	}
	up()
	// Not one is there.
	r.a.On("List", fault.At("d", func(string) error { return fmt.Errorf("injected: %w", backends.ErrNotExist) }))
	r.finds(o, "unavailable A")
	r.finds(compare.Options{Force: true}) // it is asked for each of them, and has them
}

// TestSharedAndReadOnly: what others keep there is noted, and never deleted.
func TestSharedAndReadOnly(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, folder(t, dir))
	r.file("f", "A")
	r.must(os.WriteFile(filepath.Join(dir, "theirs"), []byte("x"), 0o644))
	x, _ := r.RSE("A")
	r.must(r.SetRSE(x.RSE, lake.Care{Shared: true}))
	r.finds(compare.Options{Repair: true, DeleteDark: true}, "(dark) A theirs")
	x.RSE.ReadOnly = true
	r.must(r.SetRSE(x.RSE, lake.Care{}))
	r.finds(compare.Options{Repair: true, DeleteDark: true}, "dark A theirs")
}

// TestWhileFilesChange: files are stored, registered, renamed, removed and undeleted while storages are compared.
func TestWhileFilesChange(t *testing.T) {
	r := newRig(t, folder(t, t.TempDir()))
	r.must(r.cat.Add(ctx, backends.Info{DID: did("sub"), Type: backends.Container, Mode: 0o755}, nil))
	for i := range 60 {
		r.file(fmt.Sprint("old", i), "A")
	}
	var mu sync.Mutex // guards journal: places that are on no record yet
	journal := map[compare.Place]bool{}
	unsent := func() (u compare.Unsent) {
		mu.Lock()
		defer mu.Unlock()
		for p := range journal {
			u.Places = append(u.Places, p)
		}
		return u
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	loop := func(f func(i int)) {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					f(i)
				}
			}
		})
	}
	loop(func(i int) { // renames to and fro
		from, to := did(fmt.Sprint("old", i%60)), did(fmt.Sprint("sub/old", i%60))
		if i/60%2 == 1 {
			from, to = to, from
		}
		if err := r.cat.Rename(ctx, from, to); err != nil {
			t.Error(err)
		}
	})
	loop(func(i int) { // new ones, removed after a while and undeleted
		name := fmt.Sprint("new", i)
		p := compare.Place{RSE: "A", PFN: "d/" + name}
		mu.Lock()
		journal[p] = true
		mu.Unlock()
		r.file(name, "A")
		mu.Lock()
		delete(journal, p)
		mu.Unlock()
		if i%2 == 0 {
			r.must(r.cat.Remove(ctx, did(name)))
		}
		if i%4 == 0 {
			for p, err := range r.cat.Pasts(ctx, did(name)) {
				r.must(err)
				r.must(r.cat.Undelete(ctx, p.Handle))
				break
			}
		}
	})
	o := compare.Options{Unsent: unsent, Repair: true, DeleteDark: true, Deep: true}
	for range 5 {
		if got, _ := r.run(o, "A"); len(got) > 0 {
			t.Errorf("found %q", got)
		}
	}
	close(stop)
	wg.Wait()
}

// TestFiles asks for single files.
func TestFiles(t *testing.T) {
	r := newRig(t, folder(t, t.TempDir()))
	a, b := r.file("a", "A", "B"), r.file("b", "A")
	r.must(r.a.Remove(ctx, "d/a"))
	var got []string
	tell := func(f compare.Finding) error { got = append(got, f.What+" "+f.RSE+" "+f.DID.Name); return nil }
	sum, err := compare.Files(ctx, compare.Options{Lake: r.Lake}, func(each func(backends.Info) error) error {
		return errors.Join(each(backends.Info{DID: a}), each(backends.Info{DID: b}), each(backends.Info{DID: did("none")}))
	}, func(string) bool { return true }, tell)
	r.must(err)
	if !slices.Equal(got, []string{"lost A /s/a"}) || sum.Good != 2 || sum.Replicas != 3 {
		t.Errorf("found %q, %+v", got, sum)
	}
}

// TestCopyInPlaceOfABadOneIsNotDark: its path is not on record until it is whole and verified, which may take hours.
func TestCopyInPlaceOfABadOneIsNotDark(t *testing.T) {
	r := newRig(t, folder(t, t.TempDir()))
	d := r.file("f", "A", "B")
	in, err := r.cat.Stat(ctx, d)
	r.must(err)
	r.must(r.DeclareBad(ctx, in, "A", errors.New("rotten")))
	a, _ := r.RSE("A")
	backendstest.Put(t, a.Storage, lake.Replacements(in, "d/f")[0], []byte("whole, and not on record"))
	backendstest.Put(t, a.Storage, "s/nobody", []byte("knows"))
	o := compare.Options{Repair: true, DeleteDark: true}
	if got, _ := r.run(o, "A"); len(got) != 2 || !strings.Contains(strings.Join(got, "\n"), "s/nobody") {
		t.Errorf("found %q", got) // and that the BAD one is good
	}
	if _, err := a.Storage.Stat(ctx, lake.Replacements(in, "d/f")[0]); err != nil {
		t.Error(err)
	}
	r.must(r.DeclareBad(ctx, in, "A", errors.New("rotten")))
	r.must(r.cat.Remove(ctx, d)) // it can be undeleted
	if got, _ := r.run(o, "A"); len(got) > 0 {
		t.Errorf("found %q", got)
	}
}
