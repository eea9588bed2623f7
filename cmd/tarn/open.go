package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/catalogue/rucio"
	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/checksum"
	"tarn/backends/credential"
	"tarn/backends/filecat"
	"tarn/backends/index"
	"tarn/backends/ingest"
	"tarn/backends/lake"
	"tarn/backends/naming"
	"tarn/backends/replication"
	"tarn/backends/storage/posix"
	"tarn/backends/tape/library"
	"tarn/cache"
	"tarn/cache/journal"
	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
	"tarn/fs/vfs"
)

// openOptions is what opening a lake needs beside its file.
type openOptions struct {
	// Create makes what the file names and is not there. Without it an empty catalogue
	// folder is an error: a disk that is not mounted is no new lake.
	Create bool
	// Replicate makes the copies that rules want, and deletes what nobody wants.
	Replicate bool
	// Reindex makes the index of metadata anew, as often as index.every says.
	Reindex bool
	// Ingest works on the ingests that are not paused.
	Ingest bool
	Log    *slog.Logger
	Now    func() time.Time
}

// catalogue is what every catalogue of a lake can do.
type catalogue interface {
	backends.Catalogue
	backends.Namespace
	backends.Rules
	backends.Places
	backends.Importer
}

// opened is a lake of which this process holds everything.
type opened struct {
	cfg     *config.Config
	log     *slog.Logger
	now     func() time.Time
	cat     catalogue
	stored  *embedded.Catalogue // the same where it is this machine's; else nil
	rucio   *rucio.Catalogue    // the same where it is a Rucio server's; else nil
	client  *rest.Client        // to that server
	gates   map[string]*gate    // of its RSEs
	lake    *lake.Lake
	cache   *cache.Cache
	journal *journal.Journal
	fs      *vfs.FS
	engine  *replication.Engine // nil without Replicate
	files   *filecat.Catalogue
	ingests *ingest.Set
	index   *index.Index

	noIngests error             // why these could not be opened
	folders   map[string]string // of the disk RSEs

	closers []func() error // in the order of opening
}

// openLake wires a lake file to implementations. Here is the one place that knows which
// there are. An error that wraps backends.ErrBusy means that another process holds the lake.
func openLake(cfg *config.Config, opt openOptions) (_ *opened, err error) {
	o := &opened{cfg: cfg, log: opt.Log, now: opt.Now, folders: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Close())
		}
	}()
	rses, err := o.openCatalogue(opt.Create)
	if err != nil {
		return nil, err
	}
	if err := o.openIndex(); err != nil {
		return nil, err
	}
	lo := lake.Options{
		Catalogue: o.cat, Namespace: o.cat, Rules: o.cat, Places: o.cat, RSEs: rses, Algs: cfg.Checksums,
		ReadTimeout: cfg.Reads.Failover.D(), Patience: cfg.Reads.Patience.D(), Hedge: float64(cfg.Reads.Hedge),
		ThirdParty: int64(cfg.Transfers.ThirdParty), HoldWindow: cfg.Recalls.Hold.D(), Log: o.log, Now: o.now,
		// The tape libraries are in this process: asking them costs nothing.
		Recall: lake.RecallOptions{PollMin: 20 * time.Millisecond, PollMax: time.Second},
	}
	if o.stored != nil {
		lo.Versions, lo.Records = o.cat.(backends.Versions), o.stored
	} else {
		o.lakeOfRucio(&lo)
	}
	for _, w := range cfg.WriteRules {
		lo.WriteRules = append(lo.WriteRules, backends.Rule{Copies: w.Copies, Expression: w.Expression, Comment: w.Comment})
	}
	if o.lake, err = lake.New(lo); err != nil {
		return nil, err
	}
	o.onClose(func() error { o.lake.Close(); return nil })
	o.files = o.fileCatalogue()
	if o.rucio != nil {
		o.whileOpen(5*time.Second, o.followRSEs) // what it gives is mostly from memory
	}
	if err := o.makeScopes(); err != nil {
		return nil, err
	}
	if err := o.openCache(); err != nil {
		return nil, err
	}
	vfs.HoldCopies(o.lake, o.journal, o.log)
	if opt.Replicate && o.stored != nil { // Rucio's daemons do it for Rucio's catalogue
		o.replicate()
	}
	if err := o.openFS(); err != nil {
		return nil, err
	}
	if err := o.openIngests(); err != nil {
		return nil, err
	}
	if opt.Reindex {
		o.reindex()
	}
	if opt.Ingest && o.ingests != nil {
		o.runIngests()
	}
	return o, nil
}

