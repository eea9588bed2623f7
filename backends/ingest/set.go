package ingest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends"
)

// Set is the ingests of one lake on this machine. All methods may be called in parallel.
type Set struct {
	o    Options
	lock *os.File // of the folder, once it is there; guarded by changing

	changing sync.Mutex // held while the ingests there are change; before mu

	mu      sync.Mutex      // guards the rest; never held across I/O
	ctx     context.Context // of Run; nil: it does not run
	only    []string        // that Run works on; none: all
	links   map[string]*entry
	running sync.WaitGroup
}

// entry is one ingest of a Set.
type entry struct {
	link *link

	// Guarded by Set.mu.
	paused bool
	stop   context.CancelFunc // nil: it does not run
	done   chan struct{}      // closed when it has stopped
	state  string             // Running or Failed, while it runs; Done after a single pass
	err    string
}

// definitionFile is in the folder of an ingest, beside its ledger.
const definitionFile = "definition.json"

// Open reads the definitions and opens the ledgers. Errors wrap ErrBusy when another process has the folder.
func Open(o Options) (*Set, error) {
	if o.Lake == nil || o.Dir == "" {
		return nil, errors.New("open ingests: a lake and a folder are needed")
	}
	o.Workers = cmp.Or(max(o.Workers, 0), 16)
	o.InFlight = cmp.Or(max(o.InFlight, 0), 512<<20)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Set{o: o, links: map[string]*entry{}}
	if err := s.open(); err != nil {
		s.Close()
		return nil, fmt.Errorf("open ingests: %w", err)
	}
	return s, nil
}

// own makes the folder, and keeps other processes from it.
func (s *Set) own() (err error) {
	if s.lock != nil {
		return nil
	}
	if err := os.MkdirAll(s.o.Dir, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(s.o.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return fmt.Errorf("%s is another process's: %w", s.o.Dir, backends.ErrBusy)
	}
	s.lock = lock
	return nil
}

func (s *Set) open() (err error) {
	if _, err := os.Stat(s.o.Dir); errors.Is(err, os.ErrNotExist) {
		return nil // the first ingest makes it
	}
	if err := s.own(); err != nil {
		return err
	}
	found, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return err
	}
	for _, e := range found {
		if !e.IsDir() || !goodName.MatchString(e.Name()) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(s.o.Dir, e.Name(), definitionFile))
		if errors.Is(err, os.ErrNotExist) {
			continue // adding it was not finished
		}
		var d Definition
		if err == nil {
			err = json.Unmarshal(b, &d)
		}
		if err == nil && d.Name != e.Name() {
			err = fmt.Errorf("it is of %q: %w", d.Name, backends.ErrDamaged)
		}
		if err != nil {
			return fmt.Errorf("definition of %s: %w", e.Name(), err)
		}
		k, err := s.openLink(d)
		if err != nil {
			return fmt.Errorf("ingest %s: %w", d.Name, err)
		}
		s.links[d.Name] = &entry{link: k, paused: d.Paused}
	}
	return nil
}

// openLink opens the ledger of a definition.
func (s *Set) openLink(d Definition) (*link, error) {
	l, err := openLedger(filepath.Join(s.o.Dir, d.Name, "ledger"), s.o.Log, true)
	if err != nil {
		return nil, err
	}
	k, err := newLink(s.o, d, l)
	if err != nil {
		l.close()
	}
	return k, err
}

// save writes the definition, so that it is there as a whole or not at all.
func (s *Set) save(d Definition) error {
	dir := filepath.Join(s.o.Dir, d.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "definition-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, definitionFile))
	}
	for _, p := range []string{dir, s.o.Dir} {
		if err == nil {
			err = syncDir(p)
		}
	}
	return err
}

