// Package lake makes one client out of a catalogue, the storages and the tape systems
// of a datalake: paths become DIDs, a DID's bytes are read from the best replica with
// fail-over to the next, tape recalls are collected into bulk requests, and what is
// stored is verified before it counts.
//
//	l, err := lake.New(lake.Options{
//		Catalogue: cat, Namespace: cat, Versions: cat, Rules: cat,
//		RSEs: []*lake.RSE{
//			{RSE: backends.RSE{Name: "PIC-DISK", Kind: backends.DiskKind}, Storage: disk},
//			{RSE: backends.RSE{Name: "PIC-TAPE", Kind: backends.TapeKind}, Storage: library, Tape: library, Distance: 1},
//		},
//		WriteRules: []backends.Rule{{Copies: 1, Expression: "rse_type=DISK"}, {Copies: 1, Expression: "rse_type=TAPE"}},
//	})
//
// It knows neither FUSE nor a cache. Which bytes a replica holds is proved by whoever
// reads the whole of it (the cache, Copy, Verify); Open proves existence and size.
package lake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/naming"
	"tarn/backends/rseexpr"
)

// RSE is a storage element of the lake with the way to reach it.
type RSE struct {
	backends.RSE
	Storage  backends.Storage
	Tape     backends.Tape     // nil for disk
	LAN      bool              // it is at this site: Rucio's lan domain, and tried before all others
	Distance int               // 0 is next door; replicas are tried in this order, but for those that were measured to be slow
	Naming   *naming.Algorithm // of new copies, on disk; nil: each has a path of its own
	// Bound: its copies are where Naming says and nowhere else (a deterministic RSE of Rucio's).
	Bound bool
	// Endpoints tells how it stands with the doors of its servers; nil: it has none.
	Endpoints func() []backends.EndpointState
	Counters  func() any // what its machinery counts, for people; nil: nothing
	Care      Care       // how full it may become, and whether it is to be emptied
	Own       []string   // files at its top that are nobody's copies: a marker
	// Unread says why nothing is read there now, "" for nothing; nil: it is always open. Its copies are there all the same, and UNAVAILABLE.
	Unread func() string
}

// Options is what a Lake stands on. Catalogue and Namespace are needed; zero values of
// the rest mean none, or the default.
type Options struct {
	Catalogue backends.Catalogue
	Namespace backends.Namespace
	Versions  backends.Versions
	Rules     backends.Rules
	Places    backends.Places  // needed where an RSE has a Naming; keeps the paths at these
	Records   backends.Records // needed by who looks after whole storages; nil: none does
	RSEs      []*RSE
	// Layout is that of all scopes; "": each has its own.
	Layout backends.Layout
	// Cached is nil for a catalogue that remembers nothing of what a server said.
	Cached backends.Cached
	// Served: the catalogue's server carries out the rules. Of a new file one copy is stored here, the others are the server's.
	Served bool
	// ScopeOf gives the scope of a path, for a catalogue of layout lfn whose scopes are no directories (Rucio with an
	// algorithm such as CTAO's): a path is its DID's name, and in the root stand the paths of what Namespace.Scopes
	// gives. It must give the same for a path at all times. Nil: a path begins with its scope.
	ScopeOf func(path string) string

	// WriteRules are the templates (DID empty) of the rules that a new file gets; the
	// copies of the first are made first.
	WriteRules []backends.Rule
	// Algs are the checksums computed for new files; default checksum.Default.
	Algs []string
	// HoldWindow is how long a recall waits for company; default 200 ms.
	HoldWindow time.Duration
	// ReadTimeout bounds one attempt on one replica, so that a hanging storage costs
	// this much before the next one is tried; default 15 s.
	ReadTimeout time.Duration
	// Patience is how long a reader waits when every replica failed in a way that may pass, while all are
	// tried again and again; it counts from the beginning of the first call that failed, until bytes are read.
	// Storages on this machine are not waited for. Default 0.
	Patience time.Duration
	// Hedge is how many times as long as usual a read may take before another disk replica is read beside it,
	// the first one to give the bytes being read from then on. At least a second passes, and a third of ReadTimeout
	// where nothing is known yet. There are eight at a time, and none for Copy. Default 0: never.
	Hedge float64
	// ThirdParty is how large a file must be for two servers to send it between themselves: what they do before
	// and after takes longer than carrying a small one. Default 0: every file.
	ThirdParty int64
	// Recall tunes what happens after the hold window.
	Recall RecallOptions

	Log *slog.Logger
	Now func() time.Time
}

