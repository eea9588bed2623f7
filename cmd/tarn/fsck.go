package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/credential"
	"tarn/cache/journal"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// fsck is one run of the command. It holds the lake's locks.
type fsck struct {
	s            *session
	cfg          *config.Config
	repair, deep bool
	backup       string
	list         *listing
	sum          fsckReport

	cat     *embedded.Catalogue // the lake's, or what a backup has of it; nil: neither
	broken  bool                // the lake's own cannot be used
	known   map[place]*copyOf
	files   map[backends.DID]*fileOf // current ones
	folders map[string][]string      // collections of each scope of layout lfn, by path
	own     map[place]bool           // copies that the journal's files will register
	unsent  map[string]bool          // lake paths of the journal's files
	closers []func() error
}

// place is where a copy lies.
type place struct{ rse, pfn string }

// copyOf is a copy that the catalogue knows.
type copyOf struct {
	file *fileOf
	rep  backends.Replica
	seen bool
}

// fileOf is a file of the catalogue, or a past one.
type fileOf struct {
	in    backends.Info
	past  bool
	fresh bool // registered by this run
	good  int  // copies that are there, or cannot be asked for
}

func (f *fsck) onClose(c func() error) { f.closers = append(f.closers, c) }

func (f *fsck) close() error {
	var errs []error
	for i := len(f.closers) - 1; i >= 0; i-- {
		errs = append(errs, f.closers[i]())
	}
	f.closers = nil
	return errors.Join(errs...)
}

func (f *fsck) run(ctx context.Context) error {
	f.sum.Kind, f.sum.Counts = "summary", map[string]int{}
	f.unsent = map[string]bool{}
	f.files = map[backends.DID]*fileOf{}
	f.known, f.folders, f.own = map[place]*copyOf{}, map[string][]string{}, map[place]bool{}
	if c, d, err := control.Dial(ctx, f.cfg.Run); err == nil {
		return errors.Join(control.Fail(backends.ErrBusy, "unmount it first: `tarn umount "+shellWord(d.Mountpoint)+"`", "lake %s is mounted at %s (pid %d)", f.cfg.Name, d.Mountpoint, d.PID), c.Close())
	} else if !errors.Is(err, control.ErrNoDaemon) {
		return err
	}
	if err := f.openCatalogue(ctx); err != nil {
		return err
	}
	if f.cat != nil {
		if err := f.walk(ctx); err != nil {
			return err
		}
	}
	if err := f.journal(); err != nil {
		return err
	}
	if err := f.cache(ctx); err != nil {
		return err
	}
	return f.storages(ctx)
}

// openCatalogue opens the lake's catalogue, verified as a whole, or else the backup.
func (f *fsck) openCatalogue(ctx context.Context) error {
	o := catalogueOptions(f.cfg, f.s.t.now, f.s.logger())
	o.MustExist, o.VerifyBytes = true, 1<<62
	cat, err := embedded.Open(o)
	if err == nil {
		f.cat = cat
		f.onClose(cat.Close)
		if f.repair { // what it changes is in no index; who has the lake open keeps theirs
			return dropIndex(f.cfg)
		}
		return nil
	}
	if !errors.Is(err, backends.ErrDamaged) && !errors.Is(err, backends.ErrUnavailable) {
		if errors.Is(err, backends.ErrBusy) {
			return control.Fail(err, (&opened{cfg: f.cfg}).holder(), "check lake %s: %v", f.cfg.Name, err)
		}
		return err
	}
	f.broken = true
	damage := finding{Kind: "problem", What: "catalogue_damaged", Path: control.Text(f.cfg.Catalogue.Path), Detail: err.Error(), Lost: true}
	if err := f.damages(ctx, o); err != nil {
		return err
	}
	if f.backup == "" {
		return f.add(damage)
	}
	f.sum.Backup = &fsckBackup{}
	if f.repair {
		done, err := f.s.restoreTo(ctx, f.cfg, f.backup, true)
		if err != nil {
			return err
		}
		if cat, err = embedded.Open(o); err != nil {
			return err
		}
		damage.Repaired, damage.Lost, damage.Detail = true, false, "restored from the backup of "+when(done.Made)+"; the damaged one is in "+done.Aside
		f.broken, f.sum.Backup.Restored = false, true
	} else {
		b, err := os.Open(f.backup)
		if err != nil {
			return fmt.Errorf("open the backup: %w", err)
		}
		defer b.Close()
		if cat, _, err = embedded.OpenBackup(ctx, o, b); err != nil {
			return err
		}
	}
	f.cat = cat
	f.onClose(cat.Close)
	return f.add(damage)
}

