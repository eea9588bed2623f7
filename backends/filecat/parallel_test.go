package filecat

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"

	"tarn/backends"
)

// Datasets that are added, updated, frozen, read and removed at the same time leave nothing behind, and are never seen by halves.
func TestDatasetsInParallel(t *testing.T) {
	k := production(t)
	ctx := t.Context()
	var wg sync.WaitGroup
	may := func(what string, err error) {
		for _, ok := range []error{nil, backends.ErrExist, backends.ErrNotExist, backends.ErrImmutable, backends.ErrStale} {
			if err == ok || ok != nil && errors.Is(err, ok) {
				return
			}
		}
		t.Errorf("%s: %v", what, err)
	}
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				name := fmt.Sprint("d", (i+j)%3)
				_, err := k.fc.AddDataset(ctx, name, "", "runNumber=Any")
				may("add", err)
				_, err = k.fc.UpdateDataset(ctx, name)
				may("update", err)
				_, err = k.fc.FreezeDataset(ctx, name)
				may("freeze", err)
				n := 0
				for _, e := range k.fc.DatasetFiles(ctx, name) {
					if err = e; err == nil {
						n++
					}
				}
				if may("files", err); err == nil && n != 6 {
					t.Errorf("%s has %d files", name, n)
				}
				_, err = k.fc.CheckDataset(ctx, name, func(Difference) error { return nil })
				may("check", err)
				_, err = k.fc.ReleaseDataset(ctx, name)
				may("release", err)
				may("remove", k.fc.RemoveDataset(ctx, name))
			}
		})
	}
	wg.Wait()
	for _, table := range []string{tableDataset, tableFile, tableList} {
		for r, err := range k.cat.SideRecords(ctx, table, "", "") {
			t.Errorf("%s has %q left, %v", table, r.Key, err)
		}
	}
}

// Of two edges that would close a cycle together one is refused, whoever comes first.
func TestCyclesInParallel(t *testing.T) {
	k := production(t)
	for i := range 20 {
		a, b := k.did(fmt.Sprint("a", i)), k.did(fmt.Sprint("b", i))
		k.file(fmt.Sprint("a", i), 1, nil)
		k.file(fmt.Sprint("b", i), 1, nil)
		var wg sync.WaitGroup
		var errs [2]error
		for n, pair := range [][2]backends.DID{{a, b}, {b, a}} {
			wg.Go(func() { errs[n] = k.fc.AddAncestors(t.Context(), pair[0], pair[1]) })
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("both ways: %v, %v", errs[0], errs[1])
		}
		k.wants(errors.Join(errs[:]...), backends.ErrLoop)
	}
}

// stopping is a Side that fails after so many calls that change something, as if the process died.
type stopping struct {
	backends.Side
	left int
}

var errStopped = errors.New("stopped")

func (s *stopping) PutSide(ctx context.Context, rs ...backends.SideRecord) error {
	if s.left--; s.left < 0 {
		return errStopped
	}
	return s.Side.PutSide(ctx, rs...)
}

func (s *stopping) LoadSide(ctx context.Context, rs iter.Seq2[backends.SideRecord, error]) (int64, error) {
	if s.left--; s.left < 0 {
		return 0, errStopped
	}
	return s.Side.LoadSide(ctx, rs)
}

// Wherever an update of a dataset stops, the dataset is the old or the new one, whole, and the next one clears up.
func TestUpdateThatStops(t *testing.T) {
	for steps := range 12 {
		k := production(t)
		ctx := t.Context()
		_, err := k.fc.AddDataset(ctx, "d", "", "runNumber=Any")
		k.must(err)
		k.file("prod/electron/20/Data/run9", 9, backends.Meta{"runNumber": 9})
		o := k.fc.o
		o.Side = &stopping{k.cat, steps}
		_, stopped := New(o).FreezeDataset(ctx, "d")
		if stopped != nil && !errors.Is(stopped, errStopped) {
			t.Fatal(stopped)
		}
		k.fc = New(k.fc.o)
		d, err := k.fc.Dataset(ctx, "d")
		k.must(err)
		want := map[Status]int64{Dynamic: 6, Frozen: 7}[d.Status]
		if d.Files != want || stopped == nil && d.Status != Frozen {
			t.Fatalf("after %d steps it is %s with %d files", steps, d.Status, d.Files)
		}
		k.equal("listed files", countListed(k, "d"), want)
		_, err = k.fc.AddDataset(ctx, "other", "", "runNumber=1")
		k.must(err)
		n := int64(0)
		for _, err := range k.cat.SideRecords(ctx, tableFile, "", "") {
			k.must(err)
			n++
		}
		k.equal(fmt.Sprintf("records of lists after %d steps", steps), n, want+2)
	}
}

func countListed(k *rig, name string) (n int64) {
	k.Helper()
	d, err := k.fc.dataset(k.Context(), name)
	k.must(err)
	for _, err := range k.fc.listed(k.Context(), d) {
		k.must(err)
		n++
	}
	return n
}
