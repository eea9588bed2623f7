package lake

import (
	"context"
	"sync"

	"tarn/backends"
)

// Ticket is an interest in a recall. It is a pin: what was staged for it stays in the
// tape system's buffer until it is closed.
type Ticket struct {
	c    *collector
	r    *recall
	once sync.Once
}

// Done is closed when the recall has ended, well or not.
func (t *Ticket) Done() <-chan struct{} { return t.r.done }

// Err is nil while the recall goes on and when the bytes can be had; otherwise it wraps
// ErrUnavailable with ErrTemporary, ErrLost, ErrStale, ErrCancelled or ErrClosed.
func (t *Ticket) Err() error {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	return t.r.err
}

// State tells how far the recall is.
func (t *Ticket) State() backends.RecallState {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	s := backends.RecallState{Path: t.r.pfn, Phase: t.r.phase, Error: t.r.trouble, Position: t.r.position, ETA: t.r.eta}
	if t.r.err != nil {
		s.Error = t.r.err.Error()
	}
	return s
}

// Close drops the interest. The last Close cancels the recall when it goes on, and lets
// the tape system evict the file when it is there. It does not wait for that. It may
// be called twice.
func (t *Ticket) Close() {
	t.once.Do(func() {
		t.c.mu.Lock()
		defer t.c.mu.Unlock()
		if t.r.refs--; t.r.refs == 0 {
			t.c.dropLocked(t.r)
		}
	})
}

// Recall asks for in to be brought online and returns at once. Wants that come within
// Options.HoldWindow become one request to each tape system; wants for one content
// share one recall. A file that has an online copy, or gets one meanwhile anywhere, is
// done without tape. A recall that failed lately fails at once, with the reason.
func (l *Lake) Recall(ctx context.Context, in backends.Info) (*Ticket, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return l.RecallAt(ctx, in, "")
}

// RecallAt is Recall from the tape of one RSE, whatever other copies there are; "" for any.
func (l *Lake) RecallAt(ctx context.Context, in backends.Info, rse string) (*Ticket, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := l.recalls.join([]backends.Info{in}, rse, l.o.HoldWindow)[0]
	if err := t.Err(); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// RecallAll is Recall for many, without the hold window: one request to each tape
// system. It gives one Ticket for each Info; those that cannot begin have ended
// with the error.
func (l *Lake) RecallAll(ctx context.Context, ins []backends.Info) ([]*Ticket, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return l.recalls.join(ins, "", 0), nil
}
