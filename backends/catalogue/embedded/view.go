package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

// view is one consistent state of the lake; for writers, with what they and the
// operations before them in the same transaction have written on top.
type view struct {
	c    *Catalogue
	txn  *badger.Txn
	base map[string][]byte // of earlier operations; a nil value is a deletion
	own  map[string][]byte // of this one
}

// read runs f on a view of the committed state. It must be short: nothing waits in it.
func (c *Catalogue) read(ctx context.Context, f func(v *view) error) (err error) {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.gate.leave()
	txn := c.db.NewTransaction(false)
	defer txn.Discard()
	defer recovered(&err)
	return f(&view{c: c, txn: txn})
}

// enter refuses calls after Close and while the lake is out of service. The second look is
// for reopen, which takes the database from under those who are not inside.
func (c *Catalogue) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if e := c.broken.Load(); e != nil {
		return *e
	}
	if err := c.gate.enter(); err != nil {
		return err
	}
	if e := c.broken.Load(); e != nil {
		c.gate.leave()
		return *e
	}
	return nil
}

// recovered turns a panic of the database, which damaged files can cause, into an error.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("database: %v: %w", r, backends.ErrDamaged)
	}
}

// pending gives what this transaction has written at the key.
func (v *view) pending(key []byte) (val []byte, ok bool) {
	if val, ok = v.own[string(key)]; !ok {
		val, ok = v.base[string(key)]
	}
	return val, ok
}

// get gives the value at the key, or nil when there is none.
func (v *view) get(key []byte) ([]byte, error) {
	if val, ok := v.pending(key); ok {
		return val, nil
	}
	item, err := v.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get %q: %w: %w", key[:1], backends.ErrUnavailable, err)
	}
	val, err := item.ValueCopy(nil)
	if err != nil {
		return nil, fmt.Errorf("get %q: %w: %w", key[:1], backends.ErrDamaged, err)
	}
	if val == nil {
		val = []byte{}
	}
	return val, nil
}

func (v *view) has(key []byte) (bool, error) {
	val, err := v.get(key)
	return val != nil, err
}

// scan calls f for each key with the prefix from the key "from" on (nil: all) in
// order, until it answers false. Key and value are valid during the call only.
func (v *view) scan(prefix, from []byte, f func(key, val []byte) (more bool, err error)) error {
	if bytes.Compare(from, prefix) < 0 {
		from = prefix
	}
	written := v.written(prefix, from)
	it := v.txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
	defer it.Close()
	it.Seek(from)
	for it.ValidForPrefix(prefix) || len(written) > 0 {
		var key []byte
		if it.ValidForPrefix(prefix) {
			key = it.Item().Key()
		}
		if len(written) > 0 && (key == nil || written[0] <= string(key)) {
			w := written[0]
			written = written[1:]
			if key != nil && w == string(key) {
				it.Next()
			}
			val, _ := v.pending([]byte(w))
			if val == nil {
				continue
			}
			if more, err := f([]byte(w), val); err != nil || !more {
				return err
			}
			continue
		}
		more := false
		err := it.Item().Value(func(val []byte) (err error) {
			more, err = f(key, val)
			return err
		})
		if err != nil || !more {
			return err
		}
		it.Next()
	}
	return nil
}

// written lists what this transaction wrote or deleted under the prefix, sorted.
func (v *view) written(prefix, from []byte) []string {
	if len(v.base)+len(v.own) == 0 {
		return nil
	}
	var keys []string
	p, f := string(prefix), string(from)
	for k := range v.own {
		if k >= f && len(k) >= len(p) && k[:len(p)] == p {
			keys = append(keys, k)
		}
	}
	for k := range v.base {
		if _, twice := v.own[k]; !twice && k >= f && len(k) >= len(p) && k[:len(p)] == p {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	return keys
}

// any tells whether there is a key with the prefix.
func (v *view) any(prefix []byte) (found bool, err error) {
	err = v.scan(prefix, nil, func(_, _ []byte) (bool, error) { found = true; return false, nil })
	return found, err
}

// entryAt gives the entry of a name, or nil.
func (v *view) entryAt(parent uint64, name string) (*entry, error) {
	val, err := v.get(entryKey(parent, name))
	if err != nil || val == nil {
		return nil, err
	}
	e := &entry{}
	return e, e.decode(val)
}

// placeOf gives the place of an inode, or nil.
func (v *view) placeOf(ino uint64) (*place, error) {
	val, err := v.get(placeKey(ino))
	if err != nil || val == nil {
		return nil, err
	}
	p := &place{}
	return p, p.decode(val)
}

// entryOf gives the entry of an inode that must be live, and its place.
func (v *view) entryOf(ino uint64) (*entry, *place, error) {
	p, err := v.placeOf(ino)
	if err != nil {
		return nil, nil, err
	}
	if p == nil || p.state != live {
		return nil, nil, fmt.Errorf("inode %d: %w", ino, backends.ErrNotExist)
	}
	e, err := v.entryAt(p.parent, p.name)
	if err != nil {
		return nil, nil, err
	}
	if e == nil || e.Inode != ino {
		return nil, nil, fmt.Errorf("inode %d has no entry: %w", ino, backends.ErrDamaged)
	}
	return e, p, nil
}