// Lake is the datalake as one client. All methods may be called in parallel.
type Lake struct {
	o       Options
	table   atomic.Pointer[table] // the RSEs
	started time.Time
	log     *slog.Logger
	now     func() time.Time

	recalls *collector
	meter   *meter
	races   chan struct{} // one for each rival
	closing sync.Once
	onBad   atomic.Pointer[func(backends.DID)]

	exprMu sync.Mutex // guards exprs
	exprs  map[string]rseexpr.Expr

	mu      sync.Mutex                 // guards the rest; never held across I/O
	layouts map[string]backends.Layout // of scopes met so far
	down    map[string]failure         // RSEs that failed lately are tried last
	vain    map[string]time.Time       // when RSEs were last waited for in vain
	claims  map[claim]chan struct{}    // copies that are being made; closed when they are not any more
	sending map[claim]string           // those of them that servers make between themselves, and from which RSE
	apart   map[pair]time.Time         // RSEs whose servers failed at that
	held    map[spot]Holder            // paths of namings that somebody has
	holds   map[Holder][]spot          // the same by holder
	holders uint64                     // made by NewHolder so far
}

// failure is the last trouble with an RSE.
type failure struct {
	at  time.Time
	why string
}

// downFor is how long an RSE that failed is tried after all others.
const downFor = 30 * time.Second

// ErrNoTarget is the error of Targets when the RSEs that match are too few.
var ErrNoTarget = errors.New("too few RSEs match")

// New checks o and starts the goroutines that recalls need; Close ends them.
func New(o Options) (*Lake, error) {
	if o.Catalogue == nil || o.Namespace == nil {
		return nil, errors.New("new lake: a catalogue with a namespace is needed")
	}
	if o.ScopeOf != nil {
		if o.Layout == backends.LayoutContents {
			return nil, errors.New("new lake: a scope follows from a path in layout lfn only")
		}
		o.Layout = backends.LayoutLFN
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if len(o.Algs) == 0 {
		o.Algs = checksum.Default
	}
	if o.HoldWindow <= 0 {
		o.HoldWindow = 200 * time.Millisecond
	}
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = 15 * time.Second
	}
	o.Recall.setDefaults()
	l := &Lake{o: o, log: o.Log, now: o.Now,
		layouts: map[string]backends.Layout{}, down: map[string]failure{}, vain: map[string]time.Time{}, claims: map[claim]chan struct{}{},
		exprs: map[string]rseexpr.Expr{}, sending: map[claim]string{}, apart: map[pair]time.Time{}, held: map[spot]Holder{}, holds: map[Holder][]spot{}}
	l.started, l.meter, l.races = l.now(), newMeter(l.now), make(chan struct{}, mostRaces)
	byName := map[string]*RSE{}
	for _, r := range o.RSEs {
		switch {
		case r == nil || r.Name == "":
			return nil, errors.New("new lake: an RSE has no name")
		case byName[r.Name] != nil:
			return nil, fmt.Errorf("new lake: two RSEs are named %s", r.Name)
		case r.Storage == nil:
			return nil, fmt.Errorf("new lake: RSE %s has no storage", r.Name)
		case (r.Kind == backends.TapeKind) != (r.Tape != nil):
			return nil, fmt.Errorf("new lake: RSE %s: kind %s and a tape system go together", r.Name, backends.TapeKind)
		case r.Bound && r.Naming == nil:
			return nil, fmt.Errorf("new lake: RSE %s: its paths follow from the names, by an algorithm that is not given", r.Name)
		case r.Naming != nil && (o.Places == nil || r.Tape != nil):
			return nil, fmt.Errorf("new lake: RSE %s: naming %s needs a disk, and a catalogue that keeps paths", r.Name, r.Naming)
		}
		byName[r.Name] = r
	}
	l.table.Store(&table{list: slices.Clone(o.RSEs), byName: byName})
	for _, r := range o.WriteRules {
		if _, err := expression(r); err != nil {
			return nil, fmt.Errorf("new lake: write rule: %w", err)
		}
	}
	l.recalls = newCollector(l)
	return l, nil
}

// OnBad lets f be called after a replica was declared BAD: a good copy is missing now. f
// must not block; there is one at most.
func (l *Lake) OnBad(f func(backends.DID)) { l.onBad.Store(&f) }

