package main

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

func init() {
	if os.Getenv("TARN_TEST_IS_UNDEAD") == "" {
		return
	}
	runtime.LockOSThread() // in an init that is the first thread
	syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
}

// A process is undead whose first thread has ended and another has not; one that lives is
// not, nor is one that has ended.
func TestUndead(t *testing.T) {
	if undead(os.Getpid()) {
		t.Error("this process is undead")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "TARN_TEST_IS_UNDEAD=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !undead(cmd.Process.Pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Error("it is not seen")
			break
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
	if undead(cmd.Process.Pid) {
		t.Error("one that has ended is undead")
	}
	ended := exec.Command("true")
	if err := ended.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // a zombie until Wait
	if undead(ended.Process.Pid) {
		t.Error("a zombie that only waits for its parent is undead")
	}
	if err := ended.Wait(); err != nil {
		t.Fatal(err)
	}
}
