package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tarn/backends/ingest"
)

// still is how long an ingest may stand still in these tests before it is called stuck.
const still = 90 * time.Second

// What the long haul asks of a file at PIC and CNAF, on disk and tape; the second centre is served by the first.
var longRules = []string{"copies=1 rse=PIC-DISK", "copies=1 rse=PIC-TAPE", "copies=1 rse=CNAF-DISK from=PIC-DISK"}

var longRSEs = []string{"PIC-DISK", "PIC-TAPE", "CNAF-DISK"}

// TestLongHaul is the short form of make uc1: two ingests at once, over GridFTP to disk, tape and a second centre, and over
// XRootD to both centres, while files are still being written. In the middle of it PIC and CNAF change to another authority: nothing moves,
// until it is trusted here too, and then all goes on by itself.
func TestLongHaul(t *testing.T) {
	needXrdCl(t)
	h := newHaul(t, haulOptions{xrootd: true})
	h.mount()
	pid := h.served()
	long := newManifest(h.watch("lapalma", "/ctao/dl0", longRules...), "/ctao/dl0")
	other := newManifest(h.watch("mirror", "/ctao/dl1", "copies=1 rse=PIC-XRD", "copies=1 rse=CNAF-XRD from=PIC-XRD"), "/ctao/dl1")
	must(t, long.fill(0, 20, 200_000))
	must(t, other.fill(0, 15, 300_000))
	if err := h.gone("lapalma", 20, still); err != nil {
		t.Fatal(err)
	}
	next := h.changeHosts()
	must(t, long.fill(20, 40, 200_000))
	if st, err := h.progress("lapalma", 15*time.Second, told); err != nil {
		t.Errorf("no failure is told of: %v; %+v", err, st)
	}
	if st := h.ingest("lapalma"); st.Safe.Files != 20 || st.Deleted.Files != 20 {
		t.Errorf("of hosts whose authority is not trusted: %s", word(st))
	}
	h.trust(next)
	if err := h.gone("lapalma", 40, still); err != nil {
		t.Fatal(err)
	}
	if err := h.gone("mirror", 15, still); err != nil {
		t.Fatal(err)
	}
	if now := h.served(); now != pid {
		t.Errorf("the daemon was %d and is %d", pid, now)
	}
	if err := h.proof("lapalma", long, longRSEs...); err != nil {
		t.Error(err)
	}
	if err := h.proof("mirror", other, "PIC-XRD", "CNAF-XRD"); err != nil {
		t.Error(err)
	}
	h.umount()
}

// told tells whether an ingest says why nothing moves.
func told(st ingest.Status) bool {
	return st.Error != "" || st.Oldest != nil && st.Oldest.Reason != ""
}

// TestLongHaulKills kills the daemon at random moments of an ingest. After each kill every file that has gone from the
// source is at both centres and on tape; in the end all are, once.
func TestLongHaulKills(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	h := newHaul(t, haulOptions{})
	h.mount()
	m := newManifest(h.watch("lapalma", "/ctao/dl0", longRules...), "/ctao/dl0")
	n := 0
	add := func(more int) {
		for range more {
			must(t, m.add(n, 1+rnd.Int64N(400_000), true))
			n++
		}
	}
	midway := 0
	for range rounds(5) {
		add(6 + rnd.IntN(10))
		time.Sleep(time.Duration(rnd.Int64N(int64(1500 * time.Millisecond))))
		h.kill()
		left, err := regular(m.dir)
		must(t, err)
		if len(left) > 0 {
			midway++
		}
		if err := h.deletedOnlySafe(m, left); err != nil {
			t.Fatalf("after a kill: %v", err)
		}
		h.mount()
	}
	if err := h.gone("lapalma", n, still); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files, %d of the kills came while some were at the source", n, midway)
	h.settled()
	if err := h.proof("lapalma", m, longRSEs...); err != nil {
		t.Error(err)
	}
	h.umount()
}

