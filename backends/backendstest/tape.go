package backendstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"tarn/backends"
)

// TapeUnderTest is an empty tape RSE.
type TapeUnderTest struct {
	Storage backends.Storage
	Tape    backends.Tape
	// MakeNearline brings files that were just stored to tape and out of the disk buffer.
	MakeNearline func(t *testing.T, paths ...string)
	// Buffer is the size of the disk buffer, at most some MB; 0: not known, and what needs a full one is not tested.
	Buffer int64
	// Recalls gives how many files were read from tape so far; nil: not known.
	Recalls func() int64
}

// Tape runs the contract of backends.Tape, one subtest a sentence.
func Tape(t *testing.T, open func(t *testing.T) TapeUnderTest) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *tapeTest)
	}{
		{"Locality gives one word a path, in order", testLocality},
		{"Open of a nearline file is ErrOffline, Stat and Checksum work", testOffline},
		{"Stage brings all files online with their bytes", testStage},
		{"a file that is online is completed at once", testStageOnline},
		{"Poll answers in the order of Stage, also for equal paths", testPollOrder},
		{"what is not there fails alone and says why", testStageMissing},
		{"a request without paths is done", testStageNothing},
		{"Poll, Cancel and Release of an unknown request are ErrNotExist", testUnknownRequest},
		{"equal paths of several requests share one recall", testShared},
		{"Cancel ends the recall for this request only", testCancel},
		{"Cancel and Release of a path that is not in the request", testForeignPath},
		{"a staged file is kept until it is released", testKept},
		{"Release twice and of all", testRelease},
		{"Plan counts and moves nothing", testPlan},
		{"a removed file is no longer recalled", testRemovedWhileWaiting},
		{"a cancelled context ends every call", testTapeCancelled},
		{"all methods may run in parallel", testTapeParallel},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := open(t)
			t.Cleanup(func() { u.Storage.Close() })
			c.run(t, &tapeTest{TapeUnderTest: u, st: &storageTest{u.Storage, t.Context()}, ctx: t.Context()})
		})
	}
}

type tapeTest struct {
	TapeUnderTest
	st  *storageTest // over Storage
	ctx context.Context
}

// nearline stores n files of size bytes below dir and makes them nearline.
func (s *tapeTest) nearline(t *testing.T, dir string, n, size int) []string {
	t.Helper()
	var paths []string
	for i := range n {
		p := fmt.Sprintf("%s/f%03d", dir, i)
		Put(t, s.Storage, p, Bytes(uint64(i), size))
		s.MakeNearline(t, p)
		paths = append(paths, p)
	}
	return paths
}

func (s *tapeTest) locality(t *testing.T, paths ...string) []backends.Locality {
	t.Helper()
	got, err := s.Tape.Locality(s.ctx, paths...)
	if err != nil || len(got) != len(paths) {
		t.Fatalf("locality: %v, %v", got, err)
	}
	return got
}

func (s *tapeTest) stage(t *testing.T, paths ...string) backends.RecallID {
	t.Helper()
	id, err := s.Tape.Stage(s.ctx, paths...)
	if err != nil || id == "" {
		t.Fatalf("stage: %q, %v", id, err)
	}
	return id
}

func (s *tapeTest) poll(t *testing.T, id backends.RecallID) []backends.RecallState {
	t.Helper()
	st, err := s.Tape.Poll(s.ctx, id)
	if err != nil {
		t.Fatalf("poll: %v", err)
	}
	return st
}

// await polls until all files of the request have ended, as every caller does.
func (s *tapeTest) await(t *testing.T, id backends.RecallID) []backends.RecallState {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		st := s.poll(t, id)
		if !slices.ContainsFunc(st, func(r backends.RecallState) bool { return !r.Phase.Ended() }) {
			return st
		}
		if time.Now().After(deadline) {
			t.Fatalf("request has not ended: %+v", st)
		}
	}
}

