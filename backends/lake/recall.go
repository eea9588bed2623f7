package lake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn/backends"
)

// RecallOptions tunes recalls; zero values mean the defaults.
type RecallOptions struct {
	PollMin     time.Duration // first wait between two polls of a tape system; 500 ms, growing to
	PollMax     time.Duration // 15 s while nothing changes
	Recheck     time.Duration // how often a disk replica that appeared meanwhile is looked for; 5 s
	Tries       int           // of one file before its recall has failed; 3
	RetryDelay  time.Duration // before the second try, doubled for each further one; 5 s
	FailedFor   time.Duration // how long after a failure a new Recall fails at once; 30 s
	Patience    time.Duration // how long a tape system may not answer before that is a failed try; 5 min
	CallTimeout time.Duration // of one call to a tape system; 60 s
	MaxBulk     int           // files in one stage request; 10000
	MaxPending  int           // recalls at a time; 1000000
	MaxFailed   int           // failed recalls kept for Recalls; 1000
}

func (o *RecallOptions) setDefaults() {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.PollMin, 500 * time.Millisecond}, {&o.PollMax, 15 * time.Second}, {&o.Recheck, 5 * time.Second},
		{&o.RetryDelay, 5 * time.Second}, {&o.FailedFor, 30 * time.Second}, {&o.Patience, 5 * time.Minute},
		{&o.CallTimeout, time.Minute},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	for _, n := range []struct {
		v   *int
		def int
	}{{&o.Tries, 3}, {&o.MaxBulk, 10000}, {&o.MaxPending, 1000000}, {&o.MaxFailed, 1000}} {
		if *n.v <= 0 {
			*n.v = n.def
		}
	}
	o.PollMax = max(o.PollMax, o.PollMin)
}

// recall is one content on its way from tape, shared by all tickets for it. Its life:
// held (waits for company) → resolving (which replica) → queued (at a stager) → staged
// (asked for at the tape system) → done, kept in the tape buffer until the last
// ticket is closed. A failed try goes back to held after a delay.
type recall struct {
	id   string
	key  string
	in   backends.Info
	only string        // the RSE it must come from, "" for any
	done chan struct{} // closed when it has ended, well or not

	// Guarded by collector.mu.
	refs     int
	stage    stage
	phase    backends.RecallPhase
	err      error  // how it ended
	trouble  string // what went wrong last, while it goes on
	position int
	eta      time.Duration
	since    time.Time // by the injected clock, to show
	ended    time.Time // by the machine's clock
	checked  time.Time // when a disk replica was looked for
	rse      *RSE
	pfn      string
	req      *request
	tries    int
	failedAt map[string]int // tries failed, by RSE
}

type stage int

const (
	held stage = iota
	resolving
	queued
	staged
	ready  // ended well, kept until the last ticket is closed
	failed // or cancelled
)

func (r *recall) pending() bool { return r.stage < ready }

// collector turns wants into bulk requests.
type collector struct {
	l      *Lake
	o      RecallOptions
	hold   time.Duration
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{}
	tapes  map[string]*stager

	mu       sync.Mutex         // guards the rest and every recall and request; never held across I/O
	active   map[string]*recall // by key: those that a new want joins
	all      map[string]*recall // by id: pending ones, and ready ones that have tickets
	held     []*recall
	flushAt  time.Time
	retries  []retry
	failures map[string]*failedRecall // by key, bounded
	seq      int
	closed   bool
	stats    Stats
}

type retry struct {
	r  *recall
	at time.Time
}

type failedRecall struct {
	RecallInfo
	err   error
	seq   int
	until time.Time // new wants fail at once
}

