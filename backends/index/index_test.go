package index

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tarn/backends"
)

// small makes a little tree.
func small(t testing.TB) *rig {
	r := newRig(t)
	r.scope("s")
	r.dir("/s/a", backends.Meta{"level": "DL3"})
	r.dir("/s/a/b", backends.Meta{"run": 5.0})
	r.file("/s/a/b/f", 1, backends.Meta{"level": "DL0"})
	r.file("/s/a/b/g", 2, nil)
	r.dir("/s/c", nil)
	r.file("/s/c/h", 3, backends.Meta{"level": "DL3", "tel": []any{"LST-1", "MST-2"}})
	return r
}

// is compares an answer with the catalogue's, and tells whether it is from the index.
func (r *rig) is(root, q string, fromIndex bool) {
	r.t.Helper()
	if i := r.same(root, q); i.AsOf.IsZero() == fromIndex {
		r.t.Errorf("%s below %s: as of %s, %s", q, root, i.AsOf, i.Why)
	}
}

// same compares what the index gives, if it answers, with what the catalogue gives.
func (r *rig) same(root, q string) *backends.Indexed {
	r.t.Helper()
	d := backends.DID{}
	if root != "/" {
		d = did(root)
	}
	got, i := r.found(d, parse(r.t, q))
	want := collect(r.t, r.cat.Find(context.Background(), d, parse(r.t, q)))
	if !maps.Equal(got, want) {
		r.t.Errorf("%s below %s gives %v, want %v", q, root, got, want)
	}
	return i
}

func TestCovers(t *testing.T) {
	r := small(t)
	r.is("/", "level=DL3", false)
	r.build("/s/a")
	r.is("/s/a", "level=DL3", true)
	r.is("/s/a/b", "level=DL3", true)
	r.is("/s/a/b/g", "run=5", true)
	r.is("/s/c", "level=DL3", false)
	r.is("/", "level=DL3", false)
	r.is("/s/a", "SE=DISK", false)
	if got := collect(t, r.Find(context.Background(), did("/s/a"), parse(t, "level=DL3"))); len(got) != 3 {
		t.Errorf("without the context: %v", got)
	}
	r.build("/s/c")
	r.build("/")
	list, size, err := r.x.Covers(context.Background())
	if err != nil || len(list) != 1 || list[0].DIDs != 7 || list[0].Path != "/" || size == 0 {
		t.Errorf("covers %+v, %d bytes, %v", list, size, err)
	}
	r.is("/", "tel=MST-2", true)
	// What is above a cover is inherited, too.
	r.build("/s/a/b")
	must(t, r.SetMeta(context.Background(), did("/s/a"), backends.Meta{"level": "DL4"}))
	r.is("/s/a/b", "level=DL4", true)
	r.is("/", "level=DL4", true)
	if n, err := r.x.Drop(context.Background(), did("/s/a")); n != 1 || err != nil {
		t.Errorf("dropped %d, %v", n, err)
	}
	if n, err := r.x.Drop(context.Background(), backends.DID{}); n != 1 || err != nil {
		t.Errorf("dropped %d, %v", n, err)
	}
	r.is("/", "level=DL4", false)
}

func TestAge(t *testing.T) {
	r := small(t)
	now := time.Now()
	must(t, r.x.Close())
	r.opt.MaxAge, r.opt.Now = time.Hour, func() time.Time { return now }
	r.open()
	r.build("/")
	r.is("/", "level=DL3", true)
	now = now.Add(2 * time.Hour)
	r.is("/", "level=DL3", false)
	_, i := r.found(backends.DID{}, parse(t, "level=DL3"))
	if i.Why == "" {
		t.Error("it does not say why")
	}
	r.build("/")
	r.is("/", "level=DL3", true)
}

// copyAs is what kill -9 would leave: the files as the kernel has them.
func (r *rig) copyAs() string {
	to := r.t.TempDir() + "/index"
	must(r.t, os.CopyFS(to, os.DirFS(r.opt.Dir)))
	return to
}

// reopened closes the index and opens another folder.
func (r *rig) reopened(dir string) {
	must(r.t, r.x.Close())
	r.opt.Dir = dir
	r.open()
}

// A change that was made is in the index after kill -9, although nothing had been looked at; and one that was not is not.
func TestKill(t *testing.T) {
	r := small(t)
	r.build("/")
	r.x.applying.Lock() // nothing is looked at
	must(t, r.SetMeta(context.Background(), did("/s/c"), backends.Meta{"run": 7.0}))
	must(t, r.Rename(context.Background(), did("/s/a/b"), did("/s/c/b")))
	r.x.begin(change{what: wasPut, did: did("/s/c/x")}, change{what: wasIn, did: did("/s/c/h"), with: did("/s/a")}, change{what: wasRenamed, did: did("/s/a"), with: did("/s/z")})
	dir := r.copyAs()
	r.x.applying.Unlock()
	r.reopened(dir)
	for _, q := range []string{"run=7", "level=DL3", "name=b", "name=*"} {
		r.is("/", q, true)
	}
	r.is("/s/a", "name=*", true)
}

