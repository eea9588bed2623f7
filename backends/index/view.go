package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

// view changes the records of one cover. What it has changed is written when there is enough of it, and by flush.
type view struct {
	x       *Index
	db      *badger.DB
	of, c   *cover                 // the cover, and as the view has it
	live    bool                   // it answers
	torn    bool                   // a part was written of what belongs together
	pending map[string][]byte      // nil: deleted
	edges   map[string]map[id]bool // those of pending: by the key without the other end
	size    int
}

// pendingBytes is how much a view gathers before it writes. What is more than fits into a transaction is looked at again when
// this ends in between; and where names change, what was in which collections is not known any more then: the cover is stale.
const pendingBytes = 4 << 20

// view gives one of a cover that answers, or of one that is being made.
func (x *Index) view(db *badger.DB, c *cover, live bool) *view {
	own := *c
	return &view{x: x, db: db, of: c, c: &own, live: live, pending: map[string][]byte{}, edges: map[string]map[id]bool{}}
}

func (v *view) get(key []byte) ([]byte, error) {
	if b, ok := v.pending[string(key)]; ok {
		if b == nil {
			return nil, badger.ErrKeyNotFound
		}
		return b, nil
	}
	return get(v.db, key)
}

func (v *view) set(key, value []byte) {
	if value == nil {
		value = []byte{}
	}
	v.pending[string(key)] = value
	v.size += len(key) + len(value) + 64
}

func (v *view) delete(key []byte) {
	v.pending[string(key)] = nil
	v.size += len(key) + 64
}

// full writes when there is enough.
func (v *view) full() error {
	if v.size < pendingBytes {
		return nil
	}
	v.torn = v.live && v.x.o.Catalogue.Traits().Rename
	return v.store()
}

// tornWhy is why a cover is stale of which a part was written.
const tornWhy = "tarn ended, or failed, in the middle of a change of many names"

// flush writes the rest of what has changed.
func (v *view) flush() error {
	if len(v.pending) == 0 && !v.torn {
		return nil
	}
	v.torn = false
	return v.store()
}

// store writes what has changed, with the counters of a cover that answers, in one transaction.
func (v *view) store() error {
	if err := v.x.room(); err != nil {
		return err
	}
	if v.live {
		v.x.mu.Lock()
		v.c.Stale = v.of.Stale
		v.x.mu.Unlock()
		now := *v.c
		if v.torn {
			now.Stale = tornWhy
		}
		v.pending[string(numberKey(kindCover, v.c.epoch))] = now.encode()
	}
	err := v.db.Update(func(txn *badger.Txn) error { return v.write(txn.Set, txn.Delete) })
	if errors.Is(err, badger.ErrTxnTooBig) { // one record of very many values
		b := v.db.NewWriteBatch()
		defer b.Cancel()
		if err = v.write(b.Set, b.Delete); err == nil {
			err = b.Flush()
		}
	}
	if err != nil {
		return err
	}
	v.pending, v.edges, v.size = map[string][]byte{}, map[string]map[id]bool{}, 0
	if v.live {
		v.x.mu.Lock()
		v.of.next, v.of.DIDs = v.c.next, v.c.DIDs
		v.x.mu.Unlock()
	}
	return nil
}

