// Package endpoint decorates storages by what is common to all that goes through one door of a
// server: a circuit breaker, a limit of calls at a time, and limits of bandwidth.
//
//	doors := endpoint.NewSet(endpoint.Options{Log: log})
//	doors.Limit("davs://door.example.org:2880", endpoint.Limits{Concurrent: 32, Read: 800e6})
//	st = doors.At("davs://door.example.org:2880").Storage(st)
//
// It belongs below package retry: each attempt counts for the breaker, and who waits for his next
// attempt keeps nobody else from his turn.
//
// The breaker opens after Options.Failures temporary failures (backends.ErrTemporary, or no answer
// within the caller's time) with no success between them. For Options.Open every call fails at once
// with backends.ErrHeldOff, which is temporary and unavailable too, so that reads go on elsewhere.
// Then one call tries; its result closes the breaker or opens it anew. While it takes longer than
// that, too, one more tries each time. What a server says of a file or folder, such as
// backends.ErrNotExist or a backends.AnsweredError, is a success: it answers.
//
// A copy by third party is an upload to the limits of both doors, and to their breakers when it succeeds. One that fails
// tells nothing of two doors, for it is not known which is at fault: a server that is down fails what is asked of it next. Since its bytes cannot be paced there is
// none from a door with a limit of what is read, nor to one with a limit of what is written.
package endpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"tarn/backends"
)

// Limits bound what goes through one door; 0 is no limit.
type Limits struct {
	// Concurrent is how many calls may be under way at a time, and apart from them how many uploads, and copies by third
	// party: were they counted together, a copy from one folder of a server to another could wait for itself.
	Concurrent int
	// Read and Write are bytes a second.
	Read, Write int64
}

// tighter gives the smaller of each limit.
func (l Limits) tighter(m Limits) Limits {
	return Limits{smaller(l.Concurrent, m.Concurrent), smaller(l.Read, m.Read), smaller(l.Write, m.Write)}
}

func smaller[T int | int64](a, b T) T {
	if a <= 0 || b > 0 && b < a {
		return max(b, 0)
	}
	return a
}

// Options tune the breakers of a Set; zero fields take the default.
type Options struct {
	// Failures (5) without a success between them open the breaker.
	Failures int
	// Open (2 s) is how long it stays so.
	Open time.Duration
	// Expired tells whether a credential that was found has expired. What a server refuses meanwhile is
	// backends.ErrExpired, too: it may be renewed. nil: never.
	Expired func() bool
	// Log gets every change of a breaker; nil is nowhere.
	Log *slog.Logger
}

// Set has one Endpoint for each door. Its methods may be called in parallel.
type Set struct {
	o Options

	mu     sync.Mutex // guards the rest
	limits map[string]Limits
	doors  map[string]*Endpoint
}

// NewSet has no doors yet.
func NewSet(o Options) *Set {
	if o.Failures <= 0 {
		o.Failures = 5
	}
	if o.Open <= 0 {
		o.Open = 2 * time.Second
	}
	if o.Expired == nil {
		o.Expired = func() bool { return false }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Set{o: o, limits: map[string]Limits{}, doors: map[string]*Endpoint{}}
}

// Limit sets limits of a door before it is opened by At. Of several the smaller ones count.
func (s *Set) Limit(door string, l Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits[door] = s.limits[door].tighter(l)
}

// At gives the Endpoint of a door, the same one each time.
func (s *Set) At(door string) *Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.doors[door]
	if e == nil {
		e = newEndpoint(door, s.o, s.limits[door])
		s.doors[door] = e
	}
	return e
}

// Endpoint is one door of a server.
type Endpoint struct {
	door    string
	o       Options
	limits  Limits
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	calls   *semaphore.Weighted // nil: as many as there are
	uploads *semaphore.Weighted
	read    *rate.Limiter // nil: as fast as it goes
	write   *rate.Limiter

	active, waiting atomic.Int64

	mu       sync.Mutex // guards the rest; after the breaker's own
	since    time.Time  // of the present state; zero: it never changed
	told     bool       // the last change was logged
	state    gobreaker.State
	trial    *trial    // the last one; nil: there was none
	failures int       // without a success between them
	why      string    // the last of them
	whyTime  time.Time //
}

func newEndpoint(door string, o Options, l Limits) *Endpoint {
	e := &Endpoint{door: door, o: o, limits: l, told: true}
	e.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: door, MaxRequests: 1, Timeout: o.Open,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= uint32(o.Failures) },
		IsSuccessful: func(err error) bool { return !isFailure(err) },
		IsExcluded:   saysNothing,
		OnStateChange: func(_ string, _, to gobreaker.State) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.state, e.since, e.told = to, time.Now(), false
		},
	})
	if l.Concurrent > 0 {
		e.calls, e.uploads = semaphore.NewWeighted(int64(l.Concurrent)), semaphore.NewWeighted(int64(l.Concurrent))
	}
	e.read, e.write = limiter(l.Read), limiter(l.Write)
	return e
}

// isFailure tells what counts against a server. What it says of one folder does not: there may be others behind the door.
func isFailure(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || backends.IsTemporary(err) && !errors.Is(err, backends.ErrBusy) && !backends.IsAnswered(err)
}

