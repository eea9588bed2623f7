package library

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tarn/backends"
)

// maxCartridges is what the index can name.
const maxCartridges = 32000

// cart is one cartridge: a big file whose offsets are positions.
type cart struct {
	n    int
	name string
	f    *os.File // nil: it is missing, and what is on it is UNAVAILABLE

	// Guarded by Library.mu.
	end      int64 // where the next file goes
	promised int64 // bytes of the files in writes
	live     int   // files on it
	bytes    int64 // of these
	writing  int   // files being written outside of a drive or in it
	drive    *drive
	recalls  []*recall // waiting, by position
	gone     bool      // some of recalls are to be swept out
	writes   []*file   // waiting for migration, oldest first
	since    time.Time // of the oldest of writes
	retryAt  time.Time // after an error of the disk below

	mounts, read, written int64
}

// Cartridge is what can be told of one.
type Cartridge struct {
	Name    string `json:"name"`
	Size    int64  `json:"size"`
	Used    int64  `json:"used"`  // including what was removed since
	Bytes   int64  `json:"bytes"` // of the files that are still there
	Files   int    `json:"files"`
	Waiting int    `json:"waiting"` // recalls and migrations
	Drive   int    `json:"drive"`   // where it is mounted, from 0; -1: in its slot
	Missing bool   `json:"missing,omitempty"`

	Mounts       int64 `json:"mounts"` // since Open, as the next two
	BytesRead    int64 `json:"bytes_read"`
	BytesWritten int64 `json:"bytes_written"`
}

// Cartridges lists all there are.
func (l *Library) Cartridges() []Cartridge {
	l.mu.Lock()
	defer l.unlock()
	out := make([]Cartridge, len(l.carts))
	for i, c := range l.carts {
		out[i] = Cartridge{Name: c.name, Size: l.o.CartridgeSize, Used: c.end, Bytes: c.bytes, Files: c.live,
			Waiting: len(c.recalls) + len(c.writes), Drive: -1, Missing: c.f == nil,
			Mounts: c.mounts, BytesRead: c.read, BytesWritten: c.written}
		if c.drive != nil {
			out[i].Drive = c.drive.n
		}
	}
	return out
}

// Where tells the cartridge of a file and its position there; "" while it is in the buffer only.
func (l *Library) Where(path string) (cartridge string, pos int64, err error) {
	l.mu.Lock()
	defer l.unlock()
	f, _ := l.find(path)
	switch {
	case f == nil:
		return "", 0, l.fail("where", path, backends.ErrNotExist)
	case f.cart < 0:
		return "", 0, nil
	}
	return l.carts[f.cart].name, f.pos, nil
}

func (l *Library) openCartridges() error {
	need := l.o.Cartridges
	for _, f := range l.loaded {
		need = max(need, int(f.cart)+1)
	}
	if need > l.o.Cartridges {
		return fmt.Errorf("files are on %d cartridges, but %d are configured: %w", need, l.o.Cartridges, backends.ErrDamaged)
	}
	for i := range l.o.Cartridges {
		l.carts = append(l.carts, &cart{n: i, name: fmt.Sprintf("T%05d", i)})
	}
	for _, f := range l.loaded {
		if f.cart >= 0 {
			c := l.carts[f.cart]
			c.live++
			c.bytes += f.size
			c.end = max(c.end, f.pos+f.size)
		}
	}
	for _, c := range l.carts {
		flags := os.O_RDWR
		if c.live == 0 {
			flags |= os.O_CREATE
		}
		f, err := os.OpenFile(filepath.Join(l.o.Dir, "cartridges", c.name), flags, 0o600)
		if err != nil {
			if c.live == 0 {
				return translated(err)
			}
			l.o.Log.Error("tape library: cartridge is missing", "cartridge", c.name, "files", c.live, "err", err)
			continue
		}
		c.f = f
	}
	return nil
}

// room tells whether n more bytes go on c. What was removed does not make room
// until the whole cartridge is empty: then it is written again from its start.
func (l *Library) room(c *cart, n int64) bool {
	if c.f == nil {
		return false
	}
	if c.live == 0 && c.writing == 0 && len(c.writes) == 0 {
		c.end = 0
	}
	return c.end+c.promised+n <= l.o.CartridgeSize
}

// choose gives the cartridge for a new file of a folder (nil: not known yet), or nil when none has room.
func (l *Library) choose(path string, d *dir, size int64) *cart {
	if l.o.Spread != nil {
		i := l.o.Spread(path) % len(l.carts)
		if i >= 0 && l.room(l.carts[i], size) {
			return l.carts[i]
		}
	}
	if l.o.Colocate && d != nil && d.cart >= 0 && l.room(l.carts[d.cart], size) {
		return l.carts[d.cart]
	}
	for k := range l.carts {
		i := (l.filling + k) % len(l.carts)
		if !l.room(l.carts[i], size) {
			continue
		}
		if k > 0 && l.carts[l.filling].end > l.o.CartridgeSize/2 {
			l.filling = i // the one before is nearly full; a single huge file does not end it
		}
		if d != nil {
			d.cart = int16(i)
		}
		return l.carts[i]
	}
	return nil
}

// leave takes a file that was removed or replaced off its cartridge's account.
func (l *Library) leave(f *file) {
	if f.cart >= 0 {
		c := l.carts[f.cart]
		c.live--
		c.bytes -= f.size
		if c.live == 0 && len(l.homeless) > 0 { // it can be written again
			home := l.homeless
			l.homeless = nil
			for _, h := range home {
				l.migrate(h)
			}
		}
	}
}

// queueRecall puts r into the waiting recalls by position.
func (c *cart) queueRecall(r *recall) {
	i, _ := slices.BinarySearchFunc(c.recalls, r, byPosition)
	c.recalls = slices.Insert(c.recalls, i, r)
}

func byPosition(a, b *recall) int {
	return cmp.Or(cmp.Compare(a.f.pos, b.f.pos), cmp.Compare(a.f.id, b.f.id))
}

// next gives the index of the first recall at or after head that fits into room bytes of
// the buffer, and with wrap of the first at all; -1: none.
func (c *cart) next(head, room int64, wrap bool) int {
	from, _ := slices.BinarySearchFunc(c.recalls, head, func(r *recall, h int64) int { return cmp.Compare(r.f.pos, h) })
	for i := from; i < len(c.recalls); i++ {
		if c.recalls[i].f.size <= room {
			return i
		}
	}
	if wrap {
		for i := range from {
			if c.recalls[i].f.size <= room {
				return i
			}
		}
	}
	return -1
}
