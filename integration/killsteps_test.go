package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// steps are system calls of the daemon at which TestKillAtSteps ends it: those that make
// something durable or visible.
var steps = []string{"fdatasync", "fsync", "renameat", "renameat2", "unlinkat", "openat", "pwrite64", "ftruncate", "fallocate", "msync", "mkdirat", "flock"}

// TestKillAtSteps kills the daemon in the middle of a system call of its upload path.
func TestKillAtSteps(t *testing.T) {
	needTools(t, "strace")
	if out, err := exec.Command("strace", "-f", "-e", "inject=none", "true").CombinedOutput(); err != nil && !strings.Contains(string(out), "invalid") {
		missing(t, "strace cannot trace here: %s", out)
	}
	n := rounds(t, 10)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	hits := map[string]int{}
	for i := range n {
		call := steps[rnd.IntN(len(steps))]
		when := 1 + rnd.IntN(10) // of one thread
		if call == "openat" {
			when += rnd.IntN(60)
		}
		s := newSite(t, crashLake)
		s.expect("kept among the orphans.*data file without a record")
		inject := []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, when)}
		w := newWorker(s.path("ctao/dl3"), seed<<24+uint64(i)<<16)
		if err := s.tryMount(inject); err != nil {
			hits["start"]++
		} else {
			for range 30 {
				if err := w.step(); err != nil {
					if !dead(err) {
						t.Errorf("%s %d: %v", call, when, err)
					}
					break
				}
			}
			select {
			case <-s.exited:
				s.daemon = nil
				hits[call]++
			case <-time.After(500 * time.Millisecond):
				s.endTraced()
			}
		}
		s.mount()
		w.check(t)
		s.allSafe(w.dir)
		s.down()
		if t.Failed() {
			t.Fatalf("killed at %s number %d", call, when)
		}
	}
	t.Logf("of %d daemons these died at the step: %v", n, hits)
	if len(hits) == 0 {
		t.Error("no step was hit: the test proves nothing")
	}
}

// endTraced kills the daemon under strace, which then ends by itself.
func (s *site) endTraced() {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "run/daemon.json"))
	if err == nil {
		var pid int
		if _, after, ok := strings.Cut(string(b), `"pid":`); ok {
			fmt.Sscan(strings.TrimLeft(after, " "), &pid)
		}
		if pid > 1 {
			syscall.Kill(pid, syscall.SIGKILL) // an error means that it has ended
		}
	}
	select {
	case <-s.exited:
	case <-time.After(10 * time.Second):
		s.t.Fatal("the traced daemon does not end")
	}
	s.daemon = nil
}
