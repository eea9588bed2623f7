package embedded

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn/backends"
)

func TestASecondProcessIsToldWhoHoldsTheLake(t *testing.T) {
	dir := t.TempDir()
	cmd := child(t, "hold", dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); cmd.Wait() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held <nil>\n" {
		t.Fatal(line, err)
	}
	_, err = Open(small(Options{Dir: dir}))
	if !errors.Is(err, backends.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprintf("process %d (", cmd.Process.Pid)) {
		t.Fatalf("open: %v", err)
	}
	// The dead hold nothing, whatever their file says.
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if _, err := os.Stat(filepath.Join(dir, "holder.json")); err != nil {
		t.Fatal("the killed process left no holder.json: the test shows nothing")
	}
	c := open(t, Options{Dir: dir})
	if _, err := Open(small(Options{Dir: dir})); !errors.Is(err, backends.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("open twice in one process: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "holder.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(small(Options{Dir: dir})); !errors.Is(err, backends.ErrBusy) {
		t.Errorf("open with a holder.json that does not parse: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, Options{Dir: dir})
}
