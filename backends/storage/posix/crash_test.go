package posix

import (
	"bufio"
	"bytes"
	"context"
	"errors"
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

const crashDir = "TARN_POSIX_CRASH_DIR"

// crashFile gives the content that belongs to a name of the crash test.
func crashFile(path string) []byte {
	var round, worker, i int
	fmt.Sscanf(path, "d%d/w%d/f%d", &round, &worker, &i)
	return backendstest.Bytes(uint64(round*7919+worker*101+i), (i*37511)%700000)
}

// TestCrashChild is the victim: it uploads until it is killed, and says what was committed.
func TestCrashChild(t *testing.T) {
	dir, round, ok := strings.Cut(os.Getenv(crashDir), "|")
	if !ok {
		t.Skip("runs as the child of TestCrash")
	}
	s, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				p := fmt.Sprintf("d%s/w%d/f%d", round, w, i)
				data := crashFile(p)
				u, err := s.Create(context.Background(), p, int64(len(data)))
				for b := data; err == nil && len(b) > 0; {
					n := min(len(b), 64<<10)
					_, err = u.Write(b[:n])
					b = b[n:]
				}
				if err == nil {
					_, err = u.Commit(context.Background(), backendstest.Sums(data))
				}
				if err != nil {
					fmt.Printf("ERROR %s %v\n", p, err)
					return
				}
				fmt.Printf("ACK %s\n", p)
			}
		}()
	}
	select {}
}

// TestCrash kills a process that uploads, again and again: what was acknowledged is there, and
// what is there is whole.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]bool{}
	for round := range 6 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%d", crashDir, dir, round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		after := 1 + rand.IntN(40) // kill in the middle of things, not by the clock alone
		n := 0
		for lines.Scan() {
			p, ok := strings.CutPrefix(lines.Text(), "ACK ")
			if !ok {
				if strings.HasPrefix(lines.Text(), "ERROR") {
					t.Error(lines.Text())
				}
				continue
			}
			acked[p] = true
			if n++; n == after {
				time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, func() { cmd.Process.Kill() })
			}
		}
		cmd.Wait()

		s := open(t, Options{Dir: dir})
		seen := map[string]bool{}
		for r := range round + 1 {
			for w := range 4 {
				for a, err := range s.List(t.Context(), fmt.Sprintf("d%d/w%d", r, w)) {
					if errors.Is(err, backends.ErrNotExist) {
						continue // killed before its first commit
					}
					if err != nil {
						t.Fatal(err)
					}
					seen[a.Path] = true
					got, err := backendstest.Get(t.Context(), s, a.Path)
					if err != nil || !bytes.Equal(got, crashFile(a.Path)) {
						t.Errorf("round %d: %s is not whole: %d bytes, %v", round, a.Path, len(got), err)
					}
				}
			}
		}
		for p := range acked {
			if !seen[p] {
				t.Errorf("round %d: %s was acknowledged and is lost", round, p)
			}
		}
		t.Logf("round %d: killed after %d commits, %d files in all are whole", round, n, len(seen))
		s.Close()
	}
}
