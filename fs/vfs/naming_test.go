package vfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/checksum"
	"tarn/backends/lake"
	"tarn/backends/naming"
	"tarn/backends/replication"
	"tarn/backends/storage/posix"
	"tarn/fs/vfs"
)

// folders are those of the disks.
var folders = map[string]string{"DISK": "disk", "DISK2": "disk2"}

// named is a world with two disks that have a naming, a replication, and a clock that can
// be put forward.
type named struct {
	*world
	word  string
	ahead atomic.Int64 // of the clock
	flaky *flaky       // between the lake and the second disk
	disks map[string]*posix.Storage
	end   func() // of the replication
	eng   *replication.Engine
}

func newNamed(t *testing.T, word string) *named {
	n := &named{word: word, world: &world{t: t, dir: t.TempDir(), opt: vfs.Options{Delay: time.Millisecond}}}
	n.opt.Now = n.now
	n.tune = func(co *embedded.Options, lo *lake.Options) {
		co.Places, co.Now, co.Grace, co.CacheBytes = []string{"DISK", "DISK2"}, n.now, 24*time.Hour, 8<<20
		if lo.Catalogue == nil {
			return
		}
		must(t, os.MkdirAll(filepath.Join(n.dir, "disk2"), 0o755))
		second, err := posix.Open(posix.Options{Dir: filepath.Join(n.dir, "disk2"), Log: lo.Log})
		must(t, err)
		n.disks = map[string]*posix.Storage{"DISK": n.disk, "DISK2": second}
		a, _ := naming.ByName(n.word)
		if n.flaky == nil {
			n.flaky = &flaky{rnd: rand.New(rand.NewPCG(1, 2))}
		}
		n.flaky.Storage = second
		lo.Places, lo.Now = n.cat, n.now
		lo.RSEs[0].Naming = a
		lo.RSEs = append(lo.RSEs[:1], &lake.RSE{RSE: backends.RSE{Name: "DISK2", Kind: backends.DiskKind}, Naming: a, Storage: n.flaky})
		lo.WriteRules = []backends.Rule{{Copies: 2, Expression: "rse_type=DISK"}}
	}
	n.open()
	n.replicate()
	t.Cleanup(n.stop)
	n.mkdir("/ctao")
	return n
}

func (n *named) now() time.Time { return time.Now().Add(time.Duration(n.ahead.Load())) }

func (n *named) replicate() {
	n.eng = replication.New(n.lake, replication.Options{Now: n.now, RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond, Pending: 20 * time.Millisecond})
	c, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = n.eng.Run(c) })
	n.end = func() { cancel(); wg.Wait() }
}

func (n *named) stop() {
	if n.v == nil {
		return
	}
	n.end()
	n.close()
	must(n.t, n.disks["DISK2"].Close())
}

// crash ends everything where it is: what is done durably is there afterwards, nothing else.
func (n *named) crash() {
	n.t.Helper()
	n.stop()
	n.open()
	n.replicate()
}

// reap puts the clock forward by more than the grace period, and waits until what was
// removed before is deleted for good.
func (n *named) reap() {
	n.t.Helper()
	defer func() {
		if n.t.Failed() {
			n.t.Logf("replication: %+v", n.eng.Status())
		}
	}()
	until(n.t, "all is reaped", func() bool {
		n.ahead.Add(int64(25 * time.Hour)) // what is being registered replaces something later
		n.eng.Kick()
		time.Sleep(time.Millisecond)
		for _, err := range n.cat.Pasts(ctx, backends.DID{}) {
			must(n.t, err)
			return false
		}
		return true
	})
}

func (n *named) path(p string) string {
	n.t.Helper()
	a, _ := naming.ByName(n.word)
	out, ok := a.Path(backends.DID{Scope: "ctao", Name: p})
	if !ok {
		n.t.Fatalf("no path for %s", p)
	}
	return out
}

func (n *named) pfns(p string) map[string]string {
	n.t.Helper()
	reps, err := n.cat.Replicas(ctx, backends.DID{Scope: "ctao", Name: p})
	must(n.t, err)
	out := map[string]string{}
	for _, r := range reps {
		if r.State != backends.Available {
			n.t.Fatalf("%s: %+v", p, r)
		}
		out[r.RSE] = r.PFN
	}
	return out
}

