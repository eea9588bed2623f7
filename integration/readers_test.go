package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// waiters is what tarn recalls ls tells of the only recall, 0 when there is none.
func (s *site) waiters() int {
	s.t.Helper()
	for _, r := range s.rows("recalls", "ls") {
		if x, ok := r["recall"].(map[string]any); ok {
			return int(x["waiters"].(float64))
		}
	}
	return 0
}

// reader starts a process that reads a file of the mount; its stdout is what sha256sum says.
func (s *site) reader(name string) (*exec.Cmd, *strings.Builder) {
	s.t.Helper()
	var out strings.Builder
	cmd := exec.Command("sha256sum", name)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.mnt, &out, &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return cmd, &out
}

// killed kills a process and wants it gone within a second.
func killed(t *testing.T, cmd *exec.Cmd) time.Duration {
	t.Helper()
	began := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // killed, as it should be
	d := time.Since(began)
	if d > time.Second {
		t.Errorf("a killed reader lived %v longer", d)
	}
	return d
}

// farTape is a library with one drive, and a lake on it whose files run.fits and other.fits
// are on two cartridges, of which that of other.fits is mounted: run.fits takes seconds.
func farTape(t *testing.T, run []byte, speed string) *site {
	t.Helper()
	s := newSite(t, keepEnds+tapeWith("drives: 1, cartridges: 2, cartridge_size: 1G, buffer: 1G, spread: true, speed: "+speed))
	s.mount()
	src := folder(t, map[string]int{"other.fits": 100000})
	if err := os.WriteFile(filepath.Join(src, "run.fits"), run, 0o644); err != nil {
		t.Fatal(err)
	}
	s.onTape(src, "/ctao/dl3/crab")
	s.sh("cat ctao/dl3/crab/other.fits >/dev/null")
	return s
}

// TestManyReaders: 200 processes that read one tape file share one recall; one that is
// killed ends at once and harms nobody (R2, R3).
func TestManyReaders(t *testing.T) {
	t.Parallel()
	data := fits(1, 3<<20)
	s := farTape(t, data, "8x")
	before, recalls, recalled := s.tape(), s.lakeStat("recalls"), s.recalled()

	victim, _ := s.reader("ctao/dl3/crab/run.fits")
	n := 200
	var cmds []*exec.Cmd
	var outs []*strings.Builder
	for range n {
		cmd, out := s.reader("ctao/dl3/crab/run.fits")
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	s.within(5*time.Second, "recalling", func() bool { return s.lakeStat("pending") == 1 })
	if got := s.recalled(); got != recalled {
		t.Fatalf("the recall was done before all %d readers waited; the tape must be slower", n)
	}
	d := killed(t, victim)
	if s.lakeStat("pending") != 1 {
		t.Error("the recall ended with the killed reader")
	}
	h := sha256.Sum256(data)
	sum := hex.EncodeToString(h[:])
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil || !strings.HasPrefix(outs[i].String(), sum+" ") {
			t.Errorf("reader %d: %v: %s", i, err, outs[i])
		}
	}
	w := s.tape().minus(before)
	recalls, recalled = s.lakeStat("recalls")-recalls, s.recalled()-recalled
	t.Logf("%d readers: %d recall, %v; the killed one ended after %v", n, recalls, w, d.Round(time.Millisecond))
	if recalls != 1 || recalled != 1 || w.Requests != 1 || w.Staged != 1 {
		t.Errorf("%d files recalled by %d recalls; the library: %v; want one of each", recalled, recalls, w)
	}
}

// TestKilledReaders: when all that wait are killed the recall is cancelled (R3), and the next
// reader gets the file.
func TestKilledReaders(t *testing.T) {
	t.Parallel()
	data := fits(1, 300000)
	s := farTape(t, data, "15x")
	before, recalled := s.tape(), s.recalled()
	first, _ := s.reader("ctao/dl3/crab/run.fits")
	second, _ := s.reader("ctao/dl3/crab/run.fits")
	s.within(5*time.Second, "asked for at the library", func() bool { return s.tape().minus(before).Requests == 1 })
	if n := s.waiters(); n < 1 {
		t.Errorf("tarn recalls ls shows %d waiters", n)
	}
	killed(t, first)
	time.Sleep(200 * time.Millisecond)
	if s.lakeStat("pending") != 1 {
		t.Error("the recall ended although one reader waits")
	}
	killed(t, second)
	s.within(3*time.Second, "cancelled", func() bool { return s.lakeStat("pending") == 0 && s.lakeStat("cancelled") == 1 })
	if n := s.recalled() - recalled; n != 0 {
		t.Errorf("%d files recalled for nobody", n)
	}
	if got, err := os.ReadFile(s.path("ctao/dl3/crab/run.fits")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file after a cancelled recall: %d bytes, %v", len(got), err)
	}
	if n := s.recalled() - recalled; n != 1 {
		t.Errorf("%d files recalled by the next reader", n)
	}
}