func (v *view) write(set func(key, value []byte) error, remove func(key []byte) error) error {
	for k, val := range v.pending {
		var err error
		if val == nil {
			err = remove([]byte(k))
		} else {
			err = set([]byte(k), val)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// idOf finds a DID; 0 when it is not in the cover.
func (v *view) idOf(d backends.DID) (id, error) {
	if d.IsZero() {
		return 0, nil
	}
	return parseID(v.get(v.c.epoch.did(d)))
}

// ensure finds a DID or gives it an id.
func (v *view) ensure(d backends.DID) (i id, fresh bool, err error) {
	if i, err = v.idOf(d); err != nil || i != 0 {
		return i, false, err
	}
	i = v.c.next
	v.c.next++
	v.set(v.c.epoch.did(d), binary.AppendUvarint(nil, uint64(i)))
	return i, true, nil
}

// link notes that i is in parent; 0 is the root of the cover.
func (v *view) link(parent, i id) { v.edge(parent, i, true) }

func (v *view) unlink(parent, i id) { v.edge(parent, i, false) }

func (v *view) edge(parent, i id, is bool) {
	for _, k := range [][]byte{v.c.epoch.up(i, parent), v.c.epoch.down(parent, i)} {
		if is {
			v.set(k, nil)
		} else {
			v.delete(k)
		}
		from := string(k[:len(k)-8])
		if v.edges[from] == nil {
			v.edges[from] = map[id]bool{}
		}
		v.edges[from][lastID(k)] = is
	}
}

// parents lists what i is in.
func (v *view) parents(i id) ([]id, error) { return v.ids(i.append(v.c.epoch.prefix(kindUp))) }

// children lists what is in i.
func (v *view) children(i id) ([]id, error) { return v.ids(i.append(v.c.epoch.prefix(kindDown))) }

func (v *view) ids(prefix []byte) (list []id, err error) {
	own := v.edges[string(prefix)]
	err = v.db.View(func(txn *badger.Txn) error {
		list = slices.DeleteFunc(idsIn(txn, prefix), func(i id) bool { _, changed := own[i]; return changed })
		return nil
	})
	for i, is := range own {
		if is {
			list = append(list, i)
		}
	}
	return list, err
}

func idsIn(txn *badger.Txn, prefix []byte) (list []id) {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues = prefix, false
	it := txn.NewIterator(o)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		list = append(list, lastID(it.Item().Key()))
	}
	return list
}

// record gives what is stored of i; nil when that is nothing.
func (v *view) record(i id) (*record, error) {
	b, err := v.get(v.c.epoch.record(i))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := decodeRecord(b)
	return &r, err
}

// put stores what is known of i in place of what was.
func (v *view) put(i id, r *record) error {
	e := v.c.epoch
	old, err := v.record(i)
	if err != nil {
		return err
	}
	b, err := r.encode()
	if err != nil {
		return err
	}
	v.set(e.record(i), b)
	keys := e.postings(r)
	if old == nil {
		v.count(r, 1)
	} else {
		for _, k := range e.postings(old) {
			if _, same := slices.BinarySearchFunc(keys, k, bytes.Compare); !same {
				v.delete(i.append(k))
			}
		}
	}
	for _, k := range keys {
		v.set(i.append(k), nil)
	}
	return v.full()
}

// count counts what is found; a scope is not.
func (v *view) count(r *record, n int64) {
	if r.info.DID.Name != "" {
		v.c.DIDs += n
	}
}

// drop forgets a DID, and what is below it and in nothing else.
func (v *view) drop(d backends.DID) error {
	i, err := v.idOf(d)
	if err != nil || i == 0 {
		return err
	}
	v.delete(v.c.epoch.did(d))
	for stack := []id{i}; len(stack) > 0; {
		i := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		r, err := v.record(i)
		if err != nil {
			return err
		}
		if r != nil {
			for _, k := range v.c.epoch.postings(r) {
				v.delete(i.append(k))
			}
			v.delete(v.c.epoch.record(i))
			v.delete(v.c.epoch.did(r.info.DID))
			v.count(r, -1)
		}
		ups, err := v.parents(i)
		if err != nil {
			return err
		}
		for _, p := range ups {
			v.unlink(p, i)
		}
		downs, err := v.children(i)
		if err != nil {
			return err
		}
		for _, c := range downs {
			v.unlink(i, c)
			ups, err := v.parents(c)
			if err != nil {
				return err
			}
			if len(ups) == 0 {
				stack = append(stack, c)
			}
		}
	}
	return v.full()
}

// leave takes a DID out of parent, and forgets it when it is in nothing else.
func (v *view) leave(parent id, d backends.DID) error {
	i, err := v.idOf(d)
	if err != nil || i == 0 {
		return err
	}
	v.unlink(parent, i)
	ups, err := v.parents(i)
	if err != nil || len(ups) > 0 {
		return err
	}
	return v.drop(d)
}
