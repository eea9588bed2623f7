package journal

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Hasher computes the checksums of a stream. Sums may be asked for in between; writing
// goes on after it.
type Hasher interface {
	io.Writer
	Sums() map[string]string
}

// Options say where the journal lives. Dir and NewHash are needed.
type Options struct {
	Dir     string                      // made 0700
	NewHash func(algs ...string) Hasher // one Hasher per entry
	Algs    []string                    // what Seal computes; handed to NewHash
	Log     *slog.Logger                // slog.Default when nil
	Now     func() time.Time            // time.Now when nil
	FS      FS                          // the operating system's when nil

	// IdleFiles is how many data files with nothing unsynced stay open between uses,
	// 512 when 0; DirtyFiles how many with unsynced bytes, half of the process's
	// limit of descriptors when 0. One more of those is synced and closed.
	IdleFiles, DirtyFiles int

	// AllSums lets Seal compute all checksums of every file, for callers whose close waits
	// for what comes after it anyway.
	AllSums bool

	// SyncEvery is how long what SealLazy took may stay unsynced, a second when 0.
	SyncEvery time.Duration

	late        int64         // lateFrom when 0
	lateTime    time.Duration // the same
	withFiles   bool          // for tests: entries have files from the start
	logSegments int           // at most; segmentsMost when 0
	logSize     int64         // of a segment; segmentSize when 0
	manualLog   bool          // for tests: the log is there from the start, checkpoints are called
}

// Journal is an open journal. Its methods may be called in parallel.
type Journal struct {
	dir      string
	fs       FS
	newHash  func(algs ...string) Hasher
	algs     []string
	late     int64         // lateFrom, but for tests
	lateTime time.Duration // the same
	log      *slog.Logger
	now      func() time.Time
	files    *descriptors
	closers  []io.Closer // the lock first
	dirSync  *groupSync  // of dir
	noteSync *groupSync  // of the folder of intents
	wal      *wal
	seq      atomic.Uint64
	bytes    atomic.Int64  // sum of the sizes of all entries
	resident atomic.Int64  // bytes of contents in memory
	without  atomic.Int64  // entries without files
	hashing  chan struct{} // turns of the followers: one a core
	quit     chan struct{} // closed, by end, when Close begins: followers end
	end      sync.Once

	mu      sync.Mutex // guards the rest; never held across I/O; after Entry.mu
	entries map[string]*Entry
	young   map[*memory]*Entry // with unsealed bytes in memory only

	withFiles bool
}