func (o *opened) onClose(f func() error) { o.closers = append(o.closers, f) }

// whileOpen calls f again and again, with a pause before each call, as long as the lake is open.
func (o *opened) whileOpen(pause time.Duration, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			f(ctx)
		}
	}()
	o.onClose(func() error {
		cancel()
		<-done
		return nil
	})
}

// Close gives everything back, what was opened last first. It may be called again.
func (o *opened) Close() error {
	var errs []error
	for i := len(o.closers) - 1; i >= 0; i-- {
		errs = append(errs, o.closers[i]())
	}
	o.closers = nil
	return errors.Join(errs...)
}

// openCatalogue opens it, and the storages.
func (o *opened) openCatalogue(create bool) ([]*lake.RSE, error) {
	cred := credential.New(credential.Options{Getenv: os.Getenv, UID: os.Geteuid(), Now: o.now, Log: o.log})
	if o.cfg.IsRucio() {
		if err := o.openRucio(cred); err != nil {
			return nil, err
		}
		return o.openRucioRSEs(cred)
	}
	if err := o.openStored(create); err != nil {
		return nil, err
	}
	return o.openRSEs(create, cred)
}

// openStored opens a catalogue of this machine.
func (o *opened) openStored(create bool) error {
	c := o.cfg.Catalogue
	if create {
		if err := makeFolder(c.Path); err != nil {
			return err
		}
	} else if _, err := os.Stat(c.Path); errors.Is(err, os.ErrNotExist) {
		return control.Fail(control.ErrFatal, "is its disk mounted? If this lake is new: `tarn init "+o.cfg.File()+"`", "the catalogue's folder %s is not there", c.Path)
	}
	opt := catalogueOptions(o.cfg, o.now, o.log)
	opt.MustExist = !create
	cat, err := embedded.Open(opt)
	switch {
	case errors.Is(err, backends.ErrBusy):
		return control.Fail(err, o.holder(), "open the catalogue of lake %s: %v", o.cfg.Name, err)
	case !create && (errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrUnavailable)):
		return control.Fail(control.ErrFatal, "is its disk mounted? If this lake is new: `tarn init "+o.cfg.File()+"`", "open the catalogue of lake %s: %v", o.cfg.Name, err)
	case err != nil:
		return fmt.Errorf("open the catalogue of lake %s: %w", o.cfg.Name, err)
	}
	o.onClose(cat.Close)
	o.cat, o.stored = cat, cat
	return nil
}

// holder says which process has the lake, as far as that is known.
func (o *opened) holder() string {
	d, err := control.ReadDaemon(o.cfg.Run)
	if err == nil && syscall.Kill(d.PID, 0) == nil {
		if d.Mountpoint != "" {
			return fmt.Sprintf("process %d has it, mounted at %s", d.PID, d.Mountpoint)
		}
		return fmt.Sprintf("process %d has it", d.PID)
	}
	return "another tarn command has it open; try again when that has ended"
}

// makeFolder makes a private folder, whose parents may be missing too.
func makeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return nil
}

