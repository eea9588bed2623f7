package embedded

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"tarn/backends"
)

// TestReopen: after a commit that failed the lake is out of service for a moment and then
// serves what was acknowledged, and new changes; readers and writers go on trying.
func TestReopen(t *testing.T) {
	ctx := t.Context()
	c := open(t, Options{Dir: t.TempDir(), FreeFloor: 1})
	if err := c.AddScope(ctx, backends.Info{DID: backends.DID{Scope: "s"}, Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	add := func(i int) error {
		did := backends.DID{Scope: "s", Name: fmt.Sprintf("/s/f%d", i)}
		return c.Add(ctx, backends.Info{DID: did, Type: backends.File, Size: 1}, nil)
	}
	for round := range 3 {
		for i := range 20 {
			if err := add(100*round + i); err != nil {
				t.Fatal(err)
			}
		}
		fail := func(*tx) error {
			c.breakWith(fmt.Errorf("%w: as a failed commit does: %w", errReopen, backends.ErrUnavailable))
			return nil
		}
		if err := c.update(ctx, false, fail); err != nil {
			t.Fatal(err)
		}
		if err := add(100*round + 20); err != nil && (!errors.Is(err, errReopen) || !errors.Is(err, backends.ErrUnavailable)) {
			t.Fatalf("out of service: %v", err)
		}
		var wg sync.WaitGroup
		for k := range 4 {
			wg.Go(func() {
				did := backends.DID{Scope: "s", Name: fmt.Sprintf("/s/f%d", 100*round+k)}
				for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
					_, err := c.Stat(ctx, did)
					if err == nil {
						err = add(100*round + 30 + k)
					}
					if err == nil {
						return
					}
					if !errors.Is(err, errReopen) || time.Now().After(end) {
						t.Errorf("round %d: %v", round, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	files, _ := c.Usage()
	if files < 3*24 || files > 3*25 {
		t.Errorf("%d files", files)
	}
}
