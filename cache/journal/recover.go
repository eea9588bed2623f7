package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	missingData = "data file is missing"
	maxRecord   = 2 * maxSlot // bytes of a record file that are read

	// What was appended to a sealed file and never synced is put among the orphans, if
	// it is not more than this per file and in all. More is sealed anew with the file.
	maxTail    = 64 << 20
	maxAllTail = 256 << 20
)

// found is one entry as a crash left it.
type found struct {
	id         string
	rec, data  bool // there is a record file, a data file
	next       bool // there is the new file of a record that was being replaced
	size       int64
	slot       slot
	recordSize int64
	err        error // of reading the record
}

// recover lists the folder and makes entries of what is in it. It renames,
// truncates what was appended to a sealed file, and removes
// files in which nothing was ever promised.
func (j *Journal) recover() error {
	list, err := j.fs.ReadDir(j.dir)
	if err != nil {
		return err
	}
	byID := map[string]*found{}
	at := func(id string) *found {
		if byID[id] == nil {
			byID[id] = &found{id: id}
		}
		return byID[id]
	}
	for _, in := range list {
		id, kind, _ := strings.Cut(in.Name, ".")
		switch {
		case in.Dir || in.Name == "lock" || strings.HasPrefix(in.Name, "log-"):
		case !isID(id):
			j.log.Warn("journal: not a file of the journal, left alone", "file", in.Name)
		case kind == "rec":
			at(id).rec = true
		case kind == "rec.new":
			at(id).next = true
		case kind == "data":
			at(id).data = true
		default:
			j.log.Warn("journal: not a file of the journal, left alone", "file", in.Name)
		}
	}
	if err := j.readAll(byID); err != nil {
		return err
	}
	tails := int64(maxAllTail)
	for _, f := range byID {
		if err := j.admit(f, &tails); err != nil {
			return fmt.Errorf("recover %s: %w", f.id, err)
		}
	}
	if err := j.sweepIntents(); err != nil {
		return err
	}
	// What a killed process left may be in the page cache only; from here on its names
	// are promised.
	return errors.Join(syncDir(j.fs, j.dir), syncDir(j.fs, j.intentDir()))
}

func isID(s string) bool {
	if len(s) != 24 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// readAll reads the records and sizes, several at a time because a cold disk answers in
// its own time.
func (j *Journal) readAll(byID map[string]*found) error {
	work := make(chan *found)
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for f := range work {
				if err := j.read(f); err != nil && errs[w] == nil {
					errs[w] = err
				}
			}
		})
	}
	for _, f := range byID {
		work <- f
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

// read fills f. Its error is one that says nothing about the files, such as EMFILE; what
// is wrong with the record is in f.err.
func (j *Journal) read(f *found) error {
	rec := filepath.Join(j.dir, f.id+".rec")
	if f.next {
		// Only the rename made it count. Without an older record it is all there is.
		if !f.rec {
			if err := j.fs.Rename(rec+".new", rec); err != nil {
				return err
			}
			f.rec = true
		} else {
			j.discard(rec + ".new")
		}
	}
	if f.data {
		in, err := j.fs.Stat(filepath.Join(j.dir, f.id+".data"))
		if err != nil {
			return err
		}
		f.size = in.Size
	}
	if !f.rec {
		return nil
	}
	b, err := readFile(j.fs, rec, maxRecord)
	switch {
	case errors.Is(err, unix.EIO):
		f.err = fmt.Errorf("%w: %w", ErrDamaged, err)
		return nil
	case err != nil:
		return err
	}
	f.recordSize = int64(len(b))
	f.slot, f.err = parseRecord(b)
	if errors.Is(f.err, ErrVersion) {
		return fmt.Errorf("record %s: %w", f.id, f.err)
	}
	if f.err == nil && f.slot.st.ID != f.id {
		f.err = fmt.Errorf("record is of %q: %w", f.slot.st.ID, ErrDamaged)
	}
	if f.err != nil && allZero(b) {
		f.err = errNeverWritten
	}
	return nil
}

// errNeverWritten is a record file whose first write never reached the disk, so nothing
// was promised.
var errNeverWritten = fmt.Errorf("record was never written: %w", ErrDamaged)

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func readFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(in.Size, limit))
	n, err := f.ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	return b[:n], err
}

