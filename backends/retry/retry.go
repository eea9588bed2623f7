// Package retry decorates storages so that what failed temporarily is tried again: errors that wrap backends.ErrTemporary, and no other.
//
//	st = retry.NewStorage(st, retry.Options{Attempts: 5, Total: time.Minute})
//
// Attempts and the time they take together are bounded, the waits between them grow exponentially
// with jitter and are no shorter than a server asked for (backends.RetryAfter), and the context of the
// call ends everything at once. The last error is what the caller gets. A server that is left alone
// (backends.ErrHeldOff) is no matter of waits: the caller hears of it at once.
//
// Who has the bytes of an upload begins a new one: they have gone by. A copy by third party is an upload in this. Rucio's client repeats its
// calls itself, which knows of each whether it may be made twice, and recalls are tried again by the lake.
package retry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"tarn/backends"
)

// Options bound the retrying; zero fields take the default.
type Options struct {
	// Attempts (5) is how often a call is made at most.
	Attempts int
	// Total (1 min) is how long after the first attempt a last one may begin.
	Total time.Duration
	// First (200 ms) is the wait after the first failure; it doubles up to Max (10 s). Every wait is
	// chosen between its half and its whole, so that clients do not come back in step.
	First, Max time.Duration
	// Budget bounds how much load retrying adds to a server in trouble, over all calls together: so many
	// further attempts there may be, and one more for every ten calls that succeed, as with gRPC's
	// throttling of retries (gRFC A6). 0 is no bound.
	Budget int
	// Now, Sleep and Rand (0 to 1) are the clock and the dice; nil is the real ones.
	Now   func() time.Time
	Sleep func(ctx context.Context, d time.Duration) error
	Rand  func() float64
	// Log gets every failure that is tried again; nil is nowhere.
	Log *slog.Logger

	left *budget
}

// budget is how many tenths of attempts are left.
type budget struct {
	mu     sync.Mutex // guards the rest
	tenths int
}

// take tells whether one more attempt may be made.
func (o *Options) take() bool {
	if o.Budget <= 0 {
		return true
	}
	o.left.mu.Lock()
	defer o.left.mu.Unlock()
	if o.left.tenths < 10 {
		return false
	}
	o.left.tenths -= 10
	return true
}

// earn counts a call that succeeded.
func (o *Options) earn() {
	if o.Budget <= 0 {
		return
	}
	o.left.mu.Lock()
	defer o.left.mu.Unlock()
	o.left.tenths = min(o.left.tenths+1, 10*o.Budget)
}

func (o Options) withDefaults() *Options {
	o.left = &budget{tenths: 10 * o.Budget}
	if o.Attempts <= 0 {
		o.Attempts = 5
	}
	if o.Total <= 0 {
		o.Total = time.Minute
	}
	if o.First <= 0 {
		o.First = 200 * time.Millisecond
	}
	if o.Max <= 0 {
		o.Max = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &o
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

// loop is the retrying of one call.
type loop struct {
	o       *Options
	op      string
	tries   int
	started time.Time
}

func (o *Options) loop(op string) *loop { return &loop{o: o, op: op, started: o.Now()} }

// again waits and tells whether the call that gave err is to be made once more.
func (l *loop) again(ctx context.Context, err error) bool {
	l.tries++
	if !backends.IsTemporary(err) || errors.Is(err, backends.ErrHeldOff) || l.tries >= l.o.Attempts || ctx.Err() != nil {
		return false
	}
	wait := l.o.Max
	if n := l.tries - 1; n < 30 && l.o.First<<n < l.o.Max {
		wait = l.o.First << n
	}
	wait = wait/2 + time.Duration(l.o.Rand()*float64(wait/2))
	wait = max(wait, backends.RetryAfter(err)) // no sooner than a server asked for
	if l.o.Now().Add(wait).Sub(l.started) > l.o.Total || !l.o.take() {
		return false
	}
	l.o.Log.Info("trying again", "op", l.op, "attempt", l.tries+1, "wait", wait, "err", err)
	return l.o.Sleep(ctx, wait) == nil
}

// last is what the caller gets: when its context has ended, that, beside the failure.
func (l *loop) last(ctx context.Context, err error) error {
	if cerr := ctx.Err(); cerr != nil && backends.IsTemporary(err) {
		return fmt.Errorf("%s: %w, after %w", l.op, cerr, err)
	}
	return err
}

// do makes a call until it succeeds, fails for good, or the bounds are reached. f gets the number of the attempt, from 0.
func do(ctx context.Context, o *Options, op string, f func(attempt int) error) error {
	for l := o.loop(op); ; {
		err := f(l.tries)
		if err == nil {
			o.earn()
			return nil
		}
		if !l.again(ctx, err) {
			return l.last(ctx, err)
		}
	}
}

// get is do for calls with a result.
func get[T any](ctx context.Context, o *Options, op string, f func() (T, error)) (v T, err error) {
	err = do(ctx, o, op, func(int) error {
		v, err = f()
		return err
	})
	return v, err
}

// doneBefore lets a repeated call find its own effect: when the answer of the first was lost, word is success.
func doneBefore(attempt int, err, word error) error {
	if attempt > 0 && errors.Is(err, word) {
		return nil
	}
	return err
}
