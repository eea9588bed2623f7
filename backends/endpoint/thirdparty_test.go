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
	"tarn/backends/retry"
)

// pair is two doors, and a storage of one kind behind each.
type pair struct {
	a, b     *endpoint.Endpoint
	from, to *backendstest.Party
	faulty   *fault.Storage // before from
}

func pairOf(t *testing.T, a, b endpoint.Limits) *pair {
	s := endpoint.NewSet(endpoint.Options{})
	s.Limit("z", a)
	s.Limit("b", b)
	p := &pair{a: s.At("z"), b: s.At("b"), from: &backendstest.Party{Storage: disk(t)}, to: &backendstest.Party{Storage: disk(t)}}
	p.faulty = fault.NewStorage(p.from)
	return p
}

// copy copies f from one to the other, through all decorators.
func (p *pair) copy(ctx context.Context) error {
	from := retry.NewStorage(p.a.Storage(p.faulty), retry.Options{Attempts: 9, First: time.Millisecond})
	to := retry.NewStorage(p.b.Storage(p.to), retry.Options{})
	_, err := from.CopyTo(ctx, "f", to, "g", 1, backendstest.Sums([]byte("x")), nil)
	return err
}

func TestThirdPartyContract(t *testing.T) {
	for name, l := range map[string]endpoint.Limits{"without limits": {}, "one at a time": {Concurrent: 1}} {
		t.Run(name, func(t *testing.T) {
			backendstest.ThirdParty(t, func(t *testing.T) (from, to backends.Storage) {
				p := pairOf(t, l, l)
				return retry.NewStorage(p.a.Storage(p.faulty), retry.Options{}), retry.NewStorage(p.b.Storage(p.to), retry.Options{})
			})
		})
	}
}

