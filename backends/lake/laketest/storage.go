package laketest

import (
	"bytes"
	"context"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

// Storage is a storage in memory. The exported fields are set before it is used.
type Storage struct {
	Total     int64    // bytes; default 1 GiB
	Checksums []string // what Checksum knows; nil: a read-back is needed
	Tape      *Tape    // the tape system behind it
	// Lie, if any, is applied to what is committed, after it was verified.
	Lie func([]byte) []byte
	// Proves makes Commit return the digests of what is kept; else there are none.
	Proves bool

	mu    sync.Mutex
	files map[string]file
	fail  func(op, path string) error
	calls map[string]int
	short map[string]int
}

type file struct {
	data  []byte
	mtime time.Time
}

var _ backends.Storage = (*Storage)(nil)

// NewStorage gives an empty disk.
func NewStorage() *Storage {
	return &Storage{Total: 1 << 30, files: map[string]file{}, calls: map[string]int{}, short: map[string]int{}}
}

// Fail makes every method, and the ReadAt of open files ("read"), ask f first.
func (s *Storage) Fail(f func(op, path string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// Resize sets Total of a storage in use.
func (s *Storage) Resize(total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Total = total
}

// Truncate makes open files of the path end early, though they keep their Size.
func (s *Storage) Truncate(path string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.short[path] = n
}

// Calls tells how often the method of that name, in lower case, was called.
func (s *Storage) Calls(op string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[op]
}

// Put stores a file at once.
func (s *Storage) Put(path string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = file{data, time.Now()}
}

// Get gives a file's bytes, nil if there is none.
func (s *Storage) Get(path string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[path].data
}

// Paths lists the files.
func (s *Storage) Paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.files))
}

func (s *Storage) begin(ctx context.Context, op, path string) error {
	s.mu.Lock()
	s.calls[op]++
	f := s.fail
	s.mu.Unlock()
	err := ctx.Err()
	if err == nil && f != nil {
		err = f(op, path)
	}
	if err != nil {
		return &backends.OpError{Op: op, At: path, Err: err}
	}
	return nil
}

func (s *Storage) find(ctx context.Context, op, path string) (file, error) {
	if err := s.begin(ctx, op, path); err != nil {
		return file{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.files[path]
	if !ok {
		return f, &backends.OpError{Op: op, At: path, Err: backends.ErrNotExist}
	}
	return f, nil
}

// Stat is backends.Storage's.
func (s *Storage) Stat(ctx context.Context, path string) (backends.Attr, error) {
	f, err := s.find(ctx, "stat", path)
	return backends.Attr{Path: path, Size: int64(len(f.data)), MTime: f.mtime}, err
}

// List is backends.Storage's, of all files below dir.
func (s *Storage) List(ctx context.Context, dir string) iter.Seq2[backends.Attr, error] {
	return func(yield func(backends.Attr, error) bool) {
		for _, p := range s.Paths() {
			if a, err := s.Stat(ctx, p); strings.HasPrefix(p, dir) && !yield(a, err) {
				return
			}
		}
	}
}

// Open is backends.Storage's.
func (s *Storage) Open(ctx context.Context, path string) (backends.Object, error) {
	f, err := s.find(ctx, "open", path)
	if err == nil && s.Tape != nil && !s.Tape.online(path) {
		err = &backends.OpError{Op: "open", At: path, Err: backends.ErrOffline}
	}
	if err != nil {
		return nil, err
	}
	return &object{s, path, f.data}, nil
}

type object struct {
	s    *Storage
	path string
	data []byte
}

func (o *object) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := o.s.begin(ctx, "read", o.path); err != nil {
		return 0, err
	}
	data := o.data
	o.s.mu.Lock()
	if n, ok := o.s.short[o.path]; ok {
		data = data[:n]
	}
	o.s.mu.Unlock()
	if off >= int64(len(data)) {
		return 0, io.EOF
	}
	n := copy(p, data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (o *object) Size() int64 { return int64(len(o.data)) }
func (o *object) Close() error {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.s.calls["close"]++
	return nil
}

// Create is backends.Storage's.
func (s *Storage) Create(ctx context.Context, path string, size int64) (backends.Upload, error) {
	if err := s.begin(ctx, "create", path); err != nil {
		return nil, err
	}
	return &upload{s: s, path: path, size: size}, nil
}

type upload struct {
	bytes.Buffer
	s    *Storage
	path string
	size int64
}

func (u *upload) Write(p []byte) (int, error) {
	if err := u.s.begin(context.Background(), "write", u.path); err != nil {
		return 0, err
	}
	return u.Buffer.Write(p)
}

func (u *upload) Commit(ctx context.Context, want backends.Checksums) (backends.Checksums, error) {
	if err := u.s.begin(ctx, "commit", u.path); err != nil {
		return backends.Checksums{}, err
	}
	if u.size >= 0 && int64(u.Len()) != u.size {
		return backends.Checksums{}, &backends.OpError{Op: "commit", At: u.path, Err: backends.ErrCorrupt}
	}
	h := checksum.For(want)
	h.Write(u.Bytes())
	if err := want.Match(h.Sum()); err != nil {
		return backends.Checksums{}, &backends.OpError{Op: "commit", At: u.path, Err: err}
	}
	data := bytes.Clone(u.Bytes())
	if u.s.Lie != nil {
		data = u.s.Lie(data)
	}
	u.s.Put(u.path, data)
	if u.s.Tape != nil {
		u.s.Tape.written(u.path)
	}
	if !u.s.Proves || len(u.s.Checksums) == 0 {
		return backends.Checksums{}, nil
	}
	h = checksum.New(u.s.Checksums...)
	h.Write(data)
	return h.Sum(), nil
}

func (u *upload) Abort() error { return nil }

// Checksum is backends.Storage's.
func (s *Storage) Checksum(ctx context.Context, path string) (backends.Checksums, error) {
	if len(s.Checksums) == 0 {
		return backends.Checksums{}, backends.ErrNotSupported
	}
	f, err := s.find(ctx, "checksum", path)
	if err != nil {
		return backends.Checksums{}, err
	}
	h := checksum.New(s.Checksums...)
	h.Write(f.data)
	return h.Sum(), nil
}

// Remove is backends.Storage's.
func (s *Storage) Remove(ctx context.Context, path string) error {
	if _, err := s.find(ctx, "remove", path); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, path)
	return nil
}

// Space is backends.Storage's.
func (s *Storage) Space(ctx context.Context) (total, free int64, err error) {
	if err := s.begin(ctx, "space", ""); err != nil {
		return 0, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	free = s.Total
	for _, f := range s.files {
		free -= int64(len(f.data))
	}
	return s.Total, free, nil
}

// Traits says what this storage can do.
func (s *Storage) Traits() backends.StorageTraits {
	return backends.StorageTraits{Checksums: s.Checksums, Tape: s.Tape != nil}
}

// Close does nothing.
func (s *Storage) Close() error { return nil }
