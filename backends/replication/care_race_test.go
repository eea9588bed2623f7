package replication_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
	"tarn/backends/replication"
)

// once lets f be called the first time only, from any goroutine of a bubble.
func once(f func()) func() {
	done := make(chan struct{}, 1)
	done <- struct{}{}
	return func() {
		select {
		case <-done:
			f()
		default:
		}
	}
}

// another puts another file at the name of in, whose copy is at one path of an RSE.
func (r *rig) another(in backends.Info, rse, pfn string) {
	if err := r.cat.Remove(ctx, in.DID); err != nil {
		r.t.Error(err)
	}
	data := content("another")
	r.disks[rse].Put(pfn, data)
	in.Inode, in.Generation, in.Size, in.Checksums = 0, "", int64(len(data)), backends.Checksums{}
	if err := r.cat.Add(ctx, in, nil, backends.Replica{RSE: rse, PFN: pfn, State: backends.Available, Verified: time.Now()}); err != nil {
		r.t.Error(err)
	}
}

// TestDeletionForgetsNoCopyOfAnotherFile: while the storage deletes the copy of a file, another file comes to its name,
// which has its only copy at that RSE.
func TestDeletionForgetsNoCopyOfAnotherFile(t *testing.T) {
	for _, c := range []struct {
		name string
		care lake.Care
		bad  bool
	}{
		{"drain", lake.Care{Drain: true}, false},
		{"watermark", lake.Care{High: lake.Mark{Bytes: 2}, Low: lake.Mark{Bytes: 1}}, false},
		{"bad copy", lake.Care{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				in := r.file("a", "A", "B")
				if c.bad {
					r.l.DeclareBad(ctx, in, "A", errors.New("rotten"))
					r.rule(in.DID, 1, "B")
				}
				replace := once(func() { r.another(in, "A", "A/new") })
				r.disks["A"].Fail(func(op, path string) error {
					if op == "remove" && path == "A/a" {
						replace()
					}
					return nil
				})
				r.care("A", c.care)
				r.start()
				pass(time.Second)
				reps, err := r.cat.Replicas(ctx, in.DID)
				if err != nil || r.disks["A"].Get("A/a") != nil || !slices.ContainsFunc(reps, func(x backends.Replica) bool { return x.PFN == "A/new" }) {
					t.Errorf("the other file's copies: %+v, %v; at A %v", reps, err, r.disks["A"].Paths())
				}
			})
		})
	}
}

// TestScratchLeavesLastCopyOfWhatWasMoved: between the two looks at a file whose last copy may go, it gets another name, where
// there may be rules, and another file its name.
func TestScratchLeavesLastCopyOfWhatWasMoved(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		in := r.file("a", "A")
		move := once(func() { r.another(in, "B", "B/new") })
		r.cat.Fail(func(op string, d backends.DID) error {
			reps, _ := func() ([]backends.Replica, error) {
				if op != "stat" || d != in.DID {
					return nil, nil
				}
				return r.cat.Replicas(ctx, d)
			}()
			if slices.ContainsFunc(reps, func(x backends.Replica) bool { return x.State == backends.BeingDeleted }) {
				move()
			}
			return nil
		})
		r.care("A", lake.Care{High: lake.Mark{Bytes: 2}, Low: lake.Mark{Bytes: 1}, Scratch: true})
		r.start()
		pass(time.Hour)
		if got := r.disks["A"].Paths(); !slices.Equal(got, []string{"A/a"}) {
			t.Errorf("left at A: %v", got)
		}
		if m, err := r.cat.Meta(ctx, in.DID); err != nil || len(m) > 0 {
			t.Errorf("the other file has %v, %v", m, err)
		}
	})
}

