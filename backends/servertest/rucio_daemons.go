package servertest

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// rucioDriver is a process with Rucio's daemons in it (scripts/rucio/daemons.py --serve): their import takes seconds.
type rucioDriver struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// Daemons runs Rucio's daemons once each: injector, evaluator, repairer, cleaner, mover, transmogrifier, necromancer, minos,
// undertaker, reaper (of this test's RSEs), abacus; all of them without a name. mover is the conveyor with a transfer tool that
// moves the bytes itself, so that rules come to OK, or to STUCK when the transfer fails again and again.
func (r *RucioServer) Daemons(names ...string) {
	r.t.Helper()
	if names == nil {
		names = []string{}
	}
	r.ask(map[string]any{"run": names, "reaper": strings.Join(r.rses, "|")})
}

// MoverEnv sets variables, KEY=value, of what the mover copies with: X509_USER_PROXY, X509_CERT_DIR, BEARER_TOKEN, AWS_ACCESS_KEY_ID …
func (r *RucioServer) MoverEnv(vars ...string) {
	r.t.Helper()
	env := map[string]string{}
	for _, v := range vars {
		k, value, _ := strings.Cut(v, "=")
		env[k] = value
	}
	r.Python("import os; os.environ.update(env)", map[string]any{"env": env})
}

// Python runs a snippet in the server's environment, where it may import rucio.core and the rest, with the values of with as names;
// it gives what the snippet printed. Names stay from one snippet to the next.
func (r *RucioServer) Python(source string, with map[string]any) string {
	r.t.Helper()
	return r.ask(map[string]any{"python": source, "with": with})
}

func (r *RucioServer) ask(question map[string]any) string {
	r.t.Helper()
	line, err := json.Marshal(question)
	must(r.t, err)
	r.at.mu.Lock()
	defer r.at.mu.Unlock()
	if r.at.driver == nil {
		r.startDriver()
	}
	d := r.at.driver
	// One that hangs is ended, and the next question starts another.
	slow := time.AfterFunc(5*time.Minute, func() { d.cmd.Process.Kill() })
	defer slow.Stop()
	var answer struct{ Out, Error string }
	if _, err = d.in.Write(append(line, '\n')); err == nil {
		var text []byte
		if text, err = d.out.ReadBytes('\n'); err == nil {
			err = json.Unmarshal(text, &answer)
		}
	}
	if err != nil {
		r.at.endDriver()
		log, _ := os.ReadFile(filepath.Join(r.Dir, "log/driver"))
		r.t.Fatalf("rucio-daemons: %v\n%s", err, log)
	}
	if answer.Error != "" {
		r.t.Fatalf("rucio-daemons: %s\n%s", answer.Out, answer.Error)
	}
	return answer.Out
}

// startDriver wants the lock held.
func (r *RucioServer) startDriver() {
	r.t.Helper()
	cmd := exec.Command(filepath.Join(r.Dir, "bin/rucio-daemons"), "--serve")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(filepath.Join(r.Dir, "log/driver"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	must(r.t, err)
	defer log.Close()
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	must(r.t, err)
	out, err := cmd.StdoutPipe()
	must(r.t, err)
	must(r.t, cmd.Start())
	r.at.driver = &rucioDriver{cmd: cmd, in: in, out: bufio.NewReader(out)}
}

// endDriver wants the lock held.
func (at *rucioInstance) endDriver() {
	if at.driver == nil {
		return
	}
	at.driver.in.Close()
	syscall.Kill(-at.driver.cmd.Process.Pid, syscall.SIGKILL) // with what it copies
	at.driver.cmd.Wait()
	at.driver = nil
}
