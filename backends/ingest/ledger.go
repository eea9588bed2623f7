package ingest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"tarn/backends"
)

// ledger is the durable memory of one ingest: a record for each file, by its path, the tombstones of those that
// were deleted, and the queues, which are keys that follow from the records. One goroutine writes, whatever
// waits in one transaction; a change that was acknowledged survives a power cut.
//
//	v                    the format
//	c                    the counters
//	d                    which folder the files are in (folder.identity)
//	r <path>             the record of the file that is there
//	t <path> 00 <rev>    a tombstone
//	<queue> <order>      see queue.go; the value is the path
type ledger struct {
	db    *badger.DB
	dir   string
	floor int64 // bytes that stay free: the database writes through mmap, and a full disk would kill the process
	queue chan *write
	done  sync.WaitGroup
	wake  func() // called after a change was made; does not block

	dead atomic.Bool // nothing is written any more: a test's crash

	closing sync.RWMutex // guards closed
	closed  bool

	mu     sync.Mutex // guards the rest; never held across I/O
	counts counters
}

// counters are of all records and tombstones. They are written with every change.
type counters struct {
	Rev   uint64          `json:"rev"`
	Of    map[Stage]Count `json:"of"` // that came at least so far
	Trash int64           `json:"changed"`
	Kept  int64           `json:"kept"`
	Stuck int64           `json:"stuck"`
	Tried int64           `json:"attempts"`
	Fails int64           `json:"failures"`
	First int64           `json:"first,omitempty"` // when the first file was seen, Unix nanoseconds
	Last  int64           `json:"last,omitempty"`  // when one was made safe last
	Here  int64           `json:"here"`            // bytes of safe files that are still at the source
}

func (c counters) clone() counters {
	of := make(map[Stage]Count, len(c.Of))
	for k, v := range c.Of {
		of[k] = v
	}
	c.Of = of
	return c
}

// change is one step of one file. A record is changed by who knows its last revision; others are told ErrStale.
type change struct {
	path string
	rev  uint64  // of the record that is to be replaced; 0: there is none
	to   *Record // nil: it is forgotten. Its Rev is set when the change was made

	changed, kept   int64 // added to the counters
	attempts, fails int64

	made bool  // it was written; set by the writer
	err  error // ErrStale, of this change alone
}

// write is changes that wait to be written.
type write struct {
	changes []*change
	err     error
	done    chan struct{}
}

// ledgerFormat is the version of what is stored.
const ledgerFormat = "1"

// openLedger opens the ledger in a folder, which it makes. Without sync a change survives the process, and not a power cut.
func openLedger(dir string, log *slog.Logger, sync bool) (*ledger, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	const memtable = 8 << 20
	o := badger.DefaultOptions(dir)
	o.SyncWrites = sync
	o.VerifyValueChecksum = true
	o.ChecksumVerificationMode = options.OnBlockRead
	o.Compression = options.None
	o.BlockCacheSize, o.IndexCacheSize = 0, 0
	o.MetricsEnabled = false
	o.DetectConflicts = false // there is one writer
	o.MemTableSize = memtable
	o.NumMemtables = 2
	o.BaseTableSize = 2 << 20
	o.BaseLevelSize = 10 << 20
	o.ValueThreshold = 1 << 20
	o.ValueLogFileSize = 1 << 20
	o.NumCompactors = 2
	o.NumGoroutines = 1
	o.Logger = quietLog{log}
	l := &ledger{dir: dir, floor: 10*memtable + 20<<20, queue: make(chan *write, 64), wake: func() {}, counts: counters{Of: map[Stage]Count{}}}
	if err := l.room(); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	var err error
	if l.db, err = badger.Open(o); err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", dir, err)
	}
	if err := l.load(); err != nil {
		l.db.Close()
		return nil, fmt.Errorf("open ledger %s: %w", dir, err)
	}
	l.done.Go(l.writer)
	return l, nil
}

// quietLog passes the database's own messages on at debug level.
type quietLog struct{ log *slog.Logger }