// TestCareStopsAtOnce: nothing goes any more when a drain is stopped, a mark taken back, or the RSE made read-only, while
// it is being looked after.
func TestCareStopsAtOnce(t *testing.T) {
	marks := lake.Care{High: lake.Mark{Bytes: 2}, Low: lake.Mark{Bytes: 1}}
	for _, c := range []struct {
		name     string
		was, now lake.Care
		readOnly bool
	}{
		{"drain stopped", lake.Care{Drain: true}, lake.Care{}, false},
		{"read-only", lake.Care{Drain: true}, lake.Care{Drain: true}, true},
		{"mark taken back", marks, lake.Care{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				for i := range 20 {
					r.file(fmt.Sprintf("f%02d", i), "A", "B")
				}
				stop := once(func() {
					x, _ := r.l.RSE("A")
					rse := x.RSE
					rse.ReadOnly = c.readOnly
					if err := r.l.SetRSE(rse, c.now); err != nil {
						t.Error(err)
					}
					r.Cared()
				})
				r.disks["A"].Fail(func(op, _ string) error {
					if op == "remove" {
						stop()
					}
					time.Sleep(time.Second)
					return nil
				})
				r.care("A", c.was)
				r.start()
				pass(time.Hour)
				if n := len(r.disks["A"].Paths()); n < 16 || n == 20 { // those that were being deleted
					t.Errorf("%d of 20 files are left", n)
				}
			})
		})
	}
}

// TestExpireIsNotHeldUp by files of which no copy can go: others go instead.
func TestExpireIsNotHeldUp(t *testing.T) {
	care := lake.Care{High: lake.Mark{Bytes: 3000}, Low: lake.Mark{Bytes: 1900}}
	fill := func(r *rig, others func(i int) string) {
		for i := range 10 { // the older ones are those of which no copy can go
			r.file(fmt.Sprintf("f%d", i), "A", others(i))
			pass(time.Minute)
		}
		r.file("last", "A", "C")
	}
	want := func(t *testing.T, r *rig) {
		t.Helper()
		got := strings.Join(r.disks["A"].Paths(), " ")
		if s := r.caredFor("A"); got != "A/f0 A/f1 A/f2 A/f3 A/f4" || s.Used > 1900 {
			t.Errorf("left at A: %s; %+v", got, s)
		}
	}
	t.Run("the storage of the other copies is down", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			fill(r, func(i int) string { return map[bool]string{true: "B", false: "C"}[i < 5] })
			r.disks["B"].Fail(func(string, string) error { return laketest.ErrDown })
			r.care("A", care)
			r.start()
			pass(time.Hour)
			want(t, r)
		})
	})
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("they cannot be deleted, %v", before), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				fill(r, func(int) string { return "C" })
				for i := range 5 {
					d := backends.DID{Scope: "s", Name: fmt.Sprintf("/s/f%d", i)}
					if before {
						r.cat.PutReplica(ctx, d, "", backends.Replica{RSE: "A", PFN: fmt.Sprintf("A/f%d", i), State: backends.BeingDeleted})
					}
				}
				r.disks["A"].Fail(func(op, path string) error {
					if op == "remove" && path < "A/f5" {
						return backends.ErrPermission
					}
					return nil
				})
				r.care("A", care)
				r.start()
				pass(time.Hour)
				want(t, r)
			})
		})
	}
}

// TestLooksDoNotWaitForCopies: a file has a BAD copy that one rule has no need of, and another rule replaces it, which takes
// long. The engine goes on with other files.
func TestLooksDoNotWaitForCopies(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		in := r.file("a", "A", "B")
		r.l.DeclareBad(ctx, in, "B", errors.New("rotten"))
		r.disks["B"].Fail(func(op, _ string) error {
			if op == "create" {
				time.Sleep(time.Hour)
			}
			return nil
		})
		r.rule(in.DID, 1, "B")
		r.start()
		pass(time.Minute)
		r.rule(in.DID, 1, "A")
		r.Kick(in.DID)
		pass(time.Second)
		b := r.file("b", "A")
		r.rule(b.DID, 2, "A|C")
		r.Kick(b.DID)
		pass(time.Second) // and not with the next sweep
		if got := r.at(b); got != "A C" {
			t.Errorf("b is at %s", got)
		}
		pass(2 * time.Hour)
		if got := r.at(in); got != "A B" {
			t.Errorf("a is at %s", got)
		}
	})
}

