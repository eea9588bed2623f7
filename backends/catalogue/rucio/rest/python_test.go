package rest

import (
	"fmt"
	"testing"
)

// What we know of exceptions are exceptions of Rucio's.
func TestClassesAreTheServers(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		var known []string
		for c := range classes {
			known = append(known, c)
		}
		out := r.Python("from rucio.common import exception\nprint([c for c in names if not hasattr(exception, c)], len(names))", map[string]any{"names": known})
		if want := fmt.Sprintf("[] %d\n", len(known)); out != want {
			t.Errorf("the server knows nothing of %q", out)
		}
	})
}
