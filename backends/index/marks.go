package index

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

// What a change was.
const (
	wasPut     = 'p' // DID was added, or got another content
	wasSet     = 's' // of DID alone: attributes
	wasMeta    = 'm' // metadata of DID, which those below inherit
	wasScope   = 'S' // DID, a scope, was added
	wasDropped = 'd' // DID was removed
	wasIn      = 'a' // DID was attached to With
	wasOut     = 'o' // DID was detached from With
	wasRenamed = 'r' // DID is With now
	wasBack    = 'b' // DID was brought back, with what it was in and was attached to
)

// change is one thing to be looked at after something was changed. Looking twice does no harm.
type change struct {
	what      byte
	did, with backends.DID
	// sure: the catalogue has said that it is made. Else where a DID is now is asked for.
	sure bool
}

func (c change) encode() []byte {
	b := []byte{c.what, 0}
	if c.sure {
		b[1] = 1
	}
	for _, s := range []string{c.did.Scope, c.did.Name, c.with.Scope, c.with.Name} {
		b = appendText(b, s)
	}
	return b
}

func decodeChange(b []byte) (change, error) {
	d := &decoder{b: b}
	c := change{what: d.byte(), sure: d.byte() == 1}
	c.did = backends.DID{Scope: d.text(), Name: d.text()}
	c.with = backends.DID{Scope: d.text(), Name: d.text()}
	return c, d.err
}

// op is a change of the catalogue that is under way.
type op struct {
	x      *Index
	seq    uint64
	marked bool
	n      uint32 // marks
	done   chan struct{}

	members bool // it attaches or detaches
	// guarded by Index.mu:
	lost  bool // the index was begun anew since: its marks are not all there
	mixed bool // others attached or detached meanwhile: where it was in their order is not known
}

// begin puts on record what is to be looked at when a change has been made; it is made between begin and end. Where nothing
// is indexed that is nothing.
func (x *Index) begin(changes ...change) *op {
	<-x.opened
	x.mu.Lock()
	x.seq++
	o := &op{x: x, seq: x.seq, done: make(chan struct{})}
	o.marked = x.db != nil && !x.broken && (len(x.covers) > 0 || x.behind != 0)
	o.members = slices.ContainsFunc(changes, func(c change) bool { return c.what == wasIn || c.what == wasOut })
	for _, other := range x.ops {
		if o.members && other.members {
			o.mixed, other.mixed = true, true
		}
	}
	x.ops[o.seq] = o
	x.mu.Unlock()
	o.add(changes...)
	return o
}

// add puts further changes of the operation on record, before they are made.
func (o *op) add(changes ...change) {
	if !o.marked || len(changes) == 0 {
		return
	}
	x := o.x
	x.mu.Lock()
	db := x.db
	x.left[o.seq] += len(changes)
	x.mu.Unlock()
	err := error(backends.ErrClosed)
	if db != nil {
		err = x.room()
	}
	if err == nil {
		b := db.NewWriteBatch()
		for _, c := range changes {
			if err == nil {
				err = b.Set(sequenceKey(kindMark, o.seq, o.n), c.encode())
			}
			o.n++
		}
		if err == nil {
			err = b.Flush()
		}
		b.Cancel()
	}
	if err != nil {
		x.breaks(err)
	}
}

// end lets the changes be looked at; err is what the catalogue said.
func (o *op) end(err error) {
	o.x.mu.Lock()
	delete(o.x.ops, o.seq)
	if err == nil && !o.mixed && o.x.left[o.seq] > 0 {
		o.x.sure[o.seq] = true
	}
	o.x.mu.Unlock()
	close(o.done)
	if o.marked {
		o.x.awake()
	}
}

// The pauses between looks that fail.
const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

// work looks at changes, and deletes records that are nobody's, until Close.
func (x *Index) work() {
	pause := firstPause
	for {
		more, err := x.step()
		x.mu.Lock()
		x.stuck = err
		if err != nil {
			x.signal()
		}
		x.mu.Unlock()
		var again <-chan time.Time
		switch {
		case x.ctx.Err() != nil:
			return
		case err != nil:
			x.log.Warn("changes are not in the index of metadata yet", "err", err)
			again = time.After(pause)
			pause = min(2*pause, lastPause)
		case more:
			pause = firstPause
			continue
		default:
			pause = firstPause
		}
		wake := x.wake
		if err != nil {
			wake = nil // a server that is away is not asked more often because something is changed
		}
		select {
		case <-x.ctx.Done():
			return
		case <-wake:
		case <-again:
		}
	}
}

// signal tells those who wait that something was looked at. x.mu is held.
func (x *Index) signal() {
	close(x.moved)
	x.moved = make(chan struct{})
}

// atATime is how many changes are looked at in one go.
const atATime = 500

