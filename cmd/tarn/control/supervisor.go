package control

import (
	"path/filepath"
	"time"
)

// Supervisor is what the parent of a lake's daemon writes down in the run folder, as
// supervisor.json: the daemon cannot tell of its own death.
type Supervisor struct {
	PID        int       `json:"pid"`
	Born       int64     `json:"born"` // in clock ticks since boot: a process with that pid and another one is another
	Lake       string    `json:"lake"` // its file
	Mountpoint string    `json:"mountpoint"`
	Started    time.Time `json:"started"`
	State      string    `json:"state"`            // starting, serving, waiting
	Daemon     int       `json:"daemon,omitempty"` // its pid, 0 while there is none
	Restarts   int       `json:"restarts"`
	Died       time.Time `json:"died,omitzero"` // the last death
	Why        string    `json:"why,omitempty"` // and its cause
	Next       time.Time `json:"next,omitzero"` // when the next daemon is started, while waiting
}

func supervisorFile(run string) string { return filepath.Join(run, "supervisor.json") }

// WriteSupervisor replaces what is written down.
func WriteSupervisor(run string, s Supervisor) error { return writeKept(supervisorFile(run), s) }

// RemoveSupervisor removes it.
func RemoveSupervisor(run string) error { return removeKept(supervisorFile(run)) }

// ReadSupervisor reads it; ok is false where there is nothing. It may be a dead one's.
func ReadSupervisor(run string) (s Supervisor, ok bool, err error) {
	ok, err = readKept(supervisorFile(run), "the supervisor", &s)
	return s, ok, err
}
