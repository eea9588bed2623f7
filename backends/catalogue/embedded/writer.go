package embedded

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"tarn/backends"
)

// All changes go through one goroutine. It runs the operations that wait for it one
// after the other on top of one another's writes, commits them as one transaction of
// the database with one sync, and answers them all: while one sync runs, the next
// group gathers. No operation sees another's half, none conflicts, and the counters
// need no lock.

// maxGroup bounds the operations of one commit.
const maxGroup = 256

// maxWriterPaths bounds the writer's own memory of paths.
const maxWriterPaths = 4096

// operation is one change that waits for the writer.
type operation struct {
	ctx    context.Context
	run    func(t *tx) error
	frees  bool         // it only takes away: allowed below the floor of free space
	state  atomic.Int32 // waiting, taken, or abandoned by its caller
	result chan error
}

const (
	waiting int32 = iota
	taken
	abandoned
)

// tx is one operation in its transaction.
type tx struct {
	view
	now     time.Time
	effects // of this operation, kept only if it succeeds
}

// effects is what a change means for what is kept in memory, after the commit.
type effects struct {
	size   int // bytes written
	files  int64
	bytes  int64
	moved  bool // a collection got another path, or lost its path
	events uint64
	given  uint64
}

func (e *effects) add(o effects) {
	e.size += o.size
	e.files += o.files
	e.bytes += o.bytes
	e.moved = e.moved || o.moved
	e.events += o.events
	e.given = max(e.given, o.given)
}

func (t *tx) set(key, val []byte) {
	if val == nil {
		val = []byte{}
	}
	t.own[string(key)] = val
	t.size += len(key) + len(val) + 32
}

func (t *tx) del(key []byte) {
	t.own[string(key)] = nil
	t.size += len(key) + 32
}

// sequence gives a number that no other transaction, event or Past has.
func (t *tx) sequence() uint64 {
	t.events++
	return (t.c.count.sequence+1)<<20 | (t.c.groupEvents + t.events)
}

// newInode allots an inode that was never used.
func (t *tx) newInode() (uint64, error) {
	for {
		ino := t.c.count.nextInode
		t.c.count.nextInode++ // also if the operation fails: a gap does not matter
		if ino > max(t.c.count.maxGiven, t.given, t.c.groupGiven) {
			return ino, nil
		}
		if used, err := t.has(placeKey(ino)); err != nil || !used {
			return ino, err
		}
	}
}

// update runs an operation as part of a transaction and returns when it is durable.
func (c *Catalogue) update(ctx context.Context, frees bool, run func(t *tx) error) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.gate.leave()
	op := &operation{ctx: ctx, run: run, frees: frees, result: make(chan error, 1)}
	select {
	case c.queue <- op:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-op.result:
		return err
	case <-ctx.Done():
		if op.state.CompareAndSwap(waiting, abandoned) {
			return ctx.Err()
		}
		return <-op.result // it is being done: its outcome is the answer
	}
}

// writer is the goroutine's loop. The queue is closed after the last caller has left.
func (c *Catalogue) writer() {
	var again reopening
	for {
		select {
		case op, ok := <-c.queue:
			if !ok {
				return
			}
			if e := c.broken.Load(); e != nil {
				op.result <- *e
				continue
			}
			c.group(op)
		case <-again.due(c):
			again.try(c)
		}
	}
}

// group runs op and what waits behind it as one transaction.
func (c *Catalogue) group(op *operation) {
	txn := c.db.NewTransaction(false)
	defer txn.Discard()
	base := map[string][]byte{}
	var all effects
	var done []*operation
	room := c.space.check()
	c.groupMoved = false
	for op != nil {
		if op.state.CompareAndSwap(waiting, taken) {
			err := room.allow(op.frees)
			if err == nil {
				c.groupEvents, c.groupGiven = all.events, all.given
				t := &tx{view: view{c: c, txn: txn, base: base, own: map[string][]byte{}}, now: c.now().UTC()}
				if err = runOne(op, t); err == nil && len(t.own) > 0 {
					for k, v := range t.own {
						base[k] = v
					}
					all.add(t.effects)
					c.groupMoved = all.moved
				}
			}
			if err != nil {
				clear(c.writerPaths) // it may hold what the operation made and did not keep
				op.result <- err
			} else {
				done = append(done, op)
			}
		}
		op = nil
		if len(done) < maxGroup && all.size < c.maxTxn/2 && len(base) < c.maxKeys/2 {
			select {
			case op = <-c.queue: // nil when it is closed
			default:
			}
		}
	}
	if all.moved {
		clear(c.writerPaths)
	}
	err := c.commit(base, all)
	for _, op := range done {
		op.result <- err
	}
}

func runOne(op *operation, t *tx) (err error) {
	defer recovered(&err)
	if err := op.run(t); err != nil {
		return err
	}
	if t.size > t.c.maxTxn/2 || len(t.own) > t.c.maxKeys/2 {
		return fmt.Errorf("one change of %d records and %d bytes is too large for a transaction: %w", len(t.own), t.size, backends.ErrNotSupported)
	}
	return nil
}

// commit makes the writes durable and then visible in what is kept in memory. A
// commit that fails leaves open whether it will be found when the lake is opened again,
// so nothing is served until it was.
func (c *Catalogue) commit(writes map[string][]byte, all effects) error {
	if len(writes) == 0 {
		return nil
	}
	next := c.count
	next.sequence++
	c.notePlaces(writes, next.sequence)
	next.files += all.files
	next.bytes += all.bytes
	next.maxGiven = max(next.maxGiven, all.given)
	if all.moved {
		c.paths.suspend()
		defer c.paths.resume()
	}
	if err := c.commitBadger(writes, next.encode()); err != nil {
		err = fmt.Errorf("commit: %w: %w", backends.ErrUnavailable, err)
		c.breakWith(fmt.Errorf("%w: %w", errReopen, err))
		return err
	}
	c.count = next
	c.usedFiles.Store(next.files)
	c.usedBytes.Store(next.bytes)
	c.durable.note(next.sequence)
	return nil
}

func (c *Catalogue) commitBadger(writes map[string][]byte, counters []byte) (err error) {
	defer recovered(&err)
	txn := c.db.NewTransaction(true)
	defer txn.Discard()
	for k, v := range writes {
		if v == nil {
			err = txn.Delete([]byte(k))
		} else {
			err = txn.SetEntry(badger.NewEntry([]byte(k), v))
		}
		if err != nil {
			return err
		}
	}
	if err := txn.Set(countersKey(), counters); err != nil {
		return err
	}
	return txn.Commit()
}

// breakWith ends all service with an error. One that wraps errReopen is passing.
func (c *Catalogue) breakWith(err error) {
	if c.broken.CompareAndSwap(nil, &err) && !errors.Is(err, backends.ErrClosed) {
		c.log.Error("the catalogue is out of service", "dir", c.dir, "error", err)
	}
}
