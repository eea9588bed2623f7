package lake_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
)

// inBubble runs f with a lake whose clock is synthetic.
func inBubble(t *testing.T, f func(t *testing.T, r *rig), change ...func(*lake.Options)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, change...)
		f(t, r)
		r.Close()
	})
}

func (r *rig) recall(in backends.Info) *lake.Ticket {
	r.t.Helper()
	t, err := r.Recall(ctx, in)
	if err != nil {
		r.t.Fatal(err)
	}
	return t
}

// within waits for the ticket, at most that long.
func (r *rig) within(d time.Duration, t *lake.Ticket) error {
	r.t.Helper()
	if ended(t) {
		return t.Err()
	}
	select {
	case <-t.Done():
	case <-time.After(d):
		r.t.Fatalf("not done within %s: %+v", d, t.State())
	}
	return t.Err()
}

// pass lets time go by until everything that is due has happened.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestWantsWithinTheWindowAreOneRequest(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var tickets []*lake.Ticket
		for i := range 100 {
			in := r.file(number(i), "TAPE")
			tickets = append(tickets, r.recall(in), r.recall(in))
			time.Sleep(time.Millisecond)
		}
		vault := r.recall(r.file("v", "VAULT"))
		for _, x := range append(tickets, vault) {
			if err := r.within(2*tapeDelay, x); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.tape.Asked(); len(got) != 1 || len(got[0]) != 100 || r.vault.Calls("stage") != 1 {
			t.Errorf("%d requests, %d at the vault", len(got), r.vault.Calls("stage"))
		}
		want := lake.Stats{Recalls: 101, BulkRequests: 2, FilesRecalled: 101}
		got := r.Stats()
		if got.BytesRecalled == 0 {
			t.Error("no bytes counted")
		}
		got.BytesRecalled = 0
		if got != want {
			t.Errorf("stats %+v, want %+v", got, want)
		}
		if n := r.tape.Calls("poll"); n > 20 {
			t.Errorf("%d polls within a minute", n)
		}
		// A reader is a pin, until it closes.
		in := r.file(number(0))
		r.tape.Evict()
		r.wants(in, content(number(0)))
		tickets[0].Close()
		tickets[0].Close()
		pass(time.Second)
		if r.tape.Pins("TAPE/"+number(0)) != 1 {
			t.Error("released with a reader left")
		}
		tickets[1].Close()
		pass(time.Second)
		if r.tape.Pins("TAPE/"+number(0)) != 0 {
			t.Error("not released by the last reader")
		}
		for _, x := range append(tickets, vault) {
			x.Close()
		}
		pass(time.Second)
		if n := r.tape.Calls("release"); n != 2 {
			t.Errorf("%d release calls", n)
		}
		if got := r.Recalls(); len(got) != 0 {
			t.Errorf("left over: %+v", got)
		}
	})
}

func TestRecallAllIsAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		ins := []backends.Info{r.file("a", "TAPE"), r.file("b", "TAPE"), r.file("disk", "NEAR", "TAPE"), r.empty("ctao", "/ctao/e"), r.dir("ctao", "/ctao/d"), r.file("lost")}
		tickets, err := r.RecallAll(ctx, ins)
		if err != nil || len(tickets) != len(ins) {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := r.tape.Asked(); len(got) != 1 || !slices.Equal(got[0], []string{"TAPE/a", "TAPE/b"}) {
			t.Fatalf("asked %v without any wait", got)
		}
		for i, x := range tickets {
			if ended(x) != (i >= 2) {
				t.Errorf("%d: ended too early or too late", i)
			}
		}
		for i, want := range []error{nil, nil, nil, nil, backends.ErrIsDir, backends.ErrLost} {
			if err := r.within(2*tapeDelay, tickets[i]); !errors.Is(err, want) {
				t.Errorf("%d: %v, want %v", i, err, want)
			}
			tickets[i].Close()
		}
	})
}

func TestLastCloseCancelsThatFileOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b := r.file("a", "TAPE"), r.file("b", "TAPE")
		ta, tb, tb2 := r.recall(a), r.recall(b), r.recall(b)
		pass(time.Second)
		if s := ta.State(); s.Phase != backends.RecallSubmitted || s.Path != "TAPE/a" || s.Position != 1 || s.ETA <= 0 {
			t.Errorf("state %+v", s)
		}
		list := r.Recalls()
		if len(list) != 2 || list[1].Waiters != 2 || list[1].Request == "" || list[1].RSE != "TAPE" || list[1].DID != b.DID || list[1].Bytes != b.Size {
			t.Errorf("recalls %+v", list)
		}
		ta.Close()
		tb.Close()
		pass(time.Second)
		if r.tape.Pins("TAPE/a") != 0 || r.tape.Pins("TAPE/b") != 1 || r.tape.Calls("cancel") != 1 {
			t.Error("cancelled the wrong ones")
		}
		if err := r.within(2*tapeDelay, tb2); err != nil {
			t.Error(err)
		}
		// Within the window nothing was asked yet, and nothing is.
		x := r.recall(r.file("c", "TAPE"))
		x.Close()
		pass(time.Minute)
		if n := r.tape.Calls("stage"); n != 1 {
			t.Errorf("%d stage calls", n)
		}
		if s := r.Stats(); s.Cancelled != 2 || s.Pending != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// A want that is dropped while the stage call is under way is cancelled after it.
