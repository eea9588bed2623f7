// Package watch notices the files of a folder and tells of each version of each once it is
// complete. It goes by inotify and, since a queue overflows, a watch is refused and another
// machine's writes are not told, by a look at the whole folder from time to time.
//
//	root, err := os.OpenRoot("/data/dl0")
//	w, err := watch.New(watch.Options{Root: root, Dir: "/data/dl0", Known: journal.Has})
//	err = w.Run(ctx, func(ctx context.Context, f watch.File) error { return pipeline.Seal(ctx, f) })
//
// A file is complete by its Rule:
//
//   - closed: nobody has it open for writing, which a lease (fcntl F_SETLEASE) proves, and it
//     has not changed for 200 ms. A lease is asked for and given back at once; who opens the
//     file for writing in these microseconds waits for them (with O_NONBLOCK: is told EAGAIN).
//     On a file system without leases, or whose files other machines write (NFS, CIFS, FUSE,
//     ...), and for files of others without CAP_LEASE, it must not have changed for 10 s instead.
//   - trigger: its trigger file is there. The trigger is its writer's word: a file that is
//     written again beside it is told again, 200 ms after it changed last.
//   - age: it has not changed for that long, by two looks that far apart.
//
// How long a file has not changed is measured by the monotonic clock from a look of ours.
// The wall clock serves for one thing: a look at the whole folder takes a file whose ctime is
// more than 200 ms away, on either side, without a wait, if the lease or the trigger allows.
// A clock that jumps can thus save or cost 200 ms, and never makes a file complete that is held.
//
// What it leaves alone: symbolic links, to files and to folders; sockets, pipes and devices;
// names that begin with "." (unless Options.Hidden), since editors, rsync and others write
// their temporary files there; .tarn-ingest-*, which is our own; names that are not in
// Options.Pattern; and trigger files. A folder below Root is entered by descriptors, one name
// at a time and without following links, so nothing outside Root is reached.
package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"tarn/backends"
)

// Own is how the names of our own files begin in a folder that is watched; they are never told.
const Own = ".tarn-ingest-"

// File is one version of a file.
type File struct {
	Path     string // relative to the folder, with slashes, bytes as they are
	Dev, Ino uint64
	Size     int64
	MTime    time.Time
	CTime    time.Time
	Mode     uint32 // the permission bits, 07777 at most
	UID, GID uint32
}

// Same tells whether both have the same content as far as the file system tells: device,
// inode, size, mtime and ctime are equal. A rename, a link and a change of mode or owner
// change the ctime: see SameContent.
func (f File) Same(g File) bool { return f.SameContent(g) && f.CTime.Equal(g.CTime) }

// SameContent is Same without the ctime: what is left to compare after a rename of our own.
// It does not see a change whose writer has put the mtime back.
func (f File) SameContent(g File) bool {
	return f.Dev == g.Dev && f.Ino == g.Ino && f.Size == g.Size && f.MTime.Equal(g.MTime)
}

// Options of a Watcher. Root and Dir are wanted.
type Options struct {
	Root *os.Root // the folder; not closed by the Watcher
	Dir  string   // the absolute path that Root was opened by

	Pattern  []string      // globs of file names, as path.Match; none: every file
	Hidden   bool          // take names that begin with "." as well
	Complete Rule          // zero: closed
	Rescan   time.Duration // from the end of a look at the whole folder to the next, or three times what that took; 0: 1 min
	Pending  int           // incomplete files in memory; later looks take what is beyond; 0: 100000
	Watches  int           // folders with an inotify watch; the others are looked at; 0: 65536

	// Known tells whether the very version is taken care of, so that it is not told. It is
	// asked at each look at a file, before found and from the same goroutine. When it is nil
	// the Watcher remembers what it told, which takes 16 bytes and more for each file.
	Known func(File) bool

	Log *slog.Logger     // nil: none
	Now func() time.Time // the wall clock; nil: time.Now
}

// Found takes a complete version. An error ends the Run or Scan.
type Found func(ctx context.Context, f File) error

// Trouble is why a file is not complete that should be.
type Trouble struct {
	Path   string
	Reason string
	Since  time.Time
	gen    uint64 // the scan that met it last
}

const (
	settle      = 200 * time.Millisecond // a file that changed is left alone for so long
	unleased    = 10 * time.Second       // unchanged for so long it is closed, where no lease tells
	health      = 2 * time.Second        // between two looks at whether the root is the one that was opened
	maxTroubles = 100                    // that are kept
)

