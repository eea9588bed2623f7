package cache

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/integration/needed"
)

// tmpfs mounts a small file system of its own, or skips.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	needed.Root(t)
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tarn-test", dir, "tmpfs", 0, "size="+size); err != nil {
		needed.Missing(t, "no tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error("unmount:", err)
		}
	})
	return dir
}

const (
	fullDiskMiB  = 20
	fullDiskSize = "20m"
)

// The disk is smaller than the limit, and others fill it: everything stays readable, what
// can be evicted is, and it heals.
func TestFullDisk(t *testing.T) {
	disk := tmpfs(t, fullDiskSize)
	o := options(t)
	o.Dir, o.Block = filepath.Join(disk, "cache"), 64<<10
	log := &logLines{}
	o.Log = logger(log)
	c := open(t, o)
	const size = 2 << 20
	for i := range 2 * fullDiskMiB / 2 { // twice what the disk holds
		ct, data := numbered(i, size)
		f := mustOpen(t, c, ct, &remote{data: data})
		if err := f.Fill(timeout(t)); err != nil {
			t.Fatalf("content %d: %v", i, err)
		}
		f.Close()
	}
	settled(t, c)

	// Somebody else takes all that is left, behind the back of the reservation.
	ct, data := numbered(99, size)
	r := &remote{data: data}
	f := mustOpen(t, c, ct, r)
	hog := filepath.Join(disk, "hog")
	fillDisk(t, hog)
	wantBytes(t, f, data)
	if s, _ := c.Status(ct.Key); !s.Whole {
		t.Error("not stored, although older contents could go")
	}
	f.Close()
	settled(t, c)
	for _, s := range c.List() {
		if err := c.Drop(s.Key); err != nil {
			t.Fatal(err)
		}
	}
	fillDisk(t, hog)
	f = mustOpen(t, c, ct, r)
	wantBytes(t, f, data) // nothing to evict: past the cache
	wantErr(t, f.Fill(timeout(t)), ErrNoSpace)
	if err := c.Seed(ct, bytes.NewReader(data)); err != nil {
		t.Log("seed:", err)
	}
	f.Close()
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	f = mustOpen(t, c, ct, r)
	if err := f.Fill(timeout(t)); err != nil {
		t.Fatal("does not heal:", err)
	}
	wantBytes(t, f, data)
}

func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for p := make([]byte, 1<<20); ; {
		if _, err := f.Write(p); err != nil {
			if len(p) == 1 {
				return
			}
			p = p[:len(p)/2]
		}
	}
}

// A disk that others fill up in the middle of a fill: older contents go for it, and when
// there are none the reader goes on past the cache, and what the disk holds is accounted.
func TestDiskFillsUpMidway(t *testing.T) {
	for _, evictable := range []bool{true, false} {
		disk := tmpfs(t, "12m")
		o := options(t)
		o.Dir, o.Block = filepath.Join(disk, "cache"), 64<<10
		c := open(t, o)
		if evictable {
			for i := 2; i < 5; i++ {
				ct, data := numbered(i, 2<<20)
				cached(t, c, ct, data)
			}
		}
		ct, data := numbered(1, 5<<20)
		r, lift := gated(t, data, 1)
		f := mustOpen(t, c, ct, r)
		if _, err := f.ReadAt(timeout(t), make([]byte, 100), 0); err != nil {
			t.Fatal(err)
		}
		fillDisk(t, filepath.Join(disk, "hog"))
		lift()
		wantBytes(t, f, data)
		eventually(t, "whole, if there was something to evict", func() bool { return f.Whole() == evictable })
		f.Close()
		settled(t, c)
		if bad := c.invariants(); bad != "" {
			t.Error(bad)
		}
		shut(t, c)
	}
}

// The cache's disk becomes read-only: what is cached is served, the rest goes past it,
// and that is logged once.
func TestReadOnlyDisk(t *testing.T) {
	disk := tmpfs(t, "16m")
	o := options(t)
	o.Dir = filepath.Join(disk, "cache")
	log := &logLines{}
	o.Log = logger(log)
	c := open(t, o)
	ct, data := numbered(0, 20*kb4)
	cached(t, c, ct, data)
	settled(t, c)
	remount := func(flags uintptr) error {
		return unix.Mount("", disk, "", unix.MS_REMOUNT|flags, "")
	}
	c.lock.Close() // it is open for writing, which would forbid the remount
	if err := remount(unix.MS_RDONLY); err != nil {
		needed.Missing(t, "remount read-only: %v", err)
	}
	wantBytes(t, mustOpen(t, c, ct, nil2(t)), data)
	for i := 1; i < 4; i++ {
		ct, data := numbered(i, 20*kb4)
		wantBytes(t, mustOpen(t, c, ct, &remote{data: data}), data)
	}
	if n := log.count("level=ERROR"); n != 1 {
		t.Errorf("%d complaints: %s", n, log.b.String())
	}
	if _, err := Open(o); err == nil {
		t.Error("opened on a read-only disk")
	}
	if err := remount(0); err != nil {
		t.Fatal(err)
	}
	ct, data = numbered(5, 20*kb4)
	cached(t, c, ct, data)
	if log.count("works again") != 1 {
		t.Error("recovery is not logged")
	}
	var err error
	if c.lock, err = os.Open(filepath.Join(o.Dir, lockName)); err != nil {
		t.Fatal(err)
	}
}

// What cannot be made durable is told to who asked for that, and is not served any more: the
// kernel may have dropped what it could not write.
func TestSyncFails(t *testing.T) {
	c := open(t, options(t))
	ct, data := numbered(0, syncMin)
	cached(t, c, ct, data)
	settled(t, c)
	path := files(t, c.o.Dir, dataSuffix)[0]
	if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil { // it cannot be synced
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(path, os.O_RDWR, 0) // or opening it would wait
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	e := c.entries[ct.Key]
	e.mu.Lock()
	e.synced = false
	e.mu.Unlock()
	wantErr(t, c.Pin(ct.Key, time.Now().Add(time.Hour)), unix.EINVAL)
	if n := resident(c, ct.Key); n != 0 {
		t.Errorf("%d bytes are still resident", n)
	}
}
