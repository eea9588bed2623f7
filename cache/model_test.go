package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// model is a set of contents, how their sources behave now, and what a cache must do
// with them: the truth is a plain map of bytes.
type model struct {
	t     *testing.T
	o     Options
	clock *clock
	c     *Cache
	rng   *rand.Rand
	truth []modelContent
	open  []modelFile
	unsent,
	limit int64
}

type modelContent struct {
	ct   Content
	data []byte
	mode atomic.Int32 // how its source behaves
	rot  atomic.Bool  // its source gave wrong bytes at some time
}

type modelFile struct {
	*File
	i int
}

const (
	srcGood   = iota
	srcFlaky  // one read in four fails
	srcRotten // the first replica has a wrong byte
	srcDead   // no replica
	srcSlow   // waits until the fetch is cancelled, in one of eight
	srcModes
)

func (m *model) fetch(i int) Fetch {
	mc := &m.truth[i]
	return func(ctx context.Context, bad error) (Source, error) {
		mode := mc.mode.Load()
		if mode == srcDead {
			return nil, errFlaky
		}
		data := mc.data
		if mode == srcRotten && bad == nil && len(data) > 0 {
			mc.rot.Store(true)
			data = flipped(data, len(data)/3)
		}
		r := &remote{data: data}
		r.onRead = func(ctx context.Context, n int, p []byte, off int64) (int, error) {
			switch {
			case mode == srcFlaky && rand.IntN(4) == 0:
				return copy(p[:len(p)/2], data[off:]), errFlaky
			case mode == srcSlow && rand.IntN(8) == 0:
				select {
				case <-ctx.Done():
					return 0, ctx.Err()
				case <-time.After(3 * time.Millisecond):
				}
			}
			return r.plain(p, off)
		}
		return r.fetch(ctx, bad)
	}
}

// mayFail tells whether an error is one that the sources of now explain.
func (m *model) mayFail(err error) bool {
	return errors.Is(err, errFlaky) || errors.Is(err, ErrCorrupt) || errors.Is(err, context.Canceled)
}

func (m *model) start() {
	c, err := Open(m.o)
	if err != nil {
		m.t.Fatal(err)
	}
	c.chunk = 4 * kb4
	m.c = c
}

func (m *model) restart() {
	for _, f := range m.open {
		f.Close()
	}
	m.open = nil
	if err := m.c.Close(); err != nil {
		m.t.Fatal(err)
	}
	m.check()
	m.unsent = 0
	m.o.Limit = m.limit
	m.start()
}

func (m *model) check() {
	m.t.Helper()
	if bad := m.c.invariants(); bad != "" {
		m.t.Fatal(bad)
	}
}

// step does one random thing.
func (m *model) step() string {
	i := m.rng.IntN(len(m.truth))
	mc := &m.truth[i]
	k := mc.ct.Key
	switch op := m.rng.IntN(100); {
	case op < 12:
		f, err := m.c.Open(mc.ct, m.fetch(i))
		if err != nil {
			m.t.Fatal(err)
		}
		m.open = append(m.open, modelFile{f, i})
		return fmt.Sprint("open ", i)
	case op < 20 && len(m.open) > 0:
		j := m.rng.IntN(len(m.open))
		m.open[j].Close()
		i := m.open[j].i
		m.open = append(m.open[:j], m.open[j+1:]...)
		return fmt.Sprint("close ", i)
	case op < 55 && len(m.open) > 0:
		return m.read(m.open[m.rng.IntN(len(m.open))])
	case op < 62:
		return m.readThrough(i)
	case op < 68 && len(m.open) > 0:
		return m.fill(m.open[m.rng.IntN(len(m.open))])
	case op < 74:
		_, err := m.c.Evict(k)
		if err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrNotCached) {
			m.t.Fatal(err)
		}
		return fmt.Sprint("evict ", i, err)
	case op < 76:
		if err := m.c.Drop(k); err != nil && !errors.Is(err, ErrNotCached) {
			m.t.Fatal(err)
		}
		return fmt.Sprint("drop ", i)
	case op < 79:
		err := m.c.Pin(k, m.clock.now().Add(time.Duration(m.rng.IntN(100))*time.Second))
		if err != nil && !errors.Is(err, ErrNotCached) {
			m.t.Fatal(err)
		}
		return fmt.Sprint("pin ", i, err)
	case op < 81:
		m.clock.pass(time.Duration(m.rng.IntN(100)) * time.Second)
		return "time passes"
	case op < 84:
		if err := m.c.Seed(mc.ct, bytes.NewReader(mc.data)); err != nil && !errors.Is(err, ErrNoSpace) {
			m.t.Fatal(err)
		}
		return fmt.Sprint("seed ", i)
	case op < 87:
		return m.adopt(i)
	case op < 90:
		return m.harm(i)
	case op < 92:
		m.limit = int64(60+m.rng.IntN(300)) * kb4
		err := m.c.SetLimit(m.limit)
		if errors.Is(err, ErrNoSpace) { // what is open is more; the invariant needs a limit above it
			m.limit = 1 << 30
			err = m.c.SetLimit(m.limit)
		}
		if err != nil {
			m.t.Fatal(err)
		}
		return fmt.Sprint("limit ", m.limit)
	case op < 94:
		n := int64(m.rng.IntN(40 * kb4))
		if err := m.c.ReserveUnsent(n); err == nil {
			m.unsent += n
		} else if !errors.Is(err, ErrNoSpace) {
			m.t.Fatal(err)
		}
		return "reserve unsent"
	case op < 96:
		n := m.rng.Int64N(m.unsent + 1)
		m.c.ReleaseUnsent(n)
		m.unsent -= n
		return "release unsent"
	case op < 97:
		if _, err := m.c.Scrub(context.Background(), nil); err != nil {
			m.t.Fatal(err)
		}
		return "scrub"
	case op < 98:
		m.restart()
		return "restart"
	default:
		mc.mode.Store(int32(m.rng.IntN(srcModes)))
		return fmt.Sprint("source ", i, mc.mode.Load())
	}
}

