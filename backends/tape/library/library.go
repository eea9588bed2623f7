// Package library is an emulated tape library: a robot, drives, cartridges and a disk
// buffer in one folder, with the waiting times of real ones. It is a Storage and a Tape.
//
//	lib, err := library.Open(library.Options{Dir: "/data/tape", Drives: 2, Cartridges: 20, Speed: 1000})
//
// reached from the lake's configuration as
//
//	rses:
//	  - {name: SITE-TAPE, kind: tape, url: "library:///data/tape?drives=2&speed=1000"}
//
// A file is unreadable (ErrOffline) unless it is in the disk buffer. Commit puts it
// there, durable; a migrator writes it to a cartridge in the background, and from then on
// the buffer may evict it. Stage brings it back: a drive takes the cartridge whose
// requests have waited longest and reads all that is asked of it in ascending
// position, so that one mount serves many files. docs/tape-library.md describes the
// bytes on disk.
package library

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"tarn/backends"
)

// Options of a library; zero fields take the default, which is LTO-9-like.
type Options struct {
	// Dir holds everything. It is made when it is not there, and locked.
	Dir string
	// Drives (2) and Cartridges (20) of CartridgeSize (18 TB) bytes. Cartridges may be added
	// later, but not taken away while files are on them.
	Drives        int
	Cartridges    int
	CartridgeSize int64
	// BufferSize (10 GiB) is the hard limit of the disk buffer.
	BufferSize int64
	// Timing of the machinery, and Speed (1), by which all waiting is divided.
	Timing Timing
	Speed  float64
	// Lifetime (24 h) of a stage request: then its files are released and it is forgotten.
	Lifetime time.Duration
	// Patience (10 min of tape time) is how long other cartridges wait while a mounted one
	// has work, and how far recalls go before migrations.
	Patience time.Duration
	// Spread chooses the cartridge of a new file, modulo Cartridges; one without room is
	// passed over. It is called under the lock, so it must not call the library. nil fills one
	// cartridge after the other.
	Spread func(path string) int
	// Colocate keeps the files of one folder on one cartridge while it has room.
	Colocate bool
	// Now and Sleep are the clock; nil is the real one.
	Now   func() time.Time
	Sleep func(ctx context.Context, d time.Duration) error
	// Log gets what no caller can be told; nil is nowhere.
	Log *slog.Logger
}

// Timing is what the movements of the machinery take.
type Timing struct {
	Robot   time.Duration // the arm, for one way between slot and drive (10 s)
	Mount   time.Duration // loading and threading (18 s)
	Unmount time.Duration // unloading (15 s)
	Seek    time.Duration // over the full length (100 s)
	Rewind  time.Duration // over the full length (80 s)
	Rate    int64         // bytes a second (400 MB/s)
}

