package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// noted is an entry as the checkpoint has seen it before its sync.
type noted struct {
	e      *Entry
	seq    uint64 // of the record
	writes uint64
}

// checkpoint makes the files durable of all entries of the oldest full segment, or of the one in
// use when none is full, by one sync of the file system, and frees the segment. When the log
// is broken it does so with all segments and ends the log.
//
// An error of something that may succeed another time leaves all as it is. One of a sync
// does not: the segments are kept as they are for the next Open, and the entries in them
// take no more Sync or Seal.
func (w *wal) checkpoint() error {
	w.check.Lock()
	defer w.check.Unlock()
	segs, broken := w.due()
	if len(segs) == 0 {
		return nil
	}
	if !broken {
		if err := w.sync(); err != nil {
			segs, broken = w.due() // of all
		}
	}
	list, final, err := w.prepare(segs)
	// Want of space or descriptors passes; it comes again with the next checkpoint.
	final = final || err != nil && broken && !isSpace(err) && !exhausted(err)
	if err == nil {
		final, err = w.syncFiles(list)
	}
	if final {
		w.pin(err)
		err = fmt.Errorf("the log is kept for the next start: %w", err)
	}
	if err != nil {
		return err
	}
	if broken {
		return w.end(segs)
	}
	s := segs[0]
	was := s.head.gen
	if err := s.reset(segmentHead{gen: w.nextGen(), salt: newSalt(), size: s.head.size}); err != nil {
		w.mu.Lock()
		w.breakLocked(err)
		w.mu.Unlock()
		return err
	}
	w.mu.Lock()
	clear(s.entries)
	s.off = segStart
	w.olds, w.free = w.olds[1:], append(w.free, s)
	w.released.Store(was)
	w.mu.Unlock()
	return nil
}

// due gives the segments to be made superfluous, the older first.
func (w *wal) due() (segs []*segment, broken bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cur == nil || w.pinned {
		return nil, false
	}
	if w.broken != nil {
		return w.usedLocked(), true
	}
	if len(w.olds) == 0 {
		w.rotateLocked()
	}
	if len(w.olds) > 0 {
		segs = append(segs, w.olds[0])
	}
	return segs, false
}

// prepare writes the record files that are behind the log. When it has had an entry's op,
// whatever appended to the segment for that entry has also come to its end.
// An error is final when the data file of an entry is not to be trusted.
func (w *wal) prepare(segs []*segment) (list []noted, final bool, err error) {
	var errs []error
	done := map[*Entry]bool{}
	for _, s := range segs {
		w.mu.Lock()
		entries := make([]*Entry, 0, len(s.entries))
		for e := range s.entries {
			entries = append(entries, e)
		}
		w.mu.Unlock()
		for _, e := range entries {
			if done[e] {
				continue
			}
			done[e] = true
			n, ok, err := e.prepareCheckpoint(segs[len(segs)-1].head.gen)
			if err != nil {
				final = final || e.failure() != nil
				errs = append(errs, fmt.Errorf("record of %s: %w", e.id, err))
			}
			if ok {
				list = append(list, n)
			}
		}
	}
	return list, final, errors.Join(errs...)
}

// prepareCheckpoint brings the files of an entry to what the log has, up to a generation.
func (e *Entry) prepareCheckpoint(upto uint64) (n noted, ok bool, err error) {
	e.op.Lock()
	defer e.op.Unlock()
	if e.alive() != nil {
		return noted{}, false, nil
	}
	if err := e.failure(); err != nil && e.j.wal.holds(e) {
		return noted{}, false, err
	}
	if err := e.unpend(); err != nil {
		return noted{}, false, err
	}
	resident := e.isResident()
	switch {
	case resident && e.rec.contentGen > upto:
		return noted{}, false, nil // what is newer has all of it
	case resident:
		if err := e.spill(); err != nil && !errors.Is(err, errRotten) {
			return noted{}, false, err
		}
	case e.rec.behind:
		if err := e.writeRecord(e.snapshot(), false); err != nil {
			return noted{}, false, err
		}
	}
	e.mu.Lock()
	n = noted{e, e.rec.seq, e.writes}
	e.mu.Unlock()
	return n, true, nil
}

