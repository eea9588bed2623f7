package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"tarn/backends"
	"tarn/backends/ingest/watch"
	"tarn/backends/lake"
)

// link is one ingest: its definition, its ledger, and, while it runs, its folder. Each record is worked on by one
// goroutine at a time, whose changes the ledger takes only when nobody else made one meanwhile.
type link struct {
	o      Options
	lake   *lake.Lake
	server backends.Served // of the catalogue, when that is one; else nil
	d      Definition
	scope  string
	target string
	ledger *ledger
	log    *slog.Logger
	rule   watch.Rule
	keep   int64 // of keep-newest; -1: none are kept, -2: none are deleted
	hours  schedule
	rate   *rate.Limiter // nil: no limit
	meters *meters

	clock   func() time.Time                          // of waits; monotonic
	patient func(context.Context, time.Duration) bool // sleep
	tick    time.Duration                             // the clock of the file system's times moves on within this

	hook func(step, path string) error // of tests; an error is a crash

	folder  *folder        // while it runs
	watcher *watch.Watcher // while it runs
	wakes   [3]chan struct{}
	rules   atomic.Bool // a catalogue that is Served is asked again for the rules of the registered files

	inbox inbox

	mu      sync.Mutex // guards the rest; never held across I/O
	gates   map[string]*gate
	choices map[int64]chosen       // RSEs that were chosen lately
	reasons []Lagging              // why the first registered files are not safe
	stalled int64                  // registered files that the server does not get any further with
	doubts  map[Spot]doubt         // copies that could not be verified lately
	leaves  map[string]bool        // lake paths of folders that the server has
	refused map[backends.DID]doubt // directories for which the server did not take the rules
	trouble map[string]string      // that all of it has, by the part that has it
}

// The wakes.
const (
	wakeSender = iota
	wakeProver
	wakeRemover
)

// kick wakes one of the loops.
func (k *link) kick(which int) {
	select {
	case k.wakes[which] <- struct{}{}:
	default:
	}
}

// step is a point at which a crash is simulated.
func (k *link) step(name, path string) error {
	if k.hook == nil {
		return nil
	}
	return k.hook(name, path)
}

// did is the DID of a path.
func (k *link) did(rel string) backends.DID {
	return k.lake.PathDID(k.target + "/" + rel)
}

// newLink makes one from a definition that was checked.
func newLink(o Options, d Definition, l *ledger) (*link, error) {
	k := &link{o: o, lake: o.Lake, d: d, ledger: l, hook: o.hook, log: o.Log.With("ingest", d.Name), keep: -2, clock: time.Now, patient: sleep, tick: tick, meters: newMeters(o.Now), gates: map[string]*gate{}, trouble: map[string]string{}, choices: map[int64]chosen{}, doubts: map[Spot]doubt{}, leaves: map[string]bool{}, refused: map[backends.DID]doubt{}}
	k.server, _ = o.Lake.Catalogue().(backends.Served)
	k.inbox.init()
	for i := range k.wakes {
		k.wakes[i] = make(chan struct{}, 1)
	}
	var err error
	if k.target, err = lake.CleanPath(d.Target); err != nil {
		return nil, err
	}
	k.scope, _, _ = strings.Cut(k.target[1:], "/")
	if k.rule, err = watch.ParseRule(d.Complete); err != nil {
		return nil, err
	}
	if k.keep, err = parseDelete(d.Delete); err != nil {
		return nil, err
	}
	if k.hours, err = parseSchedule(d.Schedule); err != nil {
		return nil, err
	}
	if d.Bandwidth > 0 {
		k.rate = rate.NewLimiter(rate.Limit(d.Bandwidth), int(min(max(d.Bandwidth/4, 1<<20), 64<<20)))
	}
	return k, nil
}

// left are the paths at which a record may have begun copies.
func (r *Record) left() []Spot {
	if r.PFN == "" {
		return r.Left
	}
	return append(r.Left[:len(r.Left):len(r.Left)], Spot{r.RSE, r.PFN})
}

// rank gives the place of a name in Definition.Priority.
func (k *link) rank(rel string) int {
	if k.d.Order != "priority" {
		return 0
	}
	for i, p := range k.d.Priority {
		if ok, _ := path.Match(p, path.Base(rel)); ok {
			return i
		}
	}
	return len(k.d.Priority)
}

