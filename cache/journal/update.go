package journal

import (
	"fmt"
	"os"
)

// recordFile is what is known of an entry's record file; guarded by Entry.op.
type recordFile struct {
	slot int64  // size of a slot; 0: the file has to be written anew
	seq  uint64 // of the newest slot
	safe int64  // offset of the slot that is durable: never overwritten
	// lazy: the other slot is newer and perhaps not durable.
	lazy bool
	// unsure: read back after a restart, so even the slot called safe may be in the
	// page cache only. It is synced before anything is written.
	unsure bool
	failed error // of a sync of the record: sticky
	// renew: a sync of this file failed, so what it holds beside the safe slot is anyone's
	// guess. The next change goes into a new file.
	renew bool

	// gen is the generation of the log that has the newest record of the entry, contentGen
	// the one that has its sealed content; see wal.knows and wal.holds.
	gen, contentGen uint64
	// behind: the log has a newer record than the file. pend: that one was not synced, so
	// nothing may be written that says what it says.
	behind, pend bool
	// left: a record file of a spill that failed could not be removed.
	left bool
}

// failRecord is what a failed sync of the record means. Nothing but the new state of a
// sealed entry hangs on it: its content and the slot that says so are durable, so it is
// tried again, in a file of its own. It is final for one that is being written.
func (e *Entry) failRecord(err error) error {
	if !e.State().Open() {
		e.rec.renew = true
		return err
	}
	if e.rec.failed == nil {
		e.rec.failed = err
	}
	_ = e.fail(err)
	return e.rec.failed
}

// Update changes the record; the change is durable when it returns nil. f gets a copy
// and must not call the entry; what belongs to the journal (see Record) stays as it is.
//
// f may set State only on a sealed entry, and a Damaged one stays SEALED (one that has come
// further has good copies elsewhere): otherwise nothing is changed and the error is
// ErrWriting or ErrDamaged; ErrNotVerified while Record.SumsLate. An uploader whose work took a while
// compares Seq in f, because the entry may have been changed and sealed again.
//
// It needs no space on the disk unless the record outgrows its slot.
func (e *Entry) Update(f func(*Record)) error { return e.update(f, true) }

// UpdateLazy is Update without waiting for the disk: it survives kill -9, and a power cut
// may lose this change but never the record. Sync, Seal, Update and Journal.Close make it
// durable.
func (e *Entry) UpdateLazy(f func(*Record)) error { return e.update(f, false) }

func (e *Entry) update(f func(*Record), durable bool) error {
	e.op.Lock()
	defer e.op.Unlock()
	if err := e.enter(); err != nil {
		return e.wrap("update", err)
	}
	defer e.j.files.leave()
	old := e.snapshot()
	st := old.clone()
	f(&st.Record)
	st.keepOwn(old.Record)
	switch {
	case st.State == old.State:
	case old.Damaged && (old.State == Sealed || old.State.Open()):
		return e.wrap("update", fmt.Errorf("to %s: %w: %s", st.State, ErrDamaged, old.Error))
	case old.State.Open():
		return e.wrap("update", fmt.Errorf("to %s: %w", st.State, ErrWriting))
	case old.SumsLate:
		return e.wrap("update", fmt.Errorf("to %s: its checksums are not known yet: %w", st.State, ErrNotVerified))
	case st.State.Open():
		return e.wrap("update", fmt.Errorf("from %s to %s: only a write does that", old.State, st.State))
	}
	resident := e.isResident()
	done := resident && !durable && old.State.Open() // its content is in memory too
	if !old.State.Open() && old.Seq > 0 && (durable || resident) {
		done = e.logRecord(logState, st, nil, durable) == nil
	}
	if done {
		e.publish(st)
		return nil // the log is where it is found, whatever its names are
	}
	if err := e.writeRecord(st, durable); err != nil {
		return e.wrap("update", err)
	}
	e.publish(st)
	// The names come last: a record nobody can find is worth nothing, and an entry that
	// was never synced promises nothing to begin with.
	e.mu.Lock()
	linked := e.linked
	e.mu.Unlock()
	if durable && !linked {
		return e.wrap("update", e.syncNames())
	}
	return nil
}

// newRecordFile writes a record file with both slots, the first of them filled. Real
// blocks are allocated for both before anything is said to be there.
func (e *Entry) newRecordFile(name string, st stored, durable bool) (err error) {
	payload, err := encodePayload(st)
	if err != nil {
		return err
	}
	size := slotFor(len(payload))
	flag := os.O_RDWR | os.O_CREATE | os.O_EXCL
	f, err := e.j.files.openRecord(name, flag)
	if err != nil {
		return err
	}
	defer e.j.files.closeRecord(f)
	defer func() {
		if err != nil {
			e.j.discard(name)
		}
	}()
	// Not every file system has fallocate; writing both slots allocates as well.
	if err := f.Allocate(0, 0, 2*size); err != nil && isSpace(err) {
		return err
	}
	b := takeBuffer(int(2 * size))
	defer giveBuffer(b)
	putSlot(b[:size], e.rec.seq+1, payload)
	clear(b[size:])
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	e.rec = recordFile{slot: size, seq: e.rec.seq + 1, gen: e.rec.gen, contentGen: e.rec.contentGen}
	return nil
}

