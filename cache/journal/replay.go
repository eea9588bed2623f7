package journal

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// replayed is what the log has of one entry.
type replayed struct {
	id   string
	gone uint64 // sequence of the removal
	all  []logged
	left logged // the record of an entry whose files found no room; see resume.go
	seq  uint64 // the last one that was used for it
}

// tip is the newest record of a sequence above seq that counts. One whose content is torn
// was not acknowledged, or has rotted since: it counts when the data file has the content.
func (x *replayed) tip(seq uint64, has func(logged) bool) (tip logged, ok bool) {
	for _, r := range x.all {
		if r.seq > max(seq, tip.seq) && (r.kind != logSeal || r.good || has(r)) {
			tip, ok = r, true
		}
	}
	return tip, ok
}

// content is the record that has that of a seal.
func (x *replayed) content(seal uint64) (r logged, ok bool) {
	for _, r := range x.all {
		if r.kind == logSeal && r.st.Seq == seal && r.good {
			return r, true
		}
	}
	return logged{}, false
}

// last is the highest sequence.
func (x *replayed) last() (seq uint64) {
	for _, r := range x.all {
		seq = max(seq, r.seq)
	}
	return seq
}

// loadedSegment is a segment as Open found it.
type loadedSegment struct {
	*segment
	whole  bool // of the size that it should have, and real blocks
	length int64
}

// replay puts into the files what the log has and they have not, makes that durable, and
// empties the log. It runs before anything else looks at the files, and may be cut short at
// any moment: the log is emptied last. When the disk is too full for some files the log
// stays, and unfinished is what it has: see resume.
func (j *Journal) replay() (unfinished map[string]*replayed, err error) {
	segs, err := j.loadLog()
	if err != nil || len(segs) == 0 {
		return nil, err
	}
	keep := false
	defer func() {
		if !keep {
			for _, s := range segs {
				s.file.Close()
			}
		}
	}()
	list := map[string]*replayed{}
	for _, s := range segs {
		// What a killed process left may be in the page cache only, and the record
		// files are about to be written over.
		if err := s.file.DataSync(); err != nil {
			return nil, err
		}
		b, err := readLog(s.file, s.length)
		if err != nil {
			return nil, err
		}
		for r := range allLogged(b, s.head) {
			r.seg = s.segment
			s.off = r.end
			collect(list, r)
		}
		j.wal.gen = max(j.wal.gen, s.head.gen)
	}
	if len(list) > 0 {
		if err := j.replayAll(list); err != nil {
			return nil, err
		}
	} else {
		_ = j.wal.all.do() // an error of before is none of a checkpoint to come
	}
	if n := countLeft(list); n > 0 {
		j.log.Warn("journal: the disk is too full for the files of what is in the log; it stays there until there is room", "files", n)
		j.wal.useAgain(segs)
		keep = true
		return list, nil
	}
	var good []*segment
	for _, s := range segs { // the older first, as everywhere
		if s.whole && s.head.size == j.wal.size && (s.name == segmentName(0) || s.name == segmentName(1)) {
			good = append(good, s.segment)
		}
		if err := s.reset(segmentHead{gen: j.wal.nextGen(), salt: newSalt(), size: s.head.size}); err != nil {
			return nil, err
		}
		s.off = segStart
	}
	j.wal.released.Store(j.wal.gen - uint64(len(segs)))
	keep = len(good) == 2
	for _, s := range segs {
		if keep && slices.Contains(good, s.segment) {
			continue
		}
		j.discard(filepath.Join(j.dir, s.name))
		if keep {
			s.file.Close()
		}
	}
	if keep {
		j.wal.use(good[0], good[1])
	}
	return nil, nil
}

