package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// A supervised mount is two processes: the daemon that serves it, and a small parent that
// holds nothing of the lake and starts the daemon again when it dies or hangs. The daemon
// goes on when only the parent dies.

const (
	backoffMin = 100 * time.Millisecond
	backoffMax = 30 * time.Second
	// A daemon that served for so long has recovered: the next death waits for backoffMin again.
	settled = time.Minute
	// quitWait is what a hanging daemon has to write down its stacks.
	quitWait = 5 * time.Second
	// lifeSigns is how many there are in the time after which a daemon without any hangs.
	lifeSigns = 10
	// deathLook is how often a supervisor looks whether its daemon is dead and cannot end, or
	// its connection is. What was seen so many times in a row is acted on: a daemon that is
	// dying, and one whose connection has ended, may end by themselves.
	deathLook   = time.Second
	undeadLooks = 2
	cutLooks    = 3
)

// supervisor is the parent of one mount's daemon.
type supervisor struct {
	s       *session
	o       mountOptions
	lakes   *keeper // of the root of several, else nil
	log     *slog.Logger
	out     *os.File // what the daemon writes to: its log
	note    control.Supervisor
	signals chan os.Signal
	tell    func(readyLine) // the first answer of a daemon, for who started this process
}

// supervise mounts by a child process and keeps one there until the mount is taken away
// or ctx ends. Its error is that of the child's first attempt, or its exit code at the end.
func (s *session) supervise(ctx context.Context, o mountOptions) error {
	v := &supervisor{s: s, o: o, out: os.Stderr, signals: make(chan os.Signal, 4)}
	ready := readyPipe(os.Getenv(readyEnv))
	v.tell = func(l readyLine) {
		if ready == nil {
			return
		}
		_ = json.NewEncoder(ready).Encode(l) // whoever started this may have gone
		_ = ready.Close()
		ready = nil
	}
	fail := func(err error) error {
		v.tell(readyLine{PID: os.Getpid(), Error: control.Describe(err)})
		return err
	}
	if o.cfg.Log.File != "" && ready == nil {
		f, err := openLog(o.cfg.Log.File)
		if err != nil {
			return fail(err)
		}
		defer f.Close()
		v.out = f
	}
	v.log = daemonLog(o.cfg.Log, v.out, s.t.verbose)
	if err := makeFolder(o.cfg.Run); err != nil {
		return fail(err)
	}
	if o.grid != nil {
		lock, err := o.grid.lock()
		if err != nil {
			return fail(err)
		}
		defer lock.Close()
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	signal.Notify(v.signals, syscall.SIGTERM, syscall.SIGINT) // so a second one is passed on, too
	defer signal.Stop(v.signals)
	v.note = control.Supervisor{PID: os.Getpid(), Born: born(os.Getpid()), Lake: o.cfg.File(), Mountpoint: o.point, Started: s.t.now()}
	notes := false // that of another one is not replaced before the mount is ours
	defer func() {
		if notes {
			v.report(control.RemoveSupervisor(o.cfg.Run))
		}
	}()
	write := func(state string) {
		if v.note.State = state; notes {
			v.report(control.WriteSupervisor(o.cfg.Run, v.note))
		}
	}

	v.lakes = newKeeper(s, o, v.log)
	defer v.lakes.wait()
	defer v.lakes.end(syscall.SIGTERM)

	backoff := backoffMin
	for first := true; ; first = false {
		if ctx.Err() != nil {
			return nil
		}
		write("starting")
		began := s.t.now()
		c, err := v.start(ctx)
		if err == nil {
			v.lakes.begin(ctx, c.cmd.Process.Pid, first)
		}
		if err == nil && first {
			v.tell(readyLine{PID: c.cmd.Process.Pid})
			notifySystemd("READY=1")
			notes = true
		}
		if err != nil && first {
			return fail(err)
		}
		why := ""
		if err == nil {
			v.note.Daemon, v.note.Next = c.cmd.Process.Pid, time.Time{}
			write("serving")
			if !first {
				v.log.Info("the daemon serves again", "pid", c.cmd.Process.Pid, "restarts", v.note.Restarts, "after", s.t.now().Sub(v.note.Died))
			}
			var over bool
			if over, why, err = v.watch(c); over {
				return err
			}
			v.lakes.rootDied()
			if s.t.now().Sub(began) > settled {
				backoff = backoffMin
			}
		} else {
			why = "it could not start: " + err.Error()
		}
		if ctx.Err() != nil {
			return v.giveUp()
		}
		v.note.Daemon, v.note.Died, v.note.Why, v.note.Next = 0, s.t.now(), why, s.t.now().Add(backoff)
		v.note.Restarts++
		write("waiting")
		v.log.Error("the daemon died; it is started again", "why", why, "in", backoff, "restarts", v.note.Restarts)
		select {
		case <-time.After(backoff):
		case <-v.signals:
			return v.giveUp()
		}
		backoff = min(2*backoff, backoffMax)
	}
}

func (v *supervisor) report(err error) {
	if err != nil {
		v.log.Warn("what tarn status shows of restarts is not up to date", "err", err)
	}
}

// giveUp ends while no daemon is there: a dead mount is not left behind.
func (v *supervisor) giveUp() error {
	v.log.Info("asked to end while no daemon runs", "mountpoint", v.o.point)
	if _, mounted, err := config.ConnectionOf(v.o.point); err != nil || !mounted || !deadMount(v.o.point) {
		return err // what lies below the mountpoint may be another dead mount
	}
	return detach(context.Background(), v.o.point, true)
}

// child is a daemon of a supervisor.
type child struct {
	cmd    *exec.Cmd
	conn   config.Connection // by which it serves
	beat   atomic.Bool       // since it was looked at last
	bye    atomic.Bool       // it ends because it was asked to, or because its mount was taken away
	exited chan error        // has one value once it has ended and all it said was read
}

// start starts a daemon and waits until its mount is usable. The error is the daemon's,
// which has ended then.
func (v *supervisor) start(ctx context.Context) (*child, error) {
	ready, readyW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	defer ready.Close()
	life, lifeW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the daemon: %w", err), readyW.Close())
	}
	cmd, err := v.s.daemonCommand(v.o, "--supervise=false")
	if err != nil {
		return nil, errors.Join(err, readyW.Close(), life.Close(), lifeW.Close())
	}
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "NOTIFY_SOCKET=") }),
		readyEnv+"=3", lifeEnv+"=4", fmt.Sprintf("%s=%d", supervisorEnv, os.Getpid()))
	cmd.Stdout, cmd.Stderr = v.out, v.out
	cmd.ExtraFiles = []*os.File{readyW, lifeW}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what a terminal signals comes from here, and once
	err = cmd.Start()
	if cerr := errors.Join(readyW.Close(), lifeW.Close()); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the daemon: %w", err), life.Close())
	}
	c := &child{cmd: cmd, exited: make(chan error, 1)}
	go func() {
		c.listen(life)
		err := cmd.Wait()
		c.exited <- errors.Join(err, life.Close())
	}()
	answer := make(chan readyLine, 1)
	go func() {
		var line readyLine
		b, _ := bufio.NewReader(ready).ReadBytes('\n') // an end without a line is the daemon's death
		if json.Unmarshal(b, &line) != nil {
			line = readyLine{}
		}
		answer <- line
	}()
	for {
		select {
		case line := <-answer:
			switch {
			case line.Error != nil:
				<-c.exited
				return nil, line.Error
			case line.PID == 0:
				err := <-c.exited
				return nil, control.Fail(control.ErrFatal, logName(), "the daemon ended before the mount was ready: %v", err)
			}
			if c.conn, _, err = config.ConnectionOf(v.o.point); err != nil {
				v.log.Warn("the connection of the daemon is not known, and is not watched", "err", err)
			}
			return c, nil
		case sig := <-v.signals:
			_ = cmd.Process.Signal(sig) // it has ended if this fails
		}
	}
}

