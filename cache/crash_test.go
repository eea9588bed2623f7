package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const crashFiles = 12

func crashContent(i int) (Content, []byte) { return numbered(i, (20+9*i)*kb4+i) }

// crashChild works on a cache until it is killed.
func crashChild(dir string) {
	o := Options{Dir: dir, Block: kb4, Head: kb4, Tail: kb4, NewHash: newSums, Log: quiet(), Limit: 600 * kb4}
	c, err := Open(o)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	c.chunk = 4 * kb4
	fmt.Println("ready")
	ctx := context.Background()
	for {
		i := rand.IntN(crashFiles)
		ct, data := crashContent(i)
		f, err := c.Open(ct, (&remote{data: data}).fetch)
		if err != nil {
			panic(err)
		}
		switch rand.IntN(4) {
		case 0:
			_ = f.Fill(ctx)
		case 1:
			_, _ = f.ReadAt(ctx, make([]byte, 3*kb4), int64(rand.IntN(len(data))))
		case 2:
			_, _ = readAll(ctx, f, 2*kb4)
		case 3:
			_ = c.Pin(ct.Key, time.Now().Add(time.Second))
		}
		f.Close()
		if rand.IntN(3) == 0 {
			_, _ = c.Evict(ct.Key)
		}
	}
}

// Killed at random moments, the cache opens again, serves right bytes, and its accounts
// agree with the disk.
func TestKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CACHE_CRASH_DIR="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ready := make([]byte, 6)
		if _, err := out.Read(ready); err != nil || string(ready) != "ready\n" {
			t.Fatalf("child says %q, %v", ready, err)
		}
		time.Sleep(time.Duration(20+rand.IntN(150)) * time.Millisecond)
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		o := Options{Dir: dir, Block: kb4, Head: kb4, Tail: kb4, NewHash: newSums, Log: quiet(), Limit: 600 * kb4}
		c := open(t, o)
		if bad := c.invariants(); bad != "" {
			t.Fatal(bad)
		}
		used := int64(0)
		for _, p := range append(files(t, dir, dataSuffix), files(t, dir, sideSuffix)...) {
			used += blocksOf(t, p) * 512
		}
		if s := c.Stats(); used > s.Used+8*kb4 { // a file system may need blocks for its maps
			t.Errorf("round %d: %d bytes on disk, %d accounted", round, used, s.Used)
		}
		for i := range crashFiles {
			ct, data := crashContent(i)
			f := mustOpen(t, c, ct, &remote{data: data})
			wantBytes(t, f, data)
			f.Close()
		}
		settled(t, c)
		if s := c.Stats(); s.Corrupt != 0 {
			t.Errorf("round %d: a kill is no power cut, but %d blocks were damaged", round, s.Corrupt)
		}
		shut(t, c)
	}
}

// A kill at any moment while space is given back leaves no side file that claims holes: it is
// written before.
func TestSpaceIsGivenBackLast(t *testing.T) {
	for name, giveBack := range map[string]func(c *Cache, e *entry) error{
		"evicted": func(c *Cache, e *entry) error {
			_, err := c.Evict(e.key)
			return err
		},
		"dropped": func(c *Cache, e *entry) error {
			e.mu.Lock()
			for b := 1; b < 19; b++ {
				e.dropBlockLocked(b)
			}
			e.mu.Unlock()
			e.owner <- struct{}{}
			e.tidy()
			<-e.owner
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			o.Head, o.Tail = kb4, kb4
			c := open(t, o)
			ct, data := numbered(0, 20*kb4)
			cached(t, c, ct, data)
			settled(t, c)
			path := files(t, o.Dir, dataSuffix)[0]
			before := blocksOf(t, path)
			e := c.entries[ct.Key]
			e.pen <- struct{}{} // no side file can be written
			done := make(chan error, 1)
			go func() { done <- giveBack(c, e) }()
			eventually(t, "the blocks are dropped", func() bool {
				e.mu.Lock()
				defer e.mu.Unlock()
				return e.have.Count() == 2
			})
			time.Sleep(50 * time.Millisecond)
			if n := blocksOf(t, path); n != before {
				t.Errorf("data file shrank from %d to %d, and the side file claims all of it", before, n)
			}
			<-e.pen
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if n := blocksOf(t, path); n >= before {
				t.Errorf("nothing was given back of %d", n)
			}
			shut(t, c)
			c = open(t, o)
			f := mustOpen(t, c, ct, &remote{data: data})
			wantBytes(t, f, data)
			if n := c.Stats().Corrupt; n != 0 {
				t.Errorf("%d blocks found damaged", n)
			}
		})
	}
}
