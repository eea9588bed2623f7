package gridftp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends"
	"tarn/backends/backendstest"
)

// breaking is a link over which an upload goes: it counts what is sent, and breaks when that has come to cut.
type breaking struct {
	on        atomic.Bool
	sent, cut atomic.Int64
	pause     time.Duration // after a write
}

func (b *breaking) watch(s *Storage) {
	b.on.Store(true)
	onData(s, &b.on, func(c net.Conn) net.Conn {
		return &conn{Conn: c, write: func(c net.Conn, p []byte) (int, error) {
			if cut := b.cut.Load(); cut > 0 && b.sent.Load() >= cut {
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
				return 0, unix.ECONNRESET
			}
			n, err := c.Write(p)
			b.sent.Add(int64(n))
			time.Sleep(b.pause)
			return n, err
		}}
	})
}

// goOn writes data from an offset on, until it is all there or the link breaks.
func goOn(t *testing.T, u backends.Upload, data []byte, off int64) error {
	t.Helper()
	for off < int64(len(data)) {
		n, err := u.Write(data[off:min(off+1<<20, int64(len(data)))])
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return backends.Flush(t.Context(), u)
}

// temporary is the one file that an upload writes to.
func (r *rig) temporary(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(r.Dir, uploads, "*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("unfinished: %q, %v", found, err)
	}
	return found[0]
}

// An upload whose link breaks again and again goes on from where the server has it, and is the same file in the end. Over several connections that
// is what its restart markers tell, which come every five seconds.
func TestUploadGoesOnAfterABreak(t *testing.T) {
	const size, twice = 24 << 20, 8 << 20 // bytes, and those of them that may go twice after a break
	for _, streams := range []int{1, 4} {
		t.Run(fmt.Sprint(streams, " streams"), func(t *testing.T) {
			t.Parallel()
			r := anonymous(t)
			s := r.open(t, func(o *Options) { o.Streams = streams })
			var link breaking
			link.watch(s)
			if streams > 1 {
				link.pause = 250 * time.Millisecond // after each block of 256 KiB, and its head
			}
			data := backendstest.Bytes(9, size)
			u, err := s.Create(t.Context(), "f", size)
			if err != nil {
				t.Fatal(err)
			}
			defer u.Abort()
			link.cut.Store(size * 3 / 4)
			off, breaks := int64(0), 0
			for {
				err := goOn(t, u, data, off)
				if err == nil {
					break
				}
				want(t, "write", err, backends.ErrUnavailable, backends.ErrTemporary)
				if breaks++; breaks > 2 {
					t.Fatal(err)
				}
				if breaks == 2 { // the server goes with all its connections, too
					r.Kill()
					if _, err := backends.Resume(t.Context(), u); !backends.IsTemporary(err) {
						t.Errorf("a server that is away: %v", err)
					}
					r.Start()
				}
				time.Sleep(100 * time.Millisecond) // what is on its way arrives
				link.cut.Store([]int64{link.sent.Load() + size/8, 0}[breaks-1])
				if off, err = backends.Resume(t.Context(), u); err != nil {
					t.Fatal(err)
				}
				if off == 0 {
					t.Errorf("after break %d, with %d bytes sent, it begins anew", breaks, link.sent.Load())
				}
			}
			if breaks != 2 {
				t.Errorf("%d breaks", breaks)
			}
			if _, err := u.Commit(t.Context(), backendstest.Sums(data)); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(filepath.Join(r.Dir, "f")); err != nil || !bytes.Equal(b, data) {
				t.Errorf("it is another file: %d bytes, %v", len(b), err)
			}
			if sent := link.sent.Load(); streams == 1 && sent > size+2*twice {
				t.Errorf("%d bytes were sent for %d", sent, size)
			}
			if err := s.Remove(t.Context(), "f"); err != nil {
				t.Error(err)
			}
			empty(t, r.Dir)
		})
	}
}

// TestMarks: restart markers of a file that comes in parts.
func TestMarks(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  int64
	}{
		{nil, 0},
		{[]string{"Range Marker 0-26214400", "Range Marker 26214400-52428800"}, 52428800},
		{[]string{"Range Marker 0-10,20-30", "Range Marker 10-15"}, 15},
		{[]string{"Range Marker 0-10,20-30", "Range Marker 10-20"}, 30},
		{[]string{"Range Marker 5-10"}, 0},
		{[]string{"Range Marker 0-10", "Range Marker 0-5"}, 10},
		{[]string{"Range Marker 0-x", "Range Marker", "", "Range Marker -1-5", "Range Marker 7-3", "Range Marker 0-99999999999999999999"}, 0},
	} {
		var m marks
		for _, line := range c.lines {
			m.note(reply{111, []string{line}})
		}
		m.note(reply{112, []string{"Range Marker 0-1000000000000"}})
		if got := m.upTo(); got != c.want {
			t.Errorf("%q: %d, want %d", c.lines, got, c.want)
		}
	}
	var m marks
	for i := range int64(5000) {
		m.note(reply{111, []string{fmt.Sprintf("Range Marker %d-%d", 10*i, 10*i+5)}})
	}
	if len(m.parts) > maxMarks || m.upTo() != 5 {
		t.Errorf("%d parts, up to %d", len(m.parts), m.upTo())
	}
}

// What became of the bytes on the server meanwhile is seen: less of them go once more, none from the beginning, and others are no file.
func TestUploadGoesOnWithWhatIsThere(t *testing.T) {
	const size, cut = 8 << 20, 4 << 20
	for what, harm := range map[string]func(tmp string) error{
		"nothing":   func(string) error { return nil },
		"cut short": func(tmp string) error { return os.Truncate(tmp, 100_001) },
		"removed":   os.Remove,
		"spoilt": func(tmp string) error {
			f, err := os.OpenFile(tmp, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("other"), 1000)
				err = errors.Join(err, f.Close())
			}
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := anonymous(t)
			s := r.open(t, func(o *Options) { o.Streams = 1 })
			var link breaking
			link.watch(s)
			link.cut.Store(cut)
			data := backendstest.Bytes(10, size)
			u, err := s.Create(t.Context(), "f", size)
			if err != nil {
				t.Fatal(err)
			}
			defer u.Abort()
			if err := goOn(t, u, data, 0); !backends.IsTemporary(err) {
				t.Fatal(err)
			}
			link.cut.Store(0)
			time.Sleep(200 * time.Millisecond)
			if err := harm(r.temporary(t)); err != nil {
				t.Fatal(err)
			}
			off, err := backends.Resume(t.Context(), u)
			if err == nil {
				err = goOn(t, u, data, off)
			}
			if err != nil {
				t.Fatal(err)
			}
			if what == "cut short" && off != 100_001 || what == "removed" && off != 0 {
				t.Errorf("it goes on at %d", off)
			}
			_, err = u.Commit(t.Context(), backendstest.Sums(data))
			if what == "spoilt" {
				want(t, "commit", err, backends.ErrCorrupt)
				if _, err := s.Stat(t.Context(), "f"); !errors.Is(err, backends.ErrNotExist) {
					t.Errorf("it is visible: %v", err)
				}
				empty(t, r.Dir)
				return
			}
			if b, rerr := os.ReadFile(filepath.Join(r.Dir, "f")); err != nil || rerr != nil || !bytes.Equal(b, data) {
				t.Errorf("commit: %v; %d bytes, %v", err, len(b), rerr)
			}
		})
	}
}
