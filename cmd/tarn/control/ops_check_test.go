package control

import (
	"errors"
	"testing"

	"tarn/backends"
)

// TestNobodyDeletesUnknownFilesDuringAnImport, whose files are not known yet, and none begins meanwhile.
func TestNobodyDeletesUnknownFilesDuringAnImport(t *testing.T) {
	s := &Service{}
	s.importing.RLock()
	if _, err := s.check(t.Context(), CheckRequest{RSE: "*", DeleteDark: true}, nil); !errors.Is(err, backends.ErrBusy) {
		t.Errorf("dark files are deleted during an import: %v", err)
	}
	s.importing.RUnlock()
	s.importing.Lock()
	if _, err := s.importTree(t.Context(), ImportRequest{}, nil); !errors.Is(err, backends.ErrBusy) {
		t.Errorf("an import begins while dark files are deleted: %v", err)
	}
	s.importing.Unlock()
	if _, err := s.check(t.Context(), CheckRequest{RSE: "(", DeleteDark: true}, nil); err == nil || errors.Is(err, backends.ErrBusy) || !s.importing.TryLock() {
		t.Errorf("it is not let go: %v", err)
	}
}
