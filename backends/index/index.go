// Package index answers queries about metadata from a database of its own on the local disk, beside a catalogue that would
// have to walk its tree, and to ask a server for the metadata of all that is in it.
//
//	x, err := index.Open(index.Options{Dir: dir, Catalogue: cat, Lake: "rucio https://rucio.example.org"})
//	err = x.Build(ctx, root, "/ctao", nil)
//	cat = x.Hooks()        // Find answers from the index, changes go into it
//
// What is indexed is what is below some paths, each a cover, as of the time when it was read. Changes that go through the
// Hooks are put on record before they are made (marks), and are looked at in the catalogue after it: a Find waits for those
// that ended before it, so that everybody finds what he wrote. Changes by others are seen when a cover is built anew.
//
// A Find gives the same as the catalogue's: postings give candidates, more rather than less, and the query decides.
package index

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

// Catalogue is what an index stands on: what it reads, and what its Hooks change.
type Catalogue interface {
	backends.Catalogue
	backends.Namespace
	backends.Importer
}

// Options describe an index. Dir, Catalogue and Lake are needed.
type Options struct {
	// Dir is the folder, which Build makes. It holds nothing but the index, and is emptied where that is of no use.
	Dir       string
	Catalogue Catalogue
	// Lake says which lake this is, in a way that changes when its tree may be another one: an index of another lake is dropped.
	Lake string
	// Metas gives the metadata of DIDs with that of the collections above them, nearest wins, in few calls. Nil: names are
	// paths, a DID inherits from those above it in its name, and the catalogue is asked for the metadata of each.
	Metas func(ctx context.Context, dids []backends.DID) (map[backends.DID]backends.Meta, error)
	// Stats gives the Infos of DIDs, in few calls; those that do not exist are missing. Nil: the catalogue is asked for each.
	Stats func(ctx context.Context, dids []backends.DID) (map[backends.DID]backends.Info, error)
	// Flat: names are no paths (layout contents), and who is in no collection is in its scope's.
	Flat bool
	// Home is the collection that a DID is in by its name; false for one at the root of the lake. Needed where not Flat.
	Home func(backends.DID) (backends.DID, bool)
	// Refresh makes the catalogue ask its server anew for what is at and below a DID; nil: it remembers nothing.
	Refresh func(backends.DID)
	// Complete makes an Info that was stored by another process one of this; nil: it is.
	Complete func(*backends.Info)
	// Refuse says why what is below a DID cannot be indexed (ErrNotSupported); nil: all can. It is asked again when a scope is added.
	Refuse func(ctx context.Context, root backends.DID) error

	// MaxAge is how old a cover may be to answer; 0: as old as it likes.
	MaxAge time.Duration
	// Memory bounds the database's; default 48 MiB.
	Memory int64
	Log    *slog.Logger
	Now    func() time.Time
}

// Index is an index of one lake. All methods may be called in parallel.
type Index struct {
	o    Options
	log  *slog.Logger
	now  func() time.Time
	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	finds sync.WaitGroup
	lock  *os.File // held while the folder is this process's; of open, Build and Close

	opened chan struct{} // closed when db is there, or is not

	building sync.Mutex // of Build and Drop: one at a time
	applying sync.Mutex // held by whoever changes the records of covers that answer
	wake     chan struct{}

	mu     sync.Mutex // guards the rest
	db     *badger.DB // nil: there is no index
	covers []*cover   // that answer, the newest first
	behind epoch      // the cover that is being made; 0: none
	broken bool       // changes could not be put on record: nothing answers
	closed bool
	seq    uint64          // of the last change
	ops    map[uint64]*op  // changes under way
	left   map[uint64]int  // marks that were not looked at yet, by their change
	sure   map[uint64]bool // those of them whose change was made, as the catalogue said
	moved  chan struct{}   // closed when left becomes less
	failed map[epoch]int   // how often in a row changes could not be put into a cover
	next   epoch           // number of the next cover
	stuck  error           // why the last look at changes failed; nil: it did not
}