func newCollector(l *Lake) *collector {
	c := &collector{l: l, o: l.o.Recall, hold: l.o.HoldWindow, wake: make(chan struct{}, 1), tapes: map[string]*stager{},
		active: map[string]*recall{}, all: map[string]*recall{}, failures: map[string]*failedRecall{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for _, r := range l.RSEs() {
		if r.Tape != nil {
			c.tapes[r.Name] = &stager{c: c, rse: r, wake: make(chan struct{}, 1)}
			c.wg.Go(c.tapes[r.Name].run)
		}
	}
	c.wg.Go(c.run)
	return c
}

func ring(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// join gives a ticket for each content, beginning recalls where there are none.
func (c *collector) join(ins []backends.Info, only string, hold time.Duration) []*Ticket {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*Ticket, 0, len(ins))
	now := time.Now()
	for _, in := range ins {
		r := c.wantLocked(in, only, now)
		r.refs++
		out = append(out, &Ticket{c: c, r: r})
	}
	if len(c.held) > 0 && (c.flushAt.IsZero() || now.Add(hold).Before(c.flushAt)) {
		c.flushAt = now.Add(hold)
		ring(c.wake)
	}
	return out
}

func (c *collector) wantLocked(in backends.Info, only string, now time.Time) *recall {
	key := string(in.Generation)
	if key == "" {
		key = in.DID.String()
	}
	key = only + " " + key
	c.seq++
	r := &recall{id: fmt.Sprintf("r%d", c.seq), key: key, in: in, only: only, since: c.l.now(), phase: backends.RecallSubmitted,
		done: make(chan struct{}), failedAt: map[string]int{}}
	endedWith := func(err error) *recall {
		r.stage, r.phase, r.err = failed, backends.RecallFailed, err
		if err == nil {
			r.stage, r.phase = ready, backends.RecallCompleted
		}
		close(r.done)
		return r
	}
	switch {
	case c.closed:
		return endedWith(fmt.Errorf("recall %s: the lake %w", in.DID, backends.ErrClosed))
	case in.Type != backends.File:
		return endedWith(fmt.Errorf("recall %s: %w", in.DID, backends.ErrIsDir))
	case in.Size == 0 || in.IsSymlink():
		return endedWith(nil)
	}
	if old := c.active[key]; old != nil && (old.pending() || now.Sub(old.ended) < c.o.Recheck) {
		return old
	}
	// One that is ready since long may have been evicted by hand: a new one makes sure.
	if f := c.failures[key]; f != nil {
		if now.Before(f.until) {
			return endedWith(f.err)
		}
		delete(c.failures, key)
	}
	if len(c.all) >= c.o.MaxPending {
		return endedWith(fmt.Errorf("recall %s: %d recalls are under way: %w: %w", in.DID, len(c.all), backends.ErrBusy, backends.ErrTemporary))
	}
	c.active[key], c.all[r.id] = r, r
	c.held = append(c.held, r)
	c.stats.Recalls++
	return r
}

// dropLocked ends the interest in r: nobody has a ticket any more, or the user says so.
func (c *collector) dropLocked(r *recall) {
	if r.stage == failed || c.all[r.id] != r {
		return
	}
	if r.pending() {
		c.stats.Cancelled++
		c.leaveLocked(r)
		c.endLocked(r, failed, fmt.Errorf("recall %s %w", r.in.DID, backends.ErrCancelled))
		return
	}
	c.leaveLocked(r)
	c.forgetLocked(r)
}

func (c *collector) forgetLocked(r *recall) {
	delete(c.all, r.id)
	if c.active[r.key] == r {
		delete(c.active, r.key)
	}
}

// leaveLocked tells the tape system that r is not needed any more: cancelled when it is
// under way, released when it is there.
func (c *collector) leaveLocked(r *recall) {
	if r.req != nil {
		r.req.leaveLocked(r)
		r.req = nil
	}
}

// endLocked is the end of the waiting.
func (c *collector) endLocked(r *recall, s stage, err error) {
	r.stage, r.err, r.ended = s, err, time.Now()
	r.position, r.eta = 0, 0
	switch {
	case err == nil:
		r.phase, r.trouble = backends.RecallCompleted, ""
	case errors.Is(err, backends.ErrCancelled):
		r.phase = backends.RecallCancelled
	default:
		r.phase = backends.RecallFailed
	}
	if s == failed {
		c.forgetLocked(r)
	}
	close(r.done)
}

// failLocked ends one try of r at an RSE. Further ones follow after a delay, unless they
// are used up or final says that they are of no use.
func (c *collector) failLocked(r *recall, why error, final bool) {
	if !r.pending() {
		return
	}
	c.leaveLocked(r)
	r.tries++
	r.trouble = why.Error()
	if r.rse != nil {
		r.failedAt[r.rse.Name]++
	}
	if !final && r.tries < c.o.Tries {
		r.stage, r.phase = held, backends.RecallSubmitted
		r.position, r.eta = 0, 0
		c.retries = append(c.retries, retry{r, time.Now().Add(c.o.RetryDelay << (r.tries - 1))})
		ring(c.wake)
		return
	}
	err := fmt.Errorf("recall %s: %w", r.in.DID, why)
	if !errors.Is(err, backends.ErrLost) && !errors.Is(err, backends.ErrUnavailable) && !errors.Is(err, backends.ErrStale) {
		err = fmt.Errorf("%w: %w: %w", err, backends.ErrUnavailable, backends.ErrTemporary)
	}
	if errors.Is(err, backends.ErrStale) {
		// Not the storage's failure, and not to be remembered: the content may be there under another name.
		c.l.log.Info("recall of what is gone", "did", r.in.DID, "err", err)
		c.endLocked(r, failed, err)
		return
	}
	c.l.log.Error("recall failed", "did", r.in.DID, "tries", r.tries, "err", err)
	info := c.infoLocked(r)
	c.endLocked(r, failed, err)
	c.stats.Failed++
	info.Phase, info.Failed, info.Error, info.Waiters = backends.RecallFailed, true, err.Error(), 0
	c.failures[r.key] = &failedRecall{RecallInfo: info, err: err, seq: c.seq, until: time.Now().Add(c.o.FailedFor)}
	c.seq++
	if len(c.failures) > c.o.MaxFailed {
		oldest := ""
		for k, f := range c.failures {
			if oldest == "" || f.seq < c.failures[oldest].seq {
				oldest = k
			}
		}
		delete(c.failures, oldest)
	}
}

// run waits for hold windows, retries and re-checks to be due.
func (c *collector) run() {
	recheck := time.Now().Add(c.o.Recheck)
	for {
		c.mu.Lock()
		now := time.Now()
		c.retries = slices.DeleteFunc(c.retries, func(t retry) bool {
			if t.r.pending() && t.at.After(now) {
				return false
			}
			if t.r.pending() {
				c.held = append(c.held, t.r)
			}
			return true
		})
		if len(c.held) > 0 && c.flushAt.IsZero() {
			c.flushAt = now // retries have waited
		}
		var batch []*recall
		if len(c.held) > 0 && !c.flushAt.After(now) {
			batch, c.held, c.flushAt = c.held, nil, time.Time{}
		}
		var next time.Time
		earliest := func(t time.Time) {
			if next.IsZero() || t.Before(next) {
				next = t
			}
		}
		if len(c.held) > 0 {
			earliest(c.flushAt)
		}
		for _, t := range c.retries {
			earliest(t.at)
		}
		if len(c.all) > 0 {
			if recheck.Before(now) {
				recheck = now
			}
			earliest(recheck)
		}
		c.mu.Unlock()

		if len(batch) > 0 {
			c.resolve(batch)
			continue
		}
		if !next.IsZero() && !next.After(now) { // nothing else is due: the re-check
			c.recheck()
			recheck = time.Now().Add(c.o.Recheck)
			continue
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(next.Sub(now))
		}
		select {
		case <-c.ctx.Done():
			return
		case <-c.wake:
		case <-timer:
		}
	}
}

// close ends all recalls, gives back what they hold, and waits for the goroutines.
func (c *collector) close() {
	c.mu.Lock()
	c.closed = true
	for _, r := range c.all {
		c.leaveLocked(r)
		if r.pending() {
			c.endLocked(r, failed, fmt.Errorf("recall %s: the lake %w", r.in.DID, backends.ErrClosed))
		}
	}
	clear(c.all)
	clear(c.active)
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
}

// explain tells what is known of in's recall, for Lake.Explain.
func (c *collector) explain(in backends.Info) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := " " + string(in.Generation)
	if in.Generation == "" {
		key += in.DID.String()
	}
	if r := c.active[key]; r != nil && r.pending() {
		s := fmt.Sprintf(", recall %s is under way (%s)", r.id, strings.ToLower(string(r.phase)))
		if r.position > 0 {
			s += fmt.Sprintf(", position %d", r.position)
		}
		return s
	}
	if f := c.failures[key]; f != nil {
		return ", its last recall failed: " + f.Error
	}
	return ""
}