// read reads a piece. Bytes of a rotten replica may be given while the whole is not
// verified; else they must be right.
func (m *model) read(f modelFile) string {
	data := m.truth[f.i].data
	off := m.rng.IntN(len(data) + 100)
	p := make([]byte, m.rng.IntN(6*kb4))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if m.rng.IntN(8) == 0 {
		time.AfterFunc(time.Duration(m.rng.IntN(2000))*time.Microsecond, cancel)
	}
	var n int
	var err error
	verified := m.verified(f.i)
	resident := m.rng.IntN(4) == 0
	if resident {
		n, err = f.ReadResident(p, int64(off))
	} else {
		n, err = f.ReadAt(ctx, p, int64(off))
	}
	if err != nil && err != io.EOF && !m.mayFail(err) && !(resident && errors.Is(err, ErrNotResident)) {
		m.t.Fatalf("read %d: %v", f.i, err)
	}
	if err == nil && n < len(p) && !resident || err == io.EOF && off+n != len(data) && off < len(data) {
		m.t.Fatalf("read %d of %d at %d: %d, %v", len(p), len(data), off, n, err)
	}
	if n > 0 && !bytes.Equal(p[:n], data[off:off+n]) && (verified || !m.truth[f.i].rot.Load()) {
		m.t.Fatalf("content %d: wrong bytes at %d", f.i, off)
	}
	return fmt.Sprint("read ", f.i, off, len(p), err)
}

// verified tells whether only right bytes of a content may be given from now on.
func (m *model) verified(i int) bool {
	m.c.mu.Lock()
	e := m.c.entries[m.truth[i].ct.Key]
	m.c.mu.Unlock()
	if e == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.known.Full()
}

