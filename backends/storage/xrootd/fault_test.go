//go:build xrdcl && cgo

package xrootd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/servertest"
	"tarn/integration/needed"
)

// rig is an anonymous server, a storage on it, and a file that is open.
func rig(t *testing.T, o Options, size int) (*servertest.Server, *Storage, *object, []byte) {
	t.Helper()
	srv := servertest.XRootD(t, servertest.XRootDOptions{})
	o.URL = folder(t, srv, srv.Root)
	s := storage(t, o)
	data := backendstest.Bytes(1, size)
	backendstest.Put(t, s, "f", data)
	return srv, s, openIt(t, s, "f"), data
}

func openIt(t *testing.T, s *Storage, p string) *object {
	t.Helper()
	o, err := s.Open(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o.(*object)
}

// readAt reads n bytes at off and compares them.
func readAt(ctx context.Context, o backends.Object, data []byte, off, n int) error {
	p := make([]byte, n)
	m, err := o.ReadAt(ctx, p, int64(off))
	if err != nil {
		return err
	}
	if m != n || !bytes.Equal(p, data[off:off+n]) {
		return errors.New("other bytes")
	}
	return nil
}

// eventually waits for what is to come about by itself.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in time", what)
		}
	}
}

func isDown(t *testing.T, what string, err error) {
	t.Helper()
	wantErr(t, what, err, backends.ErrUnavailable)
	wantErr(t, what, err, backends.ErrTemporary)
}

// A server that is killed in mid read and comes back two seconds later is a temporary failure in between for the readers.
func TestServerRestartInMidRead(t *testing.T) {
	srv, _, o, data := rig(t, Options{}, 32<<20)
	var wg sync.WaitGroup
	killed := make(chan struct{})
	for i := range 4 {
		wg.Go(func() {
			const n = 1 << 20
			for off := i * n; off < len(data); off += 4 * n {
				if off >= len(data)/2 {
					<-killed
				}
				err := readAt(t.Context(), o, data, off, n)
				for end := time.Now().Add(20 * time.Second); backends.IsTemporary(err) && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
					err = readAt(t.Context(), o, data, off, n)
				}
				if err != nil {
					t.Errorf("at %d: %v", off, err)
					return
				}
			}
		})
	}
	srv.Kill()
	close(killed)
	time.Sleep(2 * time.Second)
	srv.Start()
	wg.Wait()
}

// What was opened is read to its end or not at all: a file that was replaced while the server was away is another one.
func TestReplacedDuringRestart(t *testing.T) {
	srv, s, o, data := rig(t, Options{}, 1<<20)
	if err := readAt(t.Context(), o, data, 0, 1000); err != nil {
		t.Fatal(err)
	}
	srv.Kill()
	file := srv.Path(s.remote("f"))
	if err := os.WriteFile(file+".new", backendstest.Bytes(2, len(data)), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, o.was.mtime, o.was.mtime); err != nil {
		t.Fatal(err)
	}
	srv.Start()
	err := readAt(t.Context(), o, data, 1000, 1000)
	wantErr(t, "read of another copy, or another file", err, backends.ErrUnavailable)
	if backends.IsTemporary(err) {
		t.Errorf("read: %v is not for trying again", err)
	}
	if err := os.Chtimes(file, o.was.mtime, o.was.mtime.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "read of another file", readAt(t.Context(), o, data, 1000, 1000), backends.ErrStale)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "read of a file that is gone", readAt(t.Context(), o, data, 1000, 1000), backends.ErrStale)
}

func TestServerGoneForGood(t *testing.T) {
	srv, s, o, data := rig(t, Options{Timeout: 3 * time.Second}, 1<<20)
	srv.Kill()
	begun := time.Now()
	isDown(t, "read", readAt(t.Context(), o, data, 0, 1000))
	if d := time.Since(begun); d > 6*time.Second {
		t.Errorf("the read took %v", d)
	}
	begun = time.Now()
	_, err := s.Stat(t.Context(), "f")
	isDown(t, "stat", err)
	if err != nil && !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("stat: %v", err)
	}
	if d := time.Since(begun); d > 3*time.Second {
		t.Errorf("stat took %v", d)
	}
	srv.Start()
	if _, err := s.Stat(t.Context(), "f"); err != nil {
		t.Errorf("stat when it is back: %v", err)
	}
	if err := readAt(t.Context(), o, data, 0, 1000); err != nil {
		t.Errorf("read when it is back: %v", err)
	}
}

