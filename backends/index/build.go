package index

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

var errBuilding = fmt.Errorf("the index is being made: %w: %w", backends.ErrBusy, backends.ErrTemporary)

// Build reads what is at and below root, the zero DID being the whole lake, and answers from it when all of it has been read.
// What was indexed of it before answers until then, and is replaced. progress, which may be nil, is told how many DIDs were
// read. ErrBusy while another one is under way.
func (x *Index) Build(ctx context.Context, root backends.DID, path string, progress func(dids int64)) (Cover, error) {
	if !x.building.TryLock() {
		return Cover{}, errBuilding
	}
	defer x.building.Unlock()
	c, err := x.build(ctx, root, path, progress)
	if err != nil {
		return Cover{}, fmt.Errorf("index %s: %w", path, err)
	}
	return c.Cover, nil
}

func (x *Index) build(ctx context.Context, root backends.DID, path string, progress func(int64)) (*cover, error) {
	if x.o.Refuse != nil {
		if err := x.o.Refuse(ctx, root); err != nil {
			return nil, err
		}
	}
	db, err := x.begun(ctx)
	if err != nil {
		return nil, err
	}
	c := &cover{Cover: Cover{Path: path, Root: root}, next: 1}
	x.mu.Lock()
	c.epoch = x.next
	x.next++
	x.mu.Unlock()
	defer x.endBehind(db, c.epoch)
	if err := x.beginBehind(ctx, c.epoch); err != nil {
		return nil, err
	}
	if err := db.Update(func(txn *badger.Txn) error { return txn.Set(numberKey(kindDead, c.epoch), nil) }); err != nil {
		return nil, err
	}
	if x.o.Refresh != nil {
		x.o.Refresh(root)
	}
	c.AsOf = x.now().UTC()
	v := x.view(db, c, false)
	if err := v.read(ctx, progress); err != nil {
		return nil, err
	}
	if err := x.finish(ctx, db, v); err != nil {
		return nil, err
	}
	return c, nil
}