// writeRecord writes st into the slot that is not the durable one and, if asked, waits
// for the disk. The caller holds op. A write error leaves the older record good and may
// be tried again; a sync error is sticky.
func (e *Entry) writeRecord(st stored, durable bool) error {
	if durable {
		if e.rec.failed != nil {
			return e.rec.failed
		}
	}
	if err := e.unpend(); err != nil {
		return err
	}
	if err := e.spill(); err != nil {
		return err
	}
	payload, err := encodePayload(st)
	if err != nil {
		return err
	}
	fits := slotHeader+len(payload) <= int(e.rec.slot)
	// The slack is kept for Seal, which must work on a full disk; so only a state that
	// has it behind itself may use it up.
	if e.rec.renew {
		return e.growRecord(st)
	}
	if !fits || (st.State.Open() && slotFor(len(payload)) > e.rec.slot) {
		err := e.growRecord(st)
		if err == nil || !fits || !isSpace(err) {
			return err
		}
	}
	f, err := e.j.files.openRecord(e.recPath(), os.O_RDWR)
	if err != nil {
		return err
	}
	defer e.j.files.closeRecord(f)
	if err := e.settle(f); err != nil {
		return err
	}
	target := e.rec.slot - e.rec.safe
	b := takeBuffer(int(e.rec.slot))
	defer giveBuffer(b)
	putSlot(b, e.rec.seq+1, payload)
	if _, err := f.WriteAt(b, target); err != nil {
		return err
	}
	e.rec.seq++
	e.rec.lazy, e.rec.behind = true, false
	if !durable {
		return nil
	}
	return e.settleLazy(f, target)
}

// settle makes sure, once after a restart, that the slot called safe is.
func (e *Entry) settle(f File) error {
	if !e.rec.unsure {
		return nil
	}
	if err := f.DataSync(); err != nil {
		return e.failRecord(err)
	}
	e.rec.unsure = false
	return nil
}

func (e *Entry) settleLazy(f File, target int64) error {
	if err := f.DataSync(); err != nil {
		return e.failRecord(err)
	}
	e.rec.safe, e.rec.lazy, e.rec.unsure = target, false, false
	return nil
}

// syncRecord makes a record that was written lazily, or read back after a restart,
// durable, and the names. The caller holds op.
func (e *Entry) syncRecord() error {
	if e.rec.failed != nil {
		return e.rec.failed
	}
	if e.rec.behind { // what is in the file is of no interest
		return e.unpend()
	}
	if e.rec.renew {
		return e.growRecord(e.snapshot())
	}
	e.mu.Lock()
	linked := e.linked
	e.mu.Unlock()
	if !linked {
		if err := e.syncNames(); err != nil {
			return err
		}
	}
	if !e.rec.lazy && !e.rec.unsure {
		return nil
	}
	f, err := e.j.files.openRecord(e.recPath(), os.O_RDWR)
	if err != nil {
		return err
	}
	defer e.j.files.closeRecord(f)
	target := e.rec.safe
	if e.rec.lazy {
		target = e.rec.slot - e.rec.safe
	}
	return e.settleLazy(f, target)
}

// syncLazy is syncRecord for Close.
func (e *Entry) syncLazy() error {
	e.op.Lock()
	defer e.op.Unlock()
	if err := e.alive(); err != nil || !e.rec.lazy && !e.rec.renew {
		return err
	}
	if err := e.j.files.enter(); err != nil {
		return err
	}
	defer e.j.files.leave()
	return e.wrap("sync record of", e.syncRecord())
}

// growRecord replaces the record file by one with bigger slots that holds st. The caller
// holds op.
func (e *Entry) growRecord(st stored) error {
	next := e.recPath() + ".new"
	e.j.discard(next)
	old := e.rec
	if err := e.newRecordFile(next, st, true); err != nil {
		return err
	}
	if err := e.j.fs.Rename(next, e.recPath()); err != nil {
		e.rec = old
		e.j.discard(next)
		return err
	}
	// Before this returns nil either file may be found after a crash; both are good.
	failures, err := e.j.dirSync.sync()
	if err != nil {
		return e.failRecord(err)
	}
	e.mu.Lock()
	e.linked = e.linked || failures == e.dirEpoch
	e.mu.Unlock()
	return nil
}