// lies fails the test unless both copies of p lie at their path with these bytes; at the
// naming's path, or at another one.
func (n *named) lies(p string, named bool, b []byte) {
	n.t.Helper()
	at := n.pfns(p)
	for rse, disk := range n.disks {
		if got := at[rse] == n.path(p); got != named {
			n.t.Errorf("copy of %s at %s: %q, want %v that it is %q", p, rse, at[rse], named, n.path(p))
		}
		got, err := os.ReadFile(filepath.Join(n.dir, folders[rse], at[rse]))
		if _, serr := disk.Stat(ctx, at[rse]); err != nil || serr != nil || !bytes.Equal(got, b) {
			n.t.Errorf("copy of %s at %s: %d bytes, %v %v, want %d", p, rse, len(got), err, serr, len(b))
		}
	}
}

// flaky fails now and then, before or after it has done what it was asked.
type flaky struct {
	backends.Storage
	mu   sync.Mutex
	rnd  *rand.Rand
	rate float64
}

func (f *flaky) now() (before, after error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := fmt.Errorf("flaky: %w: %w", backends.ErrUnavailable, backends.ErrTemporary)
	switch x := f.rnd.Float64(); {
	case x < f.rate/2:
		return err, nil
	case x < f.rate:
		return nil, err
	}
	return nil, nil
}

func (f *flaky) Remove(ctx context.Context, p string) error {
	before, after := f.now()
	if before != nil {
		return before
	}
	return errors.Join(f.Storage.Remove(ctx, p), after)
}

func (f *flaky) Create(ctx context.Context, p string, size int64) (backends.Upload, error) {
	u, err := f.Storage.Create(ctx, p, size)
	if err != nil {
		return nil, err
	}
	return &flakyUpload{u, f}, nil
}

type flakyUpload struct {
	backends.Upload
	f *flaky
}

func (u *flakyUpload) Commit(ctx context.Context, want backends.Checksums) (backends.Checksums, error) {
	before, after := u.f.now()
	if before != nil {
		return backends.Checksums{}, before
	}
	got, err := u.Upload.Commit(ctx, want)
	return got, errors.Join(err, after)
}

// TestPathsOfTheNaming: a new file lies where its name says, and nothing that becomes of it
// ever puts another one's bytes there while somebody has them.
func TestPathsOfTheNaming(t *testing.T) {
	for _, word := range naming.Words()[1:] {
		t.Run(word, func(t *testing.T) {
			n := newNamed(t, word)
			a, b, c := random(3000), random(4000), random(5000)
			n.write("/ctao/dl3/f", a)
			n.drain()
			n.lies("/ctao/dl3/f", true, a)

			// Overwritten: the old content can be had back, so the new one lies elsewhere.
			n.write("/ctao/dl3/f", b)
			n.drain()
			n.lies("/ctao/dl3/f", false, b)
			for p, err := range n.cat.Pasts(ctx, backends.DID{Scope: "ctao", Name: "/ctao/dl3/f"}) {
				must(t, err)
				must(t, n.cat.Undelete(ctx, p.Handle))
				break
			}
			n.lies("/ctao/dl3/f", true, a)

			// Removed and made again while the deletion waits, and after it.
			must(t, n.unlink("/ctao/dl3/f"))
			n.write("/ctao/dl3/f", c)
			n.drain()
			n.lies("/ctao/dl3/f", false, c)
			must(t, n.unlink("/ctao/dl3/f"))
			n.reap()
			n.write("/ctao/dl3/f", b)
			n.drain()
			n.lies("/ctao/dl3/f", true, b)

			// Renamed: the copy stays where it is, and another file of the old name lies elsewhere.
			must(t, n.rename("/ctao/dl3/f", "/ctao/dl3/g"))
			n.write("/ctao/dl3/f", c)
			n.drain()
			n.lies("/ctao/dl3/f", false, c)
			if at := n.pfns("/ctao/dl3/g"); at["DISK"] != n.path("/ctao/dl3/f") {
				t.Errorf("a renamed file lies at %v", at)
			}
			must(t, n.unlink("/ctao/dl3/f"))
			n.reap()
			n.want("/ctao/dl3/g", b)
			for rse, p := range n.pfns("/ctao/dl3/g") {
				if _, err := n.disks[rse].Stat(ctx, p); err != nil {
					t.Error(err)
				}
			}
			n.check(nil)
		})
	}
}