func (l quietLog) Errorf(f string, a ...any)   { l.log.Debug("ledger: " + fmt.Sprintf(f, a...)) }
func (l quietLog) Warningf(f string, a ...any) { l.log.Debug("ledger: " + fmt.Sprintf(f, a...)) }
func (l quietLog) Infof(string, ...any)        {}
func (l quietLog) Debugf(string, ...any)       {}

// room wants free space on the disk of the ledger.
func (l *ledger) room() error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(l.dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w: %w", l.dir, backends.ErrUnavailable, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < l.floor {
		return fmt.Errorf("%d MiB are free at %s, %d must stay: %w", free>>20, l.dir, l.floor>>20, backends.ErrNoSpace)
	}
	return nil
}

// load reads the format and the counters.
func (l *ledger) load() error {
	return l.db.Update(func(txn *badger.Txn) error {
		v, err := get(txn, []byte("v"))
		switch {
		case err != nil:
			return err
		case v == nil:
			return txn.Set([]byte("v"), []byte(ledgerFormat))
		case string(v) != ledgerFormat:
			return fmt.Errorf("format %q, this program reads %s: %w", v, ledgerFormat, backends.ErrVersion)
		}
		c, err := get(txn, []byte("c"))
		if err != nil || c == nil {
			return err
		}
		if err := json.Unmarshal(c, &l.counts); err != nil {
			return fmt.Errorf("counters: %w: %w", backends.ErrDamaged, err)
		}
		return nil
	})
}

// get gives a copy of a value, nil when there is none.
func get(txn *badger.Txn, key []byte) ([]byte, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return item.ValueCopy(nil)
}

// close waits for what is being written.
func (l *ledger) close() error {
	l.closing.Lock()
	was := l.closed
	l.closed = true
	l.closing.Unlock()
	if was {
		return nil
	}
	close(l.queue)
	l.done.Wait()
	return l.db.Close()
}

// commit makes changes durable, many at once. The error is of the ledger; what became of one change is its err.
// ctx does not interrupt it: what is known to have happened has to be written down.
func (l *ledger) commit(changes ...*change) error {
	if len(changes) == 0 {
		return nil
	}
	w := &write{changes: changes, done: make(chan struct{})}
	l.closing.RLock() // close waits for those that are handing over
	if l.closed || l.dead.Load() {
		l.closing.RUnlock()
		return fmt.Errorf("ledger: %w", backends.ErrClosed)
	}
	l.queue <- w
	l.closing.RUnlock()
	<-w.done
	if w.err != nil {
		return fmt.Errorf("ledger: %w", w.err)
	}
	l.wake()
	return nil
}

// groupChanges is about how many changes go into one transaction.
const groupChanges = 1000

// writer writes until the queue is closed.
func (l *ledger) writer() {
	for w := range l.queue {
		group, n := []*write{w}, len(w.changes)
	more:
		for n < groupChanges {
			select {
			case w, ok := <-l.queue:
				if !ok {
					break more
				}
				group, n = append(group, w), n+len(w.changes)
			default:
				break more
			}
		}
		var all []*change
		for _, w := range group {
			all = append(all, w.changes...)
		}
		err := l.write(all)
		for _, w := range group {
			w.err = err
			close(w.done)
		}
	}
}