// readThrough reads a content from its beginning to its end: that must be right, or fail.
func (m *model) readThrough(i int) string {
	f, err := m.c.Open(m.truth[i].ct, m.fetch(i))
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	if p, ok := f.Passthrough(); ok {
		got := make([]byte, len(m.truth[i].data))
		if _, err := p.ReadAt(got, 0); err != nil || !bytes.Equal(got, m.truth[i].data) {
			m.t.Fatalf("content %d: wrong bytes by passthrough, %v", i, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	read := readAll
	if m.rng.IntN(2) == 0 {
		read = readShared
	}
	got, err := read(ctx, f, 1+m.rng.IntN(4*kb4))
	if err != nil && !m.mayFail(err) {
		m.t.Fatalf("read through %d: %v", i, err)
	}
	if err == nil && !bytes.Equal(got, m.truth[i].data) {
		m.t.Fatalf("content %d: read through to a clean end, with wrong bytes", i)
	}
	return fmt.Sprint("read through ", i, err)
}

func (m *model) fill(f modelFile) string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := f.Fill(ctx)
	if err != nil && !m.mayFail(err) && !errors.Is(err, ErrNoSpace) {
		m.t.Fatalf("fill %d: %v", f.i, err)
	}
	if err == nil && !f.Whole() {
		m.t.Fatalf("filled %d is not whole", f.i)
	}
	return fmt.Sprint("fill ", f.i, err)
}

func (m *model) adopt(i int) string {
	p := m.t.TempDir() + "/unsent"
	if err := os.WriteFile(p, m.truth[i].data, 0o600); err != nil {
		m.t.Fatal(err)
	}
	err := m.c.Adopt(m.truth[i].ct, p)
	if err != nil && !errors.Is(err, ErrNoSpace) && !errors.Is(err, ErrBusy) {
		m.t.Fatal(err)
	}
	if _, e := os.Stat(p); (e == nil) != (err != nil) {
		m.t.Fatalf("adopt: %v, and the file: %v", err, e)
	}
	return fmt.Sprint("adopt ", i, err)
}

// harm flips a byte of a data file behind the cache's back.
func (m *model) harm(i int) string {
	m.c.mu.Lock()
	e := m.c.entries[m.truth[i].ct.Key]
	m.c.mu.Unlock()
	if e == nil || len(m.truth[i].data) == 0 {
		return "nothing to harm"
	}
	f, err := os.OpenFile(m.c.path(e.stem, dataSuffix), os.O_RDWR, 0)
	if err != nil {
		return "nothing to harm"
	}
	defer f.Close()
	at := m.rng.Int64N(int64(len(m.truth[i].data)))
	b := []byte{0}
	_, _ = f.ReadAt(b, at)
	b[0] ^= 1
	_, _ = f.WriteAt(b, at)
	return fmt.Sprint("harm ", i, at)
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, o: options(t), clock: newClock(), rng: rand.New(rand.NewPCG(seed, 1)), limit: 200 * kb4}
	m.o.Head, m.o.Tail, m.o.Now, m.o.Limit = kb4, 2*kb4, m.clock.now, m.limit
	if seed%2 == 0 {
		m.o.Quick = Quick{} // all checksums, in order
	}
	m.truth = make([]modelContent, 10)
	for i := range m.truth {
		m.truth[i].ct, m.truth[i].data = numbered(i, []int{0, 1, kb4, 3*kb4 + 1, 9 * kb4, 20*kb4 + 5, 33 * kb4, 50*kb4 - 1, 64 * kb4, 260 * kb4}[i])
		m.truth[i].ct.Cost = time.Duration(i%3) * time.Second
	}
	m.start()
	return m
}

func TestModel(t *testing.T) {
	seeds, steps := 4, 400
	if testing.Short() {
		seeds = 1
	}
	for range seeds {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			m := newModel(t, seed)
			var done []string
			defer func() {
				if t.Failed() {
					t.Logf("seed %d, last steps: %q", seed, done[max(0, len(done)-25):])
				}
			}()
			for range steps {
				done = append(done, m.step())
				m.check()
			}
			for i := range m.truth { // all well again: everything must be readable
				m.truth[i].mode.Store(srcGood)
			}
			m.restart()
			for i := range m.truth {
				if s := m.readThrough(i); s != fmt.Sprint("read through ", i, nil) {
					t.Error(s)
				}
			}
			m.restart()
			if err := m.c.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The same by several at a time, without restarts; under -race.
func TestModelConcurrent(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	m := newModel(t, seed)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for g := range 6 {
		w := *m // its own Files and random numbers
		w.rng = rand.New(rand.NewPCG(seed, uint64(g+2)))
		w.open = nil
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 120 {
				switch op := w.rng.IntN(10); {
				case op < 3:
					w.readThrough(w.rng.IntN(len(w.truth)))
				case op < 4:
					i := w.rng.IntN(len(w.truth))
					w.truth[i].mode.Store(int32(w.rng.IntN(srcModes)))
				case op < 5:
					_, _ = w.c.Evict(w.truth[w.rng.IntN(len(w.truth))].ct.Key)
				case op < 6:
					_ = w.c.Drop(w.truth[w.rng.IntN(len(w.truth))].ct.Key)
				case op < 7:
					i := w.rng.IntN(len(w.truth))
					f, err := w.c.Open(w.truth[i].ct, w.fetch(i))
					if err != nil {
						t.Error(err)
						return
					}
					w.fill(modelFile{f, i})
					f.Close()
				case op < 8:
					if w.c.ReserveUnsent(10*kb4) == nil {
						w.c.ReleaseUnsent(10 * kb4)
					}
				case op < 9:
					w.adopt(w.rng.IntN(len(w.truth)))
				default:
					i := w.rng.IntN(len(w.truth))
					_ = w.c.Seed(w.truth[i].ct, bytes.NewReader(w.truth[i].data))
				}
			}
		}()
	}
	var watcher sync.WaitGroup
	watcher.Add(1)
	go func() { // the hard limit, at any moment
		defer watcher.Done()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if s := m.c.Stats(); s.Used+s.Reserved+s.Unsent > s.Limit {
				t.Errorf("over the limit: %+v", s)
				return
			}
			time.Sleep(100 * time.Microsecond)
		}
	}()
	wg.Wait()
	close(stop)
	watcher.Wait()
	settled(t, m.c)
	m.check()
	if err := m.c.Close(); err != nil {
		t.Fatal(err)
	}
}
