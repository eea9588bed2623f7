package journal

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// The folder orphans holds what recovery can make no entry of and will not delete: data
// files without a good record, and what was appended to a sealed file and never synced.
// Beside each lies a text that says why. Nothing reads it but people.

func (j *Journal) orphanDir() string { return filepath.Join(j.dir, "orphans") }

// orphan moves the files of an entry there.
func (j *Journal) orphan(id, why string, rec bool) error {
	j.log.Error("journal: kept among the orphans", "id", id, "folder", j.orphanDir(), "why", why)
	to := filepath.Join(j.orphanDir(), id)
	if _, err := j.fs.Stat(to + ".data"); err == nil {
		to = filepath.Join(j.orphanDir(), id+"-"+j.newID())
	}
	j.note(to+".txt", why)
	if rec {
		if err := j.fs.Rename(filepath.Join(j.dir, id+".rec"), to+".rec"); err != nil {
			return err
		}
	}
	err := j.fs.Rename(filepath.Join(j.dir, id+".data"), to+".data")
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	return syncDir(j.fs, j.orphanDir())
}

// note writes down why. A full disk does not keep the journal from opening.
func (j *Journal) note(name, why string) {
	text := fmt.Sprintf("%s %s\n", j.now().UTC().Format(time.RFC3339), why)
	f, err := j.fs.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.WriteAt([]byte(text), 0)
		f.Close()
	}
	if err != nil {
		j.log.Warn("journal: note beside an orphan", "file", name, "err", err)
	}
}

// saveRest keeps what the log has of a content that does not fit its checksum. Mostly it is one
// whose close was cut short by the crash; but it may have rotted.
func (j *Journal) saveRest(r logged) error {
	name := filepath.Join(j.orphanDir(), r.id+"-"+strconv.FormatUint(r.seq, 10))
	why := fmt.Sprintf("content of %q, torn or rotted in the log: its close did not end, or the disk is bad", r.st.Path)
	j.log.Warn("journal: kept among the orphans", "file", name+".data", "why", why)
	f, err := j.fs.OpenFile(name+".data", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		var b []byte
		if b, err = readLeft(r.seg.file, r.at, r.size); err == nil {
			_, err = f.WriteAt(b, 0)
		}
		f.Close()
		j.note(name+".txt", why)
	}
	if isSpace(err) {
		return nil // it must not keep the journal from opening
	}
	return err
}

// saveTail copies n bytes from off durably into a file of its own.
func (j *Journal) saveTail(e *Entry, off, n int64) (err error) {
	from, err := j.fs.OpenFile(e.Path(), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	name := filepath.Join(j.orphanDir(), e.id+"-"+j.newID())
	to, err := j.fs.OpenFile(name+".tail", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer to.Close()
	defer func() {
		if err != nil {
			j.discard(name + ".tail")
		}
	}()
	buf := make([]byte, min(n, 1<<20))
	for done := int64(0); done < n; {
		k, err := from.ReadAt(buf[:min(int64(len(buf)), n-done)], off+done)
		if k == 0 {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if _, err := to.WriteAt(buf[:k], done); err != nil {
			return err
		}
		done += int64(k)
	}
	if err := to.Sync(); err != nil {
		return err
	}
	why := fmt.Sprintf("%d bytes that were appended at %d to %q after its last close, and never synced", n, off, e.st.Path)
	j.log.Warn("journal: kept among the orphans", "file", name+".tail", "why", why)
	j.note(name+".txt", why)
	return syncDir(j.fs, j.orphanDir())
}