// admit makes an entry of f, or puts its files where they belong.
func (j *Journal) admit(f *found, tails *int64) error {
	switch {
	case f.rec && f.err == nil && !f.data:
		return j.admitWithoutData(f)
	case f.rec && f.err == nil:
		e := j.restore(f)
		if err := j.judge(e, f, tails); err != nil {
			return err
		}
		j.entries[f.id] = e
		j.bytes.Add(e.size)
		return nil
	case f.data && f.size > 0:
		why := "data file without a record"
		if f.rec {
			why = f.err.Error()
		}
		return j.orphan(f.id, why, f.rec)
	case f.rec && f.err != errNeverWritten:
		return j.orphan(f.id, f.err.Error(), f.rec)
	}
	// Nothing was ever in it.
	if f.rec {
		j.discard(filepath.Join(j.dir, f.id+".rec"))
	}
	if f.data {
		j.discard(filepath.Join(j.dir, f.id+".data"))
	}
	return nil
}

func (j *Journal) admitWithoutData(f *found) error {
	st := f.slot.st
	switch {
	case st.State == Safe: // the cache took the data and the record was about to go
		j.discard(filepath.Join(j.dir, f.id+".rec"))
		return nil
	case st.Seq == 0 && !st.Synced:
		j.discard(filepath.Join(j.dir, f.id+".rec"))
		return nil
	}
	e := j.restore(f)
	e.damage(&e.st, missingData)
	j.entries[f.id] = e
	return nil
}

// restore is the entry as its record has it.
func (j *Journal) restore(f *found) *Entry {
	e := j.newEntry(f.id)
	e.st = f.slot.st
	e.st.Name = ""
	e.size = f.size
	e.linked, e.unsynced, e.shrunk = true, true, true
	e.rec = recordFile{slot: f.slot.size, seq: f.slot.seq, safe: f.slot.off, unsure: true}
	if f.recordSize != 2*f.slot.size { // not the shape it was made in: written anew next time
		e.rec.slot = 0
	}
	if j.seq.Load() < e.st.Seq {
		j.seq.Store(e.st.Seq)
	}
	return e
}

// judge decides what the entry is now; docs/journal-format.md has the table.
func (j *Journal) judge(e *Entry, f *found, tails *int64) error {
	st := &e.st
	switch {
	case st.SyncError != "":
		e.failed = errors.New(st.SyncError)
		st.Damaged = true
	case st.State.Open() && st.Seq == 0 && !st.Synced:
		st.State = Abandoned
	case st.State.Open() && (st.Synced || st.Touched):
		st.State = Writing
		st.Recovered = true
	default:
		if st.State.Open() { // appended to, and no more: what was sealed still stands
			st.State = Sealed
		}
		switch {
		case f.size < st.Size:
			e.damage(st, fmt.Sprintf("data file has %d bytes, sealed were %d", f.size, st.Size))
		case f.size > st.Size:
			return j.cutTail(e, f, tails)
		}
	}
	return nil
}

// damage marks st, the record of an entry that was found to be bad. What Open finds is found
// again at every Open, so nothing is written then.
func (e *Entry) damage(st *stored, why string) {
	st.Damaged, st.Error = true, why
	e.j.log.Error("journal: unsent file is damaged and will not be uploaded", "id", e.id, "path", string(st.Path), "why", why)
}

// missing says whether the data file is not there.
func (e *Entry) missing() bool {
	_, err := e.j.fs.Stat(e.Path())
	return errors.Is(err, fs.ErrNotExist)
}

// cutTail takes a sealed file back to its sealed size, after what was appended to it and
// never synced was put among the orphans. Where that cannot be done the file keeps it,
// and is sealed anew.
func (j *Journal) cutTail(e *Entry, f *found, tails *int64) error {
	st := &e.st
	n := f.size - st.Size
	err := errTailTooBig
	if n <= maxTail && n <= *tails {
		err = j.saveTail(e, st.Size, n)
	}
	if err == nil {
		*tails -= n
		data, openErr := j.fs.OpenFile(e.Path(), os.O_RDWR, 0)
		if openErr != nil {
			return openErr
		}
		err = data.Truncate(st.Size)
		data.Close()
	}
	if err != nil {
		j.log.Warn("journal: what was appended after the last close stays in the file", "id", e.id, "bytes", n, "why", err)
		st.State, st.Touched, st.Recovered = Writing, true, true
		return nil
	}
	e.size = st.Size
	return nil
}

var errTailTooBig = errors.New("too much to be copied at start")
