package cache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What does not belong together is removed, what is not ours is left alone.
func TestStrayFiles(t *testing.T) {
	o := options(t)
	c := open(t, o)
	var cts []Content
	for i := range 8 {
		ct, data := numbered(i, 10*kb4)
		cached(t, c, ct, data)
		cts = append(cts, ct)
	}
	shut(t, c)
	stem := func(i int) string { return c.path(fileName(cts[i].Key), "") }
	do := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	do(os.Remove(stem(0)+sideSuffix), os.Remove(stem(1)+dataSuffix), os.Truncate(stem(2)+dataSuffix, 5),
		os.Truncate(stem(3)+sideSuffix, 0), os.Remove(stem(4)+dataSuffix), os.Symlink("/etc/passwd", stem(4)+dataSuffix),
		os.WriteFile(stem(5)+sideSuffix+tempSuffix, []byte("half"), 0o600))
	b, err := os.ReadFile(stem(6) + sideSuffix)
	do(err, os.WriteFile(stem(7)+sideSuffix, b, 0o600)) // another key's
	mine := filepath.Join(filepath.Dir(stem(0)), "notes.txt")
	do(os.WriteFile(mine, []byte("x"), 0o600), os.WriteFile(filepath.Join(o.Dir, "README"), nil, 0o600))
	log := &logLines{}
	o.Log = logger(log)
	c = open(t, o)
	if got := len(c.List()); got != 2 {
		t.Errorf("%d contents", got)
	}
	if n := log.count("damaged"); n < 6 {
		t.Errorf("%d complaints", n)
	}
	if n := len(files(t, o.Dir, dataSuffix)) + len(files(t, o.Dir, sideSuffix)) + len(files(t, o.Dir, tempSuffix)); n != 4 {
		t.Errorf("%d files left", n)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error("removed a file that is not the cache's")
	}
	for i, ct := range cts {
		_, data := numbered(i, 10*kb4)
		wantBytes(t, mustOpen(t, c, ct, &remote{data: data}), data)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := open(t, Options{Dir: filepath.Join(dir, "cache"), Log: quiet()})
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Dir: filepath.Join(dir, "no", "cache")}, "parent"},
		{Options{Dir: file}, "not a directory"},
		{Options{Dir: ""}, "no directory"},
		{Options{Dir: filepath.Join(dir, "x"), Limit: -1}, "negative"},
		{Options{Dir: c.o.Dir}, fmt.Sprintf("pid %d", os.Getpid())},
	} {
		_, err := Open(c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "open cache: ") {
			t.Errorf("Open(%+v) = %v, want %q", c.o, err, c.want)
		}
	}
	_, err := Open(Options{Dir: c.o.Dir})
	wantErr(t, err, ErrLocked)
	shut(t, c)
	open(t, Options{Dir: c.o.Dir, Log: quiet()})
}

// Passthrough of a large file whose stamp has changed does not make an open wait until all
// of it is read: it is checked in parts, and reads are served meanwhile.
func TestLargeChangedFileIsCheckedInParts(t *testing.T) {
	o := options(t)
	o.Block = 1 << 20
	c := open(t, o)
	data := bytes.Repeat(random(70, 1<<20), 150)
	ct := contentOf(data)
	if err := c.Adopt(ct, localFile(t, t.TempDir(), data)); err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(time.Second)
	if err := os.Chtimes(files(t, o.Dir, dataSuffix)[0], now, now); err != nil {
		t.Fatal(err)
	}
	f := mustOpen(t, c, ct, nil2(t))
	var oks []bool
	for range 4 {
		_, ok := f.Passthrough()
		oks = append(oks, ok)
		p := make([]byte, 100)
		if _, err := f.ReadAt(timeout(t), p, 140<<20); err != nil || !bytes.Equal(p, data[140<<20:140<<20+100]) {
			t.Fatal("read meanwhile:", err)
		}
	}
	if fmt.Sprint(oks) != "[false false true true]" {
		t.Error(oks)
	}
}
