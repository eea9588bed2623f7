package library

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"syscall"

	"tarn/backends"
	"tarn/backends/checksum"
)

// Stat answers from memory.
func (l *Library) Stat(ctx context.Context, path string) (backends.Attr, error) {
	if err := l.begin(ctx, "stat", path); err != nil {
		return backends.Attr{}, err
	}
	defer l.unlock()
	f, d := l.find(path)
	switch {
	case f != nil:
		return backends.Attr{Path: path, Size: f.size, MTime: f.modified()}, nil
	case d != nil:
		return backends.Attr{Path: path, IsDir: true}, nil
	}
	return backends.Attr{}, l.fail("stat", path, backends.ErrNotExist)
}

// List answers from memory. It copies the names of the folder at once, to sort them.
func (l *Library) List(ctx context.Context, path string) iter.Seq2[backends.Attr, error] {
	return func(yield func(backends.Attr, error) bool) {
		attrs, err := l.list(ctx, path)
		if err != nil {
			yield(backends.Attr{}, err)
			return
		}
		prefix := ""
		if path != "" && path != "." {
			prefix = path + "/"
		}
		for i, a := range attrs {
			if i%1024 == 0 && ctx.Err() != nil {
				yield(backends.Attr{}, fmt.Errorf("list %s: %w", l.at(path), ctx.Err()))
				return
			}
			a.Path = prefix + a.Path
			if !yield(a, nil) {
				return
			}
		}
	}
}

func (l *Library) list(ctx context.Context, path string) ([]backends.Attr, error) {
	if err := l.begin(ctx, "list", path); err != nil {
		return nil, err
	}
	f, d := l.find(path)
	if d == nil {
		l.unlock()
		if f != nil {
			return nil, l.fail("list", path, backends.ErrNotDir)
		}
		return nil, l.fail("list", path, backends.ErrNotExist)
	}
	attrs := make([]backends.Attr, 0, len(d.files)+len(d.dirs))
	for name, f := range d.files {
		attrs = append(attrs, backends.Attr{Path: name, Size: f.size, MTime: f.modified()})
	}
	for name := range d.dirs {
		attrs = append(attrs, backends.Attr{Path: name, IsDir: true})
	}
	l.unlock()
	slices.SortFunc(attrs, func(a, b backends.Attr) int { return cmp.Compare(a.Path, b.Path) })
	return attrs, nil
}

// Open gives an Object that has the method File() *os.File as well, for copies that
// never leave the kernel. The file stays in the buffer while the Object is open.
func (l *Library) Open(ctx context.Context, path string) (backends.Object, error) {
	if err := l.begin(ctx, "open", path); err != nil {
		return nil, err
	}
	f, d := l.find(path)
	var err error
	switch {
	case f == nil && d != nil:
		err = backends.ErrIsDir
	case f == nil:
		err = backends.ErrNotExist
	case f.buf == nil && l.locality(f) == backends.Lost:
		err = backends.ErrLost
	case f.buf == nil:
		err = backends.ErrOffline
	}
	if err != nil {
		l.unlock()
		return nil, l.fail("open", path, err)
	}
	c := f.buf
	c.refs++
	l.settle(c)
	name := l.bufferPath(f.id, c.id)
	l.unlock()

	file, err := os.Open(name)
	if err != nil {
		l.mu.Lock()
		l.unref(c)
		replaced := c.dead
		l.unlock()
		if replaced { // between the two locks; the one after it may be opened
			return l.Open(ctx, path)
		}
		return nil, l.fail("open", path, notMissing(err))
	}
	return &object{l: l, c: c, f: file, size: f.size, at: l.at(path)}, nil
}

// notMissing is translated, and a copy that somebody else removed from the buffer is no
// missing file.
func notMissing(err error) error {
	if os.IsNotExist(err) {
		return fmt.Errorf("%v: %w", text(err), backends.ErrDamaged)
	}
	return translated(err)
}

// object is an open copy in the buffer.
type object struct {
	l    *Library
	c    *copied
	f    *os.File
	size int64
	at   string
	once bool // closed; guarded by Library.mu
}

// File is the open file itself, for reading only.
func (o *object) File() *os.File { return o.f }

func (o *object) Size() int64 { return o.size }

