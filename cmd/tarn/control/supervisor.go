package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
func WriteSupervisor(run string, s Supervisor) error {
	if err := writeJSON(supervisorFile(run), s); err != nil {
		return fmt.Errorf("write %s: %w", supervisorFile(run), err)
	}
	return nil
}

// RemoveSupervisor removes it.
func RemoveSupervisor(run string) error {
	if err := os.Remove(supervisorFile(run)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ReadSupervisor reads it; ok is false where there is nothing. It may be a dead one's.
func ReadSupervisor(run string) (s Supervisor, ok bool, err error) {
	b, err := os.ReadFile(supervisorFile(run))
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, false, fmt.Errorf("look for the supervisor: read %s: %w", supervisorFile(run), err)
	}
	return s, true, nil
}
