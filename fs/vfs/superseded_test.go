package vfs_test

import (
	"bytes"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"tarn/backends"
	"tarn/fs/vfs"
)

// stored lists the files at the disk storage.
func (w *world) stored() (out []string) {
	w.t.Helper()
	root := filepath.Join(w.dir, "disk")
	must(w.t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, p)
		}
		return err
	}))
	return out
}

// TestSameBytesAgain: a file that is written anew with the bytes it had keeps the copies
// that it has, and those that were made for nothing are deleted.
func TestSameBytesAgain(t *testing.T) {
	for _, size := range []int{1, 5000} {
		w := newWorld(t, vfs.Options{Delay: time.Millisecond})
		b := random(size)
		w.write("/ctao/f", b)
		w.drain()
		before, err := w.cat.Replicas(ctx, backends.DID{Scope: "ctao", Name: "/ctao/f"})
		must(t, err)
		w.write("/ctao/f", b)
		w.drain()
		after, err := w.cat.Replicas(ctx, backends.DID{Scope: "ctao", Name: "/ctao/f"})
		must(t, err)
		if len(before) != 2 || len(after) != 2 {
			t.Fatalf("replicas %v, then %v", before, after)
		}
		for _, r := range after {
			if r.RSE == "DISK" {
				if _, err := w.disk.Stat(ctx, r.PFN); err != nil {
					t.Error(err)
				}
			} else if _, err := w.tape.Stat(ctx, r.PFN); err != nil {
				t.Error(err)
			}
		}
		known := 1
		for p, err := range w.cat.Pasts(ctx, backends.DID{Scope: "ctao", Name: "/ctao/f"}) {
			must(t, err)
			for _, r := range p.Replicas {
				if r.RSE == "DISK" {
					known++
				}
			}
		}
		until(t, "only known copies are stored", func() bool { return len(w.stored()) == known })
		w.close()
	}
}

// TestSizeWhileRegistered: a file shows its size and bytes at every moment of its
// registration (N7). The copy that is too many is removed in the middle of it.
func TestSizeWhileRegistered(t *testing.T) {
	w := newWorld(t, vfs.Options{Delay: time.Hour})
	b := random(5000)
	w.write("/ctao/f", b)
	w.drain()
	n, h, err := w.v.Create(ctx, w.mkdir("/ctao"), "tmp", os.O_RDWR, 0o644, vfs.Caller{})
	must(t, err)
	h.Release()
	defer n.Forget(1) // the kernel knows it since it was empty
	w.write("/ctao/tmp", b)
	must(t, w.rename("/ctao/tmp", "/ctao/f"))
	var sizes []int64
	w.onRemove = func() { sizes = append(sizes, n.Attr().Size) }
	w.drain()
	w.onRemove = nil
	if len(sizes) == 0 || sizes[0] != 5000 {
		t.Fatalf("sizes seen: %d", sizes)
	}
}

// TestOutdatedIsDropped: what a newer content has replaced in the catalogue is not
// carried on, and does not come back after a restart (W7, W11).
func TestOutdatedIsDropped(t *testing.T) {
	w := newSlowWorld(t, vfs.Options{Delay: time.Millisecond})
	a, b := random(3000), random(4000)
	w.write("/ctao/f", a)
	w.registered("/ctao/f")
	w.write("/ctao/f", b)
	until(t, "the newer one alone is unsent", func() bool {
		up := w.v.Uploads()
		in, err := w.cat.Stat(ctx, backends.DID{Scope: "ctao", Name: "/ctao/f"})
		must(t, err)
		return in.Size == 4000 && len(up) == 1 && up[0].Size == 4000
	})
	w.want("/ctao/f", b)
	w.reopen()
	w.want("/ctao/f", b)
}

// TestRemovedDuringUpload: a file that is removed while its upload runs does not come back
// after a crash: the journal knows at once that it has no name (W7).
func TestRemovedDuringUpload(t *testing.T) {
	w := newWorld(t, vfs.Options{Delay: time.Millisecond})
	for range 20 {
		began, goOn := make(chan struct{}), make(chan struct{})
		w.onCreate = func() {
			w.onCreate = nil
			close(began)
			<-goOn
		}
		w.write("/ctao/f", random(3000))
		<-began
		must(t, w.unlink("/ctao/f"))
		for _, e := range w.jrnl.Entries() {
			if p := e.Record().Path; len(p) > 0 {
				t.Errorf("the journal has %s", p)
			}
		}
		close(goOn)
		w.drain()
	}
}

// TestTheReplicationCopiesToo: while the replication makes a copy, or after it was cut off at one, the upload of the
// same file neither makes another nor leaves one that nobody knows.
func TestTheReplicationCopiesToo(t *testing.T) {
	w := newWorld(t, vfs.Options{Delay: time.Millisecond})
	tape, _ := w.lake.RSE("TAPE")
	for name, whole := range map[string]bool{"/ctao/whole": true, "/ctao/begun": false} {
		began, goOn := make(chan struct{}), make(chan struct{})
		w.onCreate = func() {
			w.onCreate = nil
			close(began)
			<-goOn
		}
		b := random(3000)
		w.write(name, b)
		<-began
		release, err := w.lake.Claim(ctx, w.stat(name), "TAPE")
		must(t, err)
		close(goOn)
		did := backends.DID{Scope: "ctao", Name: name}
		var in backends.Info
		until(t, "it is registered", func() bool { in, err = w.cat.Stat(ctx, did); return err == nil })
		theirs := backends.Replica{RSE: "TAPE", PFN: w.lake.NewPFN(did, ""), State: backends.Copying}
		must(t, w.cat.PutReplica(ctx, did, in.Generation, theirs))
		if whole {
			theirs, err = w.lake.Store(ctx, tape, theirs.PFN, bytes.NewReader(b), in.Size, in.Checksums, nil)
			must(t, err)
			must(t, w.cat.PutReplica(ctx, did, in.Generation, theirs))
		}
		release()
		w.drain()
		reps, err := w.cat.Replicas(ctx, did)
		must(t, err)
		if i := slices.IndexFunc(reps, func(r backends.Replica) bool { return r.RSE == "TAPE" }); i < 0 || reps[i].PFN != theirs.PFN || reps[i].State != backends.Available {
			t.Errorf("%s: replicas %v, want %v", name, reps, theirs)
		}
		var there []string
		for a, err := range w.tape.List(ctx, path.Dir(theirs.PFN)) {
			must(t, err)
			there = append(there, a.Path)
		}
		if !slices.Equal(there, []string{theirs.PFN}) {
			t.Errorf("%s: %q on tape, want %s", name, there, theirs.PFN)
		}
	}
}
