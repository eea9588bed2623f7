package embedded

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn/backends"
)

// stored gives the content of each file of the database, and of "durable".
func stored(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "d*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, filepath.Join(dir, "durable")) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[f] = string(b)
	}
	return all
}

// Every damaged block, table and log is listed, not only the first.
func TestDamagesListsAll(t *testing.T) {
	dir := damageLake(t, false)
	list := func() (all string) {
		t.Helper()
		before := stored(t, dir)
		ds, err := Damages(t.Context(), small(Options{Dir: dir}))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range ds {
			if !errors.Is(d, backends.ErrDamaged) {
				t.Error(d)
			}
			all += d.Error() + "\n"
		}
		if after := stored(t, dir); !maps.Equal(after, before) {
			t.Error("the catalogue was changed")
		}
		return all
	}
	if got := list(); got != "" {
		t.Fatalf("a sound catalogue: %s", got)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "db", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	b, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	b[100] ^= 1
	b[20_000] ^= 1
	if err := os.WriteFile(tables[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := list(); strings.Count(got, "checksum of the block at") != 2 {
		t.Errorf("two damaged blocks: %s", got)
	}
	manifest := filepath.Join(dir, "db", "MANIFEST")
	if err := os.Truncate(manifest, 3); err != nil {
		t.Fatal(err)
	}
	if got := list(); strings.Count(got, "checksum of the block at") != 2 || !strings.Contains(got, "MANIFEST") {
		t.Errorf("without a MANIFEST: %s", got)
	}
	held := open(t, Options{Dir: t.TempDir()})
	if _, err := Damages(t.Context(), Options{Dir: held.dir}); !errors.Is(err, backends.ErrBusy) {
		t.Errorf("of an open one: %v", err)
	}
}

func TestDamagesListsTablesThatAreGone(t *testing.T) {
	dir := damageLake(t, false)
	tables, err := filepath.Glob(filepath.Join(dir, "db", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	for _, f := range tables {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	ds, err := Damages(t.Context(), small(Options{Dir: dir}))
	if err != nil || len(ds) != len(tables) {
		t.Errorf("%d tables are gone: %v, %v", len(tables), ds, err)
	}
}