// deletedOnlySafe wants every file that is not at the source any more to be at all servers and on tape; left is what is at
// the source, under whatever name.
func (h *haul) deletedOnlySafe(m *manifest, left []string) error {
	there := map[string]bool{}
	for _, p := range left {
		sum, err := sha256Of(filepath.Join(m.dir, p))
		if err != nil {
			return err
		}
		there[sum] = true
	}
	gone := &manifest{dir: m.dir, target: m.target, files: map[string]made{}}
	for name, e := range m.files {
		if !there[e.sum] {
			gone.files[name] = e
		}
	}
	var f faults
	for _, rse := range []string{"PIC-DISK", "CNAF-DISK"} {
		files, err := regular(h.servers[rse].Dir)
		if err != nil {
			return err
		}
		has := map[string]bool{}
		for _, p := range files {
			sum, err := sha256Of(filepath.Join(h.servers[rse].Dir, p))
			if os.IsNotExist(err) {
				continue // a temporary that was moved
			} else if err != nil {
				return err
			}
			has[sum] = true
		}
		for name, e := range gone.files {
			if !has[e.sum] {
				f.add("deleted, and not at "+rse, "%s", name)
			}
		}
	}
	var tape faults
	if err := h.proveTape(&tape, "PIC-TAPE", gone); err != nil && len(gone.files) > 0 {
		return err
	}
	for _, what := range tape.kinds["not on PIC-TAPE"] {
		f.add("deleted, and not on PIC-TAPE", "%s", what)
	}
	return f.err()
}

// settled waits until servers have no unfinished uploads of killed daemons. These go after a day; here they are removed
// after they were looked at: none is a whole file that the lake does not know.
func (h *haul) settled() {
	h.t.Helper()
	for rse, srv := range h.servers {
		left, err := filepath.Glob(filepath.Join(srv.Dir, "*/.tarn-uploads/*"))
		must(h.t, err)
		more, err := filepath.Glob(filepath.Join(srv.Dir, ".tarn-uploads/*"))
		must(h.t, err)
		for _, p := range append(left, more...) {
			h.t.Logf("%s: a kill left %s", rse, filepath.Base(p))
			must(h.t, os.RemoveAll(p))
		}
	}
}

// TestLongHaulFaults are what goes wrong at one of its ends.
func TestLongHaulFaults(t *testing.T) {
	t.Run("a destination is down for a while", func(t *testing.T) {
		h := newHaul(t, haulOptions{})
		h.mount()
		m := newManifest(h.watch("lapalma", "/ctao/dl0", "copies=1 rse=PIC-DISK", "copies=1 rse=CNAF-DISK from=PIC-DISK"), "/ctao/dl0")
		h.servers["CNAF-DISK"].Kill()
		must(t, m.fill(0, 10, 100_000))
		if _, err := h.progress("lapalma", still, func(st ingest.Status) bool { return st.Registered.Files == 10 }); err != nil {
			t.Fatal(err)
		}
		h.servers["PIC-DISK"].Kill()
		must(t, m.fill(10, 15, 100_000))
		if _, err := h.progress("lapalma", still, func(st ingest.Status) bool { return st.Found.Files == 15 && told(st) }); err != nil {
			t.Fatal(err)
		}
		if left, err := regular(m.dir); err != nil || len(left) != 15 {
			t.Errorf("%d of 15 files are left at the source while CNAF has none, %v", len(left), err)
		}
		for _, srv := range h.servers {
			srv.Start()
		}
		if err := h.gone("lapalma", 15, still); err != nil {
			t.Fatal(err)
		}
		if err := h.proof("lapalma", m, "PIC-DISK", "CNAF-DISK"); err != nil {
			t.Error(err)
		}
		h.umount()
	})
	t.Run("a destination is full", func(t *testing.T) {
		disk := tmpfs(t, "6m")
		must(t, os.Chmod(filepath.Dir(disk), 0o755)) // the server is not root's
		h := newHaul(t, haulOptions{dirs: map[string]string{"PIC-DISK": disk}})
		h.mount()
		m := newManifest(h.watch("lapalma", "/ctao/dl0", "copies=1 rse=PIC-DISK"), "/ctao/dl0")
		must(t, m.fill(0, 10, 1<<20))
		if _, err := h.progress("lapalma", still, func(st ingest.Status) bool {
			return st.Deleted.Files >= 3 && told(st)
		}); err != nil {
			t.Fatal(err)
		}
		left, err := regular(m.dir)
		must(t, err)
		if len(left) < 4 {
			t.Errorf("a disk of 6 MiB has taken all but %d of 10 files of 1 MiB", len(left))
		}
		must(t, remountSize(disk, "64m"))
		if err := h.gone("lapalma", 10, still); err != nil {
			t.Fatal(err)
		}
		if err := h.proof("lapalma", m, "PIC-DISK"); err != nil {
			t.Error(err)
		}
		h.umount()
	})
	t.Run("a file changes after it was sealed", func(t *testing.T) {
		h := newHaul(t, haulOptions{})
		h.mount()
		m := newManifest(h.watch("lapalma", "/ctao/dl0", "copies=1 rse=PIC-DISK", "copies=1 rse=CNAF-DISK from=PIC-DISK"), "/ctao/dl0")
		h.servers["CNAF-DISK"].Kill()
		must(t, m.fill(0, 3, 100_000))
		if _, err := h.progress("lapalma", still, func(st ingest.Status) bool { return st.Registered.Files == 3 }); err != nil {
			t.Fatal(err)
		}
		// The content that PIC has is not that of the source any more, which nobody else has.
		name := fileName(1)
		late := content(99, 120_000)
		must(t, os.WriteFile(filepath.Join(m.dir, name), late, 0o644))
		h.servers["CNAF-DISK"].Start()
		if _, err := h.progress("lapalma", still, func(st ingest.Status) bool { return st.Changed+st.Kept > 0 && st.Deleted.Files >= 2 }); err != nil {
			t.Fatal(err)
		}
		m.files[name] = made{index: -1, size: int64(len(late)), sum: sumOf(late)}
		h.within(still, "the new content is in the lake and has gone, or has stayed", func() bool {
			out := h.try("cat", m.lakePath(name))
			left, err := regular(m.dir)
			return err == nil && (out.code == 0 && sumOf([]byte(out.out)) == sumOf(late) && len(left) == 0 || len(left) == 1 && h.ingest("lapalma").Kept == 1)
		})
		left, err := regular(m.dir)
		must(t, err)
		for _, p := range left {
			if got := sum(t, filepath.Join(m.dir, p)); got != sumOf(late) {
				t.Errorf("%s has other bytes", p)
			}
		}
		h.umount()
	})
	t.Run("two ingests of one folder", func(t *testing.T) {
		h := newHaul(t, haulOptions{})
		h.mount()
		dir := h.watch("lapalma", "/ctao/dl0", "copies=1 rse=PIC-DISK")
		sub := filepath.Join(dir, "sub")
		must(t, os.Mkdir(sub, 0o755))
		for _, d := range []string{dir, sub, filepath.Dir(dir)} {
			if r := h.try("ingest", "add", "second", "--watch", d, "--to", "/ctao/dl1", "--rule", "copies=1 rse=PIC-DISK"); r.code == 0 {
				t.Errorf("a second ingest of %s was taken: %s", d, r.out)
			}
		}
		h.umount()
	})
}

