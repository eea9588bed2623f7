package endpoint

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"

	"tarn/backends"
)

// Storage is a storage behind an Endpoint. Its Objects have no File method: every byte passes here.
type Storage struct {
	e     *Endpoint
	inner backends.Storage
}

var (
	_ backends.Decorator  = (*Storage)(nil)
	_ backends.ThirdParty = (*Storage)(nil)
)

// Storage decorates s, which may be one of several behind this door.
func (e *Endpoint) Storage(s backends.Storage) *Storage { return &Storage{e: e, inner: s} }

// get is do for calls with a result.
func get[T any](ctx context.Context, e *Endpoint, f func() (T, error)) (v T, err error) {
	err = e.do(ctx, func() error {
		v, err = f()
		return err
	})
	return v, err
}

// Stat implements backends.Storage, as the methods after it.
func (s *Storage) Stat(ctx context.Context, path string) (backends.Attr, error) {
	return get(ctx, s.e, func() (backends.Attr, error) { return s.inner.Stat(ctx, path) })
}

// List has its turn until the first entry: who walks a tree asks for more meanwhile.
func (s *Storage) List(ctx context.Context, dir string) iter.Seq2[backends.Attr, error] {
	return func(yield func(backends.Attr, error) bool) {
		t, err := s.e.enter(ctx, s.e.calls)
		if err != nil {
			yield(backends.Attr{}, err)
			return
		}
		out := func(err error) {
			switch {
			case t != nil:
				t.gave(err)
				t.end()
				t = nil
			case err != nil:
				s.e.note(err)
			}
		}
		defer func() { out(nil) }() // an empty folder
		for a, err := range s.inner.List(ctx, dir) {
			out(err)
			if !yield(a, s.e.refused(err)) {
				return
			}
		}
	}
}

// Open has its turn until the file is open; each read of it has one of its own.
func (s *Storage) Open(ctx context.Context, path string) (backends.Object, error) {
	o, err := get(ctx, s.e, func() (backends.Object, error) { return s.inner.Open(ctx, path) })
	if err != nil {
		return nil, err
	}
	return &object{Object: o, e: s.e}, nil
}

type object struct {
	backends.Object
	e *Endpoint
}

// ReadAt pays for bytes before it reads them, within its turn, a piece at a time. Whoever cannot wait for all of them
// reads nothing.
func (o *object) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	t, err := o.e.enter(ctx, o.e.calls)
	if err != nil {
		return 0, err
	}
	l := o.e.read
	f, ok := book(ctx, l, int(max(min(int64(len(p)), o.Size()-off), 0)))
	if !ok {
		t.gave(errNothing)
		t.end()
		return 0, o.e.late(ctx, l)
	}
	defer t.end()
	defer f.leave()
	for {
		if err := f.next(ctx); err != nil {
			t.gave(errNothing)
			return n, err
		}
		var m int
		m, err = o.Object.ReadAt(ctx, p[n:n+piece(l, len(p)-n)], off+int64(n))
		if n += m; err != nil || m == 0 || n == len(p) {
			break
		}
	}
	if err == io.EOF {
		t.gave(nil)
	} else {
		t.gave(err)
	}
	return n, o.e.refused(err)
}

// Create gives an Upload that has its turn until Commit or Abort.
func (s *Storage) Create(ctx context.Context, path string, size int64) (backends.Upload, error) {
	t, err := s.e.enter(ctx, s.e.uploads)
	if err != nil {
		return nil, err
	}
	u, err := s.inner.Create(ctx, path, size)
	if err != nil {
		t.gave(err)
		t.end()
		return nil, s.e.refused(err)
	}
	t.gave(errNothing) // some storages have sent nothing yet, and Commit may come hours later
	return &upload{inner: u, e: s.e, ctx: ctx, end: sync.OnceFunc(t.end)}, nil
}

type upload struct {
	inner backends.Upload
	e     *Endpoint
	ctx   context.Context // of Create
	end   func()          // of its turn; may be called again
}

// Expect implements backends.Expecter.
func (u *upload) Expect(want backends.Checksums, compare ...string) {
	backends.Expect(u.inner, want, compare...)
}

func (u *upload) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		some := p[:piece(u.e.write, len(p))]
		if err := u.e.pay(u.ctx, u.e.write, len(some)); err != nil {
			return n, err
		}
		var m int
		m, err = u.inner.Write(some)
		n, p = n+m, p[m:]
	}
	if err != nil {
		u.e.note(err)
	}
	return n, err
}

// Flush implements backends.Resumer.
func (u *upload) Flush(ctx context.Context) error {
	err := backends.Flush(ctx, u.inner)
	u.e.note(err)
	return err
}

// Resume implements backends.Resumer: the upload has its turn already, and whoever wants to go on waits longer each time.
func (u *upload) Resume(ctx context.Context) (int64, error) {
	off, err := backends.Resume(ctx, u.inner)
	if !errors.Is(err, backends.ErrNotSupported) {
		u.e.note(err)
	}
	return off, err
}

// Commit is made whatever the breaker says: the bytes are there already.
func (u *upload) Commit(ctx context.Context, want backends.Checksums) (backends.Checksums, error) {
	defer u.end()
	c, err := u.inner.Commit(ctx, want)
	u.e.note(err)
	return c, err
}

func (u *upload) Abort() error {
	defer u.end()
	return u.inner.Abort()
}

// Checksum implements backends.Storage.
func (s *Storage) Checksum(ctx context.Context, path string) (backends.Checksums, error) {
	return get(ctx, s.e, func() (backends.Checksums, error) { return s.inner.Checksum(ctx, path) })
}

// Remove implements backends.Storage.
func (s *Storage) Remove(ctx context.Context, path string) error {
	return s.e.do(ctx, func() error { return s.inner.Remove(ctx, path) })
}

// Space implements backends.Storage.
func (s *Storage) Space(ctx context.Context) (total, free int64, err error) {
	err = s.e.do(ctx, func() error {
		total, free, err = s.inner.Space(ctx)
		return err
	})
	return total, free, err
}

// Unwrap gives the storage below.
func (s *Storage) Unwrap() backends.Storage { return s.inner }

// Traits are those of the storage below.
func (s *Storage) Traits() backends.StorageTraits { return s.inner.Traits() }

// Close closes the storage below; the door stays for others.
func (s *Storage) Close() error { return s.inner.Close() }
