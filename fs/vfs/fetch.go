package vfs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/cache"
)

// tapeCost and diskCost are what the hot cache takes a refetch to cost: a recall
// waits for a drive, a mount and a position, a disk replica is a round trip away.
const (
	tapeCost = 3 * time.Minute
	diskCost = 100 * time.Millisecond
)

// openCached opens the published content in of n in the hot cache.
func (v *FS) openCached(n *Node, in backends.Info) (*cache.File, error) {
	if in.Generation == "" {
		return nil, fmt.Errorf("read %s: the catalogue has no content for it: %w", n.Path(), backends.ErrLost)
	}
	ct := content(in)
	ct.Cost = diskCost
	if st, ok := v.cache.Status(ct.Key); ok && st.Cost > 0 {
		ct.Cost = st.Cost
	}
	if ct.Cost < tapeCost && v.onTapeOnly(in) { // by now
		ct.Cost = tapeCost
	}
	f, err := v.cache.Open(ct, v.fetcher(n, in))
	return f, local(err)
}

// onTapeOnly tells whether no disk RSE has a good replica.
func (v *FS) onTapeOnly(in backends.Info) bool {
	reps, err := v.lake.Catalogue().Replicas(v.ctx, in.DID)
	if err != nil {
		return false
	}
	tape := false
	for _, r := range reps {
		rse, ok := v.lake.RSE(r.RSE)
		if !ok || r.State != backends.Available {
			continue
		}
		if rse.Kind != backends.TapeKind {
			return false
		}
		tape = true
	}
	return tape
}

// fetcher gives the cache the bytes of the content in: from the best replica that is
// online, or by a recall, which is collected with others and cancelled when the
// cache's context ends because nobody waits any more. A replica that gave wrong bytes
// alone is declared BAD.
func (v *FS) fetcher(n *Node, in backends.Info) cache.Fetch {
	var last *source
	return func(ctx context.Context, bad error) (cache.Source, error) {
		if last != nil && errors.Is(bad, backends.ErrCorrupt) { // it says so itself
			last.Blame(bad)
		}
		open := v.lake.Open
		if failed := last; bad != nil && failed != nil { // its patience is that of the whole fetch
			open = func(ctx context.Context, in backends.Info) (*lake.Object, error) {
				return v.lake.Reopen(ctx, in, failed.Object)
			}
		}
		src, err := v.openSource(ctx, n, in, open)
		if err != nil {
			return nil, err
		}
		src.blame = func(why error) { v.blame(n, in, src.Served(), why) }
		last = src
		v.stats.fetches.Add(1)
		return src, nil
	}
}

// blame declares the replica BAD that gave wrong bytes alone.
func (v *FS) blame(n *Node, in backends.Info, served []string, why error) {
	v.stats.corrupt.Add(1)
	// The kernel's pages of it go too. Not here: it waits for pages that are being
	// read, and those wait for the fetch that is told this.
	go v.notifyContent(n.ino)
	if len(served) != 1 {
		return
	}
	ctx, cancel := context.WithTimeout(v.ctx, blameTime)
	defer cancel()
	if err := v.lake.DeclareBad(ctx, v.current(n, in), served[0], why); err != nil {
		v.log.Error("declare a replica bad", "did", in.DID.String(), "rse", served[0], "err", err)
	}
}

// blameTime is how long the catalogue may take to note that a replica is BAD; who finds that again notes it then.
const blameTime = 30 * time.Second

// source is a content being read, and the recall that keeps it online.
type source struct {
	*lake.Object
	ticket *lake.Ticket
	blame  func(why error)
	blamed sync.Once
}

// Blame is told once what the whole turned out to be.
func (s *source) Blame(why error) { s.blamed.Do(func() { s.blame(why) }) }

func (s *source) Close() error {
	err := s.Object.Close()
	if s.ticket != nil {
		s.ticket.Close()
	}
	return err
}

// current is in under the DID that its node has now: a rename moves both.
func (v *FS) current(n *Node, in backends.Info) backends.Info {
	now := n.Info()
	if now.Generation == in.Generation {
		in.DID = now.DID
	}
	return in
}

// openSource opens the content in of n, by open at first.
func (v *FS) openSource(ctx context.Context, n *Node, in backends.Info, open func(context.Context, backends.Info) (*lake.Object, error)) (*source, error) {
	if v.opt.RecallTimeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, v.opt.RecallTimeout)
		defer stop()
	}
	var ticket *lake.Ticket
	for try := 0; ; try++ {
		in := v.current(n, in)
		// A rename while it is asked for: the catalogue knows the content by its new name.
		moved := func(err error) bool {
			return try < 3 && errors.Is(err, backends.ErrStale) && v.current(n, in).DID != in.DID
		}
		o, err := open(ctx, in)
		open = v.lake.Open
		if err == nil {
			return &source{Object: o, ticket: ticket}, nil
		}
		if ticket != nil {
			ticket.Close()
			ticket = nil
		}
		if moved(err) {
			continue
		}
		if !errors.Is(err, backends.ErrOffline) || try == 3 {
			return nil, fmt.Errorf("read %s: %w", n.Path(), err)
		}
		t, err := v.lake.Recall(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("recall %s: %w", n.Path(), err)
		}
		v.stats.recalls.Add(1)
		select {
		case <-t.Done():
			if err := t.Err(); err != nil {
				t.Close()
				if moved(err) {
					continue
				}
				return nil, fmt.Errorf("recall %s: %w", n.Path(), err)
			}
			ticket = t
		case <-ctx.Done():
			t.Close()
			return nil, fmt.Errorf("recall %s: %w", n.Path(), ctx.Err())
		}
	}
}
