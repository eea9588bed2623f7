package journal

import (
	"errors"
	"io"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A new entry is resident: it has no files. Its content is in memory until it is sealed into
// the log, and in the log from then on. Creating its two files is what a small file would
// cost most, and one that is uploaded before the log needs its room back never needs them.
// It gets them by spill: when it grows, when something must become durable that the log does
// not take, when the log needs the room, or when it is long in being written.

const (
	// residentFor is how long unsealed bytes stay in memory only, at least; kill -9 takes
	// them. They are looked at so often.
	residentFor = time.Second
	// residentOpen bounds the bytes of all contents in memory. Beyond it, entries have files
	// from the start.
	residentOpen = 64 << 20
	// residentRoom is what the two files of an entry may need on the disk beside the content.
	// So much is kept free for each entry without files: it will have to get them.
	residentRoom = 16 << 10
)

// memory is the content of a resident entry, in the shape of its file. When there is a file,
// what was begun here goes on there: spill may come at any time.
type memory struct {
	e *Entry

	mu    sync.RWMutex // guards the rest; held for reads of the log
	bytes []byte
	size  int64
	since time.Time // of the first byte that no seal covers; zero: none
	file  File      // where the content is now; nil: here, or in the log
	gone  bool      // nobody will ask for it any more

	// The sealed content as the log has it, unless it has changed since: of seg, at off, with
	// this CRC32C. bytes is dropped when it is durable there.
	seg *segment
	off int64
	sum uint32
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.file != nil {
		return m.file.ReadAt(p, off)
	}
	if m.gone {
		return 0, ErrRemoved
	}
	if off < 0 {
		return 0, unix.EINVAL
	}
	if off >= m.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), m.size-off))
	switch {
	case !m.dropped():
		copy(p[:n], m.bytes[off:])
	case int64(n) == m.size:
		if err := m.fromLog(p[:n]); err != nil {
			return 0, err
		}
	default:
		b := make([]byte, m.size)
		if err := m.fromLog(b); err != nil {
			return 0, err
		}
		copy(p[:n], b[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// shortRead is the error of a read that was short.
func shortRead(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// loadLocked makes the content changeable.
func (m *memory) loadLocked() error {
	if m.gone {
		return ErrRemoved
	}
	if m.since.IsZero() {
		m.since = time.Now()
		m.e.j.grewYoung(m)
	}
	if m.seg == nil {
		return nil
	}
	if m.dropped() {
		b := takeBuffer(int(m.size))
		if err := m.fromLog(b); err != nil {
			giveBuffer(b)
			return err
		}
		m.bytes = b
		m.e.j.resident.Add(m.size)
	}
	m.seg, m.off = nil, 0
	return nil
}

func (m *memory) resizeLocked(n int64) {
	m.e.j.resident.Add(n - m.size)
	if k := len(m.bytes); int(n) > k {
		if int(n) > cap(m.bytes) {
			b := takeBuffer(int(n))
			copy(b, m.bytes)
			giveBuffer(m.bytes)
			m.bytes = b
		}
		m.bytes = m.bytes[:n]
		clear(m.bytes[k:])
	}
	m.bytes, m.size = m.bytes[:n], n
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	if f := m.file; f != nil {
		m.mu.Unlock()
		return f.WriteAt(p, off)
	}
	defer m.mu.Unlock()
	if err := m.loadLocked(); err != nil {
		return 0, err
	}
	if end := off + int64(len(p)); end > m.size {
		m.resizeLocked(end)
	}
	return copy(m.bytes[off:], p), nil
}

func (m *memory) Truncate(n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file != nil {
		return m.file.Truncate(n)
	}
	if err := m.loadLocked(); err != nil {
		return err
	}
	m.resizeLocked(n)
	return nil
}

func (m *memory) Stat() (Info, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.file != nil {
		return m.file.Stat()
	}
	return Info{Size: m.size, Blocks: (m.size + 4095) / 4096 * 8}, nil
}

func (m *memory) Seek(off int64, whence int) (int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	switch {
	case m.file != nil:
		return m.file.Seek(off, whence)
	case off < 0 || off >= m.size:
		return 0, unix.ENXIO
	case whence == unix.SEEK_HOLE:
		return m.size, nil
	}
	return off, nil
}

// errNoFile: an entry gets its files before this is asked of them.
var errNoFile = errors.New("an entry without files is used as if it had them")

// moved does something with the file that has the content now.
func (m *memory) moved(do func(File) error) error {
	m.mu.RLock()
	f := m.file
	m.mu.RUnlock()
	if f == nil {
		return errNoFile
	}
	return do(f)
}

func (m *memory) Sync() error     { return m.moved(File.Sync) }
func (m *memory) DataSync() error { return m.moved(File.DataSync) }
func (m *memory) SyncAll() error  { return m.moved(File.SyncAll) }
func (m *memory) Close() error    { return nil }

func (m *memory) Allocate(mode uint32, off, n int64) error {
	return m.moved(func(f File) error { return f.Allocate(mode, off, n) })
}

func (m *memory) Writeback(off, n int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.file != nil {
		m.file.Writeback(off, n)
	}
}

// logged notes that the log has the content, at off of s, with this CRC32C. Nothing has changed
// it since it was read for that.
func (m *memory) logged(s *segment, off int64, sum uint32) {
	m.mu.Lock()
	m.seg, m.off, m.sum, m.since = s, off, sum, time.Time{}
	m.mu.Unlock()
	m.e.j.grownUp(m)
}

// drop drops the bytes when they are durable at off of s, if they are still those.
func (m *memory) drop(s *segment, off int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seg == s && m.off == off && m.bytes != nil {
		giveBuffer(m.bytes)
		m.bytes = nil
		m.e.j.resident.Add(-m.size)
	}
}

// dropped tells whether only the log has the bytes.
func (m *memory) dropped() bool { return m.bytes == nil && m.seg != nil }

// forget waits for reads of the log, which will be used anew, and ends them.
func (m *memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = true
	m.endLocked()
}

func (m *memory) endLocked() {
	j := m.e.j
	if !m.dropped() {
		j.resident.Add(-m.size)
	}
	giveBuffer(m.bytes)
	m.bytes, m.seg, m.off = nil, nil, 0
	j.without.Add(-1)
	j.grownUp(m)
}

// admitResident tells whether a new entry may do without files: there is a log, room in memory,
// and on the disk for the files that all those without may have to get.
func (j *Journal) admitResident() bool {
	if j.withFiles || j.resident.Load() >= residentOpen || !j.wal.ready() {
		return false
	}
	n := j.without.Load() + 1
	free, err := j.fs.Free(j.dir)
	return err == nil && free >= n*(residentRoom+logContent/4)+2*logContent
}

// createResident makes an entry without files; nil when its id was there.
func (j *Journal) createResident(st stored) *Entry {
	e := j.newEntry(j.newID())
	st.keepOwn(Record{ID: e.id, Created: j.now()})
	e.st = st
	e.hash.h = j.newDigest()
	e.data.mem = &memory{e: e}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.entries[e.id] != nil {
		return nil
	}
	j.entries[e.id] = e
	j.without.Add(1)
	return e
}

// isResident tells whether the entry has no files. Who holds op can rely on it.
func (e *Entry) isResident() bool { return e.j.files.memory(&e.data) != nil }

// fit gives an entry files that is about to reach size bytes, if it is too big to be without.
func (e *Entry) fit(size int64) error {
	if size <= logContent || !e.isResident() {
		return nil
	}
	return e.spillNow()
}

// spillNow is spill for a caller who does not hold op.
func (e *Entry) spillNow() error {
	e.op.Lock()
	defer e.op.Unlock()
	if err := e.enter(); err != nil {
		return err
	}
	defer e.j.files.leave()
	return e.spill()
}

// spill gives a resident entry its files, with nothing synced. When it fails, nothing has
// changed. The caller holds op.
//
// When the content has rotted in the log, the entry becomes Damaged, and its files keep what is
// left. Who finds that hears errRotten, once.
//
// Where the log has the entry, the files may be lost, in any part, until the checkpoint
// syncs them. Where it failed to take it, they are made durable, the content first.
func (e *Entry) spill() (err error) {
	m := e.j.files.memory(&e.data)
	if m == nil {
		return nil
	}
	logged := e.rec.behind
	alone := false
	if e.rec.pend {
		if alone = e.j.wal.sync() != nil; !alone {
			e.rec.pend = false
		}
	}
	epoch, _ := e.j.dirSync.epoch()
	e.mu.Lock()
	e.dirEpoch = epoch
	e.mu.Unlock()
	if e.rec.left {
		e.j.discard(e.recPath())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	content, err := m.remains()
	if m.dropped() {
		defer giveBuffer(content)
	}
	rotten := errors.Is(err, errRotten)
	if err != nil && !rotten {
		return err
	}
	st, old := e.snapshot(), e.rec
	if rotten = rotten && !st.Damaged; rotten {
		e.damage(&st, errRotten.Error())
		e.publish(st) // whatever becomes of the files
	}
	undo := func() {
		seq := e.rec.seq
		e.rec = old
		e.rec.seq = max(seq, old.seq) // the file may be found after all
		if rerr := e.j.fs.Remove(e.recPath()); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			e.rec.left = true
		}
		e.j.discard(e.Path())
	}
	if !alone {
		if err := e.newRecordFile(e.recPath(), st, false); err != nil {
			return err
		}
	}
	f, err := e.writeOut(content)
	if err != nil {
		undo()
		return err
	}
	if alone {
		if err = f.DataSync(); err == nil {
			_, err = e.j.dirSync.sync()
		}
		if err == nil {
			err = e.newRecordFile(e.recPath(), st, true)
		}
		if err != nil {
			f.Close()
			undo()
			return err
		}
		e.rec.contentGen = 0
	} else if logged {
		// The slot is newer than what is durable, which the log has.
		e.rec.safe, e.rec.lazy = e.rec.slot, true
	}
	m.file = f
	m.endLocked()
	e.mu.Lock()
	dirty := e.unsynced
	e.mu.Unlock()
	e.j.files.settled(&e.data, f, dirty)
	if rotten {
		return errRotten
	}
	return nil
}

// writeOut makes the data file.
func (e *Entry) writeOut(b []byte) (File, error) {
	f, err := e.j.files.openRecord(e.Path(), os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, err
	}
	if len(b) > 0 {
		if n, err := f.WriteAt(b, 0); err != nil || n < len(b) {
			f.Close()
			e.j.discard(e.Path())
			return nil, shortRead(err)
		}
	}
	return f, nil
}

// lend makes the data file of a resident entry, durable, for somebody who takes it away; the
// entry stays as it is. A content that has rotted is not lent. The caller holds gate and op.
func (e *Entry) lend(m *memory) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	b, err := m.remains()
	if m.dropped() {
		defer giveBuffer(b)
	}
	if err != nil {
		return err
	}
	f, err := e.writeOut(b)
	if err != nil {
		return err
	}
	if err = f.DataSync(); err != nil {
		e.j.discard(e.Path())
	}
	e.j.files.closeRecord(f)
	return err
}

// spillOld gives files to the entries that have had unsealed bytes in memory only for some
// time, so that kill -9 takes no more of a slow writer. It tells whether there are others.
func (j *Journal) spillOld(age time.Duration) (more bool) {
	j.mu.Lock()
	young := maps.Clone(j.young)
	j.mu.Unlock()
	for m, e := range young {
		m.mu.RLock()
		since := m.since
		m.mu.RUnlock()
		switch {
		case since.IsZero():
		case time.Since(since) < age:
			more = true
		default:
			if err := e.spillNow(); err != nil && !errors.Is(err, ErrRemoved) && !errors.Is(err, ErrClosed) {
				j.log.Warn("journal: a file that is being written stays in memory", "id", e.id, "err", err)
				more = true
			}
		}
	}
	return more
}

// grewYoung notes that m has unsealed bytes, for spillOld. The caller holds m.mu.
func (j *Journal) grewYoung(m *memory) {
	j.mu.Lock()
	j.young[m] = m.e
	j.mu.Unlock()
	j.wal.kick(j.wal.written)
}

func (j *Journal) grownUp(m *memory) {
	j.mu.Lock()
	delete(j.young, m)
	j.mu.Unlock()
}