// damages tells of everything that is wrong with the catalogue's files; the problem that
// Open gave is the first of it.
func (f *fsck) damages(ctx context.Context, o embedded.Options) error {
	all, err := embedded.Damages(ctx, o)
	if errors.Is(err, backends.ErrBusy) || ctx.Err() != nil {
		return err
	}
	if err != nil { // the folder itself, of which Open told
		return nil
	}
	for _, d := range all {
		if err := f.add(finding{Kind: "note", What: "catalogue_tells", Path: control.Text(o.Dir), Detail: d.Error()}); err != nil {
			return err
		}
	}
	return nil
}

// walk learns all copies that the catalogue knows.
func (f *fsck) walk(ctx context.Context) error {
	for sc, err := range f.cat.Scopes(ctx) {
		if err != nil {
			return fmt.Errorf("list the scopes: %w", err)
		}
		if err := f.walkDir(ctx, sc.DID, sc.Layout != backends.LayoutContents, map[backends.DID]bool{}); err != nil {
			return err
		}
	}
	for p, err := range f.cat.Pasts(ctx, backends.DID{}) {
		if err != nil {
			return fmt.Errorf("list what can be undeleted: %w", err)
		}
		f.learn(p.Info, p.Replicas, true)
	}
	return nil
}

func (f *fsck) walkDir(ctx context.Context, d backends.DID, lfn bool, met map[backends.DID]bool) error {
	if met[d] {
		return nil // in layout contents a DID can stand in several places
	}
	met[d] = true
	if lfn {
		f.folders[d.Scope] = append(f.folders[d.Scope], d.Name)
	}
	for in, err := range f.cat.Contents(ctx, d, "") {
		switch {
		case err != nil:
			return fmt.Errorf("list %s: %w", d, err)
		case in.IsDir():
			if err := f.walkDir(ctx, in.DID, lfn, met); err != nil {
				return err
			}
		case !in.IsSymlink() && (lfn || !met[in.DID]):
			if !lfn {
				met[in.DID] = true
			}
			reps, err := f.cat.Replicas(ctx, in.DID)
			if err != nil {
				return fmt.Errorf("replicas of %s: %w", in.DID, err)
			}
			f.sum.Files++
			f.learn(in, reps, false)
		}
	}
	return nil
}

func (f *fsck) learn(in backends.Info, reps []backends.Replica, past bool) {
	file := &fileOf{in: in, past: past}
	if !past {
		f.files[in.DID] = file
	}
	for _, r := range reps {
		at := place{r.RSE, path.Clean(r.PFN)}
		if old := f.known[at]; old != nil && !old.file.past {
			continue // of the current content, which counts
		}
		c := &copyOf{file: file, rep: r}
		f.known[at] = c
		f.sum.Replicas++
	}
}

// journal looks at what was not yet sent. Opening it recovers it, as every mount does.
func (f *fsck) journal() error {
	dir := f.cfg.Journal.Path
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	log := f.tell("journal", dir)
	j, err := journal.Open(journal.Options{Dir: dir, Algs: f.cfg.Checksums, Log: slog.New(log), Now: f.s.t.now, NewHash: journalHash})
	if err != nil {
		return fmt.Errorf("open the journal %s: %w", dir, busy(err))
	}
	f.onClose(j.Close)
	if err := log.flush(); err != nil {
		return err
	}
	for _, e := range j.Entries() {
		r := e.Record()
		f.unsent[string(r.Path)] = true
		for _, c := range r.Copies {
			f.own[place{c.RSE, path.Clean(c.PFN)}] = true
		}
		x := finding{Kind: "note", What: "unsent", Path: control.Text(r.Path), Size: e.Size(), Detail: string(r.State)}
		if r.Damaged {
			x.Kind, x.What, x.Detail, x.Lost = "problem", "unsent_damaged", r.Error+"; its bytes are "+e.Path(), true
		}
		if err := f.add(x); err != nil {
			return err
		}
	}
	orphans, err := journal.Orphans(dir)
	if err != nil {
		return err
	}
	for _, o := range orphans {
		if err := f.add(finding{Kind: "note", What: "orphan", Path: control.Text(o.File), Size: o.Size, Detail: o.Why}); err != nil {
			return err
		}
	}
	return nil
}

