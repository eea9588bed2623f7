package fault

import (
	"context"
	"io"
	"iter"

	"tarn/backends"
)

// Storage is a storage with faults. Its Objects have no File method: every byte passes here.
type Storage struct {
	Script
	inner backends.Storage
}

var (
	_ backends.Decorator  = (*Storage)(nil)
	_ backends.ThirdParty = (*Storage)(nil)
)

// NewStorage decorates s; without faults it changes nothing.
func NewStorage(s backends.Storage) *Storage { return &Storage{inner: s} }

// ReadHook changes what a ReadAt of path at off gave: p[:n] are the bytes read, and what it returns is
// the result. p may be changed.
type ReadHook func(path string, p []byte, off int64, n int, err error) (int, error)

// OnRead calls f after every ReadAt.
func (s *Script) OnRead(f ReadHook) (remove func()) {
	h := &readHook{f}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = append(s.reads, h)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range s.reads {
			if s.reads[i] == h {
				s.reads = append(s.reads[:i:i], s.reads[i+1:]...)
				return
			}
		}
	}
}

// FlipByte changes the byte at off of every file.
func FlipByte(off int64) ReadHook {
	return func(_ string, p []byte, at int64, n int, err error) (int, error) {
		if off >= at && off < at+int64(n) {
			p[off-at] ^= 0x01
		}
		return n, err
	}
}

// ShortRead gives at most max bytes of each read, with err (nil breaks the contract: that is the point).
func ShortRead(max int, err error) ReadHook {
	return func(_ string, _ []byte, _ int64, n int, rerr error) (int, error) {
		if n > max {
			return max, err
		}
		return n, rerr
	}
}

// CutAt ends every file at size, as a truncated one does.
func CutAt(size int64) ReadHook {
	return func(_ string, _ []byte, off int64, n int, err error) (int, error) {
		if off+int64(n) > size {
			return int(max(0, size-off)), io.EOF
		}
		return n, err
	}
}

// ReadsAt limits a ReadHook to one path.
func ReadsAt(path string, h ReadHook) ReadHook {
	return func(at string, p []byte, off int64, n int, err error) (int, error) {
		if at != path {
			return n, err
		}
		return h(at, p, off, n, err)
	}
}

// Stat implements backends.Storage, as the methods after it.
func (s *Storage) Stat(ctx context.Context, path string) (a backends.Attr, err error) {
	if err = s.begin(ctx, "Stat", path); err == nil {
		a, err = s.inner.Stat(ctx, path)
		err = s.end(ctx, "Stat", err, path)
	}
	return a, err
}

// List fails before its first entry; "ListEntry" is asked with each entry's path before it is given.
func (s *Storage) List(ctx context.Context, dir string) iter.Seq2[backends.Attr, error] {
	return func(yield func(backends.Attr, error) bool) {
		if err := s.begin(ctx, "List", dir); err != nil {
			yield(backends.Attr{}, err)
			return
		}
		for a, err := range s.inner.List(ctx, dir) {
			if err == nil {
				err = s.begin(ctx, "ListEntry", a.Path)
			}
			if err != nil {
				yield(backends.Attr{}, err)
				return
			}
			if !yield(a, nil) {
				return
			}
		}
		if err := s.end(ctx, "List", nil, dir); err != nil {
			yield(backends.Attr{}, err)
		}
	}
}

// Open gives an Object whose reads pass the hooks of "ReadAt" and OnRead.
func (s *Storage) Open(ctx context.Context, path string) (backends.Object, error) {
	if err := s.begin(ctx, "Open", path); err != nil {
		return nil, err
	}
	o, err := s.inner.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := s.end(ctx, "Open", nil, path); err != nil {
		o.Close()
		return nil, err
	}
	return &object{s: s, path: path, Object: o}, nil
}

type object struct {
	backends.Object
	s    *Storage
	path string
}

func (o *object) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := o.s.begin(ctx, "ReadAt", o.path); err != nil {
		return 0, err
	}
	n, err := o.Object.ReadAt(ctx, p, off)
	o.s.mu.Lock()
	hooks := append([]*readHook(nil), o.s.reads...)
	o.s.mu.Unlock()
	for _, h := range hooks {
		n, err = h.f(o.path, p, off, n, err)
	}
	if err == nil || err == io.EOF {
		if aerr := o.s.end(ctx, "ReadAt", nil, o.path); aerr != nil {
			return 0, aerr
		}
	}
	return n, err
}

