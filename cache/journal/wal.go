package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// wal is the log: segments of fixed size in which the records and contents of small
// files become durable by one fdatasync, shared by all who seal at that time, that needs
// no commit of the file system's own log because the blocks are there. A checkpoint makes
// files of what is in a segment, or writes those that are there, and makes them durable at
// once before the segment is used again. Everything works without it.
type wal struct {
	j     *Journal
	size  int64      // of a segment
	most  int        // entries of a segment
	max   int        // segments
	few   int        // see checkpointFew
	group *groupSync // of what was appended, in both segments
	all   *groupSync // of the whole file system

	// released is the last generation that will not be replayed any more.
	released atomic.Uint64

	// What the background is asked for; see walloop.go.
	loop                          sync.Once
	manual                        bool
	every                         time.Duration
	now, later, syncSoon, wanting chan struct{}
	written                       chan struct{}
	quit                          chan struct{}
	running                       sync.WaitGroup
	sealed                        atomic.Int64 // small files, before there was a log

	check sync.Mutex // held by the one checkpoint that runs; taken before Entry.op

	mu   sync.Mutex // guards the rest; never held across I/O; after Entry.op
	gen  uint64     // the last one given
	cur  *segment   // nil: no log
	olds []*segment // full, their checkpoints are to come; the oldest first
	free []*segment // in the order of their generations, which is that of their use
	// broken: a write or sync of the log, or of a checkpoint, has failed. Nothing is
	// appended any more. pinned: it was a checkpoint, so the next Open has to replay.
	broken error
	pinned bool
	dead   []*segment // unlinked, to be closed with the journal
	synced []func()   // to be called after the next sync
}

// segment is one file of the log.
type segment struct {
	name string
	file File
	head segmentHead

	// Guarded by wal.mu.
	off     int64
	entries map[*Entry]struct{} // with a record here
	unsaved bool                // appended to since the last sync began
}

// errNoLog: this must become durable without the log.
var errNoLog = errors.New("no room in the log")

const (
	segmentSize = 32 << 20
	// segmentMost entries a segment, at most; it bounds a checkpoint, and the open files.
	segmentMost, segmentLeast = 4096, 64

	// logAfter is how many small files are sealed without a log before one is made: a
	// journal that sees few does not need it.
	logAfter = 64
	// segmentsMost segments at most; more than two are made when the two do not do.
	segmentsMost = 8
	// logShare: a log is made when the disk has so many times its size free.
	logShare = 20

	// checkpointFew: so many entries are synced one by one, because a sync of the file
	// system waits for whatever else is being written, such as the cache.
	checkpointFew   = 64
	checkpointAfter = 10 * time.Second
)

func segmentName(i int) string { return fmt.Sprintf("log-%d", i) }

func unusedName(segs []*segment) string {
	for i := 0; ; i++ {
		name := segmentName(i)
		if !slices.ContainsFunc(segs, func(s *segment) bool { return s.name == name }) {
			return name
		}
	}
}

// make makes the two segments, durably. It costs one write of their size.
func (w *wal) make() error {
	j, size := w.j, w.size
	if free, err := j.fs.Free(j.dir); err != nil || size <= 0 || free/logShare < 2*size {
		return errors.Join(errNoLog, err)
	}
	segs := make([]*segment, 2)
	for i := range segs {
		s, err := j.makeSegment(segmentName(i), segmentHead{gen: w.nextGen(), salt: newSalt(), size: size})
		if err != nil {
			for _, s := range segs[:i] {
				s.file.Close()
			}
			for k := range i + 1 {
				j.discard(filepath.Join(j.dir, segmentName(k)))
			}
			return err
		}
		segs[i] = s
	}
	if _, err := j.dirSync.sync(); err != nil {
		for _, s := range segs {
			s.file.Close()
			j.discard(filepath.Join(j.dir, s.name))
		}
		return err
	}
	_ = w.all.do() // an error of before is none of a checkpoint to come
	w.use(segs[0], segs[1])
	return nil
}