// TestPathsThatCannotBe: a file in the way of a folder, a folder in the way of a file, a
// stranger at the path, and names that no path says: each gets a path of its own.
func TestPathsThatCannotBe(t *testing.T) {
	n := newNamed(t, "identity")
	a, b := random(2000), random(3000)
	n.write("/ctao/a", a)
	n.drain()
	n.lies("/ctao/a", true, a)
	must(t, n.unlink("/ctao/a"))
	n.write("/ctao/a/b", b) // the file a is there for its grace period
	n.drain()
	n.lies("/ctao/a/b", false, b)
	must(t, n.unlink("/ctao/a/b"))
	n.reap()
	n.write("/ctao/a/b", b)
	n.drain()
	n.lies("/ctao/a/b", true, b)
	must(t, n.unlink("/ctao/a/b"))
	must(t, n.v.Rmdir(ctx, n.mkdir("/ctao"), "a"))
	n.write("/ctao/a", a)
	n.drain()
	n.lies("/ctao/a", false, a)

	for dir, disk := range map[string]*posix.Storage{"disk": n.disks["DISK"], "disk2": n.disks["DISK2"]} {
		must(t, os.WriteFile(filepath.Join(n.dir, dir, n.path("/ctao/theirs")), b, 0o600))
		_, err := disk.Stat(ctx, n.path("/ctao/theirs"))
		must(t, err)
	}
	n.write("/ctao/theirs", b) // the same bytes, too: it is not ours to delete
	n.drain()
	n.lies("/ctao/theirs", false, b)
	must(t, n.unlink("/ctao/theirs"))
	n.reap()
	for _, dir := range []string{"disk", "disk2"} {
		if got, err := os.ReadFile(filepath.Join(n.dir, dir, n.path("/ctao/theirs"))); err != nil || !bytes.Equal(got, b) {
			t.Errorf("a stranger's file was touched: %v", err)
		}
	}

	for _, name := range []string{"/ctao/.tarn-uploads", "/ctao/new\nline", "/ctao/\xff\xfe"} {
		n.write(name, a)
		n.drain()
		if at := n.pfns(name); len(at) != 2 || at["DISK"] == "" {
			t.Errorf("%q lies at %v", name, at)
		}
	}
	n.check(nil)
}

// TestJournalKeepsItsPaths: a content whose copies are planned has their paths after a crash,
// before anything else can ask for them, and until it is safe.
func TestJournalKeepsItsPaths(t *testing.T) {
	n := newNamed(t, "hash")
	block := func() (began, goOn chan struct{}) {
		began, goOn = make(chan struct{}), make(chan struct{})
		n.onCreate = func() {
			n.onCreate = nil
			close(began)
			<-goOn
		}
		return began, goOn
	}
	held := func(when string, want bool) {
		t.Helper()
		for rse := range n.disks {
			if got := n.lake.Held(rse, n.path("/ctao/f")); got != want {
				t.Errorf("%s: the path at %s is held: %v", when, rse, got)
			}
		}
	}
	b := random(3000)
	began, goOn := block()
	n.write("/ctao/f", b)
	<-began
	held("while it is stored", true)
	time.AfterFunc(50*time.Millisecond, func() { close(goOn) })
	n.stop()
	began, goOn = block()
	n.open()
	n.replicate()
	held("after a crash", true)
	<-began
	must(t, n.rename("/ctao/f", "/ctao/g"))
	n.write("/ctao/f", random(2000))
	close(goOn)
	n.drain()
	held("when all is safe", false)
	if at := n.pfns("/ctao/g"); at["DISK"] != n.path("/ctao/f") {
		t.Errorf("it lies at %v", at)
	}
	n.check(nil)
}

