package library

import (
	"bytes"
	"context"
	"errors"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
)

// noSleep lets tape time pass at once: the statistics still count it.
func noSleep(ctx context.Context, _ time.Duration) error { return ctx.Err() }

func open(t *testing.T, o Options) *Library {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Sleep == nil {
		o.Sleep = noSleep
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		l.checkInvariants(t)
	})
	return l
}

func reopen(t *testing.T, l *Library) *Library {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.checkInvariants(t)
	return open(t, l.o)
}

// checkInvariants adds up what the counters claim.
func (l *Library) checkInvariants(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.unlock()
	var files, evictable, copies int64
	live := make([]int, len(l.carts))
	l.root.each(func(f *file) {
		files++
		if f.dead {
			t.Errorf("%s is dead and in the tree", f.path())
		}
		if f.cart >= 0 {
			live[f.cart]++
		}
		if f.buf != nil {
			copies += f.size
			if f.buf.el != nil {
				evictable += f.size
			}
			if (f.buf.el != nil) != (f.cart >= 0 && f.buf.holds == 0 && f.buf.refs == 0) {
				t.Errorf("%s: evictable %v, cartridge %d, holds %d, refs %d", f.path(), f.buf.el != nil, f.cart, f.buf.holds, f.buf.refs)
			}
		}
	})
	if files != l.files || evictable != l.evictable || copies > l.used || l.used > l.o.BufferSize {
		t.Errorf("%d files of %d, %d bytes evictable of %d, %d in copies of %d used of %d", files, l.files, evictable, l.evictable, copies, l.used, l.o.BufferSize)
	}
	for i, c := range l.carts {
		if c.live != live[i] {
			t.Errorf("%s: %d files, counted %d", c.name, live[i], c.live)
		}
		for _, r := range c.recalls {
			if l.recalls[r.f] != r {
				t.Errorf("%s: stray recall of %s", c.name, r.f.path())
			}
		}
	}
}

func want(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got %v, want %v", what, err, target)
	}
	if errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("%s: %v leaks io/fs", what, err)
	}
}

func (l *Library) mustPut(t *testing.T, path string, data []byte) {
	t.Helper()
	backendstest.Put(t, l, path, data)
}

func put(ctx context.Context, l *Library, path string, data []byte) error {
	u, err := l.Create(ctx, path, int64(len(data)))
	if err != nil {
		return err
	}
	defer u.Abort()
	if _, err := u.Write(data); err != nil {
		return err
	}
	_, err = u.Commit(ctx, backendstest.Sums(data))
	return err
}

// await waits on the library's own signal.
func (l *Library) awaitRecall(t *testing.T, id backends.RecallID) []backends.RecallState {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		l.mu.Lock()
		ch := l.changedCh
		l.mu.Unlock()
		st, err := l.Poll(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(st, func(s backends.RecallState) bool { return !s.Phase.Ended() }) {
			return st
		}
		select {
		case <-ch:
		case <-ctx.Done():
			t.Fatalf("not ended: %+v", st)
		}
	}
}

func (l *Library) mustStage(t *testing.T, paths ...string) backends.RecallID {
	t.Helper()
	id, err := l.Stage(t.Context(), paths...)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range l.awaitRecall(t, id) {
		if s.Phase != backends.RecallCompleted {
			t.Fatalf("%+v", s)
		}
	}
	return id
}

func (l *Library) mustEvict(t *testing.T, paths ...string) {
	t.Helper()
	if err := l.EvictBuffer(t.Context(), paths...); err != nil {
		t.Fatal(err)
	}
}

