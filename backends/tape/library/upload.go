package library

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"tarn/backends"
	"tarn/backends/checksum"
)

// upload is a file on its way into the buffer. Its bytes lie under the name that the
// file will have; it becomes one by its record in the index.
type upload struct {
	l        *Library
	ctx      context.Context // of Create: what waiting for space in Write is bounded by
	path     string
	size     int64
	file     uint64
	copy     uint64
	reserved int64
	f        *os.File
	h        *checksum.Hasher
	err      error
	done     bool
}

// Create reserves the announced bytes in the disk buffer. When they do not fit it waits for
// migration to make room, as long as ctx allows, and is ErrNoSpace when that cannot
// help: everything is held by stage requests, or no cartridge has room. An upload of unknown
// size reserves while it is written, on the same ctx.
func (l *Library) Create(ctx context.Context, path string, size int64) (backends.Upload, error) {
	if err := l.begin(ctx, "create", path); err != nil {
		return nil, err
	}
	u := &upload{l: l, ctx: ctx, path: path, size: size, file: l.newID(), copy: l.newID(), h: checksum.New()}
	err := l.canPut(path)
	if err == nil && !l.anyRoom(max(size, 0)) {
		err = fmt.Errorf("no cartridge has room for %d bytes: %w", size, backends.ErrNoSpace)
	}
	l.unlock()
	if err == nil && size > 0 {
		if err = l.waitReserve(ctx, size, 0); err == nil {
			u.reserved = size
		}
	}
	if err == nil {
		err = u.make()
	}
	if err != nil {
		u.unreserve()
		return nil, l.fail("create", path, err)
	}
	return u, nil
}

func (l *Library) anyRoom(n int64) bool {
	for _, c := range l.carts {
		if l.room(c, n) {
			return true
		}
	}
	return false
}

func (u *upload) make() (err error) {
	if err := os.Mkdir(u.l.shard(u.file), 0o700); err != nil && !os.IsExist(err) {
		return translated(err)
	}
	u.f, err = os.OpenFile(u.name(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return translated(err)
}

func (u *upload) name() string { return u.l.bufferPath(u.file, u.copy) }

func (u *upload) fail(op string, err error) error { return u.l.fail(op, u.path, err) }

func (u *upload) Write(p []byte) (int, error) {
	if u.done {
		return 0, u.fail("write", backends.ErrClosed)
	}
	if u.err != nil {
		return 0, u.err
	}
	after := u.h.Size() + int64(len(p))
	if u.size >= 0 && after > u.size {
		u.err = u.fail("write", fmt.Errorf("more than the announced %d bytes: %w", u.size, backends.ErrCorrupt))
		return 0, u.err
	}
	if more := after - u.reserved; more > 0 {
		if err := u.l.waitReserve(u.ctx, more, u.reserved); err != nil {
			u.err = u.fail("write", err)
			return 0, u.err
		}
		u.reserved += more
	}
	n, err := u.f.Write(p)
	u.h.Write(p[:n])
	if err != nil {
		u.err = u.fail("write", translated(err))
	}
	return n, u.err
}

// Commit returns when bytes and record are durable in the disk buffer; the tape comes later.
func (u *upload) Commit(ctx context.Context, want backends.Checksums) (backends.Checksums, error) {
	if u.done {
		return backends.Checksums{}, u.fail("commit", backends.ErrClosed)
	}
	defer u.Abort()
	err := u.verify(ctx, want)
	if err == nil {
		err = translated(u.f.Sync())
	}
	if err == nil {
		err = u.register()
	}
	if err != nil {
		var ours *backends.OpError
		if errors.As(err, &ours) {
			return backends.Checksums{}, err
		}
		return backends.Checksums{}, u.fail("commit", err)
	}
	return backends.Checksums{}, nil // the digests are of what was given to the file, not of what it has
}

func (u *upload) verify(ctx context.Context, want backends.Checksums) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if u.err != nil {
		return u.err
	}
	if u.size >= 0 && u.h.Size() != u.size {
		return fmt.Errorf("%d bytes of the announced %d came: %w", u.h.Size(), u.size, backends.ErrCorrupt)
	}
	got := u.h.Sum()
	if want.MD5 != "" { // not computed on the way
		h := checksum.New("md5")
		if _, err := io.Copy(h, io.NewSectionReader(u.f, 0, u.h.Size())); err != nil {
			return translated(err)
		}
		got.MD5 = h.Sum().MD5
	}
	return want.Match(got)
}

// register makes it a file. The answer is that of the index's order: somebody else may have put a
// folder there meanwhile.
func (u *upload) register() error {
	l := u.l
	f := &file{id: u.file, size: u.h.Size(), mtime: l.o.Now().UnixNano(), cart: -1}
	f.setSums(u.h)
	r := f.record(u.path)
	var refused error
	err := l.idx.append(r.appendTo(nil), l.shard(u.file), func() {
		l.mu.Lock()
		defer l.unlock()
		old, err := l.put(u.path, f)
		if err != nil {
			refused = err
			return
		}
		u.reserved -= f.size // the copy's from now on
		l.uploading -= f.size
		f.buf = &copied{f: f, id: u.copy}
		if old != nil {
			l.discard(old)
		}
		l.migrate(f)
		u.file = 0
	})
	if errors.Is(err, errIndexBroken) {
		// The record may be there at the next Open, and must find its bytes then.
		u.file, u.reserved = 0, 0
		l.mu.Lock()
		l.uploading -= f.size
		l.unlock()
	}
	return errors.Join(err, refused)
}

// Abort removes what was written, unless Commit has made it a file.
func (u *upload) Abort() error {
	if u.done {
		return nil
	}
	u.done = true
	u.f.Close()
	var err error
	if u.file != 0 {
		err = os.Remove(u.name())
	}
	u.unreserve()
	if err != nil {
		return u.fail("abort", translated(err))
	}
	return nil
}

func (u *upload) unreserve() {
	u.l.mu.Lock()
	u.l.uploading -= u.reserved
	u.l.unlock()
	u.l.unreserve(u.reserved)
	u.reserved = 0
}
