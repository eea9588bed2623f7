package library

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"tarn/backends"
)

// loadIndex reads the index into the tree, drops a torn tail, and rewrites the file when
// most of it is history.
func (l *Library) loadIndex() (*index, error) {
	f, err := os.OpenFile(l.indexPath(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, translated(err)
	}
	end, records, live, err := l.replay(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	if end == 0 || records > 2*live+1000 {
		f.Close()
		if f, end, err = l.rewriteIndex(); err != nil {
			return nil, err
		}
		return startIndex(f, end, l.rewriteIndex), nil
	}
	if err := f.Truncate(end); err != nil {
		f.Close()
		return nil, translated(err)
	}
	return startIndex(f, end, l.rewriteIndex), nil
}

// replay gives where the good part of the index ends, how many records it has, and how many
// files are there after them.
func (l *Library) replay(f *os.File) (end int64, records, live int, err error) {
	byID := map[uint64]*file{}
	l.loaded = byID
	r := bufio.NewReaderSize(f, 1<<20)
	torn := int64(-1)
	for off := int64(0); ; {
		line, rerr := r.ReadSlice('\n')
		if rerr != nil && rerr != io.EOF && !errors.Is(rerr, bufio.ErrBufferFull) {
			return 0, 0, 0, fmt.Errorf("read index: %w", translated(rerr))
		}
		if len(line) == 0 {
			break
		}
		rec, perr := parseRecord(bytes.TrimSuffix(line, []byte("\n")))
		whole := rerr == nil && perr == nil
		switch {
		case torn >= 0:
			// A later batch was begun only after all before it was durable: then the bad line
			// is no torn tail but damage, and cutting here would lose acknowledged files.
			if whole && rec.kind == kindBatch && rec.n > torn {
				return 0, 0, 0, fmt.Errorf("index has a bad line at offset %d with good ones behind it; removing that line loses its file only: %w", torn, backends.ErrDamaged)
			}
		case !whole:
			torn = off
		case off == 0 && rec.kind != kindVersion:
			return 0, 0, 0, fmt.Errorf("index does not begin with its version: %w", backends.ErrDamaged)
		case rec.kind == kindVersion:
			if rec.n != formatVersion {
				return 0, 0, 0, fmt.Errorf("index has version %d, this program reads %d: %w", rec.n, formatVersion, backends.ErrVersion)
			}
		default:
			l.replayOne(byID, rec)
			records++
		}
		off += int64(len(line))
		if torn < 0 {
			end = off
		}
	}
	if torn >= 0 {
		l.o.Log.Warn("tape library: dropped the torn tail of the index", "dir", l.o.Dir, "offset", torn)
	}
	return end, records, len(byID), nil
}

// replayOne is what apply functions do while the library runs.
func (l *Library) replayOne(byID map[uint64]*file, r record) {
	l.nextID = max(l.nextID, r.id+1)
	switch r.kind {
	case kindFile:
		f := &file{id: r.id, size: r.size, mtime: r.mtime, adler: r.adler, sha: r.sha, cart: r.cart, pos: r.pos}
		old, err := l.put(r.path, f)
		if err != nil {
			return // it was refused then, too
		}
		if old != nil {
			old.dead = true
			delete(byID, old.id)
		}
		byID[f.id] = f
	case kindTape:
		if f := byID[r.id]; f != nil {
			f.cart, f.pos = r.cart, r.pos
		}
	case kindDelete:
		if f := byID[r.id]; f != nil {
			f.dead = true
			l.remove(f)
			delete(byID, r.id)
		}
	}
}

// rewriteIndex writes what is live to a new file that takes the place of the old one.
func (l *Library) rewriteIndex() (f *os.File, end int64, err error) {
	b := (&record{kind: kindVersion, n: formatVersion}).appendTo(nil)
	l.mu.Lock()
	l.root.each(func(f *file) {
		r := f.record(f.path())
		b = r.appendTo(b)
	})
	l.unlock()
	tmp := l.indexPath() + ".new"
	f, err = os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("rewrite index: %w", translated(err))
	}
	for _, step := range []func() error{
		func() error { _, err := f.Write(b); return err }, f.Sync,
		func() error { return os.Rename(tmp, l.indexPath()) },
		func() error { return syncFolder(l.o.Dir) },
	} {
		if err := step(); err != nil {
			f.Close()
			return nil, 0, fmt.Errorf("rewrite index: %w", translated(err))
		}
	}
	return f, int64(len(b)), nil
}