func (l *Library) where(t *testing.T, path string) backends.Locality {
	t.Helper()
	loc, err := l.Locality(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return loc[0]
}

func TestLifeOfAFile(t *testing.T) {
	gate := make(chan struct{})
	l := open(t, Options{Sleep: func(ctx context.Context, _ time.Duration) error {
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	data := backendstest.Bytes(1, 100000)
	l.mustPut(t, "d/f", data)
	if got := l.where(t, "d/f"); got != backends.Online {
		t.Errorf("committed: %v", got)
	}
	close(gate) // the robot may move
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := l.where(t, "d/f"); got != backends.OnlineAndNearline {
		t.Errorf("migrated: %v", got)
	}
	l.mustEvict(t, "d/f")
	if got := l.where(t, "d/f"); got != backends.Nearline {
		t.Errorf("evicted: %v", got)
	}
	id := l.mustStage(t, "d/f")
	want(t, "evicting what is staged", l.EvictBuffer(t.Context(), "d/f"), backends.ErrBusy)
	got, err := backendstest.Get(t.Context(), l, "d/f")
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("read: %v", err)
	}
	l.Release(t.Context(), id)
	o, err := l.Open(t.Context(), "d/f")
	if err != nil {
		t.Fatal(err)
	}
	want(t, "evicting what is open", l.EvictBuffer(t.Context(), "d/f"), backends.ErrBusy)
	f := o.(interface{ File() *os.File }).File()
	if fi, err := f.Stat(); err != nil || fi.Size() != 100000 {
		t.Errorf("file of the object: %v", err)
	}
	o.Close()
	want(t, "second close", o.Close(), backends.ErrClosed)
	l.mustEvict(t, "d/f")
	want(t, "evicting what is not there", l.EvictBuffer(t.Context(), "no"), backends.ErrNotExist)

	if c := l.Cartridges(); c[0].Files != 1 || c[0].Bytes != 100000 || c[0].Used != 100000 {
		t.Errorf("cartridge: %+v", c[0])
	}
	if name, pos, err := l.Where("d/f"); name != "T00000" || pos != 0 || err != nil {
		t.Errorf("where: %s %d %v", name, pos, err)
	}
}

func TestRestart(t *testing.T) {
	var block sync.Mutex // drives stand while it is held
	o := Options{Dir: t.TempDir(), Timing: Timing{Rate: 1000}, Sleep: func(ctx context.Context, _ time.Duration) error {
		for !block.TryLock() {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			time.Sleep(time.Millisecond)
		}
		block.Unlock()
		return nil
	}}
	l := open(t, o)
	l.mustPut(t, "tape", backendstest.Bytes(1, 1000))
	l.mustPut(t, "staged", backendstest.Bytes(2, 2000))
	l.mustPut(t, "gone", backendstest.Bytes(3, 3000))
	l.mustPut(t, "replaced", backendstest.Bytes(4, 4000))
	l.mustEvict(t)
	id := l.mustStage(t, "staged")
	if err := l.Remove(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	l.mustPut(t, "replaced", backendstest.Bytes(5, 500))
	l.Flush(t.Context())
	block.Lock()
	l.mustPut(t, "waiting", backendstest.Bytes(6, 6000))
	l = reopen(t, l)
	if got := l.where(t, "waiting"); got != backends.Online {
		t.Errorf("waiting: %v", got)
	}
	block.Unlock()
	_, err := l.Poll(t.Context(), id)
	want(t, "poll of an old request", err, backends.ErrNotExist)
	if got := l.where(t, "staged"); got != backends.OnlineAndNearline {
		t.Errorf("staged: %v", got)
	}
	if got := l.where(t, "tape"); got != backends.Nearline {
		t.Errorf("tape: %v", got)
	}
	if got := l.where(t, "gone"); got != backends.NoLocality {
		t.Errorf("gone: %v", got)
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.mustEvict(t)
	l = reopen(t, l)
	l.mustStage(t, "tape", "staged", "replaced", "waiting")
	for p, c := range map[string][]byte{"tape": backendstest.Bytes(1, 1000), "staged": backendstest.Bytes(2, 2000), "replaced": backendstest.Bytes(5, 500), "waiting": backendstest.Bytes(6, 6000)} {
		if got, err := backendstest.Get(t.Context(), l, p); err != nil || !bytes.Equal(got, c) {
			t.Errorf("%s: %d bytes, %v", p, len(got), err)
		}
	}
	// After the machine itself was down, copies that were never synced are not trusted.
	l.Close()
	os.WriteFile(filepath.Join(o.Dir, "boot"), []byte("another boot\n"), 0o644)
	l = open(t, l.o)
	if got := l.where(t, "tape"); got != backends.Nearline {
		t.Errorf("after a boot: %v", got)
	}
	if l.Stats().BufferUsed != 0 {
		t.Errorf("%d bytes in the buffer", l.Stats().BufferUsed)
	}
}

func TestCorruptTape(t *testing.T) {
	var log syncedBuffer
	l := open(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	l.mustPut(t, "good", backendstest.Bytes(1, 1000))
	l.mustPut(t, "bad", backendstest.Bytes(2, 1000))
	l.mustEvict(t)
	name, pos, _ := l.Where("bad")
	tape, err := os.OpenFile(filepath.Join(l.o.Dir, "cartridges", name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tape.Close()
	good := make([]byte, 1)
	tape.ReadAt(good, pos+500)
	tape.WriteAt([]byte{good[0] ^ 1}, pos+500)
	id, _ := l.Stage(t.Context(), "good", "bad")
	st := l.awaitRecall(t, id)
	if st[0].Phase != backends.RecallCompleted || st[1].Phase != backends.RecallFailed || !strings.Contains(st[1].Error, "checksum") {
		t.Errorf("%+v", st)
	}
	if got := l.where(t, "bad"); got != backends.Lost {
		t.Errorf("corrupt: %v", got)
	}
	_, err = l.Open(t.Context(), "bad")
	want(t, "open", err, backends.ErrLost)
	if !strings.Contains(log.String(), "recall") {
		t.Error("nothing in the log")
	}
	tape.WriteAt(good, pos+500) // no permanent negative state
	l.mustStage(t, "bad")
	if got := l.where(t, "bad"); got != backends.OnlineAndNearline {
		t.Errorf("healed: %v", got)
	}
	l.Fail("good", errors.New("drive on fire"))
	l.Release(t.Context(), id)
	l.mustEvict(t, "good")
	id, _ = l.Stage(t.Context(), "good")
	if st := l.awaitRecall(t, id); st[0].Error != "drive on fire" {
		t.Errorf("%+v", st)
	}
	l.Fail("good", nil)
	l.mustStage(t, "good")
}

// TestCorruptBuffer: what went bad on the buffer's disk must not reach a tape.
func TestCorruptBuffer(t *testing.T) {
	gate := make(chan struct{})
	l := open(t, Options{Drives: 1, Sleep: func(ctx context.Context, _ time.Duration) error {
		select {
		case <-gate:
		case <-ctx.Done():
		}
		return ctx.Err()
	}})
	l.mustPut(t, "f", backendstest.Bytes(1, 1000))
	l.mu.Lock()
	f, _ := l.find("f")
	name := l.bufferPath(f.id, f.buf.id)
	l.unlock()
	b, _ := os.ReadFile(name)
	b[7] ^= 1
	os.WriteFile(name, b, 0o644)
	close(gate)
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := l.where(t, "f"); got != backends.Online {
		t.Errorf("%v", got)
	}
	want(t, "evict", l.EvictBuffer(t.Context(), "f"), backends.ErrCorrupt)
}

type syncedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncedBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncedBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestMissingCartridge(t *testing.T) {
	l := open(t, Options{Cartridges: 2, Spread: func(p string) int { return len(p) }})
	l.mustPut(t, "f", []byte("x")) // on T00001
	l.mustEvict(t)
	l.Close()
	os.Rename(filepath.Join(l.o.Dir, "cartridges/T00001"), filepath.Join(l.o.Dir, "away"))
	l = open(t, l.o)
	if got := l.where(t, "f"); got != backends.Unavailable {
		t.Errorf("%v", got)
	}
	id, _ := l.Stage(t.Context(), "f")
	if st := l.awaitRecall(t, id); st[0].Phase != backends.RecallFailed || !strings.Contains(st[0].Error, "T00001") {
		t.Errorf("%+v", st)
	}
	if c := l.Cartridges(); !c[1].Missing {
		t.Errorf("%+v", c)
	}
	l.mustPut(t, "g", []byte("y")) // the others still work
	l.mustEvict(t, "g")
	l.Close()
	os.Rename(filepath.Join(l.o.Dir, "away"), filepath.Join(l.o.Dir, "cartridges/T00001"))
	l = open(t, l.o)
	l.mustStage(t, "f", "g")
	l.Close()
	o := l.o
	o.Cartridges = 1
	_, err := Open(o)
	want(t, "fewer cartridges than files are on", err, backends.ErrDamaged)
}

func TestLifetime(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	l := open(t, Options{Lifetime: time.Hour, Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	l.mustPut(t, "f", []byte("x"))
	l.mustEvict(t)
	id := l.mustStage(t, "f")
	mu.Lock()
	now = now.Add(59 * time.Minute)
	mu.Unlock()
	if _, err := l.Poll(t.Context(), id); err != nil {
		t.Error(err)
	}
	want(t, "evict", l.EvictBuffer(t.Context(), "f"), backends.ErrBusy)
	mu.Lock()
	now = now.Add(2 * time.Minute)
	mu.Unlock()
	_, err := l.Poll(t.Context(), id)
	want(t, "poll", err, backends.ErrNotExist)
	l.mustEvict(t, "f")
}

func TestMemoryOfRequestsIsBounded(t *testing.T) {
	l := open(t, Options{})
	l.mustPut(t, "f", []byte("x"))
	kept := l.mustStage(t, "f")
	for range maxRequests + 10 {
		id, _ := l.Stage(t.Context(), "no")
		_ = id
	}
	if n := len(l.requests); n > maxRequests {
		t.Errorf("%d requests", n)
	}
	if _, err := l.Poll(t.Context(), kept); err != nil {
		t.Errorf("one that keeps a file was forgotten: %v", err)
	}
}
