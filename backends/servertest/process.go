package servertest

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// folder makes one that other users may look into, whatever TMPDIR is, and removes it with the test.
func folder(t testing.TB, what string) string {
	t.Helper()
	base := os.TempDir()
	if os.Geteuid() == 0 {
		base = "/tmp" // servers that refuse root run as somebody else
	}
	dir, err := os.MkdirTemp(base, "tarn-"+what+"-")
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// account gives user and group of a name, or of this process when it is not root's or there is no such user.
func account(name string) (uid, gid int) {
	if u, err := user.Lookup(name); err == nil && os.Geteuid() == 0 {
		uid, _ = strconv.Atoi(u.Uid)
		gid, _ = strconv.Atoi(u.Gid)
		return uid, gid
	}
	return os.Geteuid(), os.Getegid()
}

// Server is a running storage server.
type Server struct {
	HTTP  string // http://127.0.0.1:port, "" when it has none
	HTTPS string // https://localhost:port, "" when it has none
	Root  string // root://127.0.0.1:port, or root://localhost:port with Login, "" when it has none
	Roots string // roots://localhost:port, "" when it has none
	FTP   string // gsiftp://localhost:port or ftp://127.0.0.1:port, "" when it has none
	S3    string // s3s://localhost:port or s3://127.0.0.1:port, "" when it has none
	// Dir is the folder whose content it serves.
	Dir string
	// Tape is the folder that stands for its tapes; "" when it has none.
	Tape string
	// Keytab is what clients log in with by sss; "" when there is no such login.
	Keytab string
	// Cluster is its cmsd, a process of its own; nil when it is in no cluster.
	Cluster *Server
	// Log is the file of its messages.
	Log string

	t        testing.TB
	name     string
	addrs    []string // that it listens at, in the order of the sockets it gets
	ready    func() bool
	command  func() *exec.Cmd
	certify  func(*Identity)
	patience time.Duration // how long it may take to serve; 0 is half a minute

	mu    sync.Mutex // guards the rest
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
}

// listen finds a free port for each of n sockets and keeps them until Start has handed them over.
func listen(t testing.TB, n int) (addrs []string, ls []*net.TCPListener) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		must(t, err)
		ls = append(ls, l.(*net.TCPListener))
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, ls
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// Start starts it, again after Stop or Kill at the same addresses, and waits until it serves.
func (s *Server) Start() {
	s.t.Helper()
	var ls []*net.TCPListener
	for _, a := range s.addrs {
		l, err := net.Listen("tcp4", a)
		must(s.t, err)
		ls = append(ls, l.(*net.TCPListener))
	}
	s.start(ls)
}

// start hands the sockets over as descriptors 3 and up: no other process can take a port in between.
func (s *Server) start(ls []*net.TCPListener) {
	s.t.Helper()
	cmd := s.command()
	for _, l := range ls {
		f, err := l.File()
		must(s.t, err)
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		defer f.Close()
		defer l.Close()
	}
	out, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	must(s.t, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own, so that Stop reaches its workers, and an end with the test in any case.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	must(s.t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	s.mu.Lock()
	s.cmd, s.ended = cmd, ended
	s.mu.Unlock()
	deadline := time.Now().Add(cmp.Or(s.patience, 30*time.Second))
	for !s.ready() {
		select {
		case <-ended:
			s.t.Fatalf("%s ended; its log ends with:\n%s", s.name, s.LogTail())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s did not start; its log ends with:\n%s", s.name, s.LogTail())
		}
	}
}

// Certify gives an XRootD server another host certificate from its next start on, a GridFTP server from its next connection on.
func (s *Server) Certify(id *Identity) { s.certify(id) }

// Stop ends it in peace.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends it at once.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

func (s *Server) end(sig syscall.Signal) {
	s.mu.Lock()
	cmd, ended := s.cmd, s.ended
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGCONT)
	syscall.Kill(-cmd.Process.Pid, sig)
	t := time.AfterFunc(5*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer t.Stop()
	<-ended
}

// Pause freezes it: its sockets stay open and nothing responds. Resume goes on.
func (s *Server) Pause() {
	s.t.Helper()
	s.signal(syscall.SIGSTOP)
	// A thread that runs on another processor may still answer once.
	for deadline := time.Now().Add(10 * time.Second); !s.stopped(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not freeze", s.name)
		}
	}
}

// stopped tells whether every thread of its processes is.
func (s *Server) stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return true
	}
	stats, err := filepath.Glob("/proc/[0-9]*/task/*/stat")
	must(s.t, err)
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// After the name, which may hold anything: state, parent, process group (proc_pid_stat(5)).
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) > 2 && f[2] == strconv.Itoa(s.cmd.Process.Pid) && f[0] != "T" && f[0] != "Z" {
			return false
		}
	}
	return true
}

// Resume ends a Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		syscall.Kill(-s.cmd.Process.Pid, sig)
	}
}

// LogTail is the end of what it said.
func (s *Server) LogTail() string {
	b, err := os.ReadFile(s.Log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// Path is where the server has the file of a path below its URL.
func (s *Server) Path(p string) string { return filepath.Join(s.Dir, filepath.FromSlash(p)) }

// dials tells whether somebody serves at an address.
func dials(addr string) bool {
	c, err := net.DialTimeout("tcp4", addr, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// as gives a command that runs as uid and gid.
func as(uid, gid int, args ...string) []string {
	if uid == os.Geteuid() {
		return args
	}
	return append([]string{"setpriv", fmt.Sprint("--reuid=", uid), fmt.Sprint("--regid=", gid), "--clear-groups", "--pdeathsig=TERM"}, args...)
}
