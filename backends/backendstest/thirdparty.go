package backendstest

import (
	"bytes"
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

// ThirdParty runs the contract of backends.ThirdParty, one subtest a sentence. open gives two new, empty storages each
// time, which the suite closes; files are copied from the first to the second, which can.
func ThirdParty(t *testing.T, open func(t *testing.T) (from, to backends.Storage)) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *pairTest)
	}{
		{"a copy is whole", testCopyWhole},
		{"a copy of nothing", testCopyEmpty},
		{"a copy replaces what was there", testCopyReplaces},
		{"what is not there is ErrNotExist", testCopyMissing},
		{"another size is ErrCorrupt", testCopySize},
		{"another checksum is ErrCorrupt", testCopyChecksums},
		{"paths that are not relative and clean are ErrName", testCopyHostilePaths},
		{"what is in the way stays", testCopyInTheWay},
		{"progress only grows, up to the size", testCopyProgress},
		{"storages of another kind are ErrNotSupported", testCopyForeign},
		{"a cancelled copy is there, or never comes", testCopyCancelled},
		{"copies in parallel", testCopyParallel},
		{"copies to one path in parallel leave one of them whole", testCopySamePath},
		{"after Close everything is ErrClosed", testCopyClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, to := open(t)
			t.Cleanup(func() { from.Close(); to.Close() })
			tp, ok := from.(backends.ThirdParty)
			if !ok {
				t.Fatalf("%T is no backends.ThirdParty", from)
			}
			c.run(t, &pairTest{ThirdParty: tp, from: &storageTest{from, t.Context()}, to: &storageTest{to, t.Context()}})
		})
	}
}

// pairTest is two storages with the short hands of the suite.
type pairTest struct {
	backends.ThirdParty
	from, to *storageTest
}

// copy copies a file with these bytes. If there is a proof, it is of them.
func (p *pairTest) copy(ctx context.Context, src, dst string, data []byte) error {
	got, err := p.CopyTo(ctx, src, p.to.Storage, dst, int64(len(data)), Sums(data), nil)
	if err != nil {
		return err
	}
	if err := Sums(data).Match(got); err != nil && !got.IsZero() {
		return fmt.Errorf("the proof: %w", err)
	}
	return nil
}

// none wants that nothing is at a path of the destination.
func (p *pairTest) none(t *testing.T, path, when string) {
	t.Helper()
	_, err := p.to.Stat(p.to.ctx, path)
	for end := time.Now().Add(time.Minute); backends.IsTemporary(err) && time.Now().Before(end); { // no answer yet: a cluster of a busy machine
		_, err = p.to.Stat(p.to.ctx, path)
	}
	wantErr(t, "stat of "+path+" after "+when, err, backends.ErrNotExist)
}

func testCopyWhole(t *testing.T, p *pairTest) {
	var all []string
	for i, n := range []int{1, 5000, 1 << 20, 6<<20 + 11} {
		data := Bytes(uint64(i), n)
		src, dst := fmt.Sprintf("d/f%d", i), fmt.Sprintf("a/b %d/copy.x", i)
		Put(t, p.from, src, data)
		if err := p.copy(t.Context(), src, dst, data); err != nil {
			t.Fatalf("copy of %d bytes: %v", n, err)
		}
		p.to.want(t, dst, data)
		p.from.want(t, src, data)
		if a, err := p.to.Stat(t.Context(), dst); err != nil || a.Size != int64(n) || a.IsDir {
			t.Errorf("stat: %+v, %v", a, err)
		}
		all = append(all, fmt.Sprintf("a/b %d/", i))
	}
	if got := p.to.list(t, ""); !slices.Equal(got, []string{"a/"}) {
		t.Errorf("copies left %q", got)
	}
	if got := p.to.list(t, "a"); !slices.Equal(got, all) {
		t.Errorf("copies left %q", got)
	}
	if got := p.from.list(t, ""); !slices.Equal(got, []string{"d/"}) {
		t.Errorf("copies left %q at their source", got)
	}
	// One digest is enough.
	data := Bytes(1, 5000)
	got, err := p.CopyTo(t.Context(), "d/f1", p.to.Storage, "one", 5000, backends.Checksums{Adler32: Sums(data).Adler32}, nil)
	if err != nil || !got.IsZero() && got.Adler32 != Sums(data).Adler32 {
		t.Errorf("with adler32 alone: %+v, %v", got, err)
	}
}

func testCopyEmpty(t *testing.T, p *pairTest) {
	Put(t, p.from, "empty", nil)
	if err := p.copy(t.Context(), "empty", "d/empty", nil); err != nil {
		t.Fatal(err)
	}
	p.to.want(t, "d/empty", nil)
}