func (s *tapeTest) awaitDone(t *testing.T, id backends.RecallID) {
	t.Helper()
	for _, st := range s.await(t, id) {
		if st.Phase != backends.RecallCompleted {
			t.Fatalf("%s: %s %s", st.Path, st.Phase, st.Error)
		}
	}
}

func testLocality(t *testing.T, s *tapeTest) {
	near := s.nearline(t, "n", 1, 100)[0]
	Put(t, s.Storage, "d/fresh", []byte("x"))
	got := s.locality(t, near, "d/fresh", "no", near, "d/no", "../etc/passwd")
	if got[0] != backends.Nearline || got[3] != backends.Nearline || !got[1].IsOnline() {
		t.Errorf("locality: %v", got)
	}
	for _, i := range []int{2, 4, 5} {
		if got[i] != backends.NoLocality {
			t.Errorf("locality of what is not there: %v", got[i])
		}
	}
	s.awaitDone(t, s.stage(t, near))
	if got := s.locality(t, near); got[0] != backends.OnlineAndNearline {
		t.Errorf("staged: %v", got)
	}
	if got, err := s.Tape.Locality(s.ctx); err != nil || len(got) != 0 {
		t.Errorf("of nothing: %v, %v", got, err)
	}
}

func testOffline(t *testing.T, s *tapeTest) {
	p := s.nearline(t, "n", 1, 1000)[0]
	_, err := s.Storage.Open(s.ctx, p)
	wantErr(t, "open", err, backends.ErrOffline)
	if a, err := s.Storage.Stat(s.ctx, p); err != nil || a.Size != 1000 {
		t.Errorf("stat: %+v, %v", a, err)
	}
	if c, err := s.Storage.Checksum(s.ctx, p); err != nil {
		t.Errorf("checksum: %v", err)
	} else if err := Sums(Bytes(0, 1000)).Match(c); err != nil {
		t.Error(err)
	}
	if got := s.st.list(t, "n"); !slices.Equal(got, []string{p}) {
		t.Errorf("list: %q", got)
	}
	if got := s.locality(t, p); got[0] != backends.Nearline {
		t.Errorf("looking at it recalled it: %v", got)
	}
}

func testStage(t *testing.T, s *tapeTest) {
	paths := s.nearline(t, "n", 20, 3000)
	s.awaitDone(t, s.stage(t, paths...))
	for i, p := range paths {
		if got, err := Get(s.ctx, s.Storage, p); err != nil || !bytes.Equal(got, Bytes(uint64(i), 3000)) {
			t.Errorf("%s: %d bytes, %v", p, len(got), err)
		}
	}
	if !s.Storage.Traits().Tape {
		t.Error("Traits.Tape is false")
	}
}

func testStageOnline(t *testing.T, s *tapeTest) {
	Put(t, s.Storage, "f", []byte("x"))
	if st := s.poll(t, s.stage(t, "f")); st[0].Phase != backends.RecallCompleted {
		t.Errorf("%+v", st)
	}
}

func testPollOrder(t *testing.T, s *tapeTest) {
	paths := s.nearline(t, "n", 5, 10)
	ask := []string{paths[3], paths[0], paths[3], "no", paths[4]}
	st := s.await(t, s.stage(t, ask...))
	for i := range ask {
		if st[i].Path != ask[i] {
			t.Errorf("%d: %s, want %s", i, st[i].Path, ask[i])
		}
		if want := i != 3; want != (st[i].Phase == backends.RecallCompleted) {
			t.Errorf("%s: %+v", ask[i], st[i])
		}
	}
}

func testStageMissing(t *testing.T, s *tapeTest) {
	p := s.nearline(t, "n", 1, 10)[0]
	st := s.await(t, s.stage(t, "no", p, "n", "../x"))
	for i, want := range []backends.RecallPhase{backends.RecallFailed, backends.RecallCompleted, backends.RecallFailed, backends.RecallFailed} {
		if st[i].Phase != want || (want == backends.RecallFailed) != (st[i].Error != "") {
			t.Errorf("%s: %+v", st[i].Path, st[i])
		}
	}
}

