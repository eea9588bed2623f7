package library

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
)

// gatedSleep lets the machinery move only when told.
type gatedSleep struct {
	mu   sync.Mutex
	cond *sync.Cond
	open bool
	asks int
}

func newGate() *gatedSleep {
	g := &gatedSleep{}
	g.cond = sync.NewCond(&g.mu)
	return g
}

func (g *gatedSleep) sleep(ctx context.Context, _ time.Duration) error {
	stop := context.AfterFunc(ctx, g.cond.Broadcast)
	defer stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asks++
	g.cond.Broadcast()
	for !g.open && ctx.Err() == nil {
		g.cond.Wait()
	}
	return ctx.Err()
}

func (g *gatedSleep) set(open bool) {
	g.mu.Lock()
	g.open = open
	g.asks = 0
	g.cond.Broadcast()
	g.mu.Unlock()
}

// standing waits until n drives wait for the gate.
func (g *gatedSleep) standing(n int) {
	g.mu.Lock()
	for g.asks < n {
		g.cond.Wait()
	}
	g.mu.Unlock()
}

// source gives n files of size bytes for Import, named so that their order is that of i.
func source(n, size int) iter.Seq2[ImportFile, error] {
	return func(yield func(ImportFile, error) bool) {
		for i := range n {
			data := backendstest.Bytes(uint64(i), size)
			if !yield(ImportFile{Path: fmt.Sprintf("run/f%04d", i), Size: int64(size), Open: func() (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(data)), nil
			}}, nil) {
				return
			}
		}
	}
}

func byNumber(p string) int {
	n, _ := strconv.Atoi(p[max(0, len(p)-4):])
	return n
}

func mustImport(t testing.TB, l *Library, n, size int) (paths []string) {
	t.Helper()
	if added, err := l.Import(context.Background(), source(n, size)); added != int64(n) || err != nil {
		t.Fatalf("import: %d, %v", added, err)
	}
	for i := range n {
		paths = append(paths, fmt.Sprintf("run/f%04d", i))
	}
	return paths
}

// TestOneMountForMany: a bulk request costs one mount a cartridge and no backward movement.
func TestOneMountForMany(t *testing.T) {
	for _, drives := range []int{1, 2} {
		l := open(t, Options{Drives: drives, Cartridges: 4, CartridgeSize: 10 << 20, Spread: byNumber})
		paths := mustImport(t, l, 100, 1000)
		rand.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
		plan, err := l.Plan(t.Context(), paths...)
		if err != nil || plan.Tapes != 4 || plan.Mounts != 4 || plan.Files != 100 || plan.Bytes != 100000 {
			t.Errorf("plan: %+v, %v", plan, err)
		}
		l.mustStage(t, paths...)
		s := l.Stats()
		if s.Mounts != 4 || s.Seeks != 0 || s.Staged != 100 || s.BytesRead != 100000 || s.Requests != 1 {
			t.Errorf("%d drives: %+v", drives, s)
		}
		if drives == 1 { // then time is simply added up, and the plan must have known it
			if diff := (plan.Time - s.TapeTime).Abs(); diff > time.Millisecond {
				t.Errorf("planned %v, took %v", plan.Time, s.TapeTime)
			}
		}
	}
}