// TestDrainDoesNotWaitForCopies: what is being copied to a drained RSE by somebody else keeps neither the drain nor the rules waiting.
func TestDrainDoesNotWaitForCopies(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		in := r.file("a", "B")
		r.cat.PutReplica(ctx, in.DID, "", backends.Replica{RSE: "A", PFN: "A/a", State: backends.Copying})
		release, err := r.l.Claim(ctx, in, "A")
		if err != nil {
			t.Fatal(err)
		}
		r.care("A", lake.Care{Drain: true})
		r.start()
		pass(time.Minute)
		r.rule(in.DID, 2, "B|C")
		r.Kick(in.DID)
		pass(time.Minute)
		if got := r.at(in); got != "A:COPYING B C" {
			t.Errorf("it is at %s", got)
		}
		release()
		pass(time.Hour)
		if got := r.at(in); got != "B C" {
			t.Errorf("it is at %s", got)
		}
	})
}

// TestRuleThatIsProlongedStays: while an expired rule waits to be deleted, it is added again.
func TestRuleThatIsProlongedStays(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		in := r.file("a", "A")
		rule := backends.Rule{DID: in.DID, Copies: 1, Expression: "A", Expires: time.Now().Add(time.Minute)}
		r.cat.AddRule(ctx, rule)
		rule.Expires = time.Now().Add(24 * time.Hour)
		r.file("z", "A")
		r.rule(backends.DID{Scope: "s", Name: "/s/z"}, 1, "A")
		prolong := once(func() { r.cat.AddRule(ctx, rule) })
		pass(2 * time.Minute)
		r.cat.Fail(func(op string, d backends.DID) error { // all rules have been read by then
			if op == "rulesof" || op == "stat" {
				prolong()
			}
			return nil
		})
		r.start()
		pass(time.Hour)
		n := 0
		for s := range r.cat.RulesOf(ctx, in.DID) {
			if n++; !s.Expires.Equal(rule.Expires) {
				t.Errorf("it expires at %v", s.Expires)
			}
		}
		if n != 1 {
			t.Errorf("%d rules", n)
		}
	})
}

// TestBadCopyGoesOnlyForOneThatIsThere: what is on record as verified may be lost, and what is BAD may be all there is.
func TestBadCopyGoesOnlyForOneThatIsThere(t *testing.T) {
	for _, drain := range []bool{false, true} {
		t.Run(fmt.Sprint(drain), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				in := r.file("a", "A", "B")
				r.l.DeclareBad(ctx, in, "A", errors.New("it looked so"))
				r.disks["B"].Remove(ctx, "B/a")
				if drain {
					r.care("A", lake.Care{Drain: true})
				} else {
					r.rule(in.DID, 1, "B")
				}
				r.start()
				pass(time.Hour)
				if r.disks["A"].Get("A/a") == nil {
					t.Error("the last bytes are gone")
				}
				if got := r.at(in); got != "A:BAD B:BAD" {
					t.Errorf("it is at %s", got)
				}
			})
		})
	}
}

// TestDrainVerifiesOtherCopies: those that were registered as they lay were never verified.
func TestDrainVerifiesOtherCopies(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b := r.file("a", "A", "B"), r.file("b", "A", "B")
		for _, in := range []backends.Info{a, b} {
			r.cat.PutReplica(ctx, in.DID, "", backends.Replica{RSE: "B", PFN: "B/" + in.DID.Name[3:], State: backends.Available})
		}
		r.disks["B"].Put("B/b", make([]byte, b.Size)) // and that one is rotten
		r.care("A", lake.Care{Drain: true})
		r.start()
		pass(time.Hour)
		for _, in := range []backends.Info{a, b} {
			reps, err := r.cat.Replicas(ctx, in.DID)
			if err != nil || len(reps) != 1 || reps[0].RSE == "A" || string(r.disks[reps[0].RSE].Get(reps[0].PFN)) != string(content(in.DID.Name[3:])) {
				t.Errorf("%s: %+v, %v; %+v", in.DID, reps, err, r.caredFor("A"))
			}
		}
	})
}