// Create gives an Upload whose steps pass the hooks of "Write", "Commit" and "Abort".
func (s *Storage) Create(ctx context.Context, path string, size int64) (backends.Upload, error) {
	if err := s.begin(ctx, "Create", path); err != nil {
		return nil, err
	}
	u, err := s.inner.Create(ctx, path, size)
	if err != nil {
		return nil, err
	}
	if err := s.end(ctx, "Create", nil, path); err != nil {
		u.Abort()
		return nil, err
	}
	return &upload{s: s, path: path, u: u}, nil
}

type upload struct {
	s    *Storage
	path string
	u    backends.Upload
}

// Expect implements backends.Expecter.
func (u *upload) Expect(want backends.Checksums, compare ...string) {
	backends.Expect(u.u, want, compare...)
}

// Flush and Resume implement backends.Resumer.
func (u *upload) Flush(ctx context.Context) error           { return backends.Flush(ctx, u.u) }
func (u *upload) Resume(ctx context.Context) (int64, error) { return backends.Resume(ctx, u.u) }

func (u *upload) Write(p []byte) (int, error) {
	if err := u.s.begin(context.Background(), "Write", u.path); err != nil {
		return 0, err
	}
	n, err := u.u.Write(p)
	return n, u.s.end(context.Background(), "Write", err, u.path)
}

// Commit that fails before it was done has ended the upload, as every failed Commit.
func (u *upload) Commit(ctx context.Context, want backends.Checksums) (backends.Checksums, error) {
	if err := u.s.begin(ctx, "Commit", u.path); err != nil {
		u.u.Abort()
		return backends.Checksums{}, err
	}
	got, err := u.u.Commit(ctx, want)
	if err = u.s.end(ctx, "Commit", err, u.path); err != nil {
		return backends.Checksums{}, err
	}
	return got, nil
}

func (u *upload) Abort() error {
	if err := u.s.begin(context.Background(), "Abort", u.path); err != nil {
		return err
	}
	return u.s.end(context.Background(), "Abort", u.u.Abort(), u.path)
}

// CopyTo passes the hooks of "CopyTo" with the path of the source, and then, where the destination has faults too, its
// hooks of "Receive" with the path there.
func (s *Storage) CopyTo(ctx context.Context, src string, to backends.Storage, dst string, size int64, want backends.Checksums, progress func(int64)) (got backends.Checksums, err error) {
	tp, ok := s.inner.(backends.ThirdParty)
	if !ok {
		return got, backends.ErrNotSupported
	}
	if err := s.begin(ctx, "CopyTo", src); err != nil {
		return got, err
	}
	f, faulty := to.(*Storage)
	if faulty {
		if err := f.begin(ctx, "Receive", dst); err != nil {
			return got, err
		}
		to = f.inner
	}
	got, err = tp.CopyTo(ctx, src, to, dst, size, want, progress)
	if faulty {
		err = f.end(ctx, "Receive", err, dst)
	}
	if err = s.end(ctx, "CopyTo", err, src); err != nil {
		return backends.Checksums{}, err
	}
	return got, nil
}

// Unwrap gives the storage below.
func (s *Storage) Unwrap() backends.Storage { return s.inner }

// Checksum implements backends.Storage.
func (s *Storage) Checksum(ctx context.Context, path string) (c backends.Checksums, err error) {
	if err = s.begin(ctx, "Checksum", path); err == nil {
		c, err = s.inner.Checksum(ctx, path)
		err = s.end(ctx, "Checksum", err, path)
	}
	return c, err
}

// Remove implements backends.Storage.
func (s *Storage) Remove(ctx context.Context, path string) error {
	if err := s.begin(ctx, "Remove", path); err != nil {
		return err
	}
	return s.end(ctx, "Remove", s.inner.Remove(ctx, path), path)
}

// Space implements backends.Storage.
func (s *Storage) Space(ctx context.Context) (total, free int64, err error) {
	if err = s.begin(ctx, "Space"); err == nil {
		total, free, err = s.inner.Space(ctx)
		err = s.end(ctx, "Space", err)
	}
	return total, free, err
}

// Traits are those of the storage below.
func (s *Storage) Traits() backends.StorageTraits { return s.inner.Traits() }

// Close closes the storage below.
func (s *Storage) Close() error { return s.inner.Close() }
