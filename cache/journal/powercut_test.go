package journal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	cutSeed  = flag.Uint64("cutseed", 0, "run the power-cut test with this seed only")
	cutSeeds = flag.Uint64("cutseeds", 0, "how many seeds the power-cut test runs; 0 is 600, or 120 with the race detector")
)

// promise is what the test knows of one entry: what was acknowledged, and what has
// happened since that may or may not survive.
type promise struct {
	now []byte // content as a reader sees it

	acked   bool   // some Sync or Seal was
	bytes   []byte // content at the last of them
	sealed  bool   // it was a Seal
	record  Record // of that Seal
	changed []bool // bytes of it that were written over since
	low     int    // smallest size since
	inPlace bool   // something below its size was changed, or the size
	trying  bool   // a Sync or Seal since did not come to an end

	paths   []string // one of them must be in the record: the last acknowledged and later ones
	safe    bool     // SAFE was acknowledged
	gone    bool     // removal was acknowledged
	leaving bool     // removal was tried
}

func (p *promise) ack(sealed bool) {
	*p = promise{now: p.now, acked: true, bytes: bytes.Clone(p.now), sealed: sealed, low: len(p.now),
		changed: make([]bool, len(p.now)), paths: p.paths, record: p.record}
}

func (p *promise) touch(off, n int) {
	for i := off; i < min(off+n, len(p.changed)); i++ {
		p.changed[i], p.inPlace = true, true
	}
}

type cutRun struct {
	t       *testing.T
	rnd     *rand.Rand
	disk    *crashFS
	j       *Journal
	logged  bool // there is a log
	files   bool // entries have files from the start
	want    map[string]*promise
	intents map[string][]string // values that may be found; "" is absence
}

// TestPowerCut runs random operations and cuts the power, or kills the process, at a
// random one of the system calls; several times in a row on the same disk. Whatever was
// acknowledged must be there.
func TestPowerCut(t *testing.T) {
	if *cutSeed != 0 {
		powerCut(t, *cutSeed)
		return
	}
	seeds := *cutSeeds
	if seeds == 0 {
		seeds = 600
		if raceDetector {
			seeds = 120
		}
	}
	for seed := uint64(1); seed <= seeds && !t.Failed(); seed++ {
		powerCut(t, seed)
	}
}

func powerCut(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	r := &cutRun{t: t, rnd: rnd, disk: newCrashFS(rnd), want: map[string]*promise{}, intents: map[string][]string{}, logged: seed%4 != 0, files: seed%8 == 1}
	defer func() {
		if t.Failed() {
			t.Logf("run again with -run TestPowerCut -cutseed %d", seed)
		}
	}()
	r.disk.Mkdir("/cache", 0)
	r.open()
	for range 4 {
		r.disk.ops, r.disk.offAt = 0, 1+rnd.IntN(200)
		for !r.disk.off {
			if err := r.step(); err != nil && !errors.Is(err, errPower) {
				t.Errorf("without a fault: %v", err)
				return
			}
		}
		// Sometimes the crash comes while an earlier one is being recovered from.
		for again := true; again; {
			if rnd.IntN(3) == 0 {
				r.disk.kill()
			} else {
				r.disk.cut()
			}
			if again = rnd.IntN(4) == 0; again {
				r.disk.offAt = 1 + rnd.IntN(60)
				if _, err := Open(r.options()); err == nil {
					r.disk.off = true
				} else if !errors.Is(err, errPower) {
					t.Errorf("open: %v", err)
					return
				}
			}
		}
		r.open()
		r.check()
		if t.Failed() {
			return
		}
	}
}

func (r *cutRun) options() Options {
	o := Options{Dir: "/j", NewHash: newSums, FS: r.disk, Log: slog.New(slog.DiscardHandler), IdleFiles: 2, DirtyFiles: 2}
	// Small enough that it is full at times, of a size that changes at times, or none.
	o.manualLog, o.logSize, o.logSegments, o.withFiles = r.logged, 96<<10, 4, r.files
	o.Algs, o.late, o.lateTime = allAlgs, 1500, time.Hour // what is bigger gets its sums late
	if r.rnd.IntN(8) == 0 {
		o.logSize = 72 << 10
	}
	return o
}

func (r *cutRun) open() {
	j, err := Open(r.options())
	if err != nil {
		r.t.Fatalf("open: %v", err)
	}
	r.j = j
	j.wal.few = r.rnd.IntN(4) // both ways of a checkpoint
}

func (r *cutRun) pick() (*Entry, *promise) {
	list := r.j.Entries()
	if len(list) == 0 {
		return nil, nil
	}
	slices.SortFunc(list, func(a, b *Entry) int { return bytes.Compare([]byte(a.id), []byte(b.id)) })
	e := list[r.rnd.IntN(len(list))]
	return e, r.want[e.id]
}

