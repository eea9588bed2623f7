package backendstest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"tarn/backends"
)

func testUnfinished(t *testing.T, s *storageTest) {
	Put(t, s, "d/other", []byte("x"))
	u, err := s.Create(s.ctx, "d/f", -1)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	if _, err := u.Write(Bytes(1, 100<<10)); err != nil {
		t.Fatal(err)
	}
	_, err = s.Stat(s.ctx, "d/f")
	wantErr(t, "stat before commit", err, backends.ErrNotExist)
	_, err = s.Open(s.ctx, "d/f")
	wantErr(t, "open before commit", err, backends.ErrNotExist)
	if got := s.list(t, "d"); !slices.Equal(got, []string{"d/other"}) {
		t.Errorf("list before commit: %q", got)
	}
	if got := s.list(t, ""); !slices.Equal(got, []string{"d/"}) {
		t.Errorf("list of the prefix before commit: %q", got)
	}
	if _, err := u.Commit(s.ctx, Sums(Bytes(1, 100<<10))); err != nil {
		t.Fatal(err)
	}
	s.want(t, "d/f", Bytes(1, 100<<10))
	if got := s.list(t, ""); !slices.Equal(got, []string{"d/"}) {
		t.Errorf("list of the prefix after commit: %q", got)
	}
}

func testReplace(t *testing.T, s *storageTest) {
	Put(t, s, "f", Bytes(1, 5000))
	u, err := s.Create(s.ctx, "f", 10)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	u.Write(Bytes(2, 10))
	s.want(t, "f", Bytes(1, 5000))
	if _, err := u.Commit(s.ctx, Sums(Bytes(2, 10))); err != nil {
		t.Fatal(err)
	}
	s.want(t, "f", Bytes(2, 10))
}

func testCommitChecksums(t *testing.T, s *storageTest) {
	data := Bytes(3, 70000)
	sums := Sums(data)
	for _, c := range []struct {
		name string
		want backends.Checksums
		ok   bool
	}{
		{"all", sums, true},
		{"adler32 only", backends.Checksums{Adler32: sums.Adler32}, true},
		{"md5 only", backends.Checksums{MD5: sums.MD5}, true},
		{"sha256 only", backends.Checksums{SHA256: sums.SHA256}, true},
		{"none", backends.Checksums{}, false},
		{"wrong adler32", backends.Checksums{Adler32: "00000001", SHA256: sums.SHA256}, false},
		{"wrong md5", backends.Checksums{MD5: Sums([]byte("x")).MD5, SHA256: sums.SHA256}, false},
		{"wrong sha256", backends.Checksums{Adler32: sums.Adler32, SHA256: Sums([]byte("x")).SHA256}, false},
		{"of other bytes", Sums([]byte("x")), false},
	} {
		u, err := s.Create(s.ctx, "d/f", int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(data); i += 10000 {
			if _, err := u.Write(data[i : i+10000]); err != nil {
				t.Fatal(err)
			}
		}
		got, err := u.Commit(s.ctx, c.want)
		if c.ok {
			if err != nil {
				t.Errorf("commit with %s: %v", c.name, err)
			} else if err := sums.Match(got); err != nil && !got.IsZero() { // none: it proves nothing
				t.Errorf("commit with %s returned other digests: %v", c.name, err)
			}
			// A server that computes checksums proves by them what it has; a folder of this machine does not.
			if tr := s.Traits(); !tr.Local && len(tr.Checksums) > 0 && got.IsZero() {
				t.Errorf("commit with %s proves nothing", c.name)
			}
			s.want(t, "d/f", data)
			if err := s.Remove(s.ctx, "d/f"); err != nil {
				t.Fatal(err)
			}
			continue
		}
		wantErr(t, "commit with "+c.name, err, backends.ErrCorrupt)
		if _, err := s.Stat(s.ctx, "d/f"); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("commit with %s: file is visible (%v)", c.name, err)
		}
		if err := u.Abort(); err != nil {
			t.Errorf("abort after a failed commit: %v", err)
		}
	}
}

