package journal

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// errPower is what every operation gives once the power is off.
var errPower = errors.New("power is off")

// crashFS is a disk in memory that knows what was synced. Its names and its bytes become
// durable separately, as POSIX has it: fsync of a file says nothing of its name, and of
// operations in one folder that were not synced, any may survive without the others.
type crashFS struct {
	mu    sync.Mutex
	dirs  map[string]*crashDir
	locks map[string]string
	ops   int
	offAt int                         // the power goes at this operation; 0 never
	off   bool                        //
	fail  func(op, name string) error // injected errors
	full  func(name string) bool      // this file cannot be made
	torn  bool                        // the operation at which the power goes may be done in part
	rnd   *rand.Rand
	free  int64 // what Free says; 0 is plenty
}

type crashDir struct {
	now, durable map[string]*inode
	pending      []func(map[string]*inode)
}

type inode struct {
	now, durable []byte
	pending      []func([]byte) []byte // one a sector
}

func newCrashFS(rnd *rand.Rand) *crashFS {
	c := &crashFS{dirs: map[string]*crashDir{}, locks: map[string]string{}, rnd: rnd}
	c.dirs["/"] = newCrashDir()
	return c
}

func newCrashDir() *crashDir {
	return &crashDir{now: map[string]*inode{}, durable: map[string]*inode{}}
}

// step counts an operation; the caller holds mu.
func (c *crashFS) step(op, name string) error {
	if c.off {
		return errPower
	}
	c.ops++
	if c.ops == c.offAt {
		c.off = true
		return errPower
	}
	if c.fail != nil {
		if err := c.fail(op, name); err != nil {
			return &os.PathError{Op: op, Path: name, Err: err}
		}
	}
	return nil
}

func (d *crashDir) change(f func(map[string]*inode)) {
	f(d.now)
	d.pending = append(d.pending, f)
}

// kill is kill -9: what the kernel has is kept, locks are free.
func (c *crashFS) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off, c.torn, c.ops, c.offAt = false, false, 0, 0
	clear(c.locks)
}

// cut is a power cut and the boot after it: of what was not synced, nothing is kept, or a
// part from the beginning, or any.
func (c *crashFS) cut() { c.cutAs(c.rnd.IntN(3)) }

// cutAs with mode 0 keeps nothing that was not synced.
func (c *crashFS) cutAs(mode int) {
	c.kill()
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := func(n int) func(int) bool {
		switch mode {
		case 0:
			return func(int) bool { return false }
		case 1:
			prefix := c.rnd.IntN(n + 1)
			return func(i int) bool { return i < prefix }
		}
		return func(int) bool { return c.rnd.IntN(2) == 0 }
	}
	done := map[*inode]bool{}
	for _, name := range slices.Sorted(maps.Keys(c.dirs)) {
		d := c.dirs[name]
		kept := keep(len(d.pending))
		for i, f := range d.pending {
			if kept(i) {
				f(d.durable)
			}
		}
		d.pending, d.now = nil, maps.Clone(d.durable)
		for _, file := range slices.Sorted(maps.Keys(d.now)) {
			in := d.now[file]
			if done[in] {
				continue
			}
			done[in] = true
			kept := keep(len(in.pending))
			for i, f := range in.pending {
				if kept(i) {
					in.durable = f(in.durable)
				}
			}
			in.pending, in.now = nil, slices.Clone(in.durable)
		}
	}
}

func (c *crashFS) find(name string) (*crashDir, *inode, error) {
	d := c.dirs[filepath.Dir(name)]
	if d == nil {
		return nil, nil, &os.PathError{Op: "open", Path: name, Err: unix.ENOENT}
	}
	in := d.now[filepath.Base(name)]
	if in == nil {
		return d, nil, &os.PathError{Op: "open", Path: name, Err: unix.ENOENT}
	}
	return d, in, nil
}

