// Package backendstest holds the contract suites: one subtest for each sentence of the doc
// comments of package backends. An implementation proves itself by
//
//	func TestContract(t *testing.T) {
//		backendstest.Storage(t, func(t *testing.T) backends.Storage { return open(t) })
//	}
package backendstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
)

// Storage runs the contract of backends.Storage, one subtest a sentence. open gives a new,
// empty storage each time, which the suite closes.
//
// Storages with Traits.Tape must keep what was written lately in their disk buffer, so that it can be read back.
func Storage(t *testing.T, open func(t *testing.T) backends.Storage) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *storageTest)
	}{
		{"Stat gives size and kind", testStat},
		{"what is not there is ErrNotExist and no io/fs error", testNotExist},
		{"paths that are not relative and clean are ErrName", testHostilePaths},
		{"odd but valid names work", testOddNames},
		{"List is sorted and whole", testList},
		{"List of what is no folder", testListErrors},
		{"List stops when the consumer does", testListBreak},
		{"unfinished uploads are invisible", testUnfinished},
		{"Commit replaces what was there", testReplace},
		{"Commit verifies checksums", testCommitChecksums},
		{"Commit verifies what Expect has announced", testExpect},
		{"Commit verifies the announced size", testCommitSize},
		{"Commit makes parent folders", testParents},
		{"Abort leaves nothing and may follow Commit", testAbort},
		{"a file in the way of a folder is ErrNotDir, a folder in the way of a file ErrIsDir", testInTheWay},
		{"Open gives the bytes at any offset", testReadAt},
		{"an open Object survives replacement", testReadReplaced},
		{"Open of a folder is ErrIsDir", testOpenFolder},
		{"Checksum gives at least one right digest", testChecksum},
		{"Remove", testRemove},
		{"Space is plausible", testSpace},
		{"a cancelled context ends every call", testCancelled},
		{"commit cancelled", testCancelledCommit},
		{"all methods may run in parallel", testParallel},
		{"uploads to one path in parallel leave one of them whole", testSamePath},
		{"after Close everything is ErrClosed", testClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() { s.Close() })
			c.run(t, &storageTest{Storage: s, ctx: t.Context()})
		})
	}
}

// storageTest is a storage with the short hands of the suite.
type storageTest struct {
	backends.Storage
	ctx context.Context
}

// Bytes gives n bytes that depend on the seed only.
func Bytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	r.Read(b)
	return b
}

// Put stores data at path and fails the test when that fails.
func Put(t testing.TB, s backends.Storage, path string, data []byte) {
	t.Helper()
	if err := put(context.Background(), s, path, data); err != nil {
		t.Fatalf("put %q: %v", path, err)
	}
}

func put(ctx context.Context, s backends.Storage, path string, data []byte) error {
	u, err := s.Create(ctx, path, int64(len(data)))
	if err != nil {
		return err
	}
	defer u.Abort()
	if _, err := u.Write(data); err != nil {
		return err
	}
	_, err = u.Commit(ctx, Sums(data))
	return err
}

// Sums gives the digests of data.
func Sums(data []byte) backends.Checksums {
	h := checksum.New("adler32", "md5", "sha256")
	h.Write(data)
	return h.Sum()
}

// Get reads the whole of path.
func Get(ctx context.Context, s backends.Storage, path string) ([]byte, error) {
	o, err := s.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	b := make([]byte, o.Size())
	if n, err := o.ReadAt(ctx, b, 0); n != len(b) && len(b) > 0 {
		return b[:n], fmt.Errorf("read %d of %d bytes: %w", n, len(b), err)
	}
	return b, nil
}

