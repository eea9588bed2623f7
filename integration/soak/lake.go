package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lake is the demo lake and its daemon.
type lake struct {
	o              options
	work, dir, mnt string
	daemon         *exec.Cmd
	ended          chan error
	lives          int // daemons so far

	kills, terms, stops        int
	files                      int
	settled, compared, slowest time.Duration
	base, now                  usage // what it may hold at rest, what it does
}

// usage is what a daemon holds.
type usage struct {
	fds, goroutines int
	rss             int64 // bytes
}

const settings = `
journal: {delay: 100ms}
catalogue: {grace: 1ms}
`

func (l *lake) path(elem ...string) string {
	return filepath.Join(append([]string{l.mnt}, elem...)...)
}

// epoch is a file whose content changes before the daemon is hurt and after it is back, so that workers know
// which errors are not the daemon's fault.
func (l *lake) epoch() string { return filepath.Join(l.work, "epoch") }

func (l *lake) next() error {
	l.lives++
	tmp := l.epoch() + ".new"
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(l.lives)), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, l.epoch())
}

func (l *lake) init() error {
	if err := os.Mkdir(l.mnt, 0o755); err != nil {
		return err
	}
	if out, code := l.try("init", "--demo", l.dir); code != 0 {
		return fmt.Errorf("init: %s", out)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "lake.local.yaml"), []byte(settings), 0o600); err != nil {
		return err
	}
	if err := l.next(); err != nil {
		return err
	}
	return l.start()
}