// write makes changes in as few transactions as they fit in. After an error the first ones may have been made: who
// asked is told of the error and looks at the record again.
func (l *ledger) write(all []*change) error {
	if l.dead.Load() {
		return backends.ErrClosed
	}
	if err := l.room(); err != nil {
		return err
	}
	for len(all) > 0 {
		n, err := l.writeSome(all)
		if err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

func (l *ledger) writeSome(all []*change) (n int, err error) {
	txn := l.db.NewTransaction(true)
	defer txn.Discard()
	l.mu.Lock()
	counts := l.counts.clone()
	l.mu.Unlock()
	size, most := 0, int(l.db.MaxBatchSize()/2)
	for _, c := range all {
		s, err := l.apply(txn, c, &counts)
		if err != nil {
			return 0, err
		}
		n++
		if size += s; size > most || n >= int(l.db.MaxBatchCount()/16) {
			break
		}
	}
	b, err := json.Marshal(counts)
	if err != nil {
		return 0, err
	}
	if err := txn.Set([]byte("c"), b); err != nil {
		return 0, err
	}
	if err := txn.Commit(); err != nil {
		return 0, err
	}
	for _, c := range all[:n] {
		c.made = true
	}
	l.mu.Lock()
	l.counts = counts
	l.mu.Unlock()
	return n, nil
}

func recordKey(path string) []byte { return append([]byte{'r'}, path...) }

func tombKey(path string, rev uint64) []byte {
	return binary.BigEndian.AppendUint64(append(append([]byte{'t'}, path...), 0), rev)
}

// apply makes one change in the transaction.
func (l *ledger) apply(txn *badger.Txn, c *change, counts *counters) (size int, err error) {
	if c.made {
		return 0, nil
	}
	c.err = nil
	key := recordKey(c.path)
	b, err := get(txn, key)
	if err != nil {
		return 0, err
	}
	var old *Record
	if b != nil {
		if old, err = decodeRecord(b); err != nil {
			return 0, err
		}
	}
	if c.rev != 0 && (old == nil || old.Rev != c.rev) || c.rev == 0 && old != nil {
		c.err = fmt.Errorf("%s: %w", c.path, backends.ErrStale)
		return 0, nil
	}
	counts.Trash += c.changed
	counts.Kept += c.kept
	counts.Tried += c.attempts
	counts.Fails += c.fails
	set := func(k, v []byte) {
		if err == nil {
			size += len(k) + len(v) + 32
			err = txn.Set(k, v)
		}
	}
	if old != nil {
		counts.add(old, -1)
		for _, k := range old.queues() {
			if err == nil {
				size += len(k) + 32
				err = txn.Delete(k)
			}
		}
	}
	if c.to == nil {
		if err == nil && old != nil {
			err = txn.Delete(key)
		}
		return size, err
	}
	counts.Rev++
	to := *c.to
	to.Rev = counts.Rev
	if b, err = encodeRecord(&to); err != nil {
		return 0, err
	}
	counts.add(&to, 1)
	counts.times(&to)
	if to.Stage == Deleted {
		if old != nil {
			err = txn.Delete(key)
		}
		set(tombKey(c.path, to.Rev), b)
	} else {
		set(key, b)
		for _, k := range to.queues() {
			set(k, []byte(c.path))
		}
	}
	c.to.Rev = to.Rev
	return size, err
}

// get gives the record of a path, or ErrNotExist.
func (l *ledger) get(path string) (r *Record, err error) {
	err = l.db.View(func(txn *badger.Txn) error {
		b, err := get(txn, recordKey(path))
		if err == nil && b == nil {
			err = fmt.Errorf("%s in the ledger: %w", path, backends.ErrNotExist)
		}
		if err == nil {
			r, err = decodeRecord(b)
		}
		return err
	})
	return r, err
}

// all streams the records by path, and then the tombstones by path and age.
func (l *ledger) all(ctx context.Context, tombs bool) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		prefixes := []string{"r"}
		if tombs {
			prefixes = append(prefixes, "t")
		}
		for _, p := range prefixes {
			if !l.scan(ctx, []byte(p), yield) {
				return
			}
		}
	}
}

// tombs streams the tombstones, by path and age.
func (l *ledger) tombs(ctx context.Context) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) { l.scan(ctx, []byte("t"), yield) }
}

// scan reads in pieces, so that no transaction stays open while the caller is busy.
func (l *ledger) scan(ctx context.Context, prefix []byte, yield func(*Record, error) bool) bool {
	const piece = 256
	after := prefix
	for {
		var some []*Record
		last := after
		err := l.db.View(func(txn *badger.Txn) error {
			it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: false})
			defer it.Close()
			for it.Seek(after); it.Valid() && len(some) < piece; it.Next() {
				b, err := it.Item().ValueCopy(nil)
				if err != nil {
					return err
				}
				r, err := decodeRecord(b)
				if err != nil {
					return err
				}
				some = append(some, r)
				last = append(it.Item().KeyCopy(nil), 0)
			}
			return nil
		})
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			yield(nil, err)
			return false
		}
		for _, r := range some {
			if !yield(r, nil) {
				return false
			}
		}
		if len(some) < piece {
			return true
		}
		after = last
	}
}

// count gives the counters.
func (l *ledger) count() counters {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts.clone()
}
