package journal

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Sync makes the content that was written before the call, and the record, durable. After
// a crash the entry is there with at least these bytes (or what was written later). An
// error of a sync is sticky: the kernel reports a lost page once, so a second try that
// succeeds would prove nothing. Every later Sync and Seal of the entry fails with it.
//
// It costs fdatasync of the data; the first time since the creation or a Seal also a
// write and fdatasync of the record and, once per entry, fsync of the folder.
func (e *Entry) Sync() error {
	e.op.Lock()
	defer e.op.Unlock()
	return e.wrap("sync", e.withData(func(f File) error {
		if e.covered() {
			return e.syncRecord()
		}
		if err := e.persist(f, nil); err != nil {
			return err
		}
		st := e.snapshot()
		if st.State.Open() && !st.Synced {
			st.Synced, st.SyncedSize = true, e.Size()
			if err := e.writeRecord(st, true); err != nil {
				return err
			}
			e.publish(st)
			return nil
		}
		return e.syncRecord()
	}))
}

// Seal makes the content durable and final: flushed, checksummed, and recorded as SEALED
// with a new Seq. When it returns nil, close(2) may: the file survives a power cut with
// exactly these bytes. A sealed entry that has not changed since is left as it is.
//
// Of a big file that was written fast only the quick checksums are computed; Verify adds
// the others (Record.SumsLate).
//
// More writes may follow, and then another Seal. Writes that come during a Seal wait for
// its end. An entry whose content is damaged is not sealed: ErrDamaged.
//
// A small file becomes durable in the log, with its content: one fdatasync that all share
// who seal at that time.
func (e *Entry) Seal() (Record, error) { return e.sealAs(false) }

// SealLazy is Seal without waiting for the disk: kill -9 loses nothing, and a power cut
// may lose what was written since the last Seal or Sync, until Options.SyncEvery has
// passed or a Sync, Seal or Update of the entry returned. Where the log cannot take the
// file it is Seal.
func (e *Entry) SealLazy() (Record, error) { return e.sealAs(true) }

func (e *Entry) sealAs(lazy bool) (Record, error) {
	e.gate.Lock()
	defer e.gate.Unlock()
	e.op.Lock()
	defer e.op.Unlock()
	var sealed Record
	err := e.withData(func(f File) (err error) {
		sealed, err = e.seal(f, lazy)
		return err
	})
	return sealed, e.wrap("seal", err)
}

// seal is Seal for a caller who holds gate and op.
func (e *Entry) seal(f File, lazy bool) (Record, error) {
	if err := e.failure(); err != nil {
		return Record{}, err
	}
	st := e.snapshot()
	if st.Damaged {
		return Record{}, fmt.Errorf("%w: %s", ErrDamaged, st.Error)
	}
	if !st.State.Open() && e.covered() {
		if lazy && e.rec.behind {
			return st.Record, nil
		}
		return st.Record, e.syncRecord()
	}
	if !st.State.Open() {
		if err := e.persist(f, nil); err != nil {
			return Record{}, err
		}
		return st.Record, e.syncRecord()
	}
	in, err := f.Stat()
	if err != nil {
		return Record{}, err
	}
	if in.Size != e.Size() { // somebody wrote past the entry: trust nothing hashed so far
		e.hash.changed(-1)
		e.setSize(in.Size)
	}
	var sums map[string]string
	late := false
	hash := func() (err error) {
		sums, late, err = e.finishHash(f, in.Size)
		return err
	}
	finish := func() {
		if st.State == Abandoned {
			st.Recovered = true
		}
		st.State, st.Size, st.Sums = Sealed, in.Size, sums
		st.SumsLate = late
		st.Sealed, st.Seq = e.j.now(), e.j.seq.Add(1)
		st.Synced, st.SyncedSize, st.Touched = false, 0, false
	}
	done := func() (Record, error) {
		e.mu.Lock()
		e.st, e.marked = st, false
		e.mu.Unlock()
		return st.Record.clone(), nil
	}
	if in.Size <= logContent && (e.isResident() || !e.hasShrunk()) && e.j.wal.wanted() {
		if err := hash(); err != nil {
			return Record{}, err
		}
		content := takeBuffer(int(in.Size))
		defer giveBuffer(content)
		if n, err := f.ReadAt(content, 0); n < len(content) {
			return Record{}, err
		}
		open := st
		finish()
		if e.logRecord(logSeal, st, content, !lazy) == nil {
			return done()
		}
		st = open
	}
	if err := e.persist(f, hash); err != nil {
		return Record{}, err
	}
	finish()
	if err := e.writeRecord(st, true); err != nil {
		return Record{}, err
	}
	e.rec.contentGen = 0 // what the log has is older
	return done()
}

