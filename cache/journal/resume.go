package journal

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
)

// Open after a crash, on a disk that is too full for the files of what the log has: those that
// find no room go on as residents, and the log goes on as it is, until a later checkpoint
// finds room.

// leave lets an entry do without its files, which found no room: why. What was made of them goes.
// That is only done when the log has all of it, or else nothing is changed and why is the error.
func (j *Journal) leave(x *replayed, why error) error {
	rec := filepath.Join(j.dir, x.id+".rec")
	data := filepath.Join(j.dir, x.id+".data")
	tip, ok := x.tip(0, func(logged) bool { return false })
	if !ok || x.last() > tip.seq || !bringsContent(tip.st) {
		return why
	}
	if _, ok := x.content(tip.st.Seq); !ok {
		return why
	}
	have, _, err := j.readReplayed(rec)
	if err != nil {
		return err
	}
	if have.seq >= tip.seq && !sameRecord(have.st, tip.st) {
		return why
	}
	if in, err := j.fs.Stat(data); err == nil && in.Size > tip.st.Size || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return why // something was appended
	}
	for _, name := range []string{data, rec + ".new", rec} {
		if err := j.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	x.left, x.seq = tip, max(tip.seq, have.seq)
	return nil
}

// bringsContent tells whether a replay brings the content of a record back. Touched and Synced
// say that the data file has been changed since, and is durable.
func bringsContent(st stored) bool {
	return st.ID != "" && !st.Touched && !st.Synced && st.SyncError == "" && !st.Damaged
}

func sameRecord(a, b stored) bool {
	x, errX := encodePayload(a)
	y, errY := encodePayload(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func countLeft(list map[string]*replayed) (n int) {
	for _, x := range list {
		if x.left.id != "" {
			n++
		}
	}
	return n
}

// useAgain goes on with the segments of before, the older first, behind what is in them.
func (w *wal) useAgain(segs []loadedSegment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cur := len(segs) - 1
	for cur > 0 && segs[cur].off == segStart {
		cur--
	}
	for i, s := range segs {
		switch {
		case i < cur:
			w.olds = append(w.olds, s.segment)
		case i > cur:
			w.free = append(w.free, s.segment)
		}
	}
	w.cur = segs[cur].segment
	if len(segs) == 1 { // it can only come to an end
		w.broken = errors.New("a segment is missing")
	}
}

// resume makes entries of what found no room, and notes in all which the log knows that it does.
func (j *Journal) resume(list map[string]*replayed) {
	for _, x := range list {
		e := j.entries[x.id]
		if x.left.id != "" {
			e = j.residentAgain(x)
		}
		if e == nil { // removed, or an orphan
			continue
		}
		for _, r := range x.all {
			r.seg.entries[e] = struct{}{}
			e.rec.gen = max(e.rec.gen, r.seg.head.gen)
		}
	}
	j.wal.kick(j.wal.now)
}

func (j *Journal) residentAgain(x *replayed) *Entry {
	r, _ := x.content(x.left.st.Seq)
	e := j.newEntry(x.id)
	e.st = x.left.st
	e.st.Name = ""
	e.size, e.unsynced = r.size, true
	e.rec = recordFile{seq: x.seq, behind: true, contentGen: r.seg.head.gen}
	e.data.mem = &memory{e: e, size: r.size, seg: r.seg, off: r.at, sum: r.sum}
	j.seq.Store(max(j.seq.Load(), e.st.Seq))
	j.without.Add(1)
	j.bytes.Add(e.size)
	j.entries[e.id] = e
	return e
}