// Watcher watches one folder. Run and Scan are for one caller at a time; the other methods
// may be called at any time.
type Watcher struct {
	o    Options
	log  *slog.Logger
	now  func() time.Time     // the wall clock
	mono func() time.Duration // the monotonic clock
	kick chan struct{}
	busy atomic.Bool

	// What the tests make shorter, smaller or fail.
	settle   time.Duration
	unleased time.Duration
	batch    int // names in memory of a folder
	leases   func(fd int) (held bool, err error)
	inotify  func(queue uint) (*fsnotify.Watcher, error)
	addWatch func(n *fsnotify.Watcher, path string) error

	// Of the goroutine of Run or Scan.
	pending  pendings
	told     map[uint64]uint64 // without Known: what of which path
	watches  *watches          // nil: none
	gen      uint64            // of the scan
	full     bool              // pending had no room for something
	rescan   bool              // something was missed: look at everything soon
	lost     bool              // events were missed: what is watched is not certain
	scanning int               // walks under way, one within the other
	inFound  time.Duration     // how long found took, in all
	said     map[string]bool   // what was logged once
	beyond   count             // of this scan: incomplete files that pending had no room for

	incompleteFiles, incompleteBytes atomic.Int64

	mu       sync.Mutex // guards the rest; never held across I/O
	troubles map[string]Trouble
}

type count struct{ files, bytes int64 }

// New makes a Watcher; it touches no file.
func New(o Options) (*Watcher, error) {
	if o.Root == nil || !filepath.IsAbs(o.Dir) {
		return nil, fmt.Errorf("watch %q: %w: an open root and its absolute path are wanted", o.Dir, backends.ErrName)
	}
	for _, p := range o.Pattern {
		if _, err := path.Match(p, ""); err != nil {
			return nil, fmt.Errorf("watch %s: pattern %q: %w: %w", o.Dir, p, backends.ErrName, err)
		}
	}
	o.Dir = filepath.Clean(o.Dir)
	o.Rescan = cmp.Or(o.Rescan, time.Minute)
	o.Pending = cmp.Or(o.Pending, 100_000)
	o.Watches = cmp.Or(o.Watches, 65_536)
	if o.Rescan < 0 || o.Pending < 0 || o.Watches < 0 {
		return nil, fmt.Errorf("watch %s: %w: an option is negative", o.Dir, backends.ErrName)
	}
	w := &Watcher{
		o: o, log: o.Log, now: o.Now, kick: make(chan struct{}, 1),
		settle: settle, unleased: unleased, batch: 1 << 16, leases: lease,
		inotify: fsnotify.NewBufferedWatcher, addWatch: (*fsnotify.Watcher).Add,
		pending: pendings{of: map[string]*pending{}}, said: map[string]bool{}, troubles: map[string]Trouble{},
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if w.now == nil {
		w.now = time.Now
	}
	begun := time.Now()
	w.mono = func() time.Duration { return time.Since(begun) }
	if o.Known == nil {
		w.told = map[uint64]uint64{}
		w.o.Known = w.remembers
	}
	return w, nil
}

// Kick asks for a look at the whole folder now. It does not wait.
func (w *Watcher) Kick() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// Incomplete tells how many files are there that are not complete, and their bytes, as far as
// they have been looked at.
func (w *Watcher) Incomplete() (files, bytes int64) {
	return w.incompleteFiles.Load(), w.incompleteBytes.Load()
}

// Trouble tells of files and folders that cannot be read, by path: the first hundred that were met.
func (w *Watcher) Trouble() []Trouble {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]Trouble, 0, len(w.troubles))
	for _, t := range w.troubles {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b Trouble) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

func (w *Watcher) trouble(path, reason string) {
	now := w.now()
	w.mu.Lock()
	defer w.mu.Unlock()
	t, ok := w.troubles[path]
	switch {
	case ok:
		t.Reason, t.gen = reason, w.gen
		w.troubles[path] = t
	case len(w.troubles) < maxTroubles:
		w.troubles[path] = Trouble{Path: path, Reason: reason, Since: now, gen: w.gen}
	}
}

func (w *Watcher) untrouble(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.troubles, path)
}

// oldTroubles drops those that the last scan did not meet.
func (w *Watcher) oldTroubles() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for path, t := range w.troubles {
		if t.gen < w.gen {
			delete(w.troubles, path)
		}
	}
}

// once logs a warning the first time only.
func (w *Watcher) once(key, msg string, args ...any) {
	if !w.said[key] {
		w.said[key] = true
		w.log.Warn(msg, append([]any{"dir", w.o.Dir}, args...)...)
	}
}

// begin claims the Watcher for one Run or Scan.
func (w *Watcher) begin() error {
	if !w.busy.CompareAndSwap(false, true) {
		return fmt.Errorf("watch %s: %w: it is running already", w.o.Dir, backends.ErrBusy)
	}
	return nil
}

// sameFolder checks that Dir is still what Root was opened on: a folder that was unmounted,
// mounted over, removed or replaced is no folder whose files are gone.
func (w *Watcher) sameFolder() error {
	open, err := w.o.Root.Stat(".")
	if err != nil {
		return fmt.Errorf("watch %s: %w: %w", w.o.Dir, backends.ErrUnavailable, err)
	}
	there, err := os.Stat(w.o.Dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("watch %s: %w: the folder is gone", w.o.Dir, backends.ErrUnavailable)
	case err != nil:
		return fmt.Errorf("watch %s: %w: %w", w.o.Dir, backends.ErrUnavailable, err)
	case !os.SameFile(open, there):
		return fmt.Errorf("watch %s: %w: another folder is there", w.o.Dir, backends.ErrUnavailable)
	}
	return nil
}
