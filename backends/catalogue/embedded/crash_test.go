package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
)

// crashWriter changes a lake from several goroutines and prints each change when it is
// acknowledged, until it is killed. Each goroutine has names of its own.
//
//	add N      file N was added, with metadata and a replica
//	move N     file N, added before, moved to the folder moved
//	drop N     file N, added before, was removed
func crashWriter(dir string) {
	ctx := context.Background()
	c, err := Open(small(Options{Dir: dir}))
	if err != nil {
		fmt.Println("error", err)
		return
	}
	for _, d := range []string{"/s", "/s/d", "/s/moved"} {
		in := backends.Info{DID: backends.DID{Scope: "s", Name: d}, Type: backends.Container}
		if d == "/s" {
			err = c.AddScope(ctx, in)
		} else {
			err = c.Add(ctx, in, nil)
		}
		if err != nil && !errors.Is(err, backends.ErrExist) {
			fmt.Println("error", err)
			return
		}
	}
	from, _ := strconv.Atoi(os.Getenv("TARN_TEST_FROM"))
	var out sync.Mutex
	said := func(what string, n int, err error) {
		out.Lock()
		defer out.Unlock()
		if err != nil {
			what = fmt.Sprintf("error %s: %v", what, err)
		}
		fmt.Println(what, n)
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; ; i++ {
				n := from + 4*i + w
				d := crashName("d", n)
				in := backends.Info{DID: d, Type: backends.File, Size: int64(n)}
				said("add", n, c.Add(ctx, in, backends.Meta{"n": float64(n)}, backends.Replica{RSE: "A", PFN: strings.Repeat("x", 200)}))
				switch n % 5 {
				case 0:
					said("move", n, c.Rename(ctx, d, crashName("moved", n)))
				case 1:
					said("drop", n, c.Remove(ctx, d))
				}
			}
		}()
	}
	wg.Wait()
}

func crashName(dir string, n int) backends.DID {
	return backends.DID{Scope: "s", Name: fmt.Sprintf("/s/%s/%d", dir, n)}
}

// What was acknowledged is there after a kill at any moment, and nothing is there by
// half. TARN_CRASH_ROUNDS makes it longer.
func TestKilledAtAnyMoment(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("TARN_CRASH_ROUNDS"))
	if err != nil {
		rounds = 6
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	state := map[int]string{} // what the last acknowledged change of a file was
	from := 0
	for round := range rounds {
		cmd := child(t, "write", dir, fmt.Sprint("TARN_TEST_FROM=", from))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(time.Duration(100+rnd.IntN(500))*time.Millisecond, func() { cmd.Process.Kill() })
		lines := bufio.NewScanner(out)
		acked := 0
		for lines.Scan() {
			what, num, _ := strings.Cut(lines.Text(), " ")
			n, err := strconv.Atoi(num)
			if err != nil {
				kill.Stop()
				cmd.Process.Kill()
				cmd.Wait()
				t.Fatalf("round %d: child says %q", round, lines.Text())
			}
			state[n] = what
			from = max(from, n+1)
			acked++
		}
		cmd.Wait()
		kill.Stop()
		checkCrashed(t, dir, state)
		t.Logf("round %d: %d changes acknowledged, %d files known", round, acked, len(state))
		from += 1000 // numbers whose change was on its way
	}
	if len(state) == 0 {
		t.Error("nothing was acknowledged: the test shows nothing")
	}
}

// A kill while the database makes or removes a log leaves one of no length.
func TestEmptyLogsOfAKillAreNoDamage(t *testing.T) {
	dir := damageLake(t, true)
	for _, name := range []string{"00000.mem", "00099.mem", "000000.vlog", "000099.vlog"} {
		if err := os.WriteFile(filepath.Join(dir, "db", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := readAll(dir); got != fmt.Sprint("read ", damageFiles) {
		t.Error(got)
	}
}

func checkCrashed(t *testing.T, dir string, state map[int]string) {
	t.Helper()
	c, err := Open(small(Options{Dir: dir}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := t.Context()
	exists := func(d backends.DID) bool {
		in, err := c.Stat(ctx, d)
		if errors.Is(err, backends.ErrNotExist) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err1 := c.Meta(ctx, d)
		rs, err2 := c.Replicas(ctx, d)
		if err1 != nil || err2 != nil || len(m) != 1 || len(rs) != 1 {
			t.Fatalf("%v is there by half: %v %v %v %v", in, m, rs, err1, err2)
		}
		return true
	}
	for n, last := range state {
		here, moved := exists(crashName("d", n)), exists(crashName("moved", n))
		next := map[int]string{0: "move", 1: "drop"}[n%5] // may have happened without being acknowledged
		ok := map[string]bool{"add": here && !moved, "move": moved && !here, "drop": !here && !moved}
		if !ok[last] && !(last == "add" && ok[next]) {
			t.Errorf("file %d, last acknowledged %q, is at home %v, moved %v", n, last, here, moved)
		}
	}
	var files, bytes int64
	for in, err := range c.Find(ctx, backends.DID{}, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if in.Type == backends.File {
			files++
			bytes += in.Size
		}
	}
	if f, b := c.Usage(); f != files || b != bytes {
		t.Errorf("usage is %d files %d bytes, counted %d and %d", f, b, files, bytes)
	}
	checkRecords(t, c)
}