func syncDir(p string) error {
	d, err := os.Open(p)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close closes the ledgers; Run and Once must have ended.
func (s *Set) Close() error {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.Lock()
	links := s.links
	s.links = map[string]*entry{}
	s.mu.Unlock()
	var errs []error
	for _, e := range links {
		errs = append(errs, e.link.ledger.close())
	}
	if s.lock != nil {
		s.lock.Close()
	}
	return errors.Join(errs...)
}

// Run works on all ingests that are not paused, those that are added meanwhile as well, until ctx ends; then it waits for
// all that it started. What it was at goes on when it runs again. One that fails as a whole is tried again.
func (s *Set) Run(ctx context.Context) error { return s.RunOnly(ctx) }

// RunOnly is Run for the ingests of these names, none: for all. ErrNotExist when there is none of a name,
// ErrNotSupported for a single pass; one that is paused is worked on when its pause ends.
func (s *Set) RunOnly(ctx context.Context, names ...string) error {
	s.mu.Lock()
	for _, n := range names {
		switch e := s.links[n]; {
		case e == nil:
			s.mu.Unlock()
			return fmt.Errorf("ingest %q: %w", n, backends.ErrNotExist)
		case e.link.d.Single:
			s.mu.Unlock()
			return fmt.Errorf("ingest %s was a single pass: %w", n, backends.ErrNotSupported)
		}
	}
	if s.ctx != nil {
		s.mu.Unlock()
		return fmt.Errorf("run ingests: they run already: %w", backends.ErrBusy)
	}
	s.ctx, s.only = ctx, names
	for _, e := range s.links {
		s.startLocked(e)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.ctx = nil
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

// startLocked starts an ingest that is to run; Set.mu is held.
func (s *Set) startLocked(e *entry) {
	if s.ctx == nil || s.ctx.Err() != nil || e.stop != nil || e.paused || e.link.d.Single {
		return
	}
	if len(s.only) > 0 && !slices.Contains(s.only, e.link.d.Name) {
		return
	}
	ctx, stop := context.WithCancel(s.ctx)
	done := make(chan struct{})
	e.stop, e.done, e.state, e.err = stop, done, Running, ""
	s.running.Go(func() {
		defer close(done)
		defer stop()
		for failures := 1; ; failures++ {
			began := time.Now()
			err := e.link.run(ctx, false)
			if ctx.Err() != nil {
				break
			}
			if err == nil {
				err = errors.New("it ended by itself")
			}
			if time.Since(began) > longestWait {
				failures = 1
			}
			s.o.Log.Error("ingest failed, and is tried again", "ingest", e.link.d.Name, "err", err)
			s.mu.Lock()
			e.state, e.err = Failed, err.Error()
			s.mu.Unlock()
			if !sleep(ctx, min(patience(failures), time.Minute)) {
				break
			}
			s.mu.Lock()
			e.state = Running
			s.mu.Unlock()
		}
		s.mu.Lock()
		e.stop, e.state, e.err = nil, "", ""
		s.mu.Unlock()
	})
}

// halt stops an ingest and waits for it.
func (s *Set) halt(e *entry) {
	s.mu.Lock()
	stop, done := e.stop, e.done
	s.mu.Unlock()
	if stop != nil {
		stop()
		<-done
	}
}

// entry gives the ingest of that name.
func (s *Set) entry(name string) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.links[name]; e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("ingest %q: %w", name, backends.ErrNotExist)
}

// List gives all ingests by name.
func (s *Set) List() []Status {
	s.mu.Lock()
	var all []*entry
	for _, e := range s.links {
		all = append(all, e)
	}
	s.mu.Unlock()
	out := make([]Status, 0, len(all))
	for _, e := range all {
		out = append(out, s.status(e))
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Status gives one, or ErrNotExist, as all that take a name.
func (s *Set) Status(name string) (Status, error) {
	e, err := s.entry(name)
	if err != nil {
		return Status{}, err
	}
	return s.status(e), nil
}

func (s *Set) status(e *entry) Status {
	st := e.link.status()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Paused = e.paused
	switch {
	case e.state != "":
		st.State = e.state
		if e.err != "" {
			st.Error = e.err
		}
		if st.State == Running && !e.link.hours.open(s.o.Now().Local()) {
			st.State = Waiting
		}
	case st.Single:
		st.State = Done
	default:
		st.State = Paused
	}
	if st.Oldest != nil && st.Oldest.Reason == "" {
		st.Oldest.Reason = st.closed()
	}
	return st
}

// Pause waits until what was under way has stopped.
func (s *Set) Pause(name string) error { return s.setPaused(name, true) }

// Resume ends a pause. Of an ingest that is not paused it says that its folder, which is another one than before, is right.
func (s *Set) Resume(name string) error { return s.setPaused(name, false) }

func (s *Set) setPaused(name string, paused bool) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	e, err := s.entry(name)
	if err != nil {
		return err
	}
	d := e.link.d
	s.mu.Lock()
	d.Paused = e.paused
	s.mu.Unlock()
	if d.Single {
		return fmt.Errorf("ingest %s was a single pass: %w", name, backends.ErrNotSupported)
	}
	if !paused && !d.Paused {
		if err := e.link.ledger.setFolder(""); err != nil {
			return fmt.Errorf("ingest %s: %w", name, err)
		}
	}
	d.Paused = paused
	if err := s.save(d); err != nil {
		return fmt.Errorf("ingest %s: %w", name, err)
	}
	s.mu.Lock()
	e.paused = paused
	s.startLocked(e)
	s.mu.Unlock()
	if paused {
		s.halt(e)
	}
	return nil
}

// Retry makes files that failed go on now: those named, relative to the folder, or all. It tells how many.
func (s *Set) Retry(name string, paths ...string) (n int, err error) {
	e, err := s.entry(name)
	if err != nil {
		return 0, err
	}
	n, err = e.link.retry(paths)
	if err != nil {
		return n, fmt.Errorf("retry files of ingest %s: %w", name, err)
	}
	return n, nil
}

// Remove ends an ingest; its ledger is put aside. ErrNotEmpty while files that were found are not safe, unless force. Its
// rules stay.
func (s *Set) Remove(ctx context.Context, name string, force bool) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	e, err := s.entry(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	busy := e.stop != nil && e.link.d.Single
	s.mu.Unlock()
	if busy {
		return fmt.Errorf("remove ingest %s: its pass is under way: %w", name, backends.ErrBusy)
	}
	s.halt(e)
	back := func(err error) error {
		s.mu.Lock()
		s.startLocked(e)
		s.mu.Unlock()
		return fmt.Errorf("remove ingest %s: %w", name, err)
	}
	c := e.link.ledger.count()
	if left := c.Of[Found].Files - c.Of[Safe].Files; left > 0 && !force {
		return back(fmt.Errorf("%d files are not safe: %w", left, backends.ErrNotEmpty))
	}
	if err := e.link.unhide(ctx); err != nil && !force {
		return back(err)
	}
	if rs, _, err := e.link.ledger.next(deleting, nil, 1); err != nil || len(rs) > 0 && !force {
		return back(errors.Join(err, fmt.Errorf("files are being deleted: %w", backends.ErrNotEmpty)))
	}
	s.mu.Lock()
	delete(s.links, name)
	s.mu.Unlock()
	if err := e.link.ledger.close(); err != nil {
		return fmt.Errorf("remove ingest %s: %w", name, err)
	}
	aside := filepath.Join(s.o.Dir, ".removed")
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return fmt.Errorf("remove ingest %s: %w", name, err)
	}
	to := filepath.Join(aside, fmt.Sprintf("%s-%d", name, s.o.Now().UnixNano()))
	if err := os.Rename(filepath.Join(s.o.Dir, name), to); err != nil {
		return fmt.Errorf("remove ingest %s: %w", name, err)
	}
	return errors.Join(syncDir(s.o.Dir), syncDir(aside))
}

// Files streams the records, by path; with stages given, only those at one of them. Deleted ones are the tombstones.
func (s *Set) Files(ctx context.Context, name string, only ...Stage) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		e, err := s.entry(name)
		if err != nil {
			yield(Record{}, err)
			return
		}
		for r, err := range e.link.ledger.all(ctx, len(only) == 0 || slices.Contains(only, Deleted)) {
			if err != nil {
				yield(Record{}, err)
				return
			}
			if (len(only) == 0 || slices.Contains(only, r.Stage)) && !yield(*r, nil) {
				return
			}
		}
	}
}

// Samples is the course of an ingest in this process, at most 2,000 moments that lie ever further apart.
func (s *Set) Samples(name string) []Sample {
	e, err := s.entry(name)
	if err != nil {
		return nil
	}
	m := e.link.meters
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.samples)
}

// Latencies tells how long files took.
func (s *Set) Latencies(name string) (Latencies, error) {
	e, err := s.entry(name)
	if err != nil {
		return Latencies{}, err
	}
	m := e.link.meters
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.latencies
	for _, h := range []*Histogram{&l.Transferred, &l.Safe, &l.Deleted} {
		h.Counts = slices.Clone(h.Counts)
	}
	return l, nil
}
