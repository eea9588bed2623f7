package lake_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
)

func hedging(o *lake.Options) { o.Hedge = 4 }

// paced is a storage whose reads take their time, and end when their context does.
type paced struct {
	*laketest.Storage
	delay atomic.Int64 // of each read
	opens atomic.Int64
}

type pacedObject struct {
	backends.Object
	p *paced
}

func (p *paced) Open(ctx context.Context, path string) (backends.Object, error) {
	o, err := p.Storage.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	p.opens.Add(1)
	return pacedObject{o, p}, nil
}

func (o pacedObject) ReadAt(ctx context.Context, b []byte, off int64) (int, error) {
	t := time.NewTimer(time.Duration(o.p.delay.Load()))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return o.Object.ReadAt(ctx, b, off)
}

func (p *paced) set(d time.Duration) { p.delay.Store(int64(d)) }

// raceRig has a file of 8 MiB at NEAR and FAR, which take their time.
type raceRig struct {
	*rig
	near, far *paced
	in        backends.Info
	data      []byte
}

const raceStep = 1 << 20

func newRaceRig(t *testing.T, change ...func(*lake.Options)) *raceRig {
	t.Helper()
	r := &raceRig{rig: newRig(t, append([]func(*lake.Options){hedging}, change...)...)}
	r.near, r.far = &paced{Storage: r.rig.near}, &paced{Storage: r.rig.far}
	r.dNear.Storage, r.dFar.Storage = r.near, r.far
	r.data = bytes.Repeat([]byte("0123456789abcdef"), 8*raceStep/16)
	for i := range 8 {
		r.data[i*raceStep] = byte(i)
	}
	r.near.Put("NEAR/big", r.data)
	r.far.Put("FAR/big", r.data)
	r.in = r.add(backends.Info{DID: did("ctao", "/ctao/big"), Type: backends.File, Size: int64(len(r.data)), Checksums: sums(r.data)},
		backends.Replica{RSE: "NEAR", PFN: "NEAR/big", State: backends.Available}, backends.Replica{RSE: "FAR", PFN: "FAR/big", State: backends.Available})
	return r
}

// step reads the ith MiB and gives how long that took.
func (r *raceRig) step(o *lake.Object, i int) time.Duration {
	r.t.Helper()
	began := time.Now()
	p := make([]byte, raceStep)
	if n, err := o.ReadAt(ctx, p, int64(i)*raceStep); err != nil || n != len(p) || !bytes.Equal(p, r.data[i*raceStep:(i+1)*raceStep]) {
		r.t.Errorf("step %d: %d bytes, %v", i, n, err)
	}
	return time.Since(began)
}

func (r *raceRig) open() *lake.Object {
	r.t.Helper()
	o, err := r.Open(ctx, r.in)
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

// first gives the replica that would be read.
func (r *raceRig) first() string {
	r.t.Helper()
	c, err := r.Explain(ctx, r.in)
	if err != nil {
		r.t.Fatal(err)
	}
	return c[0].RSE
}

// A replica that stalls in mid file is left for another one, by all who read it, after a second.
func TestSlowReplicaIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaceRig(t)
		defer r.Close()
		o := r.open()
		defer o.Close()
		r.near.set(10 * time.Millisecond)
		r.far.set(20 * time.Millisecond)
		for i := range 3 {
			r.step(o, i)
		}
		r.near.set(time.Hour)
		var wg sync.WaitGroup
		for i := 3; i < 7; i++ {
			wg.Go(func() {
				if d := r.step(o, i); d < time.Second || d > 1100*time.Millisecond {
					t.Errorf("step %d took %v", i, d)
				}
			})
		}
		wg.Wait()
		if o.RSE() != "FAR" || !slices.Equal(o.Served(), []string{"NEAR", "FAR"}) {
			t.Errorf("read from %s, served %v", o.RSE(), o.Served())
		}
		if d := r.step(o, 7); d != 20*time.Millisecond || r.far.opens.Load() != 1 {
			t.Errorf("the next took %v, %d opens", d, r.far.opens.Load())
		}
		// That it was slow is known from then on.
		if got := r.first(); got != "FAR" {
			t.Errorf("%s is the first choice", got)
		}
		if st := r.replica(r.in, "NEAR").State; st != backends.Available {
			t.Errorf("the slow copy is %s", st)
		}
		// The slow one is still there when the other fails.
		r.near.set(0)
		r.rig.far.Fail(func(string, string) error { return laketest.ErrDown })
		r.step(o, 0)
		if o.RSE() != "NEAR" {
			t.Errorf("read from %s", o.RSE())
		}
	})
}

