package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

// CareStatus is what was done for one RSE: its copies that may go are deleted above its high mark, or all of them when it
// is drained.
type CareStatus struct {
	RSE  string    `json:"rse"`
	Last time.Time `json:"last,omitzero"` // the end of the last look at it

	Drain     bool  `json:"drain,omitempty"` // it is being emptied
	Left      int64 `json:"left,omitempty"`  // replicas that are still there, of a drain
	LeftBytes int64 `json:"left_bytes,omitempty"`

	Used int64 `json:"used,omitempty"` // bytes, as its marks count them; at the last look
	Over int64 `json:"over,omitempty"` // bytes above the low mark for which nothing was found that may go

	Removed      int64  `json:"removed"` // replicas, since the mount
	RemovedBytes int64  `json:"removed_bytes"`
	Why          string `json:"why,omitempty"` // of the first replica that could not go, or what failed
}

// careState is what the engine does for whole RSEs. All but wake is guarded by Engine.mu.
type careState struct {
	wake  chan struct{}
	next  map[string]time.Time // not before
	busy  map[string]bool      // are being looked at; true: and are to be again
	swept map[string]bool      // what was being deleted when the process before this one ended has been dealt with
	of    map[string]CareStatus

	passed map[string]map[backends.DID]bool // by RSE, files whose replica could not go lately
}

// Care tells how it stands with the RSEs that are drained or have marks, by name.
func (e *Engine) Care() []CareStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.SortedFunc(maps.Values(e.care.of), func(a, b CareStatus) int { return strings.Compare(a.RSE, b.RSE) })
}

// Cared asks for a look at the RSEs now: one is to be drained, or has other marks.
func (e *Engine) Cared() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.care.next)
	for rse := range e.care.busy {
		e.care.busy[rse] = true // it began before
	}
	ring(e.care.wake)
	e.sweepNow = true // what lay at a drained RSE counts no more, or again
	ring(e.sweepWake)
}

