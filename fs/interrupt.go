package fs

import (
	"context"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// request is the context of a request that may wait long. It ends when the caller is to
// die, or a person asks it to stop. The kernel interrupts a request at any signal, though,
// and a program is not made for an open or a read that a timer, a child's end or its own
// runtime interrupts: no local disk does that. So the first interrupt only begins to watch
// which signals wait for the caller.
type request struct {
	context.Context
	interrupt <-chan struct{}
	pid       uint32

	once    sync.Once
	ending  sync.Once
	done    chan struct{} // closed when the request is to end
	stopped chan struct{} // closed when it has been answered
}

// waiting makes the context of a request; stop releases it.
func waiting(interrupt <-chan struct{}, pid uint32) (r *request, stop func()) {
	r = &request{Context: context.Background(), interrupt: interrupt, pid: pid, done: make(chan struct{}), stopped: make(chan struct{})}
	return r, func() { close(r.stopped) }
}

// Done is closed when the request is to end. Who asks for it is about to wait: the watch
// begins here, so that most requests have none.
func (r *request) Done() <-chan struct{} {
	r.once.Do(func() { go r.watch() })
	return r.done
}

func (r *request) watch() {
	select {
	case <-r.stopped:
		return
	case <-r.interrupt:
	}
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for !mayStop(r.pid) {
		select {
		case <-r.stopped:
			return
		case <-t.C:
		}
	}
	r.end()
}

func (r *request) end() { r.ending.Do(func() { close(r.done) }) }

// Err is what Done says, for who does not wait.
func (r *request) Err() error {
	select {
	case <-r.done:
		return context.Canceled
	default:
	}
	select {
	case <-r.interrupt:
		if mayStop(r.pid) {
			r.end()
			return context.Canceled
		}
	default:
	}
	return nil
}

// mayStop tells whether a thread is gone, dies, or has a signal by which people end
// programs. Any signal that is fatal to it shows as SIGKILL.
func mayStop(tid uint32) bool {
	if tid == 0 { // of another pid namespace
		return true
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(int(tid)) + "/status")
	return err != nil || stopPending(string(b))
}

const stopSignals = 1<<(syscall.SIGHUP-1) | 1<<(syscall.SIGINT-1) | 1<<(syscall.SIGQUIT-1) | 1<<(syscall.SIGKILL-1) | 1<<(syscall.SIGTERM-1)

// stopPending reads proc_pid_status(5).
func stopPending(status string) bool {
	for line := range strings.Lines(status) {
		k, v, _ := strings.Cut(line, ":")
		switch k {
		case "SigPnd", "ShdPnd":
			if set, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64); err == nil && set&stopSignals != 0 {
				return true
			}
		case "State":
			if v = strings.TrimSpace(v); strings.HasPrefix(v, "Z") || strings.HasPrefix(v, "X") {
				return true
			}
		}
	}
	return false
}
