package gridftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// two are servers that one person may use.
func two(t testing.TB) (a, b *rig) {
	pki := servertest.NewPKI(t)
	return gridOf(t, servertest.GridFTPOptions{PKI: pki}), gridOf(t, servertest.GridFTPOptions{PKI: pki})
}

// below opens a storage in a new folder of the server.
func (r *rig) below(t testing.TB, f func(*Options)) *Storage {
	t.Helper()
	dir, err := os.MkdirTemp(r.Dir, "rse")
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o777)
	return r.open(t, func(o *Options) {
		o.URL = r.FTP + dir
		if f != nil {
			f(o)
		}
	})
}

func TestThirdPartyContract(t *testing.T) {
	a, b := two(t)
	open := anonymous(t)
	for name, p := range map[string][2]*rig{"between two": {a, b}, "within one": {a, a}, "to an open one": {a, open}} {
		for kind, streams := range map[string]int{"plain": 1, "over 3 streams": 3} {
			t.Run(name+", "+kind, func(t *testing.T) {
				backendstest.ThirdParty(t, func(t *testing.T) (from, to backends.Storage) {
					f := func(o *Options) { o.Streams = streams }
					return p[0].below(t, f), p[1].below(t, f)
				})
			})
		}
	}
}

func TestThirdPartyCopy(t *testing.T) {
	a, b := two(t)
	data := backendstest.Bytes(10, 12<<20+3)
	sums := backendstest.Sums(data)
	for _, streams := range []int{1, 4} {
		from := a.open(t, func(o *Options) { o.Streams = streams })
		to := b.open(t, nil)
		if err := put(from, "f", data); err != nil {
			t.Fatal(err)
		}
		if err := put(to, "g", nil); err != nil { // it looks for what was left over
			t.Fatal(err)
		}
		var c counting
		c.watch(from)
		c.watch(to)
		dst := fmt.Sprintf("a/b/copy%d", streams)
		for _, sums := range []backends.Checksums{sums, {MD5: sums.MD5}, {SHA256: sums.SHA256}} {
			got, err := from.CopyTo(t.Context(), "f", to, dst, int64(len(data)), sums, nil)
			if err != nil || sums.Match(got) != nil {
				t.Fatalf("copy over %d streams: %+v, %v", streams, got, err)
			}
		}
		if n := c.data.Load(); n != 0 {
			t.Errorf("%d data connections came by here", n)
		}
		if b, err := os.ReadFile(b.Path(dst)); err != nil || !bytes.Equal(b, data) {
			t.Errorf("other bytes have arrived: %v", err)
		}
		if err := to.Remove(t.Context(), dst); err != nil {
			t.Error(err)
		}
	}
	from, to := a.open(t, nil), b.open(t, nil)
	shut := b.open(t, func(o *Options) { o.ReadOnly = true })
	_, err := from.CopyTo(t.Context(), "f", shut, "x", int64(len(data)), sums, nil)
	want(t, "to a storage that is read-only", err, backends.ErrReadOnly)
	_, err = from.CopyTo(t.Context(), "f", to, "x", int64(len(data)), backends.Checksums{SHA256: backendstest.Sums(nil).SHA256}, nil)
	want(t, "wrong sha256", err, backends.ErrCorrupt)
	b.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := from.CopyTo(ctx, "f", to, "x", int64(len(data)), sums, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
	b.Resume()
	if err := to.Remove(t.Context(), "g"); err != nil {
		t.Error(err)
	}
	empty(t, b.Dir)
	from.Close()
	to.Close()
	settled(t)
}

// slowly puts a relay, as slow as a test wants it, before the data ports of a server: passive replies name it instead.
func slowly(t *testing.T, s *Storage, gate func(n int)) {
	dial := s.dial
	s.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := dial(ctx, addr)
		if err != nil || addr != s.end.addr {
			return c, err
		}
		return &conn{Conn: c, read: func(c net.Conn, p []byte) (int, error) {
			n, err := c.Read(p)
			text := string(p[:max(n, 0)])
			if i := strings.Index(text, "(127,0,0,1,"); i >= 0 && strings.HasPrefix(text, "227 ") {
				at, perr := parsePASV(text)
				if perr != nil {
					return n, perr
				}
				line := fmt.Sprintf("227 Entering Passive Mode (%s)\r\n", strings.TrimPrefix(portCommand(relay(t, at, gate)), "PORT "))
				return copy(p, line), err
			}
			return n, err
		}}, nil
	}
}

