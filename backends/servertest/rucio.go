package servertest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tarn/integration/needed"
)

// RucioPassword is that of every account of a Rucio server here; RucioRoot is its administrator.
const (
	RucioRoot     = "root"
	RucioPassword = "secret"
)

// RucioOptions say what a Rucio server is like.
type RucioOptions struct {
	// Version is Rucio's line: "38", which "" is too, or "41", which is for LONG in the environment.
	Version string
	// CTAO gives it CTAO's policy package: names begin with a slash, lfn2pfn is ctao_bdms, and // in URLs is folded as by Apache.
	CTAO bool
	// PKI makes it serve HTTPS in place of HTTP, where users may come with certificates and proxies (x509, x509_proxy).
	PKI *PKI
	// Own gives the test a server that no other test sees; one with PKI always is.
	Own bool
}

// RucioServer is a running Rucio server, as one test has it. Its helpers end the test when they fail.
type RucioServer struct {
	// URL is http://127.0.0.1:port, or https://localhost:port with PKI.
	URL string
	// CA is the file of the authority of HTTPS, "" without.
	CA string
	// Dir is where it lives: Dir/env, Dir/etc/rucio.cfg (a client's, of root), Dir/log, Dir/bin.
	Dir string

	t      testing.TB
	at     *rucioInstance
	client *http.Client
	rses   []string // that this test added
}

// rucioInstance is what several tests may share.
type rucioInstance struct {
	dir, url, ca string
	memcached    string
	web          *Server
	keep         *exec.Cmd // rucio-up, which has PostgreSQL and memcached, and ends with its standard input
	hold         io.Closer
	ended        chan struct{} // closed when keep has

	mu        sync.Mutex // guards the rest
	driver    *rucioDriver
	token     string
	tokenTill time.Time
	names     int
}

var rucios struct {
	sync.Mutex
	shared map[RucioOptions]*rucioInstance
}

// Rucio gives a real Rucio server (scripts/rucio-up), with the account root and nothing else of use: Add… makes the rest.
// Tests share one of the same options, which starts with the first and ends with the test binary, or by StopRucio; names from
// Unique keep them apart. It takes some 6 s to start on an idle machine.
func Rucio(t testing.TB, o RucioOptions) *RucioServer {
	t.Helper()
	needed.Server(t)
	if o.Version == "" {
		o.Version = "38"
	}
	if o.Version != "38" && os.Getenv("LONG") == "" {
		t.Skipf("Rucio %s is for make test-long", o.Version)
	}
	var at *rucioInstance
	if o.Own || o.PKI != nil {
		at = startRucio(t, o)
		t.Cleanup(at.stop)
	} else {
		rucios.Lock()
		defer rucios.Unlock()
		if at = rucios.shared[o]; at == nil {
			at = startRucio(t, o)
			if rucios.shared == nil {
				rucios.shared = map[RucioOptions]*rucioInstance{}
			}
			rucios.shared[o] = at
		}
		at.web.t = t
		t.Cleanup(at.revive)
	}
	tr := &http.Transport{MaxIdleConnsPerHost: 8}
	if at.ca != "" {
		tr.TLSClientConfig = &tls.Config{RootCAs: pool(t, at.ca)}
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &RucioServer{URL: at.url, CA: at.ca, Dir: at.dir, t: t, at: at, client: &http.Client{Transport: tr, Timeout: 2 * time.Minute}}
}

// StopRucio ends the servers that tests shared; the next one starts another.
func StopRucio() {
	rucios.Lock()
	defer rucios.Unlock()
	for _, at := range rucios.shared {
		at.stop()
	}
	rucios.shared = nil
}

// scripts is the folder of the project's.
func scripts(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	must(t, err)
	for ; !exists(filepath.Join(dir, "go.mod")); dir = filepath.Dir(dir) {
		if dir == "/" {
			t.Fatal("no go.mod above the working folder")
		}
	}
	return filepath.Join(dir, "scripts")
}

func startRucio(t testing.TB, o RucioOptions) *rucioInstance {
	t.Helper()
	look := exec.Command(filepath.Join(scripts(t), "rucio/venv.sh"), o.Version)
	look.Env = append(os.Environ(), "CHECK=1")
	if out, err := look.CombinedOutput(); err != nil {
		needed.Missing(t, "%s", bytes.TrimSpace(out))
	}
	at := &rucioInstance{ended: make(chan struct{})}
	var err error
	// Not the test's: it may be others' too. rucio-up removes it.
	at.dir, err = os.MkdirTemp("/tmp", "tarn-rucio-")
	must(t, err)
	must(t, os.Chmod(at.dir, 0o755))
	args := []string{"--foreground", "--remove", "--no-server", "--version", o.Version, "--dir", at.dir, "--rses", "0", "--user", "nobody", "--password", RucioPassword}
	if o.CTAO {
		args = append(args, "--policy", "ctao")
	}
	if o.PKI != nil {
		cert, key := filepath.Join(o.PKI.Dir, "rucio-hostcert.pem"), filepath.Join(o.PKI.Dir, "rucio-hostkey.pem")
		o.PKI.Host.Write(t, cert, key)
		at.ca = filepath.Join(o.PKI.Dir, "rucio-ca.pem")
		must(t, os.WriteFile(at.ca, pemOf("CERTIFICATE", o.PKI.CA.Cert.Raw), 0o644))
		args = append(args, "--tls", "--cert", cert, "--key", key, "--ca", at.ca)
	}
	at.keep = exec.Command(filepath.Join(scripts(t), "rucio-up"), args...)
	at.keep.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what a terminal sends is ours alone
	var said bytes.Buffer
	at.keep.Stderr = &said
	out, err := at.keep.StdoutPipe()
	must(t, err)
	at.hold, err = at.keep.StdinPipe() // its end, also by our death, is the server's
	must(t, err)
	must(t, at.keep.Start())
	slow := time.AfterFunc(3*time.Minute, func() { at.hold.Close() })
	line, _ := bufio.NewReader(out).ReadString('\n')
	slow.Stop()
	go func() {
		at.keep.Wait()
		close(at.ended)
	}()
	if line == "" {
		at.hold.Close()
		<-at.ended
		os.RemoveAll(at.dir)
		if at.keep.ProcessState.ExitCode() == 3 {
			needed.Missing(t, "%s", bytes.TrimSpace(said.Bytes()))
		}
		t.Fatalf("rucio-up: %v\n%s", at.keep.ProcessState, said.Bytes())
	}
	env := map[string]string{}
	text, err := os.ReadFile(filepath.Join(at.dir, "env"))
	must(t, err)
	for l := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(l, "export ")), "="); ok {
			env[k] = strings.Trim(v, "'")
		}
	}
	at.url, at.memcached = env["RUCIO_URL"], "127.0.0.1:"+env["RUCIO_MEMCACHED_PORT"]
	at.web = &Server{t: t, name: "rucio", HTTP: at.url, Dir: at.dir, Log: filepath.Join(at.dir, "log/gunicorn"), addrs: []string{"127.0.0.1:" + env["RUCIO_PORT"]}, patience: 3 * time.Minute}
	at.web.command = func() *exec.Cmd {
		cmd := exec.Command(filepath.Join(at.dir, "bin/serve"))
		cmd.Env = append(os.Environ(), "LISTEN_FDS=1")
		return cmd
	}
	ping := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	if at.ca != "" {
		ping.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool(t, at.ca)}
	}
	at.web.ready = func() bool {
		resp, err := ping.Get(at.url + "/ping")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	started := false
	defer func() {
		if !started { // Start has ended the test
			at.stop()
		}
	}()
	at.web.Start()
	started = true
	return at
}

