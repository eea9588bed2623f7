package fs

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestStopPending(t *testing.T) {
	for _, c := range []struct {
		status string
		want   bool
	}{
		{"Name:\tcat\nState:\tD (disk sleep)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n", false},
		{"SigPnd:\t0000000000000100\n", true},  // KILL
		{"ShdPnd:\t0000000000000002\n", true},  // INT
		{"ShdPnd:\t0000000000004000\n", true},  // TERM
		{"SigPnd:\t0000000000400000\n", false}, // URG, which Go's runtime sends itself
		{"ShdPnd:\t0000000000012000\n", false}, // ALRM and CHLD
		{"State:\tZ (zombie)\n", true},
		{"SigCgt:\tffffffffffffffff\n", false},
		{"", false},
		{"SigPnd:\n:\nSigPnd", false},
	} {
		if got := stopPending(c.status); got != c.want {
			t.Errorf("%q: %v, want %v", c.status, got, c.want)
		}
	}
}

// TestInterrupt: an interrupt by a harmless signal ends no request; the death of the caller does,
// also when it comes later.
func TestInterrupt(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	interrupt := make(chan struct{})
	r, stop := waiting(interrupt, uint32(cmd.Process.Pid))
	defer stop()
	if err := r.Err(); err != nil {
		t.Errorf("not interrupted: %v", err)
	}
	close(interrupt)
	child, cancel := context.WithCancel(r)
	defer cancel()
	select {
	case <-child.Done():
		t.Error("ended by a harmless signal")
	case <-time.After(250 * time.Millisecond):
	}
	if err := r.Err(); err != nil {
		t.Errorf("after a harmless signal: %v", err)
	}
	if err := cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-child.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("goes on after the death of its caller")
	}
	if err := r.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("after the death: %v", err)
	}
	quick, stop := waiting(interrupt, 0)
	defer stop()
	if err := quick.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that is not seen: %v", err)
	}
	<-quick.Done()
}