func testStageNothing(t *testing.T, s *tapeTest) {
	if st := s.poll(t, s.stage(t)); len(st) != 0 {
		t.Errorf("%+v", st)
	}
}

func testUnknownRequest(t *testing.T, s *tapeTest) {
	_, err := s.Tape.Poll(s.ctx, "no-such-request")
	wantErr(t, "poll", err, backends.ErrNotExist)
	wantErr(t, "cancel", s.Tape.Cancel(s.ctx, "no-such-request"), backends.ErrNotExist)
	wantErr(t, "release", s.Tape.Release(s.ctx, "no-such-request"), backends.ErrNotExist)
}

func testShared(t *testing.T, s *tapeTest) {
	p := s.nearline(t, "n", 1, 1000)[0]
	before := s.recalls()
	var ids []backends.RecallID
	for range 50 {
		ids = append(ids, s.stage(t, p, p))
	}
	for _, id := range ids {
		s.awaitDone(t, id)
	}
	if n := s.recalls() - before; s.Recalls != nil && n != 1 {
		t.Errorf("%d recalls of one file", n)
	}
}

func (s *tapeTest) recalls() int64 {
	if s.Recalls == nil {
		return 0
	}
	return s.Recalls()
}

func testCancel(t *testing.T, s *tapeTest) {
	paths := s.nearline(t, "n", 10, 1000)
	mine, theirs := s.stage(t, paths...), s.stage(t, paths[:5]...)
	if err := s.Tape.Cancel(s.ctx, mine, paths[0], paths[9]); err != nil {
		t.Fatal(err)
	}
	if err := s.Tape.Cancel(s.ctx, mine); err != nil {
		t.Fatal(err)
	}
	for _, st := range s.poll(t, mine) {
		if !st.Phase.Ended() {
			t.Errorf("after cancel: %+v", st)
		}
	}
	s.awaitDone(t, theirs)
	if err := s.Tape.Cancel(s.ctx, mine); err != nil {
		t.Errorf("second cancel: %v", err)
	}
	s.awaitDone(t, s.stage(t, paths...)) // a cancelled recall can be asked for again
}

func testForeignPath(t *testing.T, s *tapeTest) {
	paths := s.nearline(t, "n", 2, 1000)
	id := s.stage(t, paths[0])
	wantErr(t, "cancel", s.Tape.Cancel(s.ctx, id, paths[0], paths[1]), backends.ErrNotExist)
	s.awaitDone(t, id) // nothing was cancelled
	wantErr(t, "release", s.Tape.Release(s.ctx, id, paths[1]), backends.ErrNotExist)
}