// grow makes one more segment, durably.
func (w *wal) grow() error {
	w.check.Lock() // so that the free ones stay in the order of their generations
	defer w.check.Unlock()
	segs := w.segments()
	have := int64(len(segs))
	if free, err := w.j.fs.Free(w.j.dir); err != nil || free/logShare < (have+1)*w.size {
		return errors.Join(errNoLog, err)
	}
	s, err := w.j.makeSegment(unusedName(segs), segmentHead{gen: w.nextGen(), salt: newSalt(), size: w.size})
	if err != nil {
		return err
	}
	if _, err := w.j.dirSync.sync(); err != nil {
		s.file.Close()
		w.j.discard(filepath.Join(w.j.dir, s.name))
		return err
	}
	w.mu.Lock()
	w.free = append(w.free, s)
	w.mu.Unlock()
	return nil
}

func (w *wal) nextGen() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gen++
	return w.gen
}

func newSalt() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// use begins to append to a.
func (w *wal) use(a, b *segment) {
	w.mu.Lock()
	w.cur, w.free = a, []*segment{b}
	w.mu.Unlock()
}

func (j *Journal) makeSegment(name string, h segmentHead) (_ *segment, err error) {
	path := filepath.Join(j.dir, name)
	f, err := j.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			j.discard(path)
		}
	}()
	if err := f.Allocate(0, 0, h.size); err != nil && isSpace(err) {
		return nil, err
	}
	// Written once, so that later writes find blocks that need no change of the inode.
	zero := make([]byte, min(h.size, 1<<20))
	for off := int64(0); off < h.size; off += int64(len(zero)) {
		if _, err := f.WriteAt(zero[:min(int64(len(zero)), h.size-off)], off); err != nil {
			return nil, err
		}
	}
	for _, off := range []int64{0, segCopy} {
		if _, err := f.WriteAt(h.encode(), off); err != nil {
			return nil, err
		}
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	return newSegment(name, f, h), nil
}

func newSegment(name string, f File, h segmentHead) *segment {
	return &segment{name: name, file: f, head: h, off: segStart, entries: map[*Entry]struct{}{}}
}

// reset gives the segment a new generation, durably: what is in it will not be replayed.
// The copies are written one after the other, so that one of them is always good.
func (s *segment) reset(h segmentHead) error {
	for _, off := range []int64{0, segCopy} {
		if _, err := s.file.WriteAt(h.encode(), off); err != nil {
			return err
		}
		if err := s.file.DataSync(); err != nil {
			return err
		}
	}
	s.head = h
	return nil
}

// append writes a record of e into the log, where it survives kill -9; sync makes it
// survive a power cut. The caller holds e.op. The error is errNoLog, or the disk's.
func (w *wal) append(e *Entry, b []byte) (*segment, int64, error) {
	kind := logKind(binary.LittleEndian.Uint32(b[12:]))
	w.mu.Lock()
	s, off, err := w.placeLocked(e, kind, int64(len(b)))
	w.mu.Unlock()
	if err != nil {
		return nil, 0, err
	}
	placeLogged(b, s.head, off)
	_, err = s.file.WriteAt(b, off)
	w.mu.Lock()
	s.unsaved = true
	if err != nil {
		w.breakLocked(err)
	}
	w.mu.Unlock()
	if err == nil {
		e.rec.gen = s.head.gen
	}
	return s, off, err
}

