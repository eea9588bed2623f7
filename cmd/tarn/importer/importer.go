// Package importer takes a directory tree, or a single file, into a lake: it stores
// each file at one RSE, verified, or registers files that lie there already, and keeps
// names, symbolic links, empty directories, modes, owners and times.
//
//	res, err := importer.Run(ctx, l, importer.Options{Source: "/data/dl3", Target: "/ctao/dl3", RSE: "PIC-TAPE"})
//
// It can be run again after an interruption: what is in the lake with the same content,
// and has a copy at the RSE, is skipped. Memory is bounded by the largest single
// directory, not by the tree.
package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

// Options says what to import, where from, and where to.
type Options struct {
	Source string // a directory, whose contents go into Target, or a file
	Target string // lake path; what is missing of it is made, below an existing scope
	RSE    string // where the copies are, or are to be

	// RegisterOnly moves no bytes: Source lies below Folder, the RSE's own folder, and
	// the files are registered where they are.
	RegisterOnly bool
	Folder       string

	// Replace makes a new generation where a file has another content in the lake;
	// otherwise that is a failure of this file.
	Replace bool
	Meta    backends.Meta // for every file
	Workers int           // files at one time; default 4

	// Seed, if any, is called with each file that was stored at a tape RSE and its bytes,
	// which are verified.
	Seed func(in backends.Info, r io.ReaderAt)
	// Failed, if any, is called with each entry that could not be imported.
	Failed func(source string, err error)
	// OnTape, if any, is called in batches with the paths at a tape RSE of the files that
	// were registered, in order, from one goroutine; it returns when they are on tape. It
	// holds the import back when it is slower.
	OnTape func(ctx context.Context, pfns []string) error
	// Progress, if any, is called from one goroutine, at most every Every (default 200 ms), and at the end.
	Progress func(Progress)
	Every    time.Duration
	Now      func() time.Time
	Log      *slog.Logger
}

// Progress is how far an import is. The totals grow while the tree is counted.
type Progress struct {
	Files, TotalFiles int64
	Bytes, TotalBytes int64
}

// Result is what an import did.
type Result struct {
	Added       int64 // DIDs: files, links and directories
	Files       int64 // of them files
	Directories int64 // met
	Skipped     int64 // files that were in the lake already
	Failed      int64
	Bytes       int64 // stored or registered
}

// Run imports. The error is for what stops it as a whole; files that failed are counted
// and told to Options.Failed. When ctx ends, what was stored by then is registered
// before Run returns.
func Run(ctx context.Context, l *lake.Lake, o Options) (Result, error) {
	r, err := newRun(ctx, l, o)
	if err != nil {
		return Result{}, fmt.Errorf("import %s: %w", o.Source, err)
	}
	if err := r.run(ctx); err != nil {
		return r.result(), fmt.Errorf("import %s: %w", o.Source, err)
	}
	return r.result(), nil
}

type run struct {
	l   *lake.Lake
	o   Options
	rse *lake.RSE

	scope  string
	target string // clean lake path of Source

	added, files, dirs, skipped, failed atomic.Int64
	bytes, seen, totalFiles, totalBytes atomic.Int64

	mu   sync.Mutex // guards Options.Failed, so that it is called by one at a time, and held
	held []stored   // paths of copies that are not registered yet, at an RSE with a naming
}

