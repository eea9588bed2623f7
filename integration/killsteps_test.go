package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// steps are the system calls of the daemon at which TestKillAtSteps ends it: those that make
// something durable or visible, begin something, or answer. Some of them it makes only with
// other storages or on other machines.
var steps = []string{
	"write", "writev", "pwrite64", "fsync", "fdatasync", "sync_file_range", "msync", "syncfs",
	"rename", "renameat", "renameat2", "ftruncate", "fallocate", "unlink", "unlinkat", "openat", "connect", "mkdirat", "flock", "close",
}

// step is the nth of these calls that any one thread of the daemon makes, from its start on or
// in the middle of a storm.
type step struct {
	call  string
	n     int
	start bool
}

func (k step) inject() string { return fmt.Sprintf("signal=SIGKILL:when=%d", k.n) }

// someSteps are n of all the steps.
func someSteps(rnd *rand.Rand, n int) (all []step) {
	for _, call := range steps {
		for _, n := range []int{1, 2, 4, 8, 16} {
			all = append(all, step{call, n, true}, step{call, n, false})
		}
	}
	rnd.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	return all[:min(len(all), n)]
}

// TestKillAtSteps kills the daemon at the nth of its calls of one kind, under a storm.
func TestKillAtSteps(t *testing.T) {
	traced(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	s := newSite(t, crashLake)
	s.expect("kept among the orphans.*data file without a record")
	s.mount()
	c := newStorm(s, seed)
	hits := map[string]int{}
	all := someSteps(rnd, rounds(10))
	for i, k := range all {
		if k.start {
			s.kill()
			err := s.tryMount([]string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + k.call, "-e", "inject=" + k.call + ":" + k.inject()})
			if err != nil && s.daemon == nil {
				hits[k.call+" at the start"]++
			} else if err != nil {
				t.Fatalf("%v: %v", k, err)
			}
		}
		if s.daemon != nil {
			exited, pid := s.exited, s.served()
			stop := func() int { return 0 }
			c.until(func() bool { return gone(pid) }, func() {
				if !k.start {
					stop = s.trace(pid, k.call, k.inject())
				}
				select {
				case <-exited:
					hits[k.call]++
				case <-time.After(time.Duration(500+rnd.IntN(1000)) * time.Millisecond):
					syscall.Kill(pid, syscall.SIGKILL) // an error means that it has ended
					s.buried(pid)
				}
				s.daemon = nil
			})
			stop()
		}
		c.again()
		if t.Failed() {
			t.Fatalf("killed at %v", k)
		}
		if i%10 == 9 || i == len(all)-1 {
			c.digest()
		}
	}
	var never []string
	for _, call := range steps {
		if hits[call]+hits[call+" at the start"] == 0 {
			never = append(never, call)
		}
	}
	t.Logf("%d daemons, of which these died at a step: %v; none at: %v", len(all), hits, never)
	t.Log(c)
	if len(hits) == 0 {
		t.Error("no step was hit: the test proves nothing")
	}
	c.quick()
}

// gone tells whether a process has ended, or does within two seconds: who waits for it hears
// of its death a moment before the kernel has buried it.
func gone(pid int) bool {
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b[bytes.LastIndexByte(b, ')')+1:]), " Z ") {
			return true
		}
	}
	return false
}

// served is the process that serves the mount: the one that was started, or its child when
// that is strace.
func (s *site) served() int {
	s.t.Helper()
	pid := s.daemon.Process.Pid
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	must(s.t, err)
	if child := strings.Fields(string(b)); filepath.Base(s.daemon.Path) == "strace" {
		if len(child) != 1 {
			s.t.Fatalf("strace has the children %q", child)
		}
		_, err = fmt.Sscan(child[0], &pid)
		must(s.t, err)
	}
	return pid
}
