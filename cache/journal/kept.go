package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Orphan is one file that recovery could make no entry of and kept.
type Orphan struct {
	File  string    `json:"file"` // absolute path
	Size  int64     `json:"size"`
	MTime time.Time `json:"mtime"`
	Why   string    `json:"why,omitempty"`
}

// Orphans lists what lies among the orphans of the journal in dir, which need not be
// open. There are none where there is no journal.
func Orphans(dir string) ([]Orphan, error) {
	folder := filepath.Join(dir, "orphans")
	entries, err := os.ReadDir(folder)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the orphans of the journal: %w", err)
	}
	var out []Orphan
	for _, e := range entries {
		name := e.Name()
		if strings.HasSuffix(name, ".txt") || strings.HasSuffix(name, ".rec") && isData(folder, name) {
			continue
		}
		st, err := e.Info()
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return out, fmt.Errorf("list the orphans of the journal: %w", err)
		}
		o := Orphan{File: filepath.Join(folder, name), Size: st.Size(), MTime: st.ModTime()}
		if b, err := os.ReadFile(strings.TrimSuffix(o.File, filepath.Ext(name)) + ".txt"); err == nil {
			o.Why = strings.TrimSpace(string(b))
		}
		out = append(out, o)
	}
	return out, nil
}

// isData tells whether a record lies beside its data, and is no orphan of its own.
func isData(folder, rec string) bool {
	_, err := os.Stat(filepath.Join(folder, strings.TrimSuffix(rec, ".rec")+".data"))
	return err == nil
}
