package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestRestart kills a daemon that has many cached files and many unsent ones and wants the
// next one usable within 5 s. TARN_RESTART_CACHED and TARN_RESTART_PENDING say how many;
// `make restart` runs it with 100,000 and 10,000.
func TestRestart(t *testing.T) {
	cached, pending := number("TARN_RESTART_CACHED", 2000), number("TARN_RESTART_PENDING", 300)
	const lake = "cache: {limit: 16G}\nrecalls: {policy: {burst: {files: 0}}}\n"
	s := newSite(t, lake+"journal: {delay: 12h}\n")
	at := func(i int) string { return fmt.Sprintf("many/d%03d/f%06d", i/1000, i) }
	old := func(i int) []byte { return content(uint64(i), 100+i%4000) }
	unsent := func(i int) []byte {
		if i%20 == 0 {
			return content(uint64(i)+1<<24, 100_000)
		}
		return content(uint64(i)+1<<24, 100+i%4000)
	}

	began := time.Now()
	lap := func(what string) {
		t.Logf("%-38s %v", what, time.Since(began).Round(10*time.Millisecond))
		began = time.Now()
	}
	disk := filepath.Join(s.dir, "rse/PIC-DISK")
	for i := range cached {
		if i%1000 == 0 {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(disk, at(i))), 0o755))
		}
		must(t, os.WriteFile(filepath.Join(disk, at(i)), old(i), 0o644))
	}
	s.ok("import", "-q", filepath.Join(disk, "many"), "/ctao/many", "--rse", "PIC-DISK", "--register-only")
	s.mount()
	lap(fmt.Sprintf("%d files imported", cached))
	together(cached, func(i int) {
		if b, err := os.ReadFile(s.path("ctao", at(i))); err != nil || !bytes.Equal(b, old(i)) {
			t.Errorf("%s: %d bytes: %v", at(i), len(b), err)
		}
	})
	lap("read")
	must(t, os.Mkdir(s.path("ctao/new"), 0o755))
	together(pending, func(i int) {
		if err := os.WriteFile(s.path("ctao/new", fmt.Sprint(i)), unsent(i), 0o644); err != nil {
			t.Error(err)
		}
	})
	lap(fmt.Sprintf("%d files written", pending))
	var was struct {
		Unsent int
		Cache  struct{ Files int }
	}
	s.json(".tarn/stats", &was)
	if was.Cache.Files < cached || was.Unsent != pending {
		t.Fatalf("%d files are cached and %d unsent, want %d and %d", was.Cache.Files, was.Unsent, cached, pending)
	}
	must(t, os.Rename(filepath.Join(disk, "many"), filepath.Join(s.dir, "away"))) // what is read from here on can come from the cache only
	put(t, filepath.Join(s.dir, "lake.local.yaml"), lake+"journal: {delay: 50ms}\n")
	s.kill()

	began = time.Now()
	s.mount()
	mounted := time.Since(began)
	read := func(name string, want []byte) time.Duration {
		t.Helper()
		st, err := os.Stat(name)
		must(t, err)
		b, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(b, want) || st.Size() != int64(len(want)) {
			t.Errorf("%s: size %d, %d bytes read, want %d: %v", name, st.Size(), len(b), len(want), err)
		}
		return time.Since(began)
	}
	i, k := rand.IntN(cached), rand.IntN(pending)
	afterCached := read(s.path("ctao", at(i)), old(i))
	afterUnsent := read(s.path("ctao/new", fmt.Sprint(k)), unsent(k))
	var sent float64
	s.within(time.Minute, "an upload begun", func() bool {
		sent, _ = s.stats()["sent_bytes"].(float64)
		return sent > 0
	})
	usable, work := time.Since(began), cpuTime(t, s.daemon.Process.Pid)
	t.Logf("with %d cached and %d unsent files a restart takes %.2f s: mounted %.2f s, cached file read %.2f s, unsent file read %.2f s, an upload begun %.2f s; the daemon computed for %.2f s",
		cached, pending, usable.Seconds(), mounted.Seconds(), afterCached.Seconds(), afterUnsent.Seconds(), usable.Seconds(), work.Seconds())
	if usable > 5*time.Second && !raceEnabled {
		t.Errorf("usable after %v, want 5 s", usable)
	}
	for range 100 {
		i, k := rand.IntN(cached), rand.IntN(pending)
		read(s.path("ctao", at(i)), old(i))
		read(s.path("ctao/new", fmt.Sprint(k)), unsent(k))
	}
	if seen := len(files(t, s.path("ctao/new"))); seen != pending {
		t.Errorf("%d of %d unsent files are there", seen, pending)
	}
	began = began.Add(usable)
	lap("looked at more")
	s.kill() // the uploads of so many files are another test's
}

// together calls f for 0 to n-1, eight at a time.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// cpuTime is what a process has had of the processors, which a busy machine does not change much.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, err := strconv.Atoi(f[11])
	must(t, err)
	system, err := strconv.Atoi(f[12])
	must(t, err)
	return time.Duration(user+system) * 10 * time.Millisecond // a hundred ticks a second, on Linux for users
}
