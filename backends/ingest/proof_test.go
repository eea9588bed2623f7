package ingest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/catalogue/embedded"
	"tarn/backends/ingest/watch"
	"tarn/backends/lake"
	"tarn/backends/lake/laketest"
	"tarn/backends/naming"
)

var (
	proofSeed  = flag.Uint64("proof.seed", 0, "run the proof with this seed only")
	proofSeeds = flag.Int("proof.seeds", 10, "how many random histories the proof runs")
	proofSteps = flag.Int("proof.steps", 100, "steps of each")
)

// TestProof runs random histories: every step of the ingest, in any order, with crashes at every point between them, while files are
// written, changed, replaced and removed, storages and the catalogue fail, and replicas are lost, become BAD, or come and go.
// In none may a source be unlinked that has fewer verified copies than its rules say, by what the storages really hold at
// that moment; no bytes may vanish that were not stored; and in peace all files end up deleted.
func TestProof(t *testing.T) {
	if *proofSeed != 0 {
		newWorld(t, *proofSeed).history()
		return
	}
	for range *proofSeeds {
		if seed := rand.Uint64() | 1; !t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { newWorld(t, seed).history() }) {
			t.Logf("again with -run TestProof -proof.seed=%d", seed)
			return
		}
	}
}

// world is an ingest, one step at a time, and all that may happen to it.
type world struct {
	t   *testing.T
	rnd *rand.Rand
	dir string
	cat interface {
		backends.Catalogue
		backends.Namespace
		backends.Versions
		backends.Rules
		backends.Places
	}
	disks map[string]*laketest.Storage
	tape  *laketest.Tape
	lake  *lake.Lake
	d     Definition
	led   *ledger
	k     *link
	now   time.Time
	ready []*Record // sent, not registered; lost in a crash

	peace    bool // nothing fails any more
	busy     bool // in what the world does itself
	crashed  bool
	bytes    map[uint64][]byte // of each inode that the world wrote and has not destroyed
	writer   *os.File          // somebody who has a file open, under whatever name it is now
	seq      int
	unlinked int
	log      []string
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), dir: filepath.Join(t.TempDir(), "dl0"), now: time.Unix(1e9, 0), bytes: map[uint64][]byte{}}
	w.must(os.Mkdir(w.dir, 0o755))
	var path *naming.Algorithm
	if w.rnd.IntN(2) == 0 {
		path, _ = naming.ByName("hash")
	}
	if w.rnd.IntN(4) == 0 {
		c, err := embedded.Open(embedded.Options{InMemory: true, CacheBytes: 8 << 20, Places: []string{"A", "B"}})
		w.must(err)
		t.Cleanup(func() { c.Close() })
		w.cat = c
	} else {
		w.cat = laketest.NewCatalogue()
	}
	w.disks = map[string]*laketest.Storage{"A": laketest.NewStorage(), "B": laketest.NewStorage()}
	var rses []*lake.RSE
	for _, name := range []string{"A", "B"} {
		s := w.disks[name]
		if w.rnd.IntN(2) == 0 {
			s.Checksums = []string{"adler32"}
		}
		s.Fail(w.fails)
		rses = append(rses, &lake.RSE{RSE: backends.RSE{Name: name, Kind: backends.DiskKind}, Storage: s, Naming: path})
	}
	w.tape = laketest.NewTape(time.Minute)
	rses = append(rses, &lake.RSE{RSE: backends.RSE{Name: "T", Kind: backends.TapeKind}, Storage: w.tape.Storage, Tape: w.tape})
	var err error
	w.lake, err = lake.New(lake.Options{Catalogue: w.cat, Namespace: w.cat, Versions: w.cat, Rules: w.cat, Places: w.cat, RSEs: rses})
	w.must(err)
	t.Cleanup(w.lake.Close)
	scope := backends.Info{DID: backends.DID{Scope: "ctao", Name: "/ctao"}, Type: backends.Container, Mode: 0o755, Layout: backends.LayoutLFN}
	if _, ok := w.cat.(*laketest.Catalogue); ok {
		scope.DID.Name = ""
	}
	w.must(w.cat.AddScope(t.Context(), scope))
	w.d = Definition{Name: "w", Dir: w.dir, Target: "/ctao/dl0", Delete: DeleteAfterRules,
		Rules: [][]backends.Rule{
			{{Copies: 1, Expression: "A"}, {Copies: 1, Expression: "B"}},
			{{Copies: 2, Expression: "A|B"}},
			{{Copies: 1, Expression: "A|B"}, {Copies: 1, Expression: "T"}},
			{{Copies: 1, Expression: "B"}},
		}[w.rnd.IntN(4)]}
	if w.rnd.IntN(5) == 0 {
		w.d.Delete = "keep-newest:50"
	}
	w.led, err = openLedger(filepath.Join(filepath.Dir(w.dir), "ledger"), slog.New(slog.DiscardHandler), false)
	w.must(err)
	t.Cleanup(func() { w.led.close() })
	w.must(w.options().prepare(t.Context(), w.d))
	if lt, ok := w.cat.(*laketest.Catalogue); ok {
		lt.Fail(func(string, backends.DID) error { return w.fails("", "") })
	}
	w.start()
	t.Cleanup(func() {
		if w.k.folder != nil {
			w.k.leaveFolder()
		}
		if t.Failed() {
			t.Log(strings.Join(w.log[max(0, len(w.log)-200):], "\n"))
		}
	})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) note(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

// one tells whether something with a chance of one in n happens.
func (w *world) one(n int) bool { return w.rnd.IntN(n) == 0 }

func (w *world) options() Options {
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() && *proofSeed != 0 {
		log = slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return Options{Lake: w.lake, Log: log, Now: func() time.Time { return w.now }, Workers: 1, InFlight: 1 << 20}
}

// fails makes a call to a storage or the catalogue fail now and then.
func (w *world) fails(op, _ string) error {
	if w.peace || w.busy || w.crashed || !w.one(40) || op == "space" {
		return nil
	}
	return fmt.Errorf("a bad day: %w: %w", backends.ErrUnavailable, backends.ErrTemporary)
}

// start is what a new process does. It may crash at that, too.
func (w *world) start() {
	for {
		w.crashed = false
		var err error
		w.k, err = newLink(w.options(), w.d, w.led)
		w.must(err)
		w.k.hook, w.k.tick, w.k.clock = w.hook, 0, func() time.Time { return w.now }
		w.k.patient = func(context.Context, time.Duration) bool { w.now = w.now.Add(time.Second); return true }
		w.must(w.k.enterFolder())
		err = w.k.resumeRemovals(context.Background())
		var rs []*Record
		if err == nil {
			rs, err = w.k.resume(context.Background())
		}
		if err == nil {
			for _, r := range rs {
				if w.step(w.sendOne(r)); w.crashed {
					break
				}
			}
		}
		if w.step(err); !w.crashed {
			return
		}
		w.crash()
	}
}

// crash ends the process.
func (w *world) crash() {
	w.note("CRASH")
	for _, r := range w.ready {
		w.lake.LetGo(r.held)
	}
	if rs, _, err := w.led.next(sending, nil, 1000); err == nil {
		for _, r := range rs { // the holds were in memory
			w.forget(r.RSE, r.PFN)
		}
	}
	w.ready = nil
	w.k.leaveFolder()
}

// forget ends a hold as the end of the process does.
func (w *world) forget(rse, pfn string) {
	for i := range 100000 {
		h := lake.Holder(fmt.Sprintf("holder-%d", i))
		if !w.lake.Held(rse, pfn) {
			return
		}
		w.lake.LetGo(h)
	}
}

// step looks what became of one.
func (w *world) step(err error) {
	if errors.Is(err, errCrash) {
		w.crashed = true
		return
	}
	var closed *closedError
	if err != nil && !errors.As(err, &closed) && !outage(err) && !errors.Is(err, backends.ErrStale) {
		w.t.Fatalf("step: %v", err)
	}
}

// hook is called between any two steps.
func (w *world) hook(name, path string) error {
	if path != "" || name != "seal" {
		w.note("  at %s %s", name, path)
	}
	if w.crashed {
		return errCrash
	}
	if name == "unlink" {
		w.prove(path)
		return nil
	}
	if w.peace || w.busy {
		return nil
	}
	if w.one(25) {
		w.crashed = true
		return errCrash
	}
	if name == "leased" { // writers wait for the lease to end
		w.busy = true
		w.hold()
		w.busy = false
		return nil
	}
	if name == "hidden" && w.one(4) { // who had it open is quick
		w.busy = true
		for range 5 {
			w.hold()
		}
		w.busy = false
	}
	for w.one(4) {
		w.meddle()
	}
	return nil
}

// prove is the property, at the moment of the unlink.
func (w *world) prove(path string) {
	w.busy = true
	defer func() { w.busy = false }()
	r, err := w.led.get(path)
	w.must(err)
	if r.Stage != Deleting || r.Hidden == "" || len(r.Copies) == 0 {
		w.t.Fatalf("%s is unlinked with this record: %+v", path, r)
	}
	hidden := filepath.Join(w.dir, filepath.Dir(path), r.Hidden)
	have, err := os.ReadFile(hidden)
	w.must(err)
	v, err := w.k.folder.stat(filepath.Join(filepath.Dir(path), r.Hidden))
	w.must(err)
	if want, ok := w.bytes[v.Ino]; !ok || !bytes.Equal(want, have) {
		w.t.Fatalf("%s: %q is unlinked, and is not what was written last: %q", path, have, want)
	}
	if w.writer != nil {
		if at, err := statOf(w.writer); err == nil && at.Ino == v.Ino {
			w.t.Fatalf("%s is unlinked while somebody has it open for writing", path)
		}
	}
	in, err := w.cat.Stat(w.t.Context(), r.DID)
	w.must(err)
	if in.Size != int64(len(have)) {
		w.t.Fatalf("%s: the catalogue has %d bytes", path, in.Size)
	}
	on, err := w.cat.Replicas(w.t.Context(), r.DID)
	w.must(err)
	good := map[string]bool{}
	for _, x := range on {
		stored := w.tape.Storage
		if x.RSE != "T" {
			stored = w.disks[x.RSE]
		} else if l, err := w.tape.Locality(w.t.Context(), x.PFN); err != nil || l[0] != backends.Nearline && l[0] != backends.OnlineAndNearline {
			continue
		}
		if x.State == backends.Available && !x.Verified.IsZero() && bytes.Equal(stored.Get(x.PFN), have) {
			good[x.RSE] = true
		}
	}
	for _, rule := range w.d.Rules {
		n := 0
		for _, rse := range strings.Split(rule.Expression, "|") {
			if good[rse] {
				n++
			}
		}
		if n < rule.Copies {
			w.t.Fatalf("%s is unlinked with good copies at %v only, rule: %d at %s; replicas %+v", path, good, rule.Copies, rule.Expression, on)
		}
	}
	delete(w.bytes, v.Ino)
	w.unlinked++
}

// nothingLost wants all that the world wrote to be in the folder, under whatever name.
func (w *world) nothingLost() {
	w.t.Helper()
	found := map[uint64][]byte{}
	w.must(filepath.WalkDir(w.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(w.dir, p)
		v, err := w.k.folder.stat(rel)
		if err == nil {
			found[v.Ino], err = os.ReadFile(p)
		}
		return err
	}))
	for ino, want := range w.bytes {
		if got, ok := found[ino]; !ok || !bytes.Equal(got, want) {
			w.t.Fatalf("%q (inode %d) is lost: %q", want, ino, got)
		}
	}
}

// history is one random run.
func (w *world) history() {
	for range *proofSteps {
		w.act()
		w.nothingLost()
	}
	w.peace = true
	w.note("PEACE")
	if w.writer != nil {
		w.writer.Close()
	}
	if w.crashed {
		w.crash()
		w.start()
	}
	w.d.Delete = DeleteAfterRules
	w.crash()
	w.start()
	for range 200 {
		w.now = w.now.Add(10 * time.Minute)
		w.scan()
		w.seal()
		w.register()
		w.replicate(true)
		_, err := w.k.proveAll(context.Background(), true)
		w.step(err)
		_, err = w.k.retry(nil)
		w.must(err)
		_, err = w.k.removeAll(context.Background())
		w.step(err)
		if len(w.bytes) == 0 {
			break
		}
	}
	w.nothingLost()
	if len(w.bytes) > 0 {
		for r, err := range w.led.all(context.Background(), false) {
			on, _ := w.cat.Replicas(context.Background(), r.DID)
			_, why := w.k.prove(context.Background(), r, sight{tapes: w.k.onTape(context.Background(), []*Record{r})})
			w.t.Logf("%+v %v: %v, replicas %+v", r, err, why, on)
		}
		w.t.Fatalf("%d files are not deleted in the end", len(w.bytes))
	}
	w.counted()
}

// counted compares the counters with the records.
func (w *world) counted() {
	want := counters{Of: map[Stage]Count{}}
	for r, err := range w.led.all(context.Background(), true) {
		w.must(err)
		want.add(r, 1)
	}
	got := w.led.count()
	for _, s := range stages {
		if got.Of[s] != want.Of[s] {
			w.t.Errorf("%s: %+v counted, there are %+v", s, got.Of[s], want.Of[s])
		}
	}
	if got.Here != want.Here || got.Stuck != want.Stuck {
		w.t.Errorf("counted %+v, there are %+v", got, want)
	}
}

// act is one random step.
func (w *world) act() {
	w.now = w.now.Add(time.Duration(w.rnd.IntN(3000)) * time.Millisecond)
	var err error
	switch w.rnd.IntN(9) {
	case 0, 1:
		w.meddle()
	case 2:
		w.note("scan")
		w.scan()
	case 3:
		w.note("seal and send")
		w.seal()
	case 4:
		w.note("register")
		w.register()
	case 5:
		w.note("replicate")
		w.replicate(false)
	case 6:
		w.note("prove")
		_, err = w.k.proveAll(context.Background(), true)
	case 7:
		w.note("remove")
		_, err = w.k.removeAll(context.Background())
	case 8:
		if w.one(3) {
			_, err = w.k.retry(nil)
		}
	}
	if w.step(err); w.crashed {
		w.crash()
		w.start()
	}
}

func (w *world) scan() {
	w.must(filepath.WalkDir(w.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), watch.Own) {
			return err
		}
		rel, _ := filepath.Rel(w.dir, p)
		v, err := w.k.folder.stat(rel)
		if v.Path = rel; err == nil && !w.k.known(v) {
			err = w.k.notice(context.Background(), []watch.File{v})
		}
		return err
	}))
}

