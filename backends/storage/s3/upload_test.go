package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// store writes data in odd pieces and commits it.
func store(ctx context.Context, s *Storage, p string, size int64, data []byte) error {
	u, err := s.Create(ctx, p, size)
	if err != nil {
		return err
	}
	defer u.Abort()
	for b := data; len(b) > 0; {
		n := min(len(b), 300_007)
		if _, err := u.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	_, err = u.Commit(ctx, backendstest.Sums(data))
	return err
}

func same(t *testing.T, s *Storage, p string, data []byte) {
	t.Helper()
	got, err := backendstest.Get(t.Context(), s, p)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %s: %d bytes of %d, %v", p, len(got), len(data), err)
	}
}

// uploads are the multipart uploads that a server has.
func uploads(t *testing.T, s *Storage) (out []minio.ObjectMultipartInfo) {
	t.Helper()
	page, err := s.core.ListMultipartUploads(t.Context(), s.bucket, s.prefix, "", "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return page.Uploads
}

func TestUploads(t *testing.T) {
	pki := servertest.NewPKI(t)
	for name, start := range servers(pki) {
		t.Run(name, func(t *testing.T) {
			s := open(t, Options{URL: start(t).S3 + "/lake/x", Credentials: identity(t, pki, nil), PartSize: 5 * mib})
			for _, n := range []int{0, 1, blockSize, 5*mib - 1, 5 * mib, 5*mib + 1, 10 * mib, 23*mib + 17} {
				for _, size := range []int64{int64(n), -1} {
					data := backendstest.Bytes(uint64(n), n)
					if err := store(t.Context(), s, "d/f", size, data); err != nil {
						t.Errorf("%d announced as %d: %v", n, size, err)
						continue
					}
					same(t, s, "d/f", data)
					if c, err := s.Checksum(t.Context(), "d/f"); err != nil || c != backendstest.Sums(data) {
						t.Errorf("%d announced as %d: checksum %+v, %v", n, size, c, err)
					}
					// The server has compared the whole.
					info, err := s.core.StatObject(t.Context(), s.bucket, s.prefix+"d/f", minio.StatObjectOptions{Checksum: true})
					if n > 0 && (err != nil || info.ChecksumCRC32C == "") {
						t.Errorf("%d announced as %d: %+v, %v", n, size, info, err)
					}
				}
			}
			if left := uploads(t, s); len(left) > 0 {
				t.Errorf("uploads are left: %+v", left)
			}
		})
	}
}

// The sizes of parts stay within what S3 allows, up to its largest object.
func TestPartSizes(t *testing.T) {
	s := open(t, Options{URL: "s3://127.0.0.1:1/lake"})
	for _, size := range []int64{8*mib + 1, 100 << 30, 5 << 40, 5<<40 - 1} {
		u := &upload{s: s, size: size}
		var sum int64
		n := 1
		for ; sum < size; n++ {
			p := u.partSize(n)
			if p <= 0 || p > maxPart || p < 5*mib && sum+p < size {
				t.Fatalf("part %d of %d has %d bytes", n, size, p)
			}
			sum += p
		}
		if n-1 > maxParts || sum != size {
			t.Errorf("%d bytes are %d parts of %d in all", size, n-1, sum)
		}
	}
	u := &upload{s: s, size: -1}
	var sum int64
	for n := 1; n <= maxParts; n++ {
		sum += u.partSize(n)
	}
	if sum < 100<<30 {
		t.Errorf("an upload of unknown size can have %d bytes", sum)
	}
}

func TestAbortLeavesNoParts(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	s := open(t, Options{URL: srv.S3 + "/lake/x", PartSize: 5 * mib})
	for _, size := range []int64{30 * mib, -1} {
		for _, written := range []int{0, 1, 6 * mib, 17 * mib} {
			u, err := s.Create(t.Context(), "f", size)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.Write(backendstest.Bytes(1, written)); err != nil {
				t.Fatal(err)
			}
			if n := len(uploads(t, s)); n != 1 && (size > 0 || written > 5*mib) {
				t.Errorf("%d uploads are under way", n)
			}
			if err := u.Abort(); err != nil {
				t.Error(err)
			}
			if left := uploads(t, s); len(left) > 0 {
				t.Errorf("%d of %d bytes: uploads are left: %+v", written, size, left)
			}
		}
	}
	// A commit that fails leaves none either.
	u, err := s.Create(t.Context(), "f", 6*mib)
	if err != nil {
		t.Fatal(err)
	}
	u.Write(backendstest.Bytes(1, 6*mib))
	if _, err := u.Commit(t.Context(), backendstest.Sums([]byte("other"))); !errors.Is(err, backends.ErrCorrupt) {
		t.Errorf("commit: %v", err)
	}
	if left := uploads(t, s); len(left) > 0 {
		t.Errorf("uploads are left: %+v", left)
	}
	if _, err := s.Stat(t.Context(), "f"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("stat: %v", err)
	}
}

// What a daemon that died has left is removed after a day: what is old, below the prefix, and gets no parts.
func TestLeftOversAreSwept(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	var later atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	s := open(t, Options{URL: srv.S3 + "/lake/x", PartSize: 5 * mib, Now: now})
	other := open(t, Options{URL: srv.S3 + "/lake/y", PartSize: 5 * mib})
	begin := func(s *Storage) backends.Upload {
		u, err := s.Create(t.Context(), "d/f", 12*mib)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Write(backendstest.Bytes(1, 6*mib)); err != nil {
			t.Fatal(err)
		}
		return u
	}
	defer begin(other).Abort()
	dead := open(t, Options{URL: srv.S3 + "/lake/x", PartSize: 5 * mib})
	begin(dead)
	if _, err := dead.Create(t.Context(), "g", 12*mib); err != nil { // and has sent nothing of this one
		t.Fatal(err)
	}
	dead.cancel() // it dies without a word
	mine := begin(s)
	defer mine.Abort()
	if n, err := s.Clean(t.Context()); n != 0 || err != nil || len(uploads(t, s)) != 3 {
		t.Errorf("young: %d, %v", n, err)
	}
	later.Store(int64(25 * time.Hour))
	if n, err := s.Clean(t.Context()); n != 2 || err != nil || len(uploads(t, s)) != 1 || len(uploads(t, other)) != 1 {
		t.Errorf("old: %d, %v; %d and %d are left", n, err, len(uploads(t, s)), len(uploads(t, other)))
	}
	if _, err := mine.Write(backendstest.Bytes(2, 6*mib)); err != nil {
		t.Error(err)
	}
	data := append(backendstest.Bytes(1, 6*mib), backendstest.Bytes(2, 6*mib)...)
	if _, err := mine.Commit(t.Context(), backendstest.Sums(data)); err != nil {
		t.Errorf("what is under way here was swept: %v", err)
	}
}

// flip is a connection on which bytes change on their way to the server.
type flip struct {
	net.Conn
	n *atomic.Int64 // bytes of large writes that still pass; negative: it was done
}

func (f *flip) Write(p []byte) (int, error) {
	if len(p) >= 16<<10 && f.n.Add(-int64(len(p))) < 0 && f.n.Swap(1<<60) < 1<<59 {
		p = bytes.Clone(p)
		p[len(p)/2] ^= 4
	}
	return f.Conn.Write(p)
}

func TestWhatChangesOnItsWayIsRefused(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	for _, n := range []int{3 * mib, 12 * mib} {
		p := fmt.Sprint("f", n)
		var left atomic.Int64
		left.Store(1 << 60)
		s := open(t, Options{URL: srv.S3 + "/lake/x", PartSize: 5 * mib, dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &flip{c, &left}, err
		}})
		data := backendstest.Bytes(5, n)
		left.Store(int64(n) / 3)
		err := store(t.Context(), s, p, int64(n), data)
		if err == nil || left.Load() < 1<<58 {
			t.Errorf("%d bytes of which one changed: %v", n, err)
		}
		t.Logf("%d bytes: %v", n, err)
		if _, err := s.Stat(t.Context(), p); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("stat: %v", err)
		}
		if left := uploads(t, s); len(left) > 0 {
			t.Errorf("uploads are left: %+v", left)
		}
		if err := store(t.Context(), s, p, int64(n), data); err != nil {
			t.Errorf("the next time: %v", err)
		}
	}
}