// A server that is silent ends a read by the deadline; when it goes on, so do reads.
func TestServerSilentInMidRead(t *testing.T) {
	srv, s, o, data := rig(t, Options{Timeout: 2 * time.Second}, 1<<20)
	other := openIt(t, s, "f")
	srv.Pause()
	begun := time.Now()
	isDown(t, "read", readAt(t.Context(), o, data, 0, 100_000))
	_, err := s.Stat(t.Context(), "f")
	isDown(t, "stat", err)
	if d := time.Since(begun); d > 7*time.Second {
		t.Errorf("they took %v", d)
	}
	begun = time.Now()
	other.Close()
	if d := time.Since(begun); d > time.Second {
		t.Errorf("close took %v", d)
	}
	srv.Resume()
	eventually(t, "a read when it goes on", func() bool { return readAt(t.Context(), o, data, 0, 100_000) == nil })
	eventually(t, "the end of all requests", func() bool { return len(s.slots) == 0 })
}

// threads are those of this process.
func threads(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nThreads:\t")
	n, err := strconv.Atoi(strings.Split(rest, "\n")[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Two hundred reads that are out hold no thread each.
func TestReadsHoldNoThreads(t *testing.T) {
	srv, s, o, data := rig(t, Options{}, 4<<20)
	before := threads(t)
	srv.Pause()
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if err := readAt(t.Context(), o, data, i*20_000, 20_000); err != nil {
				t.Errorf("read %d: %v", i, err)
			}
		})
	}
	eventually(t, "200 requests are out", func() bool { return len(s.slots) == 200 })
	if n := threads(t); n > before+20 {
		t.Errorf("%d threads with 200 reads, %d before", n, before)
	}
	srv.Resume()
	wg.Wait()
}

// Whoever gives up is let go at once; the memory that the answer goes to stays until it is there.
func TestCancelledReads(t *testing.T) {
	srv, s, _, data := rig(t, Options{Requests: 64}, 8<<20)
	for round := range 3 {
		o, closing := openIt(t, s, "f"), round == 1
		srv.Pause()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 80 { // more than can be out
			wg.Go(func() {
				err := readAt(ctx, o, data, i*100_000, 100_000)
				if !errors.Is(err, context.Canceled) && !(closing && errors.Is(err, backends.ErrClosed)) {
					t.Errorf("read %d: %v", i, err)
				}
			})
		}
		eventually(t, "requests are out", func() bool { return len(s.slots) == 64 })
		if closing {
			o.Close() // with requests out
		}
		begun := time.Now()
		cancel()
		wg.Wait()
		if d := time.Since(begun); d > time.Second {
			t.Errorf("they left after %v", d)
		}
		srv.Resume()
		eventually(t, "the end of all requests", func() bool { return len(s.slots) == 0 })
		if err := readAt(t.Context(), openIt(t, s, "f"), data, 0, len(data)); err != nil {
			t.Errorf("read afterwards: %v", err)
		}
	}
}

func TestServerLostInMidUpload(t *testing.T) {
	srv, s, _, _ := rig(t, Options{Timeout: 3 * time.Second}, 1)
	data := backendstest.Bytes(3, 40<<20)
	u, err := s.Create(t.Context(), "g", int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(data[:len(data)/2]); err != nil {
		t.Fatal(err)
	}
	srv.Kill()
	_, werr := u.Write(data[len(data)/2:])
	_, err = u.Commit(t.Context(), backendstest.Sums(data))
	isDown(t, fmt.Sprintf("commit (write: %v)", werr), err)
	srv.Start()
	_, err = s.Stat(t.Context(), "g")
	wantErr(t, "stat", err, backends.ErrNotExist)
	backendstest.Put(t, s, "g", data)
	if got, err := backendstest.Get(t.Context(), s, "g"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read: %v", err)
	}
}

// A folder that is away is never taken for files that do not exist.
func TestFolderAway(t *testing.T) {
	srv, s, _, _ := rig(t, Options{}, 1)
	dir := srv.Path(s.end.prefix)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Stat(t.Context(), "f")
	isDown(t, "stat", err)
	if !backends.IsAnswered(err) {
		t.Errorf("the server is taken for away, too: %v", err)
	}
	for errno, one := range map[uint32]bool{xServerError: true, xIOError: true, xOverloaded: false, xTimedOut: false} {
		err := s.failed(answer{code: errResponse, errno: errno})
		isDown(t, "failed", err)
		if backends.IsAnswered(err) != one {
			t.Errorf("%v: with one file alone: %v", err, backends.IsAnswered(err))
		}
	}
	wantErr(t, "create", func() error { _, err := s.Create(t.Context(), "h/g", 1); return err }(), backends.ErrUnavailable)
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "f"); err != nil {
		t.Error(err)
	}
}