func (c *crashFS) OpenFile(name string, flag int, _ os.FileMode) (File, error) {
	if name == os.DevNull {
		return &crashFile{c: c, in: &inode{}}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.step("open", name); err != nil {
		return nil, err
	}
	if d := c.dirs[name]; d != nil {
		return &crashFile{c: c, name: name, dir: d}, nil
	}
	d, in, err := c.find(name)
	switch {
	case err == nil && flag&os.O_EXCL != 0:
		return nil, &os.PathError{Op: "open", Path: name, Err: unix.EEXIST}
	case err != nil && (d == nil || flag&os.O_CREATE == 0):
		return nil, err
	case err != nil:
		if c.full != nil && c.full(name) {
			return nil, &os.PathError{Op: "open", Path: name, Err: unix.ENOSPC}
		}
		in = &inode{}
		base := filepath.Base(name)
		d.change(func(m map[string]*inode) { m[base] = in })
	}
	f := &crashFile{c: c, name: name, in: in}
	if flag&os.O_TRUNC != 0 {
		in.change(func(b []byte) []byte { return b[:0] })
	}
	return f, nil
}

func (c *crashFS) Stat(name string) (Info, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.step("stat", name); err != nil {
		return Info{}, err
	}
	if c.dirs[name] != nil {
		return Info{Name: filepath.Base(name), Dir: true}, nil
	}
	_, in, err := c.find(name)
	if err != nil {
		return Info{}, err
	}
	return Info{Name: filepath.Base(name), Size: int64(len(in.now))}, nil
}

func (c *crashFS) ReadDir(name string) (out []Info, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.step("readdir", name); err != nil {
		return nil, err
	}
	d := c.dirs[name]
	if d == nil {
		return nil, fs.ErrNotExist
	}
	for n := range d.now {
		out = append(out, Info{Name: n})
	}
	for n := range c.dirs {
		if n != name && filepath.Dir(n) == name {
			out = append(out, Info{Name: filepath.Base(n), Dir: true})
		}
	}
	return out, nil
}

// Mkdir is durable at once; the power-cut test does not cut before Open returns.
func (c *crashFS) Mkdir(name string, _ os.FileMode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.step("mkdir", name); err != nil {
		return err
	}
	if c.dirs[name] == nil {
		c.dirs[name] = newCrashDir()
	}
	return nil
}

func (c *crashFS) Rename(from, to string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.step("rename", to); err != nil {
		return err
	}
	d, in, err := c.find(from)
	if err != nil {
		return err
	}
	e := c.dirs[filepath.Dir(to)]
	if e == nil {
		return fs.ErrNotExist
	}
	f, t := filepath.Base(from), filepath.Base(to)
	if d == e {
		d.change(func(m map[string]*inode) { delete(m, f); m[t] = in })
		return nil
	}
	e.change(func(m map[string]*inode) { m[t] = in })
	d.change(func(m map[string]*inode) { delete(m, f) })
	return nil
}

func (c *crashFS) Remove(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.step("remove", name); err != nil {
		return err
	}
	d, _, err := c.find(name)
	if err != nil {
		return err
	}
	base := filepath.Base(name)
	d.change(func(m map[string]*inode) { delete(m, base) })
	return nil
}

func (c *crashFS) Free(string) (int64, error) {
	if c.free > 0 {
		return c.free, nil
	}
	return 1 << 40, nil
}

type closer func() error

func (f closer) Close() error { return f() }

func (c *crashFS) Lock(name, text string) (io.Closer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, held := c.locks[name]; held {
		return nil, ErrLocked
	}
	c.locks[name] = text
	return closer(func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.locks, name)
		return nil
	}), nil
}

// crashFile is an open file or folder.
type crashFile struct {
	c    *crashFS
	name string
	dir  *crashDir
	in   *inode
}

func (in *inode) change(f func([]byte) []byte) {
	in.now = f(in.now)
	in.pending = append(in.pending, f)
}

func writeTo(p []byte, off int64) func([]byte) []byte {
	return func(b []byte) []byte {
		if end := int(off) + len(p); len(b) < end {
			b = append(b, make([]byte, end-len(b))...)
		}
		copy(b[off:], p)
		return b
	}
}

func (f *crashFile) begin(op string) (func(), error) {
	f.c.mu.Lock()
	if err := f.c.step(op, f.name); err != nil {
		f.c.mu.Unlock()
		return nil, err
	}
	return f.c.mu.Unlock, nil
}

