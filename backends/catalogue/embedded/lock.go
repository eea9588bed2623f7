package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tarn/backends"
)

// lock is a flock on the file LOCK: it ends with the process, however that ends.
// holder.json beside it only tells who has it, and means nothing without the lock.
type lock struct {
	file   *os.File
	holder string
}

// holder is the content of holder.json.
type holder struct {
	PID     int       `json:"pid"`
	Command string    `json:"command"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
}

func takeLock(dir string, now time.Time) (*lock, error) {
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, classify(err)
	}
	l := &lock{file: f, holder: filepath.Join(dir, "holder.json")}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		return nil, fmt.Errorf("%w: held by %s", backends.ErrBusy, readHolder(l.holder))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock: %w", classify(err))
	}
	host, _ := os.Hostname() // an empty one is told as such
	me := holder{PID: os.Getpid(), Command: strings.Join(os.Args, " "), Host: host, Since: now}
	if len(me.Command) > 200 {
		me.Command = me.Command[:200]
	}
	b, err := json.Marshal(me)
	if err == nil {
		err = writeFile(l.holder, b)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write %s: %w", l.holder, classify(err))
	}
	return l, nil
}

// readHolder describes who has the lock, as far as can be told.
func readHolder(path string) string {
	var h holder
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &h)
	}
	if err != nil {
		return "another process"
	}
	return fmt.Sprintf("process %d (%s) on %s since %s", h.PID, h.Command, h.Host, h.Since.Format(time.RFC3339))
}

// writeFile replaces a file as a whole.
func writeFile(path string, b []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func (l *lock) release() error {
	err := os.Remove(l.holder)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, l.file.Close())
}
