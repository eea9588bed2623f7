package lake_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/lake"
	"tarn/backends/storage/posix"
	"tarn/backends/tape/library"
)

// realRig is a lake over the embedded catalogue, a folder and an emulated tape library.
type realRig struct {
	*lake.Lake
	cat        *embedded.Catalogue
	disk, tape *lake.RSE
	lib        *library.Library
	dir        string
}

func newRealRig(t *testing.T) *realRig {
	t.Helper()
	r := &realRig{dir: t.TempDir()}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	r.cat, err = embedded.Open(embedded.Options{InMemory: true, CacheBytes: 8 << 20})
	must(err)
	t.Cleanup(func() { r.cat.Close() })
	must(os.Mkdir(filepath.Join(r.dir, "disk"), 0o755))
	disk, err := posix.Open(posix.Options{Dir: filepath.Join(r.dir, "disk")})
	must(err)
	t.Cleanup(func() { disk.Close() })
	r.lib, err = library.Open(library.Options{Dir: filepath.Join(r.dir, "tape"), Cartridges: 3, CartridgeSize: 1 << 30, BufferSize: 64 << 20, Speed: 100000})
	must(err)
	t.Cleanup(func() { r.lib.Close() })
	r.disk = &lake.RSE{RSE: backends.RSE{Name: "DISK", Kind: backends.DiskKind}, Storage: disk}
	r.tape = &lake.RSE{RSE: backends.RSE{Name: "TAPE", Kind: backends.TapeKind}, Storage: r.lib, Tape: r.lib, Distance: 1}
	r.Lake, err = lake.New(lake.Options{Catalogue: r.cat, Namespace: r.cat, Versions: r.cat, Rules: r.cat, RSEs: []*lake.RSE{r.disk, r.tape},
		HoldWindow: 20 * time.Millisecond, Recall: lake.RecallOptions{PollMin: 5 * time.Millisecond, PollMax: 50 * time.Millisecond}})
	must(err)
	t.Cleanup(r.Close)
	must(r.cat.AddScope(ctx, backends.Info{DID: did("ctao", ""), Mode: 0o755}))
	return r
}

// put stores a new file at the RSEs and registers it.
func (r *realRig) put(t *testing.T, name string, data []byte, rses ...*lake.RSE) backends.Info {
	t.Helper()
	in := backends.Info{DID: did("ctao", "/ctao/"+name), Type: backends.File, Size: int64(len(data)), Checksums: sums(data), Mode: 0o644}
	var reps []backends.Replica
	for _, rse := range rses {
		rep, err := r.Store(ctx, rse, r.NewPFN(in.DID, ""), bytes.NewReader(data), in.Size, in.Checksums, nil)
		if err != nil {
			t.Fatal(err)
		}
		reps = append(reps, rep)
	}
	if err := r.cat.Add(ctx, in, nil, reps...); err != nil {
		t.Fatal(err)
	}
	in, err := r.Resolve(ctx, "/ctao/"+name)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// evict waits until the file is on tape, and drops it from the buffer.
func (r *realRig) evict(t *testing.T, ins ...backends.Info) {
	t.Helper()
	for _, in := range ins {
		reps, err := r.cat.Replicas(ctx, in.DID)
		if err != nil {
			t.Fatal(err)
		}
		for _, rep := range reps {
			if rep.RSE != "TAPE" {
				continue
			}
			// Held until the readers' releases have come through.
			for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
				err := r.lib.EvictBuffer(ctx, rep.PFN)
				if err == nil {
					break
				}
				if !errors.Is(err, backends.ErrBusy) || time.Since(begun) > 20*time.Second {
					t.Fatal(err)
				}
			}
			if ok, err := r.StoredOnTape(ctx, r.tape, rep.PFN); err != nil || !ok {
				t.Fatalf("%s is not on tape: %v", rep.PFN, err)
			}
		}
	}
}