// persist makes data and names durable, and does also beside it. The caller holds op.
func (e *Entry) persist(f File, also func() error) error {
	if err := e.spill(); err != nil {
		return err
	}
	e.mu.Lock()
	failed, unsynced, linked, writes := e.failed, e.unsynced, e.linked, e.writes
	e.mu.Unlock()
	if failed != nil {
		return failed
	}
	var data, names func() error
	if unsynced {
		data = func() error {
			e.j.files.setDirty(&e.data, false)
			return e.syncData(f, writes)
		}
	}
	if !linked {
		names = e.syncNames
	}
	errs := together(data, names, also)
	if errs[0] != nil && !e.j.wal.holds(e) { // else the log brings the content back
		e.condemn(errs[0])
	}
	return errors.Join(e.failure(), errs[2])
}

// together runs the calls side by side, the last on this goroutine, and waits for all.
func together(calls ...func() error) []error {
	errs := make([]error, len(calls))
	var wg sync.WaitGroup
	left := 0
	for _, call := range calls {
		if call != nil {
			left++
		}
	}
	for i, call := range calls {
		if call == nil {
			continue
		}
		if left--; left == 0 {
			errs[i] = call()
			break
		}
		wg.Go(func() { errs[i] = call() })
	}
	wg.Wait()
	return errs
}

// syncData makes what was written before the given count durable. Its error is sticky.
func (e *Entry) syncData(f File, writes uint64) error {
	if err := f.DataSync(); err != nil {
		return e.fail(err)
	}
	e.mu.Lock()
	if e.writes == writes {
		e.unsynced, e.shrunk = false, false
	}
	e.mu.Unlock()
	return nil
}

// persistData makes the data durable, for a caller who does not need the names. The caller
// holds op.
func (e *Entry) persistData(f File) error {
	e.mu.Lock()
	unsynced, writes := e.unsynced, e.writes
	e.mu.Unlock()
	if !unsynced || !e.j.wal.holds(e) {
		return nil
	}
	e.j.files.setDirty(&e.data, false)
	return e.syncData(f, writes)
}

// flushData is syncData for a data file that is about to be closed because too many are
// open. Its error waits for the next Sync or Seal.
func (e *Entry) flushData(f File) {
	e.mu.Lock()
	writes := e.writes
	e.mu.Unlock()
	_ = e.syncData(f, writes)
}

// condemn makes a failed sync of the data sticky also across a restart, as far as the
// disk lets it. The caller holds op.
func (e *Entry) condemn(err error) {
	st := e.snapshot()
	if st.SyncError != "" {
		return
	}
	st.SyncError = err.Error()
	st.Error = "sync: " + err.Error()
	if err := e.writeRecord(st, true); err != nil {
		e.j.log.Error("journal: record of a failed sync", "id", e.id, "err", err)
	}
	e.publish(st)
}

// syncNames makes the names of both files durable.
func (e *Entry) syncNames() error {
	failures, err := e.j.dirSync.sync()
	if err != nil {
		return e.fail(err)
	}
	if failures != e.dirEpoch {
		_, last := e.j.dirSync.epoch()
		return e.fail(fmt.Errorf("an earlier sync of the folder: %w", last))
	}
	e.mu.Lock()
	e.linked = true
	e.mu.Unlock()
	return nil
}

