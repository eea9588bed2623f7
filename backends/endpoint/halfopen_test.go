package endpoint_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/endpoint"
	"tarn/backends/fault"
)

// One call tries, however many come at once.
func TestHalfOpenLetsOneTry(t *testing.T) {
	f := fault.NewStorage(disk(t))
	backendstest.Put(t, f, "f", nil)
	synctest.Test(t, func(t *testing.T) {
		s, ctx := at(endpoint.Limits{}).Storage(f), t.Context()
		f.On("Stat", fault.Always(fault.ErrTemporary))
		stat(ctx, s, 5)
		time.Sleep(6 * time.Second)
		f.Reset()
		f.On("Stat", func(string) error { time.Sleep(time.Second); return nil })
		var wg sync.WaitGroup
		held := make([]bool, 20)
		for i := range held {
			wg.Go(func() { held[i] = errors.Is(stat(ctx, s, 1), backends.ErrHeldOff) })
		}
		wg.Wait()
		n := 0
		for _, h := range held {
			if h {
				n++
			}
		}
		if n != 19 || f.Calls("Stat") != 1 {
			t.Errorf("%d of 20 held off, %d calls", n, f.Calls("Stat"))
		}
		// Who tries and is called off says nothing: the next one tries.
		f.Reset()
		f.On("Stat", fault.Always(fault.ErrTemporary))
		stat(ctx, s, 5)
		time.Sleep(6 * time.Second)
		f.Reset()
		f.On("Stat", fault.Nth(1, context.Canceled))
		if err := stat(ctx, s, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("called off: %v", err)
		}
		if err := stat(ctx, s, 1); err != nil {
			t.Errorf("the next: %v", err)
		}
	})
}

// Who tries and takes long keeps nobody else from trying: a checksum takes hours, and the server is well.
func TestHalfOpenEnds(t *testing.T) {
	f := fault.NewStorage(disk(t))
	backendstest.Put(t, f, "f", []byte("x"))
	synctest.Test(t, func(t *testing.T) {
		e := at(endpoint.Limits{})
		s, ctx := e.Storage(f), t.Context()
		opened := func() {
			t.Helper()
			f.Reset()
			f.On("Stat", fault.Always(fault.ErrTemporary))
			if err := stat(ctx, s, 6); !errors.Is(err, backends.ErrHeldOff) {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
			f.Reset()
		}
		for _, at := range []error{nil, fault.ErrTemporary} { // as it ends at last
			opened()
			f.On("Checksum", func(string) error { time.Sleep(time.Hour); return at })
			var wg sync.WaitGroup
			wg.Go(func() { s.Checksum(ctx, "f") })
			synctest.Wait()
			time.Sleep(time.Second)
			if err := stat(ctx, s, 1); !errors.Is(err, backends.ErrHeldOff) {
				t.Errorf("beside one that has just begun: %v", err)
			}
			time.Sleep(2 * time.Second)
			if err := stat(ctx, s, 3); err != nil || e.State().State != backends.EndpointClosed {
				t.Errorf("the server is well: %v, %s", err, e.State().State)
			}
			wg.Wait()
			if err := stat(ctx, s, 3); err != nil {
				t.Errorf("after the checksum: %v", err)
			}
		}
		// Those of a server that is silent come one at a time.
		opened()
		f.On("Stat", func(string) error { time.Sleep(15 * time.Second); return fault.ErrTemporary })
		var wg sync.WaitGroup
		for range 120 {
			wg.Go(func() { stat(ctx, s, 1) })
			time.Sleep(100 * time.Millisecond)
		}
		wg.Wait()
		if n := f.Calls("Stat"); n < 2 || n > 6 {
			t.Errorf("%d of 120 calls within 12 s wait for a server that is silent", n)
		}
		// One that is slow is used again when it has answered.
		opened()
		f.On("Stat", func(string) error { time.Sleep(3 * time.Second); return nil })
		for range 40 {
			wg.Go(func() { stat(ctx, s, 1) })
			time.Sleep(100 * time.Millisecond)
		}
		if st := e.State(); st.State != backends.EndpointClosed {
			t.Errorf("a slow one: %+v", st)
		}
		wg.Wait()
		// Whoever is called off leaves it to the others.
		opened()
		f.OnContext("Stat", func(ctx context.Context, _ string) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(5 * time.Second):
				return nil
			}
		})
		short, cancel := context.WithCancel(ctx)
		wg.Go(func() { stat(short, s, 1) })
		time.Sleep(3 * time.Second)
		wg.Go(func() { stat(ctx, s, 1) })
		synctest.Wait()
		cancel()
		synctest.Wait()
		if err := stat(ctx, s, 1); !errors.Is(err, backends.ErrHeldOff) || f.Calls("Stat") != 2 {
			t.Errorf("beside the second that tries: %v, %d calls", err, f.Calls("Stat"))
		}
		wg.Wait()
		if st := e.State(); st.State != backends.EndpointClosed {
			t.Errorf("when the second has answered: %+v", st)
		}
		// What may have sent nothing tells nothing.
		opened()
		u, err := s.Create(ctx, "g", 1)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Abort()
		if _, err := u.Write([]byte("x")); err != nil || e.State().State != backends.EndpointHalfOpen {
			t.Errorf("an upload that was begun: %v, %s", err, e.State().State)
		}
		if _, err := u.Commit(ctx, backendstest.Sums([]byte("x"))); err != nil || e.State().State != backends.EndpointClosed {
			t.Errorf("one that is whole: %v, %s", err, e.State().State)
		}
	})
}
