package journal

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var modelSeed = flag.Uint64("modelseed", 0, "seed of the model test; 0 takes a random one")

// modelEntry is an entry as a plain value.
type modelEntry struct {
	bytes  []byte
	sealed []byte
	state  State
	path   string
	seq    uint64
	sums   map[string]string
}

// TestModel runs random operations on a real folder, with restarts in between, against
// plain maps.
func TestModel(t *testing.T) {
	seed := *modelSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-modelseed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	o := testOptions(t.TempDir())
	o.IdleFiles, o.DirtyFiles = 3, 3
	o.manualLog, o.logSize, o.withFiles = seed%4 != 0, 256<<10, seed%8 == 1
	o.Algs, o.late, o.lateTime = allAlgs, 8<<10, time.Hour // what is bigger gets its sums late
	j := open(t, o)
	model := map[string]*modelEntry{}
	steps := 1000
	if testing.Short() || raceDetector {
		steps = 300
	}
	for step := range steps {
		var e *Entry
		var m *modelEntry
		if ids := slices.Sorted(maps.Keys(model)); len(ids) > 0 {
			id := ids[rnd.IntN(len(ids))]
			e, _ = j.Entry(id)
			m = model[id]
			if e == nil {
				t.Fatalf("step %d: %s is lost", step, id)
			}
		}
		op := rnd.IntN(100)
		if e == nil || op < 8 {
			e = create(t, j, "")
			model[e.ID()] = &modelEntry{state: Writing, path: string(e.Record().Path)}
			continue
		}
		size := len(m.bytes)
		var err error
		switch {
		case op < 40:
			p := make([]byte, 1+rnd.IntN(9000))
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			off := size
			if rnd.IntN(2) == 0 {
				off = rnd.IntN(size + 5000)
			}
			_, err = e.WriteAt(p, int64(off))
			m.bytes, m.state = writeTo(p, int64(off))(m.bytes), Writing
		case op < 46:
			n := rnd.IntN(size + 5000)
			if rnd.IntN(5) == 0 {
				n = 0
			}
			err = e.Truncate(int64(n))
			if n != size {
				m.state = Writing
			}
			if n < size {
				m.bytes = m.bytes[:n:n]
			} else {
				m.bytes = append(m.bytes, make([]byte, n-size)...)
			}
		case op < 52:
			off, n := rnd.IntN(size+100), 1+rnd.IntN(9000)
			mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE}[rnd.IntN(4)]
			err = e.Allocate(mode, int64(off), int64(n))
			if errors.Is(err, unix.EOPNOTSUPP) { // tmpfs knows no ZERO_RANGE
				err = nil
				m.state = e.State()
				break
			}
			if mode&^unix.FALLOC_FL_KEEP_SIZE != 0 && off < size {
				clear(m.bytes[off:min(off+n, size)])
				m.state = Writing
			}
			if mode&unix.FALLOC_FL_KEEP_SIZE == 0 && off+n > size {
				m.bytes = append(m.bytes, make([]byte, off+n-size)...)
				m.state = Writing
			}
		case op < 60:
			p := make([]byte, rnd.IntN(9000))
			off := rnd.IntN(size + 100)
			n, rerr := e.ReadAt(p, int64(off))
			want := m.bytes[min(off, size):min(off+len(p), size)]
			if !bytes.Equal(p[:n], want) || (rerr != nil && rerr != io.EOF) {
				t.Fatalf("step %d: read %d at %d of %d: %v", step, n, off, size, rerr)
			}
		case op < 75:
			var r Record
			r, err = []func() (Record, error){e.Seal, e.SealLazy}[rnd.IntN(2)]()
			if m.state == Writing {
				m.state, m.sealed, m.sums, m.seq = Sealed, bytes.Clone(m.bytes), r.Sums, r.Seq
				algs := allAlgs
				if r.SumsLate {
					algs = quick
				}
				if !maps.Equal(r.Sums, sumsOf(string(m.bytes), algs...)) {
					t.Fatalf("step %d: wrong sums of %d bytes", step, size)
				}
			}
		case op < 80:
			err = e.Sync()
		case op < 90:
			p := bytes.Repeat([]byte("/p"), 1+rnd.IntN(20)*rnd.IntN(100))
			update := []func(func(*Record)) error{e.Update, e.UpdateLazy}[rnd.IntN(2)]
			err = update(func(r *Record) { r.Path = p })
			m.path = string(p)
		case op < 93:
			err = e.Remove()
			delete(model, e.ID())
			e = nil
		case op < 94 && rnd.IntN(2) == 0:
			j.spillOld(0)
			if o.manualLog {
				j.wal.widen()
			}
		case op < 94:
			e.Idle()
			if m.state == Sealed {
				err = e.Verify()
				if m.sums = e.Record().Sums; !maps.Equal(m.sums, sumsOf(string(m.bytes))) {
					t.Fatalf("step %d: wrong sums of %d bytes after Verify", step, size)
				}
			}
		case op < 96:
			err = j.wal.checkpoint()
		default:
			for id := range model { // so that a restart changes nothing
				e, _ := j.Entry(id)
				if model[id].state == Writing {
					r := seal(t, e)
					model[id].state, model[id].seq, model[id].sums = Sealed, r.Seq, r.Sums
				}
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			j = open(t, o)
			e = nil
		}
		if err != nil {
			t.Fatalf("step %d, operation %d: %v", step, op, err)
		}
		if e != nil {
			r := e.Record()
			if e.Size() != int64(len(m.bytes)) || r.State != m.state || string(r.Path) != m.path || r.Seq != m.seq || !maps.Equal(r.Sums, m.sums) {
				t.Fatalf("step %d, operation %d: size %d of %d, %+v, want %s %d", step, op, e.Size(), len(m.bytes), r, m.state, m.seq)
			}
		}
		var total int64
		for _, m := range model {
			total += int64(len(m.bytes))
		}
		if files, n := j.Usage(); files != len(model) || n != total {
			t.Fatalf("step %d, operation %d: usage %d files %d bytes, want %d and %d", step, op, files, n, len(model), total)
		}
	}
	for id, m := range model {
		e, _ := j.Entry(id)
		if got := content(t, e); got != string(m.bytes) {
			t.Fatalf("%s differs in the end", id)
		}
	}
}

// Many callers share a few syncs, and none gets one that began before it called.
func TestGroupSync(t *testing.T) {
	var mu sync.Mutex
	changes, synced, runs := 0, 0, 0
	g := &groupSync{do: func() error {
		mu.Lock()
		defer mu.Unlock()
		synced = changes
		runs++
		return nil
	}}
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 50 {
				mu.Lock()
				changes++
				mine := changes
				mu.Unlock()
				if _, err := g.sync(); err != nil {
					t.Error(err)
				}
				mu.Lock()
				if synced < mine {
					t.Errorf("change %d, synced until %d", mine, synced)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d changes took %d syncs", changes, runs)
}

// Callers that come while a sync runs share the next one.
func TestGroupSyncShares(t *testing.T) {
	entered, release := make(chan struct{}, 100), make(chan struct{})
	g := &groupSync{do: func() error { entered <- struct{}{}; <-release; return nil }}
	var wg sync.WaitGroup
	wg.Go(func() { g.sync() })
	<-entered
	for range 20 {
		wg.Go(func() { g.sync() })
	}
	for joined := 0; joined < 20; runtime.Gosched() {
		g.mu.Lock()
		if g.next != nil {
			joined = g.next.callers
		}
		g.mu.Unlock()
	}
	close(release)
	wg.Wait()
	if n := len(entered); n != 1 {
		t.Fatalf("20 callers took %d syncs", n)
	}
}
