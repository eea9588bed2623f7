package index

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"tarn/backends"
)

// openDB opens the database with bounded memory. Changes are not synced one by one: they survive the process, and after the
// machine went down the index is not used (usable.go).
func openDB(o Options) (db *badger.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged database: %v", r)
		}
	}()
	b := badger.DefaultOptions(filepath.Join(o.Dir, "db"))
	b.SyncWrites = false
	b.VerifyValueChecksum = true
	b.ChecksumVerificationMode = options.OnBlockRead
	b.Compression = options.Snappy
	b.BlockCacheSize = o.Memory / 3
	b.IndexCacheSize = o.Memory / 3
	b.MetricsEnabled = false
	b.DetectConflicts = false // whoever writes has a lock
	b.MemTableSize = o.memtable()
	b.NumMemtables = 2
	b.BaseTableSize = 2 << 20
	b.BaseLevelSize = 10 << 20
	b.ValueThreshold = b.MemTableSize * 15 / 100
	b.ValueLogFileSize = 1 << 20
	b.NumCompactors = 2
	b.NumGoroutines = 1
	b.Logger = quietLog{o.Log}
	return badger.Open(b)
}

// memtable is the size of one, in bytes.
func (o Options) memtable() int64 { return max(o.Memory/9, 1<<20) }

// room wants as much free space as the database may write without being asked: it waits for ever where there is none, and so would
// whoever changes something.
func (x *Index) room() error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(x.o.Dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w: %w", x.o.Dir, backends.ErrUnavailable, err)
	}
	floor := 10*x.o.memtable() + 20<<20
	if free := int64(st.Bavail) * st.Bsize; free < floor {
		return fmt.Errorf("%d MiB are free at %s, %d must stay: %w", free>>20, x.o.Dir, floor>>20, backends.ErrNoSpace)
	}
	return nil
}

// quietLog passes the database's own messages on at debug level.
type quietLog struct{ log *slog.Logger }

func (l quietLog) Errorf(f string, a ...any)   { l.log.Debug("index: " + fmt.Sprintf(f, a...)) }
func (l quietLog) Warningf(f string, a ...any) { l.log.Debug("index: " + fmt.Sprintf(f, a...)) }
func (l quietLog) Infof(string, ...any)        {}
func (l quietLog) Debugf(string, ...any)       {}

// format is that of the stored records; another one is begun anew.
const format = "1 "

// load reads which covers there are, and which changes are to be looked at.
func (x *Index) load(db *badger.DB) error {
	want := []byte(format + x.o.Lake)
	is, err := get(db, []byte{kindLake})
	switch {
	case errors.Is(err, badger.ErrKeyNotFound):
		if err := db.Update(func(txn *badger.Txn) error { return txn.Set([]byte{kindLake}, want) }); err != nil {
			return err
		}
	case err != nil:
		return err
	case !bytes.Equal(is, want):
		return errors.New("it is of another lake, or of another version of tarn")
	}
	var covers []*cover
	next := epoch(1)
	err = scan(db, []byte{kindCover}, func(k, v []byte) error {
		c, err := decodeCover(numberOf(k), v)
		if err != nil {
			return err
		}
		next = max(next, c.epoch+1)
		covers = append(covers, c)
		return nil
	})
	if err != nil {
		return err
	}
	if err := scan(db, []byte{kindDead}, func(k, _ []byte) error { next = max(next, numberOf(k)+1); return nil }); err != nil {
		return err
	}
	left, seq := map[uint64]int{}, uint64(0)
	if err := scan(db, []byte{kindMark}, func(k, _ []byte) error {
		seq = max(seq, sequenceOf(k))
		left[sequenceOf(k)]++
		return nil
	}); err != nil {
		return err
	}
	if err := removeAll(db, []byte{kindBehind}); err != nil {
		return err
	}
	newestFirst(covers)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.covers, x.left, x.seq, x.next = covers, left, max(x.seq, seq), next
	return nil
}

func newestFirst(covers []*cover) {
	slices.SortFunc(covers, func(a, b *cover) int { return b.AsOf.Compare(a.AsOf) })
}

// scan calls f for each key with the prefix, in order. Neither key nor value may be kept.
func scan(db *badger.DB, prefix []byte, f func(key, value []byte) error) error {
	return db.View(func(txn *badger.Txn) error { return scanIn(txn, prefix, f) })
}

func scanIn(txn *badger.Txn, prefix []byte, f func(key, value []byte) error) error {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchSize = prefix, 64
	it := txn.NewIterator(o)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		if err := item.Value(func(v []byte) error { return f(item.Key(), v) }); err != nil {
			return err
		}
	}
	return nil
}

func get(db *badger.DB, key []byte) (v []byte, err error) {
	err = db.View(func(txn *badger.Txn) error {
		v, err = getIn(txn, key)
		return err
	})
	return v, err
}

func getIn(txn *badger.Txn, key []byte) ([]byte, error) {
	item, err := txn.Get(key)
	if err != nil {
		return nil, err
	}
	return item.ValueCopy(nil)
}

// keysAfter reads keys with the prefix, from one on.
func keysAfter(db *badger.DB, prefix, from []byte, most int) (keys [][]byte, err error) {
	err = db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix, o.PrefetchValues = prefix, false
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Seek(from); it.Valid() && len(keys) < most; it.Next() {
			keys = append(keys, it.Item().KeyCopy(nil))
		}
		return nil
	})
	return keys, err
}

// removeAll deletes the keys with the prefix in batches.
func removeAll(db *badger.DB, prefix []byte) error {
	for {
		if more, err := removeSome(db, prefix); err != nil || !more {
			return err
		}
	}
}

// removeSome deletes one batch of the keys with the prefix; more is false when there were none.
func removeSome(db *badger.DB, prefix []byte) (more bool, err error) {
	keys, err := keysAfter(db, prefix, prefix, batchKeys)
	if err != nil || len(keys) == 0 {
		return false, err
	}
	b := db.NewWriteBatch()
	defer b.Cancel()
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return false, err
		}
	}
	return true, b.Flush()
}

// batchKeys is how many keys are deleted at a time.
const batchKeys = 10_000

// diskSize sums up what the files of the folder take, in bytes; the database's logs are longer than what is written in them.
func diskSize(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // gone meanwhile
		}
		if in, err := d.Info(); err == nil {
			n += blocksOf(in)
		}
		return nil
	})
	return n
}
