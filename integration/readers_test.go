package integration

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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

// readers is a process that reads a file n times at once, and compares with another file.
// It says when it has opened them all, and begins when its stdin ends.
func readers(name, like string, n int) error {
	want, err := os.ReadFile(like)
	if err != nil {
		return err
	}
	var all []*os.File
	for range n {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		all = append(all, f)
	}
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin) // its end is the signal, however it comes
	errs := make(chan error, n)
	for _, f := range all {
		go func() {
			b := make([]byte, 256<<10)
			for at := 0; ; {
				k, err := f.Read(b)
				if !bytes.HasPrefix(want[at:], b[:k]) {
					errs <- fmt.Errorf("wrong bytes between %d and %d", at, at+k)
					return
				}
				if at += k; err == io.EOF && at == len(want) {
					errs <- nil
					return
				}
				if err != nil {
					errs <- fmt.Errorf("at %d of %d: %w", at, len(want), err)
					return
				}
			}
		}()
	}
	var failed error
	for range n {
		failed = errors.Join(failed, <-errs)
	}
	return failed
}

func init() {
	roles["readers"] = func(args []string) error {
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return readers(args[0], args[1], n)
	}
}

// TestManyReaders: 1,000 readers in ten processes that read one tape file share one recall;
// one more that is killed ends at once and harms nobody (R2, R3). Meanwhile the file is
// renamed, and removed (N7, W9).
func TestManyReaders(t *testing.T) {
	t.Parallel()
	data := fits(1, 3<<20)
	s := farTape(t, data, "8x")
	like := filepath.Join(t.TempDir(), "like")
	must(t, os.WriteFile(like, data, 0o600))
	before, recalls, recalled := s.tape(), s.lakeStat("recalls"), s.recalled()

	name := s.path("ctao/dl3/crab/run.fits")
	const processes, each = 10, 100
	var cmds []*exec.Cmd
	var starts []io.Closer
	outs := make([]bytes.Buffer, processes)
	for i := range processes {
		cmd := helper("readers", name, like, strconv.Itoa(each))
		cmd.Stderr = &outs[i]
		in, err := cmd.StdinPipe()
		must(t, err)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill() }) // an error means that it has ended
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatalf("a reader cannot open: %q, %v: %s", line, err, outs[i].String())
		}
		cmds, starts = append(cmds, cmd), append(starts, in)
	}
	if s.lakeStat("recalls") != recalls {
		t.Error("opening recalled")
	}
	victim, _ := s.reader("ctao/dl3/crab/run.fits")
	for _, in := range starts {
		must(t, in.Close())
	}
	s.within(5*time.Second, "recalling", func() bool { return s.lakeStat("pending") == 1 })
	d := killed(t, victim)
	began := time.Now()
	must(t, os.Rename(name, s.path("ctao/dl3/crab/moved.fits")))
	must(t, os.Remove(s.path("ctao/dl3/crab/moved.fits")))
	_, err := os.Stat(name)
	wantErr(t, "stat of what was renamed and removed", err, syscall.ENOENT)
	changed := time.Since(began)
	if got := s.recalled(); got != recalled {
		t.Fatalf("the recall was done before all that; the tape must be slower")
	}
	if s.lakeStat("pending") != 1 {
		t.Error("the recall ended with the killed reader or the name")
	}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("readers %d: %v: %s", i, err, lastLines(outs[i].String(), 5))
		}
	}
	w := s.tape().minus(before)
	recalls, recalled = s.lakeStat("recalls")-recalls, s.recalled()-recalled
	t.Logf("%d readers: %d recall, %v; the killed one ended after %v, rename and remove took %v", processes*each, recalls, w, d.Round(time.Millisecond), changed.Round(time.Millisecond))
	// A recall that was not yet handed on when the name went is asked for by the new one.
	if recalls > 2 || recalled != 1 || w.Requests != 1 || w.Staged != 1 {
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