func (f *crashFile) ReadAt(p []byte, off int64) (int, error) {
	end, err := f.begin("read")
	if err != nil {
		return 0, err
	}
	defer end()
	if off >= int64(len(f.in.now)) {
		return 0, io.EOF
	}
	n := copy(p, f.in.now[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt at which the power goes may have written some of its sectors.
func (f *crashFile) WriteAt(p []byte, off int64) (int, error) {
	end, err := f.begin("write")
	if err != nil {
		if errors.Is(err, errPower) {
			f.c.mu.Lock()
			defer f.c.mu.Unlock()
			if f.c.ops == f.c.offAt && !f.c.torn {
				f.c.torn = true
				f.sectors(p, off, func() bool { return f.c.rnd.IntN(2) == 0 })
			}
		}
		return 0, err
	}
	defer end()
	f.sectors(p, off, func() bool { return true })
	return len(p), nil
}

func (f *crashFile) sectors(p []byte, off int64, keep func() bool) {
	p = slices.Clone(p)
	for len(p) > 0 {
		n := min(len(p), 512-int(off%512))
		if keep() {
			f.in.change(writeTo(p[:n:n], off))
		}
		p, off = p[n:], off+int64(n)
	}
}

func (f *crashFile) Close() error { return nil }

func (f *crashFile) Truncate(n int64) error {
	end, err := f.begin("truncate")
	if err != nil {
		return err
	}
	defer end()
	f.in.change(func(b []byte) []byte {
		if int(n) > len(b) {
			return append(b, make([]byte, int(n)-len(b))...)
		}
		return b[:n:n]
	})
	return nil
}

// SyncAll makes every name and byte of the disk durable; failing it loses them all.
func (f *crashFile) SyncAll() error {
	end, err := f.begin("syncfs")
	if errors.Is(err, errPower) {
		return err
	}
	if err != nil {
		f.c.mu.Lock()
		end = f.c.mu.Unlock
	}
	defer end()
	for _, d := range f.c.dirs {
		if err == nil {
			d.durable, d.pending = maps.Clone(d.now), nil
		}
		for _, in := range d.now {
			for _, op := range in.pending {
				if err == nil {
					in.durable = op(in.durable)
				}
			}
			in.pending = nil
		}
	}
	return err
}

func (f *crashFile) Sync() error     { return f.sync("fsync") }
func (f *crashFile) DataSync() error { return f.sync("fdatasync") }

func (f *crashFile) sync(op string) error {
	end, err := f.begin(op)
	if err != nil {
		// As Linux does it: the pages that could not be written count as clean, and
		// the next sync has nothing to complain about.
		if f.in != nil && !errors.Is(err, errPower) {
			f.c.mu.Lock()
			f.in.pending = nil
			f.c.mu.Unlock()
		}
		return err
	}
	defer end()
	if f.dir != nil {
		f.dir.durable, f.dir.pending = maps.Clone(f.dir.now), nil
		return nil
	}
	for _, op := range f.in.pending {
		f.in.durable = op(f.in.durable)
	}
	f.in.pending = nil
	return nil
}

func (f *crashFile) Allocate(mode uint32, off, n int64) error {
	end, err := f.begin("fallocate")
	if err != nil {
		return err
	}
	defer end()
	f.in.change(func(b []byte) []byte {
		if mode&unix.FALLOC_FL_KEEP_SIZE == 0 && int(off+n) > len(b) {
			b = append(b, make([]byte, int(off+n)-len(b))...)
		}
		if mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 && int(off) < len(b) {
			clear(b[off:min(int(off+n), len(b))])
		}
		return b
	})
	return nil
}

func (f *crashFile) Seek(off int64, whence int) (int64, error) {
	end, err := f.begin("lseek")
	if err != nil {
		return 0, err
	}
	defer end()
	if off >= int64(len(f.in.now)) {
		return 0, unix.ENXIO
	}
	if whence == unix.SEEK_HOLE {
		return int64(len(f.in.now)), nil
	}
	return off, nil
}

func (f *crashFile) Stat() (Info, error) {
	end, err := f.begin("fstat")
	if err != nil {
		return Info{}, err
	}
	defer end()
	return Info{Name: filepath.Base(f.name), Size: int64(len(f.in.now)), Blocks: int64(len(f.in.now)+511) / 512}, nil
}

func (f *crashFile) Writeback(off, n int64) {}
