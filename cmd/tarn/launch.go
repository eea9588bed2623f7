package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"tarn/cmd/tarn/config"
	"tarn/cmd/tarn/control"
)

// mountBehind starts the daemon as a process of its own and waits until the mount is
// usable, or reports why it is not.
func (s *session) mountBehind(ctx context.Context, o mountOptions) error {
	cmd, err := s.daemonCommand(o, fmt.Sprintf("--supervise=%v", o.supervise))
	if err != nil {
		return err
	}
	cmd.Env = os.Environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's signals are not for it
	answer, err := launch(cmd, o.cfg)
	if err != nil {
		return err
	}
	logFile := logPath(o.cfg)
	select {
	case line := <-answer:
		switch {
		case line.Error != nil:
			return errors.Join(line.Error, ignoreExit(cmd.Wait()))
		case line.PID == 0:
			err := cmd.Wait()
			return control.Fail(control.ErrFatal, "its log is "+logFile, "the daemon ended before the mount was ready: %v", err)
		}
		if o.grid != nil {
			s.sayLakes(o, logFile)
		} else {
			s.t.say("lake %s is mounted at %s (pid %d, log %s)", o.cfg.Name, o.point, line.PID, logFile)
		}
		return cmd.Process.Release()
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), cmd.Process.Signal(syscall.SIGTERM), ignoreExit(cmd.Wait()))
	}
}

// launch starts a daemon, or its supervisor, which logs where the lake file says. The answer is how the mount went; an
// empty one means that the process died before.
func launch(cmd *exec.Cmd, cfg *config.Config) (<-chan readyLine, error) {
	if err := makeFolder(cfg.Run); err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	logFile := logPath(cfg)
	out, err := openLog(logFile)
	if err != nil {
		return nil, errors.Join(err, r.Close(), w.Close())
	}
	defer out.Close()
	cmd.Env = append(cmd.Env, readyEnv+"=3", logEnv+"="+logFile)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{w}
	err = cmd.Start()
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the daemon: %w", err), r.Close())
	}
	answer := make(chan readyLine, 1)
	go func() {
		defer r.Close()
		var line readyLine
		b, _ := bufio.NewReader(r).ReadBytes('\n') // an end without a line is the daemon's death
		if json.Unmarshal(b, &line) != nil {
			line = readyLine{}
		}
		answer <- line
	}()
	return answer, nil
}

// daemonCommand is this program as the foreground mount of o.
func (s *session) daemonCommand(o mountOptions, more ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("mount: find this program: %w", err)
	}
	args := append([]string{"mount", "--foreground", "--lake", o.cfg.File()}, more...)
	for _, st := range s.settings {
		args = append(args, "--set", st.Key+"="+st.Value)
	}
	if len(o.kernel) > 0 {
		args = append(args, "-o", strings.Join(o.kernel, ","))
	}
	for flag, on := range map[string]bool{"--no-passthrough": !o.passthrough, "--nonempty": o.nonempty, "--debug-fuse": o.debug} {
		if on {
			args = append(args, flag)
		}
	}
	for range s.t.verbose {
		args = append(args, "-v")
	}
	return exec.Command(self, append(args, "--", o.cfg.File(), o.point)...), nil
}

// ignoreExit drops the error of a process that ended with a code: it said why itself.
func ignoreExit(err error) error {
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		return nil
	}
	return err
}
