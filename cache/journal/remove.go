package journal

import (
	"errors"
	"fmt"
	"os"
)

// Remove forgets the entry and its content: first the record, then the data. For an entry
// that had promised something the removal is durable when it returns nil; after a crash in
// between, the data alone is found among the orphans.
//
// Other calls on the entry end with ErrRemoved. A file that is unlinked while programs
// still have it open is removed when the last of them closes it; until then an Update
// without a Path says that a crash may take it.
func (e *Entry) Remove() error {
	e.gate.Lock()
	defer e.gate.Unlock()
	e.op.Lock()
	defer e.op.Unlock()
	if err := e.enter(); err != nil {
		return e.wrap("remove", err)
	}
	defer e.j.files.leave()
	st := e.snapshot()
	return e.wrap("remove", e.erase(st.Seq > 0 || st.Synced))
}

// enter is alive for operations that do not acquire the data file.
func (e *Entry) enter() error {
	if err := e.alive(); err != nil {
		return err
	}
	return e.j.files.enter()
}

// erase removes record and data; the caller holds gate and op.
func (e *Entry) erase(durable bool) error {
	known := e.j.wal.knows(e)
	logged := known && e.logGone(durable) == nil
	m := e.j.files.memory(&e.data)
	files := m == nil || e.rec.left
	if !files {
	} else if err := e.j.fs.Remove(e.recPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		if known {
			err = errors.Join(err, e.revive())
		}
		return err
	}
	e.mu.Lock()
	e.gone = ErrRemoved
	size := e.size
	e.mu.Unlock()
	e.j.mu.Lock()
	delete(e.j.entries, e.id)
	e.j.bytes.Add(-size)
	e.j.mu.Unlock()
	e.j.files.forget(&e.data)
	if m != nil {
		m.forget()
	}
	if durable && !logged && files {
		// Before the data: a record that came back without it would be an alarm.
		if _, err := e.j.dirSync.sync(); err != nil {
			return err
		}
	}
	if !files {
	} else if err := e.j.fs.Remove(e.Path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if durable && !logged && e.j.wal.knows(e) {
		return fmt.Errorf("it may come back with the next start: %w", errors.Join(errNoLog, e.j.wal.failed()))
	}
	return nil
}

// TakeData hands the data file of a SAFE entry over, to the cache: adopt may rename it
// away, and nothing is written to it any more. When adopt returns nil the entry is gone;
// when it fails the entry stays as it was, and so must the file. Meanwhile the entry can be
// read, and what would change it waits; adopt must not call that.
//
// A crash at any moment leaves either the entry with its file, or the file where adopt
// put it: a SAFE record without data is dropped silently by Open.
func (e *Entry) TakeData(adopt func(path string) error) error {
	e.gate.Lock()
	defer e.gate.Unlock()
	e.op.Lock()
	defer e.op.Unlock()
	if err := e.enter(); err != nil {
		return e.wrap("take", err)
	}
	defer e.j.files.leave()
	if st := e.snapshot(); st.State != Safe || st.Damaged {
		return e.wrap("take", fmt.Errorf("it is %s: %w", st.State, ErrNotSafe))
	}
	// What the log holds may not be in the data file yet.
	m := e.j.files.memory(&e.data)
	if m != nil {
		if err := e.lend(m); err != nil {
			return e.wrap("take", err)
		}
		defer func() {
			if e.isResident() { // else it has become the entry's own
				e.j.discard(e.Path()) // unless adopt has it
			}
		}()
	} else if err := e.withData(e.persistData); err != nil {
		return e.wrap("take", err)
	}
	// A lazy SAFE could be lost while the rename is not.
	if err := e.syncRecord(); err != nil {
		return e.wrap("take", err)
	}
	if err := adopt(e.Path()); err != nil {
		return e.wrap("take", err)
	}
	return e.wrap("take", e.erase(false))
}
