package journal

import (
	"fmt"
	"hash/crc32"
)

// logRecord makes st the record of the entry by way of the log, with its content when kind is
// logSeal. The record file follows at the checkpoint or with the next write of it. The
// caller holds op. After an error the record is what it was, and the way without the log
// is open: what that writes counts more than anything the log may have kept.
func (e *Entry) logRecord(kind logKind, st stored, content []byte, durable bool) error {
	if err := e.failure(); err != nil {
		return err
	}
	if e.rec.failed != nil {
		return e.rec.failed
	}
	if kind == logState {
		// Of two records that are synced together the later alone may survive, and this
		// one stands for a content that it does not have.
		if err := e.unpend(); err != nil {
			return err
		}
	}
	payload, err := encodePayload(st)
	if err != nil {
		return err
	}
	m := e.j.files.memory(&e.data)
	if m == nil && slotHeader+len(payload) > int(e.rec.slot) || len(payload) > logContent {
		return errNoLog // the checkpoint must not need space, of which Create has taken care
	}
	b := encodeLogged(kind, e.id, e.rec.seq+1, payload, content)
	s, off, err := e.j.wal.append(e, b)
	giveBuffer(b)
	if err == errNoLog {
		return err
	}
	e.rec.seq++
	if err != nil {
		return err
	}
	if durable {
		if err := e.j.wal.sync(); err != nil {
			return err
		}
	} else {
		e.j.wal.kick(e.j.wal.syncSoon)
	}
	e.rec.behind, e.rec.pend = true, !durable
	if kind == logSeal {
		e.rec.contentGen = e.rec.gen
	}
	if m != nil && kind == logSeal {
		off += logHead + int64(len(payload))
		m.logged(s, off, crc32.Checksum(content, castagnoli))
		drop := func() { m.drop(s, off) }
		if durable {
			drop()
		} else {
			e.j.wal.atSync(drop)
		}
	}
	return nil
}

// logGone notes in the log that the entry is removed, so that no replay brings it back.
func (e *Entry) logGone(durable bool) error {
	b := encodeLogged(logGone, e.id, e.rec.seq+1, nil, nil)
	_, _, err := e.j.wal.append(e, b)
	giveBuffer(b)
	if err == errNoLog {
		return err
	}
	e.rec.seq++
	if err == nil && durable {
		err = e.j.wal.sync()
	}
	return err
}

// revive takes back what logGone noted: a record in the file that is newer than the removal.
func (e *Entry) revive() error {
	if err := e.writeRecord(e.snapshot(), true); err != nil {
		return err
	}
	return e.syncRecord() // the names
}

// Lazy tells whether SealLazy took the content without waiting for the disk, and no Sync,
// Seal, Update or checkpoint has come since. The sync of the interval is not noticed.
func (e *Entry) Lazy() bool {
	e.op.Lock()
	defer e.op.Unlock()
	return e.rec.pend
}

// hasShrunk tells whether a crash may leave the file longer than it is. A replay could not
// tell what is beyond the content from what was appended later, so the log does not take it.
func (e *Entry) hasShrunk() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.shrunk
}

// covered tells whether the entry is sealed and a replay would bring it back as it is, once
// syncRecord has returned. The caller holds op.
func (e *Entry) covered() bool {
	return e.j.wal.holds(e) && !e.State().Open() && e.failure() == nil
}

// unpend makes a record durable that SealLazy has put into the log, or else the content
// itself: only then another record may say the same. The caller holds op.
func (e *Entry) unpend() error {
	if !e.rec.pend {
		return nil
	}
	if err := e.j.wal.sync(); err != nil {
		err := e.withData(func(f File) error { return e.persist(f, nil) })
		if err != nil {
			return fmt.Errorf("after the log has failed: %w", err)
		}
		e.rec.contentGen = 0
		// The log does not count as the place of the record either.
		e.rec.behind, e.rec.pend = false, false
		return e.writeRecord(e.snapshot(), true)
	}
	e.rec.pend = false
	return nil
}