// relay gives an address from which all connections are handed on, at the speed that gate lets them.
func relay(t *testing.T, to netip.AddrPort, gate func(n int)) netip.AddrPort {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return to
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp4", to.String())
				if err != nil {
					return
				}
				defer out.Close()
				go func() { io.Copy(in, out); in.Close() }()
				buf := make([]byte, 64<<10)
				for {
					n, err := in.Read(buf)
					if n > 0 {
						gate(n)
						if _, err := out.Write(buf[:n]); err != nil {
							return
						}
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

// The receiving server tells how much has come, which is progress; a sender that is silent meanwhile is no trouble.
func TestCopyTellsProgress(t *testing.T) {
	a, b := anonymous(t), anonymous(t)
	from, to := a.open(t, func(o *Options) { o.Timeout, o.Streams = 3*time.Second, 1 }), b.open(t, nil)
	data := backendstest.Bytes(20, 8<<20)
	if err := put(from, "f", data); err != nil {
		t.Fatal(err)
	}
	seen := make(chan int64, 100)
	var free atomic.Bool
	slowly(t, to, func(int) {
		if !free.Load() {
			time.Sleep(100 * time.Millisecond)
		}
	})
	var all []int64
	var mu sync.Mutex
	done := make(chan error)
	go func() {
		_, err := from.CopyTo(t.Context(), "f", to, "g", int64(len(data)), backendstest.Sums(data), func(n int64) {
			mu.Lock()
			all = append(all, n)
			mu.Unlock()
			seen <- n
		})
		done <- err
	}()
	select {
	case n := <-seen:
		if n <= 0 || n >= int64(len(data)) {
			t.Errorf("first word of progress: %d bytes", n)
		}
	case <-time.After(time.Minute):
		t.Error("no progress of a slow copy")
	case err := <-done:
		t.Fatalf("the copy ended before it told of progress: %v", err)
	}
	free.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(all) || all[len(all)-1] != int64(len(data)) {
		t.Errorf("progress: %d", all)
	}
}

// A connection that is lost on the way leaves nothing.
func TestCopyCut(t *testing.T) {
	a, b := anonymous(t), anonymous(t)
	for who := range 2 {
		from, to := a.below(t, nil), b.below(t, nil)
		data := backendstest.Bytes(21, 8<<20)
		if err := put(from, "f", data); err != nil {
			t.Fatal(err)
		}
		var once sync.Once
		slowly(t, to, func(int) {
			once.Do(func() { []*rig{a, b}[who].Kill() })
		})
		_, err := from.CopyTo(t.Context(), "f", to, "g", int64(len(data)), backendstest.Sums(data), nil)
		want(t, fmt.Sprint("server ", who, " killed"), err, backends.ErrUnavailable, backends.ErrTemporary)
		[]*rig{a, b}[who].Start()
		if _, err := to.Stat(t.Context(), "g"); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("after it: %v", err)
		}
		if _, err := from.CopyTo(t.Context(), "f", b.below(t, nil), "g", int64(len(data)), backendstest.Sums(data), nil); err != nil {
			t.Errorf("once it is back: %v", err)
		}
	}
}

// A server that will not give the file leaves the other one waiting for it, and us not.
func TestCopyOfWhatCannotBeRead(t *testing.T) {
	a, b := anonymous(t), anonymous(t)
	from, to := a.open(t, nil), b.open(t, nil)
	data := backendstest.Bytes(22, 100000)
	if err := put(from, "f", data); err != nil {
		t.Fatal(err)
	}
	os.Chmod(a.Path("f"), 0)
	began := time.Now()
	_, err := from.CopyTo(t.Context(), "f", to, "g", int64(len(data)), backendstest.Sums(data), nil)
	want(t, "copy", err, backends.ErrPermission, "the sending server")
	if d := time.Since(began); d > quiet/2 {
		t.Errorf("told after %v", d)
	}
	empty(t, b.Dir)
}

// What copies that ended with a crash have left goes with later ones, too, where nothing is uploaded from here.
func TestCopyCleansUp(t *testing.T) {
	a, b := anonymous(t), anonymous(t)
	from, to := a.open(t, nil), b.open(t, nil)
	if err := put(from, "f", []byte("x")); err != nil {
		t.Fatal(err)
	}
	os.Mkdir(b.Path(uploads), 0o777)
	os.Chmod(b.Path(uploads), 0o777)
	old := b.Path(uploads + "/old")
	write(t, old, []byte("half"))
	long := time.Now().Add(-25 * time.Hour)
	os.Chtimes(old, long, long)
	if _, err := from.CopyTo(t.Context(), "f", to, "g", 1, backendstest.Sums([]byte("x")), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left for ever: %v", err)
	}
}

// A server that will not send to another one cannot: then nothing was done.
func TestCopyRefused(t *testing.T) {
	b := anonymous(t)
	to := b.open(t, nil)
	from, err := Open(Options{URL: fakeServer(t, map[string]string{"OPTS": "200 ok", "PORT": "500 no bouncing"}, nil)})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	_, err = from.CopyTo(t.Context(), "f", to, "g", 100000, backends.Checksums{Adler32: "00000001"}, nil)
	want(t, "copy", err, backends.ErrNotSupported)
	empty(t, b.Dir)
}