// Open opens the index in the background: what needs it waits. The folder need not be there.
func Open(o Options) (*Index, error) {
	if o.Dir == "" || o.Catalogue == nil || o.Lake == "" || o.Flat == (o.Home != nil) {
		return nil, errors.New("open index: a folder, a catalogue, the name of the lake, and Home or Flat are needed")
	}
	if o.Memory <= 0 {
		o.Memory = 48 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	x := &Index{o: o, log: o.Log, now: o.Now, opened: make(chan struct{}), wake: make(chan struct{}, 1),
		ops: map[uint64]*op{}, left: map[uint64]int{}, sure: map[uint64]bool{}, failed: map[epoch]int{}, moved: make(chan struct{}), next: 1}
	x.ctx, x.stop = context.WithCancel(context.Background())
	x.wg.Go(func() {
		err := x.open(false)
		if err != nil && x.ctx.Err() == nil { // an index is made again, a wrong one never answers
			x.log.Warn("the index of metadata is dropped", "folder", o.Dir, "err", err)
			x.dropFolder()
		}
		close(x.opened)
		x.work()
	})
	return x, nil
}

// open opens the database; with create an empty one is made.
func (x *Index) open(create bool) error {
	if _, err := os.Stat(x.o.Dir); !create && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := x.takeLock(); err != nil {
		return err
	}
	if !create {
		switch ok, err := isUsable(x.o.Dir); {
		case errors.Is(err, os.ErrNotExist):
			return os.RemoveAll(x.o.Dir) // it was never begun, or broke
		case err != nil:
			return err
		case !ok:
			return errors.New("the machine went down while it was open")
		}
	} else if err := os.MkdirAll(x.o.Dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := setUsable(x.o.Dir, false); err != nil {
		return err
	}
	if err := x.room(); err != nil {
		return err
	}
	db, err := openDB(x.o)
	if err != nil {
		return err
	}
	if err := x.load(db); err != nil {
		return errors.Join(err, db.Close())
	}
	x.mu.Lock()
	x.db = db
	x.mu.Unlock()
	return nil
}

// dropFolder removes the folder, or at least what makes it usable.
func (x *Index) dropFolder() {
	if err := errors.Join(notUsable(x.o.Dir), os.RemoveAll(x.o.Dir)); err != nil {
		x.log.Error("a folder of no use cannot be removed", "folder", x.o.Dir, "err", err)
	}
}

// Close waits for what is under way, and closes the database.
func (x *Index) Close() error {
	x.stop()
	x.wg.Wait()
	x.building.Lock()
	defer x.building.Unlock()
	x.applying.Lock()
	defer x.applying.Unlock()
	x.mu.Lock()
	db, broken := x.db, x.broken
	x.db, x.covers, x.closed = nil, nil, true
	x.mu.Unlock()
	x.finds.Wait()
	if x.lock != nil {
		defer x.lock.Close()
	}
	if db == nil {
		return nil
	}
	err := db.Close()
	if err == nil && !broken {
		err = setUsable(x.o.Dir, true)
	} else {
		x.dropFolder()
	}
	if err != nil {
		return fmt.Errorf("close index: %w", err)
	}
	return nil
}

// ready waits until the database is open or is known not to be there; nil for the latter.
func (x *Index) ready(ctx context.Context) (*badger.DB, error) {
	select {
	case <-x.opened:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, fmt.Errorf("index: %w", backends.ErrClosed)
	}
	return x.db, nil
}

// breaks lets nothing answer any more, until the folder is begun anew: a change is not on record.
func (x *Index) breaks(err error) {
	x.mu.Lock()
	x.broken = true
	x.covers = nil
	x.mu.Unlock()
	if uerr := notUsable(x.o.Dir); uerr != nil {
		err = errors.Join(err, uerr)
	}
	x.log.Error("the index of metadata answers no more: a change could not be put on record; make it again with tarn index", "err", err)
}