func (o *Options) setDefaults() error {
	if o.Dir == "" {
		return fmt.Errorf("no folder given: %w", backends.ErrName)
	}
	for _, d := range []struct {
		v   *int64
		def int64
	}{
		{&o.CartridgeSize, 18e12}, {&o.BufferSize, 10 << 30}, {&o.Timing.Rate, 400e6},
		{(*int64)(&o.Timing.Robot), int64(10 * time.Second)}, {(*int64)(&o.Timing.Mount), int64(18 * time.Second)},
		{(*int64)(&o.Timing.Unmount), int64(15 * time.Second)}, {(*int64)(&o.Timing.Seek), int64(100 * time.Second)},
		{(*int64)(&o.Timing.Rewind), int64(80 * time.Second)},
		{(*int64)(&o.Lifetime), int64(24 * time.Hour)}, {(*int64)(&o.Patience), int64(10 * time.Minute)},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
		if *d.v < 0 {
			return fmt.Errorf("negative option: %w", backends.ErrNotSupported)
		}
	}
	if o.Drives == 0 {
		o.Drives = 2
	}
	if o.Cartridges == 0 {
		o.Cartridges = 20
	}
	if o.Speed == 0 {
		o.Speed = 1
	}
	if o.Drives < 0 || o.Cartridges < 0 || o.Cartridges > maxCartridges || o.Speed < 0 {
		return fmt.Errorf("%d drives, %d cartridges (at most %d), speed %g: %w", o.Drives, o.Cartridges, maxCartridges, o.Speed, backends.ErrNotSupported)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Library is an open library.
//
// Stage requests live in memory: after a restart Poll answers ErrNotExist for them, while
// files that were staged already still are.
type Library struct {
	o     Options
	flock *os.File
	idx   *index

	ctx    context.Context // of the drives
	cancel context.CancelFunc
	drives sync.WaitGroup

	// mu guards the rest. It is never held across I/O: what is to be unlinked is
	// collected in trash, and unlock does it. The index calls back with mu free.
	mu       sync.Mutex
	closed   bool
	root     *dir
	files    int64
	loaded   map[uint64]*file // while Open runs
	nextID   uint64
	carts    []*cart
	stations []*drive
	filling  int // the cartridge that new files go to

	used        int64 // bytes of the buffer that are taken or reserved
	evictable   int64 // of these, in lru
	lru         list.List
	trash       []trashed
	dropping    int64   // bytes of used that are being unlinked
	uploading   int64   // of used, reserved by uploads that are not waiting for more
	unmigrated  int64   // bytes that are being brought to a cartridge
	unwritten   int     // files of these
	homeless    []*file // migrations that no cartridge has room for
	waiting     int     // callers that wait for buffer space or migration
	recalls     map[*file]*recall
	requests    map[backends.RecallID]*request
	order       []*request // by age
	failing     map[string]error
	changes     uint64
	changedCh   chan struct{} // closed and renewed whenever something changes
	estimate    map[*file]estimated
	estimatedAt uint64
	stats       Stats
}

var (
	_ backends.Storage = (*Library)(nil)
	_ backends.Tape    = (*Library)(nil)
)

// Open locks the folder, reads the index, recovers the buffer and starts the drives.
// ErrBusy while another process has it open, ErrVersion and ErrDamaged for an index
// that cannot be read.
func Open(o Options) (*Library, error) {
	if err := o.setDefaults(); err != nil {
		return nil, fmt.Errorf("open tape library: %w", err)
	}
	l := &Library{
		o: o, root: &dir{cart: -1}, nextID: 1,
		recalls: map[*file]*recall{}, requests: map[backends.RecallID]*request{},
		failing: map[string]error{}, changedCh: make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if err := l.open(); err != nil {
		l.cancel()
		l.closeFiles()
		return nil, fmt.Errorf("open tape library %s: %w", o.Dir, err)
	}
	for i := range o.Drives {
		d := &drive{n: i}
		l.stations = append(l.stations, d)
		l.drives.Go(func() { l.run(l.ctx, d) })
	}
	return l, nil
}

func (l *Library) open() error {
	for _, d := range []string{"", "buffer", "cartridges"} {
		if err := os.MkdirAll(filepath.Join(l.o.Dir, d), 0o700); err != nil {
			return translated(err)
		}
	}
	f, err := os.OpenFile(filepath.Join(l.o.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return translated(err)
	}
	l.flock = f
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if err == syscall.EWOULDBLOCK {
			return fmt.Errorf("another process has it open: %w", backends.ErrBusy)
		}
		return translated(err)
	}
	if l.idx, err = l.loadIndex(); err != nil {
		return err
	}
	if err := l.openCartridges(); err != nil {
		return err
	}
	if err := l.recoverBuffer(); err != nil {
		return err
	}
	for _, d := range []string{"", "buffer", "cartridges"} {
		if err := syncFolder(filepath.Join(l.o.Dir, d)); err != nil {
			return translated(err)
		}
	}
	return nil
}

// Close stops the drives where they are and closes everything; what was not yet migrated
// is after the next Open. Calls that run end with ErrClosed.
func (l *Library) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.changed()
	l.unlock()
	l.cancel()
	l.drives.Wait()
	return l.closeFiles()
}

func (l *Library) closeFiles() error {
	var errs []error
	if l.idx != nil {
		errs = append(errs, l.idx.close())
	}
	for _, c := range l.carts {
		if c.f != nil {
			errs = append(errs, c.f.Close())
		}
	}
	if l.flock != nil {
		errs = append(errs, l.flock.Close())
	}
	return translated(errors.Join(errs...))
}

// changed wakes all that wait for a change. mu is held.
func (l *Library) changed() {
	l.changes++
	close(l.changedCh)
	l.changedCh = make(chan struct{})
}

// begin is what every call starts with: the lock is held when it returns nil.
func (l *Library) begin(ctx context.Context, op, path string) error {
	if err := checkPath(path); err != nil {
		return &backends.OpError{Op: op, At: l.at(path), Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", op, l.at(path), err)
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return &backends.OpError{Op: op, At: l.at(path), Err: backends.ErrClosed}
	}
	return nil
}

func (l *Library) at(path string) string { return filepath.Join(l.o.Dir, path) }

func (l *Library) fail(op, path string, err error) error {
	return &backends.OpError{Op: op, At: l.at(path), Err: err}
}