// A folder stands among files as its name wants, though its key comes after some of theirs.
func TestListIsInTheOrderOfNames(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	s := open(t, Options{URL: srv.S3 + "/lake/x"})
	for _, p := range []string{"a-1", "a-2/f", "a.x", "a/f", "a0", "b-/f", "b--", "b-.x", "c!", "c-d-e/f", "c-d-.x", "c-d.x", "c-d/f", "c/f", "z"} {
		backendstest.Put(t, s, p, []byte(p))
	}
	var got []string
	for a, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		p := a.Path
		if a.IsDir {
			p += "/"
		}
		got = append(got, p)
	}
	want := "a/ a-1 a-2/ a.x a0 b-/ b-- b-.x c/ c! c-d/ c-d-.x c-d-e/ c-d.x z"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
}

func TestServerIsKilledAndComesBack(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	s := open(t, Options{URL: srv.S3 + "/lake/x", PartSize: 5 * mib})
	data := backendstest.Bytes(3, 20*mib)
	if err := store(t.Context(), s, "f", int64(len(data)), data); err != nil {
		t.Fatal(err)
	}
	o, err := s.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	got := make([]byte, len(data))
	if _, err := o.ReadAt(t.Context(), got[:mib], 0); err != nil {
		t.Fatal(err)
	}
	u, err := s.Create(t.Context(), "g", int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(data[:6*mib]); err != nil {
		t.Fatal(err)
	}
	srv.Kill()
	if _, err := o.ReadAt(t.Context(), got[mib:], mib); !backends.IsTemporary(err) || !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("read of a dead server: %v", err)
	}
	var werr error
	for i := 6 * mib; i < len(data) && werr == nil; i += mib {
		_, werr = u.Write(data[i : i+mib])
	}
	if _, err := u.Commit(t.Context(), backendstest.Sums(data)); !backends.IsTemporary(errors.Join(werr, err)) {
		t.Errorf("upload to a dead server: %v, %v", werr, err)
	}
	srv.Start()
	if n, err := o.ReadAt(t.Context(), got[mib:], mib); err != nil && err != io.EOF || !bytes.Equal(got, data) {
		t.Errorf("read afterwards: %d, %v", n, err)
	}
	if _, err := s.Stat(t.Context(), "g"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("half an upload is visible: %v", err)
	}
	if err := store(t.Context(), s, "g", int64(len(data)), data); err != nil {
		t.Errorf("upload afterwards: %v", err)
	}
	same(t, s, "g", data)
}