func (o *object) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", o.at, err)
	}
	if off < 0 {
		return 0, &backends.OpError{Op: "read", At: o.at, Err: fmt.Errorf("offset %d: %w", off, backends.ErrNotSupported)}
	}
	n, err := o.f.ReadAt(p, off)
	if err == io.EOF && off+int64(n) < o.size {
		return n, &backends.OpError{Op: "read", At: o.at, Err: fmt.Errorf("buffer file is short: %w", backends.ErrDamaged)}
	}
	if err != nil && err != io.EOF {
		return n, &backends.OpError{Op: "read", At: o.at, Err: translated(err)}
	}
	return n, err
}

func (o *object) Close() error {
	o.l.mu.Lock()
	if o.once {
		o.l.mu.Unlock()
		return &backends.OpError{Op: "close", At: o.at, Err: backends.ErrClosed}
	}
	o.once = true
	o.l.mu.Unlock()
	err := o.f.Close() // before its bytes count as free
	o.l.mu.Lock()
	o.l.unref(o.c)
	o.l.unlock()
	return translated(err)
}

// Checksum gives what the index holds; it never touches tape.
func (l *Library) Checksum(ctx context.Context, path string) (backends.Checksums, error) {
	if err := l.begin(ctx, "checksum", path); err != nil {
		return backends.Checksums{}, err
	}
	defer l.unlock()
	f, d := l.find(path)
	switch {
	case f != nil:
		return f.sums(), nil
	case d != nil:
		return backends.Checksums{}, l.fail("checksum", path, backends.ErrIsDir)
	}
	return backends.Checksums{}, l.fail("checksum", path, backends.ErrNotExist)
}

// Remove deletes a file, in the buffer and on tape. Folders are there as long as a file is
// below them, so there is never an empty one to remove.
func (l *Library) Remove(ctx context.Context, path string) error {
	if err := l.begin(ctx, "remove", path); err != nil {
		return err
	}
	f, d := l.find(path)
	l.unlock()
	if f == nil {
		if d != nil {
			return l.fail("remove", path, backends.ErrNotEmpty)
		}
		return l.fail("remove", path, backends.ErrNotExist)
	}
	gone := false
	r := record{kind: kindDelete, id: f.id}
	err := l.idx.append(r.appendTo(nil), "", func() {
		l.mu.Lock()
		defer l.unlock()
		if f.dead { // by somebody who was faster
			return
		}
		gone = true
		l.remove(f)
		l.discard(f)
	})
	if err != nil {
		return l.fail("remove", path, err)
	}
	if !gone {
		return l.fail("remove", path, backends.ErrNotExist)
	}
	return nil
}

// discard ends everything about a file that has left the tree.
func (l *Library) discard(f *file) {
	f.dead = true
	if f.buf != nil {
		l.drop(f.buf)
	}
	if r := l.recalls[f]; r != nil && !r.reading {
		r.end(backends.RecallFailed, "removed before it was recalled")
		l.unqueue(r)
		l.sweep()
	}
	l.homeless = slices.DeleteFunc(l.homeless, func(h *file) bool { return h == f })
	l.leave(f)
	l.changed()
}

// Space adds up the cartridges. What is promised to files in the buffer is taken, and no more is
// free than the disk below has.
func (l *Library) Space(ctx context.Context) (total, free int64, err error) {
	if err := l.begin(ctx, "space", ""); err != nil {
		return 0, 0, err
	}
	for _, c := range l.carts {
		total += l.o.CartridgeSize
		if c.f != nil {
			l.room(c, 0)
			free += max(0, l.o.CartridgeSize-c.end-c.promised)
		}
	}
	l.unlock()
	var st syscall.Statfs_t
	if err := syscall.Statfs(l.o.Dir, &st); err != nil {
		return 0, 0, l.fail("space", "", translated(err))
	}
	return total, min(free, int64(st.Bavail)*st.Bsize), nil
}

// Traits of a tape library. Reading from its buffer costs no network.
func (l *Library) Traits() backends.StorageTraits {
	return backends.StorageTraits{Checksums: slices.Clone(checksum.Default), Local: true, Tape: true}
}

// dirOf is the folder part of a path.
func dirOf(path string) string {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)]
}
