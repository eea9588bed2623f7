package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

const (
	// A lake that could not be mounted is tried again after lakeMin, then twice as long each time, up to backoffMax.
	lakeMin = time.Second
	// firstTry is how long `tarn mount` waits for the first attempts at all lakes.
	firstTry = 30 * time.Second
)

// keeper keeps lakes mounted on the directories of a root. One goroutine a lake starts its supervisor, which starts a
// daemon that dies anew, and starts the supervisor again when that ends without being asked to. A keeper of nil has no
// lakes. It holds nothing of the root's connection.
type keeper struct {
	s     *session
	o     mountOptions // of the root
	log   *slog.Logger
	ctx   context.Context // ends when no lake is to be mounted any more
	stop  context.CancelFunc
	kicks chan os.Signal
	done  sync.WaitGroup
	lakes []*kept
	begun bool

	mu     sync.Mutex
	root   int           // the root's process, 0 while there is none
	rootUp chan struct{} // closed while it serves
}

// kept is one lake.
type kept struct {
	gridLake
	point string
	log   string        // where its processes log
	kick  chan struct{} // holds one wish to try now
	tried chan struct{} // closed after the first attempt

	// Guarded by the keeper's lock:
	state  control.LakeState
	cmd    *exec.Cmd // its supervisor, nil while there is none
	remake bool      // it ends because the root died
}

// newKeeper makes one that has not begun.
func newKeeper(s *session, o mountOptions, log *slog.Logger) *keeper {
	if o.grid == nil {
		return nil
	}
	k := &keeper{s: s, o: o, log: log, kicks: make(chan os.Signal, 1), rootUp: make(chan struct{})}
	k.ctx, k.stop = context.WithCancel(context.Background())
	for _, l := range o.grid.lakes {
		point := o.grid.pointOf(o.point, l.name)
		k.lakes = append(k.lakes, &kept{
			gridLake: l, point: point, log: logPath(l.cfg), kick: make(chan struct{}, 1), tried: make(chan struct{}),
			state: control.LakeState{Name: l.name, Lake: l.cfg.File(), Point: point, State: control.LakeMounting, Since: s.t.now()},
		})
	}
	return k
}

