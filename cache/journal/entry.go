package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Entry is one unsent file. Its methods may be called in parallel.
//
// Locks, in the order in which they are taken: gate, op, mu, hash.mu. gate, op and hash.mu
// are held across I/O on purpose: they are the turns of one file's operations, and no other
// entry and no listing ever waits for them.
type Entry struct {
	j    *Journal
	id   string
	data handle

	// gate: what changes the content holds it shared; Seal, and what changes the size
	// downwards or makes holes, alone, because checksum and size must fit each other.
	gate sync.RWMutex
	// op serialises everything that writes the record; st changes only under op and mu.
	op  sync.Mutex
	rec recordFile // guarded by op

	hash runningHash

	mu       sync.Mutex // guards the rest; never held across I/O
	st       stored
	size     int64
	writes   uint64 // counts changes of the content
	unsynced bool   // the data may have bytes that are not on the disk
	shrunk   bool   // unsynced, and the file on the disk may be longer
	linked   bool   // both names are on the disk
	marked   bool   // st.Touched is on the disk; after a restart that is not known
	dirEpoch int    // failures of the folder's sync when the names were made
	failed   error  // of a sync: sticky
	gone     error  // ErrRemoved
	back     struct {
		from, to int64 // whose way to the disk is to begin
		runs     bool
	}
}

func (j *Journal) newEntry(id string) *Entry {
	e := &Entry{j: j, id: id}
	e.data.name = e.Path()
	e.data.flush = e.flushData
	return e
}

// ID names the entry; it sorts by the time of creation.
func (e *Entry) ID() string { return e.id }

// Path is where the data file is, once there is one: see TakeData and File.
func (e *Entry) Path() string { return filepath.Join(e.j.dir, e.id+".data") }

func (e *Entry) recPath() string { return filepath.Join(e.j.dir, e.id+".rec") }

// Record is a copy of the record as it is now, which may be ahead of what is durable
// when the last update was lazy or appends have begun.
func (e *Entry) Record() Record {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.st.Record.clone()
}

// State is Record().State without the copy.
func (e *Entry) State() State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.st.State
}

func (e *Entry) sealSeq() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.st.Seq
}

// Size is the size of the content as it is now, sealed or not.
func (e *Entry) Size() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.size
}

// Blocks is the space that the data takes on the disk, in blocks of 512 bytes as in
// stat(2); 0 when it cannot be told.
func (e *Entry) Blocks() int64 {
	var in Info
	err := e.withData(func(f File) (err error) {
		in, err = f.Stat()
		return err
	})
	if err != nil {
		return 0
	}
	return in.Blocks
}

// ReadAt reads the content as it is now. Data files are not verified: a Damaged entry can be
// read. A content in the log is; the read that finds it rotten fails with ErrDamaged, and the
// entry is Damaged from then on.
func (e *Entry) ReadAt(p []byte, off int64) (n int, err error) {
	err = e.withData(func(f File) (err error) {
		n, err = f.ReadAt(p, off)
		return err
	})
	if err == io.EOF {
		return n, io.EOF
	}
	if errors.Is(err, errRotten) {
		e.rotted()
	}
	return n, e.wrap("read", err)
}

// SeekData is where the next data at or after off begins, ENXIO when there is none.
func (e *Entry) SeekData(off int64) (int64, error) { return e.seek(off, unix.SEEK_DATA) }

// SeekHole is where the next hole at or after off begins; the end of the file is one.
func (e *Entry) SeekHole(off int64) (int64, error) { return e.seek(off, unix.SEEK_HOLE) }

func (e *Entry) seek(off int64, whence int) (pos int64, err error) {
	err = e.withData(func(f File) (err error) {
		pos, err = f.Seek(off, whence)
		return err
	})
	return pos, e.wrap("seek", err)
}

// File opens the data file for reading: for uploads and for kernel passthrough. The
// caller closes it. Writes must go through the entry, which would not know of others.
func (e *Entry) File() (*os.File, error) {
	if err := e.alive(); err != nil {
		return nil, e.wrap("open", err)
	}
	if err := e.spillNow(); err != nil {
		return nil, e.wrap("open", err)
	}
	f, err := os.Open(e.Path())
	if exhausted(err) {
		e.j.files.shed()
		f, err = os.Open(e.Path())
	}
	return f, e.wrap("open", err)
}

// Idle closes the data file unless it is in use or has unsynced bytes. It is opened again
// when it is needed. The journal does this by itself beyond Options.IdleFiles.
func (e *Entry) Idle() { e.j.files.drop(&e.data) }

func (e *Entry) withData(use func(File) error) error {
	if err := e.alive(); err != nil {
		return err
	}
	f, err := e.j.files.acquire(&e.data, false)
	if err != nil {
		return err
	}
	defer e.j.files.release(&e.data)
	return use(f)
}

// alive is the error of an entry that is no more.
func (e *Entry) alive() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gone
}

// fail makes the error of a sync sticky and gives the one that counts.
func (e *Entry) fail(err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed == nil {
		e.failed = err
	}
	return e.failed
}

func (e *Entry) failure() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.failed
}

func (e *Entry) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s unsent file %s: %w", op, e.id, err)
}

// setSize notes a new size; the caller does not hold mu.
func (e *Entry) setSize(n int64) {
	e.mu.Lock()
	e.j.bytes.Add(n - e.size)
	e.size = n
	e.mu.Unlock()
}
