package retry

import (
	"context"
	"errors"

	"tarn/backends"
)

// errStopped ends a sequence whose consumer has enough.
var errStopped = errors.New("stopped")

// Tape tries again what failed temporarily in the tape system below.
type Tape struct {
	o     *Options
	inner backends.Tape
}

var _ backends.Tape = (*Tape)(nil)

// NewTape decorates t.
func NewTape(t backends.Tape, o Options) *Tape { return &Tape{o: o.withDefaults(), inner: t} }

// Locality implements backends.Tape.
func (t *Tape) Locality(ctx context.Context, paths ...string) ([]backends.Locality, error) {
	return get(ctx, t.o, "locality", func() ([]backends.Locality, error) { return t.inner.Locality(ctx, paths...) })
}

// Stage may leave a request that nobody knows behind when the answer to the first attempt was lost.
// It costs no second recall, since equal paths share one, and ends with its lifetime.
func (t *Tape) Stage(ctx context.Context, paths ...string) (backends.RecallID, error) {
	return get(ctx, t.o, "stage", func() (backends.RecallID, error) { return t.inner.Stage(ctx, paths...) })
}

// Poll implements backends.Tape.
func (t *Tape) Poll(ctx context.Context, id backends.RecallID) ([]backends.RecallState, error) {
	return get(ctx, t.o, "poll", func() ([]backends.RecallState, error) { return t.inner.Poll(ctx, id) })
}

// Cancel implements backends.Tape.
func (t *Tape) Cancel(ctx context.Context, id backends.RecallID, paths ...string) error {
	return do(ctx, t.o, "cancel", func(int) error { return t.inner.Cancel(ctx, id, paths...) })
}

// Release implements backends.Tape.
func (t *Tape) Release(ctx context.Context, id backends.RecallID, paths ...string) error {
	return do(ctx, t.o, "release", func(int) error { return t.inner.Release(ctx, id, paths...) })
}

// Plan implements backends.Tape.
func (t *Tape) Plan(ctx context.Context, paths ...string) (backends.RecallPlan, error) {
	return get(ctx, t.o, "plan", func() (backends.RecallPlan, error) { return t.inner.Plan(ctx, paths...) })
}