// loadLog reads the segments, the older first.
func (j *Journal) loadLog() (segs []loadedSegment, err error) {
	defer func() {
		if err != nil {
			for _, s := range segs {
				s.file.Close()
			}
		}
	}()
	for i := range 2 * segmentsMost {
		name := segmentName(i)
		f, err := j.fs.OpenFile(filepath.Join(j.dir, name), os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return segs, err
		}
		in, err := f.Stat()
		if err != nil {
			f.Close()
			return segs, err
		}
		b, err := readLog(f, in.Size)
		if err != nil {
			f.Close()
			return segs, err
		}
		head, err := parseSegmentHead(b)
		if errors.Is(err, ErrDamaged) {
			f.Close()
			if err := j.putAside(name, b); err != nil {
				return segs, err
			}
			continue
		}
		if err != nil {
			f.Close()
			return segs, fmt.Errorf("%s: %w", name, err)
		}
		whole := in.Size == head.size && in.Blocks*512 >= head.size
		segs = append(segs, loadedSegment{newSegment(name, f, head), whole, in.Size})
	}
	slices.SortFunc(segs, func(a, b loadedSegment) int { return cmp.Compare(a.head.gen, b.head.gen) })
	return segs, nil
}

// readLog reads a segment; what the disk cannot read is zeros, which no record is.
func readLog(f File, size int64) ([]byte, error) {
	b := make([]byte, min(size, 4*segmentSize))
	for off := 0; off < len(b); off += segCopy {
		p := b[off:min(off+1<<20, len(b))]
		if n, err := f.ReadAt(p, int64(off)); n == len(p) {
			off += len(p) - segCopy
			continue
		} else if !errors.Is(err, unix.EIO) {
			return nil, fmt.Errorf("read %d at %d of the log: %w", len(p), off, err)
		}
		p = p[:min(segCopy, len(p))]
		if n, err := f.ReadAt(p, int64(off)); n < len(p) && errors.Is(err, unix.EIO) {
			clear(p)
		} else if n < len(p) {
			return nil, fmt.Errorf("read %d at %d of the log: %w", len(p), off, err)
		}
	}
	return b, nil
}

// putAside moves a segment that has no good header to the orphans when there may be
// something in it, and removes it otherwise: it was being made.
func (j *Journal) putAside(name string, b []byte) error {
	path := filepath.Join(j.dir, name)
	if !bytes.Contains(b, []byte(logMagic)) {
		j.discard(path)
		return nil
	}
	to := filepath.Join(j.orphanDir(), j.newID())
	j.log.Error("journal: log segment without a good header kept among the orphans", "file", to+".log")
	j.note(to+".txt", "a segment of the log, both headers damaged: files closed shortly before may miss what it had")
	if err := j.fs.Rename(path, to+".log"); err != nil {
		return err
	}
	return syncDir(j.fs, j.orphanDir())
}

func collect(list map[string]*replayed, r logged) {
	x := list[r.id]
	if x == nil {
		x = &replayed{id: r.id}
		list[r.id] = x
	}
	if r.kind == logGone {
		x.gone = max(x.gone, r.seq)
	} else {
		x.all = append(x.all, r)
	}
}

// replayAll applies everything and makes it durable. When the sync fails, the error may be
// one that has nothing to do with it or one of pages that count as clean since: all is
// written once more, and only the second error counts.
func (j *Journal) replayAll(list map[string]*replayed) error {
	for try := range 2 {
		if err := j.applyAll(list, try > 0); err != nil {
			return err
		}
		_, err := j.wal.all.sync()
		if err == nil {
			_, err = j.dirSync.sync()
		}
		if err == nil || try > 0 {
			break
		}
		j.log.Warn("journal: sync after the replay of the log, trying again", "err", err)
		j.wal.all = &groupSync{do: j.wal.all.do}
	}
	_, err := j.wal.all.epoch()
	_, dirErr := j.dirSync.epoch()
	return errors.Join(err, dirErr)
}

