package index

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

// Cover is what was indexed in one go: all that was at and below a path.
type Cover struct {
	Path string       // as it was asked for
	Root backends.DID // zero: the whole lake
	AsOf time.Time    // when its reading began
	DIDs int64
	// Stale says why it answers no more, "" where it does.
	Stale string
}

// cover is a Cover with what keeps it.
type cover struct {
	Cover
	epoch epoch
	next  id             // free
	above []backends.DID // what Root is in, the nearest first, where no name tells it
}

func (c *cover) encode() []byte {
	b := appendText(nil, c.Path)
	b = appendText(b, c.Root.Scope)
	b = appendText(b, c.Root.Name)
	b = appendTime(b, c.AsOf)
	b = appendText(b, c.Stale)
	b = appendUvarints(b, uint64(c.DIDs), uint64(c.next), uint64(len(c.above)))
	for _, d := range c.above {
		b = appendText(appendText(b, d.Scope), d.Name)
	}
	return b
}

func decodeCover(n epoch, b []byte) (*cover, error) {
	d := &decoder{b: b}
	c := &cover{epoch: n}
	c.Path = d.text()
	c.Root = backends.DID{Scope: d.text(), Name: d.text()}
	c.AsOf = d.time()
	c.Stale = d.text()
	c.DIDs, c.next = int64(d.uvarint()), id(d.uvarint())
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		c.above = append(c.above, backends.DID{Scope: d.text(), Name: d.text()})
	}
	if d.err != nil {
		return nil, fmt.Errorf("cover %d: %w", n, d.err)
	}
	return c, nil
}

// answers says why c does not answer at that time, "" where it does.
func (c *cover) answers(now time.Time, maxAge time.Duration) string {
	switch age := now.Sub(c.AsOf); {
	case c.Stale != "":
		return c.Stale
	case maxAge > 0 && age < -time.Minute:
		return fmt.Sprintf("it is of %s, which has not come yet", c.AsOf.Local().Format(time.DateTime))
	case maxAge > 0 && age > maxAge:
		return fmt.Sprintf("it is of %s, and index.max_age is %s", c.AsOf.Local().Format(time.DateTime), maxAge)
	}
	return ""
}

// Covers lists what is indexed, the newest first, and how many bytes the index takes on disk.
func (x *Index) Covers(ctx context.Context) (list []Cover, bytes int64, err error) {
	db, err := x.ready(ctx)
	if err != nil || db == nil {
		return nil, 0, err
	}
	x.mu.Lock()
	for _, c := range x.covers {
		list = append(list, c.Cover)
	}
	x.mu.Unlock()
	return list, diskSize(x.o.Dir), nil
}

// Drop forgets the covers at and below root, the zero DID: all. It returns how many there were.
func (x *Index) Drop(ctx context.Context, root backends.DID) (n int, err error) {
	if !x.building.TryLock() {
		return 0, errBuilding
	}
	defer x.building.Unlock()
	db, err := x.ready(ctx)
	if err != nil || db == nil {
		return 0, err
	}
	x.applying.Lock()
	defer x.applying.Unlock()
	x.mu.Lock()
	covers := slices.Clone(x.covers)
	x.mu.Unlock()
	var gone []*cover
	for _, c := range covers {
		if root.IsZero() || c.Root == root || !c.Root.IsZero() && x.below(c.Root, root, c.above) {
			gone = append(gone, c)
		}
	}
	if len(gone) == 0 {
		return 0, nil
	}
	if err := db.Update(func(txn *badger.Txn) error { return dropIn(txn, gone) }); err != nil {
		return 0, fmt.Errorf("drop from the index: %w", err)
	}
	x.mu.Lock()
	x.covers = slices.DeleteFunc(x.covers, func(c *cover) bool { return slices.Contains(gone, c) })
	x.mu.Unlock()
	x.awake()
	return len(gone), nil
}

// below tells whether d is below another DID: by its name, or for the root of a cover by what that was in when it was read.
func (x *Index) below(d, top backends.DID, above []backends.DID) bool {
	if x.o.Flat {
		return slices.Contains(above, top)
	}
	for up, ok := x.o.Home(d); ok && len(up.Name) < len(d.Name); up, ok = x.o.Home(d) { // names that are no paths have no end
		if d = up; d == top {
			return true
		}
	}
	return false
}

// dropIn makes covers' records those of nobody.
func dropIn(txn *badger.Txn, gone []*cover) error {
	for _, c := range gone {
		if err := txn.Delete(numberKey(kindCover, c.epoch)); err != nil {
			return err
		}
		if err := txn.Set(numberKey(kindDead, c.epoch), nil); err != nil {
			return err
		}
	}
	return nil
}

// setStale lets a cover answer no more.
func (x *Index) setStale(db *badger.DB, c *cover, why string) error {
	x.mu.Lock()
	now := *c
	now.Stale = why
	x.mu.Unlock()
	if err := db.Update(func(txn *badger.Txn) error { return txn.Set(numberKey(kindCover, c.epoch), now.encode()) }); err != nil {
		return err
	}
	x.mu.Lock()
	c.Stale = why
	x.mu.Unlock()
	x.log.Warn("an index of metadata answers no more; make it again with tarn index", "path", c.Path, "why", why)
	return nil
}

func (x *Index) awake() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}
