package embedded

import (
	"testing"
	"time"

	"tarn/backends/backendstest"
)

func opened(c *Catalogue) backendstest.Opened {
	return backendstest.Opened{Catalogue: c, Namespace: c, Versions: c, Rules: c, Importer: c, Grace: c.grace}
}

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
		return opened(open(t, Options{InMemory: true, Now: now}))
	})
}

func TestContractOnDisk(t *testing.T) {
	backendstest.Catalogue(t, func(t *testing.T, now func() time.Time) backendstest.Opened {
		return opened(open(t, Options{Dir: t.TempDir(), Now: now}))
	})
}

func TestContractReopenedAfterEveryChange(t *testing.T) {
	backendstest.Catalogue(t, func(t *testing.T, now func() time.Time) backendstest.Opened {
		o := Options{Dir: t.TempDir(), Now: now}
		c := open(t, o)
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
		out := opened(c)
		out.Reopen = again
		return out
	})
}
