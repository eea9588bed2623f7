package index

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
	"tarn/backends/query"
)

// patience is how long a Find waits until changes that were made through here before it are in the index.
const patience = 30 * time.Second

// answer is one Find from a cover: all of it is as it was at one moment.
type answer struct {
	x   *Index
	c   Cover
	e   epoch
	txn *badger.Txn
}

// answerFor finds the newest cover that holds what is at and below root; why tells why one that there is does not answer. Its end
// must be called.
func (x *Index) answerFor(ctx context.Context, root backends.DID) (a *answer, why string, err error) {
	db, err := x.ready(ctx)
	if err != nil || db == nil {
		return nil, "", err
	}
	x.mu.Lock()
	some := len(x.covers) > 0
	x.mu.Unlock()
	if !some {
		return nil, "", nil
	}
	if why = x.settle(ctx); why != "" {
		return nil, why, ctx.Err()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.db == nil || x.closed || x.broken {
		return nil, "", nil
	}
	txn := x.db.NewTransaction(false) // under the lock: what a cover loses its place for is deleted later
	for _, c := range x.covers {
		covered := c.Root.IsZero() || c.Root == root
		if !covered && root.IsZero() {
			continue
		}
		if !root.IsZero() { // the cover's own root may have gone
			i, err := idIn(txn, c.epoch, root)
			if err != nil {
				txn.Discard()
				return nil, "", err
			}
			covered = i != 0
		}
		if !covered {
			continue
		}
		if why = c.answers(x.now(), x.o.MaxAge); why == "" {
			x.finds.Add(1)
			return &answer{x: x, c: c.Cover, e: c.epoch, txn: txn}, "", nil
		}
	}
	txn.Discard()
	return nil, why, nil
}

func (a *answer) end() {
	a.txn.Discard()
	a.x.finds.Done()
}

// settle waits until all changes whose operations have ended are in the index; why tells that they are not.
func (x *Index) settle(ctx context.Context) (why string) {
	x.mu.Lock()
	var wait []uint64
	for seq := range x.left {
		if x.ops[seq] == nil {
			wait = append(wait, seq)
		}
	}
	x.mu.Unlock()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		x.mu.Lock()
		for len(wait) > 0 && x.left[wait[len(wait)-1]] == 0 {
			wait = wait[:len(wait)-1]
		}
		moved, stuck := x.moved, x.stuck
		x.mu.Unlock()
		switch {
		case len(wait) == 0:
			return ""
		case stuck != nil:
			return "changes that were made here are not in it yet: " + stuck.Error()
		}
		select {
		case <-moved:
		case <-late.C:
			return "changes that were made here are not in it yet"
		case <-ctx.Done():
			return "there was no time"
		case <-x.ctx.Done():
			return "it is being closed"
		}
	}
}

func idIn(txn *badger.Txn, e epoch, d backends.DID) (id, error) { return parseID(getIn(txn, e.did(d))) }