func (o *opened) openRSEs(create bool, credentials *credential.Source) ([]*lake.RSE, error) {
	var out []*lake.RSE
	doors := doorsOf(o.cfg, credentials, o.log)
	for _, r := range o.cfg.RSEs {
		r := o.cfg.Here(r)
		rse := &lake.RSE{RSE: r.Backend(), LAN: o.cfg.LAN(r), Distance: r.Distance, Care: careOf(r)}
		if r.Marker != "" {
			rse.Own = []string{r.Marker}
		}
		rse.Naming, _ = naming.ByName(r.Naming) // the lake file was judged
		switch {
		case r.Kind == config.TapeKind:
			lib, err := library.Open(tapeOptions(r, o.log, o.now))
			if err != nil {
				return nil, fmt.Errorf("open the tape library of %s: %w", r.Name, err)
			}
			o.onClose(lib.Close)
			rse.Storage, rse.Tape = lib, lib
			rse.Counters = func() any { return lib.Stats() }
		case len(r.Protocols) > 0:
			st, err := openProtocols(r, doors, credentials, o.cfg.Checksums, o.log, o.now, nil)
			if err != nil {
				return nil, fmt.Errorf("open RSE %s: %w", r.Name, err)
			}
			o.onClose(st.Close)
			rse.Storage, rse.Endpoints = st, st.states
		default:
			if create {
				if err := makeFolder(r.Path); err != nil {
					return nil, fmt.Errorf("RSE %s: %w", r.Name, err)
				}
			}
			st, err := posix.Open(posix.Options{
				Dir: r.Path, Marker: r.Marker, Checksums: o.cfg.Checksums, FreeFloor: int64(r.FreeFloor), ReadOnly: r.ReadOnly, Log: o.log, Now: o.now,
			})
			if err != nil {
				return nil, fmt.Errorf("open RSE %s: %w", r.Name, err)
			}
			o.onClose(st.Close)
			rse.Storage = st
			o.folders[r.Name] = r.Path
		}
		out = append(out, rse)
	}
	return out, nil
}

func tapeOptions(r config.RSE, log *slog.Logger, now func() time.Time) library.Options {
	t := r.Tape
	o := library.Options{
		Dir: r.Path, Drives: t.Drives, Cartridges: t.Cartridges, CartridgeSize: int64(t.CartridgeSize), BufferSize: int64(t.Buffer),
		Timing: library.Timing{
			Robot: t.Robot.D(), Mount: t.Mount.D(), Unmount: t.Unmount.D(), Seek: t.Seek.D(), Rewind: t.Rewind.D(), Rate: int64(t.Rate),
		},
		Speed: float64(t.Speed), Lifetime: t.Keep.D(), Patience: t.Patience.D(), Colocate: t.Colocate, Now: now, Log: log,
	}
	if t.Spread {
		var next atomic.Uint32
		o.Spread = func(string) int { return int(next.Add(1) & (1<<30 - 1)) }
	}
	return o
}

// makeScopes creates those of the lake file that the catalogue lacks.
func (o *opened) makeScopes() error {
	if o.rucio != nil { // they are Rucio's, which may be away
		return nil
	}
	ctx := context.Background()
	have := map[string]backends.Info{}
	for in, err := range o.lake.Namespace().Scopes(ctx) {
		if err != nil {
			return fmt.Errorf("list the scopes of lake %s: %w", o.cfg.Name, err)
		}
		have[in.DID.Scope] = in
	}
	for _, s := range o.cfg.Scopes {
		if in, ok := have[s.Name]; ok {
			if string(in.Layout) != s.Layout && !(in.Layout == "" && s.Layout == string(backends.LayoutLFN)) {
				return control.Fail(control.ErrFatal, "the layout of a scope cannot be changed; correct the lake file", "scope %s has layout %s in the catalogue, and %s in the lake file", s.Name, in.Layout, s.Layout)
			}
			continue
		}
		now := o.now()
		err := o.lake.Namespace().AddScope(ctx, backends.Info{
			DID: backends.DID{Scope: s.Name, Name: "/" + s.Name}, Type: backends.Container, Mode: uint32(s.Mode),
			UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MTime: now, CTime: now, Layout: backends.Layout(s.Layout),
		})
		if err != nil && !errors.Is(err, backends.ErrExist) {
			return fmt.Errorf("make scope %s: %w", s.Name, err)
		}
	}
	return nil
}

