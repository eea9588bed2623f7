package gridftp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/retry"
	"tarn/backends/servertest"
	"tarn/integration/needed"
)

// A reader behind the retry decorator sees a pause, and the same bytes.
func TestServerKilledInMidRead(t *testing.T) {
	r := grid(t)
	s := r.open(t, func(o *Options) { o.Timeout = 5 * time.Second })
	data := backendstest.Bytes(1, 24<<20)
	if err := put(s, "f", data); err != nil {
		t.Fatal(err)
	}
	bare := open(t, s, "f")
	o, err := retry.NewStorage(s, retry.Options{Attempts: 50, Total: time.Minute, Max: 500 * time.Millisecond}).Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	const step = 1 << 20
	var restart sync.WaitGroup
	defer restart.Wait()
	for off := 0; off < len(data); off += step {
		if off == 8*step {
			if err := read(t.Context(), bare, data, 0, step); err != nil { // its transfer is parked
				t.Fatal(err)
			}
			r.Kill()
			err := read(t.Context(), bare, data, step, 8*step)
			want(t, "read of a dead server", err, backends.ErrUnavailable, backends.ErrTemporary)
			restart.Go(func() { time.Sleep(time.Second); r.Start() })
		}
		if err := read(t.Context(), o, data, off, step); err != nil {
			t.Fatalf("at %d: %v", off, err)
		}
	}
	if err := read(t.Context(), bare, data, step, step); err != nil {
		t.Errorf("the object that failed, after the restart: %v", err)
	}
	// An old session of the pool is no reason to fail.
	r.Kill()
	r.Start()
	if _, err := s.Stat(t.Context(), "f"); err != nil {
		t.Errorf("stat after a restart: %v", err)
	}
	s.Close()
}

func TestServerStoppedInMidRead(t *testing.T) {
	r := grid(t)
	const limit = time.Second
	s := r.open(t, func(o *Options) { o.Timeout = limit })
	data := backendstest.Bytes(2, 40<<20)
	if err := put(s, "f", data); err != nil {
		t.Fatal(err)
	}
	o := open(t, s, "f")
	if err := read(t.Context(), o, data, 0, 1<<20); err != nil {
		t.Fatal(err)
	}
	r.Pause()
	defer r.Resume()
	for what, f := range map[string]func() error{
		"read in a transfer": func() error { return read(t.Context(), o, data, 1<<20, 30<<20) },
		"read":               func() error { return read(t.Context(), o, data, 5<<20, 1<<20) },
		"stat":               func() error { _, err := s.Stat(t.Context(), "f"); return err },
		"put":                func() error { return put(s, "g", data) },
	} {
		start := time.Now()
		want(t, what, f(), backends.ErrUnavailable, backends.ErrTemporary)
		if d := time.Since(start); d > 6*limit {
			t.Errorf("%s took %v", what, d)
		}
	}
	// A caller that has had enough does not wait for the limit.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	start := time.Now()
	if _, err := s.Stat(ctx, "f"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stat: %v", err)
	}
	if d := time.Since(start); d > limit {
		t.Errorf("a caller that has had enough waited for %v", d)
	}
	cancel()
	r.Resume()
	if err := read(t.Context(), o, data, 0, len(data)); err != nil {
		t.Errorf("after the pause: %v", err)
	}
}

func TestDataConnectionCut(t *testing.T) {
	for streams, r := range map[int]*rig{1: anonymous(t), 4: grid(t)} {
		t.Run(fmt.Sprint(streams, " streams"), func(t *testing.T) {
			s := r.open(t, func(o *Options) { o.Streams = streams })
			data := backendstest.Bytes(3, 8<<20)
			if err := put(s, "f", data); err != nil {
				t.Fatal(err)
			}
			o := open(t, s, "f")
			var on atomic.Bool
			onData(s, &on, func(c net.Conn) net.Conn {
				left := 1 << 20
				cut := func(do func([]byte) (int, error)) func(net.Conn, []byte) (int, error) {
					return func(c net.Conn, p []byte) (int, error) {
						if left <= 0 {
							c.(*net.TCPConn).SetLinger(0)
							c.Close()
							return 0, unix.ECONNRESET
						}
						n, err := do(p[:min(len(p), left)])
						left -= n
						if n < len(p) && err == nil && left <= 0 {
							return n, nil
						}
						return n, err
					}
				}
				return &conn{Conn: c, read: cut(c.Read), write: func(c net.Conn, p []byte) (int, error) {
					n, err := cut(c.Write)(c, p)
					if n < len(p) && err == nil {
						c.(*net.TCPConn).SetLinger(0)
						c.Close()
						err = unix.ECONNRESET
					}
					return n, err
				}}
			})
			on.Store(true)
			want(t, "read", read(t.Context(), o, data, 0, len(data)), backends.ErrUnavailable, backends.ErrTemporary)
			want(t, "put", put(s, "g", data), backends.ErrUnavailable, backends.ErrTemporary)
			on.Store(false)
			if err := read(t.Context(), o, data, 0, len(data)); err != nil {
				t.Error(err)
			}
			if _, err := s.Stat(t.Context(), "g"); !errors.Is(err, backends.ErrNotExist) {
				t.Errorf("a cut upload: %v", err)
			}
			if err := s.Remove(t.Context(), "f"); err != nil {
				t.Error(err)
			}
			empty(t, r.Dir)
		})
	}
}