// What is not known yet is raced after a third of the time that fail-over takes.
func TestRaceWithoutMeasurement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaceRig(t)
		defer r.Close()
		o := r.open()
		defer o.Close()
		r.near.set(time.Hour)
		if d := r.step(o, 0); d != 5*time.Second || o.RSE() != "FAR" {
			t.Errorf("%v, from %s", d, o.RSE())
		}
	})
}

// When the other is slower still, the first one's bytes are taken, and races become rare.
func TestRaceInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaceRig(t)
		defer r.Close()
		o := r.open()
		defer o.Close()
		r.near.set(10 * time.Millisecond)
		r.step(o, 0)
		r.near.set(3 * time.Second)
		r.far.set(time.Hour)
		for i := range 8 {
			if d := r.step(o, i); d != 3*time.Second {
				t.Errorf("step %d took %v", i, d)
			}
		}
		for range 6 { // now and then, so that it stays unusual
			r.near.set(10 * time.Millisecond)
			for range 40 {
				r.step(o, 0)
			}
			r.near.set(3 * time.Second)
			r.step(o, 0)
		}
		if n := r.far.opens.Load(); o.RSE() != "NEAR" || n < 1 || n > 3 {
			t.Errorf("read from %s, %d races", o.RSE(), n)
		}
		// The reader's end ends both.
		o2 := r.open()
		defer o2.Close()
		r.near.set(time.Hour)
		short, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if _, err := o2.ReadAt(short, make([]byte, raceStep), 0); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		if n := r.rig.near.Calls("open") + r.rig.far.Calls("open") - r.rig.near.Calls("close") - r.rig.far.Calls("close"); n > 3 {
			t.Errorf("%d objects are open", n)
		}
	})
}

// folder is on this machine.
type folder struct{ *paced }

func (folder) Traits() backends.StorageTraits { return backends.StorageTraits{Local: true} }

func TestNoRace(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*lake.Options)
		rse    string // of the only other copy
	}{"when it is off": {func(o *lake.Options) { o.Hedge = 0 }, "FAR"}, "by tape": {func(*lake.Options) {}, "TAPE"},
		"by a folder": {func(*lake.Options) {}, "FOLDER"}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRaceRig(t, c.change)
			defer r.Close()
			if c.rse == "TAPE" {
				r.tape.Put("TAPE/big", r.data)
				r.tape.Set("TAPE/big", backends.OnlineAndNearline)
				if err := r.cat.DropReplica(ctx, r.in.DID, "FAR", ""); err != nil {
					t.Fatal(err)
				}
				r.cat.PutReplica(ctx, r.in.DID, "", backends.Replica{RSE: "TAPE", PFN: "TAPE/big", State: backends.Available})
			}
			if c.rse == "FOLDER" {
				r.dFar.Storage = folder{r.far}
			}
			o := r.open()
			defer o.Close()
			r.near.set(14 * time.Second)
			if d := r.step(o, 0); d != 14*time.Second || o.RSE() != "NEAR" {
				t.Errorf("%s: %v, from %s", name, d, o.RSE())
			}
		})
	}
}

// The choice is by domain, then by what was measured, then by distance.
func TestChoiceBySpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaceRig(t, func(o *lake.Options) { o.Hedge = 0 })
		defer r.Close()
		measure := func(rse string, d time.Duration) {
			t.Helper()
			in := r.in
			only := &raceRig{rig: r.rig, data: r.data}
			r.near.set(d)
			r.far.set(d)
			other := map[string]string{"NEAR": "FAR", "FAR": "NEAR"}[rse]
			s := r.replica(in, other)
			if err := r.cat.DropReplica(ctx, in.DID, other, ""); err != nil {
				t.Fatal(err)
			}
			o := r.open()
			for range 30 {
				only.step(o, 0)
			}
			o.Close()
			r.cat.PutReplica(ctx, in.DID, "", s)
		}
		want := func(what, rse string) {
			t.Helper()
			if got := r.first(); got != rse {
				c, _ := r.Explain(ctx, r.in)
				t.Errorf("%s: %s is the first choice: %+v", what, got, c)
			}
		}
		want("nothing is known", "NEAR")
		r.dFar.LAN = true
		want("the far one is at this site", "FAR")
		r.dFar.LAN = false
		measure("NEAR", 100*time.Millisecond)
		want("one is known", "NEAR")
		measure("FAR", 80*time.Millisecond)
		want("much the same", "NEAR")
		measure("NEAR", 500*time.Millisecond)
		want("the near one is slow", "FAR")
		r.dNear.LAN = true
		want("but at this site", "NEAR")
		r.dNear.LAN = false
		c, err := r.Explain(ctx, r.in)
		if err != nil || !strings.Contains(c[0].Reason, "MB/s a read lately") {
			t.Errorf("%+v, %v", c, err)
		}
		if v := r.Speed("NEAR"); v.Rate < 1.9e6 || v.Rate > 2.6e6 || v.Active != 0 {
			t.Errorf("%+v", v)
		}
		time.Sleep(11 * time.Minute)
		want("that is long ago", "NEAR")
	})
}