func TestOverRealBackends(t *testing.T) {
	r := newRealRig(t)
	var ins []backends.Info
	var all [][]byte
	for i := range 20 {
		data := make([]byte, 100000+i)
		rand.Read(data)
		ins, all = append(ins, r.put(t, number(i), data, r.tape)), append(all, data)
	}
	r.evict(t, ins...)
	loc, err := r.Localities(ctx, ins...)
	if err != nil || slices.ContainsFunc(loc, func(l backends.Locality) bool { return l != backends.Nearline }) {
		t.Fatal(loc, err)
	}
	if _, err := r.Open(ctx, ins[0]); !errors.Is(err, backends.ErrOffline) {
		t.Fatal(err)
	}
	plan, err := r.Plan(ctx, ins)
	if err != nil || plan.Files != 20 || plan.Online != 0 || plan.Tapes < 1 || plan.Time <= 0 {
		t.Errorf("plan %+v, %v", plan, err)
	}
	var wg sync.WaitGroup
	for i := range 40 { // two readers each
		wg.Go(func() {
			in := ins[i%20]
			x, err := r.Recall(ctx, in)
			if err != nil {
				t.Error(err)
				return
			}
			defer x.Close()
			<-x.Done()
			if err := x.Err(); err != nil {
				t.Error(err)
				return
			}
			o, err := r.Open(ctx, in)
			if err != nil {
				t.Error(err)
				return
			}
			defer o.Close()
			if got, err := readAll(o); err != nil || !bytes.Equal(got, all[i%20]) {
				t.Errorf("%s: %d bytes, %v", in.DID, len(got), err)
			}
		})
	}
	wg.Wait()
	if s := r.Stats(); s.Recalls != 20 || s.BulkRequests != 1 || s.FilesRecalled != 20 {
		t.Errorf("stats %+v", s)
	}
	// To disk, from tape.
	r.evict(t, ins[0])
	rep, err := r.Copy(ctx, ins[0], r.disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	if o, err := r.Open(ctx, ins[0]); err != nil || o.RSE() != "DISK" {
		t.Error(err)
	} else {
		o.Close()
	}
	// The disk copy rots: Verify finds it, reading both.
	path := filepath.Join(r.dir, "disk", filepath.FromSlash(rep.PFN))
	rot := bytes.Clone(all[0])
	rot[99] ^= 1
	if err := os.WriteFile(path, rot, 0o644); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	if err := r.Verify(ctx, ins[0], func(v lake.VerifyResult) { got[v.RSE] = v.OK }); err != nil || got["DISK"] || !got["TAPE"] {
		t.Errorf("%v, %v", got, err)
	}
	// And is repaired; the bad file goes.
	if rep, err = r.Copy(ctx, ins[0], r.disk, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("bad file: %v", err)
	}
	// A disk that is not there loses nothing.
	disk := filepath.Join(r.dir, "disk")
	if err := os.Rename(disk, disk+".away"); err != nil {
		t.Fatal(err)
	}
	x, err := r.Recall(ctx, ins[0])
	if err != nil {
		t.Fatal(err)
	}
	<-x.Done()
	if o, err := r.Open(ctx, ins[0]); err != nil || o.RSE() != "TAPE" {
		t.Errorf("with the disk away: %v, %v", err, x.Err())
	} else {
		o.Close()
	}
	x.Close()
	for _, in := range ins {
		reps, _ := r.cat.Replicas(ctx, in.DID)
		for _, rep := range reps {
			if rep.State != backends.Available {
				t.Errorf("%+v", rep)
			}
		}
	}
}

func TestTreeOverTheEmbeddedCatalogue(t *testing.T) {
	r := newRealRig(t)
	if err := r.cat.AddScope(ctx, backends.Info{DID: did("magic", ""), Layout: backends.LayoutContents}); err != nil {
		t.Fatal(err)
	}
	add := func(scope, name string, typ backends.Type) backends.DID {
		t.Helper()
		if err := r.cat.Add(ctx, backends.Info{DID: did(scope, name), Type: typ}, nil); err != nil {
			t.Fatal(err)
		}
		return did(scope, name)
	}
	if err := r.cat.AddScope(ctx, backends.Info{DID: did("veritas", ""), Layout: backends.LayoutContents}); err != nil {
		t.Fatal(err)
	}
	add("ctao", "/ctao/dl3", backends.Container)
	add("ctao", "/ctao/dl3/run 1", backends.File)
	f := add("veritas", "v/1", backends.File)
	members := []backends.DID{f, add("magic", "/a/b", backends.File), add("magic", "a-b", backends.File), add("magic", "t:x", backends.File), add("magic", "..", backends.File)}
	box, set := add("magic", "box", backends.Container), add("magic", "set", backends.Dataset)
	for parent, children := range map[backends.DID][]backends.DID{set: members, box: {set}} {
		if err := r.cat.Attach(ctx, parent, children...); err != nil {
			t.Fatal(err)
		}
	}
	var walk func(dir backends.Info, path string) (out []string)
	walk = func(dir backends.Info, path string) (out []string) {
		for n, err := range r.List(ctx, dir, "") {
			if err != nil {
				t.Fatal(err)
			}
			p := path + "/" + n.Name
			out = append(out, p)
			in, err := r.Resolve(ctx, p)
			if err != nil || in.DID != n.Info.DID || in.Inode != n.Info.Inode {
				t.Errorf("%s resolves to %s (%v), want %s", p, in.DID, err, n.Info.DID)
			}
			if in.IsDir() {
				out = append(out, walk(in, p)...)
			}
		}
		return out
	}
	want := []string{"/ctao", "/ctao/dl3", "/ctao/dl3/run 1", "/magic", "/magic/box", "/magic/box/set", "/magic/box/set/%2E.",
		"/magic/box/set/%2Fa%2Fb", "/magic/box/set/a-b", "/magic/box/set/t%3Ax", "/magic/box/set/veritas:v%2F1", "/veritas"}
	if got := walk(r.Root(), ""); !slices.Equal(got, want) {
		t.Errorf("tree is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := r.Resolve(ctx, "/magic/set"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("attached elsewhere: %v", err)
	}
	if _, err := r.Resolve(ctx, "/ctao/dl3/run 1/x"); !errors.Is(err, backends.ErrNotDir) {
		t.Errorf("below a file: %v", err)
	}
}

func BenchmarkResolve(b *testing.B) {
	cat, err := embedded.Open(embedded.Options{InMemory: true, CacheBytes: 8 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer cat.Close()
	l, err := lake.New(lake.Options{Catalogue: cat, Namespace: cat})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	cat.AddScope(ctx, backends.Info{DID: did("ctao", "")})
	p := "/ctao"
	for i := range 5 {
		p += fmt.Sprintf("/d%d", i)
		if err := cat.Add(ctx, backends.Info{DID: did("ctao", p), Type: backends.Container}, nil); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := l.Resolve(ctx, p); err != nil {
			b.Fatal(err)
		}
	}
}