func (j *Journal) applyAll(list map[string]*replayed, force bool) error {
	work := make(chan *replayed)
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for x := range work {
				x.left = logged{}
				err := j.apply(x, force)
				if isSpace(err) {
					err = j.leave(x, err)
				}
				if err != nil && errs[w] == nil {
					errs[w] = fmt.Errorf("%s: %w", x.id, err)
				}
			}
		})
	}
	for _, x := range list {
		work <- x
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

// apply brings the files of one entry to what the log has, where that is newer.
func (j *Journal) apply(x *replayed, force bool) error {
	rec, data := filepath.Join(j.dir, x.id+".rec"), filepath.Join(j.dir, x.id+".data")
	have, size, err := j.readReplayed(rec)
	if err != nil {
		return err
	}
	if have.st.ID != x.id {
		have = slot{}
	}
	if x.gone > max(x.last(), have.seq) {
		for _, name := range []string{rec, rec + ".new", data} {
			if err := j.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	st, after := have.st, have.seq
	if force && after > 0 {
		after-- // what is in the file may be there for the eye only
	}
	var hasErr error
	has := func(r logged) bool {
		ok, err := j.hasContent(data, r)
		hasErr = errors.Join(hasErr, err)
		return ok
	}
	tip, newer := x.tip(after, has)
	if hasErr != nil {
		return hasErr
	}
	for _, r := range x.all {
		if r.kind == logSeal && !r.good && r.seq > max(after, tip.seq) && !force {
			if err := j.saveRest(r); err != nil {
				return err
			}
		}
	}
	if newer {
		st = tip.st
		if err := j.writeReplayed(rec, tip, have, size); err != nil {
			return err
		}
	}
	if !bringsContent(st) {
		return nil
	}
	r, ok := x.content(st.Seq)
	if !ok {
		return nil
	}
	content, err := readLeft(r.seg.file, r.at, r.size)
	if err == nil && crc32.Checksum(content, castagnoli) != r.sum {
		err = fmt.Errorf("its content in the log was good a moment ago: %w", ErrDamaged)
	}
	if err != nil {
		return err
	}
	return j.writeContent(data, content, force)
}

// hasContent tells whether the data file has the content of a record that has it no more. If
// so it is made durable: with the record in its file nothing will look for it again.
func (j *Journal) hasContent(data string, r logged) (bool, error) {
	b, err := readFile(j.fs, data, r.st.Size)
	if err != nil || int64(len(b)) != r.st.Size || crc32.Checksum(b, castagnoli) != r.sum {
		return false, nil
	}
	f, err := j.fs.OpenFile(data, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if err := f.DataSync(); err != nil {
		return false, err
	}
	_, err = j.dirSync.sync()
	return err == nil, err
}

// readReplayed reads the record file; no good record is no error.
func (j *Journal) readReplayed(rec string) (have slot, size int64, err error) {
	b, err := readFile(j.fs, rec, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		err = j.fs.Rename(rec+".new", rec) // as recovery does it
		if errors.Is(err, fs.ErrNotExist) {
			return slot{}, 0, nil
		}
		if err == nil {
			b, err = readFile(j.fs, rec, maxRecord)
		}
	}
	if errors.Is(err, unix.EIO) {
		return slot{}, 0, nil
	}
	if err != nil {
		return slot{}, 0, err
	}
	have, err = parseRecord(b)
	if errors.Is(err, ErrVersion) {
		return slot{}, 0, err
	}
	return have, int64(len(b)), nil
}

// writeReplayed writes the record of the log into the record file, beside the one that is
// there if it can: a torn write is repeated by the next replay.
func (j *Journal) writeReplayed(rec string, r logged, have slot, size int64) error {
	payload, err := encodePayload(r.st)
	if err != nil {
		return err
	}
	f, err := j.fs.OpenFile(rec, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if have.size > 0 && size == 2*have.size && slotHeader+len(payload) <= int(have.size) {
		b := make([]byte, have.size)
		putSlot(b, r.seq, payload)
		_, err := f.WriteAt(b, have.size-have.off)
		return err
	}
	n := slotFor(len(payload))
	if size > 2*n {
		if err := f.Truncate(2 * n); err != nil {
			return err
		}
	}
	if err := f.Allocate(0, 0, 2*n); err != nil && isSpace(err) {
		return err
	}
	b := make([]byte, 2*n)
	putSlot(b[:n], r.seq, payload)
	_, err = f.WriteAt(b, 0)
	return err
}

// writeContent makes the data file begin with the content. What was appended to it since
// stays, for recovery to judge.
func (j *Journal) writeContent(data string, content []byte, force bool) error {
	f, err := j.fs.OpenFile(data, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, len(content))
	if n, _ := f.ReadAt(b, 0); !force && n == len(b) && bytes.Equal(b, content) {
		return nil
	}
	if len(content) == 0 {
		return nil
	}
	_, err = f.WriteAt(content, 0)
	return err
}
