package posix

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends"
	"tarn/backends/checksum"
)

// stale is the age from which an unfinished upload is taken for left over by a crash: other
// nodes may be writing to the same folder.
const stale = 24 * time.Hour

// maxDurable bounds the memory of folders known to be on disk; forgetting one costs an fsync.
const maxDurable = 1 << 14

// upload is one file on its way.
type upload struct {
	s        *Storage
	r        *root
	path     string
	tmp      string
	size     int64 // announced; -1: not
	reserved int64
	f        *os.File
	h        *checksum.Hasher
	err      error // sticky: a failed write cannot be followed by a good commit
	done     bool
}

// Create refuses what would go below FreeFloor before a byte is written.
func (s *Storage) Create(ctx context.Context, p string, size int64) (backends.Upload, error) {
	if s.o.ReadOnly {
		return nil, &backends.OpError{Op: "create", At: s.at(p), Err: backends.ErrReadOnly}
	}
	u := &upload{s: s, path: p, size: size, h: checksum.New(s.o.Checksums...)}
	err := s.do(ctx, "create", p, func(r *root) error {
		if local(p) == "." {
			return syscall.EISDIR
		}
		u.r = r
		if fi, err := r.Lstat(p); err == nil && fi.IsDir() {
			return syscall.EISDIR
		}
		if err := s.makeParents(r, p); err != nil {
			return err
		}
		if err := r.Mkdir(uploads, 0o700); err != nil && !errors.Is(err, syscall.EEXIST) {
			return err
		}
		if err := u.reserve(); err != nil {
			return err
		}
		f, err := u.openTemporary(r)
		if err != nil {
			u.unreserve(u.reserved)
			return err
		}
		u.f = f
		if size >= 1<<20 {
			// Real blocks now mean no surprise later; file systems that cannot are fine.
			if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size); err == unix.ENOSPC {
				u.Abort()
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// host begins the names of this machine's temporaries.
var host = sync.OnceValue(func() string {
	name, _ := os.Hostname() // without one all nameless machines are the same
	h := fnv.New32a()
	h.Write([]byte(name)) // never fails
	return fmt.Sprintf("%08x-", h.Sum32())
})

// openTemporary makes the file that is written to. It is locked as long as it is open,
// which is what tells clean that somebody still writes it.
func (u *upload) openTemporary(r *root) (*os.File, error) {
	for {
		u.tmp = uploads + "/" + host() + rand.Text()
		f, err := r.OpenFile(u.tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		// Not all file systems have locks: there what a crash leaves stays for a day.
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		var st unix.Stat_t
		if err != unix.EWOULDBLOCK && (unix.Fstat(int(f.Fd()), &st) != nil || st.Nlink > 0) {
			return f, nil
		}
		if err := f.Close(); err != nil { // clean was quicker than our lock
			return nil, err
		}
	}
}

// abandoned tells whether nobody writes a temporary any more: one of this machine is
// not locked, another one was not written to for a day.
func (s *Storage) abandoned(r *root, name string, fi os.FileInfo) bool {
	if s.o.Now().Sub(fi.ModTime()) >= stale {
		return true
	}
	if !strings.HasPrefix(name, host()) {
		return false
	}
	f, err := r.OpenFile(uploads+"/"+name, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close() // and with it the lock
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// reserve counts the announced bytes against what is free above the floor.
func (u *upload) reserve() error {
	want := max(u.size, 0)
	_, free, err := u.s.space(u.r)
	if err != nil {
		return err
	}
	if want > free || u.s.o.FreeFloor > 0 && free == 0 {
		return syscall.ENOSPC
	}
	u.s.mu.Lock()
	u.s.pending += want
	u.s.mu.Unlock()
	u.reserved = want
	return nil
}

func (u *upload) unreserve(n int64) {
	n = min(n, u.reserved)
	u.reserved -= n
	u.s.mu.Lock()
	u.s.pending -= n
	u.s.mu.Unlock()
}

// makeParents makes the folders above p. The new ones become durable with the commit.
func (s *Storage) makeParents(r *root, p string) error {
	for i, c := range p {
		if c != '/' {
			continue
		}
		switch err := r.Mkdir(p[:i], 0o700); {
		case err == nil:
			s.mu.Lock()
			delete(s.durable, p[:i])
			s.mu.Unlock()
		case !errors.Is(err, syscall.EEXIST):
			return err
		}
	}
	if dir := path.Dir(p); dir != "." {
		fi, err := r.Stat(dir)
		if err != nil {
			return err
		}
		if !fi.IsDir() {
			return syscall.ENOTDIR
		}
	}
	return nil
}

func (u *upload) at() string { return u.s.at(u.path) }

func (u *upload) Write(p []byte) (int, error) {
	if u.done {
		return 0, &backends.OpError{Op: "write", At: u.at(), Err: backends.ErrClosed}
	}
	if u.err != nil {
		return 0, u.err
	}
	if u.size >= 0 && u.h.Size()+int64(len(p)) > u.size {
		u.err = &backends.OpError{Op: "write", At: u.at(), Err: fmt.Errorf("more than the announced %d bytes: %w", u.size, backends.ErrCorrupt)}
		return 0, u.err
	}
	if u.size < 0 && u.s.o.FreeFloor > 0 {
		if _, free, err := u.s.space(u.r); err != nil || int64(len(p)) > free {
			u.err = translate("write", u.at(), errors.Join(err, syscall.ENOSPC))
			return 0, u.err
		}
	}
	n, err := u.f.Write(p)
	u.h.Write(p[:n])
	if u.size < 1<<20 { // larger ones got their blocks at Create, and statfs counts them already
		u.unreserve(int64(n))
	}
	if err != nil {
		u.err = translate("write", u.at(), err)
	}
	return n, u.err
}

func (u *upload) Commit(ctx context.Context, want backends.Checksums) (backends.Checksums, error) {
	if u.done {
		return backends.Checksums{}, &backends.OpError{Op: "commit", At: u.at(), Err: backends.ErrClosed}
	}
	defer u.Abort()
	err := u.verify(ctx, want)
	if err == nil {
		err = u.s.do(ctx, "commit", u.path, u.publish)
	}
	// The digests are of what was given to the file, not of what it has.
	return backends.Checksums{}, translate("commit", u.at(), err)
}

// verify compares size and checksums. A digest that was not computed on the way is computed from the file.
func (u *upload) verify(ctx context.Context, want backends.Checksums) error {
	if u.err != nil {
		return u.err
	}
	if u.size >= 0 && u.h.Size() != u.size {
		return fmt.Errorf("%d bytes of the announced %d came: %w", u.h.Size(), u.size, backends.ErrCorrupt)
	}
	sums := u.h.Sums()
	var missing []string
	for _, a := range checksum.Known(want) {
		if !slices.Contains(u.s.o.Checksums, a) {
			missing = append(missing, a)
		}
	}
	if len(missing) > 0 {
		h := checksum.New(missing...)
		if _, err := io.Copy(h, &ctxReader{ctx, io.NewSectionReader(u.f, 0, u.h.Size())}); err != nil {
			return err
		}
		for a, v := range h.Sums() {
			sums[a] = v
		}
	}
	return want.Match(checksum.FromMap(sums))
}

// publish makes the file durable, then visible, then its name durable. When the last step
// fails the name is taken back, so that an error always means "not there".
func (u *upload) publish(r *root) error {
	if r != u.r {
		return unavailable(fmt.Sprintf("folder %s was replaced during the upload", u.s.o.Dir))
	}
	if err := u.s.fsync(u.f); err != nil {
		return err
	}
	err := r.Rename(u.tmp, u.path)
	if errors.Is(err, syscall.ENOENT) { // somebody removed the empty parent
		if err = u.s.makeParents(r, u.path); err == nil {
			err = r.Rename(u.tmp, u.path)
		}
	}
	if errors.Is(err, syscall.EEXIST) || errors.Is(err, syscall.ENOTEMPTY) {
		err = syscall.EISDIR // what some file systems say of a rename over a folder
	}
	if err != nil {
		return err
	}
	u.tmp = ""
	if err := u.syncParents(r); err != nil {
		r.Remove(u.path)
		return err
	}
	return nil
}

// syncParents makes the entry of the file durable, and those of the folders above it that
// are not known to be. A folder is known only when all above it are.
func (u *upload) syncParents(r *root) error {
	var made []string
	for p := u.path; ; p = path.Dir(p) {
		if p == "." || p != u.path && u.s.isDurable(p) {
			break
		}
		if err := u.s.syncFolder(r, path.Dir(p)); err != nil {
			return err
		}
		if p != u.path {
			made = append(made, p)
		}
	}
	u.s.noteDurable(made)
	return nil
}

func (s *Storage) isDurable(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.durable[dir]
	return ok
}

func (s *Storage) syncFolder(r *root, dir string) error {
	d, err := r.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return s.fsync(d)
}

func (s *Storage) noteDurable(dirs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.durable)+len(dirs) > maxDurable {
		clear(s.durable)
	}
	for _, d := range dirs {
		s.durable[strings.Clone(d)] = struct{}{}
	}
}

// Abort removes what was written, unless Commit has published it.
func (u *upload) Abort() error {
	if u.done {
		return nil
	}
	u.done = true
	u.f.Close()
	u.unreserve(u.reserved)
	if u.tmp == "" {
		return nil
	}
	if err := u.r.Remove(u.tmp); err != nil && !errors.Is(err, syscall.ENOENT) {
		return translate("abort", u.at(), err)
	}
	return nil
}

// Clean removes what uploads that ended with a crash have left, on this machine at once
// and on others after a day, and tells how many there were. Open does it as well.
func (s *Storage) Clean(ctx context.Context) (n int, err error) {
	if s.o.ReadOnly {
		return 0, nil
	}
	err = s.do(ctx, "clean", "", func(r *root) error {
		n, err = s.clean(r)
		return err
	})
	return n, err
}

func (s *Storage) clean(r *root) (n int, err error) {
	d, err := r.Open(uploads)
	if errors.Is(err, syscall.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer d.Close()
	es, err := d.ReadDir(-1)
	if err != nil {
		return 0, err
	}
	for _, e := range es {
		fi, err := e.Info()
		if err != nil || !s.abandoned(r, e.Name(), fi) {
			continue
		}
		switch err := r.Remove(uploads + "/" + e.Name()); {
		case err == nil:
			n++
		case !errors.Is(err, syscall.ENOENT): // committed just now
			return n, err
		}
	}
	return n, nil
}

// ctxReader ends a long copy when ctx ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