func TestCloseDuringStage(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.tape.Fail(func(op string) error {
			if op == "stage" {
				time.Sleep(10 * time.Second)
			}
			return nil
		})
		x, y := r.recall(r.file("a", "TAPE")), r.recall(r.file("b", "TAPE"))
		pass(time.Second)
		x.Close()
		pass(20 * time.Second)
		if r.tape.Pins("TAPE/a") != 0 || r.tape.Pins("TAPE/b") != 1 {
			t.Error("not cancelled after the call")
		}
		if err := r.within(2*tapeDelay, y); err != nil {
			t.Error(err)
		}
	})
}

func TestDiskCopyWins(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		// One that is there from the start needs no tape.
		x := r.recall(r.file("disk", "FAR", "TAPE"))
		if err := r.within(time.Second, x); err != nil || r.tape.Calls("stage") != 0 {
			t.Errorf("%v, %d stage calls", err, r.tape.Calls("stage"))
		}
		// One on record whose storage is down does.
		r.near.Fail(down)
		in := r.file("a", "NEAR", "TAPE")
		x = r.recall(in)
		pass(20 * time.Second)
		if ended(x) || r.tape.Calls("stage") != 1 {
			t.Fatal("done with a disk that is down")
		}
		// One that appears meanwhile ends the recall.
		r.far.Put("FAR/a", content("a"))
		r.cat.PutReplica(ctx, in.DID, "", backends.Replica{RSE: "FAR", PFN: "FAR/a", State: backends.Available})
		if err := r.within(6*time.Second, x); err != nil {
			t.Error(err)
		}
		r.wants(in, content("a"))
		pass(time.Second)
		if r.tape.Pins("TAPE/a") != 0 || r.tape.Calls("cancel") != 1 {
			t.Error("the recall from tape goes on")
		}
		x.Close()
	})
}

func TestForgottenRequestIsStagedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		x, y := r.recall(r.file("a", "TAPE")), r.recall(r.file("b", "TAPE"))
		for range 5 { // more often than a failure would be forgiven
			pass(40 * time.Second)
			if ended(x) {
				t.Fatal("too early")
			}
			r.tape.Forget()
		}
		if err := errors.Join(r.within(3*tapeDelay, x), r.within(time.Second, y)); err != nil {
			t.Error(err)
		}
		if got := r.tape.Asked(); len(got) != 6 || len(got[5]) != 2 {
			t.Errorf("asked %v", got)
		}
		if r.tape.Pins("TAPE/a") != 1 {
			t.Error("not pinned")
		}
		// A pin that is forgotten as well is given back without noise.
		r.tape.Forget()
		x.Close()
		y.Close()
		pass(time.Minute)
	})
}

func TestCancelByTheUser(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		in := r.file("a", "TAPE")
		x, y := r.recall(in), r.recall(in)
		pass(time.Second)
		id := r.Recalls()[0].ID
		if err := r.CancelRecall(id); err != nil {
			t.Fatal(err)
		}
		for _, z := range []*lake.Ticket{x, y} {
			if err := r.within(0, z); !errors.Is(err, backends.ErrCancelled) {
				t.Error(err)
			}
			if s := z.State(); s.Phase != backends.RecallCancelled {
				t.Errorf("state %+v", s)
			}
			z.Close()
		}
		if err := r.CancelRecall(id); !errors.Is(err, backends.ErrNotExist) {
			t.Error(err)
		}
		pass(time.Second)
		if r.tape.Pins("TAPE/a") != 0 {
			t.Error("not cancelled at the tape")
		}
		x = r.recall(in) // and is wanted again
		if err := r.within(2*tapeDelay, x); err != nil {
			t.Error(err)
		}
		if err := r.CancelRecall(r.Recalls()[0].ID); !errors.Is(err, backends.ErrBusy) {
			t.Error(err)
		}
		x.Close()
	})
}

// What is ready since long is asked for again, since it may have been evicted by hand.
func TestReadyRecallIsNotTrustedForEver(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		in := r.file("a", "TAPE")
		x := r.recall(in)
		if err := r.within(2*tapeDelay, x); err != nil {
			t.Fatal(err)
		}
		y := r.recall(in)
		if !ended(y) {
			t.Error("just arrived, and not shared")
		}
		pass(10 * time.Second)
		r.tape.Set("TAPE/a", backends.Nearline)
		z := r.recall(in)
		if ended(z) {
			t.Error("an old one is trusted")
		}
		if err := r.within(2*tapeDelay, z); err != nil || r.tape.Calls("stage") != 2 {
			t.Error(err)
		}
		x.Close()
		y.Close()
		pass(time.Second)
		if r.tape.Pins("TAPE/a") != 1 {
			t.Error("the new reader's pin is gone")
		}
		z.Close()
	})
}

