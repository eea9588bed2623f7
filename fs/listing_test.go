package fs_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tarn/backends"
	"tarn/fs"
	"tarn/fs/vfs"
)

// lister reads a directory a little at a time.
type lister struct {
	t    *testing.T
	fd   int
	offs map[string]int64 // of the names read
}

func (m *mounted) lister(p string) *lister {
	m.t.Helper()
	fd, err := unix.Open(m.at(p), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(m.t, err)
	l := &lister{m.t, fd, map[string]int64{}}
	m.t.Cleanup(func() { l.close() })
	return l
}

func (l *lister) close() {
	if l.fd >= 0 {
		unix.Close(l.fd)
	}
	l.fd = -1
}

// next gives the names that fit into size bytes; none at the end.
func (l *lister) next(size int) (out []string) {
	l.t.Helper()
	buf := make([]byte, size)
	for len(out) == 0 { // more than the dots
		n, err := unix.Getdents(l.fd, buf)
		must(l.t, err)
		if n == 0 {
			return nil
		}
		for b := buf[:n]; len(b) > 0; {
			reclen := binary.NativeEndian.Uint16(b[16:])
			name, _, _ := strings.Cut(string(b[19:reclen]), "\x00")
			if name != "." && name != ".." {
				out = append(out, name)
			}
			l.offs[name] = int64(binary.NativeEndian.Uint64(b[8:]))
			b = b[reclen:]
		}
	}
	return out
}

func (l *lister) all() (out []string) {
	for {
		names := l.next(1 << 15)
		if len(names) == 0 {
			return out
		}
		out = append(out, names...)
	}
}

func (l *lister) seek(off int64) {
	l.t.Helper()
	_, err := unix.Seek(l.fd, off, io.SeekStart)
	must(l.t, err)
}

// TestSeekDir: a directory can be read anew from any offset that it gave, by any handle,
// also behind names that are gone.
func TestSeekDir(t *testing.T) {
	m := mount(t, fs.Options{})
	m.fill("/ctao/d", 3000)
	l := m.lister("/ctao/d")
	all := l.all()
	gone := map[string]bool{}
	from := func(l *lister, what, name string) {
		t.Helper()
		l.seek(l.offs[name])
		i, _ := slices.BinarySearch(all, name+"\x00")
		got := slices.DeleteFunc(l.all(), func(s string) bool { return gone[s] }) // may still be shown
		if !slices.Equal(got, all[i:]) {
			t.Errorf("%s: %d names behind %s, want %d", what, len(got), name, len(all)-i)
		}
	}
	some := []string{all[0], all[1498], all[5], all[2999], all[1022], all[1023], all[1024]}
	other := m.lister("/ctao/d")
	other.offs = l.offs
	for _, name := range some {
		from(l, "as it was", name)
		from(other, "another handle", name)
	}
	for _, off := range []int64{0, l.offs["."], l.offs[".."]} {
		l.seek(off)
		if got := l.all(); !slices.Equal(got, all) {
			t.Errorf("from %d: %d names", off, len(got))
		}
	}
	for _, name := range some {
		must(t, os.Remove(m.at("/ctao/d/"+name)))
		gone[name] = true
		all = slices.DeleteFunc(all, func(s string) bool { return s == name })
		from(l, "after its removal", name)
		from(other, "after its removal, another handle", name)
	}
	l.seek(1 << 62)
	if _, err := unix.Getdents(l.fd, make([]byte, 4096)); err != unix.EINVAL {
		t.Errorf("from an offset that was never given: %v", err)
	}
}

// TestListModel: several handles read a directory a little at a time, while names come and
// go, through the mount and past it; the kernel keeps the listing all the while. Each
// handle sees what was there all the time exactly once, and nothing that was not there (N4).
func TestListModel(t *testing.T) {
	m := mount(t, fs.Options{})
	m.fill("/ctao/d", 400)
	dir, err := m.v.Resolve(ctx, "/ctao/d")
	must(t, err)
	defer dir.Forget(1)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	has := map[string]bool{}
	for i := range 400 {
		has[fmt.Sprintf("f%05d", i)] = true
	}
	type reader struct {
		*lister
		stays, may map[string]bool
		seen       map[string]int
	}
	copyOf := func(s map[string]bool) map[string]bool {
		out := map[string]bool{}
		for n := range s {
			out[n] = true
		}
		return out
	}
	begin := func(r *reader) { r.stays, r.may, r.seen = copyOf(has), copyOf(has), map[string]int{} }
	var readers []*reader
	change := func() {
		name := fmt.Sprintf("f%05d", rng.IntN(500))
		if rng.IntN(3) == 0 {
			name += ".sum"
		}
		p := m.at("/ctao/d/" + name)
		past := rng.IntN(3) == 0
		if has[name] {
			if past {
				must(t, m.v.Unlink(ctx, dir, name))
			} else {
				must(t, os.Remove(p))
			}
			delete(has, name)
			for _, r := range readers {
				delete(r.stays, name)
			}
		} else {
			if past {
				n, err := m.v.Mknod(ctx, dir, name, 0o644, vfs.Caller{})
				must(t, err)
				n.Forget(1)
			} else {
				must(t, os.WriteFile(p, nil, 0o644))
			}
			has[name] = true
			for _, r := range readers {
				r.may[name] = true
			}
		}
		if past {
			m.v.Changed(ctx, "/ctao/d/"+name)
		}
	}
	for range 6000 {
		if len(readers) < 4 && rng.IntN(20) == 0 {
			r := &reader{lister: m.lister("/ctao/d")}
			begin(r)
			readers = append(readers, r)
		}
		if rng.IntN(30) == 0 {
			for range 1 + rng.IntN(3) {
				change()
			}
		}
		if len(readers) == 0 {
			continue
		}
		i := rng.IntN(len(readers))
		r := readers[i]
		switch rng.IntN(100) {
		case 0: // gives up
			r.close()
			readers = slices.Delete(readers, i, i+1)
			continue
		case 1:
			r.seek(0)
			begin(r)
		}
		got := r.next(200 << rng.IntN(6))
		for _, n := range got {
			if r.seen[n]++; r.seen[n] > 1 || !r.may[n] {
				t.Fatalf("seed %d: %s was seen %d times, was there: %v", seed, n, r.seen[n], r.may[n])
			}
		}
		if len(got) > 0 {
			continue
		}
		for n := range r.stays {
			if r.seen[n] != 1 {
				t.Fatalf("seed %d: %s was there all the time and seen %d times", seed, n, r.seen[n])
			}
		}
		if rng.IntN(2) == 0 {
			r.seek(0)
			begin(r)
			continue
		}
		r.close()
		readers = slices.Delete(readers, i, i+1)
	}
}

// TestListingOfTwo: what one process read before a change is not what the kernel gives to
// another that began after it, though the first one reaches the end later (N4).
func TestListingOfTwo(t *testing.T) {
	m := mount(t, fs.Options{})
	m.fill("/ctao/d", 400)
	a := m.lister("/ctao/d")
	for last := ""; last < "f00250"; {
		names := a.next(4096)
		last = names[len(names)-1]
	}
	must(t, os.Remove(m.at("/ctao/d/f00200")))
	must(t, os.WriteFile(m.at("/ctao/d/f00200.new"), nil, 0o644))
	b := m.lister("/ctao/d")
	got := b.next(2000)
	if got[len(got)-1] >= "f00200" {
		t.Fatalf("read to %s at once", got[len(got)-1])
	}
	a.all()
	got = append(got, b.all()...)
	if i := slices.Index(got, "f00200.new"); len(got) != 400 || i < 0 || slices.Contains(got, "f00200") {
		t.Errorf("%d names, the new one at %d", len(got), i)
	}
}

// TestChangedBelow: after an import into a tree, directories of the tree that are in use
// show what came.
func TestChangedBelow(t *testing.T) {
	m := mount(t, fs.Options{})
	must(t, os.Mkdir(m.at("/ctao/t"), 0o755))
	m.fill("/ctao/t/sub", 10)
	l := m.lister("/ctao/t/sub")
	l.all()
	if _, err := os.Stat(m.at("/ctao/t/sub/g")); !os.IsNotExist(err) {
		t.Fatal(err)
	}
	g := backends.Info{DID: backends.DID{Scope: "ctao", Name: "/ctao/t/sub/g"}, Type: backends.File, Mode: 0o644}
	must(t, m.cat.Add(ctx, g, nil))
	m.v.Changed(ctx, "/ctao/t")
	l.seek(0)
	if got := l.all(); len(got) != 11 {
		t.Errorf("%d names", len(got))
	}
	if _, err := os.Stat(m.at("/ctao/t/sub/g")); err != nil {
		t.Error(err)
	}
}

// TestListAfterChanges: while processes list a directory, names come and go past the mount;
// when that is over, everybody sees what there is.
func TestListAfterChanges(t *testing.T) {
	m := mount(t, fs.Options{})
	m.fill("/ctao/d", 50)
	dir, err := m.v.Resolve(ctx, "/ctao/d")
	must(t, err)
	defer dir.Forget(1)
	for round := range 40 {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						_, err := os.ReadDir(m.at("/ctao/d"))
						must(t, err)
					}
				}
			})
		}
		for i := range 5 {
			name := fmt.Sprintf("n%d", (round+i)%7)
			if n, err := m.v.Lookup(ctx, dir, name); err == nil {
				n.Forget(1)
				must(t, m.v.Unlink(ctx, dir, name))
			} else {
				n, err := m.v.Mknod(ctx, dir, name, 0o644, vfs.Caller{})
				must(t, err)
				n.Forget(1)
			}
			m.v.Changed(ctx, "/ctao/d/"+name)
		}
		close(stop)
		wg.Wait()
		var want []string
		list, err := m.v.List(ctx, dir, "")
		must(t, err)
		for _, e := range list {
			want = append(want, e.Name)
		}
		if got := m.lister("/ctao/d").all(); !slices.Equal(got, want) {
			t.Fatalf("round %d: listed %q, there is %q", round, got, want)
		}
	}
}
