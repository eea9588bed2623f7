package vfs_test

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/fs/vfs"
)

// TestCloseOfMadeFile: a file that was made by an open for reading, as lock files are,
// is completed by its close like any other (W6).
func TestCloseOfMadeFile(t *testing.T) {
	w := newWorld(t, vfs.Options{})
	n, h, err := w.v.Create(ctx, w.mkdir("/ctao/dl0"), "lock", os.O_RDONLY, 0o644, vfs.Caller{})
	must(t, err)
	must(t, h.Flush(ctx, vfs.Caller{}))
	h.Release()
	n.Forget(1)
	w.drain()
	if in, err := w.cat.Stat(ctx, backends.DID{Scope: "ctao", Name: "/ctao/dl0/lock"}); err != nil || in.Size != 0 {
		t.Fatalf("registered as %+v, %v", in, err)
	}
}

// TestClosesAtOneTime: however the closes of several writers fall, the last one
// completes the file, and a close that returned is covered by it (W2, W6).
func TestClosesAtOneTime(t *testing.T) {
	w := newWorld(t, vfs.Options{})
	dir := w.mkdir("/ctao/dl0")
	for i := range 60 {
		p := fmt.Sprintf("/ctao/dl0/f%d", i)
		n, h, err := w.v.Create(ctx, dir, fmt.Sprintf("f%d", i), os.O_RDWR, 0o644, vfs.Caller{})
		must(t, err)
		handles := []*vfs.Handle{h}
		for range 7 {
			h, err := w.v.Open(ctx, n, os.O_RDWR, vfs.Caller{})
			must(t, err)
			handles = append(handles, h)
		}
		var wg sync.WaitGroup
		for k, h := range handles {
			wg.Go(func() {
				if _, err := h.WriteAt(ctx, []byte{byte(k)}, int64(k)); err != nil {
					t.Error(err)
				}
				if err := h.Flush(ctx, vfs.Caller{}); err != nil {
					t.Error(err)
				}
				h.Release()
			})
		}
		wg.Wait()
		for _, u := range w.v.Uploads() {
			if u.Path == p && u.State == "WRITING" {
				t.Fatalf("%s is %s after all closes", p, u.State)
			}
		}
		n.Forget(1)
	}
	w.drain()
	for i := range 60 {
		w.want(fmt.Sprintf("/ctao/dl0/f%d", i), []byte{0, 1, 2, 3, 4, 5, 6, 7})
	}
}

// TestHalfAFileIsNotPublished: a close of one of several copies of a descriptor seals
// what is there, and nothing is registered before the last one is closed (W6).
func TestHalfAFileIsNotPublished(t *testing.T) {
	w := newWorld(t, vfs.Options{})
	n, h, err := w.v.Create(ctx, w.mkdir("/ctao/d"), "f", os.O_WRONLY, 0o644, vfs.Caller{})
	must(t, err)
	defer n.Forget(1)
	_, err = h.WriteAt(ctx, []byte("first half, "), 0)
	must(t, err)
	must(t, h.Flush(ctx, vfs.Caller{})) // a child that was forked ends
	time.Sleep(600 * time.Millisecond)  // many times the delay of the upload
	if _, err := w.cat.Stat(ctx, backends.DID{Scope: "ctao", Name: "/ctao/d/f"}); !errors.Is(err, backends.ErrNotExist) {
		t.Fatalf("half a file is registered: %v", err)
	}
	_, err = h.WriteAt(ctx, []byte("second half"), 12)
	must(t, err)
	must(t, h.Flush(ctx, vfs.Caller{}))
	h.Release()
	w.drain()
	w.want("/ctao/d/f", []byte("first half, second half"))
	if _, err := w.cat.Stat(ctx, backends.DID{Scope: "ctao", Name: "/ctao/d/f"}); err != nil {
		t.Fatal(err)
	}
	for p, err := range w.cat.Pasts(ctx, backends.DID{Scope: "ctao", Name: "/ctao/d/f"}) {
		t.Fatalf("a generation nobody completed: %+v %v", p, err)
	}
}

// TestUploadFollowsTheLastClose: an upload that was due while the file was still open begins when it is closed, and not a delay later.
func TestUploadFollowsTheLastClose(t *testing.T) {
	w := newWorld(t, vfs.Options{Delay: time.Hour})
	n, h, err := w.v.Create(ctx, w.mkdir("/ctao/d"), "f", os.O_WRONLY, 0o644, vfs.Caller{})
	must(t, err)
	defer n.Forget(1)
	_, err = h.WriteAt(ctx, []byte("all of it"), 0)
	must(t, err)
	must(t, h.Flush(ctx, vfs.Caller{})) // a child that was forked ends
	must(t, w.v.RetryUpload(ctx, w.v.Uploads()[0].ID))
	time.Sleep(200 * time.Millisecond) // it is looked at, and put off for an hour
	if _, err := w.cat.Stat(ctx, backends.DID{Scope: "ctao", Name: "/ctao/d/f"}); !errors.Is(err, backends.ErrNotExist) {
		t.Fatalf("a file that is open is registered: %v", err)
	}
	h.Release()
	for end := time.Now().Add(time.Minute); len(w.v.Uploads()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it waits on after the close")
		}
	}
	w.want("/ctao/d/f", []byte("all of it"))
}
