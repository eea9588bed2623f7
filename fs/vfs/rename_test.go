package vfs_test

import (
	"encoding/json"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tarn/backends"
	"tarn/cache/journal"
	"tarn/fs/vfs"
)

// hasten uploads what is at p now, whatever the delay.
func (w *world) hasten(p string) {
	w.t.Helper()
	for _, u := range w.v.Uploads() {
		if u.Path == p {
			must(w.t, w.v.RetryUpload(ctx, u.ID))
			return
		}
	}
	w.t.Fatalf("%s is not unsent", p)
}

// TestRenameOverRegistered: a closed file that was moved over one which is registered and
// not yet SAFE is there after a restart, however the two were sealed (W4, N7).
func TestRenameOverRegistered(t *testing.T) {
	w := newSlowWorld(t, vfs.Options{Delay: time.Hour})
	src := random(50000)
	w.write("/ctao/d/src", src)
	w.write("/ctao/d/dst", random(60000))
	w.hasten("/ctao/d/dst")
	w.registered("/ctao/d/dst")
	must(t, w.rename("/ctao/d/src", "/ctao/d/dst"))
	w.want("/ctao/d/dst", src)
	w.reopen()
	w.gone("/ctao/d/src")
	w.want("/ctao/d/dst", src)
	w.registered("/ctao/d/dst")
	w.reopen()
	w.want("/ctao/d/dst", src)
}

// TestCrashInRename: a rename is done or not done after a crash between any two of its
// durable steps, and the content of its source is never lost.
func TestCrashInRename(t *testing.T) {
	type ids []string
	note := func(w *world, move, drop ids) {
		b, err := json.Marshal(map[string]any{"From": "/ctao/d/src", "To": "/ctao/d/dst", "Move": move, "Drop": drop})
		must(t, err)
		must(t, w.jrnl.PutIntent("rename-test", b))
	}
	find := func(w *world, p string) (out ids) {
		for _, u := range w.v.Uploads() {
			if u.Path == p {
				out = append(out, u.ID)
			}
		}
		return out
	}
	remove := func(w *world, all ids) {
		for _, e := range w.jrnl.Entries() {
			for _, id := range all {
				if e.ID() == id {
					must(t, e.Remove())
				}
			}
		}
	}
	did := func(n string) backends.DID { return backends.DID{Scope: "ctao", Name: "/ctao/d/" + n} }
	for _, c := range []struct {
		name                   string
		srcReg, srcNew, dstReg bool
		dstNew                 bool
	}{
		{"unsent over unsent", false, false, false, false},
		{"unsent over registered", false, false, true, false},
		{"unsent over new generation", false, false, true, true},
		{"registered over unsent", true, false, false, false},
		{"registered over registered", true, false, true, false},
		{"new generation over unsent", true, true, false, false},
		{"new generation over registered", true, true, true, false},
		{"new generation over new generation", true, true, true, true},
	} {
		for step := range 4 {
			t.Run(c.name, func(t *testing.T) {
				w := newSlowWorld(t, vfs.Options{Delay: time.Hour})
				make1 := func(p string, reg, more bool) (b []byte) {
					b = random(3000)
					w.write(p, b)
					if reg {
						w.hasten(p)
						w.registered(p)
					}
					if more {
						b = random(4000)
						w.write(p, b)
					}
					return b
				}
				src := make1("/ctao/d/src", c.srcReg, c.srcNew)
				dst := make1("/ctao/d/dst", c.dstReg, c.dstNew)
				move, drop := find(w, "/ctao/d/src"), find(w, "/ctao/d/dst")
				w.crash(func() {
					note(w, move, drop)
					if step >= 1 && c.srcReg {
						must(t, w.cat.Rename(ctx, did("src"), did("dst")))
					}
					if step >= 2 {
						remove(w, drop[:1])
					}
					if step >= 3 {
						remove(w, drop)
						for _, e := range w.jrnl.Entries() {
							if e.ID() == move[0] {
								must(t, e.Update(func(r *journal.Record) { r.Path = []byte("/ctao/d/dst") }))
							}
						}
					}
				})
				if c.srcReg && step == 0 { // undone
					w.want("/ctao/d/src", src)
					w.want("/ctao/d/dst", dst)
				} else {
					w.gone("/ctao/d/src")
					w.want("/ctao/d/dst", src)
				}
				if in, err := w.jrnl.Intents(); err != nil || len(in) != 0 {
					t.Fatalf("intents left: %v %v", in, err)
				}
				until(t, "all is registered", func() bool {
					for _, u := range w.v.Uploads() {
						if u.State != journal.Ruled || u.Error != "" {
							return false
						}
					}
					return true
				})
				if c.srcReg && step == 0 {
					w.want("/ctao/d/src", src)
					w.want("/ctao/d/dst", dst)
				} else {
					w.gone("/ctao/d/src")
					w.want("/ctao/d/dst", src)
				}
			})
		}
	}
}

// crash ends the FS where it is, does something to what lies below it, and starts anew.
func (w *world) crash(f func()) {
	w.t.Helper()
	must(w.t, w.v.Close())
	f()
	w.reopen()
}

