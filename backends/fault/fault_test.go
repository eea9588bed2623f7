package fault_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/fault"
	"tarn/backends/storage/posix"
	"tarn/backends/tape/library"
)

func disk(t *testing.T) *posix.Storage {
	t.Helper()
	s, err := posix.Open(posix.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStorageContract(t *testing.T) {
	backendstest.Storage(t, func(t *testing.T) backends.Storage { return fault.NewStorage(disk(t)) })
}

func TestTapeContract(t *testing.T) {
	backendstest.Tape(t, func(t *testing.T) backendstest.TapeUnderTest {
		l, err := library.Open(library.Options{Dir: t.TempDir(), Speed: 1e6, BufferSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return backendstest.TapeUnderTest{Storage: l, Tape: fault.NewTape(l), Buffer: 1 << 20, MakeNearline: func(t *testing.T, paths ...string) {
			if err := l.EvictBuffer(t.Context(), paths...); err != nil {
				t.Fatal(err)
			}
		}}
	})
}

func TestEveryOperationFailsOnDemand(t *testing.T) {
	s := fault.NewStorage(disk(t))
	data := backendstest.Bytes(1, 1000)
	backendstest.Put(t, s, "f", data)
	o, err := s.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	ops := map[string]func() error{
		"Stat": func() error { _, err := s.Stat(t.Context(), "f"); return err },
		"List": func() error {
			for _, err := range s.List(t.Context(), "") {
				return err
			}
			return nil
		},
		"ListEntry": func() error {
			for _, err := range s.List(t.Context(), "") {
				return err
			}
			return nil
		},
		"Open": func() error {
			o, err := s.Open(t.Context(), "f")
			if err == nil {
				o.Close()
			}
			return err
		},
		"ReadAt":   func() error { _, err := o.ReadAt(t.Context(), make([]byte, 10), 0); return err },
		"Checksum": func() error { _, err := s.Checksum(t.Context(), "f"); return err },
		"Space":    func() error { _, _, err := s.Space(t.Context()); return err },
		"Remove": func() error {
			err := s.Remove(t.Context(), "f")
			if err == nil {
				backendstest.Put(t, s, "f", data)
			}
			return err
		},
		"Create": func() error {
			u, err := s.Create(t.Context(), "g", 1)
			if err == nil {
				u.Abort()
			}
			return err
		},
		"Write": func() error {
			u, _ := s.Create(t.Context(), "g", 1)
			defer u.Abort()
			_, err := u.Write([]byte("x"))
			return err
		},
		"Commit": func() error {
			u, _ := s.Create(t.Context(), "g", 1)
			defer u.Abort()
			u.Write([]byte("x"))
			_, err := u.Commit(t.Context(), backendstest.Sums([]byte("x")))
			return err
		},
		"Abort": func() error { u, _ := s.Create(t.Context(), "g", 1); return u.Abort() },
	}
	for op, call := range ops {
		if err := call(); err != nil {
			t.Errorf("%s without faults: %v", op, err)
		}
		remove := s.On(op, fault.Always(fault.ErrInjected))
		if err := call(); !errors.Is(err, fault.ErrInjected) {
			t.Errorf("%s: %v", op, err)
		}
		remove()
		if err := call(); err != nil {
			t.Errorf("%s after the fault: %v", op, err)
		}
		if s.Calls(op) < 3 {
			t.Errorf("%s was counted %d times", op, s.Calls(op))
		}
	}
	up := s.Down(fault.ErrTemporary)
	for op, call := range ops {
		if op == "Write" || op == "Commit" || op == "Abort" {
			continue // nothing to call them on
		}
		if err := call(); !backends.IsTemporary(err) || !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%s while down: %v", op, err)
		}
	}
	up()
	if err := ops["Stat"](); err != nil {
		t.Errorf("up again: %v", err)
	}
}

func TestHooks(t *testing.T) {
	s := fault.NewStorage(disk(t))
	backendstest.Put(t, s, "a", nil)
	backendstest.Put(t, s, "b", nil)
	stat := func(p string) bool { _, err := s.Stat(t.Context(), p); return err == nil }
	for name, c := range map[string]struct {
		hook fault.Hook
		want []bool // of stats of a, b, a, b, a, b
	}{
		"times":     {fault.Times(2, fault.ErrInjected), []bool{false, false, true, true, true, true}},
		"nth":       {fault.Nth(3, fault.ErrInjected), []bool{true, true, false, true, true, true}},
		"every":     {fault.Every(2, fault.ErrInjected), []bool{true, false, true, false, true, false}},
		"at":        {fault.At("b", fault.Nth(2, fault.ErrInjected)), []bool{true, true, true, false, true, true}},
		"each path": {fault.EachPath(func() fault.Hook { return fault.Times(1, fault.ErrInjected) }), []bool{false, false, true, true, true, true}},
	} {
		remove := s.On("Stat", c.hook)
		var got []bool
		for range 3 {
			got = append(got, stat("a"), stat("b"))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		remove()
		remove() // twice is fine
	}
	s.On("Stat", fault.Always(fault.ErrInjected))
	s.Reset()
	if !stat("a") || s.Calls("Stat") != 1 {
		t.Error("Reset left something")
	}
}

func TestLostAnswer(t *testing.T) {
	s := fault.NewStorage(disk(t))
	s.After("Commit", fault.Nth(1, fault.ErrTemporary))
	u, _ := s.Create(t.Context(), "f", 1)
	u.Write([]byte("x"))
	if _, err := u.Commit(t.Context(), backendstest.Sums([]byte("x"))); !backends.IsTemporary(err) {
		t.Errorf("commit: %v", err)
	}
	u.Abort()
	if _, err := s.Stat(t.Context(), "f"); err != nil {
		t.Errorf("it was done: %v", err)
	}
}

func TestWrongBytes(t *testing.T) {
	s := fault.NewStorage(disk(t))
	data := backendstest.Bytes(1, 1000)
	backendstest.Put(t, s, "f", data)
	backendstest.Put(t, s, "g", data)
	read := func(p string) ([]byte, error) {
		o, err := s.Open(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		b := make([]byte, 1000)
		n, err := o.ReadAt(t.Context(), b, 0)
		return b[:n], err
	}
	remove := s.OnRead(fault.ReadsAt("f", fault.FlipByte(500)))
	got, _ := read("f")
	if bytes.Equal(got, data) || got[500] != data[500]^1 {
		t.Error("no byte was flipped")
	}
	if got, _ := read("g"); !bytes.Equal(got, data) {
		t.Error("a byte of the other file was flipped")
	}
	remove()
	remove = s.OnRead(fault.CutAt(300))
	if got, err := read("f"); len(got) != 300 || err != io.EOF {
		t.Errorf("cut: %d, %v", len(got), err)
	}
	remove()
	s.OnRead(fault.ShortRead(7, fault.ErrTemporary))
	if got, err := read("f"); len(got) != 7 || !backends.IsTemporary(err) {
		t.Errorf("short: %d, %v", len(got), err)
	}
}

func TestBlockAndDelay(t *testing.T) {
	s := fault.NewStorage(disk(t))
	backendstest.Put(t, s, "f", nil)
	release := s.Block("Stat")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := s.Stat(ctx, "f"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("blocked: %v", err)
	}
	done := make(chan error)
	go func() { _, err := s.Stat(t.Context(), "f"); done <- err }()
	release()
	release()
	if err := <-done; err != nil {
		t.Errorf("released: %v", err)
	}
	s.Delay("Stat", time.Hour)
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := s.Stat(ctx, "f"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("delayed: %v", err)
	}
}

func TestFailRecall(t *testing.T) {
	l, err := library.Open(library.Options{Dir: t.TempDir(), Speed: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	backendstest.Put(t, l, "a", nil)
	backendstest.Put(t, l, "b", nil)
	tp := fault.NewTape(l)
	tp.FailRecall(fault.At("b", fault.Always(errors.New("drive on fire"))))
	id, err := tp.Stage(t.Context(), "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	st, err := tp.Poll(t.Context(), id)
	if err != nil || st[0].Phase != backends.RecallCompleted || st[1].Phase != backends.RecallFailed || st[1].Error != "drive on fire" {
		t.Errorf("%+v, %v", st, err)
	}
	for _, op := range []string{"Locality", "Stage", "Poll", "Cancel", "Release", "Plan"} {
		tp.On(op, fault.Always(fault.ErrInjected))
	}
	_, e1 := tp.Locality(t.Context(), "a")
	_, e2 := tp.Stage(t.Context(), "a")
	_, e3 := tp.Poll(t.Context(), id)
	_, e4 := tp.Plan(t.Context(), "a")
	for i, err := range []error{e1, e2, e3, e4, tp.Cancel(t.Context(), id), tp.Release(t.Context(), id, "a")} {
		if !errors.Is(err, fault.ErrInjected) {
			t.Errorf("%d: %v", i, err)
		}
	}
}