func (s *storageTest) want(t *testing.T, path string, data []byte) {
	t.Helper()
	got, err := Get(s.ctx, s, path)
	if err != nil {
		t.Fatalf("read %q: %v", path, err)
	}
	if !bytes.Equal(got, data) {
		t.Fatalf("read %q: %d bytes that differ from the %d written", path, len(got), len(data))
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
	for _, e := range []error{iofs.ErrNotExist, iofs.ErrExist, iofs.ErrPermission, iofs.ErrClosed, iofs.ErrInvalid} {
		if errors.Is(err, e) {
			t.Errorf("%s: %v leaks io/fs's %q", what, err, e)
		}
	}
}

func (s *storageTest) list(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	for a, err := range s.List(s.ctx, dir) {
		if err != nil {
			t.Fatalf("list %q: %v", dir, err)
		}
		p := a.Path
		if a.IsDir {
			p += "/"
		}
		out = append(out, p)
	}
	return out
}

func testStat(t *testing.T, s *storageTest) {
	before := time.Now().Add(-time.Hour)
	Put(t, s, "d/f", Bytes(1, 1234))
	a, err := s.Stat(s.ctx, "d/f")
	if err != nil || a.Path != "d/f" || a.Size != 1234 || a.IsDir || a.MTime.Before(before) {
		t.Errorf("stat d/f: %+v, %v", a, err)
	}
	a, err = s.Stat(s.ctx, "d")
	if err != nil || a.Path != "d" || !a.IsDir || a.Size != 0 {
		t.Errorf("stat d: %+v, %v", a, err)
	}
	if a, err = s.Stat(s.ctx, ""); err != nil || !a.IsDir {
		t.Errorf("stat of the prefix: %+v, %v", a, err)
	}
}

func testNotExist(t *testing.T, s *storageTest) {
	Put(t, s, "d/f", []byte("x"))
	for _, p := range []string{"no", "d/no", "no/no", "d/f/below", "D/f"} {
		_, err := s.Stat(s.ctx, p)
		wantErr(t, "stat "+p, err, backends.ErrNotExist)
		_, err = s.Open(s.ctx, p)
		wantErr(t, "open "+p, err, backends.ErrNotExist)
		_, err = s.Checksum(s.ctx, p)
		wantErr(t, "checksum "+p, err, backends.ErrNotExist)
		wantErr(t, "remove "+p, s.Remove(s.ctx, p), backends.ErrNotExist)
		if backends.IsTemporary(err) {
			t.Errorf("%s: not being there is no temporary failure", p)
		}
	}
}

// hostile are paths that must not get anywhere.
var hostile = []string{"/", "/etc/passwd", "..", "../x", "a/../b", "a/..", "./a", "a/./b", "a/", "a//b", "//a", "a\x00b", "../../../../etc/passwd"}

func testHostilePaths(t *testing.T, s *storageTest) {
	Put(t, s, "a/b", []byte("x"))
	for _, p := range hostile {
		_, err := s.Stat(s.ctx, p)
		wantErr(t, fmt.Sprintf("stat %q", p), err, backends.ErrName)
		_, err = s.Open(s.ctx, p)
		wantErr(t, fmt.Sprintf("open %q", p), err, backends.ErrName)
		_, err = s.Create(s.ctx, p, 1)
		wantErr(t, fmt.Sprintf("create %q", p), err, backends.ErrName)
		_, err = s.Checksum(s.ctx, p)
		wantErr(t, fmt.Sprintf("checksum %q", p), err, backends.ErrName)
		wantErr(t, fmt.Sprintf("remove %q", p), s.Remove(s.ctx, p), backends.ErrName)
		n := 0
		for _, err := range s.List(s.ctx, p) {
			wantErr(t, fmt.Sprintf("list %q", p), err, backends.ErrName)
			n++
		}
		if n != 1 {
			t.Errorf("list %q: %d results, want one error", p, n)
		}
	}
	if got := s.list(t, ""); !slices.Equal(got, []string{"a/"}) {
		t.Errorf("hostile paths left %q", got)
	}
}

func testOddNames(t *testing.T, s *storageTest) {
	for i, p := range []string{"a b", "ä/ö", "tab\there", "new\nline", "a\\b", "-rf", "...", ".hidden", "100%25", "q?x=1#y", "\xff\xfe", "A/x", "a'\"b"} {
		data := Bytes(uint64(i), 10+i)
		if err := put(s.ctx, s, p, data); err != nil {
			// A protocol may refuse what it cannot carry, but has to say so.
			wantErr(t, fmt.Sprintf("create %q", p), err, backends.ErrName)
			continue
		}
		s.want(t, p, data)
		if a, err := s.Stat(s.ctx, p); err != nil || a.Path != p {
			t.Errorf("stat %q: %+v, %v", p, a, err)
		}
	}
}

func testList(t *testing.T, s *storageTest) {
	var want []string
	for _, p := range []string{"d/b", "d/a", "d/a.x", "d/sub/deep/f", "d/a-", "d/B", "d/z", "e", "d0"} {
		Put(t, s, p, []byte(p))
	}
	want = []string{"d/B", "d/a", "d/a-", "d/a.x", "d/b", "d/sub/", "d/z"}
	if got := s.list(t, "d"); !slices.Equal(got, want) {
		t.Errorf("list d: %q, want %q", got, want)
	}
	if got := s.list(t, ""); !slices.Equal(got, []string{"d/", "d0", "e"}) {
		t.Errorf("list of the prefix: %q", got)
	}
	for a, err := range s.List(s.ctx, "d") {
		if err != nil || a.Path == "d/a.x" && a.Size != int64(len("d/a.x")) {
			t.Errorf("list d: %+v, %v", a, err)
		}
	}
}

func testListErrors(t *testing.T, s *storageTest) {
	Put(t, s, "f", []byte("x"))
	for p, want := range map[string]error{"no": backends.ErrNotExist, "f": backends.ErrNotDir, "f/x": backends.ErrNotExist} {
		n := 0
		for _, err := range s.List(s.ctx, p) {
			wantErr(t, "list "+p, err, want)
			n++
		}
		if n != 1 {
			t.Errorf("list %s: %d results, want one error", p, n)
		}
	}
}

func testListBreak(t *testing.T, s *storageTest) {
	for i := range 10 {
		Put(t, s, fmt.Sprintf("f%d", i), nil)
	}
	n := 0
	for range s.List(s.ctx, "") {
		if n++; n == 3 {
			break
		}
	}
	Put(t, s, "f3", []byte("no lock was left behind"))
}

func testReadAt(t *testing.T, s *storageTest) {
	data := Bytes(7, 300<<10+17)
	Put(t, s, "f", data)
	o, err := s.Open(s.ctx, "f")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if o.Size() != int64(len(data)) {
		t.Errorf("size %d, want %d", o.Size(), len(data))
	}
	for _, c := range []struct {
		off int64
		n   int
	}{{0, 10}, {0, len(data)}, {1, 4096}, {int64(len(data)) - 5, 5}, {int64(len(data)) - 5, 6}, {int64(len(data)), 1}, {int64(len(data)) + 9, 1}, {65535, 70000}, {3, 0}} {
		p := make([]byte, c.n)
		n, err := o.ReadAt(s.ctx, p, c.off)
		want := max(0, min(c.n, len(data)-int(c.off)))
		if n != want || !bytes.Equal(p[:n], data[min(int(c.off), len(data)):][:n]) {
			t.Errorf("read %d at %d: %d bytes, want %d, or wrong ones", c.n, c.off, n, want)
		}
		if n < c.n && err != io.EOF || n == c.n && err != nil && err != io.EOF {
			t.Errorf("read %d at %d: %d bytes and error %v", c.n, c.off, n, err)
		}
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			p := make([]byte, 8192)
			for off := int64(i); off+8192 < int64(len(data)); off += 30011 {
				if n, err := o.ReadAt(s.ctx, p, off); n != len(p) || !bytes.Equal(p, data[off:off+8192]) {
					t.Errorf("parallel read at %d: %d, %v", off, n, err)
				}
			}
		})
	}
	wg.Wait()
	Put(t, s, "empty", nil)
	s.want(t, "empty", nil)
}

