package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTenThousandOpenFiles: so many files open at a time for reading, all of which give
// their content.
func TestTenThousandOpenFiles(t *testing.T) {
	t.Parallel()
	const n = 10_000
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || l.Cur < n+1000 {
		missing(t, "%d descriptors are allowed, and %d needed (%v)", l.Cur, n+1000, err)
	}
	s := newSite(t, "journal: {delay: 50ms}\n")
	dir := filepath.Join(s.dir, "rse/PIC-DISK/many")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		put(t, fmt.Sprintf("%s/f%05d", dir, i), fmt.Sprint(i))
	}
	s.ok("import", "-q", dir, "/ctao/many", "--rse", "PIC-DISK", "--register-only")
	s.mount()
	files := make([]*os.File, n)
	for i := range files {
		f, err := os.Open(s.path(fmt.Sprintf("ctao/many/f%05d", i)))
		if err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		defer f.Close()
		files[i] = f
	}
	b := make([]byte, 16)
	for i, f := range files {
		if k, _ := f.ReadAt(b, 0); string(b[:k]) != fmt.Sprint(i) {
			t.Fatalf("file %d gives %q", i, b[:k])
		}
	}
}

// TestDaemonOutOfDescriptors: a daemon with few descriptors serves many open files, or
// says that there are too many; what is written meanwhile is closed without loss.
func TestDaemonOutOfDescriptors(t *testing.T) {
	t.Parallel()
	needTools(t, "prlimit")
	s := newSite(t, "journal: {delay: 50ms}\n")
	s.expect("too many open files")
	s.mountWith([]string{"prlimit", "--nofile=72:72"})
	dir := s.path("ctao/few")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const n = 300
	refused := 0
	told := func(what string, err error) {
		t.Helper()
		refused++
		if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	write := func(kind string) (whole []string) {
		var open []*os.File
		for i := range n {
			p := fmt.Sprintf("%s/%s%03d", dir, kind, i)
			f, err := os.Create(p)
			if err != nil {
				told("create", err)
				continue
			}
			open = append(open, f)
		}
		for _, f := range open {
			if _, err := f.WriteString("content of " + f.Name()); err != nil {
				told("write", err)
			} else {
				whole = append(whole, f.Name())
			}
		}
		for _, f := range open {
			if err := f.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		return whole
	}
	whole := write("first")
	s.drain()
	// Each of these keeps a descriptor of the hot cache's file, if there is one.
	b := make([]byte, 4096)
	opened := 0
	var held []*os.File
	for _, p := range whole {
		f, err := os.Open(p)
		if err != nil {
			told("open", err)
			continue
		}
		held = append(held, f)
		opened++
		if k, err := f.ReadAt(b, 0); k > 0 {
			if string(b[:k]) != "content of "+p {
				t.Fatalf("%s gives %q", p, b[:k])
			}
		} else {
			told("read", err)
		}
	}
	whole = append(whole, write("second")...)
	t.Logf("%d written, %d opened again, %d refused", len(whole), opened, refused)
	if len(whole) == 0 || refused == 0 {
		t.Error("the limit was not met, or nothing could be written")
	}
	for _, f := range held {
		f.Close()
	}
	s.kill() // what close promised survives
	s.mount()
	for _, p := range whole {
		wantText(t, p, "content of "+p)
	}
}
