package library

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"testing"

	"tarn/backends"
	"tarn/backends/backendstest"
)

func FuzzRecord(f *testing.F) {
	for _, r := range []record{
		{kind: kindVersion, n: formatVersion}, {kind: kindBatch, n: 1234}, {kind: kindDelete, id: 7},
		{kind: kindTape, id: 9, cart: 31, pos: 1 << 50},
		{kind: kindFile, id: 1 << 60, size: 5, mtime: -1, adler: 0xdeadbeef, cart: -1, path: "d/new\nline \"quoted\" \xff"},
	} {
		f.Add(bytes.TrimSuffix(r.appendTo(nil), []byte("\n")))
	}
	f.Add([]byte(""))
	f.Add([]byte("00000000 F 1 2 3"))
	f.Fuzz(func(t *testing.T, line []byte) {
		// The CRC keeps a fuzzer out: what is behind it is tried with a right one as well.
		if len(line) > 9 {
			fixed := bytes.Clone(line)
			copy(fixed, crcDigits(fixed[9:]))
			fixed[8] = ' '
			roundTrip(t, fixed)
		}
		roundTrip(t, line)
	})
}

func roundTrip(t *testing.T, line []byte) {
	r, err := parseRecord(line)
	if err != nil {
		return
	}
	again := r.appendTo(nil)
	back, err := parseRecord(bytes.TrimSuffix(again, []byte("\n")))
	if err != nil || back != r {
		t.Errorf("%q\ngave  %+v\nwrote %q\ngave  %+v, %v", line, r, again, back, err)
	}
	if bytes.IndexByte(again, '\n') != len(again)-1 {
		t.Errorf("a record of several lines: %q", again)
	}
	if r.kind == kindFile && (r.path == "" || checkPath(r.path) != nil) {
		t.Errorf("path %q got in", r.path)
	}
}

func TestLockedAndVersioned(t *testing.T) {
	l := open(t, Options{})
	_, err := Open(l.o)
	want(t, "second process", err, backends.ErrBusy)
	l.mustPut(t, "f", nil)
	l.Close()
	b, _ := os.ReadFile(l.indexPath())
	v2 := (&record{kind: kindVersion, n: 2}).appendTo(nil)
	os.WriteFile(l.indexPath(), append(v2, b[bytes.IndexByte(b, '\n')+1:]...), 0o644)
	_, err = Open(l.o)
	want(t, "newer format", err, backends.ErrVersion)
	os.WriteFile(l.indexPath(), b[bytes.IndexByte(b, '\n')+1:], 0o644)
	_, err = Open(l.o)
	want(t, "no version", err, backends.ErrDamaged)
	_, err = Open(Options{})
	want(t, "no folder", err, backends.ErrName)
	_, err = Open(Options{Dir: t.TempDir(), Drives: -1})
	want(t, "negative", err, backends.ErrNotSupported)
}

func TestTornAndDamagedIndex(t *testing.T) {
	l := open(t, Options{})
	for i := range 5 {
		l.mustPut(t, fmt.Sprintf("f%d", i), backendstest.Bytes(uint64(i), 10))
	}
	l.Flush(t.Context())
	l.Close()
	whole, _ := os.ReadFile(l.indexPath())

	// Whatever the tail looks like, what was durable before it is there.
	for name, tail := range map[string][]byte{
		"half a line": whole[:30], "zeros": make([]byte, 5000), "a line without its end": []byte("12345678 F 1 2"),
		"half a batch": append((&record{kind: kindBatch, n: int64(len(whole))}).appendTo(nil), "garbage\n00000000 D 1\n"...),
		"a good line behind a bad one of the same batch": append((&record{kind: kindBatch, n: int64(len(whole))}).appendTo(nil), append([]byte("bad\n"), (&record{kind: kindDelete, id: 1}).appendTo(nil)...)...),
	} {
		os.WriteFile(l.indexPath(), append(slices.Clone(whole), tail...), 0o644)
		l2 := open(t, l.o)
		for i := range 5 {
			if _, err := l2.Stat(t.Context(), fmt.Sprintf("f%d", i)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		l2.mustPut(t, "new", []byte("x"))
		l2 = reopen(t, l2)
		if _, err := l2.Stat(t.Context(), "new"); err != nil {
			t.Errorf("%s: written after it: %v", name, err)
		}
		l2.Close()
	}

	// A bad line in the middle is no torn tail: say so instead of losing what follows.
	os.WriteFile(l.indexPath(), whole, 0o644)
	bad := slices.Clone(whole)
	bad[len(bad)/3] ^= 0x40
	os.WriteFile(l.indexPath(), bad, 0o644)
	_, err := Open(l.o)
	want(t, "damage", err, backends.ErrDamaged)
	if now, _ := os.ReadFile(l.indexPath()); !bytes.Equal(now, bad) {
		t.Error("a damaged index was changed")
	}
}

func TestIndexIsRewritten(t *testing.T) {
	l := open(t, Options{})
	l.mustPut(t, "keep", backendstest.Bytes(1, 100))
	for round := range 15 {
		mustImport(t, l, 100, 10+round)
	}
	l.Flush(t.Context())
	before, _ := os.Stat(l.indexPath())
	l = reopen(t, l)
	after, _ := os.Stat(l.indexPath())
	if after.Size() > before.Size()/10*2 {
		t.Errorf("index of %d bytes after %d", after.Size(), before.Size())
	}
	if got, err := backendstest.Get(t.Context(), l, "keep"); err != nil || len(got) != 100 {
		t.Errorf("%v", err)
	}
	l = reopen(t, l)
	if l.Stats().Files != 101 {
		t.Errorf("%d files", l.Stats().Files)
	}
}

func TestBrokenIndexPromisesNothing(t *testing.T) {
	l := open(t, Options{})
	l.mustPut(t, "before", []byte("x"))
	l.Flush(t.Context())
	if err := os.Mkdir(l.indexPath()+".new", 0o700); err != nil { // it cannot be written anew
		t.Fatal(err)
	}
	l.idx.f.Close() // every write fails from here
	for range 2 {
		if err := put(t.Context(), l, "after", []byte("x")); err == nil {
			t.Error("put succeeded")
		}
		_, err := l.Stat(t.Context(), "after")
		want(t, "stat", err, backends.ErrNotExist)
		if l.Remove(t.Context(), "before") == nil {
			t.Error("remove succeeded")
		}
	}
	if _, err := l.Stat(t.Context(), "before"); err != nil {
		t.Errorf("before: %v", err)
	}
	// Nobody has to open the library again when the disk is well again.
	if err := os.Remove(l.indexPath() + ".new"); err != nil {
		t.Fatal(err)
	}
	l.mustPut(t, "after", []byte("y"))
	l.Flush(t.Context())
	for range 2 {
		for name, data := range map[string]string{"before": "x", "after": "y"} {
			if got, err := backendstest.Get(t.Context(), l, name); err != nil || string(got) != data {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
		l = reopen(t, l)
	}
}
