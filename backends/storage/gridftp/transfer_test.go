package gridftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/servertest"
	"tarn/integration/needed"
)

// globusURLCopy runs the client of Globus, which judges us from outside.
func globusURLCopy(t testing.TB, r *rig, args ...string) {
	t.Helper()
	bin, err := exec.LookPath("globus-url-copy")
	if err != nil {
		needed.Missing(t, "globus-url-copy is not installed (package globus-gass-copy-progs)")
	}
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	if r.pki != nil {
		cmd.Env = append(cmd.Env, "X509_USER_PROXY="+r.proxy, "X509_CERT_DIR="+r.pki.Certificates)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("globus-url-copy %q: %v\n%s", args, err, out)
	}
}

func TestGlobusClientSeesTheSame(t *testing.T) {
	for name, r := range map[string]*rig{"anonymous": anonymous(t), "GSI": grid(t)} {
		for _, streams := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s, %d streams", name, streams), func(t *testing.T) {
				s := r.open(t, func(o *Options) { o.Streams, o.Active = streams, streams > 1 })
				data := backendstest.Bytes(uint64(streams), 9<<20+11)
				if err := put(s, "d/ours", data); err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				globusURLCopy(t, r, r.o.URL+"/d/ours", "file://"+dir+"/copy")
				if got, err := os.ReadFile(dir + "/copy"); err != nil || !bytes.Equal(got, data) {
					t.Errorf("globus-url-copy reads other bytes: %v", err)
				}
				globusURLCopy(t, r, "-p", "4", "file://"+dir+"/copy", r.o.URL+"/d/theirs")
				if got, err := backendstest.Get(t.Context(), s, "d/theirs"); err != nil || !bytes.Equal(got, data) {
					t.Errorf("we read other bytes than globus-url-copy wrote: %v", err)
				}
				sum, err := s.Checksum(t.Context(), "d/theirs")
				if err == nil {
					err = backendstest.Sums(data).Match(sum)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// gfal-copy reads what we wrote, and we what it wrote. It speaks GSI only: ftp is none of its protocols.
func TestGfalSeesTheSame(t *testing.T) {
	r := grid(t)
	s := r.open(t, nil)
	servertest.GfalSeesTheSame(t, servertest.Seen{
		URL:  r.o.URL,
		Vars: []string{"X509_USER_PROXY=" + r.proxy, "X509_CERT_DIR=" + r.pki.Certificates},
		Args: []string{"-n", "4"},
		Put:  func(p string, data []byte) { backendstest.Put(t, s, p, data) },
		Get:  func(p string) ([]byte, error) { return backendstest.Get(t.Context(), s, p) },
	})
}

// Reads over several connections, at any offset, beside plain ones.
func TestBlocks(t *testing.T) {
	r := grid(t)
	s := r.open(t, func(o *Options) { o.Streams, o.Active = 4, true })
	data := backendstest.Bytes(7, 21<<20+5)
	if err := put(s, "f", data); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(r.Path("f")); err != nil || !bytes.Equal(b, data) {
		t.Fatalf("the server has other bytes: %v", err)
	}
	var c counting
	c.watch(s)
	o := open(t, s, "f")
	for _, part := range [][2]int{{0, len(data)}, {1, 5 << 20}, {len(data) - 4<<20, 4 << 20}, {12345, blocksFrom}, {5, 100}} {
		if err := read(t.Context(), o, data, part[0], part[1]); err != nil {
			t.Errorf("%v: %v", part, err)
		}
	}
	if n := c.data.Load(); n != 1 {
		t.Errorf("%d connections to the server, want one: for the short read", n)
	}
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			if err := read(t.Context(), o, data, i<<20, 6<<20); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := read(ctx, o, data, 0, len(data)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
	o.Close()
	s.Close()
	settled(t)
}

// A read makes no session, and one that goes on where the last ended no connection either.
func TestSessionsAreReused(t *testing.T) {
	r := grid(t)
	s := r.open(t, func(o *Options) { o.Idle = 300 * time.Millisecond })
	data := backendstest.Bytes(8, 8<<20)
	if err := put(s, "f", data); err != nil {
		t.Fatal(err)
	}
	o := open(t, s, "f")
	var c counting
	c.watch(s)
	for range 20 {
		off := 1 + rand.IntN(len(data)-5000)
		if err := read(t.Context(), o, data, off, 4096); err != nil {
			t.Fatal(err)
		}
	}
	if n, m := c.control.Load(), c.data.Load(); n != 0 || m != 20 {
		t.Errorf("20 reads made %d sessions and %d data connections", n, m)
	}
	for off := 0; off < len(data); off += 1 << 20 {
		if err := read(t.Context(), o, data, off, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	if n, m := c.control.Load(), c.data.Load(); n > 1 || m != 21 {
		t.Errorf("8 reads in a row made %d sessions and %d data connections more", n, m-20)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		s.pool.mu.Lock()
		n := len(s.pool.idle)
		s.pool.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d sessions are kept for ever", n)
		}
	}
	o.Close()
	s.Close()
	settled(t)
}

// Long reads side by side, each of which goes on where another ends, come by one transfer. One that gives up keeps none
// of the others from its bytes.
func TestReadsInARowSideBySide(t *testing.T) {
	r := grid(t)
	const reads = 6
	data := backendstest.Bytes(10, reads*blocksFrom-12345)
	if err := put(r.open(t, nil), "f", data); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		leaves    int // the read that gives up
		transfers int64
	}{"all are done": {-1, 1}, "one gives up": {2, 2}} {
		t.Run(name, func(t *testing.T) {
			s := r.open(t, nil)
			o := open(t, s, "f").(*object)
			var n counting
			n.watch(s)
			gate, dial := make(chan struct{}), s.dial
			s.dial = func(ctx context.Context, addr string) (net.Conn, error) {
				d, err := dial(ctx, addr)
				if err != nil || addr == s.end.addr {
					return d, err
				}
				return &conn{Conn: d, read: func(c net.Conn, p []byte) (int, error) { <-gate; return c.Read(p) }}, nil
			}
			under := func() int {
				o.mu.Lock()
				defer o.mu.Unlock()
				return len(o.under)
			}
			until := func(what string, is func() bool) {
				for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatal(what)
					}
				}
			}
			gone, cancel := context.WithCancel(t.Context())
			defer cancel()
			errs := make([]error, reads)
			var all sync.WaitGroup
			for i := range reads {
				all.Go(func() {
					ctx, off := t.Context(), i*blocksFrom
					if i == c.leaves {
						ctx = gone
					}
					errs[i] = read(ctx, o, data, off, min(blocksFrom, len(data)-off))
				})
				until("a read does not begin", func() bool { return under() == i+1 })
			}
			if cancel(); c.leaves >= 0 {
				until("who gives up waits", func() bool { return under() == reads-1 })
			}
			close(gate)
			all.Wait()
			for i, err := range errs {
				if i == c.leaves && !errors.Is(err, context.Canceled) || i != c.leaves && err != nil {
					t.Errorf("read %d: %v", i, err)
				}
			}
			if got := n.data.Load(); got != c.transfers {
				t.Errorf("%d transfers, want %d", got, c.transfers)
			}
			if under() != 0 {
				t.Error("reads are remembered that are over")
			}
		})
	}
}

func TestFewSlotsDoNotLock(t *testing.T) {
	r := anonymous(t)
	s := r.open(t, func(o *Options) { o.Sessions = 1 })
	data := backendstest.Bytes(9, 3<<20)
	var us []backends.Upload
	for i := range 4 { // more than there are slots
		u, err := s.Create(t.Context(), fmt.Sprint("f", i), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		us = append(us, u)
	}
	for _, u := range us {
		u.Write(data)
		if _, err := u.Commit(t.Context(), backendstest.Sums(data)); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range 4 {
		o := open(t, s, fmt.Sprint("f", i))
		wg.Go(func() {
			for off := 0; off < len(data); off += 1 << 20 {
				if err := read(t.Context(), o, data, off, 1<<20); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// A file that is replaced while it is read gives its old bytes or ErrStale, never both.
func TestReplacedInMidRead(t *testing.T) {
	r := anonymous(t)
	s := r.open(t, nil)
	old, young := backendstest.Bytes(11, 6<<20), backendstest.Bytes(12, 6<<20)
	if err := put(s, "f", old); err != nil {
		t.Fatal(err)
	}
	o := open(t, s, "f")
	if err := read(t.Context(), o, old, 0, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := put(s, "f", young); err != nil {
		t.Fatal(err)
	}
	// The transfer that is under way has the old file.
	if err := read(t.Context(), o, old, 1<<20, 1<<20); err != nil {
		t.Errorf("the transfer under way: %v", err)
	}
	want(t, "a new transfer", read(t.Context(), o, old, 4<<20, 1<<20), backends.ErrStale)
	if err := s.Remove(t.Context(), "f"); err != nil {
		t.Fatal(err)
	}
	want(t, "a new transfer of what is gone", read(t.Context(), o, old, 5<<20, 1000), backends.ErrStale)
}

func TestReadOnly(t *testing.T) {
	r := anonymous(t)
	s := r.open(t, func(o *Options) { o.ReadOnly = true })
	want(t, "put", put(s, "f", nil), backends.ErrReadOnly)
	want(t, "remove", s.Remove(t.Context(), "f"), backends.ErrReadOnly)
	if es, _ := os.ReadDir(r.Dir); len(es) != 0 {
		t.Errorf("traces: %v", es)
	}
}

// Names of our own are not listed, nor what no path can name.
func TestForeignNames(t *testing.T) {
	r := grid(t)
	s := r.open(t, nil)
	if err := put(s, "x/f", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"new\nline", "\xff", "ok"} {
		write(t, r.Path(n), nil)
	}
	os.Symlink("nowhere", r.Path("dangling"))
	if got := strings.Join(names(t, s, ""), ","); got != "ok,x" {
		t.Errorf("list: %q", got)
	}
}

func TestLongList(t *testing.T) {
	r := anonymous(t)
	s := r.open(t, nil)
	const n = 20000
	for i := range n {
		write(t, filepath.Join(r.Dir, fmt.Sprintf("file-%06d", i)), nil)
	}
	got := names(t, s, "")
	if len(got) != n || !slices.IsSorted(got) || got[n-1] != fmt.Sprintf("file-%06d", n-1) {
		t.Errorf("%d entries of %d, or in disorder", len(got), n)
	}
}
