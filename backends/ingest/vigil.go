package ingest

import (
	"context"
	"fmt"
	"sync"

	"tarn/backends"
	"tarn/backends/lake"
)

// errMet is why a file is not put at its path; its RSE is well.
var errMet error = &backends.AnsweredError{Err: fmt.Errorf("somebody registered a file of this name while this one was sent; they are compared next: %w: %w", backends.ErrBusy, backends.ErrTemporary)}

// vigil goes on looking at the name of a file while its storage puts it at a path that others write to as well: a storage may compute checksums for
// minutes before it does so. Its context, with which the file is sent, ends when somebody has the name, or when that is not known for metFor; no
// storage shows a file after that.
type vigil struct {
	k    *link
	r    *Record
	ctx  context.Context
	stop context.CancelCauseFunc
	wg   sync.WaitGroup
	once sync.Once
}

// watch gives one that has not begun.
func (k *link) watch(ctx context.Context, rse *lake.RSE, r *Record) *vigil {
	v := &vigil{k: k, r: r}
	v.ctx, v.stop = context.WithCancelCause(ctx)
	if k.server == nil || !rse.Bound {
		v.once.Do(func() {}) // the path is the file's own
	}
	return v
}

// begin is called when all bytes are sent. What is known of the name is no older than metFor then.
func (v *vigil) begin() {
	v.once.Do(func() {
		v.wg.Go(func() {
			for v.k.patient(v.ctx, metFor/2) {
				if err := v.look(); err != nil {
					v.stop(err)
				}
			}
		})
	})
}

// look asks for the name.
func (v *vigil) look() error {
	ctx, cancel := context.WithTimeout(v.ctx, metFor/2)
	defer cancel()
	err := v.k.meet(ctx, []*Record{v.r})
	switch {
	case err != nil && v.k.clock().Sub(v.r.met.at) < metFor:
		return nil
	case err != nil:
		return fmt.Errorf("look whether the name is still free: %w", err)
	case v.r.met.is:
		return errMet
	}
	return nil
}

// end gives the error of what was sent with the context of the vigil.
func (v *vigil) end(err error) error {
	cause := context.Cause(v.ctx)
	v.stop(context.Canceled)
	v.wg.Wait()
	if err != nil && cause != nil {
		return cause
	}
	return err
}
