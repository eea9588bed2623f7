package vfs_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/fs/vfs"
)

// kernel is what holds nodes: it counts the references of each, and forgets when asked,
// but for what it uses.
type kernel struct {
	w *world

	mu    sync.Mutex
	refs  map[uint64]int64
	uses  map[uint64]bool
	asked map[uint64]int
}

func (k *kernel) Content(uint64)       {}
func (k *kernel) Entry(uint64, string) {}
func (k *kernel) Idle(nodes []vfs.Idle) {
	for _, n := range nodes {
		k.mu.Lock()
		k.asked[n.Inode]++
		refs := k.refs[n.Inode]
		if k.uses[n.Inode] {
			refs = 0
		} else {
			delete(k.refs, n.Inode)
		}
		k.mu.Unlock()
		if refs > 0 {
			k.w.v.Forget(n.Inode, refs)
		}
	}
}

// look looks a path up as the kernel does, and gives its inode number.
func (k *kernel) look(p string) uint64 {
	n, err := k.w.v.Resolve(ctx, p)
	must(k.w.t, err)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refs[n.Inode()]++
	return n.Inode()
}

func crowd(t *testing.T, limit, files int) *kernel {
	w := newWorld(t, vfs.Options{Nodes: limit, Delay: time.Hour})
	k := &kernel{w: w, refs: map[uint64]int64{}, uses: map[uint64]bool{}, asked: map[uint64]int{}}
	w.v.SetNotifier(k)
	w.mkdir("/ctao/d").Forget(1)
	_, err := w.cat.Import(ctx, func(yield func(backends.Entry, error) bool) {
		for i := range files {
			did := backends.DID{Scope: "ctao", Name: fmt.Sprintf("/ctao/d/f%05d", i)}
			if !yield(backends.Entry{Info: backends.Info{DID: did, Type: backends.File, Size: 16, Mode: 0o644, UID: uint32(i),
				Checksums: backends.Checksums{SHA256: fmt.Sprintf("%064x", i), Adler32: "1a2b3c4d"}}}, nil) {
				return
			}
		}
	})
	must(t, err)
	return k
}

func (k *kernel) settles(limit int) {
	k.w.t.Helper()
	for range 500 {
		if k.w.v.Stats().Nodes <= limit {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	k.w.t.Errorf("%d nodes stay, with a limit of %d", k.w.v.Stats().Nodes, limit)
}

// TestNodesAreBounded: beyond the limit the kernel is asked to forget; never what is open
// or unsent. What it keeps nevertheless keeps its node, and what it forgot comes back with
// the same inode number and attributes.
func TestNodesAreBounded(t *testing.T) {
	const limit = 200
	k := crowd(t, limit, 1000)
	v := k.w.v
	k.w.write("/ctao/d/new", random(10)) // waits for its upload
	unsent := k.look("/ctao/d/new")
	open, err := v.Resolve(ctx, "/ctao/d/f00000")
	must(t, err)
	h, err := v.Open(ctx, open, os.O_RDONLY, vfs.Caller{})
	must(t, err)
	used := k.look("/ctao/d/f00001")
	k.mu.Lock()
	k.uses[used] = true
	k.mu.Unlock()
	inodes := map[string]uint64{}
	for i := range 1000 {
		p := fmt.Sprintf("/ctao/d/f%05d", i)
		inodes[p] = k.look(p)
	}
	k.settles(limit)
	k.mu.Lock()
	if k.asked[open.Inode()]+k.asked[unsent] > 0 || k.asked[used] == 0 {
		t.Errorf("asked to forget: open %d times, unsent %d, used %d", k.asked[open.Inode()], k.asked[unsent], k.asked[used])
	}
	k.mu.Unlock()
	if n := v.Known(used); n == nil {
		t.Error("what the kernel uses lost its node")
	} else {
		n.Forget(1)
	}
	for i := range 1000 {
		p := fmt.Sprintf("/ctao/d/f%05d", i)
		n, err := v.Resolve(ctx, p)
		must(t, err)
		if in := n.Info(); in.Inode != inodes[p] || in.UID != uint32(i) {
			t.Fatalf("%s came back as %+v, it was inode %d", p, in, inodes[p])
		}
		n.Forget(1)
	}
	h.Release()
	open.Forget(1)
}

// TestNodesAreBoundedByRacers: processes that look up, open, rename and list meanwhile
// find everything where it is.
func TestNodesAreBoundedByRacers(t *testing.T) {
	const limit, files, racers = 100, 600, 4
	k := crowd(t, limit, files)
	v := k.w.v
	dir, err := v.Resolve(ctx, "/ctao/d")
	must(t, err)
	defer dir.Forget(1)
	var wg sync.WaitGroup
	for r := range racers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(r), 3))
			at := map[int]string{}
			for range 1500 {
				i := rng.IntN(files/racers)*racers + r
				name := at[i]
				if name == "" {
					name = fmt.Sprintf("f%05d", i)
				}
				k.look("/ctao/d/" + name)
				n, err := v.Lookup(ctx, dir, name)
				if err != nil {
					t.Error(err)
					return
				}
				if in := n.Info(); in.UID != uint32(i) {
					t.Errorf("%s is %+v", name, in)
				}
				h, err := v.Open(ctx, n, os.O_RDONLY, vfs.Caller{})
				if err != nil {
					t.Error(err)
					return
				}
				if i%7 == 0 {
					now := fmt.Sprintf("g%05d-%d", i, rng.IntN(10))
					if now != name {
						if err := v.Rename(ctx, dir, name, dir, now, 0); err != nil {
							t.Error(err)
						}
						at[i] = now
					}
				}
				if other := v.Known(n.Inode()); other != n {
					t.Errorf("a second node for %s", name)
				} else {
					other.Forget(1)
				}
				h.Release()
				n.Forget(1)
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			entries, err := v.List(ctx, dir, "")
			if err != nil {
				t.Error(err)
				return
			}
			for _, n := range v.PlaceAll(ctx, dir, entries, nil) {
				if n != nil {
					n.Forget(1)
				}
			}
		}
	})
	wg.Wait()
	k.settles(limit)
}

