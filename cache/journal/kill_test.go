package journal

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

const childEnv = "JOURNAL_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		killedChild(dir)
		return
	}
	os.Exit(m.Run())
}

// killedChild writes, changes and removes files until it is killed, and says on its
// standard output what was acknowledged: "sealed ID SUM", "gone ID" before a removal.
func killedChild(dir string) {
	j, err := Open(Options{Dir: dir, NewHash: newSums})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("ready")
	var mu sync.Mutex
	say := func(a ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(a...) // one write to the pipe
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), uint64(time.Now().UnixNano())))
			for {
				e, err := j.Create(Record{Path: []byte("x")})
				if err != nil {
					say("error", err)
					return
				}
				var all []byte
				for range 1 + rnd.IntN(3) {
					p := make([]byte, 1+rnd.IntN(60_000))
					for i := range p {
						p[i] = byte(rnd.Uint32())
					}
					off := len(all)
					if rnd.IntN(4) == 0 && len(all) > 0 {
						off = rnd.IntN(len(all))
						say("changing", e.ID())
					}
					if _, err := e.WriteAt(p, int64(off)); err != nil {
						say("error", err)
					}
					all = writeTo(p, int64(off))(all)
					if _, err := e.Seal(); err != nil {
						say("error", err)
					}
					sum := sha256.Sum256(all)
					say("sealed", e.ID(), hex.EncodeToString(sum[:]))
				}
				switch rnd.IntN(4) {
				case 0:
					say("gone", e.ID())
					err = e.Remove()
				case 1:
					err = e.Update(func(r *Record) { r.State = Registered })
				}
				if err != nil {
					say("error", err)
				}
			}
		})
	}
	wg.Wait()
}

// TestKill kills a process in the middle of its work, again and again over the same
// folder. What it acknowledged is there.
func TestKill(t *testing.T) {
	rounds := 8
	if testing.Short() || raceDetector {
		rounds = 3
	}
	dir := t.TempDir()
	sealed := map[string]string{} // sum; "" when a change was under way
	gone := map[string]bool{}
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		if s, err := lines.ReadString('\n'); s != "ready\n" {
			t.Fatal(s, err)
		}
		timer := time.AfterFunc(time.Duration(20+rand.IntN(200))*time.Millisecond, func() { cmd.Process.Kill() })
		said := 0
		for {
			s, err := lines.ReadString('\n')
			if err != nil { // an unfinished line was not acknowledged
				if err != io.EOF {
					t.Fatal(err)
				}
				break
			}
			f := strings.Fields(s)
			said++
			switch f[0] {
			case "sealed":
				sealed[f[1]] = f[2]
			case "changing":
				sealed[f[1]] = ""
			case "gone":
				gone[f[1]] = true
			default:
				t.Fatal(s)
			}
		}
		timer.Stop()
		cmd.Wait()

		start := time.Now()
		j := open(t, testOptions(dir))
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("restart took %v", took)
		}
		checked := 0
		for id, sum := range sealed {
			e, ok := j.Entry(id)
			if !ok {
				if !gone[id] {
					t.Errorf("round %d: %s is lost", round, id)
				}
				continue
			}
			if err := e.Verify(); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
			if r := e.Record(); sum != "" && (r.Sums["sha256"] != sum || r.Damaged) {
				// It may have been sealed once more before the line was out, which
				// the bytes that were acknowledged begin.
				h := sha256.New()
				io.Copy(h, io.NewSectionReader(e, 0, e.Size()))
				if hex.EncodeToString(h.Sum(nil)) != r.Sums["sha256"] || r.Recovered {
					t.Errorf("round %d: %s is %+v", round, id, r)
				}
			}
			checked++
		}
		t.Logf("round %d: %d acknowledgements, %d files checked", round, said, checked)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
