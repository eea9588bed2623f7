package vfs

import (
	"context"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/lake"
	"tarn/cache/journal"
)

// looked is a sealed content as its first upload reads it. Where the look at the bytes is
// still to come, it goes beside the upload: who reads gets the last byte when it has ended well,
// so that nothing is stored before all checksums are known and agree.
type looked struct {
	ctx  context.Context
	u    *unsent
	size int64
	done chan struct{} // closed at the end of the look; nil: there is none
	err  error         // what came of it
}

var _ lake.LateSums = (*looked)(nil)

// source begins the look at u's bytes. It is over before the upload begins where no quick
// checksum is known that the upload could be compared with.
func (u *unsent) source(ctx context.Context, r journal.Record) (*looked, error) {
	s := &looked{ctx: ctx, u: u, size: r.Size}
	if !r.SumsLate || r.Damaged || checksum.FromMap(r.Sums).Adler32 == "" {
		return s, u.proved()
	}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		s.err = u.proved()
	}()
	return s, nil
}

// ReadAt reads the content.
func (s *looked) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.u.entry.ReadAt(p, off)
	if s.done == nil || off+int64(n) < s.size {
		return n, err
	}
	select {
	case <-s.done:
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
	if s.err != nil {
		return 0, s.err
	}
	return n, err
}

// Sums are all checksums, once the last byte was read.
func (s *looked) Sums() backends.Checksums { return checksum.FromMap(s.u.entry.Record().Sums) }

// wait is for the end of the look, and tells what came of it.
func (s *looked) wait() error {
	if s.done == nil {
		return nil
	}
	<-s.done
	return s.err
}

// failed is what the look has found wrong, if it is over.
func (s *looked) failed() error {
	if s.done == nil {
		return nil
	}
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}
