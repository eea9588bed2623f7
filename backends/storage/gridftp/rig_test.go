package gridftp

import (
	"bytes"
	"context"
	"errors"
	iofs "io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
)

func put(s *Storage, path string, data []byte) error {
	u, err := s.Create(context.Background(), path, int64(len(data)))
	if err != nil {
		return err
	}
	defer u.Abort()
	for rest := data; len(rest) > 0; {
		n, err := u.Write(rest[:min(len(rest), 1<<20)])
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	_, err = u.Commit(context.Background(), backendstest.Sums(data))
	return err
}

func want(t *testing.T, what string, err error, words ...any) {
	t.Helper()
	for _, w := range words {
		switch w := w.(type) {
		case error:
			if !errors.Is(err, w) {
				t.Errorf("%s: got %v, want %v", what, err, w)
			}
		case string:
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: got %v, want %q in it", what, err, w)
			}
		}
	}
	for _, e := range []error{iofs.ErrNotExist, iofs.ErrPermission, iofs.ErrExist, iofs.ErrClosed, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			t.Errorf("%s: %v leaks %v", what, err, e)
		}
	}
}

func open(t *testing.T, s *Storage, path string) backends.Object {
	t.Helper()
	o, err := s.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// read reads n bytes at off and compares them.
func read(ctx context.Context, o backends.Object, data []byte, off, n int) error {
	p := make([]byte, n)
	m, err := o.ReadAt(ctx, p, int64(off))
	if err != nil {
		return err
	}
	if !bytes.Equal(p[:m], data[off:off+n]) {
		return errors.New("other bytes")
	}
	return nil
}

// empty tells whether nothing but folders is in the server's folder, temporaries included.
func empty(t *testing.T, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(p string, d iofs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("%s was left", p)
		}
		return nil
	})
}

// counting counts connections: to the control port, and others.
type counting struct{ control, data atomic.Int64 }

func (c *counting) watch(s *Storage) {
	dial := s.dial
	s.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		if addr == s.end.addr {
			c.control.Add(1)
		} else {
			c.data.Add(1)
		}
		return dial(ctx, addr)
	}
}

// conn lets a test do things to a data connection.
type conn struct {
	net.Conn
	read, write func(c net.Conn, p []byte) (int, error)
}

func (c *conn) Read(p []byte) (int, error) {
	if c.read != nil {
		return c.read(c.Conn, p)
	}
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	if c.write != nil {
		return c.write(c.Conn, p)
	}
	return c.Conn.Write(p)
}

// onData changes the data connections of a storage while on is set.
func onData(s *Storage, on *atomic.Bool, change func(net.Conn) net.Conn) {
	dial := s.dial
	s.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := dial(ctx, addr)
		if err == nil && addr != s.end.addr && on.Load() {
			c = change(c)
		}
		return c, err
	}
}

func names(t *testing.T, s *Storage, dir string) (out []string) {
	t.Helper()
	for a, err := range s.List(t.Context(), dir) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a.Path)
	}
	return out
}

// settled waits until no goroutine of this package is left.
func settled(t *testing.T) {
	t.Helper()
	var dump string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		b := make([]byte, 1<<20)
		dump = string(b[:runtime.Stack(b, true)])
		own := slices.DeleteFunc(strings.Split(dump, "\n\n"), func(g string) bool {
			return !strings.Contains(g, "storage/gridftp.") || strings.Contains(g, "testing.tRunner") || strings.Contains(g, "gridftp.fake")
		})
		if len(own) == 0 {
			return
		}
		dump = strings.Join(own, "\n\n")
	}
	t.Errorf("goroutines are left:\n%s", dump)
}

func write(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
