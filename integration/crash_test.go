package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// crashLake settles fast: uploads begin at once, and what was replaced goes at once.
const crashLake = `
journal: {delay: 50ms}
catalogue: {grace: 1ms}
`

// rounds is how many kills a test is for.
func rounds(short int) int {
	if n, err := strconv.Atoi(os.Getenv("TARN_CRASH_ROUNDS")); err == nil {
		return n
	}
	return short
}

// TestCrash kills the daemon at random moments under a storm: W2 to W6, N6, N7, R10.
// TARN_CRASH_ROUNDS tells how many times; `make kills` runs it long.
func TestCrash(t *testing.T) {
	s := newSite(t, crashLake)
	// A removal that was cut in two: the journal keeps what it cannot explain.
	s.expect("kept among the orphans.*data file without a record")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	s.mount()
	c := newStorm(s, seed)
	n := rounds(6)
	for round := 1; round <= n; round++ {
		var killed atomic.Bool
		c.until(killed.Load, func() {
			time.Sleep(time.Duration(200+rnd.IntN(1300)) * time.Millisecond)
			killed.Store(true)
			s.kill()
		})
		c.again()
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		if round%20 == 0 || round == n {
			c.digest()
		}
	}
	t.Logf("%d kills, %v", n, c)
	c.quick()
}

// settle waits until nothing is unsent but what a crash left unfinished.
func (s *site) settle() {
	s.t.Helper()
	s.within(time.Minute, "everything safe", func() bool {
		return !slices.ContainsFunc(s.rows("uploads", "ls"), func(r map[string]any) bool { return r["state"] != "ABANDONED" })
	})
}

// allSafe proves what is promised once a crash is digested: every file below the folders
// is registered once, has its two verified replicas with the right bytes, is read right
// through an empty cache, and nothing else lies at the storages.
func (s *site) allSafe(dirs ...string) {
	s.t.Helper()
	began := time.Now()
	var laps []string
	lap := func(what string) {
		laps = append(laps, fmt.Sprintf("%s %v", what, time.Since(began).Round(time.Millisecond)))
		began = time.Now()
	}
	s.settle()
	lap("settled")
	truth := map[string]string{}
	for _, d := range dirs {
		for name, b := range files(s.t, d) {
			truth[strings.TrimPrefix(filepath.Join(d, name), s.mnt)] = sumOf(b)
		}
	}
	// What was replaced goes soon after the next start.
	s.umount("--now", "--force")
	if err := os.RemoveAll(s.cache); err != nil {
		s.t.Fatal(err)
	}
	s.mount()
	lap("restart")
	copies := map[string][]string{}
	known := map[string]bool{}
	var strays []string
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		clear(copies)
		clear(known)
		for _, r := range s.rows("replicas", "/") {
			p, pfn := r["path"].(string), r["pfn"].(string)
			if r["state"] != "AVAILABLE" || r["verified"] == nil {
				s.t.Fatalf("replica %v", r)
			}
			copies[p] = append(copies[p], r["rse"].(string))
			known[filepath.Join(r["rse"].(string), pfn)] = true
		}
		if strays = s.strays(known); len(strays) == 0 {
			break
		}
		if time.Now().After(end) {
			s.t.Errorf("at the storages lies what nobody knows: %v", strays)
			for _, stray := range strays {
				id := stray[strings.LastIndex(stray, ".")+1:]
				for i, l := range s.logs {
					for line := range strings.Lines(l.String()) {
						if strings.Contains(line, id) {
							s.t.Logf("daemon %d: %s", i, line)
						}
					}
				}
			}
			break
		}
	}
	lap("reaped")
	for p, want := range truth {
		slices.Sort(copies[p])
		if got := strings.Join(copies[p], " "); got != "LAPALMA-DISK PIC-TAPE" {
			s.t.Errorf("%s has replicas at %s", p, got)
		}
		if got := sum(s.t, s.mnt+p); got != want {
			s.t.Errorf("%s through an empty cache: %s, want %s", p, got, want)
		}
	}
	lap("read")
	rules := map[string]int{}
	for _, r := range s.rows("rule", "ls") {
		did, _ := r["did"].(map[string]any)
		rules[fmt.Sprint(did["name"])]++
	}
	for p := range truth {
		if rules[p] != 2 {
			s.t.Errorf("%s has %d rules", p, rules[p])
		}
	}
	if r := s.try("verify", "/ctao"); r.code != 0 {
		s.t.Errorf("verify: exit %d\n%s%s", r.code, r.out, r.err)
	}
	lap("verified")
	s.t.Logf("%d files safe: %s", len(truth), strings.Join(laps, ", "))
}

// strays are files at the disk storages that no replica of a file is.
func (s *site) strays(known map[string]bool) (out []string) {
	s.t.Helper()
	root := filepath.Join(s.dir, "rse")
	for _, rse := range []string{"LAPALMA-DISK", "PIC-DISK", "CNAF-DISK"} {
		for p := range tree(s.t, filepath.Join(root, rse)) {
			if !known[filepath.Join(rse, p)] {
				out = append(out, filepath.Join(rse, p))
			}
		}
	}
	return out
}

func sumOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
