package embedded

import (
	"fmt"
	"syscall"

	"tarn/backends"
)

// space keeps a floor of free space below the database, which writes through mmap: on
// a full file system it would be killed by SIGBUS, with the whole daemon.
type space struct {
	dir   string // empty: in memory, no floor
	floor int64
}

func newSpace(o Options) *space {
	s := &space{dir: o.Dir, floor: o.FreeFloor}
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

// check asks the file system each time: others may fill it within a moment, and the
// answer takes a microsecond.
func (s *space) check() room {
	if s.dir == "" {
		return room{free: 1}
	}
	var st syscall.Statfs_t
	err := syscall.Statfs(s.dir, &st)
	return room{free: int64(st.Bavail) * st.Bsize, floor: s.floor, dir: s.dir, err: err}
}

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