// TestSharedPathsAreSpared: should two replicas on record have one path after all, the file
// there goes with the last of them.
func TestSharedPathsAreSpared(t *testing.T) {
	for _, state := range []backends.ReplicaState{backends.Available, backends.Bad} {
		n := newNamed(t, "hash")
		b := random(3000)
		n.write("/ctao/f", b)
		n.write("/ctao/g", random(2000))
		n.drain()
		g := backends.DID{Scope: "ctao", Name: "/ctao/g"}
		r := backends.Replica{RSE: "DISK", PFN: n.path("/ctao/f"), State: state}
		must(t, n.cat.PutReplica(ctx, g, "", r))
		if state == backends.Bad { // another copy is made, and the bad one removed
			n.eng.Kick(g)
			until(t, "g is repaired", func() bool {
				rs, err := n.cat.Replicas(ctx, g)
				must(t, err)
				return !slices.ContainsFunc(rs, func(r backends.Replica) bool { return r.State != backends.Available })
			})
			n.lies("/ctao/f", true, b)
		}
		must(t, n.unlink("/ctao/g"))
		n.reap()
		n.lies("/ctao/f", true, b)
		n.stop()
	}
}

// check fails the test when a replica that is on record as good is not at its path with the
// bytes it should have, or two records have one path. lost are copies that the test took away,
// by RSE and path, with their content.
func (n *named) check(lost map[string]backends.Generation) {
	n.t.Helper()
	type on struct {
		in backends.Info
		r  backends.Replica
	}
	all := func() map[string][]on {
		out := map[string][]on{}
		add := func(in backends.Info, rs []backends.Replica) {
			for _, r := range rs {
				out[r.RSE+" "+r.PFN] = append(out[r.RSE+" "+r.PFN], on{in, r})
			}
		}
		var walk func(d backends.DID)
		walk = func(d backends.DID) {
			for in, err := range n.cat.Contents(ctx, d, "") {
				must(n.t, err)
				if in.IsDir() {
					walk(in.DID)
					continue
				}
				rs, err := n.cat.Replicas(ctx, in.DID)
				must(n.t, err)
				add(in, rs)
			}
		}
		walk(backends.DID{Scope: "ctao", Name: "/ctao"})
		for p, err := range n.cat.Pasts(ctx, backends.DID{}) {
			must(n.t, err)
			add(p.Info, p.Replicas)
		}
		return out
	}
	wrong := func() (out []string) {
		for at, list := range all() {
			if len(list) > 1 {
				out = append(out, fmt.Sprintf("%s is on record for %s and %s", at, list[0].in.DID, list[1].in.DID))
			}
			for _, x := range list {
				if x.r.State != backends.Available || lost[at] != "" && lost[at] == x.in.Generation {
					continue
				}
				o, err := n.disks[x.r.RSE].Open(ctx, x.r.PFN)
				if err == nil {
					var got backends.Checksums
					got, err = checksum.Object(ctx, o, "sha256")
					o.Close()
					if err == nil {
						err = x.in.Checksums.Match(got)
					}
				}
				if err != nil {
					out = append(out, fmt.Sprintf("%s of %s: %v", at, x.in.DID, err))
				}
			}
		}
		slices.Sort(out)
		return out
	}
	// Things go on meanwhile: what is wrong is so twice.
	if first := wrong(); len(first) > 0 {
		time.Sleep(20 * time.Millisecond)
		second := wrong()
		for _, x := range first {
			if slices.Contains(second, x) {
				n.t.Errorf("%s", x)
			}
		}
	}
}

