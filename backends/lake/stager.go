package lake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/backends"
)

// stager speaks to one tape system, from one goroutine: stage, poll, cancel, release.
type stager struct {
	c    *collector
	rse  *RSE
	wake chan struct{}

	// Guarded by collector.mu.
	incoming []batch
	requests []*request
	leaving  []leave
	leaveAt  time.Time // when those are told; they wait for company as stages do
	told     []chan struct{}

	// Of the goroutine.
	wait   time.Duration // between polls
	poll   time.Time     // when the next is due
	silent time.Time     // since when the tape system does not answer
}

type batch struct {
	recalls []*recall
	after   time.Time
}

// request is one stage request; guarded by collector.mu.
type request struct {
	s      *stager
	id     backends.RecallID
	paths  []string
	wanted map[string][]*recall // by path; a path that is not here was given up
	begun  time.Time
	gone   bool // forgotten by the tape system, or given up
}

// leave is a path to cancel or to release.
type leave struct {
	req     *request
	path    string
	release bool
	tries   int
}

// leaveTries bounds the attempts to cancel or release; the request's lifetime ends the rest.
const leaveTries = 5

func (s *stager) add(rs []*recall, after time.Time) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.incoming = append(s.incoming, batch{rs, after})
	ring(s.wake)
}

// leaveLocked takes r out of the request; the path is given up with its last recall.
func (q *request) leaveLocked(r *recall) {
	left := slices.DeleteFunc(q.wanted[r.pfn], func(x *recall) bool { return x == r })
	if len(left) > 0 {
		q.wanted[r.pfn] = left
		return
	}
	delete(q.wanted, r.pfn)
	if q.gone || q.id == "" {
		return // nothing to tell, or told when the stage call has returned
	}
	q.s.leavingLocked(leave{req: q, path: r.pfn, release: r.stage == ready})
}

func (s *stager) leavingLocked(x leave) {
	if len(s.leaving)+len(s.told) == 0 {
		s.leaveAt = time.Now().Add(s.c.hold)
		ring(s.wake)
	}
	s.leaving = append(s.leaving, x)
}

// pendingLocked tells whether the request has files that have not arrived.
func (q *request) pendingLocked() bool {
	if q.gone {
		return false
	}
	for _, rs := range q.wanted {
		for _, r := range rs {
			if r.pending() {
				return true
			}
		}
	}
	return false
}

func (s *stager) run() {
	s.wait = s.c.o.PollMin
	for {
		next := s.work(s.c.ctx)
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-s.c.ctx.Done():
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			s.leave(ctx)
			cancel()
			return
		case <-s.wake:
		case <-timer:
		}
	}
}

// work does what is due and tells when the next thing is; zero: when woken.
func (s *stager) work(ctx context.Context) time.Time {
	s.c.mu.Lock()
	now := time.Now()
	var due []*recall
	s.incoming = slices.DeleteFunc(s.incoming, func(b batch) bool {
		if b.after.After(now) {
			return false
		}
		due = append(due, b.recalls...)
		return true
	})
	leave := len(s.leaving)+len(s.told) > 0 && !s.leaveAt.After(now)
	s.c.mu.Unlock()
	for part := range slices.Chunk(due, s.c.o.MaxBulk) {
		s.stage(ctx, part)
	}
	if leave {
		s.leave(ctx)
	}

	s.c.mu.Lock()
	s.requests = slices.DeleteFunc(s.requests, func(q *request) bool { return q.gone || len(q.wanted) == 0 })
	var open []*request
	for _, q := range s.requests {
		if q.pendingLocked() {
			open = append(open, q)
		}
	}
	s.c.mu.Unlock()
	if len(open) > 0 && !time.Now().Before(s.poll) && ctx.Err() == nil {
		changed := false
		for _, q := range open {
			changed = s.pollRequest(ctx, q) || changed
		}
		if changed {
			s.wait = s.c.o.PollMin
		} else {
			s.wait = min(s.wait*3/2, s.c.o.PollMax)
		}
		s.poll = time.Now().Add(s.wait)
	}

	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	var next time.Time
	earliest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, b := range s.incoming {
		earliest(b.after)
	}
	for _, q := range s.requests {
		if q.pendingLocked() {
			earliest(s.poll)
		}
	}
	if len(s.leaving)+len(s.told) > 0 {
		earliest(s.leaveAt)
	}
	return next
}

