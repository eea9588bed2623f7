package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
)

// serveOne serves one operation over a connection in memory.
func serveOne(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	m := http.NewServeMux()
	m.HandleFunc("POST /v1/op", h)
	ln := newPipeListener()
	srv := &http.Server{Handler: m}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	c := newClient(ln.dial)
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), srv.Close()); err != nil {
			t.Error(err)
		}
		<-done
	})
	return c
}

func TestCall(t *testing.T) {
	type req struct{ N int }
	c := serveOne(t, operation(func(_ context.Context, r req, out *stream) (any, error) {
		for i := range r.N {
			if err := out.item(i); err != nil {
				return nil, err
			}
			out.progress(Progress{Files: int64(i)})
		}
		if r.N == 3 {
			return nil, fmt.Errorf("three: %w", backends.ErrLost)
		}
		return Count{Done: int64(r.N)}, nil
	}))
	var items []int
	var last Progress
	var sum Count
	err := Call(t.Context(), c, "op", req{1000}, func(i int) error { items = append(items, i); return nil }, func(p Progress) { last = p }, &sum)
	if err != nil || len(items) != 1000 || items[999] != 999 || last.Files != 999 || sum.Done != 1000 {
		t.Errorf("%d items, progress %v, summary %v, error %v", len(items), last, sum, err)
	}
	items = nil
	err = Call(t.Context(), c, "op", req{3}, func(i int) error { items = append(items, i); return nil }, nil, nil)
	if !errors.Is(err, backends.ErrLost) || len(items) != 3 || Describe(err).Code != CodeCorrupt {
		t.Errorf("an error after %d items arrives as %v", len(items), err)
	}
	stop := errors.New("enough")
	if err := Call(t.Context(), c, "op", req{1000}, func(int) error { return stop }, nil, nil); !errors.Is(err, stop) {
		t.Errorf("an error of the consumer is %v", err)
	}
	err = Call[int](t.Context(), c, "op", map[string]int{"M": 1}, nil, nil, nil)
	if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), `"M"`) {
		t.Errorf("an unknown field gives %v", err)
	}
	if err := Call[int](t.Context(), c, "nope", req{}, nil, nil, nil); !errors.Is(err, ErrFatal) || !strings.Contains(err.Error(), "/v1/nope") {
		t.Errorf("an unknown operation gives %v", err)
	}
}

