package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/fault"
	"tarn/backends/retry"
	"tarn/backends/storage/posix"
)

// clock is time that passes only by sleeping.
type clock struct {
	now   time.Time
	waits []time.Duration
}

func (c *clock) options() retry.Options {
	return retry.Options{
		Now:  func() time.Time { return c.now },
		Rand: func() float64 { return 1 },
		Sleep: func(ctx context.Context, d time.Duration) error {
			c.now = c.now.Add(d)
			c.waits = append(c.waits, d)
			return ctx.Err()
		},
	}
}

func instant() retry.Options {
	return retry.Options{Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}
}

func disk(t *testing.T) *posix.Storage {
	t.Helper()
	s, err := posix.Open(posix.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestStorageContract: with an unreliable storage below, callers see a reliable one.
func TestStorageContract(t *testing.T) {
	backendstest.Storage(t, func(t *testing.T) backends.Storage {
		f := fault.NewStorage(disk(t))
		for _, op := range []string{"Stat", "List", "Open", "ReadAt", "Create", "Checksum", "Space"} {
			f.On(op, fault.Every(2, fault.ErrTemporary))
		}
		f.OnRead(fault.ShortRead(100<<10, fault.ErrTemporary))
		many := instant()
		many.Attempts = 50 // parallel calls share the count
		return retry.NewStorage(f, many)
	})
}

func TestBounds(t *testing.T) {
	f := fault.NewStorage(disk(t))
	f.On("Stat", fault.Always(fault.ErrTemporary))
	for _, c := range []struct {
		name  string
		set   func(*retry.Options)
		waits []time.Duration
	}{
		{"attempts", func(o *retry.Options) { o.Attempts = 4 }, []time.Duration{200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond}},
		{"one attempt", func(o *retry.Options) { o.Attempts = 1 }, nil},
		{"longest wait", func(o *retry.Options) { o.Attempts, o.First, o.Max = 5, time.Second, 3*time.Second }, []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second}},
		{"total", func(o *retry.Options) { o.Attempts, o.First, o.Total = 100, time.Second, 8*time.Second }, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}},
		{"jitter", func(o *retry.Options) { o.Attempts, o.First, o.Rand = 3, time.Second, func() float64 { return 0 } }, []time.Duration{500 * time.Millisecond, time.Second}},
		{"many attempts do not overflow", func(o *retry.Options) { o.Attempts, o.Max, o.Total = 80, time.Second, time.Hour }, nil},
	} {
		k := &clock{now: time.Now()}
		o := k.options()
		c.set(&o)
		before := f.Calls("Stat")
		_, err := retry.NewStorage(f, o).Stat(t.Context(), "f")
		if !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%s: %v", c.name, err)
		}
		if o.Attempts == 80 {
			if k.waits[70] != time.Second {
				t.Errorf("%s: %v", c.name, k.waits[70])
			}
		} else if !slices.Equal(k.waits, c.waits) {
			t.Errorf("%s: waited %v, want %v", c.name, k.waits, c.waits)
		}
		if n := f.Calls("Stat") - before; n != len(k.waits)+1 {
			t.Errorf("%s: %d attempts", c.name, n)
		}
	}
}

func TestOnlyTemporaryErrorsAreRetried(t *testing.T) {
	f := fault.NewStorage(disk(t))
	s := retry.NewStorage(f, instant())
	for _, err := range []error{backends.ErrNotExist, backends.ErrUnavailable, backends.ErrNoSpace, fault.ErrInjected} {
		f.Reset()
		f.On("Stat", fault.Always(err))
		if _, got := s.Stat(t.Context(), "f"); !errors.Is(got, err) || f.Calls("Stat") != 1 {
			t.Errorf("%v: %d attempts, %v", err, f.Calls("Stat"), got)
		}
	}
}