// syncFiles makes the files and the names durable, and takes note of it. An error that is
// final is of a sync.
func (w *wal) syncFiles(list []noted) (final bool, err error) {
	if len(list) <= w.few {
		for _, n := range list {
			if final, err := n.e.syncFiles(); err != nil {
				return final, err
			}
		}
	} else {
		failures, err := w.all.sync()
		if err == nil && failures > 0 {
			_, err = w.all.epoch()
		}
		if err != nil {
			return true, err
		}
	}
	// Also for the entries that are gone; after a syncfs it costs little, and an error of the
	// folder may be known here only.
	failures, err := w.j.dirSync.sync()
	if err != nil {
		return true, err
	}
	for _, n := range list {
		if err := n.e.finishCheckpoint(n, failures); err != nil {
			return true, err
		}
	}
	return false, nil
}

// syncFiles makes the files of one entry durable.
func (e *Entry) syncFiles() (final bool, err error) {
	e.op.Lock()
	defer e.op.Unlock()
	if e.alive() != nil {
		return false, nil
	}
	err = e.withData(func(f File) error { return e.persist(f, nil) })
	if err == nil { // also of a record that is behind: what it is behind of may not be durable
		err = e.syncRecord()
	}
	return err != nil && (e.failure() != nil || e.rec.failed != nil), err
}

// finishCheckpoint notes what the sync has made durable of what n had seen.
func (e *Entry) finishCheckpoint(n noted, failures int) error {
	// With gate no write is between the file and its marks; when there is one, the marks
	// stay, and the file is synced once more another time.
	if e.gate.TryLock() {
		defer e.gate.Unlock()
		e.mu.Lock()
		same := e.writes == n.writes
		if same {
			e.unsynced, e.shrunk = false, false
		}
		e.mu.Unlock()
		if same {
			e.j.files.saved(&e.data)
		}
	}
	e.op.Lock()
	defer e.op.Unlock()
	e.mu.Lock()
	gone := e.gone != nil
	if !gone && !e.linked && e.dirEpoch == failures {
		e.linked = true
	}
	linked := e.linked
	e.mu.Unlock()
	switch {
	case gone:
		return nil
	case !linked:
		_, last := e.j.dirSync.epoch()
		return fmt.Errorf("an earlier sync of the folder: %w", last)
	case e.rec.seq == n.seq && e.rec.lazy:
		e.rec.safe, e.rec.lazy, e.rec.unsure = e.rec.slot-e.rec.safe, false, false
	case e.rec.lazy: // written over meanwhile, or behind a record that may not be durable
		return e.syncRecord()
	}
	return nil
}

// pin keeps the log as it is for the next Open. Of the data files nothing is known any more.
func (w *wal) pin(err error) {
	w.mu.Lock()
	w.breakLocked(err)
	w.pinned = true
	var entries []*Entry
	for _, s := range w.usedLocked() {
		for e := range s.entries {
			entries = append(entries, e)
		}
	}
	w.mu.Unlock()
	for _, e := range entries {
		_ = e.fail(err)
	}
}

// end removes the segments. The older goes first: what it says must not be found without
// what the newer says.
func (w *wal) end(segs []*segment) error {
	for _, s := range segs {
		// Gone already when the sync after it has failed before.
		if err := w.j.fs.Remove(filepath.Join(w.j.dir, s.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if _, err := w.j.dirSync.sync(); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.free {
		segs = append(segs, s)
		w.j.discard(filepath.Join(w.j.dir, s.name))
	}
	w.released.Store(w.gen)
	w.dead = segs
	w.cur, w.olds, w.free = nil, nil, nil
	return nil
}
