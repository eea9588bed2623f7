package lake_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
)

func patient(o *lake.Options) { o.Patience = time.Minute }

// until fails every call with err until d has passed.
func until(d time.Duration, err error) func(string, string) error {
	end := time.Now().Add(d)
	return func(string, string) error {
		if time.Now().Before(end) {
			return err
		}
		return nil
	}
}

// openCount counts the objects that are open.
type openCount struct {
	*laketest.Storage
	n atomic.Int64
}

type counted struct {
	backends.Object
	n *atomic.Int64
}

func (c *openCount) Open(ctx context.Context, p string) (backends.Object, error) {
	o, err := c.Storage.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	c.n.Add(1)
	return counted{o, &c.n}, nil
}

func (c counted) Close() error {
	c.n.Add(-1)
	return c.Object.Close()
}

// What may pass is waited for, at the opening and in mid file; what is final is told at once.
func TestPatience(t *testing.T) {
	for _, c := range []struct {
		name  string
		err   error
		waits bool
	}{
		{"down", laketest.ErrDown, true},
		{"not trusted yet", fmt.Errorf("unknown authority: %w", backends.ErrUnavailable), true},
		{"expired", fmt.Errorf("%w, %w", backends.ErrPermission, backends.ErrExpired), true},
		{"refused", fmt.Errorf("not mapped: %w", backends.ErrPermission), false},
		{"refused and away", fmt.Errorf("%w: %w", backends.ErrUnavailable, backends.ErrPermission), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, patient)
				defer r.Close()
				open := &openCount{Storage: r.near}
				r.dNear.Storage = open
				in := r.file("a", "NEAR")
				began := time.Now()
				r.near.Fail(until(20*time.Second, c.err))
				o, err := r.Open(ctx, in)
				if took := time.Since(began); c.waits != (err == nil) || !c.waits && took > 0 || c.waits && (took < 20*time.Second || took > 25*time.Second) {
					t.Fatalf("open: %v after %v", err, took)
				}
				r.near.Fail(nil)
				if o == nil {
					if o, err = r.Open(ctx, in); err != nil {
						t.Fatal(err)
					}
				}
				defer func() { o.Close() }()
				p := make([]byte, 10)
				for range 2 { // each time anew
					r.near.Fail(nil)
					if _, err := o.ReadAt(ctx, p, 0); err != nil {
						t.Fatal(err)
					}
					began = time.Now()
					r.near.Fail(until(50*time.Second, c.err))
					if _, err = o.ReadAt(ctx, p, 0); err == nil || time.Since(began) > 0 { // a reader may hold what others want
						t.Fatalf("read: %v after %v", err, time.Since(began))
					}
					o.Close()
					if o2, again := r.Reopen(ctx, in, o); again == nil {
						o = o2
						_, err = o.ReadAt(ctx, p, 0)
					}
					if took := time.Since(began); c.waits != (err == nil) || c.waits && (took < 50*time.Second || took > 55*time.Second) {
						t.Fatalf("read: %v after %v", err, took)
					}
					if !c.waits {
						return
					}
				}
				synctest.Wait()
				if n := open.n.Load(); n != 1 {
					t.Errorf("%d replicas are open", n)
				}
			})
		})
	}
}

func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, patient)
		defer r.Close()
		in := r.file("a", "NEAR", "FAR")
		r.near.Fail(down)
		r.far.Fail(down)
		began := time.Now()
		_, err := r.Open(ctx, in)
		if took := time.Since(began); !errors.Is(err, backends.ErrUnavailable) || took < time.Minute || took > 65*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		if n := r.near.Calls("open"); n > 25 {
			t.Errorf("asked %d times", n)
		}
		// Whoever comes soon after does not wait as long again, but sees what is there now.
		began = time.Now()
		if _, err := r.Open(ctx, in); !errors.Is(err, backends.ErrUnavailable) || time.Since(began) > 5*time.Second {
			t.Errorf("the next: %v after %v", err, time.Since(began))
		}
		r.far.Fail(nil)
		r.wants(in, content("a"))
		r.far.Fail(down)
		time.Sleep(31 * time.Second)
		// The reader's own end comes first.
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		began = time.Now()
		if _, err := r.Open(short, in); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		// A replica that comes meanwhile is taken.
		r.far.Fail(until(10*time.Second, laketest.ErrDown))
		if o, err := r.Open(ctx, in); err != nil || o.RSE() != "FAR" {
			t.Errorf("%v", err)
		} else {
			o.Close()
		}
		// What is on tape is recalled, and a copy is no reader.
		in = r.file("b", "NEAR", "TAPE")
		began = time.Now()
		if _, err := r.Open(ctx, in); !errors.Is(err, backends.ErrOffline) || time.Since(began) > 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		in = r.file("c", "NEAR")
		r.far.Fail(nil)
		if _, err := r.Copy(ctx, in, r.dFar, nil); !errors.Is(err, backends.ErrUnavailable) || time.Since(began) > 0 {
			t.Errorf("copy: %v after %v", err, time.Since(began))
		}
	})
}

// A replica that is the only one is given time before it is left as too slow.
func TestSlowAndAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, patient)
		defer r.Close()
		in := r.file("a", "NEAR")
		o, err := r.Open(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		r.near.Fail(func(op, _ string) error {
			if op == "read" {
				time.Sleep(40 * time.Second)
			}
			return nil
		})
		began := time.Now()
		if _, err := o.ReadAt(ctx, make([]byte, 10), 0); err != nil || time.Since(began) != 40*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A server that says what it has, and then gives nothing or fails, uses up one patience over all openings.
func TestOnePatience(t *testing.T) {
	for name, c := range map[string]struct {
		delay time.Duration
		most  time.Duration
	}{"stalls": {time.Hour, time.Minute}, "fails late": {20 * time.Second, time.Minute}, "fails": {0, time.Minute}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRaceRig(t, patient)
				defer r.Close()
				r.cat.DropReplica(ctx, r.in.DID, "FAR", "")
				r.near.set(c.delay)
				r.rig.near.Fail(func(op, _ string) error {
					if op == "read" {
						return laketest.ErrDown
					}
					return nil
				})
				fetch := func() (took time.Duration) {
					began := time.Now()
					o, err := r.Open(ctx, r.in)
					for range 5 {
						if err != nil {
							break
						}
						if _, err = o.ReadAt(ctx, make([]byte, raceStep), 0); err == nil {
							t.Fatal("it gave bytes")
						}
						o.Close()
						o, err = r.Reopen(ctx, r.in, o)
					}
					if !errors.Is(err, backends.ErrUnavailable) {
						t.Errorf("%v", err)
					}
					return time.Since(began)
				}
				if d := fetch(); d < c.most-time.Second || d > c.most+2*time.Second {
					t.Errorf("the first took %v", d)
				}
				if d := fetch(); d > 20*time.Second {
					t.Errorf("the next took %v", d)
				}
				// A pause of the reader does not count.
				r.rig.near.Fail(nil)
				r.near.set(0)
				time.Sleep(time.Minute)
				o := r.open()
				time.Sleep(time.Hour)
				began := time.Now()
				r.rig.near.Fail(until(50*time.Second, laketest.ErrDown))
				if _, err := o.ReadAt(ctx, make([]byte, raceStep), 0); err == nil {
					t.Error("read")
				}
				o.Close()
				o, err := r.Reopen(ctx, r.in, o)
				if d := time.Since(began); err != nil || d < 50*time.Second {
					t.Fatalf("%v after %v", err, d)
				}
				r.step(o, 0)
				o.Close()
			})
		})
	}
}
