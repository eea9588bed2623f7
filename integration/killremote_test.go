package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tarn/backends/servertest"
)

// TestKillOverNetwork kills the daemon at the nth connection, and at the nth call by which it talks to
// a server, while files are written and uploaded to a WebDAV and a GridFTP server. What close promised is
// there after each restart, and in the end on both servers: once, whole, and nothing else.
func TestKillOverNetwork(t *testing.T) {
	traced(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	xrootd := servertest.XRootD(t, servertest.XRootDOptions{PKI: identity(t), Authorize: true})
	gridftp := servertest.GridFTP(t, servertest.GridFTPOptions{})
	s := elsewhere(t, "davs://"+strings.TrimPrefix(xrootd.HTTPS, "https://")+"/data", gridftp.FTP+gridftp.Dir)
	s.expect("kept among the orphans.*data file without a record")
	s.mount()
	var workers []*worker
	for i := range 2 {
		w := newWorker(s.path("ctao", fmt.Sprintf("w%d", i)), seed<<20+uint64(i)<<16)
		workers = append(workers, w)
		must(t, os.Mkdir(w.dir, 0o755))
	}
	var all []step
	for _, call := range []string{"connect", "write", "read", "shutdown,close"} {
		for _, n := range []int{1, 2, 3, 5, 8, 13, 21} {
			all = append(all, step{call, n, false})
		}
	}
	rnd.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	connects := slices.DeleteFunc(slices.Clone(all), func(k step) bool { return k.call != "connect" })
	all = append(connects[:3:3], all...)[:min(rounds(8), len(all))]
	hits := map[string]int{}
	for _, k := range all {
		exited, pid := s.exited, s.served()
		stop := s.trace(pid, k.call, k.inject())
		var wg sync.WaitGroup
		for _, w := range workers {
			wg.Go(func() {
				for {
					err := w.step()
					if err == nil {
						continue
					}
					if !dead(err) || !gone(pid) {
						t.Errorf("%s: %v", w.dir, err)
					}
					return
				}
			})
		}
		select {
		case <-exited:
			hits[k.call]++
		case <-time.After(5 * time.Second): // they are kept open for long: it had no need of so many
			syscall.Kill(pid, syscall.SIGKILL) // an error means that it has ended
			s.buried(pid)
		}
		s.daemon = nil
		wg.Wait()
		stop()
		s.mount()
		for _, w := range workers {
			w.check(t)
		}
		if t.Failed() {
			t.Fatalf("killed at %v", k)
		}
	}
	t.Logf("%d daemons, of which these died at a step: %v", len(all), hits)
	if hits["connect"] == 0 {
		t.Error("none died while it connected")
	}

	s.settle()
	truth := map[string]string{}
	for _, w := range workers {
		for name, b := range files(t, w.dir) {
			truth[strings.TrimPrefix(filepath.Join(w.dir, name), s.mnt)] = sumOf(b)
		}
	}
	s.umount("--now", "--force")
	must(t, os.RemoveAll(s.cache))
	s.mount() // begins with a look for what has to go
	copies := map[string][]string{}
	for _, r := range s.rows("replicas", "/") {
		p := r["path"].(string)
		copies[p] = append(copies[p], r["rse"].(string))
	}
	for p := range truth {
		if got := slices.Sorted(slices.Values(copies[p])); !slices.Equal(got, []string{"ONE", "TWO"}) {
			t.Errorf("%s has replicas at %q", p, got)
		}
	}
	for _, srv := range []*servertest.Server{xrootd, gridftp} {
		var wrong []string
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
			if wrong = strangers(t, srv, truth); len(wrong) == 0 || time.Now().After(end) {
				break
			}
		}
		if len(wrong) > 0 {
			t.Errorf("each file is to be there once, and no other: %q", wrong)
			for _, w := range wrong {
				if st, err := os.Stat(w); err == nil { // else a file of the lake that has no copy
					t.Logf("%s: written %v", w, st.ModTime())
				}
				base := strings.Split(filepath.Base(w), ".")[0]
				for i, l := range s.logs {
					for line := range strings.Lines(l.String()) {
						if strings.Contains(line, base) {
							t.Logf("daemon %d: %s", i, line)
						}
					}
				}
				for _, wk := range workers {
					t.Logf("%s %q", wk.dir, wk.did[base])
				}
			}
		}
	}
	for p, want := range truth {
		if got := sum(t, s.mnt+p); got != want {
			t.Errorf("%s through an empty cache: %s, want %s", p, got, want)
		}
	}
	s.ok("verify", "/ctao")
}

// strangers are the files of a server that are none of these contents, or one that is there already, and the contents
// that it does not have. What an upload was cut off at does not count: it goes after a day.
func strangers(t *testing.T, srv *servertest.Server, contents map[string]string) (wrong []string) {
	left := map[string]int{}
	for _, sum := range contents {
		left[sum]++
	}
	for _, f := range stored(t, srv) {
		b, err := os.ReadFile(f)
		if err != nil || strings.Contains(f, "/.tarn-uploads/") {
			continue
		}
		if left[sumOf(b)]--; left[sumOf(b)] < 0 {
			wrong = append(wrong, f)
		}
	}
	for p, sum := range contents {
		if left[sum] > 0 {
			wrong = append(wrong, p)
		}
	}
	return wrong
}