// A cover that was not finished answers nothing, the one before does, and the records of the first are deleted.
func TestKillWhileBuilding(t *testing.T) {
	r := small(t)
	r.build("/")
	dir := ""
	for i := range 30 {
		r.file(fmt.Sprintf("/s/c/x%d", i), 4, nil)
	}
	r.is("/", "size=4", true)
	slow := &slowCatalogue{Catalogue: r.x.o.Catalogue, at: func() {
		if dir == "" {
			must(t, r.SetMeta(context.Background(), did("/s/c"), backends.Meta{"run": 8.0}))
			dir = r.copyAs()
		}
	}}
	r.x.o.Catalogue = slow
	r.build("/")
	r.is("/", "run=8", true)
	r.reopened(dir)
	r.is("/", "run=8", true)
	list, _, err := r.x.Covers(context.Background())
	must(t, err)
	must(t, waitFor(func() bool {
		more, err := r.x.step()
		must(t, err)
		return !more
	}))
	n := 0
	must(t, scan(r.x.db, []byte{kindEpoch}, func(k, _ []byte) error {
		if numberOf(k) != 1 {
			n++
		}
		return nil
	}))
	if n > 0 || len(list) != 1 {
		t.Errorf("%d records are nobody's, covers %+v", n, list)
	}
}

// slowCatalogue calls at while a listing is under way.
type slowCatalogue struct {
	Catalogue
	at func()
}

func (c *slowCatalogue) Contents(ctx context.Context, d backends.DID, after string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		for in, err := range c.Catalogue.Contents(ctx, d, after) {
			if !yield(in, err) {
				return
			}
		}
		c.at()
	}
}

func waitFor(f func() bool) error {
	for range 1000 {
		if f() {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("it did not come")
}

// Changes of any kind while a cover is read are in it.
func TestChangesWhileBuilding(t *testing.T) {
	for seed := range uint64(20) {
		m := newModel(t, seed)
		cat := m.x.o.Catalogue
		n := 0
		m.x.o.Catalogue = &slowCatalogue{Catalogue: cat, at: func() {
			if n++; n%3 == 0 && n < 60 {
				m.change()
			}
		}}
		m.build("/")
		m.x.o.Catalogue = cat
		m.compare(nil)
	}
}

// After a power cut, with another lake, or damage nothing is answered from what is there, and the index can be made again.
func TestOfNoUse(t *testing.T) {
	for name, spoil := range map[string]func(r *rig){
		"power cut": func(r *rig) {
			must(t, os.WriteFile(filepath.Join(r.opt.Dir, usableName), []byte("another start"), 0o600))
		},
		"not begun": func(r *rig) { must(t, os.Remove(filepath.Join(r.opt.Dir, usableName))) },
		"lake":      func(r *rig) { r.opt.Lake = "other" },
		"damage": func(r *rig) {
			must(t, filepath.WalkDir(r.opt.Dir, func(p string, d fs.DirEntry, err error) error {
				if filepath.Base(p) == "MANIFEST" {
					return os.WriteFile(p, []byte("nonsense that is long enough"), 0o600)
				}
				return err
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := small(t)
			r.build("/")
			must(t, r.x.Close())
			spoil(r)
			r.open()
			r.is("/", "level=DL3", false)
			r.build("/")
			r.is("/", "level=DL3", true)
		})
	}
}

// A change that cannot be put on record ends the index, in this process and the next, until it is made again.
func TestBroken(t *testing.T) {
	r := small(t)
	r.build("/")
	r.x.breaks(errors.New("disk full"))
	must(t, r.SetMeta(context.Background(), did("/s/c"), backends.Meta{"level": "DL9"}))
	r.is("/", "level=DL9", false)
	dir := r.copyAs()
	r.build("/")
	r.is("/", "level=DL9", true)
	r.reopened(dir)
	r.is("/", "level=DL9", false)
}

// A second process waits for the end of the first, and ends without harm before that.
func TestTwo(t *testing.T) {
	r := small(t)
	r.build("/")
	vain, err := Open(r.opt)
	must(t, err)
	time.Sleep(3 * lockPause)
	must(t, vain.Close())
	r.is("/", "level=DL3", true)
	next, err := Open(r.opt)
	must(t, err)
	must(t, r.SetMeta(context.Background(), did("/s/c"), backends.Meta{"level": "DL9"}))
	must(t, r.x.Close())
	r.x, r.indexed = next, &indexed{next.Hooks(), below{r.cat}}
	r.is("/", "level=DL9", true)
}

// A folder without an index costs nothing, and changes make none.
func TestNone(t *testing.T) {
	r := small(t)
	r.is("/", "level=DL3", false)
	if _, err := os.Stat(r.opt.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a folder: %v", err)
	}
}

// While the catalogue cannot be asked about a change, it is asked itself, and what has changed is seen when it answers again.
func TestAway(t *testing.T) {
	r := small(t)
	r.build("/")
	cat := r.x.o.Catalogue
	away := &awayCatalogue{Catalogue: cat}
	r.x.applying.Lock()
	r.x.o.Catalogue = away
	r.x.applying.Unlock()
	must(t, r.SetMeta(context.Background(), did("/s/c/h"), backends.Meta{"level": "DL7"}))
	r.is("/", "level=DL7", false)
	r.x.applying.Lock()
	r.x.o.Catalogue = cat
	r.x.applying.Unlock()
	must(t, waitFor(func() bool { _, i := r.found(backends.DID{}, parse(t, "level=DL7")); return !i.AsOf.IsZero() }))
	r.is("/", "level=DL7", true)
}

type awayCatalogue struct{ Catalogue }

func (c *awayCatalogue) Stat(context.Context, backends.DID) (backends.Info, error) {
	return backends.Info{}, backends.ErrUnavailable
}
