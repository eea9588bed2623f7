package backendstest

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"tarn/backends"
)

// Party is a storage whose server seems to exchange files with others of its kind, for the tests of what stands before such.
type Party struct {
	backends.Storage
	// Meanwhile, if any, is called in the midst of every copy; an error ends it.
	Meanwhile func(ctx context.Context, src string) error
	// Answer, if any, is called when a copy is there or has failed, and gives its result.
	Answer func(src string, err error) error

	sent atomic.Int64
}

var _ backends.ThirdParty = (*Party)(nil)

// Sent tells how many copies were asked for.
func (p *Party) Sent() int64 { return p.sent.Load() }

// CopyTo implements backends.ThirdParty.
func (p *Party) CopyTo(ctx context.Context, src string, to backends.Storage, dst string, size int64, want backends.Checksums, progress func(int64)) (backends.Checksums, error) {
	q, ok := to.(*Party)
	if !ok {
		return backends.Checksums{}, &backends.OpError{Op: "copy", At: src, Err: backends.ErrNotSupported}
	}
	p.sent.Add(1)
	got, err := p.exchange(ctx, src, q, dst, size, want, progress)
	if p.Answer != nil {
		err = p.Answer(src, err)
	}
	if err != nil {
		return backends.Checksums{}, err
	}
	return got, nil
}

func (p *Party) exchange(ctx context.Context, src string, q *Party, dst string, size int64, want backends.Checksums, progress func(int64)) (none backends.Checksums, err error) {
	o, err := p.Open(ctx, src)
	if err != nil {
		return none, err
	}
	defer o.Close()
	if o.Size() != size {
		return none, fmt.Errorf("copy %s of %d bytes, not %d: %w", src, o.Size(), size, backends.ErrCorrupt)
	}
	u, err := q.Create(ctx, dst, size)
	if err != nil {
		return none, err
	}
	defer u.Abort()
	buf := make([]byte, 256<<10)
	for off := int64(0); off < size; {
		n, err := o.ReadAt(ctx, buf, off)
		if err != nil && err != io.EOF {
			return none, err
		}
		if n == 0 {
			return none, io.ErrUnexpectedEOF
		}
		if _, err := u.Write(buf[:n]); err != nil {
			return none, err
		}
		first := off == 0
		if off += int64(n); progress != nil {
			progress(off)
		}
		if first && p.Meanwhile != nil {
			if err := p.Meanwhile(ctx, src); err != nil {
				return none, err
			}
		}
		if err := ctx.Err(); err != nil {
			return none, err
		}
	}
	return u.Commit(ctx, want)
}
