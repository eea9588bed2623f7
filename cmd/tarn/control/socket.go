package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"tarn/backends"
)

// maxSocketPath is what sun_path holds on Linux (unix(7)): 108 bytes and a NUL in them.
const maxSocketPath = 107

// Daemon is what the process that serves a lake writes down in its run folder, as
// daemon.json, for those who look for it.
type Daemon struct {
	PID        int       `json:"pid"`
	Supervisor int       `json:"supervisor,omitempty"` // pid of the process that starts it again; 0: there is none
	Socket     string    `json:"socket"`
	Lake       string    `json:"lake"` // its file
	Mountpoint string    `json:"mountpoint,omitempty"`
	Started    time.Time `json:"started"`
	Version    string    `json:"version,omitempty"`
	IOURing    bool      `json:"io_uring,omitempty"` // requests come over it
}

// Listen opens the control socket of a lake and writes d, completed, to daemon.json.
// The caller holds the lake's lock, so a socket that is there already is a dead one's
// and is replaced. done closes the socket and removes both files.
//
// The socket is run/control.sock. Where that is too long for a socket, it is in
// $XDG_RUNTIME_DIR/tarn, or else /tmp/tarn-UID, under a name made of the run folder.
func Listen(run string, d Daemon) (ln net.Listener, done func() error, err error) {
	if err := privateDir(run); err != nil {
		return nil, nil, fmt.Errorf("open control socket: %w", err)
	}
	d.Socket, err = socketPath(run, os.Getenv("XDG_RUNTIME_DIR"), os.Getuid())
	if err != nil {
		return nil, nil, fmt.Errorf("open control socket: %w", err)
	}
	if err := privateDir(filepath.Dir(d.Socket)); err != nil {
		return nil, nil, fmt.Errorf("open control socket: %w", err)
	}
	if err := os.Remove(d.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("open control socket: %w", err)
	}
	ln, err = net.Listen("unix", d.Socket)
	if err != nil {
		return nil, nil, fmt.Errorf("open control socket: %w", err)
	}
	// The folder is private, so nobody can connect before the mode is set.
	if err := os.Chmod(d.Socket, 0o600); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open control socket: %w", err), ln.Close())
	}
	file := filepath.Join(run, "daemon.json")
	if err := writeJSON(file, d); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open control socket: %w", err), ln.Close())
	}
	return ln, func() error {
		err := ln.Close() // removes the socket
		if errors.Is(err, net.ErrClosed) {
			err = nil
		}
		return errors.Join(err, os.Remove(file))
	}, nil
}

// socketPath chooses the place of the socket.
func socketPath(run, runtimeDir string, uid int) (string, error) {
	p := filepath.Join(run, "control.sock")
	if len(p) <= maxSocketPath {
		return p, nil
	}
	sum := sha256.Sum256([]byte(run))
	name := hex.EncodeToString(sum[:8]) + ".sock"
	for _, dir := range []string{filepath.Join(runtimeDir, "tarn"), fmt.Sprintf("/tmp/tarn-%d", uid)} {
		if p := filepath.Join(dir, name); filepath.IsAbs(p) && len(p) <= maxSocketPath {
			return p, nil
		}
	}
	return "", fmt.Errorf("no place for a socket of %s", run)
}

// privateDir makes dir with mode 0700, or checks that it is ours and closed to others:
// in /tmp somebody else may have been there first.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !st.IsDir():
		return fmt.Errorf("%s: %w", dir, backends.ErrNotDir)
	case ok && int(sys.Uid) != os.Getuid():
		return fmt.Errorf("%s belongs to uid %d: %w", dir, sys.Uid, backends.ErrPermission)
	case st.Mode().Perm()&0o077 != 0:
		return os.Chmod(dir, 0o700)
	}
	return nil
}

// writeJSON replaces a file as a whole.
func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%d", file, os.Getpid())
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, file); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// ReadDaemon reads what the process that serves a lake wrote down. ErrNoDaemon when
// there is nothing; what is there may be a dead one's.
func ReadDaemon(run string) (Daemon, error) {
	var d Daemon
	b, err := os.ReadFile(filepath.Join(run, "daemon.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return d, ErrNoDaemon
	}
	if err != nil {
		return d, fmt.Errorf("look for the daemon: %w", err)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("look for the daemon: read %s: %w", filepath.Join(run, "daemon.json"), err)
	}
	return d, nil
}

// Dial connects to the daemon of the lake with that run folder. ErrNoDaemon when none
// runs, also when a dead one left its files. A socket that is not ours is refused.
func Dial(ctx context.Context, run string) (*Client, Daemon, error) {
	d, err := ReadDaemon(run)
	if err != nil {
		return nil, d, err
	}
	st, err := os.Lstat(d.Socket)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, d, ErrNoDaemon
	}
	if err != nil {
		return nil, d, fmt.Errorf("connect to the daemon: %w", err)
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Getuid() && os.Getuid() != 0 {
		return nil, d, fmt.Errorf("connect to the daemon: %s belongs to uid %d: %w", d.Socket, sys.Uid, backends.ErrPermission)
	}
	var nd net.Dialer
	dial := func(ctx context.Context) (net.Conn, error) { return nd.DialContext(ctx, "unix", d.Socket) }
	conn, err := dial(ctx)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil, d, ErrNoDaemon
	}
	if err != nil {
		return nil, d, fmt.Errorf("connect to the daemon: %w", err)
	}
	if err := conn.Close(); err != nil {
		return nil, d, fmt.Errorf("connect to the daemon: %w", err)
	}
	c := newClient(dial)
	c.remote = true
	return c, d, nil
}

// pipeListener hands out connections that stay within the process.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close must be called once.
func (l *pipeListener) Close() error   { close(l.done); return nil }
func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "this process" }
