package lake

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tarn/backends"
)

// patience is what an Object has of it. Object.mu guards what changes.
type patience struct {
	limit   time.Duration // 0: none
	without string        // the RSE that is left out

	passing bool      // one of the last round failed in a way that may pass
	rounds  int       // since something was read
	since   time.Time // the first of them ended
}

// Waits between rounds.
const (
	roundMin = 250 * time.Millisecond
	roundMax = 4 * time.Second
	// longer is how many times ReadTimeout a replica gets when there is no other: it may be slow, and the
	// storages notice for themselves when nothing moves.
	longer = 10
)

// noteLocked remembers whether waiting for a replica may help: it is reached over a network, and is not there
// now or does not take a credential that has expired. Whoever is refused for good is told at once.
func (o *Object) noteLocked(s source, err error) {
	if s.rse == nil || s.rse.Storage.Traits().Local || errors.Is(err, errBadReplica) || errors.Is(err, backends.ErrOffline) {
		return
	}
	if !errors.Is(err, backends.ErrPermission) || errors.Is(err, backends.ErrExpired) {
		o.passing = true
	}
}

// waitsLocked tells whether there is to be one more round. What is on tape is recalled rather than waited for.
func (o *Object) waitsLocked() bool {
	return o.limit > 0 && o.passing && !o.offline && !o.crowded && (o.since.IsZero() || o.l.now().Sub(o.since) < o.limit)
}

// roundLocked waits a little and begins with all replicas anew. It is called with o.mu held, and gives it up.
func (o *Object) roundLocked(ctx context.Context) error {
	if o.since.IsZero() {
		o.since = o.l.now()
		o.l.log.Warn("no replica can be read, waiting for one", "did", o.in.DID, "for", o.limit, "why", words(o.reasons))
	}
	wait := min(roundMin<<min(o.rounds, 10), roundMax)
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
	o.passing, o.offline, o.doubt = false, false, false
	return nil
}

// timeout is how long one attempt may take now.
func (o *Object) timeout() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.limit > 0 && (o.rounds > 0 || len(o.next) == 0) {
		return longer * o.l.o.ReadTimeout
	}
	return o.l.o.ReadTimeout
}
