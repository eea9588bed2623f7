package library

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
)

const crashDir = "TARN_LIBRARY_CRASH_DIR"

// crashFile gives the content that belongs to a name of the crash test.
func crashFile(path string) []byte {
	var round, worker, i int
	fmt.Sscanf(path, "d%d/w%d/f%d", &round, &worker, &i)
	return backendstest.Bytes(uint64(round*7919+worker*101+i), (i*7511)%200000)
}

func crashOptions(dir string) Options {
	// A small buffer and little tapes keep everything moving: migration, eviction, recalls.
	return Options{Dir: dir, Drives: 2, Cartridges: 6, CartridgeSize: 1 << 30, BufferSize: 2 << 20, Speed: 1e6}
}

// TestCrashChild is the victim: it uploads, removes and stages until it is killed, and says what was done.
func TestCrashChild(t *testing.T) {
	dir, round, ok := strings.Cut(os.Getenv(crashDir), "|")
	if !ok {
		t.Skip("runs as the child of TestCrash")
	}
	l, err := Open(crashOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				p := fmt.Sprintf("d%s/w%d/f%d", round, w, i)
				if err := put(context.Background(), l, p, crashFile(p)); err != nil {
					fmt.Printf("ERROR %s %v\n", p, err)
					return
				}
				fmt.Printf("ACK %s\n", p)
				if i%5 == 4 {
					old := fmt.Sprintf("d%s/w%d/f%d", round, w, i-2)
					if id, err := l.Stage(context.Background(), old); err == nil {
						defer l.Release(context.Background(), id)
					}
					gone := fmt.Sprintf("d%s/w%d/f%d", round, w, i-3)
					fmt.Printf("REMOVING %s\n", gone)
					if err := l.Remove(context.Background(), gone); err == nil {
						fmt.Printf("REMOVED %s\n", gone)
					}
				}
			}
		}()
	}
	select {}
}

// TestCrash kills a process that works with a library, again and again: what was acknowledged is
// there, what is there is whole, and what was removed stays away.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	state := map[string]string{}
	for round := range 6 {
		n := crashRound(t, dir, round, state)
		l := open(t, crashOptions(dir))
		files := map[string]bool{}
		var walk func(string)
		walk = func(d string) {
			for a, err := range l.List(t.Context(), d) {
				switch {
				case err != nil:
					t.Fatal(err)
				case a.IsDir:
					walk(a.Path)
				default:
					files[a.Path] = true
				}
			}
		}
		walk("")
		for p := range files {
			id := l.mustStage(t, p)
			got, err := backendstest.Get(t.Context(), l, p)
			if err != nil || !bytes.Equal(got, crashFile(p)) {
				t.Errorf("round %d: %s is not whole: %d bytes, %v", round, p, len(got), err)
			}
			l.Release(t.Context(), id)
			if state[p] == "REMOVED" {
				t.Errorf("round %d: %s was removed and is back", round, p)
			}
		}
		for p, s := range state {
			if s == "ACK" && !files[p] {
				t.Errorf("round %d: %s was acknowledged and is lost", round, p)
			}
		}
		if err := l.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		for i, loc := range must(l.Locality(t.Context(), keys(files)...)) {
			if loc != backends.Nearline && loc != backends.OnlineAndNearline {
				t.Errorf("%s: %v", keys(files)[i], loc)
			}
		}
		t.Logf("round %d: killed after %d acknowledgements, %d files are whole", round, n, len(files))
		l.Close()
	}
}

func keys(m map[string]bool) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	return out
}

// crashRound runs the child until it is killed somewhere, and notes in state what it said.
func crashRound(t *testing.T, dir string, round int, state map[string]string) (n int) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%d", crashDir, dir, round))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	after := 1 + rand.IntN(80)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		what, p, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "ERROR":
			t.Error(lines.Text())
		case "ACK", "REMOVING", "REMOVED":
			state[p] = what
		}
		if n++; n == after {
			time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, func() { cmd.Process.Kill() })
		}
	}
	cmd.Wait()
	return n
}