// step does one random operation.
func (r *cutRun) step() error {
	op := r.rnd.IntN(100)
	if op < 15 {
		e, err := r.j.Create(Record{Path: []byte("first")})
		if err == nil {
			r.want[e.ID()] = &promise{paths: []string{"first"}}
		}
		return err
	}
	if op < 20 {
		return r.intent()
	}
	if op < 23 {
		return r.j.wal.checkpoint()
	}
	if op < 24 {
		r.j.spillOld(0)
		if r.logged { // without, there is a background, which would survive the crash
			r.j.wal.widen()
		}
		return nil
	}
	e, p := r.pick()
	if e == nil {
		return nil
	}
	switch {
	case op < 50:
		off := len(p.now)
		if r.rnd.IntN(3) == 0 {
			off = r.rnd.IntN(len(p.now) + 600)
		}
		b := make([]byte, 1+r.rnd.IntN(1500))
		for i := range b {
			b[i] = byte(1 + r.rnd.IntN(255))
		}
		p.touch(off, len(b)) // before: it may happen in part
		n, err := e.WriteAt(b, int64(off))
		p.now = writeTo(b[:n], int64(off))(p.now)
		return err
	case op < 54:
		n := r.rnd.IntN(len(p.now) + 300)
		p.low = min(p.low, n)
		p.inPlace = p.inPlace || n < len(p.bytes)
		err := e.Truncate(int64(n))
		if err == nil && n < len(p.now) {
			p.now = p.now[:n:n]
		} else if err == nil {
			p.now = append(p.now, make([]byte, n-len(p.now))...)
		}
		return err
	case op < 57:
		off, n := r.rnd.IntN(len(p.now)+10), 1+r.rnd.IntN(1000)
		p.touch(off, n)
		err := e.Allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
		if err == nil && off < len(p.now) {
			clear(p.now[off:min(off+n, len(p.now))])
		}
		return err
	case op < 66:
		p.trying = true
		err := e.Sync()
		if err == nil {
			rec := e.Record()
			p.ack(!rec.State.Open())
			p.record = rec
		}
		return err
	case op < 80:
		p.trying = true
		if r.rnd.IntN(4) == 0 { // promises nothing yet
			_, err := e.SealLazy()
			return err
		}
		rec, err := e.Seal()
		if err == nil {
			p.ack(true)
			p.record = rec
		}
		return err
	case op < 90:
		path := fmt.Sprintf("path%d", r.rnd.IntN(1e6))
		if r.rnd.IntN(20) == 0 {
			path += string(make([]byte, 5000)) // outgrows its slot
		}
		p.paths = append(p.paths, path)
		lazy := r.rnd.IntN(3) == 0
		update := e.Update
		if lazy {
			update = e.UpdateLazy
		}
		err := update(func(rec *Record) { rec.Path = []byte(path) })
		if err == nil && !lazy {
			p.paths = []string{path}
		}
		return err
	case op < 94:
		if e.State() != Sealed {
			return nil
		}
		if e.Record().SumsLate {
			p.trying = true // a crash leaves it with the late ones or without
			err := e.Verify()
			if err == nil {
				_, err = e.Seal()
			}
			if err == nil {
				p.ack(true)
				p.record = e.Record()
			}
			return err
		}
		return e.Update(func(rec *Record) { rec.State = Safe })
	case op < 97:
		if e.State() != Safe {
			return nil
		}
		p.leaving = true
		var took string
		err := e.TakeData(func(path string) error {
			took = "/cache/" + e.id
			if err := r.disk.Rename(path, took); err != nil {
				return err
			}
			return syncDir(r.disk, "/cache")
		})
		if err == nil {
			p.gone = true
			in := r.disk.dirs["/cache"].now[e.id]
			if in == nil || !bytes.Equal(in.now, p.now) {
				r.t.Errorf("%s: taken data differs", e.id)
			}
			p.safe = true
		}
		return err
	}
	p.leaving = true
	err := e.Remove()
	p.gone = err == nil
	return err
}

func (r *cutRun) intent() error {
	name := fmt.Sprintf("rename/%d", r.rnd.IntN(3))
	if r.intents[name] == nil {
		r.intents[name] = []string{""}
	}
	v := ""
	do := r.j.DropIntent
	if r.rnd.IntN(3) > 0 {
		v = fmt.Sprintf("step %d", r.rnd.IntN(1e6))
		do = func(n string) error { return r.j.PutIntent(n, []byte(v)) }
	}
	r.intents[name] = append(r.intents[name], v)
	err := do(name)
	if err == nil {
		r.intents[name] = []string{v}
	}
	return err
}