// cache makes the index of the hot cache anew, of its own files, as every mount does, and
// reads all blocks with deep. What is damaged is dropped: it is a copy of what lies elsewhere.
func (f *fsck) cache(ctx context.Context) error {
	if _, err := os.Stat(f.cfg.Cache.Path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	log := f.tell("cache", f.cfg.Cache.Path)
	c, err := openCacheOf(f.cfg, slog.New(log), f.s.t.now)
	if err != nil {
		return fmt.Errorf("open the hot cache %s: %w", f.cfg.Cache.Path, busy(err))
	}
	f.onClose(c.Close)
	if err := log.flush(); err != nil {
		return err
	}
	if !f.deep {
		return nil
	}
	r, err := c.Scrub(ctx, nil)
	for _, k := range r.Damaged {
		err = errors.Join(err, f.add(finding{Kind: "problem", What: "cache_damaged", Path: control.Text(k), Detail: "dropped; it is fetched again when it is read", Repaired: true}))
	}
	return err
}

// storages looks at every RSE, and then at what the catalogue knows and nobody has.
func (f *fsck) storages(ctx context.Context) error {
	var strange []stranger
	for i := range f.cfg.RSEs {
		one := *f.cfg
		one.RSEs = f.cfg.RSEs[i : i+1]
		name := one.RSEs[0].Name
		log := f.tell("storage", name)
		o := &opened{cfg: &one, log: slog.New(log), now: f.s.t.now, folders: map[string]string{}}
		rses, err := o.openRSEs(false, credential.New(credential.Options{Getenv: os.Getenv, UID: os.Geteuid(), Now: o.now, Log: o.log}))
		f.onClose(o.Close)
		if err == nil {
			err = f.storage(ctx, rses[0], &strange)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if ferr := log.flush(); ferr != nil {
			return ferr
		}
		if err == nil {
			err = f.temporaries(one.RSEs[0])
		}
		if err != nil {
			for at, c := range f.known {
				if at.rse == name {
					c.seen = true // nobody can tell
					c.file.good++
				}
			}
			if err := f.add(finding{Kind: "problem", What: "storage_unavailable", RSE: name, Detail: err.Error()}); err != nil {
				return err
			}
		}
	}
	if err := f.missing(ctx); err != nil {
		return err
	}
	if b := f.sum.Backup; b != nil {
		b.Files = f.sum.Files
		for _, file := range f.files {
			if file.good > 0 {
				b.Whole++
			}
		}
	}
	if err := f.strangers(ctx, strange); err != nil {
		return err
	}
	return f.lost(ctx)
}

// temporaries counts uploads that nobody ended.
func (f *fsck) temporaries(r config.RSE) error {
	if r.Kind == config.TapeKind || r.Path == "" {
		return nil
	}
	entries, err := os.ReadDir(filepath.Join(r.Path, ".tarn-uploads"))
	if errors.Is(err, os.ErrNotExist) || len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	var size int64
	for _, e := range entries {
		if st, err := e.Info(); err == nil {
			size += st.Size()
		}
	}
	return f.add(finding{Kind: "note", What: "temporaries", RSE: r.Name, Size: size, Detail: count(int64(len(entries)), "upload") + " that did not end; they are removed after a day"})
}

// fsckLog makes findings of warnings. What opening finds damaged it has set right.
type fsckLog struct {
	f          *fsck
	what, path string

	mu   sync.Mutex // guards the rest
	rows []finding
}

func (l *fsckLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (l *fsckLog) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *fsckLog) WithGroup(string) slog.Handler                    { return l }

func (l *fsckLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s", a); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows = append(l.rows, finding{Kind: "note", What: l.what + "_tells", Path: control.Text(l.path), Detail: b.String()})
	return nil
}

// flush adds what was logged so far.
func (l *fsckLog) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.rows {
		if err := l.f.add(r); err != nil {
			return err
		}
	}
	l.rows = nil
	return nil
}