func (w *world) seal() {
	rs, err := w.k.seal(context.Background(), 1+w.rnd.IntN(4))
	for i, r := range rs {
		if w.step(err); w.crashed {
			return
		}
		if err = w.sendOne(r); errors.Is(err, errCrash) {
			_ = rs[i:] // the others stay sealed
			break
		}
	}
	w.step(err)
}

// sendOne sends a file; what fails in a way that may pass is sent again, as a run does after its next start.
func (w *world) sendOne(r *Record) error {
	ok, err := w.k.send(context.Background(), r)
	if ok {
		w.ready = append(w.ready, r)
	}
	return err
}

func (w *world) register() {
	rs := w.ready
	w.ready = nil
	if len(rs) > 0 {
		w.step(w.k.register(context.Background(), rs))
	}
}

// replicate does what the replication does, or some of it.
func (w *world) replicate(all bool) {
	w.busy = true
	defer func() { w.busy = false }()
	ctx := context.Background()
	for r, err := range w.led.all(ctx, false) {
		w.must(err)
		in, err := w.cat.Stat(ctx, r.DID)
		if err != nil || !all && w.one(2) {
			continue
		}
		on, err := w.cat.Replicas(ctx, r.DID)
		w.must(err)
		var data []byte
		for _, x := range on {
			if x.State == backends.BeingDeleted && all {
				w.must(w.cat.DropReplica(ctx, r.DID, x.RSE, ""))
			}
			if s := w.disks[x.RSE]; s != nil && x.State == backends.Available && int64(len(s.Get(x.PFN))) == in.Size {
				data = s.Get(x.PFN)
			} else if x.RSE == "T" && x.State == backends.Available {
				data = w.tape.Storage.Get(x.PFN)
			}
		}
		if data == nil && in.Size > 0 {
			continue
		}
		on = slices.DeleteFunc(on, func(x backends.Replica) bool { return x.State == backends.BeingDeleted && all })
		for _, rse := range []string{"A", "B", "T"} {
			i := slices.IndexFunc(on, func(x backends.Replica) bool { return x.RSE == rse && counts(x) })
			if !all && w.one(3) {
				continue
			}
			x := backends.Replica{RSE: rse, PFN: w.lake.NewPFN(r.DID, ""), State: backends.Available, Verified: w.now}
			if i >= 0 {
				x = on[i]
			} else if !all && w.one(3) {
				x.State = backends.Copying
			} else if !all && w.one(3) {
				x.Verified = time.Time{}
			}
			if rse == "T" {
				if i < 0 {
					w.tape.Storage.Put(x.PFN, data)
					w.tape.Set(x.PFN, backends.Online)
				}
				if all || w.one(2) {
					w.tape.Set(x.PFN, backends.Nearline)
				}
			} else if i < 0 {
				w.disks[rse].Put(x.PFN, data)
			}
			if err := w.cat.PutReplica(ctx, r.DID, in.Generation, x); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// meddle is what others do: to the folder, to the copies, to the catalogue.
func (w *world) meddle() {
	if w.busy {
		return
	}
	w.busy = true
	defer func() { w.busy = false }()
	if w.one(3) {
		w.harm()
		return
	}
	if w.one(3) {
		w.hold()
		return
	}
	name := fmt.Sprintf("%s%d", []string{"", "sub/"}[w.rnd.IntN(2)], w.rnd.IntN(3))
	p := filepath.Join(w.dir, name)
	w.must(os.MkdirAll(filepath.Dir(p), 0o755))
	before, err := w.k.folder.stat(name)
	there := err == nil
	w.seq++
	text := []byte(fmt.Sprintf("content %d of %s", w.seq, name))
	if w.one(8) {
		text = nil
	}
	if w.one(6) {
		text = []byte("the same again") // another file with the same content
	}
	switch what := w.rnd.IntN(6); {
	case !there || what == 0: // a new file, in the place of another one
		w.note("    %s is written: %q", name, text)
		tmp := filepath.Join(w.dir, watch.Own+"of-the-world")
		w.must(os.WriteFile(tmp, text, 0o644))
		w.must(os.Rename(tmp, p))
		delete(w.bytes, before.Ino)
	case what == 1, what == 2: // the same file, changed
		w.note("    %s is changed: %q", name, text)
		w.must(os.WriteFile(p, text, 0o644))
		if w.one(2) { // of the same size, and the mtime put back
			w.must(os.Chtimes(p, before.MTime, before.MTime))
		}
		for { // the clock of the file system's times has to move on
			now, err := w.k.folder.stat(name)
			w.must(err)
			if !now.CTime.Equal(before.CTime) {
				break
			}
			time.Sleep(time.Millisecond)
			w.must(os.Chmod(p, 0o600|os.FileMode(w.rnd.IntN(8))))
		}
	case what == 3 && w.one(3): // gone
		w.note("    %s is removed", name)
		w.must(os.Remove(p))
		delete(w.bytes, before.Ino)
		return
	default:
		return
	}
	now, err := w.k.folder.stat(name)
	w.must(err)
	w.bytes[now.Ino] = text
}

// hold opens a file for writing, or goes on with one that is open; it may be hidden by now.
func (w *world) hold() {
	if w.writer == nil {
		var all []string
		w.must(filepath.WalkDir(w.dir, func(p string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				all = append(all, p)
			}
			return err
		}))
		if len(all) > 0 {
			p := all[w.rnd.IntN(len(all))]
			w.writer, _ = os.OpenFile(p, os.O_WRONLY|syscall.O_NONBLOCK, 0) // EAGAIN while there is a lease
			w.note("    %s is opened for writing: %v", p, w.writer != nil)
		}
		return
	}
	before, err := statOf(w.writer)
	w.must(err)
	if _, ok := w.bytes[before.Ino]; ok && w.one(2) {
		w.seq++
		text := []byte(fmt.Sprintf("writing number %3d is done.", w.seq))[:max(1, int(before.Size))%26]
		w.note("    what is open is changed: %q", text)
		for now := before; now.MTime.Equal(before.MTime); { // the clock of the file system's times has to move on
			w.must(w.writer.Truncate(0))
			_, err = w.writer.WriteAt(text, 0)
			w.must(err)
			now, err = statOf(w.writer)
			w.must(err)
		}
		w.bytes[before.Ino] = text
		return
	}
	w.note("    what was open for writing is closed")
	w.writer.Close()
	w.writer = nil
}

// harm does something to a copy.
func (w *world) harm() {
	ctx := context.Background()
	var all []*Record
	for r, err := range w.led.all(ctx, false) {
		w.must(err)
		all = append(all, r)
	}
	if len(all) == 0 {
		return
	}
	r := all[w.rnd.IntN(len(all))]
	on, err := w.cat.Replicas(ctx, r.DID)
	if err != nil || len(on) == 0 {
		return
	}
	x := on[w.rnd.IntN(len(on))]
	switch w.rnd.IntN(5) {
	case 0, 1: // found to be bad
		w.note("    replica of %s at %s is BAD", r.Path, x.RSE)
		x.State = backends.Bad
		if s := w.disks[x.RSE]; s != nil {
			s.Put(x.PFN, []byte("rubbish"))
		}
		w.must(w.cat.PutReplica(ctx, r.DID, "", x))
	case 2:
		w.note("    replica of %s at %s is dropped", r.Path, x.RSE)
		w.must(w.cat.DropReplica(ctx, r.DID, x.RSE, ""))
	case 3:
		w.note("    replica of %s at %s is being deleted", r.Path, x.RSE)
		x.State = backends.BeingDeleted
		w.must(w.cat.PutReplica(ctx, r.DID, "", x))
	case 4:
		if w.one(4) {
			w.note("    %s is removed from the lake", r.Path)
			w.must(w.cat.Remove(ctx, r.DID))
		}
	}
}
