// Package embedded is the catalogue that needs no server: Catalogue, Namespace,
// Versions, Rules and Importer on a badger database in one folder. A lake has it with
//
//	catalogue:
//	  kind: embedded
//	  dir: /var/lib/tarn/ctao
//
// One process holds the folder at a time. What a call acknowledged survives a power
// cut; docs/catalogue-format.md describes what is stored and how.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

var (
	_ backends.Catalogue = (*Catalogue)(nil)
	_ backends.Namespace = (*Catalogue)(nil)
	_ backends.Versions  = (*Catalogue)(nil)
	_ backends.Rules     = (*Catalogue)(nil)
	_ backends.Importer  = (*Catalogue)(nil)
)

// Catalogue is an open lake. All methods may be called in parallel.
type Catalogue struct {
	o       Options
	db      *badger.DB // nil only while it is opened again
	dir     string
	log     *slog.Logger
	now     func() time.Time
	grace   time.Duration
	maxTxn  int // bytes and records of one transaction
	maxKeys int
	lock    *lock
	durable *durable
	space   *space
	paths   *paths
	rooms   sync.Pool // pages that are done with; see roomFor

	gate   *gate
	queue  chan *operation
	cancel context.CancelFunc // of the maintenance loop
	loops  sync.WaitGroup
	once   sync.Once
	closed error

	broken    atomic.Pointer[error] // set while nothing can be served
	usedFiles atomic.Int64
	usedBytes atomic.Int64

	// Of the writer's goroutine alone:
	count       counters
	groupMoved  bool // an operation of this group moved a collection
	groupEvents uint64
	groupGiven  uint64
	writerPaths map[string]ref
}

// Open opens the lake in o.Dir, or makes an empty folder a new one. Errors wrap
// ErrBusy when another process holds it (and tell which), ErrDamaged, ErrVersion,
// ErrUnavailable when there is no such folder, ErrReadOnly, ErrPermission, ErrNoSpace.
func Open(o Options) (*Catalogue, error) {
	c, err := openQuiet(o)
	if err == nil {
		c.start()
	}
	return c, err
}

// openQuiet is Open without the goroutines.
func openQuiet(o Options) (*Catalogue, error) {
	o = o.withDefaults()
	c := &Catalogue{
		o: o, dir: o.Dir, log: o.Log, now: o.Now, grace: o.Grace,
		space: newSpace(o), paths: newPaths(int(o.CacheBytes / 4096)),
		gate: newGate(), queue: make(chan *operation, maxGroup), writerPaths: map[string]ref{},
	}
	if err := c.open(o); err != nil {
		c.release()
		return nil, fmt.Errorf("open catalogue %q: %w", o.Dir, err)
	}
	return c, nil
}

func (c *Catalogue) start() {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.loops.Add(2)
	go func() { defer c.loops.Done(); c.writer() }()
	go func() { defer c.loops.Done(); c.maintain(ctx, c.o.VerifyBytes) }()
}

func (c *Catalogue) open(o Options) (err error) {
	if o.InMemory {
		c.dir = ""
		if c.db, err = openBadger(o.badger("")); err != nil {
			return err
		}
		c.durable = &durable{}
		return c.load(true)
	}
	if st, err := os.Stat(o.Dir); err != nil {
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	} else if !st.IsDir() {
		return fmt.Errorf("no folder: %w", backends.ErrUnavailable)
	}
	if c.lock, err = takeLock(o.Dir, c.now()); err != nil {
		return err
	}
	db := filepath.Join(o.Dir, "db")
	fresh, err := isFresh(db)
	if err != nil {
		return classify(err)
	}
	if fresh && o.MustExist {
		return fmt.Errorf("the folder holds no lake: %w", backends.ErrUnavailable)
	}
	if c.durable, err = openDurable(o.Dir); err != nil {
		return classify(err)
	}
	if fresh {
		if c.durable.sequence > 0 {
			return fmt.Errorf("the folder db is gone or empty, but a lake of %d transactions was here: %w", c.durable.sequence, backends.ErrDamaged)
		}
		if err := c.space.check().allow(false); err != nil {
			return err
		}
		if err := os.MkdirAll(db, 0o700); err != nil {
			return classify(err)
		}
	} else if err := c.verifyStored(o, db); err != nil {
		return err
	}
	if err := c.space.check().allow(true); err != nil {
		return err // opening replays logs into tables
	}
	if c.db, err = openBadger(o.badger(db)); err != nil {
		return err
	}
	if err := c.load(fresh); err != nil {
		return err
	}
	return c.complete()
}

// complete tells whether all that was acknowledged is there: ErrDamaged.
func (c *Catalogue) complete() error {
	if c.count.sequence < c.durable.sequence {
		return fmt.Errorf("%d of %d acknowledged transactions are missing (removing the file \"durable\" accepts that): %w",
			c.durable.sequence-c.count.sequence, c.durable.sequence, backends.ErrDamaged)
	}
	return nil
}