// TestLongHaulManyAtStart: a folder that is full when the ingest begins costs little memory. TARN_UC1_MANY says how many files there are.
func TestLongHaulManyAtStart(t *testing.T) {
	n := 100_000
	if raceEnabled {
		n = 25_000
	}
	n = number("TARN_UC1_MANY", n)
	h := newHaul(t, haulOptions{})
	h.mount()
	before := h.rss()
	dir := filepath.Join(t.TempDir(), "full")
	for i := range n {
		d := filepath.Join(dir, fmt.Sprintf("d%03d", i/1000))
		if i%1000 == 0 {
			must(t, os.MkdirAll(d, 0o755))
		}
		f, err := os.Create(filepath.Join(d, fmt.Sprintf("f%06d", i)))
		must(t, err)
		must(t, f.Close())
	}
	// Nothing can go: what is measured is what it costs to know of them.
	began := time.Now()
	h.servers["PIC-DISK"].Kill()
	h.watchDir("many", dir, "/ctao/dl0", "copies=1 rse=PIC-DISK")
	if _, err := h.progress("many", still, func(st ingest.Status) bool { return st.Found.Files >= int64(n) }); err != nil {
		t.Fatal(err)
	}
	grown := h.rss() - before
	t.Logf("%d files at the start, noticed within %v: %d MiB more", n, time.Since(began).Round(time.Millisecond), grown>>20)
	limit := int64(256 << 20)
	if raceEnabled {
		limit *= 4
	}
	if grown > limit {
		t.Errorf("%d files at the start cost %d MiB, want %d at most", n, grown>>20, limit>>20)
	}
	h.umount("--now", "--force")
}

// rss is what the daemon has in memory.
func (s *site) rss() int64 {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.served()))
	must(s.t, err)
	var size, pages int64
	_, err = fmt.Sscan(string(b), &size, &pages)
	must(s.t, err)
	return pages * int64(os.Getpagesize())
}
