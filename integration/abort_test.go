package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fusectl is the folder of the kernel's FUSE connections, mounted if it is not.
func fusectl(t *testing.T) string {
	t.Helper()
	const dir = "/sys/fs/fuse/connections"
	if b, err := os.ReadFile("/proc/self/mounts"); err != nil || !strings.Contains(string(b), " "+dir+" ") {
		needRoot(t)
		if err := unix.Mount("none", dir, "fusectl", 0, ""); err != nil {
			missing(t, "mount fusectl: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) }) // others may have come to use it
	}
	return dir
}

// connection is the folder of the mount's connection.
func (s *site) connection(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == s.mnt {
			_, minor, _ := strings.Cut(f[2], ":")
			return filepath.Join(fusectl(t), minor)
		}
	}
	t.Fatalf("%s is no mount", s.mnt)
	return ""
}

// TestAbort: the connection is aborted by hand under writers, readers, a lister and one that
// waits for tape. All of them get an error at once, nobody stays in D state, and the
// supervisor makes the mount usable again with all that was closed.
func TestAbort(t *testing.T) {
	slow := tapeWith("speed: 1x, robot: 1h")
	s := newSite(t, tapeWith("speed: 100000x"))
	s.onTape(folder(t, map[string]int{"far": 200_000}), "/ctao/slow")
	must(t, os.WriteFile(s.dir+"/lake.local.yaml", []byte(slow+crashLake), 0o600))
	s.supervised = true
	t.Cleanup(s.end)
	s.mount()
	s.serving()
	s.expect("the kernel has ended the connection", "the connection of the mount was aborted", "the daemon died; it is started again", "kept among the orphans.*data file without a record")
	dir := s.path("ctao/dl3/abort")
	must(t, os.Mkdir(dir, 0o755))
	kept := map[string][]byte{}
	for round := range 3 {
		old := s.serving().pid
		conn := s.connection(t)
		var aborted atomic.Bool
		var mu sync.Mutex // guards kept
		var wg sync.WaitGroup
		work := func(what string, f func(i int) error) {
			wg.Go(func() {
				for i := 0; ; i++ {
					err := f(i)
					if err == nil {
						continue
					}
					if !aborted.Load() {
						t.Errorf("%s before the abort: %v", what, err)
					}
					if !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, syscall.EIO) {
						t.Errorf("%s after the abort: %v", what, err)
					}
					return
				}
			})
		}
		for w := range 2 {
			work("a writer", func(i int) error {
				name := filepath.Join(dir, fmt.Sprintf("r%dw%d-%d", round, w, i))
				b := content(uint64(round*100_000+w*10_000+i), 50_000)
				if err := os.WriteFile(name, b, 0o644); err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				kept[name] = b
				return nil
			})
		}
		work("a lister", func(int) error { _, err := os.ReadDir(dir); return err })
		work("one that waits for tape", func(int) error { _, err := os.ReadFile(s.path("ctao/slow/far")); return err })
		time.Sleep(700 * time.Millisecond)
		aborted.Store(true)
		began := time.Now()
		must(t, os.WriteFile(filepath.Join(conn, "abort"), []byte("1"), 0))
		ended := make(chan struct{})
		go func() { wg.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("callers wait 10 s after the abort")
		}
		heard := time.Since(began)
		s.gone(old)
		s.within(30*time.Second, "usable again", s.mounted)
		t.Logf("%d files; all callers knew after %v, usable again after %v", len(kept), heard.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		if b := s.serving(); b.pid == old || b.restarts < round+1 {
			t.Errorf("after abort %d: %+v", round, b)
		}
		for name, b := range kept {
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
		if t.Failed() {
			return
		}
	}
	s.umount("--now", "--force") // on such a tape nothing gets safe
}
