package control

import (
	"path/filepath"
	"time"
)

// Lakes is what the supervisor of several lakes in one mount writes down in its run folder, as lakes.json.
type Lakes struct {
	PID   int         `json:"pid"`
	Born  int64       `json:"born"` // as Supervisor's
	Root  int         `json:"root"` // the process that serves the root; it may have ended
	Lakes []LakeState `json:"lakes"`
}

// LakeState is one of them.
type LakeState struct {
	Name     string    `json:"name"`
	Lake     string    `json:"lake"` // its file
	Point    string    `json:"mountpoint"`
	State    string    `json:"state"`
	PID      int       `json:"pid,omitempty"`      // of its own supervisor, 0 while there is none
	Attempts int       `json:"attempts,omitempty"` // that failed since it was mounted last
	Since    time.Time `json:"since"`              // of the state
	Why      string    `json:"why,omitempty"`      // it is not mounted
	Next     time.Time `json:"next,omitzero"`      // when it is tried again, while waiting
}

// The words of LakeState.State.
const (
	LakeMounting  = "mounting"
	LakeMounted   = "mounted"
	LakeWaiting   = "waiting"   // to be tried again
	LakeUnmounted = "unmounted" // somebody took it away
)

func lakesFile(run string) string { return filepath.Join(run, "lakes.json") }

// WriteLakes replaces what is written down.
func WriteLakes(run string, l Lakes) error { return writeKept(lakesFile(run), l) }

// RemoveLakes removes it.
func RemoveLakes(run string) error { return removeKept(lakesFile(run)) }

// ReadLakes reads it; where there is nothing it is empty. It may be a dead process's.
func ReadLakes(run string) (l Lakes, err error) {
	_, err = readKept(lakesFile(run), "the lakes", &l)
	return l, err
}