func (o *opened) openCache() (err error) {
	c := o.cfg.Cache
	for _, f := range []struct{ key, dir string }{{"cache.path", c.Path}, {"journal.path", o.cfg.Journal.Path}} {
		if err := makeFolder(f.dir); err != nil {
			return o.folderFault(f.key, err)
		}
	}
	o.cache, err = openCacheOf(o.cfg, o.log, o.now)
	if err != nil {
		return o.folderFault("cache.path", fmt.Errorf("open the hot cache %s: %w", c.Path, busy(err)))
	}
	o.onClose(o.cache.Close)
	o.journal, err = journal.Open(journal.Options{
		Dir: o.cfg.Journal.Path, Algs: o.cfg.Checksums, Log: o.log, Now: o.now,
		NewHash: journalHash, SyncEvery: o.cfg.Journal.Sync.D(),
		AllSums: o.cfg.Journal.Close == config.CloseRemote || o.cfg.Journal.Close == config.CloseRegistered,
	})
	if err != nil {
		return o.folderFault("journal.path", fmt.Errorf("open the journal %s: %w", o.cfg.Journal.Path, busy(err)))
	}
	o.onClose(o.journal.Close)
	return nil
}

// catalogueOptions is how the catalogue that a lake file describes is opened.
func catalogueOptions(cfg *config.Config, now func() time.Time, log *slog.Logger) embedded.Options {
	c := cfg.Catalogue
	var places []string
	for _, r := range cfg.RSEs {
		if a, _ := naming.ByName(r.Naming); a != nil {
			places = append(places, r.Name)
		}
	}
	return embedded.Options{
		Dir: c.Path, CacheBytes: min(int64(c.Cache), int64(cfg.Memory)/8), FreeFloor: int64(c.FreeFloor), Grace: c.Grace.D(), Now: now, Log: log,
		Places: places,
	}
}

func journalHash(algs ...string) journal.Hasher { return checksum.New(algs...) }

// openCacheOf opens the hot cache that a lake file describes.
func openCacheOf(cfg *config.Config, log *slog.Logger, now func() time.Time) (*cache.Cache, error) {
	c := cfg.Cache
	var quick cache.Quick
	if c.Verify != config.VerifyStrict {
		quick = cache.Quick{Alg: "adler32", Piece: checksum.Adler32, Join: checksum.Adler32Join}
	}
	return cache.Open(cache.Options{
		Dir: c.Path, Limit: int64(c.Limit), FreeFloor: int64(c.FreeFloor), Block: int(c.Block), Head: orNone(c.Head), Tail: orNone(c.Tail),
		Streams: c.Streams, Memory: int64(cfg.Memory) / 12 * 7, Strict: c.Verify == config.VerifyStrict, Log: log, Now: now,
		NewHash: func(algs ...string) cache.Hasher { return checksum.New(algs...) }, Quick: quick,
	})
}

// folderFault adds to an error of the local disk where its folder is named.
func (o *opened) folderFault(key string, err error) error {
	hint := "make it writable for this user, or let " + key + " in " + o.cfg.File() + " name another folder"
	for _, bad := range []error{syscall.EROFS, syscall.EACCES, syscall.EPERM} {
		if errors.Is(err, bad) {
			return control.Fail(err, hint, "%v", err)
		}
	}
	for _, bad := range []error{syscall.ENOTDIR, syscall.EEXIST, syscall.ELOOP} {
		if errors.Is(err, bad) {
			return control.Fail(control.ErrFatal, hint, "%v", err)
		}
	}
	return err
}

// busy translates the cache's and the journal's word for a lock that another process has.
func busy(err error) error {
	if errors.Is(err, cache.ErrLocked) || errors.Is(err, journal.ErrLocked) {
		return fmt.Errorf("%w: %w", backends.ErrBusy, err)
	}
	return err
}