// An answer that ends without its last line was cut short, whatever stands in it.
func TestCutShort(t *testing.T) {
	for _, body := range []string{"", `{"item":1}` + "\n", `{"item":1}` + "\n" + `{"done":{}`} {
		c := serveOne(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
		if err := Call[int](t.Context(), c, "op", struct{}{}, nil, nil, nil); !errors.Is(err, ErrCutShort) {
			t.Errorf("%q gives %v, want ErrCutShort", body, err)
		}
	}
	c := serveOne(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `{"item":1}`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	if err := Call[int](t.Context(), c, "op", struct{}{}, nil, nil, nil); !errors.Is(err, ErrCutShort) {
		t.Errorf("a dying daemon gives %v, want ErrCutShort", err)
	}
}

// The end of a client's context reaches the operation, and the client does not wait.
func TestCallIsCancelled(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	c := serveOne(t, operation(func(ctx context.Context, _ struct{}, _ *stream) (any, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	if err := Call[int](ctx, c, "op", struct{}{}, nil, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the operation goes on")
	}
}

// When Close has returned nothing of the service runs any more, so what it stands on can
// be closed.
func TestCloseWaitsForAnswers(t *testing.T) {
	began := make(chan struct{})
	var ended atomic.Bool
	s := &Server{done: make(chan error, 1)}
	s.http = &http.Server{Handler: s.track(operation(func(ctx context.Context, _ struct{}, _ *stream) (any, error) {
		close(began)
		<-ctx.Done()
		time.Sleep(50 * time.Millisecond) // the tidying up of an operation
		ended.Store(true)
		return nil, ctx.Err()
	}))}
	ln := newPipeListener()
	go func() { s.done <- s.http.Serve(ln) }()
	c := newClient(ln.dial)
	go func() { _ = Call[int](context.Background(), c, "op", struct{}{}, nil, nil, nil) }()
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
	if !ended.Load() {
		t.Error("Close returned while an operation ran")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestContentTrailer(t *testing.T) {
	for _, p := range []struct {
		trailer string
		want    error
	}{{`{"done":{}}`, nil}, {"", ErrCutShort}, {`{"error":{"code":13,"kind":"corrupt","message":"bad"}}`, backends.ErrCorrupt}} {
		m := http.NewServeMux()
		m.HandleFunc("POST /v1/content", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", trailer)
			fmt.Fprint(w, "abc")
			if p.trailer != "" {
				w.Header().Set(trailer, p.trailer)
			}
		})
		ln := newPipeListener()
		srv := &http.Server{Handler: m}
		go func() { _ = srv.Serve(ln) }()
		c := newClient(ln.dial)
		r, err := c.Get(t.Context(), "/x", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if string(b) != "abc" || !errors.Is(err, p.want) {
			t.Errorf("trailer %q: %q, %v; want %v", p.trailer, b, err, p.want)
		}
		if err := errors.Join(r.Close(), c.Close(), srv.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestListenAndDial(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	if _, _, err := Dial(t.Context(), run); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("without a daemon: %v", err)
	}
	ln, done, err := Listen(run, Daemon{PID: 7, Lake: "/l"})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	st, err := os.Stat(filepath.Join(run, "control.sock"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want mode 0600", st, err)
	}
	if st, err := os.Stat(run); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("run folder: %v, %v; want mode 0700", st, err)
	}
	c, d, err := Dial(t.Context(), run)
	if err != nil || d.PID != 7 || d.Lake != "/l" || !c.Remote() {
		t.Fatalf("dial: %+v, %v", d, err)
	}
	if err := errors.Join(c.Close(), srv.Close(), done()); err != nil {
		t.Error(err)
	}
	<-served
	if names, _ := os.ReadDir(run); len(names) != 0 {
		t.Errorf("left over: %v", names)
	}

	// What a killed daemon leaves: a socket that nobody listens on.
	ln, _, err = Listen(run, Daemon{PID: 8})
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Dial(t.Context(), run); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("a dead daemon's socket: %v, want ErrNoDaemon", err)
	}
	_, done, err = Listen(run, Daemon{PID: 9})
	if err != nil {
		t.Fatalf("listen over a dead socket: %v", err)
	}
	if err := done(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(run, "daemon.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Dial(t.Context(), run); err == nil || errors.Is(err, ErrNoDaemon) {
		t.Errorf("a damaged daemon.json: %v", err)
	}
}

// A folder whose path is too long for a socket gets one elsewhere.
func TestSocketPath(t *testing.T) {
	long := "/" + strings.Repeat("x", 120) + "/run"
	for _, p := range []struct{ run, runtime, want string }{
		{"/l/run", "/run/user/7", "/l/run/control.sock"},
		{long, "/run/user/7", "/run/user/7/tarn/"},
		{long, "", "/tmp/tarn-7/"},
		{long, long, "/tmp/tarn-7/"},
		{long, "relative", "/tmp/tarn-7/"},
	} {
		got, err := socketPath(p.run, p.runtime, 7)
		if err != nil || !strings.HasPrefix(got, p.want) || len(got) > maxSocketPath {
			t.Errorf("socketPath(%.20s, %.20s) is %s, %v; want %s", p.run, p.runtime, got, err, p.want)
		}
	}
	run := filepath.Join(t.TempDir(), strings.Repeat("y", 100), "run")
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	ln, done, err := Listen(run, Daemon{})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := ReadDaemon(run); err != nil || d.Socket != ln.Addr().String() {
		t.Errorf("daemon.json names %q, the socket is %s; %v", d.Socket, ln.Addr(), err)
	}
	if err := done(); err != nil {
		t.Error(err)
	}
}

// A folder in /tmp that is somebody else's, or a link, is not used.
func TestPrivateDir(t *testing.T) {
	base := t.TempDir()
	link := filepath.Join(base, "link")
	if err := os.Symlink(base, link); err != nil {
		t.Fatal(err)
	}
	if err := privateDir(link); !errors.Is(err, backends.ErrNotDir) {
		t.Errorf("a link: %v", err)
	}
	open := filepath.Join(base, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := privateDir(open); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(open); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("an open folder stays %v, %v", st, err)
	}
	if os.Getuid() == 0 {
		foreign := filepath.Join(base, "foreign")
		if err := errors.Join(os.Mkdir(foreign, 0o700), os.Chown(foreign, 12345, 12345)); err != nil {
			t.Fatal(err)
		}
		if err := privateDir(foreign); !errors.Is(err, backends.ErrPermission) {
			t.Errorf("somebody else's folder: %v", err)
		}
	}
}

func FuzzReadStream(f *testing.F) {
	f.Add(`{"item":1}` + "\n" + `{"done":{}}` + "\n")
	f.Add(`{"error":{"code":4}}` + "\n")
	f.Add(`{"progress":{"files":1}}` + "\n")
	f.Add("null\n[]\n")
	f.Fuzz(func(t *testing.T, s string) {
		done, err := readStream(strings.NewReader(s), nil, nil)
		if (done == nil) == (err == nil) {
			t.Errorf("%q: %s, %v", s, done, err)
		}
	})
}
