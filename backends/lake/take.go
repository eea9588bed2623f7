package lake

import (
	"context"
	"errors"
	"fmt"
	"io"

	"tarn/backends"
	"tarn/backends/checksum"
)

// Take is Store of a content whose digests nobody knows yet: they are computed while it is sent, and given back. With
// look the path may have been written to before: where a file of this size is, src is read for its digests first, and
// a file that has them is success without moving a byte.
func (l *Lake) Take(ctx context.Context, rse *RSE, pfn string, src io.ReaderAt, size int64, look bool, progress func(int64)) (backends.Replica, backends.Checksums, error) {
	if look {
		switch a, err := rse.Storage.Stat(ctx, pfn); {
		case err == nil && !a.IsDir && a.Size == size:
			want, err := l.digest(ctx, src, size)
			if err != nil {
				return backends.Replica{}, want, fmt.Errorf("take %s to %s: %w", pfn, rse.Name, err)
			}
			r, err := l.Store(ctx, rse, pfn, src, size, want, progress)
			return r, want, err
		case err != nil && !errors.Is(err, backends.ErrNotExist) && !Misfit(err):
			return backends.Replica{}, backends.Checksums{}, fmt.Errorf("take %s to %s: %w", pfn, rse.Name, err)
		}
	}
	return l.store(ctx, rse, pfn, src, size, backends.Checksums{}, progress, false)
}

// digest reads all of src for the digests of new files.
func (l *Lake) digest(ctx context.Context, src io.ReaderAt, size int64) (backends.Checksums, error) {
	h := checksum.New(l.o.Algs...)
	err := stream(ctx, src, 0, size, func(p []byte) error {
		h.Write(p)
		return nil
	})
	return h.Sum(), err
}

// OnTape tells of many paths at one RSE whether each is where it is to stay, as StoredOnTape, with one question to the
// tape system. What it does not have, or cannot tell of, is not.
func (l *Lake) OnTape(ctx context.Context, rse *RSE, pfns []string) ([]bool, error) {
	out := make([]bool, len(pfns))
	if rse.Tape == nil {
		for i := range out {
			out[i] = true
		}
		return out, nil
	}
	if len(pfns) == 0 {
		return out, nil
	}
	found, err := l.tapeLocalities(ctx, rse, pfns)
	if err != nil {
		return nil, err
	}
	for i, f := range found {
		out[i] = f == backends.Nearline || f == backends.OnlineAndNearline
	}
	return out, nil
}

// Prove asks the storage for the checksum of what it has at a path, or reads it back where the storage has none, and
// compares it and the size. It changes nothing; ErrCorrupt, ErrNotExist, ErrOffline.
func (l *Lake) Prove(ctx context.Context, rse *RSE, pfn string, size int64, want backends.Checksums) (backends.Checksums, error) {
	fail := func(err error) error { return fmt.Errorf("prove %s at %s: %w", pfn, rse.Name, err) }
	a, err := rse.Storage.Stat(ctx, pfn)
	if err != nil {
		return backends.Checksums{}, fail(err)
	}
	if a.IsDir || a.Size != size {
		return backends.Checksums{}, fail(fmt.Errorf("%d bytes, want %d: %w", a.Size, size, backends.ErrCorrupt))
	}
	got, err := l.digests(ctx, rse, pfn, want)
	if err != nil {
		return got, fail(err)
	}
	if err := want.Match(got); err != nil {
		return got, fail(err)
	}
	return got, nil
}