// stuck is a storage whose opens take their time, and hear of no context unless they listen.
type stuck struct {
	*paced
	delay   time.Duration
	listens bool
}

func (s *stuck) Open(ctx context.Context, path string) (backends.Object, error) {
	if !s.listens {
		time.Sleep(s.delay)
		return s.paced.Open(context.Background(), path)
	}
	select {
	case <-time.After(s.delay):
		return s.paced.Open(ctx, path)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Who has its bytes does not wait for a rival that hangs, which ends by itself; Close waits for it, but not for ever.
func TestRivalThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaceRig(t)
		r.dFar.Storage = &stuck{paced: r.far, delay: time.Hour}
		o := r.open()
		r.near.set(10 * time.Millisecond)
		r.step(o, 0)
		r.near.set(1500 * time.Millisecond)
		for i := range 3 {
			if d := r.step(o, i); d != 1500*time.Millisecond {
				t.Errorf("step %d took %v", i, d)
			}
		}
		o.Close()
		began := time.Now()
		r.Close()
		if d := time.Since(began); d != 5*time.Second {
			t.Errorf("close took %v", d)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if opens, closes := r.rig.far.Calls("open"), r.rig.far.Calls("close"); opens != 1 || closes != 1 {
			t.Errorf("%d opens, %d closes", opens, closes)
		}
	})
}

// Races with a rival that cannot be opened become rare too.
func TestRivalThatCannotBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaceRig(t)
		defer r.Close()
		o := r.open()
		defer o.Close()
		r.rig.far.Fail(down)
		for range 5 {
			r.near.set(10 * time.Millisecond)
			for range 40 {
				r.step(o, 0)
			}
			r.near.set(3 * time.Second)
			r.step(o, 0)
		}
		if n := r.rig.far.Calls("open"); n < 1 || n > 2 {
			t.Errorf("%d races", n)
		}
	})
}

// A failure does not wait for a rival that hangs, or that fails; the next replica is another one.
func TestFailOverPastRival(t *testing.T) {
	for name, rival := range map[string]*stuck{
		"hangs":          {delay: time.Hour},
		"hangs, listens": {delay: time.Hour, listens: true},
		"fails":          {},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRaceRig(t)
			defer r.Close()
			r.rig.tape.Put("TAPE/big", r.data)
			r.tape.Set("TAPE/big", backends.OnlineAndNearline)
			r.cat.PutReplica(ctx, r.in.DID, "", backends.Replica{RSE: "TAPE", PFN: "TAPE/big", State: backends.Available})
			r.tTape.Distance = 5
			o := r.open()
			defer o.Close()
			r.near.set(10 * time.Millisecond)
			r.step(o, 0)
			rival.paced = r.far
			r.dFar.Storage = rival
			r.near.set(1500 * time.Millisecond)
			reads := func(op, _ string) error {
				if op == "read" {
					return backends.ErrTemporary
				}
				return nil
			}
			r.rig.near.Fail(reads)
			if name == "fails" {
				r.rig.far.Fail(reads)
			}
			if d := r.step(o, 1); d > 2500*time.Millisecond || o.RSE() != "TAPE" {
				t.Errorf("%s: %v, from %s", name, d, o.RSE())
			}
			time.Sleep(rival.delay) // it ends
		})
	}
}

// The load that races add has a bound over all files, and copies add none.
func TestRacesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaceRig(t)
		defer r.Close()
		var open []*lake.Object
		for range 12 {
			o := r.open()
			defer o.Close()
			open = append(open, o)
		}
		r.near.set(10 * time.Millisecond)
		r.step(open[0], 0)
		r.near.set(3 * time.Second)
		r.far.set(time.Hour)
		for range 2 { // the next find room again
			before := r.far.opens.Load()
			var wg sync.WaitGroup
			for _, o := range open {
				wg.Go(func() { r.step(o, 0) })
			}
			wg.Wait()
			if n := r.far.opens.Load() - before; n != 8 {
				t.Errorf("%d races at a time", n)
			}
			r.near.set(10 * time.Millisecond)
			for range 80 { // it is unusual again
				r.step(open[0], 0)
			}
			r.near.set(6 * time.Second)
			synctest.Wait()
		}
		races := r.far.opens.Load()
		if _, err := r.Copy(ctx, r.in, r.tTape, nil); err != nil {
			t.Fatal(err)
		}
		if n := r.far.opens.Load() - races; n != 0 {
			t.Errorf("%d races by a copy", n)
		}
	})
}