func testCopyReplaces(t *testing.T, p *pairTest) {
	data := Bytes(2, 70000)
	Put(t, p.from, "f", data)
	Put(t, p.to, "d/f", Bytes(3, 100000))
	if err := p.copy(t.Context(), "f", "d/f", data); err != nil {
		t.Fatal(err)
	}
	p.to.want(t, "d/f", data)
	if err := p.copy(t.Context(), "f", "d/f", data); err != nil {
		t.Errorf("once more: %v", err)
	}
	p.to.want(t, "d/f", data)
}

func testCopyMissing(t *testing.T, p *pairTest) {
	Put(t, p.from, "d/f", []byte("x"))
	Put(t, p.to, "old", []byte("old"))
	for _, src := range []string{"no", "d/no", "no/no", "d/f/below"} {
		for _, dst := range []string{"x/y", "old"} {
			err := p.copy(t.Context(), src, dst, []byte("x"))
			wantErr(t, "copy of "+src, err, backends.ErrNotExist)
			if backends.IsTemporary(err) {
				t.Errorf("%s: not being there is no temporary failure", src)
			}
		}
		p.none(t, "x/y", "a copy of "+src)
	}
	p.to.want(t, "old", []byte("old"))
}

func testCopySize(t *testing.T, p *pairTest) {
	data := Bytes(4, 10000)
	Put(t, p.from, "f", data)
	Put(t, p.from, "empty", nil)
	Put(t, p.to, "old", []byte("old"))
	for _, c := range []struct {
		src  string
		size int64
		want backends.Checksums
	}{
		{"f", 9999, Sums(data)}, {"f", 10001, Sums(data)}, {"f", 0, Sums(nil)}, {"f", 9999, Sums(data[:9999])}, {"empty", 1, Sums(nil)}, {"empty", 10000, Sums(data)},
	} {
		for _, dst := range []string{"x", "old"} {
			_, err := p.CopyTo(t.Context(), c.src, p.to.Storage, dst, c.size, c.want, nil)
			wantErr(t, fmt.Sprintf("copy of %s as %d bytes", c.src, c.size), err, backends.ErrCorrupt)
		}
		p.none(t, "x", "it")
	}
	p.to.want(t, "old", []byte("old"))
}

func testCopyChecksums(t *testing.T, p *pairTest) {
	data := Bytes(5, 70000)
	Put(t, p.from, "f", data)
	Put(t, p.to, "old", []byte("old"))
	for _, c := range []struct {
		name string
		want backends.Checksums
	}{
		{"of other bytes", Sums(Bytes(6, 70000))},
		{"of other bytes, adler32 only", backends.Checksums{Adler32: Sums(Bytes(6, 70000)).Adler32}},
		{"adler32 that is wrong", backends.Checksums{Adler32: "00000001", MD5: Sums(data).MD5, SHA256: Sums(data).SHA256}},
		{"none", backends.Checksums{}},
	} {
		for _, dst := range []string{"d/x", "old"} {
			_, err := p.CopyTo(t.Context(), "f", p.to.Storage, dst, 70000, c.want, nil)
			if c.want.IsZero() && errors.Is(err, backends.ErrNotSupported) {
				continue // the bytes are carried, and that fails
			}
			wantErr(t, "copy with checksums "+c.name, err, backends.ErrCorrupt)
		}
		p.none(t, "d/x", "a copy with checksums "+c.name)
	}
	p.to.want(t, "old", []byte("old"))
	if err := p.copy(t.Context(), "f", "d/x", data); err != nil {
		t.Errorf("after that, with the right ones: %v", err)
	}
}

func testCopyHostilePaths(t *testing.T, p *pairTest) {
	Put(t, p.from, "a/b", []byte("x"))
	for _, h := range hostile {
		wantErr(t, fmt.Sprintf("copy of %q", h), p.copy(t.Context(), h, "x", []byte("x")), backends.ErrName)
		wantErr(t, fmt.Sprintf("copy to %q", h), p.copy(t.Context(), "a/b", h, []byte("x")), backends.ErrName)
	}
	if got := p.to.list(t, ""); len(got) != 0 {
		t.Errorf("hostile paths left %q", got)
	}
}

func testCopyInTheWay(t *testing.T, p *pairTest) {
	Put(t, p.from, "d/f", []byte("x"))
	Put(t, p.to, "d/f", []byte("old"))
	for dst, want := range map[string]error{"d/f/g": backends.ErrNotDir, "d": backends.ErrIsDir} {
		err := p.copy(t.Context(), "d/f", dst, []byte("x"))
		if !p.to.Traits().Folders && err == nil {
			continue // an object store may well have both
		}
		wantErr(t, "copy to "+dst, err, want)
	}
	p.to.want(t, "d/f", []byte("old"))
	if err := p.copy(t.Context(), "d", "x", nil); err == nil {
		t.Error("a folder was copied as a file")
	}
	p.none(t, "x", "a copy of a folder")
}