// saysNothing tells what speaks neither for a server nor against it: somebody else ended the call, or
// it did not come as far as the server.
func saysNothing(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, backends.ErrTooManyFiles) || errors.Is(err, backends.ErrClosed) ||
		errors.Is(err, backends.ErrUnavailable) && !backends.IsTemporary(err)
}

// turn is one call's leave to go through the door.
type turn struct {
	e    *Endpoint
	sem  *semaphore.Weighted
	done func(error)
}

// errNothing speaks neither for a server nor against it.
var errNothing = context.Canceled

// enter asks the breaker, and waits until a turn of sem is free.
func (e *Endpoint) enter(ctx context.Context, sem *semaphore.Weighted) (*turn, error) {
	if e.breaker.State() == gobreaker.StateOpen {
		return nil, e.heldOff() // without waiting
	}
	if sem != nil {
		e.waiting.Add(1)
		err := sem.Acquire(ctx, 1)
		e.waiting.Add(-1)
		if err != nil {
			return nil, fmt.Errorf("wait for one of %d turns at %s: %w", e.limits.Concurrent, e.door, err)
		}
	}
	done, err := e.allow()
	if err != nil {
		if sem != nil {
			sem.Release(1)
		}
		return nil, e.heldOff()
	}
	e.active.Add(1)
	return &turn{e, sem, done}, nil
}

// trial is the one request that the half-open breaker lets through. The first to end of those who share it decides.
type trial struct {
	done  func(error)
	last  time.Time // one began
	calls int       // under way
}

// allow asks the breaker, which may have to wait for hours for the one that tries: others join it, one each Options.Open.
func (e *Endpoint) allow() (func(error), error) {
	done, err := e.breaker.Allow()
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err == nil && e.state != gobreaker.StateHalfOpen:
		return done, nil
	case err == nil:
		e.trial = &trial{done: done}
	case !errors.Is(err, gobreaker.ErrTooManyRequests) || e.trial == nil || time.Since(e.trial.last) < e.o.Open:
		return nil, err
	}
	t := e.trial
	t.last = time.Now()
	t.calls++
	return func(err error) {
		e.mu.Lock()
		t.calls--
		others := t.calls > 0
		e.mu.Unlock()
		if !others || !saysNothing(err) {
			t.done(err)
		}
	}, nil
}

// gave tells the breaker what came of the call, once.
func (t *turn) gave(err error) { t.e.count(t.done, err) }

// end lets the next one in, once.
func (t *turn) end() {
	t.e.active.Add(-1)
	if t.sem != nil {
		t.sem.Release(1)
	}
}

// count tells the breaker what came of a call.
func (e *Endpoint) count(done func(error), err error) {
	e.mu.Lock()
	switch {
	case saysNothing(err):
	case isFailure(err):
		e.failures++
		e.why, e.whyTime = err.Error(), time.Now()
	default:
		e.failures = 0
	}
	e.mu.Unlock()
	done(err)
	e.tell()
}

// note counts what had its turn before, as far as the breaker takes it now.
func (e *Endpoint) note(err error) {
	if done, no := e.breaker.Allow(); no == nil {
		e.count(done, err)
	}
}

// do makes one call.
func (e *Endpoint) do(ctx context.Context, f func() error) error {
	t, err := e.enter(ctx, e.calls)
	if err != nil {
		return err
	}
	defer t.end()
	err = f()
	t.gave(err)
	return e.refused(err)
}

// refused adds to a refusal that a credential has expired.
func (e *Endpoint) refused(err error) error {
	if errors.Is(err, backends.ErrPermission) && !errors.Is(err, backends.ErrExpired) && e.o.Expired() {
		return fmt.Errorf("%w (a credential has %w)", err, backends.ErrExpired)
	}
	return err
}

// heldOff is the error of a call that was not made.
func (e *Endpoint) heldOff() error {
	e.mu.Lock()
	why := e.why
	e.mu.Unlock()
	return fmt.Errorf("%s %w, the last: %s: %w, %w", e.door, backends.ErrHeldOff, why, backends.ErrUnavailable, backends.ErrTemporary)
}

// tell logs the last change of the breaker once.
func (e *Endpoint) tell() {
	e.mu.Lock()
	told, state, why := e.told, e.state, e.why
	e.told = true
	e.mu.Unlock()
	switch {
	case told:
	case state == gobreaker.StateOpen:
		e.o.Log.Warn("server is left alone after failures", "endpoint", e.door, "for", e.o.Open, "err", why)
	case state == gobreaker.StateClosed:
		e.o.Log.Info("server is used again", "endpoint", e.door)
	}
}

// State tells how it is now.
func (e *Endpoint) State() backends.EndpointState {
	word := e.breaker.State().String()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := backends.EndpointState{
		Endpoint: e.door, State: word, Since: e.since, Failures: e.failures,
		Active: int(e.active.Load()), Waiting: int(e.waiting.Load()),
		Concurrent: e.limits.Concurrent, Read: e.limits.Read, Write: e.limits.Write,
	}
	if word != backends.EndpointClosed || e.failures > 0 {
		s.Error, s.Failed = e.why, e.whyTime
	}
	return s
}
