package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// usage counts descriptors and threads of the daemon.
func (s *site) usage() (fds int, names []string) {
	s.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", s.daemon.Process.Pid)
	all, err := os.ReadDir(dir)
	must(s.t, err)
	for _, e := range all {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			names = append(names, to)
		}
	}
	slices.Sort(names)
	return len(names), names
}

// TestNoLeaks: after a day's work in small the daemon holds no more than before it.
func TestNoLeaks(t *testing.T) {
	s := newSite(t, "journal: {delay: 10ms}\n")
	s.mount()
	src := folder(t, map[string]int{"a": 50_000, "b": 60_000, "c": 70_000})
	work := func(i int) {
		t.Helper()
		at := fmt.Sprintf("/ctao/work%d", i)
		s.onTape(src, at)
		s.sh(fmt.Sprintf(`cd ctao/work%d; cat a b c >/dev/null; for i in $(seq 20); do echo $i > f$i; done; mv f1 g1; cp f2 f3; echo x >> f4; rm f5
			find . >/dev/null; getfattr -d . a >/dev/null; sha256sum * >/dev/null; timeout 0.05 sleep 1 || true`, i))
		s.ok("stat", at)
		s.ok("verify", at)
		s.ok("evict", at)
		s.drain()
		s.sh(fmt.Sprintf("cat ctao/work%d/* >/dev/null; rm -r ctao/work%d", i, i))
	}
	work(0)
	s.within(20*time.Second, "quiet", func() bool { time.Sleep(200 * time.Millisecond); return true })
	before, was := s.usage()
	for i := 1; i <= 3; i++ {
		work(i)
	}
	var after int
	var now []string
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if after, now = s.usage(); after <= before+3 {
			break
		}
	}
	t.Logf("descriptors %d, then %d", before, after)
	if after > before+3 {
		t.Errorf("descriptors %d, then %d:\n%q\n%q", before, after, was, now)
	}
	if n, ok := s.stats()["goroutines"].(float64); ok && n > 200 {
		t.Errorf("%v goroutines", n)
	}
	s.umount()
}