// stop ends all of it and waits until nothing is left.
func (at *rucioInstance) stop() {
	at.mu.Lock()
	at.endDriver()
	at.mu.Unlock()
	at.web.Stop()
	at.hold.Close()
	select {
	case <-at.ended:
	case <-time.After(time.Minute):
		syscall.Kill(-at.keep.Process.Pid, syscall.SIGKILL) // its children die with it
		<-at.ended
	}
}

// revive makes it serve again after a test that stopped or froze it.
func (at *rucioInstance) revive() {
	at.web.Resume()
	at.web.mu.Lock()
	gone := at.web.cmd == nil
	at.web.mu.Unlock()
	if gone {
		at.web.Start()
	}
}

// Stop ends the Rucio server in peace; its database and cache go on. Start starts it at the same address, and waits until it serves.
func (r *RucioServer) Stop()  { r.at.web.Stop() }
func (r *RucioServer) Start() { r.t.Helper(); r.at.web.Start() }

// Kill ends it at once.
func (r *RucioServer) Kill() { r.at.web.Kill() }

// Pause freezes it: its sockets stay open and nothing responds. Resume goes on.
func (r *RucioServer) Pause()  { r.t.Helper(); r.at.web.Pause() }
func (r *RucioServer) Resume() { r.at.web.Resume() }

// LogTail is the end of what the server said.
func (r *RucioServer) LogTail() string { return r.at.web.LogTail() }

// Client is the configuration of Rucio's own clients for an account that logs in by userpass.
func (r *RucioServer) Client(account string) (file string) {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.Dir, "etc/rucio.cfg"))
	must(r.t, err)
	for _, key := range []string{"username", "account"} {
		text = bytes.Replace(text, []byte("\n"+key+" = root\n"), []byte("\n"+key+" = "+account+"\n"), 1)
	}
	file = filepath.Join(r.t.TempDir(), account+".cfg")
	must(r.t, writeSecret(file, text))
	return file
}

// Run runs the real rucio client as root, and gives what it printed.
func (r *RucioServer) Run(args ...string) string {
	r.t.Helper()
	out, err := r.RunAs(filepath.Join(r.Dir, "etc/rucio.cfg"), nil, args...)
	if err != nil {
		r.t.Fatalf("rucio %q: %v\n%s", args, err, out)
	}
	return out
}

// RunAs runs it with a configuration, such as Client's, and vars added to its environment; out is all that it printed.
func (r *RucioServer) RunAs(config string, vars []string, args ...string) (out string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(r.Dir, "bin/rucio"), args...)
	cmd.Dir = r.Dir
	cmd.Env = append(append(os.Environ(), "RUCIO_CONFIG="+config, "NO_COLOR=1", "COLUMNS=500"), vars...)
	b, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return string(b), err
}

// pool is of the authorities of a file.
func pool(t testing.TB, file string) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(text) {
		t.Fatal(fmt.Errorf("%s: no certificates", file))
	}
	return p
}
