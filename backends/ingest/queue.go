package ingest

import (
	"encoding/binary"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// The queues of a ledger. What is in which, and where, follows from the record alone.
const (
	toSend   = 'q' // FOUND: rank, mtime, path
	later    = 'n' // FOUND, failed: next try, path
	sending  = 'w' // SEALED to VERIFIED: path
	pending  = 'p' // REGISTERED: when, path
	safe     = 'x' // SAFE: mtime, path
	deleting = 'y' // DELETING: path
	troubled = 'e' // failed stuckAfter times and more: path
)

// stuckAfter is how many failures in a row make a file one of Status.Stuck.
const stuckAfter = 5

// queues are the keys of a record beside its own.
func (r *Record) queues() (keys [][]byte) {
	at := func(queue byte, order ...int64) {
		k := []byte{queue}
		for _, o := range order {
			k = binary.BigEndian.AppendUint64(k, uint64(o)^1<<63) // negative ones come first
		}
		keys = append(keys, append(k, r.Path...))
	}
	switch r.Stage {
	case Found:
		if r.NextTry.IsZero() {
			at(toSend, int64(r.Rank), r.MTime.UnixNano())
		} else {
			at(later, r.NextTry.UnixNano())
		}
	case Sealed, Transferred, Verified:
		at(sending)
	case Registered:
		at(pending, r.RegisteredAt.UnixNano())
	case Safe:
		at(safe, r.MTime.UnixNano())
	case Deleting:
		at(deleting)
	}
	if r.Attempts >= stuckAfter && r.Stage != Deleted {
		at(troubled)
	}
	return keys
}

// next gives the first records of a queue after a key, and the key of the last one; nil and nothing at the end.
func (l *ledger) next(queue byte, after []byte, limit int) (some []*Record, last []byte, err error) {
	prefix := []byte{queue}
	if after == nil {
		after = prefix
	} else {
		after = append(append([]byte{}, after...), 0)
	}
	err = l.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: false})
		defer it.Close()
		for it.Seek(after); it.Valid() && len(some) < limit; it.Next() {
			path, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			b, err := get(txn, recordKey(string(path)))
			if err != nil {
				return err
			}
			last = it.Item().KeyCopy(nil)
			if b == nil {
				continue
			}
			r, err := decodeRecord(b)
			if err != nil {
				return err
			}
			some = append(some, r)
		}
		return nil
	})
	return some, last, err
}

// due gives the failed files whose next try has come, and when the next one does. A time that is further away than any
// is set was set before the clock jumped.
func (l *ledger) due(now time.Time, limit int) (some []*Record, next time.Time, err error) {
	all, _, err := l.next(later, nil, limit)
	for _, r := range all {
		if r.NextTry.After(now) && r.NextTry.Before(now.Add(2*longestWait)) {
			return some, r.NextTry, err
		}
		some = append(some, r)
	}
	return some, next, err
}

// stages are those of a record in their order.
var stages = []Stage{Found, Sealed, Transferred, Verified, Registered, Safe, Deleting, Deleted}

// level is how far a stage is.
func (s Stage) level() int {
	for i, x := range stages {
		if x == s {
			return i
		}
	}
	return -1
}

// add counts a record n times.
func (c *counters) add(r *Record, n int64) {
	for _, s := range stages[:r.Stage.level()+1] {
		of := c.Of[s]
		of.Files += n
		of.Bytes += n * r.Size
		c.Of[s] = of
	}
	if r.Attempts >= stuckAfter && r.Stage != Deleted {
		c.Stuck += n
	}
	if r.Stage == Safe || r.Stage == Deleting {
		c.Here += n * r.Size
	}
}

// times notes the first and the last.
func (c *counters) times(r *Record) {
	if f := r.FoundAt.UnixNano(); r.Stage == Found && (c.First == 0 || f < c.First) {
		c.First = f
	}
	if r.Stage == Safe && r.SafeAt.UnixNano() > c.Last {
		c.Last = r.SafeAt.UnixNano()
	}
}
