package fault

import (
	"context"

	"tarn/backends"
)

// Tape is a tape system with faults. Hooks of calls with several paths are asked for each; the
// first error fails the call. FailRecall makes single files of requests fail.
type Tape struct {
	Script
	inner backends.Tape
}

var _ backends.Tape = (*Tape)(nil)

// NewTape decorates t; without faults it changes nothing.
func NewTape(t backends.Tape) *Tape { return &Tape{inner: t} }

// FailRecall lets Poll report FAILED for every file that f gives an error for. It is asked as "Recall".
func (t *Tape) FailRecall(f Hook) (remove func()) { return t.On("Recall", f) }

// Locality implements backends.Tape, as the methods after it.
func (t *Tape) Locality(ctx context.Context, paths ...string) (out []backends.Locality, err error) {
	if err = t.begin(ctx, "Locality", paths...); err == nil {
		out, err = t.inner.Locality(ctx, paths...)
		err = t.end(ctx, "Locality", err, paths...)
	}
	return out, err
}

// Stage implements backends.Tape.
func (t *Tape) Stage(ctx context.Context, paths ...string) (id backends.RecallID, err error) {
	if err = t.begin(ctx, "Stage", paths...); err == nil {
		id, err = t.inner.Stage(ctx, paths...)
		err = t.end(ctx, "Stage", err, paths...)
	}
	if err != nil {
		return "", err
	}
	return id, nil
}

// Poll implements backends.Tape.
func (t *Tape) Poll(ctx context.Context, id backends.RecallID) (out []backends.RecallState, err error) {
	if err = t.begin(ctx, "Poll", string(id)); err == nil {
		out, err = t.inner.Poll(ctx, id)
		err = t.end(ctx, "Poll", err, string(id))
	}
	if err != nil {
		return nil, err
	}
	for i := range out {
		if ferr := t.begin(ctx, "Recall", out[i].Path); ferr != nil {
			out[i] = backends.RecallState{Path: out[i].Path, Phase: backends.RecallFailed, Error: ferr.Error()}
		}
	}
	return out, nil
}

// Cancel implements backends.Tape.
func (t *Tape) Cancel(ctx context.Context, id backends.RecallID, paths ...string) error {
	if err := t.begin(ctx, "Cancel", append([]string{string(id)}, paths...)...); err != nil {
		return err
	}
	return t.end(ctx, "Cancel", t.inner.Cancel(ctx, id, paths...), string(id))
}

// Release implements backends.Tape.
func (t *Tape) Release(ctx context.Context, id backends.RecallID, paths ...string) error {
	if err := t.begin(ctx, "Release", append([]string{string(id)}, paths...)...); err != nil {
		return err
	}
	return t.end(ctx, "Release", t.inner.Release(ctx, id, paths...), string(id))
}

// Plan implements backends.Tape.
func (t *Tape) Plan(ctx context.Context, paths ...string) (p backends.RecallPlan, err error) {
	if err = t.begin(ctx, "Plan", paths...); err == nil {
		p, err = t.inner.Plan(ctx, paths...)
		err = t.end(ctx, "Plan", err, paths...)
	}
	return p, err
}