// TestRenameMovesAllContents: the registered content of a file that has a newer one moves
// with it, and finds its way under the new name, also when nobody has the file open.
func TestRenameMovesAllContents(t *testing.T) {
	w := newSlowWorld(t, vfs.Options{Delay: time.Hour})
	w.write("/ctao/d/src", random(1000))
	w.hasten("/ctao/d/src")
	w.registered("/ctao/d/src")
	now := random(2000)
	w.write("/ctao/d/src", now)
	must(t, w.rename("/ctao/d/src", "/ctao/d/dst"))
	for _, u := range w.v.Uploads() {
		if u.Path != "/ctao/d/dst" {
			t.Errorf("%+v", u)
		}
	}
	w.want("/ctao/d/dst", now)
	w.reopen()
	w.want("/ctao/d/dst", now)
}

// TestSameContentAgain: a file that is replaced by the same bytes has the attributes of
// the newer one, before and after it is registered.
func TestSameContentAgain(t *testing.T) {
	for _, over := range []bool{false, true} {
		w := newWorld(t, vfs.Options{})
		b := random(1000)
		w.write("/ctao/f", b)
		w.drain()
		p := "/ctao/f"
		if over {
			p = "/ctao/.f.tmp"
		}
		w.write(p, b)
		n, err := w.v.Resolve(ctx, p)
		must(t, err)
		at, mode := time.Unix(1234567890, 0), uint32(0o600)
		must(t, w.v.SetAttr(ctx, n, vfs.SetAttr{Change: backends.Change{MTime: &at, Mode: &mode}}))
		n.Forget(1)
		if over {
			must(t, w.rename(p, "/ctao/f"))
		}
		check := func(when string) {
			if in := w.stat("/ctao/f"); !in.MTime.Equal(at) || in.Mode != mode {
				t.Errorf("over=%v %s: mtime %v, mode %o", over, when, in.MTime, in.Mode)
			}
		}
		check("before")
		w.drain()
		check("after")
		w.want("/ctao/f", b)
	}
}

// TestUnlinkIsDurable: what was unlinked while it was open does not come back, and leaves
// no name that a later rename could collide with.
func TestUnlinkIsDurable(t *testing.T) {
	w := newSlowWorld(t, vfs.Options{Delay: time.Hour})
	src := random(100)
	w.write("/ctao/d/src", src)
	w.write("/ctao/d/dst", random(100))
	h := w.openFile("/ctao/d/dst", os.O_RDWR)
	must(t, w.rename("/ctao/d/src", "/ctao/d/dst"))
	w.crash(func() {})
	w.want("/ctao/d/dst", src)
	_ = h // died with the process
}

// TestRandomRestarts: random writes, renames and removals, with uploads at every stage of
// their way, and restarts in between: each name has what was last closed under it (W4).
func TestRandomRestarts(t *testing.T) {
	for seed := range uint64(4) {
		w := (&world{t: t, dir: t.TempDir(), opt: vfs.Options{Delay: 3 * time.Millisecond}}).start()
		if seed%2 == 1 {
			w.slow = 1
			w.reopen()
		}
		rng := mrand.New(mrand.NewPCG(seed, 7))
		has := map[string][]byte{}
		dirs := []string{"/ctao/a", "/ctao/b"}
		for _, d := range dirs {
			w.mkdir(d)
		}
		name := func() string { return fmt.Sprintf("%s/%d", dirs[rng.IntN(2)], rng.IntN(4)) }
		for step := range 250 {
			a, b := name(), name()
			old, there := has[a]
			switch op := rng.IntN(12); {
			case op < 4:
				has[a] = random(rng.IntN(3000))
				w.write(a, has[a])
			case op == 4 && len(old) > 10:
				h := w.openFile(a, os.O_RDWR)
				has[a] = append([]byte("CHANGED"), old[7:]...)
				_, err := h.WriteAt(ctx, []byte("CHANGED"), 0)
				must(t, err)
				w.shut(h)
			case op < 8 && there && a != b:
				must(t, w.rename(a, b))
				has[b] = old
				delete(has, a)
			case op == 8 && there:
				must(t, w.unlink(a))
				delete(has, a)
			case op == 9:
				must(t, w.rename(dirs[0], "/ctao/tmp"))
				must(t, w.rename(dirs[1], dirs[0]))
				must(t, w.rename("/ctao/tmp", dirs[1]))
				moved := map[string][]byte{}
				for p, x := range has {
					moved[map[string]string{dirs[0]: dirs[1], dirs[1]: dirs[0]}[filepath.Dir(p)]+p[len(dirs[0]):]] = x
				}
				has = moved
			case op == 10:
				time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
			case op == 11 && step%3 == 0:
				w.reopen()
			}
			for p, x := range has {
				w.want(p, x)
			}
			for _, d := range dirs {
				for _, n := range w.names(d) {
					if _, ok := has[d+"/"+n]; !ok {
						t.Fatalf("seed %d, step %d: %s/%s is there", seed, step, d, n)
					}
				}
			}
			if t.Failed() {
				t.Fatalf("seed %d, step %d", seed, step)
			}
		}
		if seed%2 == 0 {
			w.drain()
		}
		w.close()
	}
}