// begun gives the database, which is made if need be.
func (x *Index) begun(ctx context.Context) (*badger.DB, error) {
	db, err := x.ready(ctx)
	if err != nil {
		return nil, err
	}
	x.applying.Lock()
	defer x.applying.Unlock()
	x.mu.Lock()
	broken := x.broken
	x.mu.Unlock()
	if db != nil && !broken {
		return db, nil
	}
	if db != nil { // begin anew, when those who read from it have ended: nobody comes to them
		x.finds.Wait()
		x.mu.Lock()
		x.db, x.left, x.sure = nil, map[uint64]int{}, map[uint64]bool{}
		for _, o := range x.ops {
			o.lost = true
		}
		x.signal()
		x.mu.Unlock()
		if err := db.Close(); err != nil {
			x.log.Debug("close a broken index", "err", err)
		}
		x.dropFolder()
	}
	if err := x.open(true); err != nil {
		x.dropFolder()
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.broken = false
	return x.db, nil
}

// oldChanges is how long a change may go on that began before anything was indexed, or in an index that broke.
const oldChanges = time.Minute

// beginBehind lets all changes be put on record for the cover of that number, and waits for those that are not.
func (x *Index) beginBehind(ctx context.Context, n epoch) error {
	x.mu.Lock()
	x.behind = n
	var wait []*op
	for _, o := range x.ops {
		if !o.marked || o.lost {
			wait = append(wait, o)
		}
	}
	x.mu.Unlock()
	late := time.NewTimer(oldChanges)
	defer late.Stop()
	for _, o := range wait {
		select {
		case <-o.done:
		case <-late.C:
			return fmt.Errorf("a change of the lake goes on and on that began before this; try again when it has ended: %w: %w", backends.ErrBusy, backends.ErrTemporary)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-x.ctx.Done():
			return backends.ErrClosed
		}
	}
	return nil
}

// endBehind lets the records of a cover that was not finished be deleted, if it was not.
func (x *Index) endBehind(db *badger.DB, n epoch) {
	x.mu.Lock()
	left := x.behind == n
	x.behind = 0
	x.mu.Unlock()
	if left {
		x.applying.Lock()
		defer x.applying.Unlock()
		if err := removeAll(db, []byte{kindBehind}); err != nil {
			x.log.Warn("changes for an index that was not finished stay on record", "err", err)
		}
	}
	x.awake()
}

// read goes through the tree. Each collection is listed once, and metadata is asked for by the page.
func (v *view) read(ctx context.Context, progress func(int64)) error {
	met := v.x.newMetas()
	var todo []backends.Info
	fill := func(least int) error {
		if len(todo) < least {
			return nil
		}
		err := v.fill(ctx, met, todo)
		todo = todo[:0]
		if err == nil && progress != nil {
			progress(v.c.DIDs)
		}
		return err
	}
	var stack []backends.DID // collections
	meet := func(parent id, in backends.Info) error {
		i, fresh, err := v.ensure(in.DID)
		if err != nil {
			return err
		}
		v.link(parent, i)
		if !fresh {
			return nil // it is in several collections
		}
		if in.IsDir() {
			stack = append(stack, in.DID)
		}
		todo = append(todo, in)
		return fill(pageSize)
	}
	page := func(parent id) func([]backends.Info) error {
		return func(all []backends.Info) error {
			for _, in := range all {
				if err := errors.Join(ctx.Err(), v.x.ctx.Err()); err != nil {
					return err
				}
				if err := meet(parent, in); err != nil {
					return err
				}
			}
			return v.full()
		}
	}
	if v.c.Root.IsZero() {
		if err := v.x.contents(ctx, v.c.Root, page(0)); err != nil {
			return err
		}
	} else {
		in, err := v.x.o.Catalogue.Stat(ctx, v.c.Root)
		if err != nil {
			return err
		}
		if err := v.above(ctx); err != nil {
			return err
		}
		if err := meet(0, in); err != nil {
			return err
		}
	}
	for len(stack) > 0 {
		d := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		i, err := v.idOf(d)
		if err != nil {
			return err
		}
		if err := v.x.contents(ctx, d, page(i)); err != nil {
			return err
		}
	}
	if err := fill(1); err != nil {
		return err
	}
	return v.flush()
}

// mostAbove bounds how deep a root may stand.
const mostAbove = 128

// above notes what the root is in, by the first way up, where its name does not tell.
func (v *view) above(ctx context.Context) error {
	for d := v.c.Root; v.x.o.Flat && d.Name != ""; {
		up := backends.DID{Scope: d.Scope}
		for p, err := range v.x.o.Catalogue.Parents(ctx, d) {
			if err != nil {
				return err
			}
			up = p
			break
		}
		if len(v.c.above) == mostAbove {
			return backends.ErrLoop
		}
		v.c.above = append(v.c.above, up)
		d = up
	}
	return nil
}

// catchAll is catchUp until there is nothing more.
func (x *Index) catchAll(ctx context.Context, db *badger.DB, v *view) error {
	for {
		if n, err := x.catchUp(ctx, db, v); err != nil || n == 0 {
			return err
		}
	}
}

// finish looks at what was changed meanwhile, and lets the new cover take the place of those of the same and of what is below it.
func (x *Index) finish(ctx context.Context, db *badger.DB, v *view) error {
	if err := x.catchAll(ctx, db, v); err != nil {
		return err
	}
	x.applying.Lock() // nothing is looked at, so that no change gets lost between the covers
	defer x.applying.Unlock()
	if err := x.catchAll(ctx, db, v); err != nil {
		return err
	}
	c := v.c
	x.mu.Lock()
	covers := append([]*cover(nil), x.covers...)
	broken := x.broken
	x.mu.Unlock()
	if broken {
		return fmt.Errorf("a change could not be put on record meanwhile: %w", backends.ErrUnavailable)
	}
	var gone, stay []*cover
	for _, old := range covers {
		i, err := v.idOf(old.Root)
		if err != nil {
			return err
		}
		if old.Root == c.Root || c.Root.IsZero() || i != 0 {
			gone = append(gone, old)
		} else {
			stay = append(stay, old)
		}
	}
	err := db.Update(func(txn *badger.Txn) error {
		if err := dropIn(txn, gone); err != nil {
			return err
		}
		if err := txn.Delete(numberKey(kindDead, c.epoch)); err != nil {
			return err
		}
		return txn.Set(numberKey(kindCover, c.epoch), c.encode())
	})
	if err != nil {
		return err
	}
	stay = append(stay, c)
	newestFirst(stay)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.covers, x.behind = stay, 0
	*v.of = *c
	for i := range stay {
		if stay[i] == c {
			stay[i] = v.of
		}
	}
	return nil
}

// catchUp looks at some changes of the time when the cover was read.
func (x *Index) catchUp(ctx context.Context, db *badger.DB, v *view) (n int, err error) {
	keys, changes, err := x.marks(db, kindBehind, atATime)
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	err = v.apply(ctx, changes)
	var cannot *staleError
	if errors.As(err, &cannot) {
		return 0, fmt.Errorf("%s meanwhile; try again: %w", cannot.why, backends.ErrTemporary)
	}
	if err == nil {
		err = v.flush()
	}
	if err != nil {
		return 0, err
	}
	b := db.NewWriteBatch()
	defer b.Cancel()
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return 0, err
		}
	}
	return len(keys), b.Flush()
}

func compareDIDs(a, b backends.DID) int {
	if c := strings.Compare(a.Scope, b.Scope); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}