// orNone turns "keep nothing" into what the cache takes for it.
func orNone(s config.Size) int64 {
	if s == 0 {
		return -1
	}
	return int64(s)
}

func (o *opened) replicate() {
	t := o.cfg.Transfers
	ro := replication.Options{Workers: t.AtATime, PerLink: t.PerLink, Activities: map[string]float64{}, Log: o.log, Now: o.now}
	for _, a := range t.Activities {
		ro.Activities[a.Name] = float64(a.Share)
	}
	for _, l := range t.Links {
		ro.Links = append(ro.Links, replication.Link{From: l.From, To: l.To, Copies: l.Copies})
	}
	o.engine = replication.New(o.lake, ro)
	o.lake.OnBad(func(d backends.DID) { o.engine.Kick(d) })
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := o.engine.Run(ctx); err != nil && ctx.Err() == nil {
			o.log.Error("replication ended", "err", err)
		}
	})
	o.onClose(func() error {
		cancel()
		wg.Wait()
		return nil
	})
}

func (o *opened) openFS() (err error) {
	m, r := o.cfg.Mount, o.cfg.Recalls
	ahead := vfs.ReadAhead{Files: r.Readahead.Files, Bytes: int64(r.Readahead.Bytes)}
	if ahead.Files == 0 {
		ahead.Files = -1
	}
	vo := vfs.Options{
		Lake: o.lake, Cache: o.cache, Journal: o.journal,
		ReadOnly: m.ReadOnly, NoDelete: !m.Delete, Delay: max(o.cfg.Journal.Delay.D(), time.Nanosecond), Close: vfs.CloseMode(o.cfg.Journal.Close),
		Nodes:  int(o.cfg.Memory / 8 / vfs.NodeBytes),
		Policy: policyOf(r.Policy), ReadAhead: ahead, RecallTimeout: r.Timeout.D(), OnSafe: o.kick(), CheckMeta: o.checkMeta, Query: o.files.Query, Quota: o.quotaOrNil(), Log: o.log, Now: o.now,
	}
	o.fs, err = vfs.New(vo)
	if err != nil {
		return fmt.Errorf("open lake %s: %w", o.cfg.Name, err)
	}
	o.onClose(o.fs.Close)
	return nil
}

// kick tells the replication of single files; nil where there is none.
func (o *opened) kick() func(backends.DID) {
	if o.engine == nil {
		return nil
	}
	return func(d backends.DID) { o.engine.Kick(d) }
}

func policyOf(p config.Policy) vfs.Policy {
	out := vfs.Policy{NonBlock: p.Nonblock, BurstFiles: p.Burst.Files, BurstWindow: p.Burst.Window.D(), BurstBelow: int64(p.Burst.Below)}
	for _, r := range p.Rules {
		out.Rules = append(out.Rules, vfs.Rule{Comm: r.Comm, UID: r.UID, TTY: r.TTY, Action: vfs.Action(r.Action)})
	}
	return out
}

// service shows the lake to the commands.
func (o *opened) service() *control.Service {
	s := &control.Service{FS: o.fs, Lake: o.lake, Cache: o.cache, Files: o.files, Index: o.index, Ingest: o.ingests, NoIngest: o.noIngests, Name: o.cfg.Name, Folders: o.folders, Scratch: o.cfg.Run, SetRSE: o.setRSE, Copies: o.ingestCopies, Log: o.log, Now: o.now}
	if o.rucio != nil {
		s.Remote = remote{o}
	}
	if o.engine != nil {
		s.Kick, s.Engine = o.engine.Kick, o.engine
	}
	s.Backup = func(ctx context.Context, w io.Writer) error {
		if o.stored == nil {
			return notRucio(o.cfg, "back up")
		}
		_, err := o.stored.Backup(ctx, w, o.cfg.Name)
		return err
	}
	return s
}

var _ io.Closer = (*opened)(nil)