// call bounds one call to the tape system.
func (s *stager) call(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.c.o.CallTimeout)
	defer cancel()
	return f(ctx)
}

// stage makes one request of many recalls.
func (s *stager) stage(ctx context.Context, rs []*recall) {
	q := &request{s: s, wanted: map[string][]*recall{}, begun: time.Now()}
	s.c.mu.Lock()
	var bytes int64
	for _, r := range rs {
		if !r.pending() {
			continue
		}
		if q.wanted[r.pfn] == nil {
			q.paths = append(q.paths, r.pfn)
			bytes += r.in.Size
		}
		q.wanted[r.pfn] = append(q.wanted[r.pfn], r)
		r.req = q
	}
	s.c.mu.Unlock()
	if len(q.paths) == 0 {
		return
	}
	var id backends.RecallID
	err := s.call(ctx, func(ctx context.Context) (err error) {
		id, err = s.rse.Tape.Stage(ctx, q.paths...)
		return err
	})
	s.c.l.log.Info("stage", "rse", s.rse.Name, "files", len(q.paths), "bytes", bytes, "request", id, "err", err)

	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if err != nil {
		q.gone = true
		err = fmt.Errorf("stage at %s: %w", s.rse.Name, err)
		s.failLocked(q, err)
		return
	}
	q.id = id
	s.c.stats.BulkRequests++
	s.requests = append(s.requests, q)
	for _, p := range q.paths {
		if q.wanted[p] == nil { // given up while the call was under way
			s.leavingLocked(leave{req: q, path: p})
			continue
		}
		for _, r := range q.wanted[p] {
			r.stage = staged
		}
	}
	s.wait = s.c.o.PollMin
	s.poll = time.Now().Add(s.wait)
}

// failLocked ends the try of every recall of q that is still pending.
func (s *stager) failLocked(q *request, why error) {
	for _, p := range q.paths {
		for _, r := range slices.Clone(q.wanted[p]) {
			if r.pending() {
				s.c.failLocked(r, why, false)
			}
		}
	}
}

// pollRequest asks how far a request is, and tells whether anything has changed.
func (s *stager) pollRequest(ctx context.Context, q *request) (changed bool) {
	var states []backends.RecallState
	err := s.call(ctx, func(ctx context.Context) (err error) {
		states, err = s.rse.Tape.Poll(ctx, q.id)
		return err
	})
	if ctx.Err() != nil {
		return false
	}
	if err == nil && len(states) != len(q.paths) {
		err = fmt.Errorf("%d states for %d files: %w", len(states), len(q.paths), backends.ErrDamaged)
	}
	if errors.Is(err, backends.ErrNotExist) {
		s.forgotten(q)
		return true
	}
	if err != nil {
		s.unanswered(q, fmt.Errorf("poll %s at %s: %w", q.id, s.rse.Name, err))
		return false
	}
	s.silent = time.Time{}
	lost := s.lost(ctx, q, states)

	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for i, st := range states {
		path := q.paths[i]
		arrived := false
		for _, r := range slices.Clone(q.wanted[path]) {
			if !r.pending() {
				continue
			}
			if r.phase != st.Phase || r.position != st.Position {
				changed = true
			}
			r.phase, r.position, r.eta, r.trouble = st.Phase, st.Position, st.ETA, st.Error
			switch st.Phase {
			case backends.RecallCompleted:
				s.c.endLocked(r, ready, nil)
				if !arrived {
					s.c.stats.FilesRecalled++
					s.c.stats.BytesRecalled += r.in.Size
				}
				arrived = true
			case backends.RecallFailed, backends.RecallCancelled:
				why := st.Error
				if why == "" {
					why = "the tape system says " + string(st.Phase)
				}
				err := fmt.Errorf("%s: %s", s.rse.Name, why)
				if lost[path] {
					err = fmt.Errorf("%w: %w", err, backends.ErrLost)
				}
				s.c.failLocked(r, err, false)
			}
		}
	}
	return changed
}

