//go:build xrdcl && cgo

package xrootd

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// cutting stands before a server. It cuts the connection at the first move of an upload, which the server does or never hears
// of, and refuses those that follow.
type cutting struct {
	addr   string
	armed  atomic.Bool
	done   atomic.Bool // the server hears of the move
	next   int32       // becomes refuse with the cut
	refuse atomic.Int32
}

func cut(t *testing.T, srv *servertest.Server) *cutting {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c := &cutting{addr: l.Addr().String()}
	to := strings.TrimPrefix(srv.Root, "root://")
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			if c.refuse.Add(-1) >= 0 {
				in.Close()
				continue
			}
			out, err := net.Dial("tcp4", to)
			if err != nil {
				in.Close()
				continue
			}
			go func() {
				io.Copy(in, out)
				in.Close()
			}()
			go func() {
				defer in.Close()
				defer out.Close()
				c.forward(in, out)
			}()
		}
	}()
	return c
}

// forward carries the handshake of 20 bytes and requests: 24 bytes of header, with the length of what follows at their end.
func (c *cutting) forward(in, out net.Conn) {
	if _, err := io.CopyN(out, in, 20); err != nil {
		return
	}
	const mv = 3009
	for {
		head := make([]byte, 24)
		if _, err := io.ReadFull(in, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[20:]))
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		from, _, _ := strings.Cut(string(body), " ")
		hit := binary.BigEndian.Uint16(head[2:]) == mv && strings.Contains(from, uploads) && c.armed.CompareAndSwap(true, false)
		if hit {
			c.refuse.Store(c.next)
		}
		if hit && !c.done.Load() {
			return
		}
		if _, err := out.Write(append(head, body...)); err != nil {
			return
		}
		if hit {
			time.Sleep(300 * time.Millisecond)
			return
		}
	}
}

// A commit whose connection is lost in mid rename leaves the old file or the new one, and says which.
func TestReplaceCutShort(t *testing.T) {
	for _, c := range []struct {
		name    string
		done    bool
		refused int32
		replace bool
	}{{"replace, not done", false, 3, true}, {"replace, done", true, 3, true}, {"new, not done", false, 0, false}, {"new, done", true, 2, false}} {
		t.Run(c.name, func(t *testing.T) {
			srv := servertest.XRootD(t, servertest.XRootDOptions{})
			px := cut(t, srv)
			s := storage(t, Options{URL: folder(t, srv, "root://"+px.addr), Timeout: 5 * time.Second})
			var old []byte
			if c.replace {
				old = []byte("the old one")
				backendstest.Put(t, s, "d/f", old)
			}
			data := backendstest.Bytes(7, 100_000)
			u, err := s.Create(t.Context(), "d/f", int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.Write(data); err != nil {
				t.Fatal(err)
			}
			px.done.Store(c.done)
			px.next = c.refused
			px.armed.Store(true)
			_, err = u.Commit(t.Context(), backendstest.Sums(data))
			want := old
			if err == nil {
				want = data
			} else {
				isDown(t, "commit", err)
			}
			if c.done && err != nil {
				t.Errorf("commit of what was moved: %v", err)
			}
			got, gerr := os.ReadFile(srv.Path(s.remote("d/f")))
			if !bytes.Equal(got, want) || want == nil != os.IsNotExist(gerr) {
				t.Errorf("commit: %v, and then there is %.20q (%v)", err, got, gerr)
			}
			if left, err := os.ReadDir(filepath.Join(srv.Path(s.end.prefix), uploads)); len(left) > 0 || err != nil {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// What a crash left is removed after a day, but for what was put aside: it may be all there is of a file, and is as old as that.
func TestLeftAside(t *testing.T) {
	srv, s, _, _ := rig(t, Options{}, 1)
	dir := srv.Path(s.remote(uploads))
	then := time.Now().Add(-2 * stale)
	for _, name := range []string{"a", "b" + kept} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, name), then, then); err != nil {
			t.Fatal(err)
		}
	}
	again := storage(t, s.o)
	again.clean(t.Context())
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "b"+kept {
		t.Errorf("left: %v, %v", left, err)
	}
}