// listen takes the signs of life until the daemon's end.
func (c *child) listen(r io.Reader) {
	b := make([]byte, 64)
	for {
		n, err := r.Read(b)
		for _, x := range b[:n] {
			if x == byeSign {
				c.bye.Store(true)
			}
			c.beat.Store(true)
		}
		if err != nil {
			return
		}
	}
}

// watch waits for the end of a daemon, and makes one when it hangs. over: there is to be
// no other; then err is what this process ends with. Else why tells what happened.
func (v *supervisor) watch(c *child) (over bool, why string, err error) {
	limit := v.o.cfg.Mount.Watchdog.D()
	tick := make(<-chan time.Time)
	if limit > 0 {
		t := time.NewTicker(max(limit/lifeSigns, time.Millisecond))
		defer t.Stop()
		tick = t.C
	}
	dying := time.NewTicker(deathLook)
	defer dying.Stop()
	p := &probe{conn: c.conn}
	// Ticks are counted, not time: on a machine that stood still both processes did.
	quiet, dumb, stuck, cut := 0, 0, 0, 0
	for {
		select {
		case err := <-c.exited:
			return v.ended(c, err)
		case sig := <-v.signals:
			v.log.Info("asked to end", "why", sig)
			notifySystemd("STOPPING=1")
			v.pass(c, sig)
		case <-dying.C:
			if !undead(c.cmd.Process.Pid) {
				stuck = 0
			} else if stuck++; stuck >= undeadLooks {
				v.log.Warn("the daemon was killed and cannot end while its mount waits for it; the connection is aborted", "pid", c.cmd.Process.Pid)
				v.abort(c)
			}
			if stuck > 0 || c.bye.Load() || !p.dead.Load() {
				cut = 0
			} else if cut++; cut >= cutLooks { // somebody waits for tape in it, perhaps
				v.log.Error("the connection of the mount was aborted, and its daemon did not end; it is killed", "pid", c.cmd.Process.Pid)
				v.bury(c)
				return false, "its connection was aborted", nil
			}
			p.look()
		case <-tick:
			if c.bye.Load() {
				continue // what it does at its end has limits of its own
			}
			quiet, dumb = quiet+1, dumb+1
			if c.beat.Swap(false) {
				quiet = 0
			}
			if p.look() {
				dumb = 0
			}
			if quiet <= lifeSigns && dumb <= lifeSigns {
				continue
			}
			what := "its locks are held"
			if dumb > lifeSigns {
				what = "the file system does not answer"
			}
			why := fmt.Sprintf("it hung: %s since %v", what, limit)
			v.log.Error("the daemon hangs; its stacks follow, and it is killed", "pid", c.cmd.Process.Pid, "why", what, "for", limit)
			v.kill(c)
			return false, why, nil
		}
	}
}