// TestNodeBytes: a node takes what NodeBytes says, or a little less.
func TestNodeBytes(t *testing.T) {
	const files = 20000
	k := crowd(t, 2*files, files)
	dir, err := k.w.v.Resolve(ctx, "/ctao/d")
	must(t, err)
	defer dir.Forget(1)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	nodes := make([]*vfs.Node, 0, files)
	before := heap()
	for after := ""; ; {
		page, err := k.w.v.List(ctx, dir, after)
		must(t, err)
		nodes = k.w.v.PlaceAll(ctx, dir, page, nodes)
		if len(page) < vfs.Page {
			break
		}
		after = page[len(page)-1].Name
	}
	each := (heap() - before) / int64(len(nodes))
	t.Logf("%d bytes a node", each)
	if each > vfs.NodeBytes || each < vfs.NodeBytes/2 {
		t.Errorf("%d bytes a node; NodeBytes says %d", each, vfs.NodeBytes)
	}
}

// TestForgottenDirectoryKeepsItsTime: a directory in which a name changed comes back with the
// time of that, of which the catalogue knows not, or another one.
func TestForgottenDirectoryKeepsItsTime(t *testing.T) {
	w := newWorld(t, vfs.Options{})
	n := w.mkdir("/ctao/d")
	time.Sleep(10 * time.Millisecond)
	sub, err := w.v.Mkdir(ctx, n, "sub", 0o755, vfs.Caller{})
	must(t, err)
	sub.Forget(1)
	must(t, w.v.Rmdir(ctx, n, "sub"))
	for range 2 {
		was := n.Attr()
		n.Forget(1)
		if w.v.Known(was.Inode) != nil {
			t.Fatal("somebody holds it still")
		}
		n, err = w.v.Resolve(ctx, "/ctao/d")
		must(t, err)
		if now := n.Attr(); now != was {
			t.Errorf("came back as %+v, it was %+v", now, was)
		}
	}
	mtime := time.Unix(1e9, 0)
	must(t, w.v.SetAttr(ctx, n, vfs.SetAttr{Change: backends.Change{MTime: &mtime}}))
	n.Forget(1)
	n, err = w.v.Resolve(ctx, "/ctao/d")
	must(t, err)
	if now := n.Attr().MTime; !now.Equal(mtime) {
		t.Errorf("its time is %v, it was set to %v", now, mtime)
	}
	n.Forget(1)
}