// placeLocked finds room for n bytes. Beside it there is always room for the removal of
// every entry of which the log knows: a removal must not wait, nor fail, for want of it.
func (w *wal) placeLocked(e *Entry, kind logKind, n int64) (*segment, int64, error) {
	if w.cur == nil || w.broken != nil {
		return nil, 0, errNoLog
	}
	_, here := w.cur.entries[e]
	fits := w.cur.off+n <= w.cur.head.size && (kind == logGone || here || len(w.cur.entries) < w.most)
	room := w.roomLocked(fits) - n
	if kind != logGone {
		room -= logUnit // e may be a new one
	}
	if !fits && len(w.free) == 0 || room < 0 && kind != logGone {
		w.kick(w.now)
		return nil, 0, errNoLog
	}
	if !fits {
		w.rotateLocked()
	}
	if s := w.cur; s.off+n > s.head.size {
		return nil, 0, errNoLog
	}
	if room < w.size {
		w.moreLocked()
	}
	s, off := w.cur, w.cur.off
	s.off += n
	// A removed entry too: the checkpoint waits until its files are unlinked.
	s.entries[e] = struct{}{}
	if off == segStart {
		w.kick(w.later) // a checkpoint some time from now
	}
	return s, off, nil
}

// roomLocked is what is left for records, in the free segments and, with here, in the one in
// use, beside the removals.
func (w *wal) roomLocked(here bool) (n int64) {
	if here {
		n = w.cur.head.size - w.cur.off
	}
	for _, s := range w.free {
		n += s.head.size - segStart
	}
	n -= int64(len(w.cur.entries)) * logUnit
	for _, s := range w.olds {
		n -= int64(len(s.entries)) * logUnit
	}
	return n
}

// moreLocked asks for room before there is none: for another segment, or for a checkpoint.
func (w *wal) moreLocked() {
	switch have := len(w.olds) + 1 + len(w.free); {
	case have < w.max:
		w.kick(w.wanting)
	case len(w.olds) > 0:
		w.kick(w.now)
	}
}

// rotateLocked takes a free segment into use, if there is one.
func (w *wal) rotateLocked() {
	if len(w.free) > 0 && w.cur.off > segStart {
		w.olds = append(w.olds, w.cur)
		w.cur, w.free = w.free[0], w.free[1:]
		w.cur.off = segStart
	}
}

func (w *wal) breakLocked(err error) {
	if w.broken == nil {
		w.broken = err
		w.j.log.Error("journal: the log has failed and is not used any more", "err", err)
	}
	w.kick(w.now)
}

// sync makes everything durable that was appended before the call. After one that failed
// none succeeds: what that one lost is not written again.
func (w *wal) sync() error {
	failures, err := w.group.sync()
	if err == nil && failures > 0 {
		_, err = w.group.epoch()
	}
	if err != nil {
		w.mu.Lock()
		w.breakLocked(err)
		w.mu.Unlock()
	}
	return err
}

// syncSegments is what group does: the older first.
func (w *wal) syncSegments() error {
	if n, err := w.group.epoch(); n > 0 {
		return err // the kernel tells of lost pages once: another sync would prove nothing
	}
	w.mu.Lock()
	var list []*segment
	for _, s := range w.usedLocked() {
		if s.unsaved {
			s.unsaved = false
			list = append(list, s)
		}
	}
	synced := w.synced
	w.synced = nil
	w.mu.Unlock()
	for _, s := range list {
		if err := s.file.DataSync(); err != nil {
			return fmt.Errorf("sync the log: %w", err)
		}
	}
	for _, f := range synced {
		f()
	}
	return nil
}

// atSync calls f when what was appended until now is durable. It is forgotten when that fails.
func (w *wal) atSync(f func()) {
	w.mu.Lock()
	w.synced = append(w.synced, f)
	w.mu.Unlock()
}

// knows tells whether a replay would find a record of e; the caller holds e.op.
func (w *wal) knows(e *Entry) bool { return e.rec.gen > w.released.Load() }

// holds tells whether a replay would bring back the sealed content; the caller holds e.op.
func (w *wal) holds(e *Entry) bool { return e.rec.contentGen > w.released.Load() }

func (w *wal) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken
}

// segments are those that there are, the older first.
func (w *wal) segments() []*segment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.segmentsLocked()
}

func (w *wal) segmentsLocked() []*segment { return append(w.usedLocked(), w.free...) }

// usedLocked are those with records, the older first.
func (w *wal) usedLocked() []*segment {
	if w.cur == nil {
		return nil
	}
	return append(slices.Clone(w.olds), w.cur)
}