// step looks at some changes, or deletes some records.
func (x *Index) step() (more bool, err error) {
	x.applying.Lock()
	defer x.applying.Unlock()
	x.mu.Lock()
	db := x.db
	covers := append([]*cover(nil), x.covers...)
	if x.broken {
		db = nil
	}
	x.mu.Unlock()
	if db == nil {
		return false, nil
	}
	keys, changes, err := x.marks(db, kindMark, atATime)
	if err != nil {
		return false, err
	}
	if len(keys) == 0 {
		return x.clean(db)
	}
	x.mu.Lock()
	behind := x.behind // after the changes: what is begun to be read later than this finds them made
	x.mu.Unlock()
	for _, c := range covers {
		if c.Stale == "" {
			if err := x.look(db, c, changes); err != nil {
				return false, err
			}
		}
	}
	b := db.NewWriteBatch()
	defer b.Cancel()
	for i, k := range keys {
		if behind != 0 {
			later := append([]byte{kindBehind}, k[1:]...)
			if err := b.Set(later, changes[i].encode()); err != nil {
				return false, err
			}
		}
		if err := b.Delete(k); err != nil {
			return false, err
		}
	}
	if err := b.Flush(); err != nil {
		return false, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, k := range keys {
		seq := sequenceOf(k)
		if x.left[seq]--; x.left[seq] <= 0 {
			delete(x.left, seq)
			delete(x.sure, seq)
		}
	}
	x.signal()
	return true, nil
}

// mostTries is how often a change is looked at that the catalogue answers with an error, until what is indexed counts as stale.
const mostTries = 5

// look puts changes into a cover that answers. A change that cannot be followed makes it stale.
func (x *Index) look(db *badger.DB, c *cover, changes []change) error {
	v := x.view(db, c, true)
	err := v.apply(x.ctx, changes)
	torn := v.torn
	if err == nil {
		err = v.flush()
	}
	if err != nil && torn {
		return x.setStale(db, c, tornWhy)
	}
	if err == nil {
		x.mu.Lock()
		delete(x.failed, c.epoch)
		x.mu.Unlock()
		return nil
	}
	var cannot *staleError
	if errors.As(err, &cannot) {
		return x.setStale(db, c, cannot.why)
	}
	if x.ctx.Err() == nil && !errors.Is(err, backends.ErrUnavailable) && !errors.Is(err, backends.ErrTemporary) {
		x.mu.Lock()
		x.failed[c.epoch]++
		n := x.failed[c.epoch]
		x.mu.Unlock()
		if n >= mostTries {
			return x.setStale(db, c, fmt.Sprintf("a change could not be looked at: %v", err))
		}
	}
	return err
}

// staleError tells that a cover must be read anew.
type staleError struct{ why string }

func (e *staleError) Error() string { return e.why }

// marks reads the oldest changes whose operations have ended.
func (x *Index) marks(db *badger.DB, kind byte, most int) (keys [][]byte, changes []change, err error) {
	busy := map[uint64]bool{}
	x.mu.Lock()
	sure := maps.Clone(x.sure)
	for seq := range x.ops {
		busy[seq] = true
	}
	last := x.seq // what begins from here on is under way, too
	x.mu.Unlock()
	err = db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix = []byte{kind}
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Rewind(); it.Valid() && len(keys) < most; {
			k := it.Item().KeyCopy(nil)
			if kind == kindMark && sequenceOf(k) > last {
				break
			}
			if kind == kindMark && busy[sequenceOf(k)] {
				it.Seek(sequenceKey(kind, sequenceOf(k)+1, 0))
				continue
			}
			var c change
			if err := it.Item().Value(func(b []byte) (err error) { c, err = decodeChange(bytes.Clone(b)); return err }); err != nil {
				return err
			}
			if kind == kindMark {
				c.sure = sure[sequenceOf(k)]
			}
			keys, changes = append(keys, k), append(changes, c)
			it.Next()
		}
		return nil
	})
	return keys, changes, err
}

// clean deletes the records of one number that are no cover's.
func (x *Index) clean(db *badger.DB) (more bool, err error) {
	var dead []epoch
	if err := scan(db, []byte{kindDead}, func(k, _ []byte) error { dead = append(dead, numberOf(k)); return nil }); err != nil {
		return false, err
	}
	x.mu.Lock()
	behind := x.behind // after the scan: Build sets it before the record is there
	x.mu.Unlock()
	dead = slices.DeleteFunc(dead, func(n epoch) bool { return n == behind })
	if len(dead) == 0 {
		return false, nil
	}
	n := dead[0]
	if more, err := removeSome(db, numberKey(kindEpoch, n)); err != nil || more {
		return more, err
	}
	return true, db.Update(func(txn *badger.Txn) error { return txn.Delete(numberKey(kindDead, n)) })
}