func TestCloseOfTheLakeEndsRecalls(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.tape.Set("TAPE/b", backends.OnlineAndNearline)
		x, y, z := r.recall(r.file("a", "TAPE")), r.recall(r.file("b", "TAPE")), r.recall(r.file("c", "VAULT"))
		pass(tapeDelay / 2)
		r.tape.Fail(nil)
		pass(tapeDelay)
		w := r.recall(r.file("d", "TAPE"))
		pass(time.Second)
		r.Close()
		if x.Err() != nil || y.Err() != nil || z.Err() != nil || !errors.Is(r.within(0, w), backends.ErrClosed) {
			t.Error(x.Err(), y.Err(), z.Err(), w.Err())
		}
		for _, p := range []string{"TAPE/a", "TAPE/b", "TAPE/d"} {
			if r.tape.Pins(p) != 0 {
				t.Errorf("%s is still kept", p)
			}
		}
		if r.vault.Pins("VAULT/c") != 0 {
			t.Error("vault is still kept")
		}
		if _, err := r.Recall(ctx, r.file("e", "TAPE")); !errors.Is(err, backends.ErrClosed) {
			t.Error(err)
		}
		x.Close()
	})
}

func TestFailedListAndBulkAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var ins []backends.Info
		for i := range 25 {
			in := r.file(number(i), "TAPE")
			r.tape.Break("TAPE/"+number(i), "broken")
			ins = append(ins, in)
		}
		tickets, _ := r.RecallAll(ctx, ins)
		for i, x := range tickets {
			if i == 20 {
				if !errors.Is(x.Err(), backends.ErrBusy) {
					t.Errorf("the 21st: %v", x.Err())
				}
				break
			}
			if r.within(time.Minute*10, x) == nil {
				t.Error("no error")
			}
		}
		if n := len(r.Recalls()); n != 7 {
			t.Errorf("%d kept", n)
		}
		for _, a := range r.tape.Asked() {
			if len(a) > 8 {
				t.Errorf("%d files in a request", len(a))
			}
		}
	}, func(o *lake.Options) { o.Recall = lake.RecallOptions{MaxFailed: 7, MaxBulk: 8, MaxPending: 20} })
}

func TestPlan(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		staged := r.file("staged", "TAPE")
		r.tape.Set("TAPE/staged", backends.OnlineAndNearline)
		a := r.file("a", "TAPE")
		v := r.file("v", "VAULT")
		p, err := r.Plan(ctx, []backends.Info{a, a, v, staged, r.file("disk", "NEAR", "TAPE"), r.file("lost"), r.empty("ctao", "/ctao/e"), r.dir("ctao", "/ctao/d")})
		want := backends.RecallPlan{Files: 6, Bytes: a.Size + v.Size, Online: 3, Tapes: 2, Mounts: 2, Time: tapeDelay}
		if err != nil || p != want {
			t.Errorf("%+v, %v; want %+v", p, err, want)
		}
		r.tape.Fail(func(string) error { return backends.ErrNotSupported })
		if p, err = r.Plan(ctx, []backends.Info{a}); err != nil || p.Bytes != a.Size || p.Files != 1 {
			t.Errorf("not supported: %+v, %v", p, err)
		}
		if r.tape.Calls("stage") != 0 {
			t.Error("something was staged")
		}
	})
}

func TestRecallOfACancelledContext(t *testing.T) {
	r := newRig(t)
	dead, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := r.Recall(dead, r.file("a", "TAPE")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := r.RecallAll(dead, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func BenchmarkRecall100k(b *testing.B) {
	for b.Loop() {
		cat, tape := laketest.NewCatalogue(), laketest.NewTape(0)
		l, err := lake.New(lake.Options{Catalogue: cat, Namespace: cat, HoldWindow: time.Millisecond,
			Recall: lake.RecallOptions{PollMin: time.Millisecond, MaxBulk: 1 << 20},
			RSEs:   []*lake.RSE{{RSE: backends.RSE{Name: "T", Kind: backends.TapeKind}, Storage: tape.Storage, Tape: tape}}})
		if err != nil {
			b.Fatal(err)
		}
		cat.AddScope(ctx, backends.Info{DID: did("s", "")})
		ins := make([]backends.Info, 100000)
		for i := range ins {
			pfn := fmt.Sprintf("f%d", i)
			tape.Put(pfn, []byte("x"))
			ins[i] = backends.Info{DID: did("s", "/s/"+pfn), Type: backends.File, Size: 1, Generation: backends.Generation(pfn)}
			cat.Add(ctx, ins[i], nil, backends.Replica{RSE: "T", PFN: pfn, State: backends.Available})
		}
		begun := time.Now()
		tickets, err := l.RecallAll(ctx, ins)
		if err != nil {
			b.Fatal(err)
		}
		for _, t := range tickets {
			<-t.Done()
			if err := t.Err(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(ins))/time.Since(begun).Seconds(), "recalls/s")
		for _, t := range tickets {
			t.Close()
		}
		l.Close()
	}
}