// anew forgets a record whose file has changed or is gone; a new version is found again. Copies that were begun are deleted.
func (k *link) anew(ctx context.Context, r *Record, why error) error {
	for _, s := range r.left() {
		k.discard(ctx, r, s)
	}
	k.lake.LetGo(r.held)
	c := &change{path: r.Path, rev: r.Rev}
	if r.Stage == Found {
		k.log.Info("file is not what was found any more", "path", r.Path)
	} else if errors.Is(why, errGone) {
		k.log.Warn("file was lost at the source before it was stored", "path", r.Path, "bytes", r.Size)
	} else {
		c.changed = 1
		k.log.Info("file changed after it was sealed, and begins anew", "path", r.Path)
	}
	err := k.ledger.commit(c)
	if k.watcher != nil {
		k.watcher.Kick()
	}
	return err
}

// discard deletes a copy that is not wanted, unless the catalogue has it.
func (k *link) discard(ctx context.Context, r *Record, s Spot) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settled) // later it may be somebody else's
	defer cancel()
	rse, ok := k.lake.RSE(s.RSE)
	if !ok {
		return
	}
	on, err := k.onRecord(ctx, r.DID)
	if err == nil || errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
		for _, x := range on {
			if x.RSE == s.RSE && x.PFN == s.PFN {
				return
			}
		}
		if on, err := k.inPasts(ctx, r.DID, s); err != nil || on {
			return
		}
		err = k.lake.RemoveAt(ctx, rse, s.PFN, 0)
	}
	if err != nil {
		k.log.Warn("a copy stays behind", "rse", s.RSE, "pfn", s.PFN, "err", err)
	}
}

// onRecord lists the copies of a file as the catalogue has them now.
func (k *link) onRecord(ctx context.Context, d backends.DID) ([]backends.Replica, error) {
	if k.server == nil {
		return k.lake.Catalogue().Replicas(ctx, d)
	}
	l, err := k.server.Look(ctx, []backends.DID{d})
	return l[d].Replicas, err
}

// inPasts tells whether an old content of the DID has its copy there.
func (k *link) inPasts(ctx context.Context, d backends.DID, s Spot) (bool, error) {
	v := k.lake.Versions()
	if v == nil {
		return false, nil
	}
	for p, err := range v.Pasts(ctx, d) {
		if err != nil {
			return true, err
		}
		for _, x := range p.Replicas {
			if x.RSE == s.RSE && x.PFN == s.PFN {
				return true, nil
			}
		}
	}
	return false, nil
}

// fail notes that a file failed; it is tried again after a while, ever longer.
func (k *link) fail(r *Record, why error) error {
	k.lake.LetGo(r.held)
	r.held = ""
	to := *r
	attempts := r.Attempts + 1
	if errors.Is(why, errTaken) || errors.Is(why, errUncertain) { // that is not going to change by itself
		attempts = max(attempts, stuckAfter)
	}
	to.Stage, to.Attempts, to.Error, to.NextTry = Found, attempts, why.Error(), k.o.Now().Add(patience(attempts))
	to.SealedAt, to.TransferredAt, to.VerifiedAt = time.Time{}, time.Time{}, time.Time{}
	level := slog.LevelInfo
	if to.Attempts == stuckAfter {
		level = slog.LevelWarn
	}
	k.log.Log(context.Background(), level, "file failed", "path", r.Path, "attempts", to.Attempts, "err", why)
	defer k.kick(wakeSender) // it has to know when to come again
	return k.commitOne(&change{path: r.Path, rev: r.Rev, to: &to, fails: 1})
}

// commitOne is commit of one change, with its own error.
func (k *link) commitOne(c *change) error {
	if err := k.ledger.commit(c); err != nil {
		return err
	}
	return c.err
}

// setTrouble notes what a part of the ingest suffers from; nil: nothing any more.
func (k *link) setTrouble(part string, err error) {
	s := ""
	if err != nil {
		s = err.Error()
	}
	k.mu.Lock()
	was := k.trouble[part]
	if k.trouble[part] = s; s == "" {
		delete(k.trouble, part)
	}
	k.mu.Unlock()
	if s != "" && s != was {
		k.log.Warn("ingest waits", "part", part, "err", s)
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

// errNoRules is why nothing is safe in a lake that has none.
var errNoRules = fmt.Errorf("no rule asks for copies of it: %w", backends.ErrNotSupported)