// To the server the end of the connection is that of the file: only its size tells that bytes were lost on the way.
func TestTruncatedUploadIsNotVisible(t *testing.T) {
	r := anonymous(t)
	s := r.open(t, nil)
	var on atomic.Bool
	on.Store(true)
	onData(s, &on, func(c net.Conn) net.Conn {
		left := 100_000
		return &conn{Conn: c, write: func(c net.Conn, p []byte) (int, error) {
			n, err := c.Write(p[:min(len(p), left)])
			left -= n
			return len(p), err // the rest is lost
		}}
	})
	want(t, "put", put(s, "f", backendstest.Bytes(4, 1<<20)), backends.ErrCorrupt, "100000 bytes of the 1048576 sent")
	if got := names(t, s, ""); len(got) != 0 {
		t.Errorf("visible: %q", got)
	}
	empty(t, r.Dir)
}

// What a crash left is removed after a day, and never shown.
func TestLeftOverUploads(t *testing.T) {
	r := anonymous(t)
	dir := filepath.Join(r.Dir, uploads)
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o777)
	write(t, filepath.Join(dir, "old"), nil)
	write(t, filepath.Join(dir, "young"), nil)
	long := time.Now().Add(-25 * time.Hour)
	os.Chtimes(filepath.Join(dir, "old"), long, long)
	s := r.open(t, nil)
	if err := put(s, "f", nil); err != nil {
		t.Fatal(err)
	}
	if got := names(t, s, ""); len(got) != 1 {
		t.Errorf("list: %q", got)
	}
	es, _ := os.ReadDir(dir)
	if len(es) != 1 || es[0].Name() != "young" {
		t.Errorf("left: %v", es)
	}
	_, err := s.Stat(t.Context(), uploads+"/young")
	want(t, "stat", err, backends.ErrName)
}

func TestFullStorage(t *testing.T) {
	needed.Root(t)
	dir := t.TempDir()
	os.Chmod(filepath.Dir(dir), 0o755)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=777"); err != nil {
		needed.Missing(t, "no tmpfs: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	srv := servertest.GridFTP(t, servertest.GridFTPOptions{Dir: dir})
	for _, streams := range []int{1, 3} {
		s := (&rig{Server: srv, o: Options{URL: srv.FTP + srv.Dir, Streams: streams}}).open(t, nil)
		want(t, "put", put(s, "big", backendstest.Bytes(5, 16<<20)), backends.ErrNoSpace)
		if got := names(t, s, ""); len(got) != 0 {
			t.Errorf("visible: %q", got)
		}
		empty(t, dir)
		if err := put(s, "small", backendstest.Bytes(5, 1<<20)); err != nil {
			t.Errorf("after it: %v", err)
		}
		s.Remove(t.Context(), "small")
		s.Close()
	}
}

func TestCancelledRead(t *testing.T) {
	r := grid(t)
	s := r.open(t, nil)
	data := backendstest.Bytes(6, 16<<20)
	if err := put(s, "f", data); err != nil {
		t.Fatal(err)
	}
	o := open(t, s, "f")
	var on atomic.Bool
	on.Store(true)
	var count atomic.Int64
	onData(s, &on, func(c net.Conn) net.Conn {
		return &conn{Conn: c, read: func(c net.Conn, p []byte) (int, error) {
			if count.Add(1) > 3 {
				time.Sleep(50 * time.Millisecond)
			}
			return c.Read(p[:min(len(p), 1000)])
		}}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := read(ctx, o, data, 0, len(data)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("the read ended after %v", d)
	}
	on.Store(false)
	if err := read(t.Context(), o, data, 0, len(data)); err != nil {
		t.Errorf("after it: %v", err)
	}
	o.Close()
	s.Close()
	settled(t)
}

// A folder that is away is no folder that lost its files.
func TestFolderGone(t *testing.T) {
	r := anonymous(t)
	dir := r.Path("rse")
	s := r.open(t, func(o *Options) { o.URL += "/rse" })
	marked := r.open(t, func(o *Options) { o.URL, o.Marker = o.URL+"/rse", "disk-id" })
	all := func(when string, s *Storage) {
		t.Helper()
		check := func(what string, err error) {
			t.Helper()
			want(t, when+": "+what, err, backends.ErrUnavailable, backends.ErrTemporary)
			if errors.Is(err, backends.ErrNotExist) || !backends.IsAnswered(err) {
				t.Errorf("%s: %s: %v", when, what, err)
			}
		}
		_, err := s.Stat(t.Context(), "f")
		check("stat", err)
		_, err = s.Open(t.Context(), "f")
		check("open", err)
		_, err = s.Checksum(t.Context(), "f")
		check("checksum", err)
		check("put", put(s, "d/g", nil))
		check("remove", s.Remove(t.Context(), "f"))
		_, _, err = s.Space(t.Context())
		check("space", err)
	}
	all("never made", s)
	mkdir := func() {
		os.Mkdir(dir, 0o777)
		os.Chmod(dir, 0o777)
	}
	mkdir()
	if err := put(s, "f", []byte("x")); err != nil {
		t.Fatal(err)
	}
	o := open(t, s, "f")
	os.Rename(dir, dir+".away")
	all("renamed", s)
	want(t, "read while it is away", read(t.Context(), o, []byte("x"), 0, 1), backends.ErrUnavailable, backends.ErrTemporary)
	mkdir()
	all("the folder of a mount that is not there", marked)
	if es, _ := os.ReadDir(dir); len(es) != 0 {
		t.Errorf("it was written to: %v", es)
	}
	os.Remove(dir)
	os.Rename(dir+".away", dir)
	write(t, filepath.Join(dir, "disk-id"), nil)
	for _, s := range []*Storage{s, marked} {
		if err := put(s, "f", []byte("x")); err != nil {
			t.Errorf("back again: %v", err)
		}
	}
}