// parseID reads what a look for a DID gave; 0 when that is not there.
func parseID(b []byte, err error) (id, error) {
	if errors.Is(err, badger.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, _ := binary.Uvarint(b)
	return id(n), nil
}

// find gives what matches at and below root.
func (a *answer) find(ctx context.Context, root backends.DID, q query.Expr, yield func(backends.Info, error) bool) {
	err := a.each(ctx, root, q, func(in backends.Info) bool { return yield(in, nil) })
	if err != nil {
		yield(backends.Info{}, &backends.OpError{Op: "find in the index below", DID: root, Err: err})
	}
}

func (a *answer) each(ctx context.Context, root backends.DID, q query.Expr, yield func(backends.Info) bool) error {
	within, err := a.newWithin(root)
	if err != nil {
		return err
	}
	defer within.close()
	n := 0
	one := func(i id, b []byte) (more bool, err error) {
		if n++; n%256 == 0 {
			if err := errors.Join(ctx.Err(), a.x.ctx.Err()); err != nil {
				return false, err
			}
		}
		r, err := decodeRecord(b)
		if err != nil || r.info.DID.Name == "" {
			return true, err
		}
		if a.x.o.Complete != nil {
			a.x.o.Complete(&r.info)
		}
		s := backends.Subject{Info: &r.info, Meta: r.meta, Flat: r.flat}
		if !q.Match(s.Value) || !within.holds(i) { // the former is cheaper
			return true, nil
		}
		return yield(r.info), nil
	}
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues = a.e.prefix(kindPosting), false
	it := a.txn.NewIterator(o)
	defer it.Close()
	var below func(int) ([]id, bool)
	if within.root != 0 {
		below = func(most int) ([]id, bool) { return a.below(within.root, most) }
	}
	p := (&planner{e: a.e, it: it}).plan(q, a.c.DIDs, below)
	get := func(i id) (more bool, err error) {
		item, err := a.txn.Get(a.e.record(i))
		if err != nil {
			return false, err
		}
		err = item.Value(func(b []byte) (err error) { more, err = one(i, b); return err })
		return more, err
	}
	if p.all {
		return a.all(one)
	}
	for _, i := range p.ids {
		if more, err := get(i); err != nil || !more {
			return err
		}
	}
	var seen bits
	for _, s := range p.spans {
		for it.Seek(s.from); it.Valid() && s.holds(it.Item().Key()); it.Next() {
			i := lastID(it.Item().Key())
			if !seen.add(uint64(i)) {
				continue
			}
			if more, err := get(i); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// below lists what is at and below i, unless it is more than that many.
func (a *answer) below(i id, most int) ([]id, bool) {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues = a.e.prefix(kindDown), false
	it := a.txn.NewIterator(o)
	defer it.Close()
	var seen bits
	seen.add(uint64(i))
	list := []id{i}
	for at := 0; at < len(list); at++ {
		prefix := list[at].append(a.e.prefix(kindDown))
		for it.Seek(prefix); it.ValidForPrefix(prefix); it.Next() {
			c := lastID(it.Item().Key())
			if !seen.add(uint64(c)) {
				continue
			}
			if len(list) >= most {
				return nil, false
			}
			list = append(list, c)
		}
	}
	return list, true
}

// all goes through all records.
func (a *answer) all(one func(id, []byte) (bool, error)) error {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchSize = a.e.prefix(kindRecord), 256
	it := a.txn.NewIterator(o)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		more := false
		if err := item.Value(func(b []byte) (err error) { more, err = one(lastID(item.Key()), b); return err }); err != nil || !more {
			return err
		}
	}
	return nil
}

// within tells what is at or below one DID of the cover.
type within struct {
	e     epoch
	root  id               // 0: all is
	it    *badger.Iterator // over what DIDs are in
	known map[id]bool      // collections
}

func (a *answer) newWithin(root backends.DID) (*within, error) {
	w := &within{e: a.e}
	if root == a.c.Root {
		return w, nil
	}
	var err error
	if w.root, err = idIn(a.txn, a.e, root); err != nil {
		return nil, err
	}
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues = a.e.prefix(kindUp), false
	w.it, w.known = a.txn.NewIterator(o), map[id]bool{}
	return w, nil
}

func (w *within) close() {
	if w.it != nil {
		w.it.Close()
	}
}

// mostKnown bounds the collections that are remembered.
const mostKnown = 100_000

func (w *within) holds(i id) bool {
	if w.root == 0 || i == w.root {
		return true
	}
	for _, p := range w.parents(i) {
		if w.below(p) {
			return true
		}
	}
	return false
}

// below is holds for a collection.
func (w *within) below(i id) bool {
	if i == w.root {
		return true
	}
	is, ok := w.known[i]
	if ok || i == 0 {
		return is
	}
	w.known[i] = false // a collection that contains itself ends here
	is = w.holds(i)
	if len(w.known) >= mostKnown {
		clear(w.known)
	}
	w.known[i] = is
	return is
}

func (w *within) parents(i id) (list []id) {
	prefix := i.append(w.e.prefix(kindUp))
	for w.it.Seek(prefix); w.it.ValidForPrefix(prefix); w.it.Next() {
		list = append(list, lastID(w.it.Item().Key()))
	}
	return list
}

// parentsOf gives the collections that a DID is in, as the cover has them; false where it does not know them all.
func (x *Index) parentsOf(c Cover, e epoch, d backends.DID) (list []backends.DID, ok bool) {
	x.mu.Lock()
	db, is := x.db, false
	var above []backends.DID
	for _, have := range x.covers {
		if have.epoch == e {
			is, above = true, have.above
		}
	}
	x.mu.Unlock()
	if !is || db == nil {
		return nil, false
	}
	if d == c.Root && len(above) > 0 {
		return above[:1], true
	}
	for i, up := range above {
		if up == d && i+1 < len(above) {
			return above[i+1 : i+2], true
		}
	}
	err := db.View(func(txn *badger.Txn) error {
		i, err := idIn(txn, e, d)
		if err != nil || i == 0 {
			return err
		}
		ok = true
		for _, p := range idsIn(txn, i.append(e.prefix(kindUp))) {
			b, err := getIn(txn, e.record(p))
			if p == 0 || errors.Is(err, badger.ErrKeyNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			r, err := decodeRecord(b)
			if err != nil {
				return err
			}
			if r.info.DID.Name != "" { // that it is in a scope is told by its name
				list = append(list, r.info.DID)
			}
		}
		return nil
	})
	return list, ok && err == nil
}

// bits is a set of small numbers.
type bits map[uint64]*[512]uint64

// add tells whether n was not in it.
func (b *bits) add(n uint64) bool {
	if *b == nil {
		*b = bits{}
	}
	page := (*b)[n>>15]
	if page == nil {
		page = new([512]uint64)
		(*b)[n>>15] = page
	}
	word, bit := &page[n>>6&511], uint64(1)<<(n&63)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}
