//go:build xrdcl && cgo

package xrootd

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// line is a wire to a server that turns one bit of what comes from it, every so many bytes, while every is not 0, and
// keeps what goes there. With a pace, in bytes a second, it is slow. It counts the connections that clients have open.
type line struct {
	net.Listener
	every, turned, pace, open atomic.Int64

	mu  sync.Mutex // guards out
	out bytes.Buffer
}

// Write takes what goes to the server.
func (w *line) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}

func (w *line) sent() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.out.Bytes())
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &line{Listener: l}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			srv, err := net.Dial("tcp4", to)
			if err != nil {
				c.Close()
				continue
			}
			t.Cleanup(func() { c.Close(); srv.Close() })
			w.open.Add(1)
			all.Go(func() { io.Copy(io.MultiWriter(w, srv), c); srv.Close(); w.open.Add(-1) })
			all.Go(func() { w.copy(c, srv); c.Close() })
		}
	})
	return w
}

func (w *line) copy(to io.Writer, from io.Reader) {
	b := make([]byte, 64<<10)
	var sent int64
	for {
		n, err := from.Read(b)
		if every := w.every.Load(); n > 1000 && every > 0 && sent >= every { // within data: heads are short
			b[n/2] ^= 4
			w.turned.Add(1)
			sent = 0
		}
		sent += int64(n)
		if _, werr := to.Write(b[:n]); err != nil || werr != nil {
			return
		}
		if pace := w.pace.Load(); pace > 0 {
			for end := time.Now().Add(time.Duration(n) * time.Second / time.Duration(pace)); w.pace.Load() == pace && time.Now().Before(end); {
				time.Sleep(min(time.Until(end), 50*time.Millisecond))
			}
		}
	}
}

// Bytes that are damaged on their way are never given: pages carry CRC32C, and those that disagree are asked for again.
func TestDamageOnTheWay(t *testing.T) {
	srv := servertest.XRootD(t, servertest.XRootDOptions{})
	w := newLine(t, strings.TrimPrefix(srv.Root, "root://"))
	s := storage(t, Options{URL: folder(t, srv, "root://"+w.Addr().String())})
	data := backendstest.Bytes(1, 32<<20)
	backendstest.Put(t, s, "f", data)
	o := openIt(t, s, "f")
	w.every.Store(3 << 20)
	whole := 0
	for off := 0; off < len(data); off += 1 << 20 {
		begun := time.Now()
		switch err := readAt(t.Context(), o, data, off, 1<<20); {
		case err == nil:
			whole++
		case err.Error() == "other bytes":
			t.Errorf("at %d: wrong bytes", off)
		default:
			isDown(t, "read", err)
		}
		if d := time.Since(begun); d > 16*time.Second {
			t.Errorf("at %d: it took %v", off, d)
		}
	}
	if w.turned.Load() == 0 || whole < 20 {
		t.Errorf("%d bits were turned, %d of 32 reads were whole", w.turned.Load(), whole)
	}
}
