package lake

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tarn/backends"
)

// resolve chooses a replica for each recall and hands them to the stagers, one batch for each.
func (c *collector) resolve(batch []*recall) {
	todo := map[*stager][]*recall{}
	for _, r := range batch {
		c.mu.Lock()
		ok := r.pending()
		if ok {
			r.stage = resolving
		}
		c.mu.Unlock()
		if !ok {
			continue
		}
		s, final, err := c.choose(r)
		c.mu.Lock()
		switch {
		case !r.pending():
		case err != nil:
			r.rse = nil
			c.failLocked(r, err, final)
		case !s.tape():
			r.rse, r.pfn = s.rse, s.PFN
			c.endLocked(r, ready, nil)
		default:
			r.rse, r.pfn, r.stage = s.rse, s.PFN, queued
			todo[c.tapes[s.RSE]] = append(todo[c.tapes[s.RSE]], r)
		}
		c.mu.Unlock()
	}
	for s, rs := range todo {
		s.add(rs, time.Time{})
	}
}

// choose picks a disk replica that is there, or else the tape replica that failed least.
// A final error is one that another try would not change.
func (c *collector) choose(r *recall) (s source, final bool, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.o.CallTimeout)
	defer cancel()
	replicas, err := c.l.replicasOf(ctx, r.in)
	if err != nil {
		final := errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrStale)
		if errors.Is(err, backends.ErrNotExist) {
			err = fmt.Errorf("%w: %w", backends.ErrStale, err) // it was there when it was asked for
		}
		return s, final, err
	}
	all := c.l.sources(replicas)
	if r.only == "" {
		if disk, ok := c.onDisk(ctx, r.in, all); ok {
			return disk, false, nil
		}
	}
	c.mu.Lock()
	failedAt := r.failedAt // changed by no one while it is resolving
	c.mu.Unlock()
	found, later := false, false
	var reasons []string
	for _, x := range all {
		if r.only != "" && x.RSE != r.only {
			continue
		}
		mayBeTried := x.good() || r.only != "" && x.tape()
		if mayBeTried && x.tape() && (!found || failedAt[x.RSE] < failedAt[s.RSE]) {
			s, found = x, true
		}
		why := x.why()
		if why == "" && !x.tape() {
			why = "its storage is down"
		}
		reasons = append(reasons, x.RSE+": "+why)
		later = later || x.State == backends.Available || x.State == backends.Copying
	}
	switch {
	case found:
		return s, false, nil
	case later:
		return s, false, fmt.Errorf("%s: %w: %w", words(reasons), backends.ErrUnavailable, backends.ErrTemporary)
	}
	return s, true, fmt.Errorf("%s: %w", words(reasons), backends.ErrLost)
}

// onDisk gives a disk replica whose storage answers that it has the file.
func (c *collector) onDisk(ctx context.Context, in backends.Info, all []source) (source, bool) {
	for _, s := range all {
		if !s.good() || s.tape() {
			continue
		}
		if _, down := c.l.lately(s.RSE); down {
			continue
		}
		var a backends.Attr
		err := c.l.attempt(ctx, func(ctx context.Context) (err error) {
			a, err = s.rse.Storage.Stat(ctx, s.PFN)
			return err
		})
		if err == nil && !a.IsDir && a.Size == in.Size {
			return s, true
		}
		if err != nil && !errors.Is(err, backends.ErrNotExist) && ctx.Err() == nil {
			c.l.noteDown(s.RSE, err)
		}
	}
	return source{}, false
}

// recheckBatch bounds the questions of one re-check.
const recheckBatch = 256

// recheck ends recalls whose content has come to a disk meanwhile.
func (c *collector) recheck() {
	c.mu.Lock()
	var batch []*recall
	now := time.Now()
	for _, r := range c.all {
		if (r.stage == queued || r.stage == staged) && r.only == "" && now.Sub(r.checked) >= c.o.Recheck {
			r.checked = now
			batch = append(batch, r)
		}
		if len(batch) == recheckBatch {
			break
		}
	}
	c.mu.Unlock()
	for _, r := range batch {
		ctx, cancel := context.WithTimeout(c.ctx, c.o.CallTimeout)
		replicas, err := c.l.replicasOf(ctx, r.in)
		if err == nil {
			if s, ok := c.onDisk(ctx, r.in, c.l.sources(replicas)); ok {
				c.mu.Lock()
				if r.pending() {
					c.leaveLocked(r)
					r.rse, r.pfn = s.rse, s.PFN
					c.endLocked(r, ready, nil)
				}
				c.mu.Unlock()
			}
		}
		cancel()
		if c.ctx.Err() != nil {
			return
		}
	}
}