// Verify is what an uploader calls before each upload: it reads the content and compares
// it with what was sealed. An entry that recovery found to be sealed anew is sealed.
//
// The error is ErrDamaged when the content is not what was sealed; the record then says
// Damaged and why, the file is kept, and a later Verify that finds the content good again
// clears it. It is ErrWriting while the entry is being written, also when a write came
// during the Verify. Other errors are those of the disk and say nothing of the content.
func (e *Entry) Verify() error {
	if err := e.alive(); err != nil {
		return e.wrap("verify", err)
	}
	st, writes := e.versioned()
	if st.State == Writing && st.Recovered && writes == 0 {
		r, err := e.Seal() // its sums are of what has just been read
		if err != nil || !r.SumsLate {
			return err
		}
		st, writes = e.versioned()
	}
	if st.State.Open() && st.Damaged {
		return e.wrap("verify", fmt.Errorf("%w: %s", ErrDamaged, st.Error))
	}
	if st.State.Open() {
		return e.wrap("verify", ErrWriting)
	}
	if err := e.failure(); err != nil {
		return e.wrap("verify", err)
	}
	sums, bad, err := e.compare(st)
	if err != nil {
		return e.wrap("verify", err)
	}

	e.op.Lock()
	defer e.op.Unlock()
	if err := e.alive(); err != nil {
		return e.wrap("verify", err)
	}
	now, nowWrites := e.versioned()
	if nowWrites != writes || now.Seq != st.Seq || now.State.Open() {
		return e.wrap("verify", ErrWriting)
	}
	if bad == "" && now.SumsLate { // of what agrees with the quick ones
		now.Sums, now.SumsLate = sums, false
		delete(now.Sums, ownSum)
		if now.Damaged {
			now.Damaged, now.Error = false, ""
		}
		if err := e.writeRecord(now, true); err != nil {
			return e.wrap("verify", err)
		}
		e.publish(now)
		return nil
	}
	if bad == "" && !now.Damaged {
		return nil
	}
	if now.Damaged != (bad != "") || now.Error != bad {
		now.Damaged, now.Error = bad != "", bad
		if bad != "" {
			e.j.log.Error("journal: unsent file is damaged and will not be uploaded", "id", e.id, "path", string(now.Path), "why", bad)
		}
		if err := e.writeRecord(now, true); err != nil && bad == "" {
			return e.wrap("verify", err)
		}
		e.publish(now) // also when the disk does not take it: it must not be uploaded
	}
	if bad != "" {
		return e.wrap("verify", fmt.Errorf("%w: %s", ErrDamaged, bad))
	}
	return nil
}

// versioned is a copy of the state and the count of changes that it belongs to.
func (e *Entry) versioned() (stored, uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.st.clone(), e.writes
}

// compare gives the checksums of the content as it is, and tells in words what is wrong
// with it, "" when nothing is.
func (e *Entry) compare(st stored) (sums map[string]string, bad string, err error) {
	err = e.withData(func(f File) error {
		in, err := f.Stat()
		if err != nil {
			return err
		}
		if in.Size != st.Size {
			bad = fmt.Sprintf("data file has %d bytes, sealed were %d", in.Size, st.Size)
			return nil
		}
		sums, err = e.j.allSums(f, st)
		return err
	})
	switch {
	case errors.Is(err, errRotten):
		return nil, errRotten.Error(), nil
	case errors.Is(err, unix.EIO) && !e.isResident() && e.missing():
		return nil, missingData, nil
	case err != nil || bad != "":
		return nil, bad, err
	}
	compared := 0
	for _, alg := range slices.Sorted(maps.Keys(st.Sums)) {
		want := st.Sums[alg]
		got, ok := sums[alg]
		if ok && got != want {
			return nil, fmt.Sprintf("%s of the content is %s, sealed was %s", alg, got, want), nil
		}
		if ok {
			compared++
		}
	}
	if compared == 0 {
		return nil, "no checksum of the record can be computed here", nil
	}
	return sums, "", nil
}
