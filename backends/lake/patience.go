package lake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"tarn/backends"
)

// patience is what an Object has of it. Object.mu guards what changes.
type patience struct {
	limit   time.Duration // 0: none
	without string        // the RSE that is left out
	from    From          // and those that it does not allow

	passing []string      // RSEs that failed in this round in a way that may pass
	rounds  int           // since something was read
	since   time.Time     // the first call that failed began; zero: none did since a replica could be opened
	spent   time.Duration // before since
	allowed time.Duration // from since on, when rounds > 0: limit, or less
}

// Waits between rounds.
const (
	roundMin = 250 * time.Millisecond
	roundMax = 4 * time.Second
	// vainLimit is how long is waited where others have done so in vain: longer than a server is left alone for.
	vainLimit = 3 * time.Second
	// longer is how many times ReadTimeout a replica gets when there is no other: it may be slow, and the
	// storages notice for themselves when nothing moves.
	longer = 10
	// leastAttempt is what an attempt gets when patience is about to end.
	leastAttempt = time.Second
)

// noteLocked remembers whether waiting for a replica may help: it is reached over a network, and is not there
// now or does not take a credential that has expired. Whoever is refused for good is told at once.
func (o *Object) noteLocked(s source, err error) {
	if s.rse == nil || s.rse.Storage.Traits().Local || errors.Is(err, errBadReplica) || errors.Is(err, backends.ErrOffline) {
		return
	}
	if !errors.Is(err, backends.ErrPermission) || errors.Is(err, backends.ErrExpired) {
		o.passing = append(o.passing, s.RSE)
	}
}

// waitsLocked tells whether there is to be one more round. What is on tape is recalled rather than waited for. Whoever
// has waited in vain has done so for all who come soon after: the kernel asks several times for a page that it cannot get.
func (o *Object) waitsLocked() bool {
	switch {
	case o.limit == 0 || len(o.passing) == 0 || o.offline || o.crowded:
		return false
	case o.rounds == 0:
		o.allowed = o.limit
		if o.l.inVain(o.passing) {
			o.allowed = min(o.limit, vainLimit)
		}
	}
	if o.l.now().Sub(o.since) < o.allowed {
		return true
	}
	o.l.noteInVain(o.passing)
	return false
}

// noteInVain remembers that RSEs were waited for in vain.
func (l *Lake) noteInVain(rses []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rses {
		l.vain[r] = l.now()
	}
}

// inVain tells whether all of these were waited for in vain within the last downFor.
func (l *Lake) inVain(rses []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !slices.ContainsFunc(rses, func(r string) bool {
		at, ok := l.vain[r]
		return !ok || l.now().Sub(at) >= downFor
	})
}

// roundLocked waits a little and begins with all replicas anew. It is called with o.mu held, and gives it up.
func (o *Object) roundLocked(ctx context.Context) error {
	if o.rounds == 0 {
		o.l.log.Warn("no replica can be read, waiting for one", "did", o.in.DID, "for", o.allowed, "why", words(o.reasons))
	}
	wait := min(roundMin<<min(o.rounds, 10), roundMax, o.allowed-o.l.now().Sub(o.since))
	o.rounds++
	done := make(chan struct{})
	o.opening = done
	o.mu.Unlock()

	var next []source
	var err error
	t := time.NewTimer(wait)
	select {
	case <-t.C:
		next, err = o.candidates(ctx)
	case <-ctx.Done():
		t.Stop()
		err = ctx.Err()
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	o.opening = nil
	close(done)
	if err != nil {
		return fmt.Errorf("open %s: %w", o.in.DID, err)
	}
	o.next, o.reasons = next, nil
	o.passing, o.offline, o.doubt, o.crowded = nil, false, false, false
	return nil
}

// beginLocked counts time from the beginning of a call that failed.
func (o *Object) beginLocked(at time.Time) {
	if o.since.IsZero() {
		o.since = at.Add(-o.spent)
	}
}

// ready stops the clock until the next call: a reader may take its time.
func (o *Object) ready() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.spent, o.since = o.l.now().Sub(o.since), time.Time{}
}

// attemptContext bounds an attempt of a later round: patience ends in the middle of one.
func (o *Object) attemptContext(ctx context.Context) (context.Context, context.CancelFunc) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.limit == 0 || o.rounds == 0 { // each replica gets its time
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, max(o.allowed-o.l.now().Sub(o.since), leastAttempt))
}

// probe closes h, with an error, unless it gives a byte.
func (o *Object) probe(ctx context.Context, s source, h backends.Object) error {
	err := o.l.attempt(ctx, func(ctx context.Context) error {
		n, err := h.ReadAt(ctx, make([]byte, 1), 0)
		if n == 1 {
			return nil
		}
		return cmp.Or(err, io.ErrUnexpectedEOF)
	})
	if err == nil {
		return nil
	}
	h.Close()
	if ctx.Err() == nil {
		o.l.noteDown(s.RSE, err)
	}
	return fmt.Errorf("read: %w: %w", backends.ErrUnavailable, err)
}

// timeout is how long a read in h may take now.
func (o *Object) timeout(h *opened) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.limit > 0 && (o.rounds > 0 || len(o.next) == 0) && !o.l.inVain([]string{h.RSE}) {
		left := o.limit - o.spent
		if !o.since.IsZero() {
			left = o.limit - o.l.now().Sub(o.since)
		}
		return max(min(longer*o.l.o.ReadTimeout, left), leastAttempt)
	}
	return o.l.o.ReadTimeout
}
