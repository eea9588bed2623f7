package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"tarn/backends"
)

// The test binary runs itself as a child for what may end the process.
func TestMain(m *testing.M) {
	switch dir := os.Getenv("TARN_TEST_DIR"); os.Getenv("TARN_TEST_CHILD") {
	case "read":
		fmt.Println(readAll(dir))
	case "hold":
		c, err := Open(small(Options{Dir: dir}))
		fmt.Println("held", err)
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		if err == nil {
			c.Close()
		}
	case "write":
		crashWriter(dir)
	default:
		os.Exit(m.Run())
	}
}

func child(t *testing.T, what, dir string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^$")
	cmd.Env = append(append(os.Environ(), "TARN_TEST_CHILD="+what, "TARN_TEST_DIR="+dir), env...)
	return cmd
}

// readAll opens a lake, reads every record that names lead to, and tells what it found.
func readAll(dir string) string {
	c, err := Open(small(Options{Dir: dir}))
	if err != nil {
		for _, e := range []error{backends.ErrDamaged, backends.ErrVersion, backends.ErrBusy, backends.ErrUnavailable, backends.ErrReadOnly, backends.ErrPermission, backends.ErrNoSpace} {
			if errors.Is(err, e) {
				return fmt.Sprintf("refused: %v", err)
			}
		}
		return fmt.Sprintf("unclear: %v", err)
	}
	defer c.Close()
	ctx := context.Background()
	n := 0
	for in, err := range c.Find(ctx, backends.DID{}, nil) {
		if err != nil {
			return fmt.Sprintf("refused: %v", err)
		}
		if in.Type == backends.File {
			if rs, err := c.Replicas(ctx, in.DID); err != nil || len(rs) != 1 {
				return fmt.Sprintf("refused: %d replicas of %v: %v", len(rs), in.DID, err)
			}
			n++
		}
	}
	return fmt.Sprintf("read %d", n)
}

func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	timer := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	defer timer.Stop()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("child ends with %v: %.600s", err, out)
	}
	return strings.TrimSpace(string(out))
}
