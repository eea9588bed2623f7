package embedded

import (
	"fmt"
	"syscall"
	"time"

	"tarn/backends"
)

// space keeps a floor of free space below the database, which writes through mmap: on
// a full file system it would be killed by SIGBUS, with the whole daemon. It belongs
// to the writer's goroutine.
type space struct {
	dir   string // empty: in memory, no floor
	floor int64
	now   func() time.Time

	asked   time.Time
	free    int64
	written int64 // since asked
	err     error
}

func newSpace(o Options) *space {
	s := &space{dir: o.Dir, floor: o.FreeFloor, now: o.Now}
	if o.InMemory {
		s.dir = ""
	}
	return s
}

// room is what check found.
type room struct {
	free, floor int64
	dir         string
	err         error
}

// check asks the file system at most once a second, and sooner when much was written.
func (s *space) check() room {
	if s.dir == "" {
		return room{free: 1, dir: s.dir}
	}
	if age := s.now().Sub(s.asked); age < 0 || age > time.Second || s.written > s.floor/16 || s.free-2*s.written < s.floor {
		var st syscall.Statfs_t
		s.err = syscall.Statfs(s.dir, &st)
		s.free = int64(st.Bavail) * st.Bsize
		s.asked, s.written = s.now(), 0
	}
	// What is written comes to the disk twice before a merge takes one away: in the log
	// and in a table.
	return room{free: s.free - 2*s.written, floor: s.floor, dir: s.dir, err: s.err}
}

func (s *space) wrote(n int64) { s.written += n }

// allow refuses what would go below the floor. What frees space may go a quarter
// below, so that a full lake can be tidied.
func (r room) allow(frees bool) error {
	floor := r.floor
	if frees {
		floor -= floor / 4
	}
	if r.err != nil {
		return fmt.Errorf("free space of %q: %w: %w", r.dir, backends.ErrUnavailable, r.err)
	}
	if r.free < floor {
		return fmt.Errorf("%d MiB are free at %q, %d must stay: %w", r.free>>20, r.dir, floor>>20, backends.ErrNoSpace)
	}
	return nil
}