func testExpect(t *testing.T, s *storageTest) {
	data := Bytes(5, 300_000)
	sums := Sums(data)
	for _, c := range []struct {
		name    string
		want    backends.Checksums
		compare []string
		ok      bool
	}{
		{"all, one compared", sums, []string{"adler32"}, true},
		{"one", backends.Checksums{SHA256: sums.SHA256}, []string{"sha256"}, true},
		{"md5", backends.Checksums{MD5: sums.MD5}, []string{"md5"}, true},
		{"a wrong one", backends.Checksums{Adler32: "00000001", SHA256: sums.SHA256}, []string{"adler32"}, false},
		{"another wrong one", backends.Checksums{Adler32: sums.Adler32, SHA256: Sums([]byte("x")).SHA256}, []string{"adler32", "sha256"}, false},
	} {
		u, err := s.Create(s.ctx, "d/f", int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		backends.Expect(u, c.want, c.compare...)
		if _, err := u.Write(data); err != nil {
			t.Fatal(err)
		}
		got, err := u.Commit(s.ctx, c.want)
		if !c.ok {
			wantErr(t, "commit with "+c.name, err, backends.ErrCorrupt)
			_, err = s.Stat(s.ctx, "d/f")
			wantErr(t, "stat", err, backends.ErrNotExist)
			continue
		}
		if err != nil {
			t.Fatalf("commit with %s: %v", c.name, err)
		}
		if err := sums.Match(got); err != nil && !got.IsZero() {
			t.Errorf("commit with %s returned other digests: %v", c.name, err)
		}
		s.want(t, "d/f", data)
		if err := s.Remove(s.ctx, "d/f"); err != nil {
			t.Fatal(err)
		}
	}
}

func testCommitSize(t *testing.T, s *storageTest) {
	for _, c := range []struct{ announced, sent int }{{10, 9}, {10, 11}, {10, 0}, {0, 1}, {100 << 10, 99 << 10}} {
		data := Bytes(4, c.sent)
		u, err := s.Create(s.ctx, "f", int64(c.announced))
		if err != nil {
			t.Fatal(err)
		}
		_, werr := u.Write(data)
		_, err = u.Commit(s.ctx, Sums(data))
		wantErr(t, fmt.Sprintf("commit of %d bytes announced as %d (write: %v)", c.sent, c.announced, werr), err, backends.ErrCorrupt)
		_, err = s.Stat(s.ctx, "f")
		wantErr(t, "stat", err, backends.ErrNotExist)
		u.Abort()
	}
}

func testParents(t *testing.T, s *storageTest) {
	Put(t, s, "a/b/c/d/e/f", []byte("deep"))
	s.want(t, "a/b/c/d/e/f", []byte("deep"))
	a, err := s.Stat(s.ctx, "a/b/c")
	if err != nil || !a.IsDir {
		t.Errorf("stat a/b/c: %+v, %v", a, err)
	}
}

func testAbort(t *testing.T, s *storageTest) {
	u, err := s.Create(s.ctx, "f", -1)
	if err != nil {
		t.Fatal(err)
	}
	u.Write([]byte("half a fi"))
	if err := u.Abort(); err != nil {
		t.Fatal(err)
	}
	if err := u.Abort(); err != nil {
		t.Errorf("second abort: %v", err)
	}
	_, err = u.Commit(s.ctx, Sums([]byte("half a fi")))
	wantErr(t, "commit after abort", err, backends.ErrClosed)
	_, err = s.Stat(s.ctx, "f")
	wantErr(t, "stat after abort", err, backends.ErrNotExist)
	if got := s.list(t, ""); len(got) != 0 {
		t.Errorf("abort left %q", got)
	}

	if u, err = s.Create(s.ctx, "f", -1); err != nil {
		t.Fatal(err)
	}
	u.Write([]byte("whole"))
	if _, err := u.Commit(s.ctx, Sums([]byte("whole"))); err != nil {
		t.Fatal(err)
	}
	if err := u.Abort(); err != nil {
		t.Errorf("abort after commit: %v", err)
	}
	s.want(t, "f", []byte("whole"))
}

func testInTheWay(t *testing.T, s *storageTest) {
	Put(t, s, "d/f", []byte("x"))
	for p, want := range map[string]error{"d/f/g": backends.ErrNotDir, "d": backends.ErrIsDir} {
		err := put(s.ctx, s, p, []byte("y"))
		if !s.Traits().Folders && err == nil {
			continue // an object store may well have both
		}
		wantErr(t, "put "+p, err, want)
	}
	s.want(t, "d/f", []byte("x"))
}

func testCancelled(t *testing.T, s *storageTest) {
	Put(t, s, "f", Bytes(1, 1000))
	o, err := s.Open(s.ctx, "f")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	u, err := s.Create(s.ctx, "g", 3)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	u.Write([]byte("abc"))

	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err = s.Stat(ctx, "f")
	wantErr(t, "stat", err, context.Canceled)
	_, err = s.Open(ctx, "f")
	wantErr(t, "open", err, context.Canceled)
	_, err = s.Create(ctx, "h", 1)
	wantErr(t, "create", err, context.Canceled)
	_, err = s.Checksum(ctx, "f")
	wantErr(t, "checksum", err, context.Canceled)
	_, _, err = s.Space(ctx)
	wantErr(t, "space", err, context.Canceled)
	wantErr(t, "remove", s.Remove(ctx, "f"), context.Canceled)
	_, err = o.ReadAt(ctx, make([]byte, 10), 0)
	wantErr(t, "read", err, context.Canceled)
	_, err = u.Commit(ctx, Sums([]byte("abc")))
	wantErr(t, "commit", err, context.Canceled)
	n := 0
	for _, err := range s.List(ctx, "") {
		wantErr(t, "list", err, context.Canceled)
		n++
	}
	if n != 1 {
		t.Errorf("list: %d results, want one error", n)
	}
	s.want(t, "f", Bytes(1, 1000))
	_, err = s.Stat(s.ctx, "g")
	wantErr(t, "stat of what a cancelled commit left", err, backends.ErrNotExist)
}

// testCancelledCommit ends the context in the midst of Commit: either the file is there, or it is not and does
// not come later.
func testCancelledCommit(t *testing.T, s *storageTest) {
	data := Bytes(5, 3000)
	usual := time.Duration(0)
	var failed []string
	for i := range 40 {
		path := fmt.Sprintf("f%d", i)
		ctx, cancel := context.WithCancel(s.ctx)
		u, err := s.Create(ctx, path, int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Write(data); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if i >= 4 { // once it is known how long it takes
			time.AfterFunc(rand.N(usual*5/4+1), cancel)
		}
		if _, err = u.Commit(ctx, Sums(data)); i < 4 {
			usual = max(usual, time.Since(began))
		}
		cancel()
		u.Abort()
		if err == nil {
			s.want(t, path, data)
		} else if failed = append(failed, path); i < 4 {
			t.Fatal(err)
		} else if err := s.Remove(s.ctx, path); !errors.Is(err, backends.ErrNotExist) {
			t.Errorf("%s after its commit was cancelled: remove: %v", path, err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	for _, path := range failed {
		_, err := s.Stat(s.ctx, path)
		wantErr(t, "stat of "+path+" some time after its commit was cancelled", err, backends.ErrNotExist)
	}
}

func testParallel(t *testing.T, s *storageTest) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				p := fmt.Sprintf("shared/w%d/f%d", i, j)
				data := Bytes(uint64(i*100+j), 1000*j)
				if err := put(s.ctx, s, p, data); err != nil {
					t.Errorf("put %s: %v", p, err)
					return
				}
				for _, err := range s.List(s.ctx, "shared") {
					if err != nil {
						t.Errorf("list: %v", err)
					}
				}
				if got, err := Get(s.ctx, s, p); err != nil || !slices.Equal(got, data) {
					t.Errorf("get %s: %v", p, err)
				}
				if j%2 == 1 {
					if err := s.Remove(s.ctx, p); err != nil {
						t.Errorf("remove %s: %v", p, err)
					}
				}
			}
		})
	}
	wg.Wait()
	for i := range 8 {
		if got := s.list(t, fmt.Sprintf("shared/w%d", i)); len(got) != 5 {
			t.Errorf("w%d: %q", i, got)
		}
	}
}

func testSamePath(t *testing.T, s *storageTest) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := put(s.ctx, s, "d/f", Bytes(uint64(i), 1000+i)); err != nil {
				t.Errorf("put %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	got, err := Get(s.ctx, s, "d/f")
	if err != nil {
		t.Fatal(err)
	}
	if i := len(got) - 1000; i < 0 || i > 7 || !slices.Equal(got, Bytes(uint64(i), 1000+i)) {
		t.Errorf("%d bytes that nobody wrote", len(got))
	}
}

func testClosed(t *testing.T, s *storageTest) {
	Put(t, s, "f", []byte("x"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Stat(s.ctx, "f")
	wantErr(t, "stat", err, backends.ErrClosed)
	_, err = s.Open(s.ctx, "f")
	wantErr(t, "open", err, backends.ErrClosed)
	_, err = s.Create(s.ctx, "f", 1)
	wantErr(t, "create", err, backends.ErrClosed)
	wantErr(t, "remove", s.Remove(s.ctx, "f"), backends.ErrClosed)
}
