package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/backends"
)

// reapLoop deletes for good what was replaced or removed, once its time has come.
func (e *Engine) reapLoop(ctx context.Context) {
	for ctx.Err() == nil {
		e.reap(ctx)
		timer := time.NewTimer(e.o.Reap)
		select {
		case <-ctx.Done():
		case <-e.reapWake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// reap goes through all Pasts once. What cannot be deleted now stays for the next time.
func (e *Engine) reap(ctx context.Context) {
	waiting, why := 0, ""
	for p, err := range e.l.Versions().Pasts(ctx, backends.DID{}) {
		if err != nil {
			if ctx.Err() == nil {
				e.log.Warn("nothing reaped", "err", err)
			}
			return
		}
		if e.o.Now().Before(p.Until) {
			continue
		}
		if e.copying(p) {
			continue
		}
		done, err := e.reapOne(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if waiting++; waiting == 1 {
				e.log.Warn("what was removed cannot be deleted yet", "did", p.Info.DID, "err", err)
				why = fmt.Sprintf("%s: %v", p.Info.DID, err)
			}
			continue
		}
		if !done {
			continue
		}
		e.mu.Lock()
		e.stats.Reaped++
		e.mu.Unlock()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats.ReapWaiting, e.stats.ReapError = waiting, why
}

// copying tells whether a copy of this content is still on its way somewhere: it would come into view
// after what is to be deleted was looked for, and nobody would know of it. Its end rings.
func (e *Engine) copying(p backends.Past) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(p.Replicas, func(r backends.Replica) bool {
		m := e.moves[key{p.Info.DID, r.RSE}]
		return m != nil && m.state == Running && m.in.Generation == p.Info.Generation
	})
}

// reapOne deletes the replicas of one Past and forgets it. A PFN that the name's present
// content or another Past of it has as well is left to that. done is false for one that is left alone.
func (e *Engine) reapOne(ctx context.Context, p backends.Past) (done bool, err error) {
	release, ok := e.l.TryClaimPast(p.Handle)
	if !ok {
		return false, nil // it is being undeleted
	}
	defer release()
	type place struct{ rse, pfn string }
	spared := map[place]bool{}
	now, err := e.l.Catalogue().Replicas(ctx, p.Info.DID)
	if err != nil && !errors.Is(err, backends.ErrNotExist) && !errors.Is(err, backends.ErrNotDir) && !errors.Is(err, backends.ErrIsDir) {
		return false, err
	}
	spare := func(rs []backends.Replica) {
		for _, r := range rs {
			spared[place{r.RSE, r.PFN}] = true
		}
	}
	spare(now)
	there := false
	for other, err := range e.l.Versions().Pasts(ctx, p.Info.DID) {
		if err != nil {
			return false, err
		}
		if other.Handle == p.Handle {
			there = true
			continue
		}
		spare(other.Replicas)
	}
	if !there {
		return false, nil // it was undeleted since it was listed, or has another name
	}
	var errs []error
	for _, r := range p.Replicas {
		if spared[place{r.RSE, r.PFN}] {
			continue
		}
		rse, ok := e.l.RSE(r.RSE)
		if !ok {
			errs = append(errs, fmt.Errorf("RSE %s is not in lake.yaml: %w", r.RSE, backends.ErrUnavailable))
			continue
		}
		if rse.ReadOnly {
			errs = append(errs, fmt.Errorf("RSE %s: %w", r.RSE, backends.ErrReadOnly))
			continue
		}
		if err := e.l.RemoveReplica(ctx, rse, p.Info, r); err != nil {
			errs = append(errs, fmt.Errorf("delete %s at %s: %w", r.PFN, r.RSE, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	err = e.l.Versions().Purge(ctx, p.Handle)
	if errors.Is(err, backends.ErrNotExist) { // undeleted or purged by someone else
		err = nil
	}
	if err == nil {
		e.log.Info("reaped", "did", p.Info.DID, "generation", p.Info.Generation, "copies", len(p.Replicas))
	}
	return err == nil, err
}
