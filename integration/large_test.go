package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLargeTree imports many small files where they lie, and goes through them (N4).
func TestLargeTree(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	files, flat := 22000, 20000
	if testing.Short() {
		files, flat = 4000, 2000
	}
	base := filepath.Join(s.dir, "rse/PIC-DISK/data")
	for i := range files {
		dir := filepath.Join(base, "flat")
		if i >= flat {
			dir = filepath.Join(base, "deep", fmt.Sprint(i%10), fmt.Sprint(i/10%20))
		}
		if i == 0 || i >= flat && i < flat+200 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%05d", i)), []byte(fmt.Sprintln(i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	timed := func(what string, f func()) {
		t.Helper()
		began := time.Now()
		f()
		t.Logf("%-40s %v", what, time.Since(began).Round(time.Millisecond))
	}
	timed(fmt.Sprintf("import of %d files", files), func() { s.ok("import", base, "/ctao/dl3/big", "--rse", "PIC-DISK", "--register-only") })
	s.mount()
	count := func(script string) {
		t.Helper()
		want := files
		if strings.Contains(script, "flat") {
			want = flat
		}
		timed(script, func() {
			if got := strings.TrimSpace(s.sh(script)); got != fmt.Sprint(want) {
				t.Errorf("%s: %s, want %d", script, got, want)
			}
		})
	}
	count("find ctao/dl3/big -type f | wc -l")
	count("find ctao/dl3/big -type f -size +0 | wc -l") // asks for the attributes too
	count("ls ctao/dl3/big/flat | wc -l")
	count("ls -f ctao/dl3/big/flat | grep -c '^f'")
	count("ls -l ctao/dl3/big/flat | grep -c ' f'")
	for _, i := range []int{0, flat - 1, flat, files - 1} {
		name := fmt.Sprintf("flat/f%05d", i)
		if i >= flat {
			name = fmt.Sprintf("deep/%d/%d/f%05d", i%10, i/10%20, i)
		}
		if b, err := os.ReadFile(s.path("ctao/dl3/big", name)); err != nil || string(b) != fmt.Sprintln(i) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	timed("tarn du", func() {
		if got := s.rows("du", "/ctao/dl3/big"); len(got) != 1 || got[0]["files"] != float64(files) {
			t.Errorf("tarn du: %v", got)
		}
	})
	timed("tarn find", func() {
		if got := s.ok("find", "/ctao/dl3/big", "name like f0000*"); strings.Count(got, "\n") != 10 {
			t.Errorf("tarn find: %q", got)
		}
	})
}