// start mounts and waits until the mount answers.
func (l *lake) start() error {
	log, err := os.OpenFile(filepath.Join(l.work, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	began := time.Now()
	l.daemon = exec.Command(l.o.tarn, "mount", "-f", "--supervise=false", l.dir, l.mnt)
	l.daemon.Stdout, l.daemon.Stderr = log, log
	if err := l.daemon.Start(); err != nil {
		return err
	}
	ended, cmd := make(chan error, 1), l.daemon
	l.ended = ended
	go func() { ended <- cmd.Wait() }()
	for time.Since(began) < time.Minute {
		select {
		case err := <-ended:
			l.daemon = nil
			return fmt.Errorf("the daemon ended at its start: %v", err)
		default:
		}
		if b, err := os.ReadFile(l.path(".tarn/stats")); err == nil && len(b) > 0 {
			l.slowest = max(l.slowest, time.Since(began))
			l.base, err = l.usage()
			l.base.fds += 30
			l.base.goroutines += 40
			l.base.rss += 512 << 20
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("not mounted after a minute")
}

// kill ends the daemon with -9; nothing when there is none.
func (l *lake) kill() {
	if l.daemon == nil {
		return
	}
	l.daemon.Process.Kill() // an error means that it has ended
	select {
	case <-l.ended:
	case <-time.After(20 * time.Second): // it waits for its own mount
		exec.Command("umount", "-f", l.mnt).Run()
		<-l.ended
	}
	l.daemon = nil
}

// killAll ends the daemon, whoever is busy with it, and takes the mount away.
func (l *lake) killAll() {
	if d := l.daemon; d != nil && d.Process != nil {
		d.Process.Kill()
	}
	l.detach()
}

func (l *lake) detach() { exec.Command("fusermount3", "-u", "-z", l.mnt).Run() }

// alive tells why the daemon is not, if so.
func (l *lake) alive() error {
	select {
	case err := <-l.ended:
		l.daemon = nil
		return fmt.Errorf("the daemon died by itself: %v", err)
	default:
		return nil
	}
}

// again ends the daemon, by kill -9 or with SIGTERM, and starts the next.
func (l *lake) again(kill bool) error {
	if err := errors.Join(l.alive(), l.next()); err != nil {
		return err
	}
	if kill {
		l.kills++
		l.kill()
		return errors.Join(l.start(), l.next()) // who began while there was none is excused too
	}
	l.terms++
	if err := l.daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-l.ended:
		l.daemon = nil
	case <-time.After(time.Minute):
		return errors.New("the daemon lives a minute after SIGTERM")
	}
	l.detach()
	return errors.Join(l.start(), l.next())
}

// pause stops the daemon for a time.
func (l *lake) pause(d time.Duration) error {
	l.stops++
	if err := l.daemon.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	time.Sleep(d)
	return l.daemon.Process.Signal(syscall.SIGCONT)
}

// try runs a command of tarn and gives all it printed.
func (l *lake) try(args ...string) (string, int) {
	out, errs, code := l.run(args...)
	return out + errs, code
}

func (l *lake) run(args ...string) (stdout, stderr string, code int) {
	cmd := exec.Command("timeout", append([]string{"120", l.o.tarn}, args...)...)
	cmd.Env = append(os.Environ(), "TARN_LAKE="+l.dir)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, _ := cmd.Output() // the exit code says it
	return string(out), errs.String(), cmd.ProcessState.ExitCode()
}

// unsent counts what the journal holds and will send.
func (l *lake) unsent() (n int, err error) {
	out, errs, code := l.run("uploads", "ls", "--json") // stderr may tell of orphans
	if code != 0 && code != 9 {
		return 0, fmt.Errorf("uploads ls: exit %d: %s%s", code, out, errs)
	}
	for line := range strings.Lines(out) {
		var u struct{ State string }
		if err := json.Unmarshal([]byte(line), &u); err != nil {
			return 0, fmt.Errorf("uploads ls: %w: %s", err, line)
		}
		if u.State != "ABANDONED" {
			n++
		}
	}
	return n, nil
}

// compare proves the lake equal to the models: with the daemon that worked, and through
// an empty cache with another one.
func (l *lake) compare(models []*model) error {
	began := time.Now()
	for {
		n, err := l.unsent()
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if time.Since(began) > 2*time.Minute {
			return fmt.Errorf("%d files are not safe 2 minutes after the work ended", n)
		}
		time.Sleep(100 * time.Millisecond)
	}
	l.settled = time.Since(began)
	began = time.Now()
	if err := l.equal(models, "after the work"); err != nil {
		return err
	}
	if err := l.calm(); err != nil {
		return err
	}
	// What a crash left unfinished stays in the journal.
	if out, code := l.try("umount", "--now", "--force", l.mnt); code != 0 {
		return fmt.Errorf("umount: exit %d: %s", code, out)
	}
	select {
	case err := <-l.ended:
		l.daemon = nil
		if err != nil {
			return fmt.Errorf("the daemon at its unmount: %w", err)
		}
	case <-time.After(time.Minute):
		return errors.New("the daemon lives a minute after its unmount")
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(l.dir, "cache")), l.next(), l.start()); err != nil {
		return err
	}
	if err := l.equal(models, "through an empty cache"); err != nil {
		return err
	}
	if out, code := l.try("verify", "/ctao"); code != 0 && code != 9 {
		return fmt.Errorf("verify: exit %d: %s", code, out)
	}
	l.compared = time.Since(began)
	return l.sound()
}

func (l *lake) equal(models []*model, when string) error {
	l.files = 0
	for _, m := range models {
		got, err := m.look()
		if err != nil {
			return fmt.Errorf("%s: %w", when, err)
		}
		for name, b := range m.Files {
			if x, ok := got[name]; !ok || !bytes.Equal(x, b) {
				return fmt.Errorf("%s: %s/%s has %d bytes (there: %v), want %d; %s", when, m.Dir, name, len(x), ok, len(b), m.Story[name])
			}
		}
		for name, b := range got {
			if _, ok := m.Files[name]; !ok {
				return fmt.Errorf("%s: %s/%s is there, %d bytes, and should not; %s", when, m.Dir, name, len(b), m.Story[name])
			}
		}
		l.files += len(got)
	}
	return nil
}

// calm wants a daemon that holds about what it held at its start.
func (l *lake) calm() (err error) {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if l.now, err = l.usage(); err != nil {
			return err
		}
		if l.now.fds <= l.base.fds && l.now.goroutines <= l.base.goroutines && l.now.rss <= l.base.rss {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("at rest the daemon holds %+v; at most %+v is right", l.now, l.base)
		}
	}
}

func (l *lake) usage() (u usage, err error) {
	proc := fmt.Sprintf("/proc/%d", l.daemon.Process.Pid)
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		return u, err
	}
	u.fds = len(fds)
	b, err := os.ReadFile(proc + "/statm")
	if err != nil {
		return u, err
	}
	if f := strings.Fields(string(b)); len(f) > 1 {
		pages, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return u, err
		}
		u.rss = pages * int64(os.Getpagesize())
	}
	if b, err = os.ReadFile(l.path(".tarn/stats")); err != nil {
		return u, err
	}
	var s struct {
		Goroutines int `json:"goroutines"`
	}
	err = json.Unmarshal(b, &s)
	u.goroutines = s.Goroutines
	return u, err
}

// sound looks for what no healthy daemon writes into its log.
func (l *lake) sound() error {
	b, err := os.ReadFile(filepath.Join(l.work, "daemon.log"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		for _, bad := range []string{"replica declared BAD", "panic:", "fatal error:", "DATA RACE", "unexpected fault address"} {
			if strings.Contains(line, bad) {
				return fmt.Errorf("the daemon said: %s", strings.TrimSpace(line))
			}
		}
	}
	return nil
}