// What is on tape only is ErrOffline, and stays there; one that is opened all the same is waited for (kXR_wait).
func TestOffline(t *testing.T) {
	srv := servertest.XRootD(t, servertest.XRootDOptions{Tape: true})
	data := backendstest.Bytes(5, 300_000)
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(srv.Tape, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := storage(t, Options{URL: srv.Root + "//tape"})
	if a, err := s.Stat(t.Context(), "a"); err != nil || a.Size != int64(len(data)) {
		t.Errorf("stat: %+v, %v", a, err)
	}
	for range 2 { // the first one has not begun to bring it
		_, err := s.Open(t.Context(), "a")
		wantErr(t, "open", err, backends.ErrOffline)
		if backends.IsTemporary(err) {
			t.Errorf("open: %v is not for trying again", err)
		}
	}
	begun := time.Now()
	file, i, err := s.openFile(t.Context(), s.url("/tape/b"), reading, 15*time.Second)
	if err != nil || i.size != int64(len(data)) || time.Since(begun) < time.Second {
		t.Fatalf("open without asking: %+v, %v, after %v", i, err, time.Since(begun))
	}
	file.drop()
	if err := readAt(t.Context(), openIt(t, s, "b"), data, 0, len(data)); err != nil {
		t.Errorf("read of what was brought: %v", err)
	}
}

// What is wrong with a URL that leads to no server is said in words.
func TestNoServer(t *testing.T) {
	silent, err := net.Listen("tcp4", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for url, want := range map[string]string{
		"root://no.such.host.invalid//data":        "does not resolve",
		"root://127.0.0.1:1//data":                 "connection refused",
		"root://" + silent.Addr().String() + "//x": "",
	} {
		s := storage(t, Options{URL: url, Timeout: 2 * time.Second})
		begun := time.Now()
		_, err := s.Stat(t.Context(), "f")
		wantErr(t, url, err, backends.ErrUnavailable)
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
		if d := time.Since(begun); d > 8*time.Second {
			t.Errorf("%s: it took %v", url, d)
		}
	}
}

// A disk that is full says so, and keeps nothing of the upload.
func TestNoSpace(t *testing.T) {
	needed.Root(t)
	srv := servertest.XRootD(t, servertest.XRootDOptions{})
	url := folder(t, srv, srv.Root)
	s := storage(t, Options{URL: url})
	dir := srv.Path(s.end.prefix)
	if err := syscall.Mount("tarn-test", dir, "tmpfs", 0, "size=8m,mode=0777"); err != nil {
		needed.Missing(t, "mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	data := backendstest.Bytes(1, 20<<20)
	u, err := s.Create(t.Context(), "f", int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	for rest := data; len(rest) > 0 && err == nil; {
		var n int
		n, err = u.Write(rest[:1<<20])
		rest = rest[n:]
	}
	_, cerr := u.Commit(t.Context(), backendstest.Sums(data))
	wantErr(t, "commit", errors.Join(err, cerr), backends.ErrNoSpace)
	if err := u.Abort(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, uploads)); len(left) > 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
	backendstest.Put(t, s, "f", data[:1<<20])
}

// Two servers that send us to one another are an error, soon.
func TestRedirectLoop(t *testing.T) {
	a := servertest.XRootD(t, servertest.XRootDOptions{})
	b := servertest.XRootD(t, servertest.XRootDOptions{Redirect: a})
	s := storage(t, Options{URL: a.Root + "//data"})
	a.Stop()
	conf, err := os.OpenFile(filepath.Join(filepath.Dir(a.Dir), "xrootd.cfg"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	to := strings.TrimPrefix(b.Root, "root://")
	fmt.Fprintf(conf, "xrootd.redirect %s all\nxrootd.redirect %[1]s /data\n", to)
	conf.Close()
	a.Start()
	begun := time.Now()
	_, err = s.Stat(t.Context(), "f")
	wantErr(t, "stat", err, backends.ErrUnavailable)
	if err != nil && !strings.Contains(err.Error(), "in a circle") || time.Since(begun) > 10*time.Second {
		t.Errorf("stat: %v, after %v", err, time.Since(begun))
	}
}

// A server computes few checksums at a time, and has places for three times as many: who comes to a full house is to come
// back in half a minute. Uploads that all end at once get theirs one after the other, and none is sent again.
func TestChecksumsQueue(t *testing.T) {
	srv := servertest.XRootD(t, servertest.XRootDOptions{Config: "xrootd.chksum max 1 adler32"})
	s := storage(t, Options{URL: folder(t, srv, srv.Root)})
	data := backendstest.Bytes(3, 8<<20)
	ready, goOn := make(chan struct{}, 16), make(chan struct{})
	var wg sync.WaitGroup
	for i := range cap(ready) {
		wg.Go(func() {
			u, err := s.Create(t.Context(), fmt.Sprintf("sums/%d", i), int64(len(data)))
			if err == nil {
				defer u.Abort()
				_, err = u.Write(data)
			}
			ready <- struct{}{}
			<-goOn
			if err == nil {
				_, err = u.Commit(t.Context(), backendstest.Sums(data))
			}
			if err != nil {
				t.Errorf("upload %d: %v", i, err)
			}
		})
	}
	for range cap(ready) {
		<-ready
	}
	close(goOn)
	wg.Wait()
}