// pass asks a daemon to end; that of the root of several lakes when these have ended.
func (v *supervisor) pass(c *child, sig os.Signal) {
	if v.lakes == nil {
		_ = c.cmd.Process.Signal(sig) // it has ended if this fails
		return
	}
	v.lakes.end(sig)
	go func() {
		v.lakes.done.Wait()
		_ = c.cmd.Process.Signal(sig)
	}()
}

// ended judges the end of a daemon.
func (v *supervisor) ended(c *child, err error) (over bool, why string, _ error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return true, "", fmt.Errorf("wait for the daemon: %w", err)
	}
	if c.bye.Load() {
		if exit != nil && exit.ExitCode() > 0 {
			return true, "", errTold{code: exit.ExitCode()}
		}
		if exit != nil {
			return true, "", control.Fail(control.ErrFatal, logName(), "the daemon was asked to end, and died: %v", exit)
		}
		return true, "", nil
	}
	if err == nil {
		return false, "it ended without a word", nil
	}
	return false, exit.Error(), nil
}

// kill ends a daemon that hangs, and every call into its mount: with its stacks in the log
// if it still can write them.
func (v *supervisor) kill(c *child) {
	_ = c.cmd.Process.Signal(syscall.SIGQUIT)
	// Whoever waits for an answer gets an error now, and can be killed again; so can the
	// daemon, if it waits for itself.
	v.abort(c)
	_ = c.cmd.Process.Signal(syscall.SIGCONT) // one that was stopped writes its stacks, too
	select {
	case <-c.exited:
		return
	case <-time.After(quitWait):
	}
	v.bury(c)
}

// bury kills a daemon for good.
func (v *supervisor) bury(c *child) {
	_ = c.cmd.Process.Kill() // it has ended if this fails
	select {
	case <-c.exited:
	case <-time.After(time.Minute):
		v.log.Error("the daemon does not die", "pid", c.cmd.Process.Pid)
	}
}

func (v *supervisor) abort(c *child) {
	if err := abort(c.conn); err != nil {
		v.log.Warn("the mount's connection was not aborted", "mountpoint", v.o.point, "err", err)
	}
}

// errTold ends a process with a code, in silence: what went wrong was said already.
type errTold struct{ code int }

func (e errTold) Error() string { return fmt.Sprintf("the daemon ended with exit code %d", e.code) }

// logName says where a daemon's last words are.
func logName() string {
	if f := os.Getenv(logEnv); f != "" {
		return "its log is " + f
	}
	return "its last words stand above"
}
