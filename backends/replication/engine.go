// Package replication makes rules true, for catalogues that hold rules but do not act on
// them: it copies what a rule lacks to the RSEs that match, replaces replicas that were
// declared BAD, tells how far each rule is (OK, REPLICATING, STUCK with the reason),
// deletes rules that have expired, and reaps what was replaced or removed once its
// grace period has ended.
//
//	e := replication.New(l, replication.Options{Workers: 4})
//	go e.Run(ctx)       // ends with ctx
//	e.Kick(in.DID)      // a file was written: its rules are looked at now
//
// It deletes nothing that a user might miss: a replica that no rule wants (any more)
// stays, unless its RSE is above its high mark or drained (care.go), and of a file's bytes only those go whose Past has ended, and those of a BAD
// replica whose rule is fulfilled by others of which one was verified. That takes for
// granted that a PFN belongs to one file only, as lake.NewPFN and lake.Place make them; a
// PFN that the file of the same name uses now, or may get back, is spared, and at an RSE
// with a naming one that anything else on record has.
package replication

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

// Options tunes an Engine; zero values mean the defaults.
type Options struct {
	Workers    int                // copies at a time to one RSE; 0: as many as bring most, from
	MinWorkers int                // this; 2
	MaxWorkers int                // to this; 32
	AllWorkers int                // copies at a time to all RSEs, shared evenly, but MinWorkers to each; 64, without Workers
	PerLink    int                // copies at a time from one RSE to another; 0: no bound of its own
	Links      []Link             // for some of them, and before PerLink
	Queue      int                // copies of one activity and priority that wait for one RSE; 256
	Activities map[string]float64 // the share of each that is not 1
	Rules      int                // rules evaluated at a time; 8
	Sweep      time.Duration      // between two looks at all rules; 10 min
	Pending    time.Duration      // between two looks at those that are not OK; 30 s
	Failures   int                // of one copy, after which its rules are STUCK; 5
	RetryMin   time.Duration      // wait after the first failure, doubled for each further one up to
	RetryMax   time.Duration      // this; 1 s and 5 min; half of it is random
	StuckRetry time.Duration      // wait between the tries of a STUCK one; 15 min
	MaxTrouble int                // failing copies remembered; 10000
	MaxLacking int                // files without all copies that are remembered; 100000
	Reap       time.Duration      // between two looks at what can be deleted for good; 1 min
	Care       time.Duration      // between two looks at RSEs that are drained or have marks; 1 min
	Log        *slog.Logger
	Now        func() time.Time // for expiry and grace periods
}

// Engine acts on the rules of one lake. Kick, Status and Transfers may be called at any
// time, from any goroutine.
type Engine struct {
	l   *lake.Lake
	o   Options
	log *slog.Logger

	wg        sync.WaitGroup // all that Run started
	sweepWake chan struct{}
	kickWake  chan struct{}
	reapWake  chan struct{}

	links *links
	dry   bool // it chooses, and nothing more

	mu         sync.Mutex // guards the rest; never held across I/O
	ctx        context.Context
	running    bool
	kicked     map[backends.DID]bool // to be looked at, bounded
	dropped    int                   // kicks that found no room
	sweepNow   bool                  // the rules that are not OK
	sweepAll   bool                  // all rules
	evaluating map[backends.RuleID]bool
	choosing   map[backends.DID]chan struct{} // files whose copies are being chosen; closed at its end
	ledgers    map[backends.RuleID]*ledger
	lackingAll int                      // files in them
	wanting    map[backends.RuleID]bool // something is to be done for
	groups     map[group][]string
	rooms      map[string]room
	dests      map[string]*dest
	moves      map[key]*move
	under      map[backends.DID]int // how many of them a file has
	activities map[string]bool      // that were met
	trouble    map[key]*trouble
	cancelled  map[key]bool
	priorities map[backends.DID]int // that were given by hand
	stats      Status
	care       careState
}

// maxKicked bounds the DIDs that wait for a look. When there are more, all rules are swept.
const maxKicked = 1 << 16