// TestJoinMounted: what is asked for while a cartridge is read and lies ahead is read in the
// same pass; what lies behind comes in the next, without another mount.
func TestJoinMounted(t *testing.T) {
	gate := newGate()
	l := open(t, Options{Drives: 1, Cartridges: 2, CartridgeSize: 1 << 20, Timing: Timing{Rate: 1000}, Sleep: gate.sleep, Spread: func(p string) int { return byNumber(p) / 50 }})
	paths := mustImport(t, l, 100, 1000)
	first, _ := l.Stage(t.Context(), paths[20], paths[40])
	gate.standing(1)
	gate.set(true)
	l.awaitRecall(t, first)
	gate.set(false)
	ahead, _ := l.Stage(t.Context(), paths[45])
	gate.standing(1)                            // moving to it
	other, _ := l.Stage(t.Context(), paths[60]) // on the other cartridge
	behind, _ := l.Stage(t.Context(), paths[3], paths[2])
	joined, _ := l.Stage(t.Context(), paths[47])
	for _, id := range []backends.RecallID{other, ahead, behind, joined} {
		for _, st := range must(l.Poll(t.Context(), id)) {
			if st.Phase == backends.RecallSubmitted && (st.Position < 1 || st.ETA <= 0) {
				t.Errorf("no position or time: %+v", st)
			}
		}
	}
	if s := must(l.Poll(t.Context(), other)); s[0].Position != 4 {
		// 47, 2 and 3 are on the mounted cartridge.
		t.Errorf("the other cartridge is number %d", s[0].Position)
	}
	before := l.Stats().Mounts
	gate.set(true)
	for _, id := range []backends.RecallID{other, ahead, behind, joined} {
		l.awaitRecall(t, id)
	}
	if n := l.Stats().Mounts - before; n != 1 {
		t.Errorf("%d mounts, want the other cartridge's only", n)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestPatience: a mounted cartridge with endless work does not keep the others waiting for ever.
func TestPatience(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	l := &Library{o: Options{Patience: 10 * time.Minute, Speed: 1, Now: clock, BufferSize: 1 << 20}}
	d := &drive{}
	a, b := &cart{n: 0, f: os.Stdin, drive: d}, &cart{n: 1, f: os.Stdin}
	d.cart = a
	l.carts = []*cart{a, b}
	add := func(c *cart, age time.Duration) {
		c.recalls = append(c.recalls, &recall{f: &file{}, since: now.Add(-age)})
	}
	add(a, 0)
	add(b, 9*time.Minute)
	if c, _ := l.pick(d); c != a {
		t.Error("changed the cartridge after nine minutes")
	}
	add(b, 11*time.Minute)
	if c, _ := l.pick(d); c != b {
		t.Error("let the other wait for more than Patience")
	}
	// Among equals the one with most work is mounted.
	d.cart = nil
	a.drive, a.recalls, b.recalls = nil, nil, nil
	add(a, 0)
	add(b, 0)
	add(b, 0)
	if c, _ := l.pick(d); c != b {
		t.Error("took the cartridge with less work")
	}
	// Recalls go before migrations, unless somebody waits for room.
	a.writes, a.since = []*file{{}}, now.Add(-time.Minute)
	if c, w := l.pick(d); c != b || w {
		t.Error("migrated before recalling")
	}
	l.waiting = 1
	if c, w := l.pick(d); c != a || !w {
		t.Error("did not migrate although a writer waits")
	}
}

func TestCancelReachesTheQueue(t *testing.T) {
	gate := newGate()
	l := open(t, Options{Drives: 1, Cartridges: 1, CartridgeSize: 1 << 20, Sleep: gate.sleep})
	paths := mustImport(t, l, 50, 100)
	id, _ := l.Stage(t.Context(), paths...)
	gate.standing(1) // the robot is on its way; nothing is read yet
	if err := l.Cancel(t.Context(), id, paths[1:]...); err != nil {
		t.Fatal(err)
	}
	gate.set(true)
	st := l.awaitRecall(t, id)
	if st[0].Phase != backends.RecallCompleted || st[1].Phase != backends.RecallCancelled {
		t.Errorf("%+v", st[:2])
	}
	if s := l.Stats(); s.Staged != 1 || s.Queued != 0 {
		t.Errorf("%+v", s)
	}
}

func TestBufferIsAHardLimit(t *testing.T) {
	l := open(t, Options{Drives: 1, Cartridges: 2, BufferSize: 10000})
	paths := mustImport(t, l, 30, 1000)
	want(t, "larger than the buffer", put(t.Context(), l, "huge", make([]byte, 10001)), backends.ErrNoSpace)

	// Ten fit; the eleventh waits until something is released.
	id, _ := l.Stage(t.Context(), paths[:11]...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	count := func() (done int) {
		for _, s := range must(l.Poll(ctx, id)) {
			if s.Phase == backends.RecallCompleted {
				done++
			}
		}
		return done
	}
	for count() < 10 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(5 * time.Millisecond)
	if count() != 10 || l.Stats().BufferUsed != 10000 {
		t.Errorf("%d staged, %d bytes", count(), l.Stats().BufferUsed)
	}
	want(t, "create while all is held", put(ctx, l, "new", []byte("x")), backends.ErrNoSpace)
	l.Release(ctx, id, paths[0])
	l.awaitRecall(t, id)
	if got := l.where(t, paths[0]); got != backends.Nearline {
		t.Errorf("released and not evicted: %v", got)
	}
	l.Release(ctx, id)
	// More than the buffer, if nothing is kept.
	for _, p := range paths {
		l.Release(ctx, l.mustStage(t, p))
	}
	if err := put(ctx, l, "new", make([]byte, 9000)); err != nil {
		t.Errorf("create after release: %v", err)
	}
}

func TestCreateWaitsForMigration(t *testing.T) {
	gate := newGate()
	l := open(t, Options{Drives: 1, BufferSize: 10000, Sleep: gate.sleep})
	l.mustPut(t, "a", make([]byte, 6000))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := put(ctx, l, "b", make([]byte, 6000))
	want(t, "full until the tape moves", err, backends.ErrNoSpace)
	want(t, "full until the tape moves", err, context.DeadlineExceeded)
	done := make(chan error)
	go func() { done <- put(t.Context(), l, "b", make([]byte, 6000)) }()
	unknown := make(chan error)
	go func() {
		u, err := l.Create(t.Context(), "c", -1)
		if err == nil {
			for range 6 {
				if _, err = u.Write(make([]byte, 1000)); err != nil {
					break
				}
			}
			if err == nil {
				_, err = u.Commit(t.Context(), backendstest.Sums(make([]byte, 6000)))
			}
			u.Abort()
		}
		unknown <- err
	}()
	gate.set(true)
	if err := <-done; err != nil {
		t.Errorf("after migration: %v", err)
	}
	if err := <-unknown; err != nil {
		t.Errorf("of unknown size: %v", err)
	}
	l.mustEvict(t)
	if s := l.Stats(); s.BufferUsed != 0 || s.Migrated != 3 {
		t.Errorf("%+v", s)
	}
}

func TestCartridgesFillAndAreReused(t *testing.T) {
	l := open(t, Options{Cartridges: 2, CartridgeSize: 10000})
	for i := range 6 { // three on each
		l.mustPut(t, fmt.Sprintf("f%d", i), backendstest.Bytes(uint64(i), 3000))
		l.Flush(t.Context())
	}
	c := l.Cartridges()
	if c[0].Files != 3 || c[1].Files != 3 {
		t.Errorf("%+v", c)
	}
	want(t, "full", put(t.Context(), l, "more", make([]byte, 3000)), backends.ErrNoSpace)
	if _, free, _ := l.Space(t.Context()); free != 2000 {
		t.Errorf("free %d", free)
	}
	for i := range 3 {
		if err := l.Remove(t.Context(), fmt.Sprintf("f%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(t.Context(), l, "more", backendstest.Bytes(9, 8000)); err != nil {
		t.Fatalf("an empty cartridge is not used again: %v", err)
	}
	l.mustEvict(t)
	l = reopen(t, l)
	l.mustStage(t, "more", "f3")
	for p, b := range map[string][]byte{"more": backendstest.Bytes(9, 8000), "f3": backendstest.Bytes(3, 3000)} {
		if got, err := backendstest.Get(t.Context(), l, p); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestColocate(t *testing.T) {
	l := open(t, Options{Cartridges: 3, CartridgeSize: 10000, Colocate: true})
	for i := range 4 {
		for _, d := range []string{"a", "b"} {
			l.mustPut(t, fmt.Sprintf("%s/f%d", d, i), make([]byte, 2000))
			l.Flush(t.Context())
		}
	}
	for _, d := range []string{"a", "b"} {
		on := map[string]int{}
		for i := range 4 {
			name, _, _ := l.Where(fmt.Sprintf("%s/f%d", d, i))
			on[name]++
		}
		if len(on) > 2 {
			t.Errorf("%s is on %v", d, on)
		}
	}
}

func TestImport(t *testing.T) {
	l := open(t, Options{Cartridges: 4, Spread: byNumber})
	paths := mustImport(t, l, 20, 500)
	if got := l.where(t, paths[7]); got != backends.Nearline {
		t.Errorf("%v", got)
	}
	one := func(f ImportFile) iter.Seq2[ImportFile, error] {
		return func(yield func(ImportFile, error) bool) { yield(f, nil) }
	}
	data := backendstest.Bytes(7, 500)
	reader := func(b []byte) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	}
	for _, c := range []struct {
		name  string
		in    ImportFile
		added int64
		err   error
	}{
		{"the same again", ImportFile{Path: paths[7], Size: 500, Want: backendstest.Sums(data), Open: reader(data)}, 0, nil},
		{"other content", ImportFile{Path: paths[7], Size: 3, Open: reader([]byte("new"))}, 1, nil},
		{"wrong checksum", ImportFile{Path: "x", Size: 3, Want: backendstest.Sums(data), Open: reader([]byte("new"))}, 0, backends.ErrCorrupt},
		{"too short", ImportFile{Path: "x", Size: 4, Open: reader([]byte("new"))}, 0, backends.ErrCorrupt},
		{"too long", ImportFile{Path: "x", Size: 2, Open: reader([]byte("new"))}, 0, backends.ErrCorrupt},
		{"hostile", ImportFile{Path: "../x", Size: 3, Open: reader([]byte("new"))}, 0, backends.ErrName},
		{"in the way", ImportFile{Path: "run", Size: 3, Open: reader([]byte("new"))}, 0, backends.ErrIsDir},
	} {
		added, err := l.Import(t.Context(), one(c.in))
		if added != c.added || (c.err == nil) != (err == nil) {
			t.Errorf("%s: %d, %v", c.name, added, err)
		}
		if c.err != nil {
			want(t, c.name, err, c.err)
		}
	}
	l = reopen(t, l)
	l.mustStage(t, paths...)
	if got, err := backendstest.Get(t.Context(), l, paths[7]); err != nil || string(got) != "new" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := backendstest.Get(t.Context(), l, paths[8]); err != nil || !bytes.Equal(got, backendstest.Bytes(8, 500)) {
		t.Errorf("%v", err)
	}
}

// TestRandom compares a small, crowded library with a map.
func TestRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	l := open(t, Options{Drives: 2, Cartridges: 3, BufferSize: 20000, CartridgeSize: 10 << 20, Spread: func(p string) int { return len(p) }})
	model := map[string][]byte{}
	var held []backends.RecallID
	for step := range 400 {
		p := []string{"a", "bb", "d/c", "d/dd", "d/e/f", "g"}[r.IntN(6)]
		switch r.IntN(7) {
		case 0, 1:
			data := backendstest.Bytes(uint64(step), r.IntN(3000))
			if err := put(t.Context(), l, p, data); err != nil {
				t.Fatalf("step %d: put %s: %v", step, p, err)
			}
			model[p] = data
		case 2:
			err := l.Remove(t.Context(), p)
			if _, ok := model[p]; ok != (err == nil) {
				t.Fatalf("step %d: remove %s: %v", step, p, err)
			}
			delete(model, p)
		case 3:
			if _, ok := model[p]; !ok {
				continue
			}
			held = append(held, l.mustStage(t, p))
			if got, err := backendstest.Get(t.Context(), l, p); err != nil || !bytes.Equal(got, model[p]) {
				t.Fatalf("step %d: get %s: %v", step, p, err)
			}
		case 4:
			for _, id := range held {
				if err := l.Release(t.Context(), id); err != nil {
					t.Fatalf("step %d: release: %v", step, err)
				}
			}
			held = nil
			l.mustEvict(t)
		case 5:
			if r.IntN(5) == 0 {
				l, held = reopen(t, l), nil
			}
		case 6:
			if s := l.Stats(); s.Files != int64(len(model)) {
				t.Fatalf("step %d: %d files, want %d", step, s.Files, len(model))
			}
			l.checkInvariants(t)
		}
		if len(held) > 3 {
			l.Release(t.Context(), held[0])
			held = held[1:]
		}
	}
	paths := slices.Collect(func(yield func(string) bool) {
		for p := range model {
			if !yield(p) {
				return
			}
		}
	})
	l.mustStage(t, paths...)
	for p, data := range model {
		if got, err := backendstest.Get(t.Context(), l, p); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// TestElevator: from the head upwards, what fits, and only then from the start.
func TestElevator(t *testing.T) {
	c := &cart{}
	for i, size := range []int64{10, 500, 10, 20, 10} { // at 0, 100, 200, 300, 400
		c.queueRecall(&recall{f: &file{id: uint64(i), pos: int64(i) * 100, size: size}})
	}
	for _, k := range []struct {
		head, room int64
		wrap       bool
		want       int
	}{
		{0, 1000, false, 0}, {1, 1000, false, 1}, {100, 1000, false, 1}, {100, 499, false, 2}, {250, 1000, false, 3}, {250, 15, false, 4},
		{401, 1000, false, -1}, {401, 1000, true, 0}, {401, 5, true, -1}, {450, 10, true, 0}, {101, 500, true, 2},
	} {
		if got := c.next(k.head, k.room, k.wrap); got != k.want {
			t.Errorf("head %d, room %d, wrap %v: %d, want %d", k.head, k.room, k.wrap, got, k.want)
		}
	}
}

// TestRemovedBeforeItsCopy: a file that is removed between its choice by a drive and the
// drive's look at the buffer fails nothing, and lets the cartridge go on.
func TestRemovedBeforeItsCopy(t *testing.T) {
	gate := newGate()
	var log bytes.Buffer
	l := open(t, Options{Drives: 1, Cartridges: 1, Sleep: gate.sleep, Log: slog.New(slog.NewTextHandler(&log, nil))})
	l.mustPut(t, "a", make([]byte, 1000))
	l.mustPut(t, "b", make([]byte, 1000))
	l.mu.Lock()
	c := l.carts[0]
	w := toWrite{f: c.writes[0], c: c.writes[0].buf, pos: c.end}
	c.writes, c.promised, c.writing = c.writes[1:], c.promised-1000, c.writing+1
	w.c.refs++
	l.unlock()
	if err := l.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	l.giveUp(c, []toWrite{w}, backends.ErrNotExist)
	gate.set(true)
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := l.Stats(); s.Migrated != 1 || log.Len() > 0 {
		t.Errorf("%+v, log %q", s, log.String())
	}
}