// Who is left alone is not asked again, and no attempt is begun that a server asked to put off too long.
func TestWhatIsNotWaitedFor(t *testing.T) {
	f := fault.NewStorage(disk(t))
	for _, c := range []struct {
		err   error
		calls int
		waits []time.Duration
	}{
		{fmt.Errorf("%w, %w", backends.ErrHeldOff, fault.ErrTemporary), 1, nil},
		{&backends.LaterError{After: time.Hour, Err: fault.ErrTemporary}, 1, nil},
		{&backends.LaterError{After: 25 * time.Second, Err: fault.ErrTemporary}, 3, []time.Duration{25 * time.Second, 25 * time.Second}},
	} {
		f.Reset()
		f.On("Stat", fault.Always(c.err))
		k := &clock{now: time.Now()}
		if _, err := retry.NewStorage(f, k.options()).Stat(t.Context(), "f"); !errors.Is(err, c.err) || f.Calls("Stat") != c.calls || !slices.Equal(k.waits, c.waits) {
			t.Errorf("%v: %d attempts, waited %v, %v", c.err, f.Calls("Stat"), k.waits, err)
		}
	}
}

// The budget is that of all calls together: used up, each is made once, until successes fill it again.
func TestBudget(t *testing.T) {
	f := fault.NewStorage(disk(t))
	backendstest.Put(t, f, "f", nil)
	o := instant()
	o.Attempts, o.Budget = 3, 5
	s := retry.NewStorage(f, o)
	for i, want := range []int{3, 3, 2, 1, 1} {
		f.Reset()
		f.On("Stat", fault.Always(fault.ErrTemporary))
		if _, err := s.Stat(t.Context(), "f"); !backends.IsTemporary(err) || f.Calls("Stat") != want {
			t.Errorf("call %d: %d attempts, want %d, %v", i, f.Calls("Stat"), want, err)
		}
	}
	f.Reset()
	for range 10 {
		if _, err := s.Stat(t.Context(), "f"); err != nil {
			t.Fatal(err)
		}
	}
	f.Reset()
	f.On("Stat", fault.Times(1, fault.ErrTemporary))
	if _, err := s.Stat(t.Context(), "f"); err != nil || f.Calls("Stat") != 2 {
		t.Errorf("after successes: %d attempts, %v", f.Calls("Stat"), err)
	}
}

func TestContextEndsTheWait(t *testing.T) {
	f := fault.NewStorage(disk(t))
	f.On("Stat", fault.Always(fault.ErrTemporary))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := retry.NewStorage(f, retry.Options{First: time.Hour, Max: time.Hour, Total: 10 * time.Hour}).Stat(ctx, "f")
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, backends.ErrUnavailable) || time.Since(start) > 5*time.Second || f.Calls("Stat") != 1 {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

func TestListGoesOnWhereItBroke(t *testing.T) {
	f := fault.NewStorage(disk(t))
	var want []string
	for i := range 20 {
		p := fmt.Sprintf("f%02d", i)
		backendstest.Put(t, f, p, nil)
		want = append(want, p)
	}
	f.On("ListEntry", fault.Nth(7, fault.ErrTemporary))
	var got []string
	for a, err := range retry.NewStorage(f, instant()).List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.Path)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestReadGoesOnWhereItBroke(t *testing.T) {
	f := fault.NewStorage(disk(t))
	data := backendstest.Bytes(1, 1000)
	backendstest.Put(t, f, "f", data)
	f.OnRead(fault.ShortRead(300, fault.ErrTemporary))
	s := retry.NewStorage(f, instant())
	if got, err := backendstest.Get(t.Context(), s, "f"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestLostAnswerOfRemove(t *testing.T) {
	f := fault.NewStorage(disk(t))
	s := retry.NewStorage(f, instant())
	backendstest.Put(t, s, "f", nil)
	f.After("Remove", fault.Nth(1, fault.ErrTemporary))
	if err := s.Remove(t.Context(), "f"); err != nil {
		t.Errorf("its own effect: %v", err)
	}
	if err := s.Remove(t.Context(), "f"); !errors.Is(err, backends.ErrNotExist) {
		t.Errorf("really not there: %v", err)
	}
}

func TestFileOfObject(t *testing.T) {
	d := disk(t)
	backendstest.Put(t, d, "f", []byte("x"))
	for name, c := range map[string]struct {
		below backends.Storage
		want  bool
	}{"with": {d, true}, "without": {fault.NewStorage(d), false}} {
		o, err := retry.NewStorage(c.below, instant()).Open(t.Context(), "f")
		if err != nil {
			t.Fatal(err)
		}
		if got := o.(interface{ File() *os.File }).File() != nil; got != c.want {
			t.Errorf("%s: %v", name, got)
		}
		o.Close()
	}
}