// lost finds those of the failed files that the tape system has for good, and declares
// their replicas bad, so that the next try looks elsewhere.
func (s *stager) lost(ctx context.Context, q *request, states []backends.RecallState) map[string]bool {
	infos := map[string]backends.Info{}
	s.c.mu.Lock()
	for i, st := range states {
		if rs := q.wanted[q.paths[i]]; st.Phase == backends.RecallFailed && len(rs) > 0 && rs[0].pending() {
			infos[q.paths[i]] = rs[0].in
		}
	}
	s.c.mu.Unlock()
	if len(infos) == 0 {
		return nil
	}
	var paths []string
	for _, p := range q.paths {
		if _, ok := infos[p]; ok {
			paths = append(paths, p)
		}
	}
	found, err := s.c.l.tapeLocalities(ctx, s.rse, paths)
	if err != nil {
		return nil
	}
	lost := map[string]bool{}
	for i, p := range paths {
		if found[i] == backends.Lost || found[i] == backends.NoLocality {
			lost[p] = true
			if err := s.c.l.DeclareReplicaBad(ctx, infos[p], backends.Replica{RSE: s.rse.Name, PFN: p}, fmt.Errorf("the tape system says %s", found[i])); err != nil {
				s.c.l.log.Error("lost replica not noted", "did", infos[p].DID, "rse", s.rse.Name, "err", err)
			}
		}
	}
	return lost
}

// forgotten stages the files of a request again that the tape system does not know any
// more. That is nobody's failure, and not counted; a request that did not live long is
// followed by a pause.
func (s *stager) forgotten(q *request) {
	s.c.mu.Lock()
	q.gone = true
	var again []*recall
	for _, p := range q.paths {
		for _, r := range q.wanted[p] {
			if r.pending() {
				r.stage, r.req, r.phase, r.position = queued, nil, backends.RecallSubmitted, 0
				r.trouble = "the tape system has forgotten the request, staged again"
				again = append(again, r)
			} else {
				r.req = nil // there is no pin left to give back
			}
		}
	}
	s.c.mu.Unlock()
	s.c.l.log.Warn("tape system has forgotten a request, staging again", "rse", s.rse.Name, "request", q.id, "files", len(again))
	after := time.Time{}
	if time.Since(q.begun) < s.c.o.PollMax {
		after = time.Now().Add(s.c.o.PollMax)
	}
	s.add(again, after)
}

// unanswered notes a failed poll; after Patience it is a failed try of the files.
func (s *stager) unanswered(q *request, err error) {
	s.c.l.noteDown(s.rse.Name, err)
	now := time.Now()
	if s.silent.IsZero() {
		s.silent = now
		s.c.l.log.Warn("tape system does not answer", "rse", s.rse.Name, "err", err)
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if now.Sub(s.silent) >= s.c.o.Patience {
		s.failLocked(q, fmt.Errorf("no answer for %s: %w: %w", now.Sub(s.silent).Round(time.Second), err, backends.ErrUnavailable))
		return
	}
	for _, rs := range q.wanted {
		for _, r := range rs {
			if r.pending() {
				r.trouble = err.Error()
			}
		}
	}
}

// leave cancels and releases what is not needed any more, one call for each request.
func (s *stager) leave(ctx context.Context) {
	s.c.mu.Lock()
	list, told := s.leaving, s.told
	s.leaving, s.told = nil, nil
	s.c.mu.Unlock()
	defer func() {
		for _, ch := range told {
			close(ch)
		}
	}()
	type call struct {
		req     *request
		release bool
	}
	var order []call
	grouped := map[call][]leave{}
	for _, x := range list {
		k := call{x.req, x.release}
		if grouped[k] == nil {
			order = append(order, k)
		}
		grouped[k] = append(grouped[k], x)
	}
	for _, k := range order {
		paths := make([]string, len(grouped[k]))
		for i, x := range grouped[k] {
			paths[i] = x.path
		}
		err := s.call(ctx, func(ctx context.Context) error {
			if k.release {
				return s.rse.Tape.Release(ctx, k.req.id, paths...)
			}
			return s.rse.Tape.Cancel(ctx, k.req.id, paths...)
		})
		if err == nil || errors.Is(err, backends.ErrNotExist) {
			continue
		}
		s.c.l.log.Warn("cancel or release", "rse", s.rse.Name, "request", k.req.id, "files", len(paths), "release", k.release, "err", err)
		s.c.mu.Lock()
		for _, x := range grouped[k] {
			if x.tries++; x.tries < leaveTries {
				s.leaving = append(s.leaving, x)
				s.leaveAt = time.Now().Add(s.c.o.PollMin)
			}
		}
		s.c.mu.Unlock()
	}
}

// settle makes leave run now and gives what is closed when it has.
func (s *stager) settle() <-chan struct{} {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	ch := make(chan struct{})
	s.told = append(s.told, ch)
	s.leaveAt = time.Now()
	ring(s.wake)
	return ch
}
