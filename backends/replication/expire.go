package replication

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
)

// maxExpire bounds how many replicas are chosen in one look.
const maxExpire = 20000

// expire deletes replicas that no rule needs at an RSE that is above its high mark, until it is below the low one: those
// first that were made or verified the longest ago.
func (e *Engine) expire(ctx context.Context, rse *lake.RSE, s *CareStatus) (more bool, err error) {
	used, total, err := e.used(ctx, rse)
	if err != nil {
		return false, err
	}
	s.Used = used
	at := func(m lake.Mark) int64 {
		if m.Bytes > 0 {
			return m.Bytes
		}
		return int64(m.Part * float64(total))
	}
	need := used - at(rse.Care.Low)
	if err := e.unfinished(ctx, rse, s); err != nil {
		return false, err
	}
	e.mu.Lock()
	begun := e.care.of[rse.Name].Over > 0 // it was above, and could not be brought below low yet
	e.mu.Unlock()
	if need <= 0 || used <= at(rse.Care.High) && !begun {
		return false, nil
	}
	chosen, all, err := e.candidates(ctx, rse, need)
	if err != nil {
		return false, err
	}
	for _, c := range chosen {
		if need <= 0 {
			break
		}
		what, why, err := e.giveUp(ctx, c.in, rse, rse.Care.Scratch)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case err != nil:
			s.Why = fmt.Sprintf("%s: %v", c.in.DID, err)
			e.log.Warn("replica not deleted", "did", c.in.DID, "rse", rse.Name, "err", err)
			if errors.Is(err, backends.ErrUnavailable) {
				s.Over = need
				return false, nil
			}
		case what == gone:
			need -= c.in.Size
			s.Used -= c.in.Size
		case e.changed(rse):
			return false, nil
		}
		if what == stays {
			e.passOver(rse.Name, c.in.DID)
		}
		if err == nil && why != "" && s.Why == "" {
			s.Why = fmt.Sprintf("%s: %s", c.in.DID, why)
		}
	}
	if all {
		e.mu.Lock()
		delete(e.care.passed, rse.Name) // all others had their turn
		e.mu.Unlock()
	}
	s.Over = max(need, 0)
	if s.Over > 0 && all && s.Why == "" {
		s.Why = "rules need what is left, or it is younger than the grace, or where its other copies are does not answer"
	}
	return s.Over > 0 && !all, nil
}

// passOver notes a file whose replica at the RSE could not go: the next looks choose others, until there are none.
func (e *Engine) passOver(rse string, d backends.DID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.care.passed[rse] == nil || len(e.care.passed[rse]) >= maxExpire {
		e.care.passed[rse] = map[backends.DID]bool{}
	}
	e.care.passed[rse][d] = true
}

func (e *Engine) isPassedOver(rse string, d backends.DID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.care.passed[rse][d]
}

// silent names the RSEs whose storages do not answer now.
func (e *Engine) silent(ctx context.Context) map[string]bool {
	out := map[string]bool{}
	for _, rse := range e.l.RSEs() {
		if _, _, err := e.space(ctx, rse); err != nil {
			out[rse.Name] = true
		}
	}
	return out
}

// unfinished goes on, once, with what was being deleted when the process before this one ended.
func (e *Engine) unfinished(ctx context.Context, rse *lake.RSE, s *CareStatus) error {
	e.mu.Lock()
	swept := e.care.swept[rse.Name]
	e.mu.Unlock()
	if swept {
		return nil
	}
	failed := false
	for x, err := range e.l.Records().Records(ctx, rse.Name) {
		if err != nil {
			return err
		}
		if slices.ContainsFunc(x.Replicas, func(r backends.Replica) bool { return r.RSE == rse.Name && r.State == backends.BeingDeleted }) {
			_, _, err := e.giveUp(ctx, x.Info, rse, rse.Care.Scratch)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil { // keeps no others from going
				failed = true
				s.Why = fmt.Sprintf("%s: %v", x.Info.DID, err)
				e.log.Warn("replica not deleted yet", "did", x.Info.DID, "rse", rse.Name, "err", err)
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.care.swept[rse.Name] = !failed
	return nil
}

// used gives the bytes that count for the marks, and the space there is.
func (e *Engine) used(ctx context.Context, rse *lake.RSE) (used, total int64, err error) {
	if rse.Care.High.Bytes == 0 {
		total, free, err := rse.Storage.Space(ctx)
		return total - free, total, err
	}
	for x, err := range e.l.Records().Records(ctx, rse.Name) {
		if err != nil {
			return 0, 0, err
		}
		used += x.Info.Size
	}
	return used, 0, nil
}

// candidate is a replica that may go.
type candidate struct {
	in    backends.Info
	since time.Time
}

// youngest is a heap with the one that was made last on top.
type youngest []candidate

func (h youngest) Len() int           { return len(h) }
func (h youngest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h youngest) Less(i, j int) bool { return h[i].since.After(h[j].since) }
func (h *youngest) Push(x any)        { *h = append(*h, x.(candidate)) }
func (h *youngest) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// candidates chooses the oldest replicas that may go, of need bytes in all, oldest first; all tells that there are no
// others. Those whose other copies cannot be asked for now are not chosen: they would keep others from going.
func (e *Engine) candidates(ctx context.Context, rse *lake.RSE, need int64) (out []candidate, all bool, err error) {
	var h youngest
	all = true
	sum := int64(0)
	silent := e.silent(ctx)
	for x, err := range e.l.Records().Records(ctx, rse.Name) {
		if err != nil {
			return nil, false, err
		}
		i := slices.IndexFunc(x.Replicas, func(r backends.Replica) bool { return r.RSE == rse.Name })
		if i < 0 || e.isPassedOver(rse.Name, x.Info.DID) {
			continue
		}
		c := candidate{in: x.Info, since: x.Replicas[i].Verified}
		if c.since.IsZero() {
			c.since = x.Info.CTime
		}
		switch x.Replicas[i].State {
		case backends.BeingDeleted: // and that ended half-way
			c.since = time.Time{}
		case backends.Available:
			if e.o.Now().Sub(c.since) < rse.Care.Grace {
				continue
			}
			answer := slices.DeleteFunc(slices.Clone(x.Replicas), func(r backends.Replica) bool { return silent[r.RSE] })
			_, why, err := e.spare(ctx, x.Info, answer, rse.Name, rse.Care.Scratch)
			if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrNotDir) {
				continue // renamed or removed meanwhile
			}
			if err != nil {
				return nil, false, err
			}
			if why != "" {
				continue
			}
		default:
			continue
		}
		heap.Push(&h, c)
		sum += c.in.Size
		for len(h) > 1 && (sum-h[0].in.Size >= need || len(h) > maxExpire) {
			sum -= h[0].in.Size
			heap.Pop(&h)
			all = false
		}
	}
	slices.SortStableFunc(h, func(a, b candidate) int { return a.since.Compare(b.since) })
	return h, all, nil
}
