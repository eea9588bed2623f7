package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// writeKept replaces a file of the run folder in which a process tells of itself.
func writeKept(file string, v any) error {
	if err := writeJSON(file, v); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// removeKept removes it; none is success.
func removeKept(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// readKept reads it into v; ok is false where there is none. what is looked for, in words.
func readKept(file, what string, v any) (ok bool, err error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return false, fmt.Errorf("look for %s: read %s: %w", what, file, err)
	}
	return true, nil
}
