package embedded

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/backends"
	"tarn/integration/needed"
)

// smallDisk mounts a tmpfs, or skips the test where that is not allowed.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	needed.Root(t)
	dir := t.TempDir()
	if err := syscall.Mount("tarn-test", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		needed.Missing(t, "no tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestAFullDiskIsRefusedBeforeTheDatabaseSeesIt(t *testing.T) {
	if !inner(t) {
		return
	}
	dir := smallDisk(t, 40)
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	c := open(t, Options{Dir: dir, FreeFloor: 1, Now: func() time.Time { now = now.Add(2 * time.Second); return now }})
	ctx := t.Context()
	if err := c.AddScope(ctx, backends.Info{DID: backends.DID{Scope: "ctao"}}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Import(ctx, func(yield func(backends.Entry, error) bool) {
		for e := range benchLake(10_000_000) {
			for i := range e.Replicas {
				e.Replicas[i].PFN = strings.Repeat("x", 4000)
			}
			if !yield(e, nil) {
				return
			}
		}
	})
	if !errors.Is(err, backends.ErrNoSpace) {
		t.Fatalf("import more than fits: %v", err)
	}
	files, _ := c.Usage()
	if files < 1000 {
		t.Errorf("only %d files went in", files)
	}
	// Another program takes what is left down to next to nothing. Were the database
	// merging tables at that moment it would not survive that: docs/catalogue-format.md.
	settle(t, c)
	fill(t, filepath.Join(dir, "other"), 1<<20)
	if err := c.SetMeta(ctx, benchName(0), backends.Meta{"a": "b"}); !errors.Is(err, backends.ErrNoSpace) {
		t.Errorf("a change on a full disk: %v", err)
	}
	if _, err := c.Stat(ctx, benchName(0)); err != nil {
		t.Errorf("stat on a full disk: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	for i := range 50 { // what frees space goes on below the floor
		if err := c.Remove(ctx, benchName(i)); err != nil {
			t.Fatalf("remove near the floor: %v", err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, Options{Dir: dir, FreeFloor: 1})
	if n, _ := c.Usage(); n != files-50 {
		t.Errorf("%d files after opening again, want %d", n, files-50)
	}
}

// inner tells whether t runs in a process of its own, and runs it in one if not: what
// fails in it may end the process.
func inner(t *testing.T) bool {
	t.Helper()
	if os.Getenv("TARN_TEST_INNER") != "" {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "TARN_TEST_INNER=1")
	if out := run(t, cmd); strings.Contains(out, "--- SKIP") {
		t.Skip(out)
	}
	return false
}

func TestClosingOnAFullDisk(t *testing.T) {
	if !inner(t) {
		return
	}
	dir := smallDisk(t, 40)
	c := open(t, Options{Dir: dir, FreeFloor: 1})
	if err := c.AddScope(t.Context(), backends.Info{DID: backends.DID{Scope: "ctao"}}); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	fill(t, other, 0)
	if err := c.AddScope(t.Context(), backends.Info{DID: backends.DID{Scope: "more"}}); !errors.Is(err, backends.ErrNoSpace) {
		t.Errorf("a change the moment that the disk is full: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	// As the next process does: this one still has the database's own lock.
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	c = open(t, Options{Dir: copied, FreeFloor: 1})
	n := 0
	for _, err := range c.Scopes(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d scopes, want 1", n)
	}
}

// settle waits until the database has nothing to flush or merge.
func settle(t *testing.T, c *Catalogue) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for calm, before := 0, ""; calm < 20; time.Sleep(20 * time.Millisecond) {
		tables, err := filepath.Glob(filepath.Join(c.dir, "db", "*.[sm]*"))
		if err != nil {
			t.Fatal(err)
		}
		now := strings.Join(tables, " ")
		for _, l := range c.db.Levels() {
			if l.Adjusted >= 1 && l.Level == 0 || l.Score >= 1 {
				now += "busy"
			}
		}
		if calm++; now != before || strings.HasSuffix(now, "busy") {
			calm, before = 0, now
		}
		if time.Now().After(end) {
			t.Log("the database does not come to rest: ", now)
			return
		}
	}
}

// fill writes a file until less than leave is free.
func fill(t *testing.T, path string, leave int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		var st syscall.Statfs_t
		if err := syscall.Statfs(filepath.Dir(path), &st); err != nil {
			t.Fatal(err)
		}
		if int64(st.Bavail)*st.Bsize < leave {
			return
		}
		if _, err := f.Write(make([]byte, 256<<10)); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenOnAFullDiskIsErrNoSpace(t *testing.T) {
	dir := smallDisk(t, 32)
	fill(t, filepath.Join(dir, "other"), 4<<20)
	if _, err := Open(small(Options{Dir: dir, FreeFloor: 1})); !errors.Is(err, backends.ErrNoSpace) {
		t.Errorf("open: %v", err)
	}
}

func TestAReadOnlyDiskIsErrReadOnly(t *testing.T) {
	dir := smallDisk(t, 32)
	if err := syscall.Mount("tarn-test", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		needed.Missing(t, "remount read-only: %v", err)
	}
	if _, err := Open(small(Options{Dir: dir})); !errors.Is(err, backends.ErrReadOnly) {
		t.Errorf("open: %v", err)
	}
}