// openBadger opens the database, whose code panics on some kinds of damage.
func openBadger(o badger.Options) (db *badger.DB, err error) {
	defer recovered(&err)
	if db, err = badger.Open(o); err != nil {
		return nil, classify(err)
	}
	return db, nil
}

// classify says in our words what an error of opening is; what is no trouble with the
// file system is damage.
func classify(err error) error {
	kind := backends.ErrDamaged
	var errno syscall.Errno
	if errors.As(err, &errno) {
		switch errno {
		case syscall.EACCES, syscall.EPERM:
			kind = backends.ErrPermission
		case syscall.EROFS:
			kind = backends.ErrReadOnly
		case syscall.ENOSPC, syscall.EDQUOT:
			kind = backends.ErrNoSpace
		case syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EIO:
			kind = backends.ErrUnavailable
		}
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// isFresh tells whether the database was never begun. A folder with tables or logs
// but no MANIFEST is damaged: the database would delete them.
func isFresh(db string) (bool, error) {
	entries, err := os.ReadDir(db)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	data := ""
	for _, e := range entries {
		switch {
		case e.Name() == badger.ManifestFilename:
			return false, nil
		case strings.HasSuffix(e.Name(), ".sst"), strings.HasSuffix(e.Name(), ".mem"), strings.HasSuffix(e.Name(), ".vlog"):
			data = e.Name()
		}
	}
	if data != "" {
		return false, fmt.Errorf("%s is there, but no MANIFEST", data)
	}
	return true, nil
}

// load reads the version and the counters, or writes them in a new lake.
func (c *Catalogue) load(fresh bool) (err error) {
	defer recovered(&err)
	c.maxTxn = int(c.db.MaxBatchSize() * 9 / 10)
	c.maxKeys = int(c.db.MaxBatchCount() * 9 / 10)
	txn := c.db.NewTransaction(false)
	defer txn.Discard()
	v := &view{c: c, txn: txn}
	version, err := v.get(versionKey())
	if err != nil {
		return err
	}
	if version == nil {
		if some, err := v.any(nil); err != nil {
			return err
		} else if some {
			return fmt.Errorf("it has no version: %w", backends.ErrDamaged)
		}
		c.count = counters{nextInode: 2} // 1 is the root above the scopes
		if err := c.commitFirst(); err != nil {
			return err
		}
		return c.loadPlaces()
	}
	if _, err := decodeVersion(version); err != nil {
		return err
	}
	count, err := v.get(countersKey())
	if err != nil {
		return err
	}
	if err := c.count.decode(count); err != nil {
		return err
	}
	c.usedFiles.Store(c.count.files)
	c.usedBytes.Store(c.count.bytes)
	return c.loadPlaces()
}

func (c *Catalogue) commitFirst() error {
	return c.commitBadger(map[string][]byte{string(versionKey()): encodeVersion(versionFirst)}, c.count.encode())
}

func encodeVersion(n uint64) []byte {
	var version enc
	version.uint(n)
	return version
}

// decodeVersion gives the version of the format that a catalogue makes use of: ErrVersion if this program does not read it.
func decodeVersion(val []byte) (uint64, error) {
	d := dec{b: val}
	n := d.uint()
	if d.bad || n < versionFirst || n > formatVersion {
		return 0, fmt.Errorf("format %x, this program reads up to %d: %w", val, formatVersion, backends.ErrVersion)
	}
	return n, nil
}

func (v *view) version() (uint64, error) {
	val, err := v.get(versionKey())
	if err != nil {
		return 0, err
	}
	return decodeVersion(val)
}

// Usage gives the number of files and their bytes in the whole lake.
func (c *Catalogue) Usage() (files, bytes int64) { return c.usedFiles.Load(), c.usedBytes.Load() }

// Traits says what this catalogue can do: everything.
func (c *Catalogue) Traits() backends.CatalogueTraits {
	return backends.CatalogueTraits{Versions: true, Rename: true, Symlinks: true, Attributes: true, AnyName: true}
}

// Close waits for calls that are running, ends all sequences with ErrClosed, and
// closes the lake. A second call gives the result of the first.
func (c *Catalogue) Close() error {
	c.once.Do(func() {
		c.cancel()
		c.gate.close()
		close(c.queue)
		c.loops.Wait()
		c.closed = c.release()
	})
	return c.closed
}

// release gives back what open took, in reverse.
func (c *Catalogue) release() (err error) {
	if c.db != nil && c.dir != "" {
		// Closing flushes the memtable, through mmap. What was acknowledged is in the log.
		if err := c.space.check().allow(true); err != nil {
			c.log.Warn("the catalogue is left unclosed; its log is taken up at the next start", "dir", c.dir, "err", err)
			c.db = nil
		}
	}
	if c.db != nil {
		if err = closeBadger(c.db); err == nil && c.dir != "" {
			err = c.durable.manifest(c.dir)
		}
		if err != nil {
			err = fmt.Errorf("close catalogue %q: %w", c.dir, err)
		}
	}
	if c.durable != nil {
		err = errors.Join(err, c.durable.close())
	}
	if c.lock != nil {
		err = errors.Join(err, c.lock.release())
	}
	return err
}