// careLoop looks at the RSEs that are drained or have marks, each by itself, now and then, and not so often that
// all of this takes more than a tenth of the time.
func (e *Engine) careLoop(ctx context.Context) {
	for ctx.Err() == nil {
		soon := time.Now().Add(e.o.Care)
		for _, rse := range e.l.RSEs() {
			due, busy := e.careDue(rse)
			switch {
			case busy: // its end rings
			case due.After(time.Now()):
				soon = earlier(soon, due)
			default:
				e.wg.Go(func() {
					begun := time.Now()
					more := e.careFor(ctx, rse)
					took := time.Since(begun)
					took *= time.Duration(e.caredFor()) // each of them goes through all replicas on record
					wait := max(e.o.Care, 10*took)
					e.mu.Lock()
					defer e.mu.Unlock()
					if more || rse.Care.Drain && len(e.moves) > 0 {
						wait = max(2*time.Second, 10*took)
					}
					if !e.care.busy[rse.Name] {
						e.care.next[rse.Name] = time.Now().Add(wait)
					}
					delete(e.care.busy, rse.Name)
					ring(e.care.wake)
				})
			}
		}
		t := time.NewTimer(time.Until(soon))
		select {
		case <-ctx.Done():
		case <-e.care.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// careDue tells when an RSE is to be looked at, one without care long after now, or that somebody looks at it. One that is
// due is busy from then on.
func (e *Engine) careDue(rse *lake.RSE) (due time.Time, busy bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, busy := e.care.busy[rse.Name]; busy {
		return due, true
	}
	if !cared(rse) {
		if s, ok := e.care.of[rse.Name]; ok && s.Removed == 0 {
			delete(e.care.of, rse.Name)
		} else if ok {
			s.Drain, s.Left, s.LeftBytes, s.Over, s.Why = false, 0, 0, 0, ""
			e.care.of[rse.Name] = s
		}
		return time.Now().Add(24 * time.Hour), false
	}
	if due = e.care.next[rse.Name]; !due.After(time.Now()) {
		e.care.busy[rse.Name] = false
	}
	return due, false
}

// caredFor counts the RSEs that are drained or have marks.
func (e *Engine) caredFor() (n int) {
	for _, rse := range e.l.RSEs() {
		if cared(rse) {
			n++
		}
	}
	return n
}

// cared tells whether an RSE is drained or has marks.
func cared(rse *lake.RSE) bool { return rse.Care.Drain || !rse.Care.High.IsZero() }

// careFor looks at one RSE. more tells that it is worth another look soon.
func (e *Engine) careFor(ctx context.Context, rse *lake.RSE) (more bool) {
	var err error
	s := CareStatus{Drain: rse.Care.Drain}
	e.mu.Lock()
	before, beforeBytes := e.care.of[rse.Name].Removed, e.care.of[rse.Name].RemovedBytes
	e.mu.Unlock()
	switch {
	case rse.ReadOnly:
		s.Why = "it is read-only"
	case rse.Care.Drain:
		more, err = e.drain(ctx, rse, &s)
	default:
		more, err = e.expire(ctx, rse, &s)
	}
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		s.Why = err.Error()
		e.log.Warn("storage not looked after", "rse", rse.Name, "err", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.care.of[rse.Name]
	if n := old.Removed - before; n > 0 {
		e.log.Info("replicas deleted that no rule needs", "rse", rse.Name, "replicas", n, "bytes", old.RemovedBytes-beforeBytes, "drain", s.Drain, "left", s.Left, "over", s.Over)
	}
	s.RSE, s.Last, s.Removed, s.RemovedBytes = rse.Name, e.o.Now(), old.Removed, old.RemovedBytes
	e.care.of[rse.Name] = s
	return more
}

// left is what remains of a replica after giveUp.
type left int

const (
	gone   left = iota // it is deleted
	stays              // for the reason given
	nobody             // there is no such replica (any more)
)

// giveUp deletes the replica of a file at an RSE, if it is spare: every rule is fulfilled without it, by verified copies
// whose storages have them, and one verified copy is left. With last none needs to be, when the file has no rule.
//
// It is BEING_DELETED before that is looked at for the last time. So of two replicas that are given up at once, or a
// copy that begins to be read and a rule that comes meanwhile, at least one sees the other.
func (e *Engine) giveUp(ctx context.Context, in backends.Info, rse *lake.RSE, last bool) (left, string, error) {
	if e.l.Making(in) {
		return stays, "a copy of it is being made", nil // not waited for
	}
	release, err := e.alone(ctx, in.DID)
	if err != nil {
		return stays, "", err
	}
	defer release()
	unclaim, ok := e.l.TryClaim(in, rse.Name)
	if !ok {
		return stays, "a copy of it is being made", nil
	}
	defer unclaim()
	cur, have, err := e.present(ctx, in)
	if err != nil || cur == nil {
		return nobody, "", err
	}
	if e.changed(rse) {
		return stays, changedWhy, nil
	}
	in = *cur
	i := slices.IndexFunc(have, func(r backends.Replica) bool { return r.RSE == rse.Name })
	if i < 0 {
		return nobody, "", nil
	}
	rep := have[i]
	if rep.State == backends.BeingDeleted {
		return e.goOn(ctx, in, rse, rep, have, last)
	}
	if rep.State != backends.Available {
		return stays, "it is " + string(rep.State), nil
	}
	others, answer, why, err := e.spareNow(ctx, in, have, rse.Name, last)
	if err != nil || why != "" {
		return stays, why, err
	}
	going := rep
	going.State = backends.BeingDeleted
	if err := e.putIf(ctx, in, going); err != nil {
		return nobody, "", ignoreGone(err)
	}
	cur, have, err = e.present(ctx, in)
	switch {
	case err != nil:
	case cur == nil: // it has another name by now, and other rules
		return nobody, "", nil
	case e.changed(rse):
		why = changedWhy
	default:
		_, why, err = e.spare(ctx, in, have, rse.Name, last)
		now := e.others(have, rse.Name)
		found := slices.DeleteFunc(slices.Clone(now), func(r backends.Replica) bool {
			return !slices.ContainsFunc(answer, func(x backends.Replica) bool { return x.RSE == r.RSE && x.PFN == r.PFN })
		})
		if err == nil && why == "" && len(found) < len(now) {
			why, err = e.enough(ctx, in.DID, found, last)
		}
	}
	if err != nil || why != "" {
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return stays, why, errors.Join(err, ignoreGone(e.putIf(back, in, rep)))
	}
	return e.finish(ctx, in, rse, rep, len(others) == 0)
}

// changed tells whether the settings of an RSE are others than those it is looked after by: it is not drained any more,
// or read-only, or has another mark.
func (e *Engine) changed(rse *lake.RSE) bool {
	now, ok := e.l.RSE(rse.Name)
	return !ok || now != rse
}

const changedWhy = "the settings of the RSE were changed"

// wasGood tells of a replica that giveUp was deleting when that ended half-way. One that was BAD says why.
func wasGood(r backends.Replica) bool { return r.State == backends.BeingDeleted && r.Error == "" }

// resume ends what giveUp began, for who chooses copies of the file, and gives the replicas that it has then.
func (e *Engine) resume(ctx context.Context, in backends.Info, have []backends.Replica) ([]backends.Replica, error) {
	if !slices.ContainsFunc(have, wasGood) {
		return have, nil
	}
	for _, r := range have {
		rse, known := e.l.RSE(r.RSE)
		if !wasGood(r) || !known || rse.ReadOnly {
			continue
		}
		unclaim, ok := e.l.TryClaim(in, r.RSE)
		if !ok {
			continue // somebody is at it
		}
		cur, now, err := e.present(ctx, in)
		if err == nil && cur != nil && slices.Contains(now, r) {
			_, _, err = e.goOn(ctx, *cur, rse, r, now, rse.Care.Scratch)
		}
		unclaim()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			e.log.Warn("replica not deleted yet", "did", in.DID, "rse", r.RSE, "err", err)
		}
	}
	_, now, err := e.present(ctx, in)
	return now, err
}

// goOn deals with a replica that was being deleted when that ended half-way.
func (e *Engine) goOn(ctx context.Context, in backends.Info, rse *lake.RSE, rep backends.Replica, have []backends.Replica, last bool) (left, string, error) {
	others, _, why, err := e.spareNow(ctx, in, have, rse.Name, last)
	if err != nil {
		return stays, "", err
	}
	if why == "" {
		return e.finish(ctx, in, rse, rep, len(others) == 0)
	}
	a, err := rse.Storage.Stat(ctx, rep.PFN)
	switch {
	case errors.Is(err, backends.ErrNotExist):
		if _, _, down := e.l.Space(ctx, rse); down != nil { // a disk that is not mounted looks empty
			return stays, "", down
		}
		return gone, "", ignoreGone(e.l.Catalogue().DropReplica(ctx, in.DID, rse.Name, rep.PFN))
	case err != nil:
		return stays, "", err
	case a.IsDir || a.Size != in.Size:
		return stays, "it was being deleted, and is needed", e.l.DeclareReplicaBad(ctx, in, rep, errors.New("it was being deleted, and has another size"))
	}
	rep.State, rep.Verified = backends.Available, time.Time{}
	if rep.Error != "" {
		rep.State = backends.Bad // as it was before
	}
	return stays, why, ignoreGone(e.putIf(ctx, in, rep))
}

// finish deletes the file of a replica that is BEING_DELETED, and its record.
func (e *Engine) finish(ctx context.Context, in backends.Info, rse *lake.RSE, rep backends.Replica, last bool) (left, string, error) {
	if err := e.l.RemoveReplica(ctx, rse, in, rep); err != nil {
		return stays, "", fmt.Errorf("delete %s at %s: %w", rep.PFN, rse.Name, err)
	}
	if cur, _, err := e.present(ctx, in); err == nil && cur != nil && last { // else its name may be another file's by now
		note := backends.Meta{Expired: fmt.Sprintf("%s, last copy, at %s", e.o.Now().UTC().Format(time.RFC3339), rse.Name)}
		if err := e.l.SetMeta(ctx, in.DID, note); err != nil && !errors.Is(err, backends.ErrNotExist) {
			return stays, "", err
		}
	}
	if err := e.l.Catalogue().DropReplica(ctx, in.DID, rse.Name, rep.PFN); err != nil && !errors.Is(err, backends.ErrNotExist) {
		return stays, "", err
	}
	e.log.Debug("replica deleted that no rule needs", "did", in.DID, "rse", rse.Name, "pfn", rep.PFN, "bytes", in.Size, "last", last)
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.care.of[rse.Name]
	s.RSE, s.Removed, s.RemovedBytes = rse.Name, s.Removed+1, s.RemovedBytes+in.Size
	e.care.of[rse.Name] = s
	return gone, "", nil
}

// Expired is the metadata of a file whose last copy was deleted at a scratch RSE: when and where.
const Expired = "tarn.expired"

// present gives a file as it is now, with its replicas; nil when it is gone or has another content.
func (e *Engine) present(ctx context.Context, in backends.Info) (*backends.Info, []backends.Replica, error) {
	now, err := e.l.Catalogue().Stat(ctx, in.DID)
	var have []backends.Replica
	if err == nil {
		have, err = e.l.Catalogue().Replicas(ctx, in.DID)
	}
	if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) || errors.Is(err, backends.ErrIsDir) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if now.Inode != in.Inode || now.Generation != in.Generation {
		return nil, nil, nil
	}
	return &now, have, nil
}

// putIf puts a replica on record, unless the content is another by now.
func (e *Engine) putIf(ctx context.Context, in backends.Info, r backends.Replica) error {
	return e.l.Catalogue().PutReplica(ctx, in.DID, in.Generation, r)
}

func ignoreGone(err error) error {
	if errors.Is(err, backends.ErrStale) || errors.Is(err, backends.ErrNotExist) {
		return nil
	}
	return err
}
