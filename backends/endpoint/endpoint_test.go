package endpoint_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/endpoint"
	"tarn/backends/fault"
	"tarn/backends/storage/posix"
)

const door = "davs://door.example.org:2880"

func disk(t *testing.T) *posix.Storage {
	t.Helper()
	s, err := posix.Open(posix.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func at(l endpoint.Limits) *endpoint.Endpoint {
	s := endpoint.NewSet(endpoint.Options{})
	s.Limit(door, l)
	return s.At(door)
}

func TestStorageContract(t *testing.T) {
	for name, l := range map[string]endpoint.Limits{"without limits": {}, "with limits": {Concurrent: 2, Read: 1e9, Write: 1e9}, "one at a time": {Concurrent: 1}} {
		t.Run(name, func(t *testing.T) {
			backendstest.Storage(t, func(t *testing.T) backends.Storage { return at(l).Storage(disk(t)) })
		})
	}
}

func TestOneEndpointADoor(t *testing.T) {
	s := endpoint.NewSet(endpoint.Options{})
	s.Limit("a", endpoint.Limits{Concurrent: 8, Read: 100})
	s.Limit("a", endpoint.Limits{Concurrent: 4, Write: 50})
	s.Limit("a", endpoint.Limits{Concurrent: 16, Read: 200})
	if a := s.At("a"); a != s.At("a") || a == s.At("b") {
		t.Error("doors and endpoints do not go together")
	}
	if st := s.At("a").State(); st.Concurrent != 4 || st.Read != 100 || st.Write != 50 || st.Endpoint != "a" || st.State != backends.EndpointClosed {
		t.Errorf("%+v", st)
	}
	if st := s.At("b").State(); st.Concurrent != 0 || st.Read != 0 || st.Write != 0 {
		t.Errorf("%+v", st)
	}
}

// stat asks n times and gives the last error.
func stat(ctx context.Context, s backends.Storage, n int) (err error) {
	for range n {
		_, err = s.Stat(ctx, "f")
	}
	return err
}

func TestBreaker(t *testing.T) {
	f := fault.NewStorage(disk(t))
	backendstest.Put(t, f, "f", []byte("x"))
	synctest.Test(t, func(t *testing.T) {
		e := at(endpoint.Limits{})
		s, ctx := e.Storage(f), t.Context()
		f.On("Stat", fault.Always(fault.ErrTemporary))
		if err := stat(ctx, s, 5); errors.Is(err, backends.ErrHeldOff) || f.Calls("Stat") != 5 {
			t.Fatalf("%d calls, %v", f.Calls("Stat"), err)
		}
		err := stat(ctx, s, 3)
		if !errors.Is(err, backends.ErrHeldOff) || !errors.Is(err, backends.ErrUnavailable) || !backends.IsTemporary(err) || f.Calls("Stat") != 5 {
			t.Errorf("open: %d calls, %v", f.Calls("Stat"), err)
		}
		if !strings.Contains(err.Error(), door) || !strings.Contains(err.Error(), fault.ErrTemporary.Error()) {
			t.Errorf("the error says neither who nor why: %v", err)
		}
		if st := e.State(); st.State != backends.EndpointOpen || st.Error == "" || st.Since.IsZero() {
			t.Errorf("%+v", st)
		}
		// Every kind of call goes the same way.
		if _, err := s.Open(ctx, "f"); !errors.Is(err, backends.ErrHeldOff) {
			t.Errorf("open: %v", err)
		}
		if _, err := s.Create(ctx, "g", 1); !errors.Is(err, backends.ErrHeldOff) {
			t.Errorf("create: %v", err)
		}
		for _, err := range s.List(ctx, "") {
			if !errors.Is(err, backends.ErrHeldOff) {
				t.Errorf("list: %v", err)
			}
		}
		// After a while one call tries, and opens it anew.
		time.Sleep(6 * time.Second)
		if st := e.State(); st.State != backends.EndpointHalfOpen {
			t.Errorf("%+v", st)
		}
		if err := stat(ctx, s, 3); !errors.Is(err, backends.ErrHeldOff) || f.Calls("Stat") != 6 {
			t.Errorf("half-open: %d calls, %v", f.Calls("Stat"), err)
		}
		time.Sleep(6 * time.Second)
		f.Reset()
		if err := stat(ctx, s, 3); err != nil || f.Calls("Stat") != 3 {
			t.Errorf("well again: %d calls, %v", f.Calls("Stat"), err)
		}
		if st := e.State(); st.State != backends.EndpointClosed || st.Error != "" || st.Failures != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestWhatCounts(t *testing.T) {
	f := fault.NewStorage(disk(t))
	backendstest.Put(t, f, "f", nil)
	for _, c := range []struct {
		name  string
		err   error
		opens bool
	}{
		{"temporary", fault.ErrTemporary, true},
		{"no answer in time", context.DeadlineExceeded, true},
		{"sent away for a while", &backends.LaterError{After: time.Minute, Err: fault.ErrTemporary}, true},
		{"not there", backends.ErrNotExist, false},
		{"refused", backends.ErrPermission, false},
		{"full", backends.ErrNoSpace, false},
		{"corrupt", backends.ErrCorrupt, false},
		{"a folder that is not there", &backends.OpError{Err: &backends.AnsweredError{Err: fault.ErrTemporary}}, false},
		{"locked file", errors.Join(backends.ErrBusy, backends.ErrTemporary), false},
		{"called off", context.Canceled, false},
		{"no such host", backends.ErrUnavailable, false},
		{"our descriptors", errors.Join(backends.ErrTooManyFiles, backends.ErrUnavailable, backends.ErrTemporary), false},
	} {
		f.Reset()
		f.On("Stat", fault.Always(c.err))
		s := at(endpoint.Limits{}).Storage(f)
		if opened := errors.Is(stat(t.Context(), s, 20), backends.ErrHeldOff); opened != c.opens {
			t.Errorf("%s: opened %v", c.name, opened)
		}
	}
	// A success between failures counts, and what says nothing does not.
	f.Reset()
	f.On("Stat", func(string) error {
		if f.Calls("Stat")%5 == 0 {
			return nil
		}
		return fault.ErrTemporary
	})
	if err := stat(t.Context(), at(endpoint.Limits{}).Storage(f), 19); errors.Is(err, backends.ErrHeldOff) {
		t.Error("four of five failures opened it")
	}
	f.Reset()
	f.On("Stat", func(string) error {
		if f.Calls("Stat")%2 == 0 {
			return context.Canceled
		}
		return fault.ErrTemporary
	})
	if err := stat(t.Context(), at(endpoint.Limits{}).Storage(f), 20); !errors.Is(err, backends.ErrHeldOff) {
		t.Error("calls that were called off hid the failures between them")
	}
}

// A folder that is not there is no reason to leave its neighbour alone, nor the only one to try a server that was away.
func TestNeighbours(t *testing.T) {
	f, g := fault.NewStorage(disk(t)), fault.NewStorage(disk(t))
	backendstest.Put(t, g, "f", []byte("x"))
	synctest.Test(t, func(t *testing.T) {
		e := at(endpoint.Limits{})
		sick, well, ctx := e.Storage(f), e.Storage(g), t.Context()
		f.On("Stat", fault.Always(&backends.AnsweredError{Err: fault.ErrTemporary}))
		g.On("Stat", fault.Always(fault.ErrTemporary))
		if err := stat(ctx, well, 6); !errors.Is(err, backends.ErrHeldOff) {
			t.Fatal(err)
		}
		g.Reset()
		time.Sleep(3 * time.Second)
		if err := stat(ctx, sick, 20); !backends.IsAnswered(err) {
			t.Errorf("the folder that is not there: %v", err)
		}
		if err := stat(ctx, well, 1); err != nil {
			t.Errorf("its neighbour: %v", err)
		}
	})
}

// A read that fails in an open file counts, as do bytes and ends of uploads.
func TestReadsAndUploadsCount(t *testing.T) {
	f := fault.NewStorage(disk(t))
	backendstest.Put(t, f, "f", backendstest.Bytes(1, 1000))
	ctx := t.Context()
	s := at(endpoint.Limits{}).Storage(f)
	o, err := s.Open(ctx, "f")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for range 10 { // the end of a file is no failure
		if _, err := o.ReadAt(ctx, make([]byte, 2000), 500); err != io.EOF {
			t.Fatal(err)
		}
	}
	f.On("ReadAt", fault.Always(fault.ErrTemporary))
	for range 5 {
		o.ReadAt(ctx, make([]byte, 10), 0)
	}
	if _, err := o.ReadAt(ctx, make([]byte, 10), 0); !errors.Is(err, backends.ErrHeldOff) {
		t.Errorf("reads: %v", err)
	}
	for _, op := range []string{"Write", "Commit"} {
		f.Reset()
		s = at(endpoint.Limits{}).Storage(f)
		var us []backends.Upload
		for range 5 {
			u, err := s.Create(ctx, "g", 1)
			if err != nil {
				t.Fatal(err)
			}
			us = append(us, u)
		}
		f.On(op, fault.Always(fault.ErrTemporary))
		for _, u := range us {
			if _, err := u.Write([]byte("x")); err == nil {
				u.Commit(ctx, backendstest.Sums([]byte("x")))
			}
			u.Abort()
		}
		if err := stat(ctx, s, 1); !errors.Is(err, backends.ErrHeldOff) {
			t.Errorf("%s: %v", op, err)
		}
	}
}

func TestConcurrency(t *testing.T) {
	f := fault.NewStorage(disk(t))
	backendstest.Put(t, f, "f", backendstest.Bytes(1, 1000))
	synctest.Test(t, func(t *testing.T) {
		e := at(endpoint.Limits{Concurrent: 3})
		s := e.Storage(f)
		f.On("Stat", func(string) error { time.Sleep(time.Second); return nil })
		began := time.Now()
		var wg sync.WaitGroup
		for range 9 {
			wg.Go(func() {
				if err := stat(t.Context(), s, 1); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if st := e.State(); st.Active != 3 || st.Waiting != 6 {
			t.Errorf("%d under way, %d wait", st.Active, st.Waiting)
		}
		// Who waits is not kept longer than he wants, and that is no failure of the server.
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if err := stat(ctx, s, 1); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("waiting: %v", err)
			}
			cancel()
		}
		wg.Wait()
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("9 calls of 1 s, 3 at a time, took %v", d)
		}
		if st := e.State(); st.Active != 0 || st.Waiting != 0 || st.State != backends.EndpointClosed {
			t.Errorf("%+v", st)
		}
	})
	// A copy from one file of a server to another needs a turn to read and one to write.
	f.Reset()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s := at(endpoint.Limits{Concurrent: 1}).Storage(f)
	u, err := s.Create(ctx, "g", 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	for a, err := range s.List(ctx, "") { // and who lists may ask for more
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stat(ctx, a.Path); err != nil {
			t.Fatal(err)
		}
	}
	b, err := backendstest.Get(ctx, s, "f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(ctx, backendstest.Sums(b)); err != nil {
		t.Fatal(err)
	}
}

func TestBandwidth(t *testing.T) {
	d := disk(t)
	data := backendstest.Bytes(1, 4<<20)
	synctest.Test(t, func(t *testing.T) {
		s := at(endpoint.Limits{Read: 1 << 20, Write: 2 << 20}).Storage(d)
		took := func(what string, want time.Duration, f func()) {
			t.Helper()
			began := time.Now()
			f()
			if d := time.Since(began); d < want-want/5 || d > want+want/20 {
				t.Errorf("%s took %v, want some %v", what, d, want)
			}
		}
		took("write", 2*time.Second, func() { backendstest.Put(t, s, "f", data) })
		took("read", 4*time.Second, func() {
			o, err := s.Open(t.Context(), "f")
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			got := make([]byte, len(data))
			var wg sync.WaitGroup
			for off := 0; off < len(data); off += 1 << 20 {
				wg.Go(func() {
					if _, err := o.ReadAt(t.Context(), got[off:off+1<<20], int64(off)); err != nil && err != io.EOF {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if !bytes.Equal(got, data) {
				t.Error("other bytes")
			}
		})
	})
}

// A limit holds when more is asked for than there is time for, and leaves no debts.
func TestBandwidthIsKept(t *testing.T) {
	f := fault.NewStorage(disk(t))
	backendstest.Put(t, f, "f", backendstest.Bytes(1, 4<<20))
	synctest.Test(t, func(t *testing.T) {
		e := at(endpoint.Limits{Read: 1 << 20, Concurrent: 2})
		o, err := e.Storage(f).Open(t.Context(), "f")
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		read := func(size int, within time.Duration) (int, error) {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			return o.ReadAt(ctx, make([]byte, size), 0)
		}
		if n, err := read(3<<20, time.Second); n != 0 || !errors.Is(err, context.DeadlineExceeded) || f.Calls("ReadAt") != 0 {
			t.Errorf("a read that cannot wait: %d bytes, %v, %d calls", n, err, f.Calls("ReadAt"))
		}
		began := time.Now()
		var sum atomic.Int64
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for time.Since(began) < 10*time.Minute {
					n, _ := read(4<<20, 15*time.Second)
					sum.Add(int64(n))
					if n := e.State().Active; n > 2 {
						t.Errorf("%d calls at a time", n)
					}
				}
			})
		}
		wg.Wait()
		if perSecond := float64(sum.Load()) / time.Since(began).Seconds(); perSecond < 0.8*(1<<20) || perSecond > 1.05*(1<<20) {
			t.Errorf("%.0f bytes a second", perSecond)
		}
		began = time.Now()
		if n, err := read(1, 15*time.Second); n != 1 || err != nil || time.Since(began) > 100*time.Millisecond {
			t.Errorf("one byte after that: %d, %v, after %v", n, err, time.Since(began))
		}
		// Whoever goes before his turn has come gives it back.
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() { o.ReadAt(ctx, make([]byte, 4<<20), 0) })
		synctest.Wait()
		cancel()
		wg.Wait()
		began = time.Now()
		if n, err := read(1<<20, 15*time.Second); n != 1<<20 || err != nil || time.Since(began) > 1500*time.Millisecond {
			t.Errorf("after one that went: %d, %v, after %v", n, err, time.Since(began))
		}
		if st := e.State(); st.State != backends.EndpointClosed || st.Failures != 0 || st.Active != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// Who is refused hears that his credential has expired, whatever the call, and the breaker stays closed.
func TestExpired(t *testing.T) {
	f := fault.NewStorage(disk(t))
	backendstest.Put(t, f, "f", []byte("x"))
	expired := false
	s := endpoint.NewSet(endpoint.Options{Expired: func() bool { return expired }}).At(door).Storage(f)
	ctx := t.Context()
	o, err := s.Open(ctx, "f")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, op := range []string{"Stat", "List", "Open", "ReadAt", "Create", "Remove"} {
		f.On(op, fault.Always(backends.ErrPermission))
	}
	for _, expired = range []bool{false, true} {
		for what, call := range map[string]func() error{
			"stat": func() error { return stat(ctx, s, 10) },
			"list": func() error {
				for _, err := range s.List(ctx, "") {
					return err
				}
				return nil
			},
			"open":   func() error { _, err := s.Open(ctx, "f"); return err },
			"read":   func() error { _, err := o.ReadAt(ctx, make([]byte, 1), 0); return err },
			"create": func() error { _, err := s.Create(ctx, "g", 1); return err },
			"remove": func() error { return s.Remove(ctx, "f") },
		} {
			if err := call(); !errors.Is(err, backends.ErrPermission) || errors.Is(err, backends.ErrExpired) != expired || backends.IsTemporary(err) {
				t.Errorf("%s, expired %v: %v", what, expired, err)
			}
		}
	}
}
