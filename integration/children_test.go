package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestChildrenEndWithTests: a test that is killed leaves no process and no mount. It runs
// itself once more, kills that, and looks at what it had started.
func TestChildrenEndWithTests(t *testing.T) {
	if os.Getenv("TARN_TEST_CHILDREN") != "" {
		s := newSite(t, "")
		s.mount()
		s.evictAllTheTime("/ctao")
		fmt.Println("mounted", s.mnt)
		time.Sleep(time.Minute)
		t.Fatal("nobody killed this")
	}
	dir := t.TempDir()
	cmd := owned(exec.Command("/proc/self/exe", "-test.run=^TestChildrenEndWithTests$"), syscall.SIGKILL)
	cmd.Env = append(os.Environ(), "TARN_TEST_CHILDREN=1", "TARN_BIN="+tarn, "TMPDIR="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var mnt string
	for lines := bufio.NewScanner(out); mnt == "" && lines.Scan(); {
		if mnt, _ = strings.CutPrefix(lines.Text(), "mounted "); mnt == lines.Text() {
			t.Log(mnt) // what it has to say instead
			mnt = ""
		}
	}
	started := inFolder(t, dir)
	cmd.Process.Kill() // an error means that it has ended
	cmd.Wait()         // killed, as it should be
	t.Cleanup(func() {
		for _, pid := range inFolder(t, dir) {
			syscall.Kill(pid, syscall.SIGKILL) // an error means that it has ended
		}
		exec.Command("fusermount3", "-u", "-z", mnt).Run() // an error means that it is gone
	})
	if mnt == "" || len(started) < 3 {
		t.Fatalf("it mounted %q, and these lived: %v", mnt, started)
	}
	(&site{t: t}).within(20*time.Second, "gone", func() bool {
		mounts, err := os.ReadFile("/proc/self/mounts")
		return err == nil && !strings.Contains(string(mounts), mnt) && len(inFolder(t, dir)) == 0
	})
}

// inFolder are the processes that live and have dir as their folder for temporary files.
func inFolder(t *testing.T, dir string) (out []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	must(t, err)
	for _, environ := range all {
		b, _ := os.ReadFile(environ) // one that has ended has none
		if !slices.Contains(strings.Split(string(b), "\x00"), "TMPDIR="+dir) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(environ)))
		must(t, err)
		out = append(out, pid)
	}
	return out
}
