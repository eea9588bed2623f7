package retry

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"

	"tarn/backends"
)

// errStopped ends a sequence whose consumer has enough.
var errStopped = errors.New("stopped")

// Storage tries again what failed temporarily in the storage below.
type Storage struct {
	o     *Options
	inner backends.Storage
}

var (
	_ backends.Decorator  = (*Storage)(nil)
	_ backends.ThirdParty = (*Storage)(nil)
)

// NewStorage decorates s.
func NewStorage(s backends.Storage, o Options) *Storage {
	return &Storage{o: o.withDefaults(), inner: s}
}

// Stat implements backends.Storage.
func (s *Storage) Stat(ctx context.Context, path string) (backends.Attr, error) {
	return get(ctx, s.o, "stat", func() (backends.Attr, error) { return s.inner.Stat(ctx, path) })
}

// List begins anew after a failure and leaves out what was given already: entries come sorted by name.
func (s *Storage) List(ctx context.Context, dir string) iter.Seq2[backends.Attr, error] {
	return func(yield func(backends.Attr, error) bool) {
		last, any := "", false
		for l := s.o.loop("list"); ; {
			err := func() error {
				for a, err := range s.inner.List(ctx, dir) {
					if err != nil {
						return err
					}
					if any && a.Path <= last {
						continue
					}
					last, any = a.Path, true
					if !yield(a, nil) {
						return errStopped
					}
				}
				return nil
			}()
			if err == nil || err == errStopped {
				return
			}
			if !l.again(ctx, err) {
				yield(backends.Attr{}, l.last(ctx, err))
				return
			}
		}
	}
}

// Open gives an Object whose reads are tried again, from the first byte that is missing. It has a
// method File() *os.File, which gives nil when the Object below has none.
func (s *Storage) Open(ctx context.Context, path string) (backends.Object, error) {
	o, err := get(ctx, s.o, "open", func() (backends.Object, error) { return s.inner.Open(ctx, path) })
	if err != nil {
		return nil, err
	}
	return &object{Object: o, o: s.o}, nil
}

type object struct {
	backends.Object
	o *Options
}

func (r *object) File() *os.File {
	if f, ok := r.Object.(interface{ File() *os.File }); ok {
		return f.File()
	}
	return nil
}

func (r *object) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = do(ctx, r.o, "read", func(int) error {
		m, err := r.Object.ReadAt(ctx, p[n:], off+int64(n))
		n += m
		return err
	})
	if err == io.EOF && n == len(p) {
		err = nil
	}
	return n, err
}

// Create is tried again; the Upload is not.
func (s *Storage) Create(ctx context.Context, path string, size int64) (backends.Upload, error) {
	return get(ctx, s.o, "create", func() (backends.Upload, error) { return s.inner.Create(ctx, path, size) })
}

// CopyTo is not tried again, as an upload is not: whoever wants the copy has other ways to it, and comes again.
func (s *Storage) CopyTo(ctx context.Context, src string, to backends.Storage, dst string, size int64, want backends.Checksums, progress func(int64)) (backends.Checksums, error) {
	tp, ok := s.inner.(backends.ThirdParty)
	if !ok {
		return backends.Checksums{}, &backends.OpError{Op: "copy", At: src, Err: backends.ErrNotSupported}
	}
	if r, ok := to.(*Storage); ok {
		to = r.inner
	}
	return tp.CopyTo(ctx, src, to, dst, size, want, progress)
}

// Unwrap gives the storage below.
func (s *Storage) Unwrap() backends.Storage { return s.inner }

// Checksum implements backends.Storage.
func (s *Storage) Checksum(ctx context.Context, path string) (backends.Checksums, error) {
	return get(ctx, s.o, "checksum", func() (backends.Checksums, error) { return s.inner.Checksum(ctx, path) })
}

// Remove takes "not there" as its own success when it is not the first attempt.
func (s *Storage) Remove(ctx context.Context, path string) error {
	return do(ctx, s.o, "remove", func(n int) error {
		return doneBefore(n, s.inner.Remove(ctx, path), backends.ErrNotExist)
	})
}

// Space implements backends.Storage.
func (s *Storage) Space(ctx context.Context) (total, free int64, err error) {
	err = do(ctx, s.o, "space", func(int) error {
		total, free, err = s.inner.Space(ctx)
		return err
	})
	return total, free, err
}

// Traits are those of the storage below.
func (s *Storage) Traits() backends.StorageTraits { return s.inner.Traits() }

// Close closes the storage below.
func (s *Storage) Close() error { return s.inner.Close() }