// check compares what was found with what was promised, and takes over what was found.
func (r *cutRun) check() {
	found := map[string]*Entry{}
	for _, e := range r.j.Entries() {
		found[e.ID()] = e
		if r.want[e.ID()] == nil {
			// Its Create did not come to an end, so nobody knows it.
			r.want[e.ID()] = &promise{paths: []string{"first"}}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.want)) {
		p, e := r.want[id], found[id]
		switch {
		case e == nil && p.acked && !p.leaving:
			r.t.Errorf("%s: acknowledged, and not there", id)
		case e == nil:
			delete(r.want, id)
		case p.gone && !p.safe && p.acked:
			r.t.Errorf("%s: removed durably, and back as %+v", id, e.Record())
		default:
			r.checkEntry(e, p)
		}
	}
	for name, in := range r.disk.dirs["/cache"].now {
		if p := r.want[name]; p != nil && p.gone && !bytes.Equal(in.now, p.bytes) {
			r.t.Errorf("%s: the cache's file has changed", name)
		}
	}
	intents, err := r.j.Intents()
	if err != nil {
		r.t.Errorf("intents: %v", err)
	}
	for name, may := range r.intents {
		if got := string(intents[name]); !slices.Contains(may, got) {
			r.t.Errorf("intent %s is %q, may be one of %q", name, got, may)
		} else {
			r.intents[name] = []string{got} // Open made it durable
		}
	}
}

func (r *cutRun) checkEntry(e *Entry, p *promise) {
	rec := e.Record()
	if rec.Damaged {
		r.t.Errorf("%s: %s", e.id, rec.Error)
		return
	}
	got := make([]byte, e.Size())
	if n, err := e.ReadAt(got, 0); n != len(got) {
		r.t.Errorf("%s: read: %v", e.id, err)
		return
	}
	if !slices.Contains(p.paths, string(rec.Path)) {
		r.t.Errorf("%s: path %.20q, may be one of %.80q", e.id, rec.Path, p.paths)
	}
	if p.acked {
		keep := min(len(p.bytes), p.low)
		if len(got) < keep {
			r.t.Errorf("%s: %d bytes, %d were acknowledged", e.id, len(got), keep)
			return
		}
		for i := range keep {
			if got[i] != p.bytes[i] && !p.changed[i] {
				r.t.Errorf("%s: byte %d differs from what was acknowledged (sealed: %v)", e.id, i, p.sealed)
				return
			}
		}
		if rec.State == Abandoned {
			r.t.Errorf("%s: acknowledged, and abandoned", e.id)
		}
		if p.sealed && !p.inPlace && !p.trying {
			if !bytes.Equal(got, p.bytes) || rec.State.Open() || rec.Seq != p.record.Seq || !maps.Equal(rec.Sums, p.record.Sums) {
				r.t.Errorf("%s: sealed as %+v, and is %d bytes and %+v", e.id, p.record, len(got), rec)
			}
		}
	}
	p.now = got
	if p.leaving {
		p.gone, p.leaving = false, false
	}
	if p.acked {
		// What was found is not promised anew, except where it is looked at below.
		p.trying = p.trying || rec.State.Open()
	}
	if rec.State == Abandoned || r.rnd.IntN(2) == 0 {
		return
	}
	if err := e.Verify(); err != nil {
		r.t.Errorf("%s: %v, was %+v", e.id, err, rec)
		return
	}
	sealed := e.Record()
	h := newSums()
	h.Write(got)
	if !maps.Equal(h.Sums(), sealed.Sums) || sealed.Size != int64(len(got)) {
		r.t.Errorf("%s: sealed as %+v, content is %d bytes %v", e.id, sealed, len(got), h.Sums())
	}
	if _, err := e.Seal(); err != nil { // a sealed one stays, and is durable now
		r.t.Errorf("%s: %v", e.id, err)
		return
	}
	p.ack(true)
	p.record = e.Record()
}

// Lazy updates, torn or lost in any mixture, also around a kill, never cost the durable
// record under them.
func TestLazyUpdatesKeepTheRecord(t *testing.T) {
	for seed := uint64(1); seed <= 300; seed++ {
		rnd := rand.New(rand.NewPCG(seed, 2))
		disk := newCrashFS(rnd)
		o := testOptions("/j")
		o.FS = disk
		j := open(t, o)
		e := create(t, j, "abc")
		sealed := seal(t, e)
		for n := range 1 + rnd.IntN(5) {
			if rnd.IntN(3) == 0 {
				crash(t, j)
				disk.kill()
				j = open(t, o)
				e = j.Entries()[0]
			}
			// Longer than a sector, so that half of it is not all of it.
			long := string(bytes.Repeat([]byte{byte('a' + n)}, 1500))
			if err := e.UpdateLazy(func(r *Record) { r.Base = long }); err != nil {
				t.Fatal(err)
			}
		}
		crash(t, j)
		disk.cutAs(2)
		j = open(t, o)
		if len(j.Entries()) != 1 {
			t.Fatalf("seed %d: the record is lost", seed)
		}
		if r := j.Entries()[0].Record(); r.State != Sealed || r.Seq != sealed.Seq {
			t.Fatalf("seed %d: %+v", seed, r)
		}
	}
}