// begin says that the root serves. The first time it waits until each lake was tried, but not for long.
func (k *keeper) begin(ctx context.Context, root int, first bool) {
	if k == nil {
		return
	}
	if first { // before this process is on record
		signal.Notify(k.kicks, syscall.SIGUSR1) // `tarn umount` that could not take all away asks for what is missing, and a second `tarn mount`
		k.begun = true
	}
	k.mu.Lock()
	k.root = root
	close(k.rootUp)
	k.write()
	k.mu.Unlock()
	if !first {
		return
	}
	go k.passKicks()
	for _, l := range k.lakes {
		k.done.Add(1)
		go k.keep(l)
	}
	limit := time.After(firstTry)
	for _, l := range k.lakes {
		select {
		case <-l.tried:
		case <-limit:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (k *keeper) passKicks() {
	for {
		select {
		case <-k.kicks:
			for _, l := range k.lakes {
				if k.isThere(l) {
					continue // a wish that is kept would bring it back when somebody takes it away
				}
				select {
				case l.kick <- struct{}{}:
				default:
				}
			}
		case <-k.ctx.Done():
			signal.Stop(k.kicks)
			return
		}
	}
}

// isThere tells whether a lake is mounted.
func (k *keeper) isThere(l *kept) bool {
	mounts, err := config.SystemMounts()
	k.mu.Lock()
	defer k.mu.Unlock()
	return err == nil && l.state.State == control.LakeMounted && mountsAt(mounts, l.point) > 0
}

// rootDied lets all lakes end that are mounted in the root: they are mounted anew when it serves again. It does not wait.
func (k *keeper) rootDied() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.root == 0 {
		return
	}
	k.root, k.rootUp = 0, make(chan struct{})
	for _, l := range k.lakes {
		if l.cmd != nil && !k.o.grid.linked() {
			l.remake = true
			_ = l.cmd.Process.Signal(syscall.SIGTERM) // it has ended if this fails
		}
	}
	k.write()
}

// end asks all lakes to end, and lets none come again. What was detached goes on while its files are open. It may be
// called again, to pass on a second signal.
func (k *keeper) end(sig os.Signal) {
	if k == nil {
		return
	}
	mounts, err := config.SystemMounts()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stop()
	for _, l := range k.lakes {
		detached := err == nil && l.state.State == control.LakeMounted && mountsAt(mounts, l.point) == 0
		if l.cmd != nil && !detached {
			_ = l.cmd.Process.Signal(sig) // it has ended if this fails
		}
	}
}

// wait waits until all have ended. The keeper leaves nothing then.
func (k *keeper) wait() {
	if k == nil {
		return
	}
	k.done.Wait()
	if !k.begun { // what is there is another one's
		return
	}
	err := control.RemoveLakes(k.o.cfg.Run)
	for _, l := range k.lakes {
		if k.o.grid.linked() {
			err = errors.Join(err, os.Remove(l.point))
		}
	}
	if err != nil {
		k.log.Warn("what was made for the mount stays", "err", err)
	}
}

// write notes the states; the caller has the lock.
func (k *keeper) write() {
	out := control.Lakes{PID: os.Getpid(), Born: born(os.Getpid()), Root: k.root}
	for _, l := range k.lakes {
		out.Lakes = append(out.Lakes, l.state)
	}
	if err := control.WriteLakes(k.o.cfg.Run, out); err != nil {
		k.log.Warn("what tarn status shows of the lakes is not up to date", "err", err)
	}
}

// set changes a lake's state.
func (k *keeper) set(l *kept, state, why string, next time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := &l.state
	if state == control.LakeMounting && s.State == control.LakeWaiting {
		why = s.Why // until it is known better
	}
	s.State, s.Why, s.Next, s.Since = state, why, next, k.s.t.now()
	switch state {
	case control.LakeMounted:
		s.Attempts = 0
	case control.LakeWaiting:
		s.Attempts++
	}
	k.write()
}

// keep keeps one lake mounted until the keeper ends.
func (k *keeper) keep(l *kept) {
	defer k.done.Done()
	tried := sync.OnceFunc(func() { close(l.tried) })
	defer tried()
	backoff := lakeMin
	for k.awaitRoot() {
		began := k.s.t.now()
		err := k.once(l, tried)
		tried()
		if k.ctx.Err() != nil {
			return
		}
		if k.s.t.now().Sub(began) > settled {
			backoff = lakeMin
		}
		if k.remade(l) {
			backoff = lakeMin
			continue
		}
		var retry <-chan time.Time
		if err == nil {
			k.log.Info("a lake was unmounted", "lake", l.name)
			k.set(l, control.LakeUnmounted, fmt.Sprintf("it was unmounted; `tarn mount %s %s` brings it back", shellWord(k.o.cfg.File()), shellWord(k.o.point)), time.Time{})
			backoff = lakeMin
		} else {
			k.log.Warn("a lake is not mounted, and is tried again", "lake", l.name, "why", err, "in", backoff)
			k.set(l, control.LakeWaiting, err.Error(), k.s.t.now().Add(backoff))
			retry = time.After(backoff)
			backoff = min(2*backoff, backoffMax)
		}
		select {
		case <-retry:
		case <-l.kick:
		case <-k.ctx.Done():
			return
		}
	}
}

// awaitRoot waits until there is something to mount on; false: it is over.
func (k *keeper) awaitRoot() bool {
	k.mu.Lock()
	up := k.rootUp
	k.mu.Unlock()
	select {
	case <-up:
		return k.ctx.Err() == nil
	case <-k.ctx.Done():
		return false
	}
}

// remade tells whether the lake ended because the root did.
func (k *keeper) remade(l *kept) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	was := l.remake
	l.remake = false
	return was
}

// once mounts a lake and waits for its end. nil: somebody unmounted it.
func (k *keeper) once(l *kept, tried func()) error {
	k.set(l, control.LakeMounting, "", time.Time{})
	o := k.o
	o.cfg, o.grid, o.point = l.cfg, nil, l.point
	if k.o.grid.linked() {
		o.nonempty = false
		if err := makeFolder(l.point); err != nil {
			return err
		}
	} else {
		o.nonempty = true // nothing can be in the directory, and it does not say so
	}
	if err := l.endOrphan(k); err != nil {
		return err
	}
	cmd, err := l.s.daemonCommand(o, "--supervise=true")
	if err != nil {
		return err
	}
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "NOTIFY_SOCKET=") })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what a terminal signals comes from here, and once
	answer, err := launch(cmd, l.cfg)
	if err != nil {
		return err
	}
	k.started(l, cmd)
	defer k.started(l, nil)
	line := <-answer
	if line.Error != nil {
		return errors.Join(line.Error, ignoreExit(cmd.Wait()))
	}
	if line.PID == 0 {
		return fmt.Errorf("its daemon ended before the mount was ready: %v; its log is %s", cmd.Wait(), l.log)
	}
	k.set(l, control.LakeMounted, "", time.Time{})
	k.log.Info("a lake is mounted", "lake", l.name, "file", l.cfg.File(), "pid", line.PID, "log", l.log)
	tried()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("its supervisor ended (%w); its log is %s", err, l.log)
	}
	return nil
}

// started notes the process of a lake; one that comes too late is asked to end.
func (k *keeper) started(l *kept, cmd *exec.Cmd) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l.cmd, l.state.PID = cmd, 0
	if cmd == nil {
		return
	}
	l.state.PID = cmd.Process.Pid
	if k.root == 0 || k.ctx.Err() != nil {
		l.remake = k.root == 0
		_ = cmd.Process.Signal(syscall.SIGTERM) // it has ended if this fails
	}
}

// endOrphan ends the processes that served the lake here for a keeper that was killed: before the first attempt all of
// them, later those whose mount is gone and who have the lake open as long as somebody has a file of it open.
func (l *kept) endOrphan(k *keeper) error {
	mounts, err := config.SystemMounts()
	if err != nil {
		return err
	}
	first := false
	select {
	case <-l.tried:
	default:
		first = true
	}
	if !first && mountsAt(mounts, l.point) > 0 {
		return nil // the attempt tells of it
	}
	pid := 0
	if v, ok, err := supervisorOf(l.cfg); err == nil && ok && v.Mountpoint == l.point {
		pid = v.PID
	} else if c, d, err := control.Dial(k.ctx, l.cfg.Run); err == nil {
		_ = c.Close() // it was asked nothing
		if d.Mountpoint == l.point {
			pid = d.PID
		}
	}
	if pid <= 1 {
		return nil
	}
	k.log.Warn("a lake is served still by a process that nobody keeps; it is asked to end", "lake", l.name, "pid", pid)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end the process that serves the lake (pid %d): %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(k.ctx, lockWait)
	defer cancel()
	if waitGone(ctx, pid) != nil && k.ctx.Err() == nil {
		return fmt.Errorf("the process that served the lake before (pid %d) is still ending", pid)
	}
	return nil
}