func newRun(ctx context.Context, l *lake.Lake, o Options) (*run, error) {
	if o.Workers <= 0 {
		o.Workers = 4
	}
	if o.Every <= 0 {
		o.Every = 200 * time.Millisecond
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	rse, ok := l.RSE(o.RSE)
	if !ok {
		return nil, fmt.Errorf("RSE %q is not one of this lake: %w", o.RSE, backends.ErrNotExist)
	}
	st, err := os.Stat(o.Source)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", backends.ErrNotExist, err)
	}
	if err != nil {
		return nil, err
	}
	if !st.IsDir() && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("want a directory or a regular file: %w", backends.ErrNotSupported)
	}
	if o.RegisterOnly {
		if o.Folder == "" {
			return nil, fmt.Errorf("RSE %s is not a plain folder, so files cannot lie in it already: %w", o.RSE, backends.ErrNotSupported)
		}
		if o.Folder, err = filepath.EvalSymlinks(o.Folder); err != nil {
			return nil, err
		}
		if o.Source, err = filepath.EvalSymlinks(o.Source); err != nil {
			return nil, err
		}
		if o.Source != o.Folder && !strings.HasPrefix(o.Source, o.Folder+"/") {
			return nil, fmt.Errorf("to register only, it has to lie in %s, the folder of RSE %s: %w", o.Folder, o.RSE, backends.ErrNotSupported)
		}
	} else if rse.ReadOnly {
		return nil, fmt.Errorf("RSE %s: %w", o.RSE, backends.ErrReadOnly)
	}
	r := &run{l: l, o: o, rse: rse}
	if r.target, err = lake.CleanPath(o.Target); err != nil {
		return nil, err
	}
	if !st.IsDir() {
		// As cp does: into a directory under its own name, else under the name given.
		in, err := l.Resolve(ctx, r.target)
		if err == nil && in.IsDir() {
			r.target = path.Join(r.target, filepath.Base(o.Source))
		} else if err != nil && !errors.Is(err, backends.ErrNotExist) {
			return nil, err
		}
	}
	if r.target == "/" {
		return nil, fmt.Errorf("into /: name a scope, or a directory below one: %w", backends.ErrName)
	}
	r.scope, _, _ = strings.Cut(r.target[1:], "/")
	return r, r.parents(ctx, st)
}

// parents makes the directories above the target that are missing, and checks the scope.
func (r *run) parents(ctx context.Context, st os.FileInfo) error {
	scope, err := r.l.Resolve(ctx, "/"+r.scope)
	if errors.Is(err, backends.ErrNotExist) {
		return fmt.Errorf("there is no scope %q; `mkdir` in a mount makes one, or the lake file: %w", r.scope, err)
	}
	if err != nil {
		return err
	}
	if scope.Layout == backends.LayoutContents {
		return fmt.Errorf("scope %s has layout contents, where names are no paths: %w", r.scope, backends.ErrNotSupported)
	}
	elems := strings.Split(r.target[1:], "/")[1:]
	if !st.IsDir() && len(elems) > 0 {
		elems = elems[:len(elems)-1]
	}
	p := "/" + r.scope
	if len(elems) == 0 && !st.IsDir() && r.target == p {
		return fmt.Errorf("%s is a scope, a file needs a name below it: %w", p, backends.ErrIsDir)
	}
	for _, e := range elems {
		p += "/" + e
		in, err := r.l.Resolve(ctx, p)
		if err == nil {
			if !in.IsDir() {
				return fmt.Errorf("%s: %w", p, backends.ErrNotDir)
			}
			continue
		}
		if !errors.Is(err, backends.ErrNotExist) {
			return err
		}
		if p == r.target {
			break // comes with its own mode and time
		}
		now := r.o.Now()
		err = r.l.Catalogue().Add(ctx, backends.Info{
			DID: r.l.PathDID(p), Type: backends.Container, Mode: 0o755,
			UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MTime: now, CTime: now,
		}, nil)
		if err != nil && !errors.Is(err, backends.ErrExist) {
			return fmt.Errorf("make %s: %w", p, err)
		}
	}
	return nil
}

func (r *run) result() Result {
	return Result{
		Added: r.added.Load(), Files: r.files.Load(), Directories: r.dirs.Load(),
		Skipped: r.skipped.Load(), Failed: r.failed.Load(), Bytes: r.bytes.Load(),
	}
}

func (r *run) progress() Progress {
	return Progress{r.seen.Load(), r.totalFiles.Load(), r.bytes.Load(), r.totalBytes.Load()}
}

// fail counts an entry that could not be imported.
func (r *run) fail(source string, err error) {
	r.failed.Add(1)
	if r.o.Failed == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.o.Failed(source, err)
}