func testReadReplaced(t *testing.T, s *storageTest) {
	old, young := Bytes(1, 5000), Bytes(2, 7000)
	Put(t, s, "f", old)
	o, err := s.Open(s.ctx, "f")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	Put(t, s, "f", young)
	p := make([]byte, len(old))
	// Either the old bytes or the truth that they are gone; never a mixture.
	if n, err := o.ReadAt(s.ctx, p, 0); err != nil && err != io.EOF {
		wantErr(t, "read of a replaced file", err, backends.ErrStale)
	} else if n != len(old) || !bytes.Equal(p, old) {
		t.Errorf("read of a replaced file gave other bytes")
	}
	s.want(t, "f", young)
}

func testOpenFolder(t *testing.T, s *storageTest) {
	Put(t, s, "d/f", []byte("x"))
	_, err := s.Open(s.ctx, "d")
	wantErr(t, "open d", err, backends.ErrIsDir)
	_, err = s.Open(s.ctx, "")
	wantErr(t, "open of the prefix", err, backends.ErrIsDir)
}

func testChecksum(t *testing.T, s *storageTest) {
	data := Bytes(9, 100<<10)
	Put(t, s, "f", data)
	got, err := s.Checksum(s.ctx, "f")
	if len(s.Traits().Checksums) == 0 {
		wantErr(t, "checksum", err, backends.ErrNotSupported)
		return
	}
	if err != nil || got.IsZero() {
		t.Fatalf("checksum: %v, %v", got, err)
	}
	if err := Sums(data).Match(got); err != nil {
		t.Error(err)
	}
}

func testRemove(t *testing.T, s *storageTest) {
	Put(t, s, "d/e/f", []byte("x"))
	wantErr(t, "remove of a folder in use", s.Remove(s.ctx, "d"), backends.ErrNotEmpty)
	if err := s.Remove(s.ctx, "d/e/f"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Stat(s.ctx, "d/e/f")
	wantErr(t, "stat of a removed file", err, backends.ErrNotExist)
	wantErr(t, "second remove", s.Remove(s.ctx, "d/e/f"), backends.ErrNotExist)
	if s.Traits().Folders {
		for _, p := range []string{"d/e", "d"} {
			if err := s.Remove(s.ctx, p); err != nil {
				t.Errorf("remove of the empty folder %s: %v", p, err)
			}
		}
	}
	_, err = s.Stat(s.ctx, "d")
	wantErr(t, "stat of a removed folder", err, backends.ErrNotExist)
	Put(t, s, "d/e/f", []byte("again"))
	s.want(t, "d/e/f", []byte("again"))
}

func testSpace(t *testing.T, s *storageTest) {
	start := time.Now()
	total, free, err := s.Space(s.ctx)
	if err != nil || total <= 0 || free < 0 || free > total {
		t.Errorf("space: %d, %d, %v", total, free, err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("space took %v", d)
	}
}
