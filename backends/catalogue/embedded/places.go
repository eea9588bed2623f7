package embedded

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

// For the RSEs of Options.Places it is on record which paths are in use: how many
// replicas, of files and of Pasts, have each. The records change with the replicas, in the
// same transaction, and each transaction notes its number for the RSE. A number that is
// not the catalogue's tells that a program changed it which did not keep the records;
// then they are made anew.

var _ backends.Places = (*Catalogue)(nil)

// placesKey is what is noted for an RSE.
func placesKey(rse string) []byte { return append([]byte{prefixPlaces}, rse...) }

// placesPrefix is that of the paths at an RSE.
func placesPrefix(rse string) []byte { return append(placesKey(rse), 0) }

// pathKey is a path at an RSE.
func pathKey(rse, pfn string) []byte {
	sum := sha256.Sum256([]byte(path.Clean(pfn)))
	return append(placesPrefix(rse), sum[:]...)
}

func countOf(val []byte) (uint64, error) {
	if val == nil {
		return 0, nil
	}
	d := dec{b: val}
	n := d.uint()
	return n, d.err("count of a path")
}

func countVal(n uint64) []byte {
	var e enc
	e.uint(n)
	return e
}

// keeps tells whether the paths of an RSE are kept.
func (c *Catalogue) keeps(rse string) bool {
	for _, r := range c.o.Places {
		if r == rse {
			return true
		}
	}
	return false
}

// Holders counts the replicas that have this path at the RSE.
func (c *Catalogue) Holders(ctx context.Context, rse, pfn string) (n int, err error) {
	if !c.keeps(rse) {
		return 0, &backends.OpError{Op: "look for path", At: rse + " " + pfn, Err: backends.ErrNotSupported}
	}
	err = c.read(ctx, func(v *view) error {
		val, err := v.get(pathKey(rse, pfn))
		if err != nil {
			return err
		}
		count, err := countOf(val)
		n = int(count)
		return err
	})
	if err != nil {
		return 0, &backends.OpError{Op: "look for path", At: rse + " " + pfn, Err: err}
	}
	return n, nil
}

// hold counts the paths of rs in.
func (t *tx) hold(rs []backends.Replica) error { return t.countPaths(rs, 1) }

// letGo counts the paths of rs out.
func (t *tx) letGo(rs []backends.Replica) error { return t.countPaths(rs, -1) }

func (t *tx) countPaths(rs []backends.Replica, by int) error {
	if len(t.c.o.Places) == 0 {
		return nil
	}
	for _, r := range rs {
		if !t.c.keeps(r.RSE) {
			continue
		}
		k := pathKey(r.RSE, r.PFN)
		val, err := t.get(k)
		if err != nil {
			return err
		}
		n, err := countOf(val)
		if err != nil {
			return err
		}
		switch n += uint64(by); n {
		case ^uint64(0):
			return fmt.Errorf("path %q at %s is on record, but not counted: %w", r.PFN, r.RSE, backends.ErrDamaged)
		case 0:
			t.del(k)
		default:
			t.set(k, countVal(n))
		}
	}
	return nil
}

// notePlaces adds the number of a transaction to its writes.
func (c *Catalogue) notePlaces(writes map[string][]byte, sequence uint64) {
	for _, rse := range c.o.Places {
		writes[string(placesKey(rse))] = countVal(sequence)
	}
}

// loadPlaces makes the records of paths where they are not those of the last transaction.
func (c *Catalogue) loadPlaces() error {
	for _, rse := range c.o.Places {
		if rse == "" || strings.IndexByte(rse, 0) >= 0 {
			return fmt.Errorf("paths of RSE %q: %w", rse, backends.ErrName)
		}
		is, err := c.placesOf(rse)
		if err != nil {
			return err
		}
		if is {
			continue
		}
		c.log.Info("which paths of an RSE are in use is put on record", "dir", c.dir, "rse", rse)
		if err := c.makePlaces(rse); err != nil {
			return fmt.Errorf("put the paths of %s on record: %w", rse, err)
		}
	}
	return nil
}

// placesOf tells whether the paths of the RSE are on record as of now.
func (c *Catalogue) placesOf(rse string) (bool, error) {
	txn := c.db.NewTransaction(false)
	defer txn.Discard()
	val, err := (&view{c: c, txn: txn}).get(placesKey(rse))
	if err != nil || val == nil {
		return false, err
	}
	n, err := countOf(val)
	return n == c.count.sequence, err
}

// makePlaces counts all paths of the RSE. What a crash leaves of it is not believed, since
// the number of the transaction comes last.
func (c *Catalogue) makePlaces(rse string) error {
	if err := c.dropPlaces(rse); err != nil {
		return err
	}
	txn := c.db.NewTransaction(false)
	defer txn.Discard()
	v := &view{c: c, txn: txn}
	some := map[string]uint64{}
	count := func(rs []backends.Replica) error {
		for _, r := range rs {
			if r.RSE == rse {
				some[string(pathKey(rse, r.PFN))]++
			}
		}
		if len(some) < 10000 {
			return nil
		}
		return c.addPlaces(some)
	}
	err := v.scan([]byte{prefixReplicas}, nil, func(_, val []byte) (bool, error) {
		rs, err := decodeReplicas(val)
		if err == nil {
			err = count(rs)
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	err = v.scan([]byte{prefixPast}, nil, func(_, val []byte) (bool, error) {
		var p past
		err := p.decode(val)
		if err == nil {
			err = count(p.replicas)
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	if err := c.addPlaces(some); err != nil {
		return err
	}
	last := c.db.NewTransaction(true)
	defer last.Discard()
	if err := last.Set(placesKey(rse), countVal(c.count.sequence)); err != nil {
		return err
	}
	return last.Commit()
}

// addPlaces adds counts to those in the database, and empties them.
func (c *Catalogue) addPlaces(some map[string]uint64) error {
	if err := c.space.check().allow(false); err != nil {
		return err
	}
	txn := c.db.NewTransaction(true)
	defer func() { txn.Discard() }()
	for k, n := range some {
		val, err := (&view{c: c, txn: txn}).get([]byte(k))
		if err != nil {
			return err
		}
		old, err := countOf(val)
		if err != nil {
			return err
		}
		err = txn.Set([]byte(k), countVal(old+n))
		if errors.Is(err, badger.ErrTxnTooBig) {
			if err := txn.Commit(); err != nil {
				return err
			}
			txn = c.db.NewTransaction(true)
			err = txn.Set([]byte(k), countVal(old+n))
		}
		if err != nil {
			return err
		}
	}
	clear(some)
	return txn.Commit()
}

// dropPlaces deletes what is on record of the RSE, the number of the transaction first.
func (c *Catalogue) dropPlaces(rse string) error {
	gone := c.db.NewTransaction(true)
	defer gone.Discard()
	if err := gone.Delete(placesKey(rse)); err != nil {
		return err
	}
	if err := gone.Commit(); err != nil {
		return err
	}
	txn := c.db.NewTransaction(false)
	defer txn.Discard()
	batch := c.db.NewWriteBatch()
	defer batch.Cancel()
	prefix := placesPrefix(rse)
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
	defer it.Close()
	for it.Seek(prefix); it.ValidForPrefix(prefix); it.Next() {
		if err := batch.Delete(it.Item().KeyCopy(nil)); err != nil {
			return err
		}
	}
	return batch.Flush()
}
