package endpoint

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"
)

func limiter(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	// A tenth of a second at once, and enough for a network's packet.
	return rate.NewLimiter(rate.Limit(perSecond), int(max(perSecond/10, 64<<10)))
}

// piece is how many of n bytes go at once.
func piece(l *rate.Limiter, n int) int {
	if l == nil {
		return n
	}
	return min(n, l.Burst())
}

// fare is the place in the line for n bytes that have not gone yet; due is when each piece of them may.
type fare struct {
	l   *rate.Limiter // nil: always
	n   int
	due []time.Time
}

// book takes a place; false: n bytes cannot all go before the end of ctx, and nothing was taken.
func book(ctx context.Context, l *rate.Limiter, n int) (f fare, ok bool) {
	if l == nil {
		return fare{}, true
	}
	now := time.Now()
	seconds := (float64(n) - l.TokensAt(now)) / float64(l.Limit())
	if end, limited := ctx.Deadline(); limited && seconds > end.Sub(now).Seconds() {
		return fare{}, false
	}
	f = fare{l: l, n: n}
	for ; n > 0; n -= l.Burst() {
		f.due = append(f.due, now.Add(l.ReserveN(now, piece(l, n)).DelayFrom(now)))
	}
	return f, true
}

// next waits until the next piece may go.
func (f *fare) next(ctx context.Context) error {
	if len(f.due) == 0 {
		return nil
	}
	if wait := time.Until(f.due[0]); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.n, f.due = f.n-piece(f.l, f.n), f.due[1:]
	return nil
}

// leave gives back what was not used. Reservation.Cancel would give back that of the last in the line only.
func (f *fare) leave() {
	if f.n > 0 {
		f.l.ReserveN(time.Now(), -f.n)
	}
}

// late is for whoever cannot wait for his bytes: he hears it at the end of his time, since asking again at once is no use.
func (e *Endpoint) late(ctx context.Context, l *rate.Limiter) error {
	<-ctx.Done()
	return fmt.Errorf("%.0f bytes a second at %s are taken by others: %w", l.Limit(), e.door, ctx.Err())
}

// pay waits until one piece may go.
func (e *Endpoint) pay(ctx context.Context, l *rate.Limiter, n int) error {
	f, ok := book(ctx, l, n)
	if !ok {
		return e.late(ctx, l)
	}
	defer f.leave()
	return f.next(ctx)
}