// run is a pipeline: the walk gives jobs in order, workers store files side by side, and
// the importer takes the entries in the order of the walk, so that a directory always
// comes before what it holds.
func (r *run) run(ctx context.Context) error {
	defer r.letGo()
	// The workers end when there is nothing left or the importer gave up.
	work, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()

	jobs := make(chan *job, r.o.Workers)
	order := make(chan *job, 4*r.o.Workers)
	var walkErr error
	wg.Go(func() {
		defer close(jobs)
		defer close(order)
		walkErr = r.walk(work, func(j *job) bool {
			for _, c := range []chan *job{order, jobs} {
				if c == jobs && j.skipWork() {
					close(j.done)
					break
				}
				select {
				case c <- j:
				case <-work.Done():
					if c == jobs { // it is in order already, and will be waited for
						j.err = work.Err()
						close(j.done)
					}
					return false
				}
			}
			return true
		})
	})
	for range r.o.Workers {
		wg.Go(func() {
			for j := range jobs {
				j.entry, j.has, j.err = r.file(work, j)
				close(j.done)
			}
		})
	}
	wg.Go(func() { r.count(work) })
	ticker := make(chan struct{})
	var tick sync.WaitGroup
	if r.o.Progress != nil {
		tick.Go(func() {
			t := time.NewTicker(r.o.Every)
			defer t.Stop()
			for {
				select {
				case <-t.C:
					r.o.Progress(r.progress())
				case <-ticker:
					r.o.Progress(r.progress())
					return
				}
			}
		})
	}
	defer tick.Wait()
	defer close(ticker)

	tape := r.tapeWriter(ctx)
	// The end of ctx ends the sequence and not the transaction, so that what was stored
	// is registered.
	err := r.register(context.WithoutCancel(ctx), r.entries(order, tape.add))
	stop()
	for j := range order { // a worker may wait to hand over
		<-j.done
	}
	tapeErr := tape.end()
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case walkErr != nil:
		return walkErr
	}
	return tapeErr
}

// tapeWriter waits, beside the import, until what was stored at a tape RSE is on tape.
type tapeWriter struct {
	pfns chan string
	done chan error
}

// tapeBatch is how many files one call of Options.OnTape is for.
const tapeBatch = 256

func (r *run) tapeWriter(ctx context.Context) *tapeWriter {
	t := &tapeWriter{done: make(chan error, 1)}
	if r.o.OnTape == nil || r.rse.Tape == nil {
		t.done <- nil
		return t
	}
	t.pfns = make(chan string, 4*tapeBatch)
	go func() {
		var err error
		batch := make([]string, 0, tapeBatch)
		flush := func() {
			if len(batch) > 0 && err == nil {
				err = r.o.OnTape(ctx, batch)
			}
			batch = batch[:0]
		}
		for p := range t.pfns {
			if batch = append(batch, p); len(batch) == tapeBatch {
				flush()
			}
		}
		flush()
		t.done <- err
	}()
	return t
}

func (t *tapeWriter) add(reps []backends.Replica) {
	for _, r := range reps {
		if t.pfns != nil {
			t.pfns <- r.PFN
		}
	}
}

// end waits; the writer's goroutine has ended then.
func (t *tapeWriter) end() error {
	if t.pfns != nil {
		close(t.pfns)
	}
	return <-t.done
}

// entries turns finished jobs into what the catalogue takes; stored is told of copies.
func (r *run) entries(order <-chan *job, stored func([]backends.Replica)) iter.Seq2[backends.Entry, error] {
	return func(yield func(backends.Entry, error) bool) {
		for j := range order {
			<-j.done
			if !j.isDir {
				r.seen.Add(1)
			}
			switch {
			case errors.Is(j.err, context.Canceled):
				continue
			case j.err != nil:
				r.fail(j.source, j.err)
			case j.has:
				r.skipped.Add(1)
			case !yield(j.entry, nil):
				return
			default:
				if !j.isDir && !j.link {
					r.files.Add(1)
				}
				stored(j.entry.Replicas)
			}
		}
	}
}

// register hands the entries to the catalogue, in bulk where it can.
func (r *run) register(ctx context.Context, entries iter.Seq2[backends.Entry, error]) error {
	if imp, ok := r.l.Catalogue().(backends.Importer); ok {
		n, err := imp.Import(ctx, entries)
		r.added.Store(n)
		return err
	}
	for e, err := range entries {
		if err != nil {
			return err
		}
		err = r.l.Catalogue().Add(ctx, e.Info, e.Meta, e.Replicas...)
		if errors.Is(err, backends.ErrExist) && e.Info.IsDir() {
			continue
		}
		if err != nil {
			return err
		}
		r.added.Add(1)
	}
	return nil
}