// TestRetryIsAtOnce, also where copies to the RSE failed so often that nobody tries for minutes.
func TestRetryIsAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var all []backends.Info
		for i := range 14 {
			in := r.file(fmt.Sprintf("f%d", i), "A")
			r.rule(in.DID, 1, "B")
			all = append(all, in)
		}
		var down atomic.Bool
		begin := once(func() { down.Store(true) })
		r.disks["B"].Fail(func(op, _ string) error {
			if op == "create" {
				begin()
			}
			if down.Load() {
				return laketest.ErrDown
			}
			return nil
		})
		r.start()
		pass(15 * time.Minute)
		if s := r.Status(); s.Queued == 0 {
			t.Fatalf("nobody waits: %+v", s)
		}
		down.Store(false)
		if _, err := r.Retry(ctx); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		for _, in := range all {
			if got := r.at(in); got != "A B" {
				t.Fatalf("%s is at %s: %+v", in.DID, got, r.Transfers())
			}
		}
	}, func(o *replication.Options) { o.Workers = 1 })
}

// TestDeletionThatGoesOnAsksAgain: what a crash left half-way is gone on with only if other copies are there now.
func TestDeletionThatGoesOnAsksAgain(t *testing.T) {
	for _, care := range []lake.Care{{}, {Drain: true}, {High: lake.Mark{Bytes: 1 << 30}, Low: lake.Mark{Bytes: 1}}} {
		inBubble(t, func(t *testing.T, r *rig) {
			in := r.file("a", "A", "B")
			r.cat.PutReplica(ctx, in.DID, "", backends.Replica{RSE: "A", PFN: "A/a", State: backends.BeingDeleted})
			r.disks["B"].Remove(ctx, "B/a")
			r.rule(in.DID, 1, "B|C")
			r.care("A", care)
			r.start()
			pass(time.Second)
			lost := true
			for range 100 {
				reps, _ := r.cat.Replicas(ctx, in.DID)
				lost = !slices.ContainsFunc(reps, func(x backends.Replica) bool {
					return x.State == backends.Available && r.disks[x.RSE].Get(x.PFN) != nil
				})
				pass(time.Minute)
			}
			if lost {
				t.Errorf("%+v: the last copy is gone: %s", care, r.at(in))
			}
		})
	}
}

// TestDiskCopyStaysUntilTheOtherIsOnTape, and not only in the buffer before it.
func TestDiskCopyStaysUntilTheOtherIsOnTape(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		in := r.file("a", "A")
		r.rule(in.DID, 1, "T")
		r.care("A", lake.Care{High: lake.Mark{Bytes: 2}, Low: lake.Mark{Bytes: 1}})
		r.disks["A"].Fail(func(op, path string) error {
			if op == "remove" {
				if reps, _ := r.cat.Replicas(ctx, in.DID); !slices.ContainsFunc(reps, func(x backends.Replica) bool {
					rse, _ := r.l.RSE(x.RSE)
					ok, err := r.l.StoredOnTape(ctx, rse, x.PFN)
					return x.RSE == "T" && ok && err == nil
				}) {
					t.Error("it goes, and the other is in the buffer only")
				}
			}
			return nil
		})
		r.start()
		pass(10 * time.Second)
		if got := r.at(in); got != "A T" {
			t.Errorf("it is at %s", got)
		}
		reps, _ := r.cat.Replicas(ctx, in.DID)
		for _, x := range reps {
			if x.RSE == "T" {
				r.tape.Set(x.PFN, backends.OnlineAndNearline)
			}
		}
		pass(time.Hour)
		if got := r.at(in); got != "T" {
			t.Errorf("it is at %s", got)
		}
	})
}
