package embedded

import (
	"testing"
	"time"

	"tarn/backends/backendstest"
)

func opened(c *Catalogue) backendstest.Opened {
	return backendstest.Opened{Catalogue: c, Namespace: c, Versions: c, Rules: c, Importer: c, Places: c, Records: c, Side: c, Names: c, Grace: c.grace,
		Check: func(t *testing.T) { checkRecords(t, c) }}
}

// places are the RSEs of the suites whose paths are kept.
var places = []string{"DISK"}

// small keeps tests quick: memtables of 1 MiB.
func small(o Options) Options {
	o.CacheBytes = 8 << 20
	return o
}

func open(t testing.TB, o Options) *Catalogue {
	t.Helper()
	c, err := Open(small(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestContractInMemory(t *testing.T) {
	backendstest.Catalogue(t, func(t *testing.T, now func() time.Time) backendstest.Opened {
		return opened(open(t, Options{InMemory: true, Now: now, Places: places}))
	})
}

func TestContractOnDisk(t *testing.T) {
	backendstest.Catalogue(t, func(t *testing.T, now func() time.Time) backendstest.Opened {
		return opened(open(t, Options{Dir: t.TempDir(), Now: now, Places: places}))
	})
}

func TestContractReopenedAfterEveryChange(t *testing.T) { backendstest.Catalogue(t, reopened) }

// reopened gives a catalogue on disk that can be closed and opened again.
func reopened(t *testing.T, now func() time.Time) backendstest.Opened {
	o := Options{Dir: t.TempDir(), Now: now, Places: places}
	c := open(t, o)
	out := opened(c)
	var again func(t *testing.T) backendstest.Opened
	again = func(t *testing.T) backendstest.Opened {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		c = open(t, o)
		out := opened(c)
		out.Reopen = again
		return out
	}
	out.Reopen = again
	return out
}

// Random changes against plain maps; after every 50 the records are checked among one
// another and the lake is opened again.
func TestModel(t *testing.T) {
	t.Run("in memory", func(t *testing.T) {
		backendstest.CatalogueModel(t, func(t *testing.T, now func() time.Time) backendstest.Opened {
			return opened(open(t, Options{InMemory: true, Now: now, Places: places}))
		}, 1000)
	})
	t.Run("on disk", func(t *testing.T) {
		backendstest.CatalogueModel(t, reopened, 300)
	})
}