// Open locks the folder, making it if need be, and finds again what is in it; see the
// package comment for what a crash leaves and docs/journal-format.md for the rules. It
// reads the records and the sizes of the data files, never their content, and deletes
// nothing that could be a user's: what has no good record goes to the subfolder orphans.
// A disk that is too full for the files of what the log has leaves it in the log.
//
// The error is ErrLocked when another process has the journal open, ErrVersion when a
// later program wrote in it, and the disk's own otherwise.
func Open(o Options) (*Journal, error) {
	if o.Dir == "" || o.NewHash == nil {
		panic("journal: Options.Dir and Options.NewHash are needed")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.FS == nil {
		o.FS = osFS{}
	}
	if o.IdleFiles <= 0 {
		o.IdleFiles = 512
	}
	if o.DirtyFiles <= 0 {
		o.DirtyFiles = defaultDirty()
	}
	if o.SyncEvery <= 0 {
		o.SyncEvery = time.Second
	}
	if o.late == 0 {
		o.late, o.lateTime = lateFrom, lateTime
	}
	if o.AllSums {
		o.late = math.MaxInt64
	}
	if o.logSize == 0 {
		o.logSize = segmentSize
	}
	if o.logSegments == 0 {
		o.logSegments = segmentsMost
	}
	j := &Journal{
		dir:     filepath.Clean(o.Dir),
		fs:      o.FS,
		newHash: o.NewHash,
		algs:    o.Algs,
		log:     o.Log,
		now:     o.Now,
		late:    o.late, lateTime: o.lateTime,
		entries: map[string]*Entry{},
		young:   map[*memory]*Entry{},

		withFiles: o.withFiles,
		hashing:   make(chan struct{}, runtime.GOMAXPROCS(0)),
		quit:      make(chan struct{}),
	}
	if err := j.makeFolders(); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	lock, err := j.fs.Lock(filepath.Join(j.dir, "lock"), strconv.Itoa(os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j.closers = append(j.closers, lock)
	if err := j.start(o); err != nil {
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", j.dir, err), j.closeAll())
	}
	return j, nil
}

// start is what of Open comes after the lock.
func (j *Journal) start(o Options) error {
	for dir, group := range map[string]**groupSync{j.dir: &j.dirSync, j.intentDir(): &j.noteSync} {
		// Open as long as the journal is: a sync must not fail for want of a
		// descriptor, nor miss an error that came while nobody had the folder open.
		d, err := j.fs.OpenFile(dir, os.O_RDONLY, 0)
		if err != nil {
			return err
		}
		j.closers = append(j.closers, d)
		*group = &groupSync{do: d.Sync}
		if dir == j.dir {
			j.wal = newWAL(j, o, d.SyncAll)
		}
	}
	unfinished, err := j.replay()
	if err != nil {
		return fmt.Errorf("replay the log: %w", err)
	}
	j.files = newDescriptors(j.fs, o.IdleFiles, o.DirtyFiles)
	if err := j.recover(); err != nil {
		j.files.close()
		return err
	}
	if unfinished != nil {
		j.resume(unfinished)
	}
	if o.manualLog && len(j.wal.segments()) == 0 {
		if err := j.wal.make(); !errors.Is(err, errNoLog) {
			return err
		}
	}
	return nil
}

func (j *Journal) closeAll() error {
	var errs []error
	if j.wal != nil {
		errs = append(errs, j.wal.close())
	}
	for _, c := range slices.Backward(j.closers) { // the lock last
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// makeFolders makes what is not there.
func (j *Journal) makeFolders() error {
	for _, dir := range []string{j.dir, j.intentDir(), j.orphanDir()} {
		if err := j.makeFolder(dir); err != nil {
			return err
		}
	}
	return nil
}

// makeFolder makes a folder and its parents and makes their names durable, parents first.
func (j *Journal) makeFolder(dir string) error {
	_, err := j.fs.Stat(dir)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := j.makeFolder(parent); err != nil {
		return err
	}
	if err := j.fs.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(j.fs, parent)
}

func syncDir(fsys FS, dir string) error {
	d, err := fsys.OpenFile(dir, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// newID sorts by time and does not repeat.
func (j *Journal) newID() string {
	var r [4]byte
	rand.Read(r[:])
	return fmt.Sprintf("%016x%x", uint64(j.now().UnixNano()), r)
}

// Create makes an empty entry from what the caller knows of it. Nothing is synced: until
// its first Sync or Seal an entry promises nothing. Where there is a log the entry has no
// files yet, and the disk is only asked whether there is room for some. Otherwise the record's place on
// the disk is allocated here, so that Seal and Update work on a full disk; when it cannot
// be, Create fails with ENOSPC and leaves nothing behind.
func (j *Journal) Create(r Record) (*Entry, error) {
	if err := j.files.enter(); err != nil {
		return nil, fmt.Errorf("create entry: %w", err)
	}
	defer j.files.leave()
	st := stored{Record: r.clone()}
	st.State = Writing
	if j.admitResident() {
		if e := j.createResident(st); e != nil {
			return e, nil
		}
	}
	e, err := j.createFiles(st)
	for tries := 0; errors.Is(err, os.ErrExist) && tries < 3; tries++ { // an id that was there
		e, err = j.createFiles(st)
	}
	if err != nil {
		return nil, fmt.Errorf("create entry: %w", err)
	}
	j.mu.Lock()
	j.entries[e.id] = e
	j.mu.Unlock()
	return e, nil
}

// createFiles makes an entry with its two files, or nothing.
func (j *Journal) createFiles(st stored) (*Entry, error) {
	e := j.newEntry(j.newID())
	st.keepOwn(Record{ID: e.id, Created: j.now()})
	e.st = st
	e.hash.h = j.newDigest()
	e.dirEpoch, _ = j.dirSync.epoch()
	if err := e.newRecordFile(e.recPath(), st, false); err != nil {
		return nil, err
	}
	if _, err := j.files.acquire(&e.data, true); err != nil {
		j.discard(e.recPath())
		return nil, err
	}
	j.files.release(&e.data)
	return e, nil
}

// discard removes a file of which nothing was promised.
func (j *Journal) discard(name string) {
	if err := j.fs.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		j.log.Warn("journal: leftover file", "file", name, "err", err)
	}
}

// Entries lists all entries in the order of their sealing; those never sealed come first,
// oldest first.
func (j *Journal) Entries() []*Entry {
	j.mu.Lock()
	list := make([]*Entry, 0, len(j.entries))
	for _, e := range j.entries {
		list = append(list, e)
	}
	j.mu.Unlock()
	seqs := make(map[*Entry]uint64, len(list))
	for _, e := range list {
		seqs[e] = e.sealSeq()
	}
	slices.SortFunc(list, func(a, b *Entry) int {
		return cmp.Or(cmp.Compare(seqs[a], seqs[b]), cmp.Compare(a.id, b.id))
	})
	return list
}

// Entry finds an entry by its ID.
func (j *Journal) Entry(id string) (*Entry, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok := j.entries[id]
	return e, ok
}

// Usage is the number of entries and the sum of their sizes.
func (j *Journal) Usage() (files int, bytes int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries), j.bytes.Load()
}

// Close waits for calls that are under way, makes lazy updates durable, and unlocks the
// folder. Entries that are being written are not sealed: they promised nothing, but what is
// in memory gets files. Only the
// first Close does something; every later use of the journal or an entry is ErrClosed.
func (j *Journal) Close() error {
	var errs []error
	j.end.Do(func() { close(j.quit) })
	j.wal.stop()
	for range j.wal.segments() {
		if err := j.wal.checkpoint(); err != nil {
			errs = append(errs, err)
			break
		}
	}
	j.spillOld(0)
	for _, e := range j.Entries() {
		if err := e.syncLazy(); err != nil && !errors.Is(err, ErrRemoved) && !errors.Is(err, ErrClosed) {
			errs = append(errs, err)
		}
	}
	if !j.files.close() {
		return nil
	}
	errs = append(errs, j.closeAll())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}

// isSpace tells errors that mean that the disk is full.
func isSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