// TestPathsUnderRandomChanges interleaves writes, overwrites, renames, removals, deletions
// that come later, recoveries of what was removed, damage, failures of a storage and crashes.
// No copy on record is ever missing or of other bytes, and at the end the lake has what the
// last writes gave it.
func TestPathsUnderRandomChanges(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		_, err := fmt.Sscan(s, &seed)
		must(t, err)
	}
	steps := 250
	if testing.Short() {
		steps = 60
	}
	for _, word := range []string{"identity", "hash"} {
		t.Run(word, func(t *testing.T) {
			t.Logf("SEED=%d", seed)
			rnd := rand.New(rand.NewPCG(seed, 7))
			n := newNamed(t, word)
			n.flaky.rnd = rand.New(rand.NewPCG(seed, 8))
			names := []string{"/ctao/a", "/ctao/b", "/ctao/d", "/ctao/d/x", "/ctao/d/y", "/ctao/e/x"}
			pool := [][]byte{random(1000), random(1500)}
			want := map[string][]byte{}
			lost := map[string]backends.Generation{}
			placed := 0
			isDir := func(p string) bool {
				in, err := n.v.Resolve(ctx, p)
				if err != nil {
					return false
				}
				defer in.Forget(1)
				return in.Info().IsDir()
			}
			blocked := func(p string) bool { return isDir(p) || want[filepath.Dir(p)] != nil }
			write := func(p string) {
				b := pool[rnd.IntN(len(pool))]
				if rnd.IntN(3) > 0 {
					b = random(500 + rnd.IntN(3000))
				}
				n.write(p, b)
				want[p] = b
			}
			quiet := func() { // all that was written is safe
				f := n.flaky
				f.mu.Lock()
				rate := f.rate
				f.rate = 0
				f.mu.Unlock()
				n.drain()
				f.mu.Lock()
				f.rate = rate
				f.mu.Unlock()
			}
			n.flaky.rate = 0.05
			for step := range steps {
				p := names[rnd.IntN(len(names))]
				switch op := rnd.IntN(20); {
				case op < 7:
					if !blocked(p) {
						write(p)
					}
				case op < 9:
					if want[p] != nil {
						must(t, n.unlink(p))
						delete(want, p)
						_ = n.v.Rmdir(ctx, n.mkdir("/ctao"), filepath.Base(filepath.Dir(p))) // when it is empty
					}
				case op < 12:
					q := names[rnd.IntN(len(names))]
					if want[p] != nil && q != p && !blocked(q) {
						must(t, n.rename(p, q))
						want[q] = want[p]
						delete(want, p)
					}
				case op < 13: // a folder, with what is below it
					from, to := "/ctao/d", "/ctao/r"
					if isDir(to) {
						from, to = to, from
					}
					if !isDir(from) || isDir(to) || want[to] != nil {
						break
					}
					must(t, n.rename(from, to))
					for _, f := range []string{"/x", "/y"} {
						if b := want[from+f]; b != nil {
							want[to+f] = b
							delete(want, from+f)
						}
					}
				case op < 15:
					quiet()
				case op < 16:
					n.crash()
				case op < 17:
					n.reap()
				case op < 18: // what was removed comes back
					quiet()
					var past []backends.Past
					for x, err := range n.cat.Pasts(ctx, backends.DID{}) {
						must(t, err)
						past = append(past, x)
					}
					if len(past) == 0 {
						break
					}
					x := past[rnd.IntN(len(past))]
					q, r := x.Info.DID.Name, x.Replicas[0]
					if !slices.Contains(names, q) || blocked(q) || r.State != backends.Available {
						break
					}
					b, err := os.ReadFile(filepath.Join(n.dir, folders[r.RSE], r.PFN))
					if err != nil && lost[r.RSE+" "+r.PFN] == x.Info.Generation {
						break
					}
					must(t, err)
					n.mkdir(filepath.Dir(q))
					must(t, n.v.Undelete(ctx, q, x.Handle))
					want[q] = b
				default: // a copy is lost, and found to be, and made again, or not
					quiet()
					rs, err := n.cat.Replicas(ctx, backends.DID{Scope: "ctao", Name: p})
					i := slices.IndexFunc(rs, func(r backends.Replica) bool { return r.RSE == "DISK2" && r.State == backends.Available })
					if want[p] == nil || i < 0 {
						break
					}
					must(t, err)
					in := n.stat(p)
					if err := os.Remove(filepath.Join(n.dir, folders["DISK2"], rs[i].PFN)); err != nil {
						break // it was lost before
					}
					lost["DISK2 "+rs[i].PFN] = in.Generation
					if rnd.IntN(2) == 0 {
						break
					}
					must(t, n.lake.Verify(ctx, in, func(lake.VerifyResult) {}))
					n.eng.Kick(in.DID)
				}
				if step%5 == 0 {
					n.check(lost)
				}
				for q := range want {
					if at, err := n.cat.Replicas(ctx, backends.DID{Scope: "ctao", Name: q}); err == nil && len(at) > 0 && at[0].PFN == n.path(q) {
						placed++
					}
				}
				if t.Failed() {
					t.Fatalf("after step %d", step)
				}
			}
			quiet()
			n.check(lost)
			for p, b := range want {
				n.want(p, b)
			}
			if placed == 0 {
				t.Error("no file ever lay at its path")
			}
		})
	}
}
