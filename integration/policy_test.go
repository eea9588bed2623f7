package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// alone runs a script in the mount without a terminal, whatever the test's own has.
func (s *site) alone(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = s.mnt
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// named copies a program to a folder under the name of another, so that the kernel shows it so.
func named(t *testing.T, program, name string) string {
	t.Helper()
	from, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestRecallPolicy: what reads files without meaning them recalls nothing, is told why, and
// can be let through (R9).
func TestRecallPolicy(t *testing.T) {
	t.Parallel()
	needTools(t, "file", "getfattr", "setsid")
	s := newSite(t, keepEnds)
	s.mount()
	files := map[string]int{}
	for i := range 8 {
		files[fmt.Sprintf("run%d.fits", i)] = 60000
	}
	src := folder(t, files)
	s.onTape(src, "/ctao/dl3/set")

	out, err := s.alone("file ctao/dl3/set/*")
	if err != nil || strings.Count(out, "FITS image data") != len(files) {
		t.Errorf("file: %v\n%s", err, out)
	}
	out, err = s.alone("grep -r needle ctao/dl3/set")
	if err == nil || strings.Count(out, "Device or resource busy") != len(files) {
		t.Errorf("grep -r: %v\n%s", err, out)
	}
	indexer := named(t, "cat", "updatedb")
	out, err = s.alone(indexer + " ctao/dl3/set/run3.fits >/dev/null")
	if err == nil || !strings.Contains(out, "Device or resource busy") {
		t.Errorf("an indexer: %v\n%s", err, out)
	}
	if n := s.lakeStat("recalls"); n != 0 {
		t.Errorf("%d recalls by those", n)
	}
	var held []string
	for _, r := range s.rows("recalls", "ls") {
		if h, ok := r["held"].(map[string]any); ok {
			held = append(held, fmt.Sprint(h["comm"], " ", h["count"], " ", h["why"]))
		}
	}
	if all := strings.Join(held, "\n"); len(held) != 2 || !strings.Contains(all, `grep 8 "grep" (pid `) || !strings.Contains(all, "updatedb 1 ") || !strings.Contains(all, "tarn recalls allow ") {
		t.Errorf("tarn recalls ls: %q", held)
	}
	if text := s.ok("recalls", "ls"); !strings.Contains(text, "refused") || !strings.Contains(text, "updatedb") {
		t.Errorf("tarn recalls ls: %q", text)
	}
	if text := s.sh("cat .tarn/recalls"); !strings.Contains(text, "comm=grep") {
		t.Errorf(".tarn/recalls: %q", text)
	}
	if why := s.sh("getfattr --only-values -n user.tarn.error ctao/dl3/set/run3.fits"); !strings.Contains(why, `refuses "updatedb"`) {
		t.Errorf("user.tarn.error: %q", why)
	}
	if n := s.stats()["refused"]; n != float64(9) {
		t.Errorf("%v opens refused, want 9", n)
	}

	// Let through, it recalls what it asks for.
	bash := named(t, "bash", "updatedb")
	cmd := exec.Command(bash, "-c", `echo $$; { until { sha256sum <&3; } 3<ctao/dl3/set/run5.fits; do sleep 0.1; done; } 2>/dev/null`)
	cmd.Dir = s.mnt
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	buf := make([]byte, 200)
	k, err := pipe.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(buf[:k]))
	refused := func() bool {
		for _, r := range s.rows("recalls", "ls") {
			if h, ok := r["held"].(map[string]any); ok && fmt.Sprint(h["pid"]) == pid {
				return true
			}
		}
		return false
	}
	if _, err := strconv.Atoi(pid); err != nil {
		t.Fatal(err)
	}
	s.within(5*time.Second, "refused", refused)
	s.ok("recalls", "allow", pid)
	if refused() {
		t.Error("still listed after it was let through")
	}
	if k, err = pipe.Read(buf); err != nil || !strings.HasPrefix(string(buf[:k]), sum(t, filepath.Join(src, "run5.fits"))) {
		t.Errorf("what it read: %q, %v", buf[:k], err)
	}
	if n := s.recalled(); n != 1 {
		t.Errorf("%d recalls, want 1", n)
	}
}

// TestBurst: a process that touches many tape files and reads next to nothing of each is
// held back; another one is not (R9).
func TestBurst(t *testing.T) {
	t.Parallel()
	s := newSite(t, keepEnds+"recalls: {hold: 10ms, readahead: {files: 0}, policy: {burst: {files: 3, window: 1m, below: 1M}}}\n")
	s.mount()
	files := map[string]int{}
	for i := range 12 {
		files[fmt.Sprintf("run%d.fits", i)] = 600000 // more than the kernel reads ahead
	}
	s.onTape(folder(t, files), "/ctao/dl3/set")
	out, err := s.alone("head -q -c 20000 ctao/dl3/set/* | wc -c")
	n := s.recalled()
	if n < 3 || n > 6 { // the kernel tells of a close a little later
		t.Errorf("%d recalled, want 3 or a few more", n)
	}
	if err != nil || strings.Count(out, "Device or resource busy") != len(files)-n || !strings.HasSuffix(out, fmt.Sprintln(20000*n)) {
		t.Errorf("a burst of small reads, %d recalled: %v\n%s", n, err, out)
	}
	if out, err := s.alone("cat ctao/dl3/set/run8.fits ctao/dl3/set/run9.fits | wc -c"); err != nil || out != "1200000\n" {
		t.Errorf("another process: %v %s", err, out)
	}
}

// TestNonBlock: with O_NONBLOCK only what is here is served (R8).
func TestNonBlock(t *testing.T) {
	t.Parallel()
	s := newSite(t, keepEnds)
	s.mount()
	src := folder(t, map[string]int{"run.fits": 60000})
	s.onTape(src, "/ctao/dl3/set")
	want, err := os.ReadFile(filepath.Join(src, "run.fits"))
	if err != nil {
		t.Fatal(err)
	}
	p := s.path("ctao/dl3/set/run.fits")
	open := func() (int, error) { return unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) }
	fd, err := open()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 60000)
	if n, err := unix.Pread(fd, buf, 0); err != nil || n < 16<<10 || n == 60000 || string(buf[:n]) != string(want[:n]) {
		t.Errorf("read of the start: %d, %v", n, err)
	}
	if n, err := unix.Pread(fd, buf[:1000], 59000); err != nil || n != 1000 || string(buf[:n]) != string(want[59000:]) {
		t.Errorf("read of the end: %d, %v", n, err)
	}
	if n, err := unix.Pread(fd, buf, 30000); !errors.Is(err, unix.EBUSY) {
		t.Errorf("read of what is on tape: %d, %v, want EBUSY", n, err)
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	if why := s.sh("getfattr --only-values -n user.tarn.error ctao/dl3/set/run.fits"); !strings.Contains(why, "O_NONBLOCK") {
		t.Errorf("user.tarn.error: %q", why)
	}
	if n := s.lakeStat("recalls"); n != 0 {
		t.Errorf("%d recalls", n)
	}
	s.sh("cat ctao/dl3/set/run.fits >/dev/null")
	if fd, err = open(); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Pread(fd, buf, 0); err != nil || n != 60000 || string(buf) != string(want) {
		t.Errorf("read after the recall: %d, %v", n, err)
	}
	unix.Close(fd)
	s.umount()

	if err := os.WriteFile(filepath.Join(s.dir, "lake.local.yaml"), []byte(keepEnds+"recalls: {policy: {nonblock: eagain}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.mount()
	s.ok("evict", "/ctao/dl3/set")
	if fd, err = open(); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("open where EAGAIN is wanted: %d, %v", fd, err)
	}
	if n := s.lakeStat("recalls"); n != 0 {
		t.Errorf("%d recalls", n)
	}
}
