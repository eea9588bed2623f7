package s3

import (
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"tarn/backends"
	"tarn/backends/storage/wire"
)

// List asks for pages of 1000 keys and gives them as they come.
func (s *Storage) List(ctx context.Context, dir string) iter.Seq2[backends.Attr, error] {
	return func(yield func(backends.Attr, error) bool) {
		stopped := false
		err := s.do(ctx, "list", dir, func(ctx context.Context) error {
			n, err := s.entries(ctx, dir, func(a backends.Attr) bool {
				stopped = stopped || !yield(a, nil)
				return !stopped
			})
			if err != nil || n > 0 || dir == "" || stopped {
				return err
			}
			if _, err := s.head(ctx, dir); err != nil {
				return err
			}
			return backends.ErrNotDir
		})
		if err != nil && !stopped {
			yield(backends.Attr{}, err)
		}
	}
}

// pageSize is the most that servers give at once.
const pageSize = 1000

// entries gives what is in a folder, sorted by name, and tells how many keys the server had for it.
func (s *Storage) entries(ctx context.Context, dir string, yield func(backends.Attr) bool) (n int, err error) {
	top := s.prefix
	if dir != "" {
		top += dir + "/"
		dir += "/"
	}
	o := order{
		limit: maxHeld,
		give: func(e entry) bool {
			return yield(backends.Attr{Path: dir + e.name, Size: e.size, MTime: e.mtime, IsDir: e.dir})
		},
		isFolder: func(name string) (bool, error) { return s.isFolder(ctx, dir+name) },
	}
	for token, last := "", ""; ; {
		page, err := s.page(ctx, top, token, pageSize)
		if err != nil {
			return n, err
		}
		files, folders := page.Contents, page.CommonPrefixes
		for len(files)+len(folders) > 0 {
			var e entry
			var key string
			if len(folders) == 0 || len(files) > 0 && files[0].Key < folders[0].Prefix {
				key, e.size, e.mtime = files[0].Key, files[0].Size, files[0].LastModified
				files = files[1:]
			} else {
				key, e.dir = folders[0].Prefix, true
				folders = folders[1:]
			}
			name, ok := strings.CutPrefix(key, top)
			switch {
			case !ok:
				return n, wrong("the server lists the key %q below %q", plain(key), top)
			case n > 0 && key <= last:
				return n, wrong("the server's listing is not sorted, or goes round")
			case e.size < 0:
				return n, wrong("the server lists the key %q with a size of %d", plain(key), e.size)
			}
			last = key
			if n++; n > s.o.Entries {
				return n, wrong("the folder has more than %d entries", s.o.Entries)
			}
			e.name = strings.Clone(strings.TrimSuffix(name, "/")) // not all of the page with it
			if name == "" || strings.Contains(e.name, "/") || wire.CheckPath(e.name, "S3") != nil {
				continue // the folder's own object, and what no path of ours leads to
			}
			if goOn, err := o.add(e); err != nil || !goOn {
				return n, err
			}
		}
		if !page.IsTruncated {
			o.flush(true)
			return n, nil
		}
		if page.NextContinuationToken == token {
			return n, wrong("the server's listing goes round")
		}
		token = page.NextContinuationToken
	}
}

type entry struct {
	name  string
	size  int64
	mtime time.Time
	dir   bool
}

// order turns the order of keys into that of names. A folder stands by its key "d/", after files like "d-1" and "d.x",
// and belongs before them. So an entry is held as long as such a folder may follow. When too many are held the server is
// asked for the folder.
type order struct {
	limit    int // of entries that are held
	give     func(entry) bool
	isFolder func(name string) (bool, error)

	held    []entry
	may     []maybe // folders that may follow; each is the beginning of the next
	stopped bool
}

type maybe struct {
	name string
	done bool // it was given already, is none, or a file of this name hides it
}

// maxHeld bounds the memory of a listing.
const maxHeld = 4096

// add takes the next entry in the order of keys, and tells whether to go on.
func (o *order) add(e entry) (bool, error) {
	key := e.name
	if e.dir {
		key += "/"
	}
	for n := len(o.may); n > 0; n-- { // what can follow no more
		m := o.may[n-1].name
		if strings.HasPrefix(key, m) && len(key) > len(m) && key[len(m)] <= '/' {
			break
		}
		o.may = o.may[:n-1]
	}
	n := len(o.may)
	hidden := e.dir && n > 0 && o.may[n-1].name == e.name && o.may[n-1].done
	if e.dir && n > 0 && o.may[n-1].name == e.name {
		o.may = o.may[:n-1]
	}
	for i := 1; i < len(e.name); i++ {
		if n := len(o.may); e.name[i] < '/' && (n == 0 || len(o.may[n-1].name) < i) {
			o.may = append(o.may, maybe{name: e.name[:i]})
		}
	}
	if !e.dir {
		o.may = append(o.may, maybe{e.name, true})
	}
	if !hidden {
		o.insert(e)
	}
	goOn := o.flush(false)
	for goOn && len(o.held) > o.limit {
		m := &o.may[slices.IndexFunc(o.may, func(m maybe) bool { return !m.done })] // else nothing were held
		there, err := o.isFolder(m.name)
		if err != nil {
			return false, err
		}
		m.done = true
		if there {
			o.insert(entry{name: m.name, dir: true})
		}
		goOn = o.flush(false)
	}
	return goOn, nil
}

func (o *order) insert(e entry) {
	i, there := slices.BinarySearchFunc(o.held, e, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	if !there {
		o.held = slices.Insert(o.held, i, e)
	}
}

// flush gives what no folder can come before any more, at the end everything.
func (o *order) flush(end bool) bool {
	n := len(o.held)
	if i := slices.IndexFunc(o.may, func(m maybe) bool { return !m.done }); i >= 0 && !end {
		n, _ = slices.BinarySearchFunc(o.held, o.may[i].name, func(a entry, b string) int { return strings.Compare(a.name, b) })
	}
	for i := range n {
		if o.stopped = o.stopped || !o.give(o.held[i]); o.stopped {
			break
		}
	}
	o.held = slices.Delete(o.held, 0, n)
	return !o.stopped
}