func testCopyProgress(t *testing.T, p *pairTest) {
	data := Bytes(7, 12<<20+1)
	Put(t, p.from, "f", data)
	var mu sync.Mutex
	var seen []int64
	over := false
	_, err := p.CopyTo(t.Context(), "f", p.to.Storage, "g", int64(len(data)), Sums(data), func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		if over {
			t.Errorf("told of %d bytes after the end", n)
		}
		seen = append(seen, n)
	})
	mu.Lock()
	over = true
	mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range seen {
		if n < 0 || n > int64(len(data)) || i > 0 && n < seen[i-1] {
			t.Errorf("of %d bytes these have arrived: %d", len(data), seen)
			break
		}
	}
	time.Sleep(100 * time.Millisecond)
}

// foreign is a storage that nobody knows.
type foreign struct{ backends.Storage }

func testCopyForeign(t *testing.T, p *pairTest) {
	Put(t, p.from, "f", []byte("x"))
	_, err := p.CopyTo(t.Context(), "f", foreign{p.to.Storage}, "g", 1, Sums([]byte("x")), func(int64) { t.Error("progress of a copy that cannot be made") })
	wantErr(t, "copy", err, backends.ErrNotSupported)
	if backends.IsTemporary(err) || errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("this does not pass: %v", err)
	}
	p.none(t, "g", "it")
}

// testCopyCancelled ends the context at any moment: either the file is there whole, or it is not and does not come later.
func testCopyCancelled(t *testing.T, p *pairTest) {
	data := Bytes(8, 4<<20+5)
	Put(t, p.from, "f", data)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, "copy with a context that has ended", p.copy(ctx, "f", "none", data), context.Canceled)
	usual := time.Duration(0)
	failed := []string{"none"}
	for i := range 40 {
		path := fmt.Sprintf("d/f%d", i)
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		if i >= 4 { // once it is known how long it takes
			time.AfterFunc(rand.N(usual*5/4+1), cancel)
		}
		err := p.copy(ctx, "f", path, data)
		if i < 4 {
			usual = max(usual, time.Since(began))
		}
		cancel()
		switch {
		case err == nil:
			p.to.want(t, path, data)
		case i < 4:
			t.Fatal(err)
		default:
			wantErr(t, "a cancelled copy", err, context.Canceled)
			failed = append(failed, path)
			p.none(t, path, "its copy was cancelled")
		}
	}
	if len(failed) == 1 {
		t.Error("no copy was cancelled in time")
	}
	time.Sleep(2*usual + 500*time.Millisecond)
	for _, path := range failed {
		p.none(t, path, "its copy was cancelled some time ago")
	}
	if got := p.to.list(t, ""); slices.ContainsFunc(got, func(n string) bool { return n != "d/" }) {
		t.Errorf("cancelled copies left %q", got)
	}
	if err := p.copy(t.Context(), "f", "d/last", data); err != nil {
		t.Errorf("a copy after that: %v", err)
	}
	p.to.want(t, "d/last", data)
}

func testCopyParallel(t *testing.T, p *pairTest) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 3 {
				src, dst := fmt.Sprintf("w%d/f%d", i, j), fmt.Sprintf("shared/w%d/f%d", i, j)
				data := Bytes(uint64(i*100+j), 200_000*j+i)
				if err := put(t.Context(), p.from, src, data); err != nil {
					t.Errorf("put %s: %v", src, err)
					return
				}
				if err := p.copy(t.Context(), src, dst, data); err != nil {
					t.Errorf("copy %s: %v", src, err)
					continue
				}
				if got, err := Get(t.Context(), p.to, dst); err != nil || !bytes.Equal(got, data) {
					t.Errorf("get %s: %d bytes, %v", dst, len(got), err)
				}
			}
		})
	}
	wg.Wait()
}

func testCopySamePath(t *testing.T, p *pairTest) {
	for i := range 6 {
		Put(t, p.from, fmt.Sprint("f", i), Bytes(uint64(i), 100000+i))
	}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if err := p.copy(t.Context(), fmt.Sprint("f", i), "d/f", Bytes(uint64(i), 100000+i)); err != nil {
				t.Errorf("copy %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	got, err := Get(t.Context(), p.to, "d/f")
	if err != nil {
		t.Fatal(err)
	}
	if i := len(got) - 100000; i < 0 || i > 5 || !bytes.Equal(got, Bytes(uint64(i), 100000+i)) {
		t.Errorf("%d bytes that nobody copied", len(got))
	}
}

func testCopyClosed(t *testing.T, p *pairTest) {
	Put(t, p.from, "f", []byte("x"))
	for _, s := range []backends.Storage{p.to, p.from} {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "copy", p.copy(t.Context(), "f", "g", []byte("x")), backends.ErrClosed)
	}
}
