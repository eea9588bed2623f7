package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// storm is a lake under all at once: three that write, rename and overwrite, one that moves a
// folder with unsent files in it, one that reads what is on tape, and one that evicts it,
// while the daemon uploads.
type storm struct {
	*site
	workers []*worker
	mover   *mover
	onTape  map[string]string // checksums of the files below /ctao/tape

	slowest time.Duration // of the restarts
	starts  int
	slow    int // of them, beyond 5 s
	seen    int // files that were looked at after restarts
}

// newStorm furnishes a lake that is mounted.
func newStorm(s *site, seed uint64) *storm {
	s.t.Helper()
	c := &storm{site: s}
	tapes := map[string]int{}
	for i := range 12 {
		tapes[fmt.Sprintf("t%02d", i)] = 20_000 + 5_000*i
	}
	src := folder(s.t, tapes)
	s.onTape(src, "/ctao/tape")
	c.onTape = tree(s.t, src)
	for i := range 3 {
		w := newWorker(s.path("ctao", fmt.Sprintf("w%d", i)), seed<<20+uint64(i)<<16)
		c.workers = append(c.workers, w)
		must(s.t, os.Mkdir(w.dir, 0o755))
	}
	c.mover = &mover{base: s.path("ctao", "moves"), rnd: rand.New(rand.NewPCG(seed, 9)), want: map[string]wish{}}
	must(s.t, os.MkdirAll(c.mover.dir(0), 0o755))
	return c
}

// until lets the storm rage until end returns, which leaves the daemon dead, and waits for
// the callers, who must not hang. dead tells whether one may have seen it dead already.
func (c *storm) until(mayBeDead func() bool, end func()) {
	c.t.Helper()
	var wg sync.WaitGroup
	run := func(what string, f func() error) {
		wg.Go(func() {
			for {
				err := f()
				switch {
				case err == nil:
					continue
				case !dead(err):
					c.t.Errorf("%s ended with %v", what, err)
				case !mayBeDead():
					c.t.Errorf("%s while the daemon lives: %v", what, err)
				}
				return
			}
		})
	}
	// The evicter is started before there are open files: a child of ours would close
	// its copies of them, and a close completes a file.
	stop := c.evictAllTheTime("/ctao/tape")
	for _, w := range c.workers {
		run("writer", w.step)
	}
	run("mover", c.mover.step)
	run("reader", func() error {
		for name, want := range c.onTape {
			b, err := os.ReadFile(c.path("ctao/tape", name))
			if err != nil {
				return err
			}
			if sumOf(b) != want {
				c.t.Errorf("%s read wrong", name)
			}
		}
		return nil
	})
	end()
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		c.t.Fatal("callers hang after the death of the daemon")
	}
	stop()
}

// again starts the daemon and looks at everything that was there.
func (c *storm) again() {
	c.t.Helper()
	began := time.Now()
	c.mount()
	took := time.Since(began)
	if c.slowest = max(c.slowest, took); took > 5*time.Second {
		c.slow++
	}
	c.starts++
	for _, w := range c.workers {
		w.check(c.t)
		c.seen += len(w.want)
	}
	c.mover.check(c.t)
	c.seen += len(c.mover.want)
	paths := map[string]bool{}
	for _, r := range c.rows("replicas", "/") {
		at := fmt.Sprint(r["path"], " at ", r["rse"])
		if paths[at] {
			c.t.Errorf("%s is registered twice", at)
		}
		paths[at] = true
	}
}

// digest waits until all is safe and proves it; the daemon is another one then.
func (c *storm) digest() {
	c.t.Helper()
	var dirs []string
	for _, w := range c.workers {
		dirs = append(dirs, w.dir)
	}
	c.allSafe(append(dirs, c.mover.dir(c.mover.n))...)
}

// quick wants restarts within 5 s; one in twenty may be slower on a machine that is busy.
func (c *storm) quick() {
	c.t.Helper()
	if !raceEnabled && c.slow*20 > c.starts {
		c.t.Errorf("%d of %d restarts took more than 5 s, the slowest %v", c.slow, c.starts, c.slowest)
	}
}

func (c *storm) String() string {
	ops := c.mover.made
	for _, w := range c.workers {
		ops += w.ops
	}
	return fmt.Sprintf("%d operations, %d restarts after which %d files were looked at and none was lost, the slowest usable after %v",
		ops, c.starts, c.seen, c.slowest.Round(time.Millisecond))
}

// evictAllTheTime runs the command until the function that it returns is called.
func (s *site) evictAllTheTime(path string) (stop func()) {
	s.t.Helper()
	cmd := owned(exec.Command("bash", "-c", `while :; do "$0" evict "$1"; sleep 0.05; done`, tarn, path), syscall.SIGKILL)
	cmd.Env = append(os.Environ(), "TARN_LAKE="+s.dir)
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // an error means that they have ended
		cmd.Wait()
	})
}