func testKept(t *testing.T, s *tapeTest) {
	if s.Buffer == 0 {
		t.Skip("size of the disk buffer is not known")
	}
	size := int(s.Buffer / 5)
	paths := s.nearline(t, "n", 9, size)
	keep := s.stage(t, paths[0])
	s.awaitDone(t, keep)
	press := func() {
		for _, p := range paths[1:] {
			id := s.stage(t, p)
			s.awaitDone(t, id)
			if err := s.Tape.Release(s.ctx, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	press()
	if got := s.locality(t, paths[0]); !got[0].IsOnline() {
		t.Fatalf("evicted although it was kept: %v", got)
	}
	if got := s.locality(t, paths[1]); got[0].IsOnline() {
		t.Errorf("the buffer holds more than its size")
	}
	if err := s.Tape.Release(s.ctx, keep, paths[0]); err != nil {
		t.Fatal(err)
	}
	press()
	if got := s.locality(t, paths[0]); got[0].IsOnline() {
		t.Errorf("not evicted although it was released: %v", got)
	}
}

func testRelease(t *testing.T, s *tapeTest) {
	paths := s.nearline(t, "n", 3, 10)
	id := s.stage(t, paths...)
	s.awaitDone(t, id)
	for _, err := range []error{
		s.Tape.Release(s.ctx, id, paths[0]), s.Tape.Release(s.ctx, id, paths[0]),
		s.Tape.Release(s.ctx, id), s.Tape.Release(s.ctx, id),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	s.MakeNearline(t, paths...) // nothing holds them
	for _, st := range s.poll(t, id) {
		if st.Phase != backends.RecallCompleted {
			t.Errorf("after release: %+v", st)
		}
	}
}

func testPlan(t *testing.T, s *tapeTest) {
	paths := s.nearline(t, "n", 4, 1000)
	Put(t, s.Storage, "online", Bytes(1, 500))
	p, err := s.Tape.Plan(s.ctx, append(paths, "online", "no", paths[0])...)
	if errors.Is(err, backends.ErrNotSupported) {
		return
	}
	if err != nil || p.Files != 5 || p.Bytes != 4500 || p.Online != 1 || p.Tapes < 1 || p.Mounts > p.Tapes || p.Time < 0 {
		t.Errorf("plan: %+v, %v", p, err)
	}
	for i, loc := range s.locality(t, paths...) {
		if loc != backends.Nearline {
			t.Errorf("plan moved %s: %v", paths[i], loc)
		}
	}
}

func testRemovedWhileWaiting(t *testing.T, s *tapeTest) {
	paths := s.nearline(t, "n", 10, 1000)
	id := s.stage(t, paths...)
	if err := s.Storage.Remove(s.ctx, paths[9]); err != nil {
		t.Fatal(err)
	}
	st := s.await(t, id)
	for i := range 9 {
		if st[i].Phase != backends.RecallCompleted {
			t.Errorf("%+v", st[i])
		}
	}
	if got := s.locality(t, paths[9]); got[0] != backends.NoLocality {
		t.Errorf("removed file: %v", got)
	}
}

func testTapeCancelled(t *testing.T, s *tapeTest) {
	p := s.nearline(t, "n", 1, 10)[0]
	id := s.stage(t, p)
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := s.Tape.Locality(ctx, p)
	wantErr(t, "locality", err, context.Canceled)
	_, err = s.Tape.Stage(ctx, p)
	wantErr(t, "stage", err, context.Canceled)
	_, err = s.Tape.Poll(ctx, id)
	wantErr(t, "poll", err, context.Canceled)
	wantErr(t, "cancel", s.Tape.Cancel(ctx, id), context.Canceled)
	wantErr(t, "release", s.Tape.Release(ctx, id), context.Canceled)
	if _, err = s.Tape.Plan(ctx, p); !errors.Is(err, backends.ErrNotSupported) {
		wantErr(t, "plan", err, context.Canceled)
	}
	s.awaitDone(t, id)
}

func testTapeParallel(t *testing.T, s *tapeTest) {
	paths := s.nearline(t, "n", 12, 1000)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for j := range 5 {
				ask := []string{paths[(i+j)%12], paths[(i*j)%12]}
				id, err := s.Tape.Stage(s.ctx, ask...)
				if err != nil {
					t.Errorf("stage: %v", err)
					return
				}
				switch j % 3 {
				case 0:
					err = s.Tape.Cancel(s.ctx, id)
				case 1:
					_, err = s.Tape.Plan(s.ctx, ask...)
					if errors.Is(err, backends.ErrNotSupported) {
						err = nil
					}
				case 2:
					_, err = s.Tape.Locality(s.ctx, ask...)
				}
				if err != nil {
					t.Error(err)
				}
				if _, err := s.Tape.Poll(s.ctx, id); err != nil {
					t.Errorf("poll: %v", err)
				}
			}
		})
	}
	wg.Wait()
	s.awaitDone(t, s.stage(t, paths...))
}