// What the storages below cannot do, the decorators cannot.
func TestCopyOfStoragesThatCannot(t *testing.T) {
	p := pairOf(t, endpoint.Limits{}, endpoint.Limits{})
	plain := disk(t)
	for name, c := range map[string][2]backends.Storage{
		"neither":     {p.a.Storage(plain), p.b.Storage(plain)},
		"the source":  {p.a.Storage(p.from), p.b.Storage(plain)},
		"the other":   {p.a.Storage(plain), p.b.Storage(p.to)},
		"with faults": {fault.NewStorage(plain), p.to},
	} {
		_, err := retry.NewStorage(c[0], retry.Options{}).CopyTo(t.Context(), "f", c[1], "g", 1, backends.Checksums{}, nil)
		if !errors.Is(err, backends.ErrNotSupported) || backends.IsTemporary(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Bytes that nobody can slow down go by no door whose bandwidth is limited in their direction.
func TestCopyIsNotPaced(t *testing.T) {
	for _, c := range []struct {
		a, b endpoint.Limits
		can  bool
	}{
		{endpoint.Limits{Read: 1e6}, endpoint.Limits{}, false}, {endpoint.Limits{}, endpoint.Limits{Write: 1e6}, false},
		{endpoint.Limits{Write: 1e6}, endpoint.Limits{Read: 1e6}, true}, {endpoint.Limits{Concurrent: 1}, endpoint.Limits{Concurrent: 1}, true},
	} {
		p := pairOf(t, c.a, c.b)
		backendstest.Put(t, p.from, "f", []byte("x"))
		err := p.copy(t.Context())
		if (err == nil) != c.can || err != nil && !errors.Is(err, backends.ErrNotSupported) || (p.from.Sent() == 1) != c.can {
			t.Errorf("%+v: %v, %d asked", c, err, p.from.Sent())
		}
	}
}

// Both doors count a copy: as one of their uploads, and for their breakers when it succeeds.
func TestCopyCountsAtBothDoors(t *testing.T) {
	p := pairOf(t, endpoint.Limits{Concurrent: 1}, endpoint.Limits{Concurrent: 1})
	backendstest.Put(t, p.from, "f", []byte("x"))
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		p.from.Meanwhile = func(context.Context, string) error { <-hold; return nil }
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				if err := p.copy(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		for _, e := range []*endpoint.Endpoint{p.a, p.b} {
			if st := e.State(); st.Active != 1 {
				t.Errorf("%+v", st)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := e.Storage(p.to).Create(ctx, "u", 1); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("an upload beside it: %v", err)
			}
			cancel()
			if _, err := e.Storage(p.from).Stat(t.Context(), "f"); err != nil {
				t.Errorf("other calls have turns of their own: %v", err)
			}
		}
		if n := p.from.Sent(); n != 1 {
			t.Errorf("%d copies at a time", n)
		}
		close(hold)
		all.Wait()
		p.from.Meanwhile = nil

		// A failure is nobody's fault that can be told, and a success speaks for both.
		p.faulty.On("CopyTo", fault.Always(fault.ErrTemporary))
		for range 9 {
			if err := p.copy(t.Context()); !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrHeldOff) {
				t.Errorf("failing: %v", err)
			}
		}
		if n := p.faulty.Calls("CopyTo"); n != 11 {
			t.Errorf("%d tries: a copy is not tried again", n)
		}
		for _, e := range []*endpoint.Endpoint{p.a, p.b} {
			if st := e.State(); st.State != backends.EndpointClosed || st.Failures != 0 || st.Active != 0 || st.Waiting != 0 {
				t.Errorf("%+v", st)
			}
		}
		p.faulty.Reset()

		// What is asked of each tells: only that one is left alone, and no copy goes by it until one succeeds.
		f := fault.NewStorage(p.to)
		f.On("Stat", fault.Always(fault.ErrTemporary))
		for range 5 {
			p.b.Storage(f).Stat(t.Context(), "g")
		}
		if a, b := p.a.State().State, p.b.State().State; a != backends.EndpointClosed || b != backends.EndpointOpen {
			t.Errorf("%s and %s", a, b)
		}
		sent := p.from.Sent()
		if err := p.copy(t.Context()); !errors.Is(err, backends.ErrHeldOff) || p.from.Sent() != sent {
			t.Errorf("through a door that is left alone: %v", err)
		}
		time.Sleep(3 * time.Second)
		if err := p.copy(t.Context()); err != nil {
			t.Error(err)
		}
		for _, e := range []*endpoint.Endpoint{p.a, p.b} {
			if st := e.State(); st.State != backends.EndpointClosed || st.Active != 0 {
				t.Errorf("%+v", st)
			}
		}
	})
}

// Within one door it is known whose failure it is.
func TestCopyThatFailsWithinOneDoorCounts(t *testing.T) {
	p := pairOf(t, endpoint.Limits{}, endpoint.Limits{})
	p.faulty.On("CopyTo", fault.Always(fault.ErrTemporary))
	for range 5 {
		p.a.Storage(p.faulty).CopyTo(t.Context(), "f", p.a.Storage(p.to), "g", 1, backends.Checksums{}, nil)
	}
	if st := p.a.State(); st.State != backends.EndpointOpen {
		t.Errorf("%+v", st)
	}
}

// So it is whichever way it goes.
func TestCopyCountsAtBothDoorsEitherWay(t *testing.T) {
	p := pairOf(t, endpoint.Limits{}, endpoint.Limits{})
	seen := 0
	for _, party := range []*backendstest.Party{p.from, p.to} {
		backendstest.Put(t, party, "f", []byte("x"))
		party.Meanwhile = func(context.Context, string) error {
			seen++
			if a, b := p.a.State().Active, p.b.State().Active; a != 1 || b != 1 {
				t.Errorf("%d and %d under way", a, b)
			}
			return nil
		}
	}
	a, b := p.a.Storage(p.from), p.b.Storage(p.to)
	for _, w := range [][2]*endpoint.Storage{{a, b}, {b, a}} {
		if _, err := w[0].CopyTo(t.Context(), "f", w[1], "g", 1, backendstest.Sums([]byte("x")), nil); err != nil {
			t.Error(err)
		}
	}
	if seen != 2 {
		t.Errorf("%d copies", seen)
	}
}

// A copy that was never made speaks for nobody.
func TestCopyThatCannotSaysNothing(t *testing.T) {
	p := pairOf(t, endpoint.Limits{}, endpoint.Limits{})
	f := fault.NewStorage(disk(t))
	f.On("Stat", fault.Always(fault.ErrTemporary))
	for range 4 {
		p.a.Storage(f).Stat(t.Context(), "f")
		if _, err := p.a.Storage(p.from).CopyTo(t.Context(), "f", p.b.Storage(f), "g", 1, backends.Checksums{}, nil); !errors.Is(err, backends.ErrNotSupported) {
			t.Fatal(err)
		}
	}
	if st := p.a.State(); st.Failures != 4 {
		t.Errorf("%+v", st)
	}
}

// Copies to and fro, one at a time at each door, and within one door, do not wait for one another for ever.
func TestCopiesToAndFro(t *testing.T) {
	p := pairOf(t, endpoint.Limits{Concurrent: 1}, endpoint.Limits{Concurrent: 1})
	a, b, c := p.a.Storage(p.from), p.b.Storage(p.to), p.a.Storage(&backendstest.Party{Storage: disk(t)})
	data := []byte("x")
	for _, s := range []backends.Storage{a, b, c} {
		backendstest.Put(t, s, "f", data)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for _, w := range [][2]*endpoint.Storage{{a, b}, {b, a}, {a, c}, {c, b}} {
		for range 2 {
			all.Go(func() {
				for range 50 {
					if _, err := w[0].CopyTo(ctx, "f", w[1], "g", 1, backendstest.Sums(data), nil); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	all.Wait()
}