// New gives an engine that does nothing until Run. A lake without rules has nothing but
// Pasts to look after.
func New(l *lake.Lake, o Options) *Engine {
	def(&o.MinWorkers, 2)
	def(&o.MaxWorkers, 32)
	def(&o.AllWorkers, 64)
	o.MaxWorkers = max(o.MinWorkers, o.MaxWorkers)
	def(&o.Queue, 256)
	def(&o.Rules, 8)
	def(&o.Sweep, 10*time.Minute)
	def(&o.Pending, 30*time.Second)
	def(&o.Failures, 5)
	def(&o.RetryMin, time.Second)
	def(&o.RetryMax, 5*time.Minute)
	def(&o.StuckRetry, 15*time.Minute)
	def(&o.MaxTrouble, 10000)
	def(&o.MaxLacking, 100_000)
	def(&o.Reap, time.Minute)
	def(&o.Care, time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	e := &Engine{l: l, o: o, log: o.Log, sweepWake: make(chan struct{}, 1), kickWake: make(chan struct{}, 1), reapWake: make(chan struct{}, 1),
		kicked: map[backends.DID]bool{}, evaluating: map[backends.RuleID]bool{}, choosing: map[backends.DID]chan struct{}{}, ledgers: map[backends.RuleID]*ledger{},
		wanting: map[backends.RuleID]bool{}, groups: map[group][]string{}, rooms: map[string]room{}, dests: map[string]*dest{}, moves: map[key]*move{},
		under: map[backends.DID]int{}, activities: map[string]bool{}, trouble: map[key]*trouble{}, cancelled: map[key]bool{}, priorities: map[backends.DID]int{},
		care: careState{wake: make(chan struct{}, 1), next: map[string]time.Time{}, busy: map[string]bool{}, swept: map[string]bool{}, of: map[string]CareStatus{},
			passed: map[string]map[backends.DID]bool{}}}
	var err error
	if e.links, err = newLinks(l, o.Links, o.PerLink); err != nil {
		e.log.Error("links", "err", err)
	}
	return e
}

func def[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Run acts on the rules until ctx ends, then waits for all that it started. Copies that
// are interrupted go on when it runs again. It is an error to run it twice at a time.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	if e.running {
		e.mu.Unlock()
		return errors.New("replication is running already")
	}
	e.running, e.ctx = true, ctx
	e.mu.Unlock()
	if e.l.Rules() != nil {
		e.wg.Go(func() { e.sweepLoop(ctx) })
		e.wg.Go(func() { e.kickLoop(ctx) })
	}
	if e.l.Versions() != nil {
		e.wg.Go(func() { e.reapLoop(ctx) })
	}
	if e.l.Records() != nil {
		e.wg.Go(func() { e.careLoop(ctx) })
	}
	<-ctx.Done()
	e.wg.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = false
	for _, m := range e.moves {
		if m.ticket != nil {
			m.ticket.Close()
		}
	}
	clear(e.moves)
	clear(e.under)
	clear(e.dests)
	clear(e.ledgers) // what happens meanwhile is not heard of
	e.lackingAll = 0
	clear(e.wanting)
	return nil
}

// Kick makes the engine look at the rules on the given DIDs and on the collections above
// them now rather than at the next sweep. Without DIDs it looks at all rules that are
// not OK, and for what can be reaped. It does not wait.
func (e *Engine) Kick(dids ...backends.DID) {
	e.mu.Lock()
	for _, d := range dids {
		e.kickLocked(d)
	}
	if len(dids) == 0 {
		e.sweepNow = true
		ring(e.reapWake)
	}
	sweep := e.sweepNow || e.sweepAll
	e.mu.Unlock()
	ring(e.kickWake)
	if sweep {
		ring(e.sweepWake)
	}
}

func (e *Engine) kickLocked(d backends.DID) {
	if len(e.kicked) >= maxKicked && !e.kicked[d] {
		e.dropped++
		if !e.sweepAll {
			for _, g := range e.ledgers {
				g.whole = false
			}
		}
		e.sweepAll = true
		ring(e.sweepWake)
		return
	}
	e.kicked[d] = true
}

func ring(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// sleep waits for the duration or the end of ctx; false for the latter.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
