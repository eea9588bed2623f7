package lake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tarn/backends"
)

// RecallInfo is one recall for people: one that goes on, one that is done and kept for
// its readers, or one that failed lately.
type RecallInfo struct {
	ID       string               `json:"id"`
	DID      backends.DID         `json:"did"`
	Bytes    int64                `json:"bytes"`
	Phase    backends.RecallPhase `json:"phase"`
	Position int                  `json:"position,omitempty"` // in the tape system's queue
	ETA      time.Duration        `json:"eta,omitempty"`
	Waiters  int                  `json:"waiters"`
	Since    time.Time            `json:"since"`
	RSE      string               `json:"rse,omitempty"`
	PFN      string               `json:"pfn,omitempty"`
	Request  backends.RecallID    `json:"request,omitempty"` // the tape system's name for the bulk request
	Tries    int                  `json:"tries,omitempty"`   // that failed
	Failed   bool                 `json:"failed,omitempty"`
	Error    string               `json:"error,omitempty"` // why it failed, or what went wrong last
}

func (c *collector) infoLocked(r *recall) RecallInfo {
	i := RecallInfo{ID: r.id, DID: r.in.DID, Bytes: r.in.Size, Phase: r.phase, Position: r.position, ETA: r.eta,
		Waiters: r.refs, Since: r.since, PFN: r.pfn, Tries: r.tries, Error: r.trouble}
	if r.rse != nil {
		i.RSE = r.rse.Name
	}
	if r.req != nil {
		i.Request = r.req.id
	}
	return i
}

// Recalls lists what is under way, then what failed, each oldest first.
func (l *Lake) Recalls() []RecallInfo {
	c := l.recalls
	c.mu.Lock()
	var out []RecallInfo
	for _, r := range c.all {
		out = append(out, c.infoLocked(r))
	}
	for _, f := range c.failures {
		out = append(out, f.RecallInfo)
	}
	c.mu.Unlock()
	slices.SortFunc(out, func(a, b RecallInfo) int {
		if a.Failed != b.Failed {
			if a.Failed {
				return 1
			}
			return -1
		}
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(len(a.ID), len(b.ID)), strings.Compare(a.ID, b.ID))
	})
	return out
}

// CancelRecall ends a recall for all that wait for it, with ErrCancelled. ErrNotExist for
// an unknown one; ErrBusy for one that is done and being read.
func (l *Lake) CancelRecall(id string) error {
	c := l.recalls
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.all[id]
	switch {
	case r == nil:
		return fmt.Errorf("cancel recall %s: %w", id, backends.ErrNotExist)
	case !r.pending():
		return fmt.Errorf("cancel recall %s: it is done and %w", id, backends.ErrBusy)
	}
	c.dropLocked(r)
	return nil
}

// RetryRecall takes a recall off the list of failed ones, so that the next Recall of its
// file tries again at once. Where no good replica is left the bad ones are verified again,
// in the background: what is good by now can be read. ErrNotExist.
func (l *Lake) RetryRecall(id string) error {
	c := l.recalls
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, f := range c.failures {
		if f.ID == id {
			delete(c.failures, k)
			if c.ctx.Err() == nil {
				c.wg.Go(func() { l.lookAgain(c.ctx, f.DID) })
			}
			return nil
		}
	}
	return fmt.Errorf("retry recall %s: not among the failed ones: %w", id, backends.ErrNotExist)
}

// lookAgain verifies the replicas of a file that has no good one.
func (l *Lake) lookAgain(ctx context.Context, d backends.DID) {
	in, err := l.o.Catalogue.Stat(ctx, d)
	if err != nil {
		return // it is no more, or the catalogue is away and the next read says so
	}
	reps, err := l.o.Catalogue.Replicas(ctx, d)
	if err != nil || slices.ContainsFunc(reps, func(r backends.Replica) bool { return r.State == backends.Available }) {
		return
	}
	if err := l.Verify(ctx, in, func(VerifyResult) {}); err != nil && ctx.Err() == nil {
		l.log.Warn("verify the replicas of a file whose recall is tried again", "did", d, "err", err)
	}
}

// ClearFailedRecalls empties the list of failed recalls and tells how many there were.
func (l *Lake) ClearFailedRecalls() int {
	c := l.recalls
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.failures)
	clear(c.failures)
	return n
}

// Settle tells the tape systems now of the cancels and releases that wait for company, and
// returns when they were told: what nobody reads any more can be evicted then.
func (l *Lake) Settle(ctx context.Context) error {
	c := l.recalls
	for _, s := range c.tapes {
		select {
		case <-s.settle():
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return fmt.Errorf("settle recalls: the lake %w", backends.ErrClosed)
		}
	}
	return nil
}

// Stats counts since New.
type Stats struct {
	Recalls       int64 `json:"recalls"`        // begun, of distinct contents
	BulkRequests  int64 `json:"bulk_requests"`  // sent to tape systems
	FilesRecalled int64 `json:"files_recalled"` // brought online by them
	BytesRecalled int64 `json:"bytes_recalled"`
	Failed        int64 `json:"failed"` // recalls whose tries are used up
	Cancelled     int64 `json:"cancelled"`
	Pending       int   `json:"pending"` // now
}

// Stats gives the counters of the recalls.
func (l *Lake) Stats() Stats {
	c := l.recalls
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	for _, r := range c.all {
		if r.pending() {
			s.Pending++
		}
	}
	return s
}

// Plan says what bringing all of ins online would cost now; nothing is moved. Files with
// a disk replica count as online. Tapes and mounts of several tape systems add up,
// their times run side by side. Where a tape system cannot tell, files and bytes are
// counted all the same. Files that cannot be had count in Files only.
func (l *Lake) Plan(ctx context.Context, ins []backends.Info) (backends.RecallPlan, error) {
	var plan backends.RecallPlan
	type share struct {
		paths []string
		bytes int64
	}
	shares := map[*RSE]*share{}
	seen := map[backends.DID]bool{}
	for _, in := range ins {
		if in.Type != backends.File || in.IsSymlink() || seen[in.DID] {
			continue
		}
		seen[in.DID] = true
		plan.Files++
		if in.Size == 0 {
			plan.Online++
			continue
		}
		replicas, err := l.o.Catalogue.Replicas(ctx, in.DID)
		if errors.Is(err, backends.ErrNotExist) {
			continue
		}
		if err != nil {
			return plan, fmt.Errorf("plan: %w", err)
		}
		all := l.sources(replicas)
		i := slices.IndexFunc(all, func(s source) bool { return s.good() && !s.tape() })
		if i >= 0 {
			plan.Online++
			continue
		}
		if len(all) == 0 || !all[0].good() {
			continue
		}
		s := shares[all[0].rse]
		if s == nil {
			s = &share{}
			shares[all[0].rse] = s
		}
		s.paths = append(s.paths, all[0].PFN)
		s.bytes += in.Size
	}
	for rse, s := range shares {
		p, err := rse.Tape.Plan(ctx, s.paths...)
		if errors.Is(err, backends.ErrNotSupported) {
			plan.Bytes += s.bytes
			continue
		}
		if err != nil {
			return plan, fmt.Errorf("plan at %s: %w", rse.Name, err)
		}
		plan.Bytes += p.Bytes
		plan.Online += p.Online
		plan.Tapes += p.Tapes
		plan.Mounts += p.Mounts
		plan.Time = max(plan.Time, p.Time)
	}
	return plan, nil
}
