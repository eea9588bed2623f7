package main

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarn/cmd/tarn/config"
)

const (
	lifeEnv       = "TARN_LIFE_FD"    // names the descriptor for signs of life
	supervisorEnv = "TARN_SUPERVISOR" // the pid of the process that reads them

	lifeSign = '.'
	byeSign  = 'e' // the end is wanted: no new daemon
)

// lifeLine is a daemon's line to its supervisor. One of nil is for a daemon that has none.
type lifeLine struct {
	f    *os.File
	pid  int
	once sync.Once
	done chan struct{}
}

// openLifeLine gives nil where there is no supervisor.
func openLifeLine() *lifeLine {
	n, err := strconv.Atoi(os.Getenv(lifeEnv))
	if err != nil {
		return nil
	}
	pid, err := strconv.Atoi(os.Getenv(supervisorEnv))
	if err != nil {
		return nil
	}
	syscall.CloseOnExec(n)
	return &lifeLine{f: os.NewFile(uintptr(n), "life"), pid: pid, done: make(chan struct{})}
}

// beat gives signs of life while responds returns, until bye. limit 0 is none.
func (l *lifeLine) beat(limit time.Duration, responds func(), log *slog.Logger) {
	if l == nil {
		return
	}
	every := limit / lifeSigns
	if limit <= 0 {
		every = time.Second // the supervisor's end is noticed all the same
	}
	t := time.NewTicker(max(every, time.Millisecond))
	defer t.Stop()
	for {
		responds()
		select {
		case <-l.done:
			return
		default:
		}
		if _, err := l.f.Write([]byte{lifeSign}); err != nil {
			log.Warn("the supervisor has ended; this daemon goes on, and will not be started again when it dies", "pid", l.pid, "err", err)
			return
		}
		select {
		case <-t.C:
		case <-l.done:
			return
		}
	}
}

// bye says that this end is wanted.
func (l *lifeLine) bye() {
	if l == nil {
		return
	}
	l.once.Do(func() {
		close(l.done)
		_, _ = l.f.Write([]byte{byeSign}) // the supervisor may have gone
	})
}

// supervisorPID is 0 where there is none.
func (l *lifeLine) supervisorPID() int {
	if l == nil {
		return 0
	}
	return l.pid
}

// born is when a process began, in clock ticks since boot: with its pid that names it. 0: there is none.
func born(pid int) int64 {
	f := statOf(pid)
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0
	}
	n, err := strconv.ParseInt(f[19], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// undead tells whether a process was killed and has a thread that cannot end. The kernel
// keeps one that was about to drop pages of its own mount while another had been asked to
// fill them: nobody answers that now, and the connection, which this thread holds, does not
// end before it. Processes that use the mount wait with it, and kill -9 does not end them.
// One that is dying looks the same for some milliseconds.
func undead(pid int) bool {
	if f := statOf(pid); len(f) == 0 || f[0] != "Z" {
		return false
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err == nil && len(threads) > 1
}

// statOf gives the fields of /proc/PID/stat after the name, the state first.
func statOf(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	s := string(b)
	return strings.Fields(s[strings.LastIndexByte(s, ')')+1:]) // the name in parentheses may hold anything
}

// abort ends a connection: all calls into its mount fail from now on and nobody waits any
// more. It asks the mount itself nothing, and does nothing when that is gone: its name may be
// another's then.
func abort(c config.Connection) error {
	there, seen, err := c.Mounted()
	if err != nil || !there {
		return err
	}
	err = os.WriteFile("/sys/fs/fuse/connections/"+c.Name+"/abort", []byte("1"), 0)
	if err == nil || !seen {
		return err
	}
	// Where fusectl is not mounted, root has another way to the same.
	if uerr := unix.Unmount(c.Point, unix.MNT_FORCE); uerr != nil && uerr != unix.EBUSY {
		return fmt.Errorf("%w; unmount by force: %w", err, uerr)
	}
	return nil
}