// Close cancels the recalls that are under way, gives back what they hold, and waits
// for the goroutines of the lake. Open tickets end with ErrClosed. The catalogue and
// the storages are the caller's to close, afterwards.
func (l *Lake) Close() {
	l.recalls.close()
	l.closing.Do(l.awaitRaces)
}

// Catalogue gives what New was given, as do the five methods below.
func (l *Lake) Catalogue() backends.Catalogue { return l.o.Catalogue }

// Namespace edits the tree.
func (l *Lake) Namespace() backends.Namespace { return l.o.Namespace }

// Versions is nil for a catalogue that keeps no old generations.
func (l *Lake) Versions() backends.Versions { return l.o.Versions }

// Refresh forgets what the catalogue remembers of d and of what is below it (the zero DID: of everything), so that its server is
// asked again. False: it remembers nothing.
func (l *Lake) Refresh(d backends.DID) bool {
	if l.o.Cached == nil {
		return false
	}
	l.o.Cached.Refresh(d)
	return true
}

// AsOf tells of when what is shown of d is, where that is older than it should be since the catalogue is away; else zero.
func (l *Lake) AsOf(d backends.DID) time.Time {
	if l.o.Cached == nil {
		return time.Time{}
	}
	return l.o.Cached.AsOf(d)
}

// Served tells whether the catalogue's server carries out the rules (Options.Served).
func (l *Lake) Served() bool { return l.o.Served }

// Rules is nil for a catalogue without rules.
func (l *Lake) Rules() backends.Rules { return l.o.Rules }

// WriteRules are the templates for new files.
func (l *Lake) WriteRules() []backends.Rule { return slices.Clone(l.o.WriteRules) }

// Algs are the checksums computed for new files.
func (l *Lake) Algs() []string { return slices.Clone(l.o.Algs) }

// RSEs lists the storage elements in the order of the configuration, as they are now (SetRSE).
func (l *Lake) RSEs() []*RSE { return slices.Clone(l.table.Load().list) }

// RSE gives the storage element of that name.
func (l *Lake) RSE(name string) (*RSE, bool) {
	r, ok := l.table.Load().byName[name]
	return r, ok
}

// Speed tells what was measured of an RSE's reads.
func (l *Lake) Speed(rse string) Speed { return l.meter.speed(rse) }

// Meta gives d's own metadata.
func (l *Lake) Meta(ctx context.Context, d backends.DID) (backends.Meta, error) {
	return l.o.Catalogue.Meta(ctx, d)
}

// SetMeta merges m into d's metadata; a nil value deletes its key.
func (l *Lake) SetMeta(ctx context.Context, d backends.DID, m backends.Meta) error {
	return l.o.Catalogue.SetMeta(ctx, d, m)
}

// noteDown remembers that the RSE failed, so that others are tried before it.
func (l *Lake) noteDown(rse string, err error) {
	if errors.Is(err, backends.ErrTooManyFiles) {
		return // it could not be asked
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down[rse] = failure{at: l.now(), why: err.Error()}
}

// lately gives the failure of an RSE within the last downFor.
func (l *Lake) lately(rse string) (failure, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.down[rse]
	if ok && l.now().Sub(f.at) >= downFor {
		delete(l.down, rse)
		ok = false
	}
	return f, ok
}

// attempt runs f with the time that one replica may take. A deadline that was f's own,
// and not the caller's, makes the error ErrUnavailable and ErrTemporary.
func (l *Lake) attempt(ctx context.Context, f func(ctx context.Context) error) error {
	return attemptWithin(ctx, l.o.ReadTimeout, f)
}

func attemptWithin(ctx context.Context, limit time.Duration, f func(ctx context.Context) error) error {
	own, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := f(own)
	if err != nil && own.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("no answer within %s: %w: %w", limit, backends.ErrUnavailable, backends.ErrTemporary)
	}
	return err
}

// unavailable wraps reasons into an error that says: not now, but not lost.
func unavailable(op string, d backends.DID, reasons []string) error {
	return fmt.Errorf("%s %s: %s: %w: %w", op, d, words(reasons), backends.ErrUnavailable, backends.ErrTemporary)
}

// words joins reasons for a person, bounded.
func words(reasons []string) string {
	if len(reasons) == 0 {
		return "no replica"
	}
	if len(reasons) > 8 {
		reasons = append(slices.Clone(reasons[:8]), fmt.Sprintf("and %d more", len(reasons)-8))
	}
	return strings.Join(reasons, "; ")
}
