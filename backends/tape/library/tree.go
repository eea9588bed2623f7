package library

import (
	"fmt"
	"strings"

	"tarn/backends"
)

// file is one file of the library. There may be many millions: it is kept small, and
// its path is put together from the folders when asked for.
type file struct {
	dir   *dir
	name  string
	id    uint64
	size  int64
	mtime int64 // ns since 1970
	pos   int64 // on the cartridge
	buf   *copied
	sha   [32]byte
	adler uint32
	cart  int16 // -1: not on tape yet
	dead  bool  // removed or replaced
	bad   bool  // the last read failed verification, or no copy is left
}

// dir is a folder; it exists while something is below it.
type dir struct {
	parent *dir
	name   string
	dirs   map[string]*dir
	files  map[string]*file
	cart   int16 // where its files are collocated; -1: nowhere yet
}

func (d *dir) path() string {
	if d.parent == nil {
		return ""
	}
	return join(d.parent.path(), d.name)
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func (f *file) path() string { return join(f.dir.path(), f.name) }

// find gives the file or the folder at path, or neither.
func (l *Library) find(path string) (*file, *dir) {
	d := l.root
	if path == "" || path == "." {
		return nil, d
	}
	for {
		name, rest, more := strings.Cut(path, "/")
		if !more {
			if f := d.files[name]; f != nil {
				return f, nil
			}
			return nil, d.dirs[name]
		}
		if d = d.dirs[name]; d == nil {
			return nil, nil
		}
		path = rest
	}
}

// canPut tells whether a file may stand at path: ErrIsDir, ErrNotDir.
func (l *Library) canPut(path string) error {
	d := l.root
	for {
		name, rest, more := strings.Cut(path, "/")
		if !more {
			if d.dirs[name] != nil || name == "" || name == "." {
				return backends.ErrIsDir
			}
			return nil
		}
		if d.files[name] != nil {
			return backends.ErrNotDir
		}
		if d = d.dirs[name]; d == nil {
			return nil
		}
		path = rest
	}
}

// put makes f the file at path and gives the one that it replaces.
func (l *Library) put(path string, f *file) (old *file, err error) {
	if err := l.canPut(path); err != nil {
		return nil, err
	}
	d := l.root
	for {
		name, rest, more := strings.Cut(path, "/")
		if !more {
			old = d.files[name]
			if d.files == nil {
				d.files = map[string]*file{}
			}
			if old != nil {
				name = old.name
			} else {
				name = strings.Clone(name)
				l.files++
			}
			f.dir, f.name = d, name
			d.files[name] = f
			return old, nil
		}
		next := d.dirs[name]
		if next == nil {
			if d.dirs == nil {
				d.dirs = map[string]*dir{}
			}
			next = &dir{parent: d, name: strings.Clone(name), cart: -1}
			d.dirs[next.name] = next
		}
		d, path = next, rest
	}
}

// remove takes f out of the tree, with the folders that this leaves empty.
func (l *Library) remove(f *file) {
	d := f.dir
	if d.files[f.name] == f {
		delete(d.files, f.name)
		l.files--
	}
	for d.parent != nil && len(d.files) == 0 && len(d.dirs) == 0 {
		delete(d.parent.dirs, d.name)
		d = d.parent
	}
}

// each calls fn for every file.
func (d *dir) each(fn func(*file)) {
	for _, f := range d.files {
		fn(f)
	}
	for _, sub := range d.dirs {
		sub.each(fn)
	}
}

// checkPath refuses what is not relative and clean. "" and "." are the prefix itself.
func checkPath(path string) error {
	if path == "" || path == "." {
		return nil
	}
	if len(path) > 4000 {
		return fmt.Errorf("path of %d bytes: %w", len(path), backends.ErrNameTooLong)
	}
	for e := range strings.SplitSeq(path, "/") {
		switch {
		case e == "", e == ".", e == "..":
			return fmt.Errorf("path %q: not relative and clean: %w", path, backends.ErrName)
		case strings.IndexByte(e, 0) >= 0:
			return fmt.Errorf("path %q: NUL: %w", path, backends.ErrName)
		case len(e) > 255:
			return fmt.Errorf("path %.40q...: element of %d bytes: %w", path, len(e), backends.ErrNameTooLong)
		}
	}
	return nil
}