// A frozen server does not hold anybody for longer than Stall.
func TestServerIsFrozen(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	s := open(t, Options{URL: srv.S3 + "/lake/x", PartSize: 5 * mib, Stall: 500 * time.Millisecond, Connect: 500 * time.Millisecond})
	data := backendstest.Bytes(3, 6*mib)
	if err := store(t.Context(), s, "f", int64(len(data)), data); err != nil {
		t.Fatal(err)
	}
	srv.Pause()
	start := time.Now()
	_, err := s.Stat(t.Context(), "f")
	if !backends.IsTemporary(err) || time.Since(start) > 5*time.Second {
		t.Errorf("stat after %v: %v", time.Since(start), err)
	}
	srv.Resume()
	same(t, s, "f", data)
}

// Many uploads at a time hold no more than their blocks.
func TestParallelUploads(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	s := open(t, Options{URL: srv.S3 + "/lake/x", PartSize: 5 * mib})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			data := backendstest.Bytes(uint64(i), 11*mib+i)
			if err := store(t.Context(), s, fmt.Sprint("f", i), int64(len(data)), data); err != nil {
				t.Error(err)
				return
			}
			same(t, s, fmt.Sprint("f", i), data)
		})
	}
	wg.Wait()
}

// TestKnownDigestsAreKept: what the caller knows of a file is kept with it, whether it was compared on the way or not.
func TestKnownDigestsAreKept(t *testing.T) {
	srv := servertest.S3(t, servertest.S3Options{})
	s := open(t, Options{URL: srv.S3 + "/lake/x", PartSize: 5 * mib})
	for _, size := range []int{100_000, 11 * mib} {
		data := backendstest.Bytes(1, size)
		sums := backendstest.Sums(data)
		u, err := s.Create(t.Context(), "f", int64(size))
		if err != nil {
			t.Fatal(err)
		}
		backends.Expect(u, sums, "adler32")
		if _, err := u.Write(data); err != nil {
			t.Fatal(err)
		}
		if got, err := u.Commit(t.Context(), sums); err != nil || got.Adler32 != sums.Adler32 {
			t.Fatalf("%d bytes: %+v, %v", size, got, err)
		}
		if got, err := s.Checksum(t.Context(), "f"); err != nil || got != sums {
			t.Errorf("%d bytes: kept are %+v, %v", size, got, err)
		}
	}
}
