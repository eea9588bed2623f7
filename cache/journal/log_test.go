package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loggedJournal is an open journal with a log of two segments of the given size.
func loggedJournal(t testing.TB, size int64) (*crashFS, Options, *Journal) {
	t.Helper()
	disk := newCrashFS(rand.New(rand.NewPCG(1, 2)))
	o := testOptions("/j")
	o.FS, o.manualLog, o.logSize = disk, true, size
	return disk, o, open(t, o)
}

// counted counts operations by kind and the end of the name.
func counted(disk *crashFS) map[string]int {
	m := map[string]int{}
	disk.fail = func(op, name string) error {
		kind := name[strings.LastIndexAny(name, "./")+1:]
		m[op+" "+kind]++
		return nil
	}
	return m
}

func only(t *testing.T, j *Journal) *Entry {
	t.Helper()
	list := j.Entries()
	if len(list) != 1 {
		t.Fatalf("%d entries", len(list))
	}
	return list[0]
}

func TestSealByTheLogIsOneSync(t *testing.T) {
	disk, o, j := loggedJournal(t, 128<<10)
	m := counted(disk)
	e := create(t, j, "abc")
	r := seal(t, e)
	if m["fdatasync log-0"] != 1 || m["fdatasync data"]+m["fdatasync rec"]+m["fsync j"] != 0 {
		t.Fatal(m)
	}
	if err := e.Update(func(r *Record) { r.State = Uploaded }); err != nil {
		t.Fatal(err)
	}
	if err := e.Sync(); err != nil { // nothing is left to do
		t.Fatal(err)
	}
	if m["fdatasync log-0"] != 2 || m["fdatasync data"]+m["fdatasync rec"]+m["fsync j"] != 0 {
		t.Fatal(m)
	}
	disk.fail = nil
	disk.cutAs(0)
	j = open(t, o)
	e = only(t, j)
	if got := e.Record(); got.State != Uploaded || got.Seq != r.Seq || content(t, e) != "abc" {
		t.Fatalf("%+v", got)
	}
	if err := e.Verify(); err != nil {
		t.Fatal(err)
	}
}

// A file that was cut is synced itself: what a crash may bring back beyond its end would pass
// for an append.
func TestCutFileIsNotSealedByTheLog(t *testing.T) {
	disk, o, j := loggedJournal(t, 128<<10)
	e := create(t, j, strings.Repeat("x", 100<<10))
	seal(t, e)
	if err := e.Truncate(3); err != nil {
		t.Fatal(err)
	}
	m := counted(disk)
	seal(t, e)
	if m["fdatasync data"] != 1 || m["fdatasync rec"] != 1 {
		t.Fatal(m)
	}
	disk.fail = nil
	disk.cutAs(0)
	if e := only(t, open(t, o)); content(t, e) != "xxx" || e.State() != Sealed || len(disk.dirs["/j/orphans"].now) != 0 {
		t.Fatalf("%+v", e.Record())
	}
}

// Of closers that come while a sync is under way, all share the next.
func TestSealsShareTheSync(t *testing.T) {
	disk, _, j := loggedJournal(t, 256<<10)
	var list []*Entry
	for range 16 {
		list = append(list, create(t, j, "abc"))
	}
	hold, first := make(chan struct{}), make(chan struct{}, 100)
	do := j.wal.group.do
	j.wal.group.do = func() error { err := do(); first <- struct{}{}; <-hold; return err }
	m := counted(disk)
	var wg sync.WaitGroup
	wg.Go(func() { list[0].Seal() })
	<-first
	for _, e := range list[1:] {
		wg.Go(func() {
			if _, err := e.Seal(); err != nil {
				t.Error(err)
			}
		})
	}
	for waiting := 0; waiting < len(list)-1; time.Sleep(time.Millisecond) {
		j.wal.group.mu.Lock()
		if waiting = 0; j.wal.group.next != nil {
			waiting = j.wal.group.next.callers
		}
		j.wal.group.mu.Unlock()
	}
	close(hold)
	wg.Wait()
	if m["fdatasync log-0"] != 2 {
		t.Fatal(m)
	}
}

// A log that is full does not stop anybody; a checkpoint makes room again.
func TestFullLog(t *testing.T) {
	disk, o, j := loggedJournal(t, 128<<10)
	m := counted(disk)
	for i := range 60 {
		e := create(t, j, strings.Repeat("x", 100+i))
		seal(t, e)
	}
	if m["fdatasync rec"] == 0 {
		t.Fatal(m)
	}
	for range 2 {
		if err := j.wal.checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
	clear(m)
	seal(t, create(t, j, "again"))
	if m["fdatasync rec"] != 0 {
		t.Fatal(m)
	}
	// There is room for the removal of all that it knows, always.
	for _, e := range j.Entries() {
		if err := e.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	disk.fail = nil
	disk.cutAs(0)
	if left := open(t, o).Entries(); len(left) != 0 {
		t.Fatalf("%d are back", len(left))
	}
}

// What was removed does not come back out of the log, whatever else was lost.
func TestRemovalIsInTheLog(t *testing.T) {
	disk, o, j := loggedJournal(t, 128<<10)
	e := create(t, j, "abc")
	seal(t, e)
	m := counted(disk)
	if err := e.Remove(); err != nil {
		t.Fatal(err)
	}
	if m["fdatasync log-0"] != 1 || m["fsync j"] != 0 {
		t.Fatal(m)
	}
	disk.fail = nil
	disk.cutAs(0)
	j = open(t, o)
	if len(j.Entries()) != 0 {
		t.Fatal("it is back")
	}
}

// A removal that fails after it was noted is taken back.
func TestRemovalThatFails(t *testing.T) {
	disk, o, j := loggedJournal(t, 128<<10)
	e := create(t, j, "abc")
	seal(t, e)
	disk.fail = failing("remove", ".rec", 1, unix.EIO)
	if err := e.Remove(); !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	disk.fail = nil
	seal(t, e)
	disk.cutAs(0)
	if got := content(t, only(t, open(t, o))); got != "abc" {
		t.Fatal(got)
	}
}

// A sync of the log that fails costs nobody a file: it is made durable without the log,
// which is not used again.
func TestLogSyncFails(t *testing.T) {
	disk, o, j := loggedJournal(t, 128<<10)
	a, b := create(t, j, "a"), create(t, j, "b")
	lazy := create(t, j, "lazy")
	seal(t, a)
	if _, err := lazy.SealLazy(); err != nil {
		t.Fatal(err)
	}
	disk.fail = failing("fdatasync", "/log-0", 1, unix.EIO)
	seal(t, b)
	disk.fail = nil
	m := counted(disk)
	seal(t, create(t, j, "c"))
	if m["fdatasync log-0"] != 0 || m["fdatasync rec"] != 1 {
		t.Fatal(m)
	}
	disk.fail = nil
	if err := j.wal.checkpoint(); err != nil { // the end of the log
		t.Fatal(err)
	}
	disk.cutAs(0)
	if disk.dirs["/j"].now["log-0"] != nil {
		t.Fatal("the log is still there")
	}
	j = open(t, o)
	var got []string
	for _, e := range j.Entries() {
		if err := e.Verify(); err != nil {
			t.Error(err)
		}
		got = append(got, content(t, e))
	}
	if fmt.Sprint(got) != "[a lazy b c]" {
		t.Fatal(got)
	}
}

// When a checkpoint's sync fails, the log keeps what it has, the entries take no more, and the
// next start has everything.
func TestCheckpointFails(t *testing.T) {
	for _, few := range []int{0, 100} {
		for _, fault := range []string{"syncfs /j", "fsync /j", "fdatasync .data", "fdatasync .rec", "write /log-0", "fdatasync /log-0"} {
			t.Run(fmt.Sprint(fault, few), func(t *testing.T) {
				disk, o, j := loggedJournal(t, 128<<10)
				j.wal.few = few
				e := create(t, j, "abc")
				seal(t, e)
				op, suffix, _ := strings.Cut(fault, " ")
				disk.fail = failing(op, suffix, 1, unix.EIO)
				err := j.wal.checkpoint()
				hit := errors.Is(err, unix.EIO)
				disk.fail = nil
				if hit && !strings.HasSuffix(fault, "log-0") && fault != "fdatasync .rec" { // those may be tried again
					if _, err := e.WriteAt([]byte("x"), 3); err != nil {
						t.Fatal(err)
					}
					if err := e.Sync(); !errors.Is(err, unix.EIO) {
						t.Fatal("synced after a failed sync:", err)
					}
				}
				disk.cutAs(0)
				j = open(t, o)
				e = only(t, j)
				if got := content(t, e); got != "abc" || e.Verify() != nil {
					t.Fatal(got, e.Verify())
				}
			})
		}
	}
}

// SealLazy: nothing is synced, kill -9 loses nothing, a Sync or an Update makes it durable.
func TestSealLazy(t *testing.T) {
	for _, c := range []struct {
		name  string
		then  func(*Entry) error
		after func(*crashFS)
		found bool
	}{
		{"kill", nil, (*crashFS).kill, true},
		{"power cut", nil, func(d *crashFS) { d.cutAs(0) }, false},
		{"sync", (*Entry).Sync, func(d *crashFS) { d.cutAs(0) }, true},
		{"seal", func(e *Entry) error { _, err := e.Seal(); return err }, func(d *crashFS) { d.cutAs(0) }, true},
		{"update", func(e *Entry) error { return e.Update(func(r *Record) { r.Mode = 1 }) }, func(d *crashFS) { d.cutAs(0) }, true},
		{"checkpoint", func(e *Entry) error { return e.j.wal.checkpoint() }, func(d *crashFS) { d.cutAs(0) }, true},
		{"interval", func(e *Entry) error { return e.j.wal.sync() }, func(d *crashFS) { d.cutAs(0) }, true},
		{"close", func(e *Entry) error { return e.j.Close() }, func(d *crashFS) { d.cutAs(0) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk, o, j := loggedJournal(t, 128<<10)
			e := create(t, j, "abc")
			m := counted(disk)
			if _, err := e.SealLazy(); err != nil {
				t.Fatal(err)
			}
			for k := range m {
				if strings.Contains(k, "sync") {
					t.Fatal(m)
				}
			}
			disk.fail = nil
			if c.then != nil {
				if err := c.then(e); err != nil {
					t.Fatal(err)
				}
			}
			c.after(disk)
			j = open(t, o)
			if !c.found {
				if len(j.Entries()) != 0 {
					t.Fatal("found: the model is wrong")
				}
				return
			}
			if e := only(t, j); e.State() != Sealed || content(t, e) != "abc" || e.Verify() != nil {
				t.Fatalf("%+v", e.Record())
			}
		})
	}
}

// The interval does it by itself.
func TestSealLazyIsSyncedSoon(t *testing.T) {
	o := testOptions(t.TempDir())
	o.logSize, o.SyncEvery = 512<<10, time.Millisecond
	j := open(t, o)
	defer j.Close()
	if err := j.wal.make(); err != nil {
		t.Fatal(err)
	}
	synced := make(chan struct{}, 10)
	do := j.wal.group.do
	j.wal.group.do = func() error { defer func() { synced <- struct{}{} }(); return do() }
	if _, err := create(t, j, "abc").SealLazy(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-synced:
	case <-time.After(30 * time.Second):
		t.Fatal("not synced")
	}
}

// A flipped bit in the log never gives wrong bytes for right ones, and costs nothing when the
// files are good.
func TestRotInTheLog(t *testing.T) {
	const was = "what was sealed"
	for _, lost := range []bool{false, true} { // the files did not reach the disk
		damaged := 0
		for bit := 0; bit < 8*(segStart+logUnit); bit += 7 {
			if bit/8%segCopy > 2000 {
				continue // padding
			}
			disk, o, j := loggedJournal(t, 32<<10)
			seal(t, create(t, j, was))
			in := disk.dirs["/j"].now["log-0"]
			in.durable[bit/8] ^= 1 << (bit % 8)
			in.now = bytes.Clone(in.durable)
			if lost {
				disk.cutAs(0)
			} else {
				disk.kill()
			}
			j = open(t, o)
			list := j.Entries()
			if len(list) == 0 || list[0].State() == Abandoned || list[0].Verify() != nil {
				damaged++
				if !lost && len(list) == 0 {
					t.Fatalf("bit %d: the file is lost", bit)
				}
				continue
			}
			if got := content(t, list[0]); got != was {
				t.Fatalf("bit %d: %q", bit, got)
			}
		}
		t.Logf("files lost %v: %d flips made a difference", lost, damaged)
	}
}

// Content that looks like a record of the log is none.
func TestForgedRecord(t *testing.T) {
	disk, o, j := loggedJournal(t, 128<<10)
	victim := create(t, j, "victim")
	seal(t, victim)
	forged := encodeLogged(logGone, victim.ID(), 1<<40, nil, nil)
	var all []byte
	for len(all) < 40<<10 { // somewhere it is at the right place, with what can be guessed
		h := j.wal.cur.head
		h.salt++
		placeLogged(forged, h, j.wal.cur.off+int64(len(all)))
		all = append(all, forged...)
	}
	e := create(t, j, "")
	write(t, e, string(all), 0)
	seal(t, e)
	// The record around it is torn, so the scan goes through its content.
	in := disk.dirs["/j"].now["log-0"]
	at := bytes.LastIndex(in.now, []byte(`"id":"`+e.ID()))
	in.now[at] ^= 1
	in.durable = bytes.Clone(in.now)
	disk.kill()
	j = open(t, o)
	if _, ok := j.Entry(victim.ID()); !ok {
		t.Fatal("removed by a forged record")
	}
}

// A log of a later program is left alone, and one of another size is emptied and replaced.
func TestLogOfAnotherVersion(t *testing.T) {
	disk, o, j := loggedJournal(t, 128<<10)
	seal(t, create(t, j, "abc"))
	disk.kill()
	o.logSize = 64 << 10
	j = open(t, o)
	if got := content(t, only(t, j)); got != "abc" || j.wal.size != 64<<10 || j.wal.cur == nil {
		t.Fatal(got)
	}
	seal(t, create(t, j, "def"))
	disk.kill()
	o.manualLog, o.logSize = false, -1 // none
	j = open(t, o)
	if len(j.Entries()) != 2 || len(j.wal.segments()) != 0 || disk.dirs["/j"].now["log-0"] != nil {
		t.Fatal("kept")
	}
	crash(t, j)
	disk, o, j = loggedJournal(t, 128<<10)
	seal(t, create(t, j, "abc"))
	disk.kill()
	in := disk.dirs["/j"].now["log-0"]
	b := segmentHead{gen: 100, size: 128 << 10}.encode()
	b[8] = logVersion + 1
	binary.LittleEndian.PutUint32(b[40:], crc32.Checksum(b[:40], castagnoli))
	in.now = writeTo(b, 0)(in.now)
	if _, err := Open(o); !errors.Is(err, ErrVersion) {
		t.Fatal(err)
	}
}

// Both headers of a segment gone: it is kept for people, not for what it says.
func TestLogWithoutHeader(t *testing.T) {
	disk, o, j := loggedJournal(t, 128<<10)
	seal(t, create(t, j, "abc"))
	in := disk.dirs["/j"].now["log-0"]
	clear(in.now[:segStart])
	disk.kill()
	open(t, o)
	found := false
	for name := range disk.dirs["/j/orphans"].now {
		found = found || strings.HasSuffix(name, ".log")
	}
	if !found {
		t.Fatal(disk.dirs["/j/orphans"].now)
	}
}

// A checkpoint empties the log while others write, seal, update and remove.
func TestCheckpointsBesideWork(t *testing.T) {
	o := testOptions(t.TempDir())
	o.logSize, o.SyncEvery = 512<<10, time.Millisecond
	j := open(t, o)
	if err := j.wal.make(); err != nil {
		t.Fatal(err)
	}
	j.wal.few = 4
	want := sync.Map{}
	var work, check sync.WaitGroup
	stop := make(chan struct{})
	check.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := j.wal.checkpoint(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for w := range 4 {
		work.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 5))
			for i := range 60 {
				e, err := j.Create(Record{Path: []byte("x")})
				text := ""
				for k := range 1 + rnd.IntN(4) {
					part := strings.Repeat(string(rune('a'+k)), 1+rnd.IntN(3000))
					if err == nil {
						_, err = e.WriteAt([]byte(part), int64(len(text)))
					}
					text += part
					if err == nil {
						_, err = e.sealAs(rnd.IntN(3) == 0)
					}
					if err == nil && rnd.IntN(2) == 0 {
						err = e.Update(func(r *Record) { r.Mode++ })
					}
					if err == nil && rnd.IntN(4) == 0 {
						_, err = e.WriteAt([]byte("A"), 0)
						text = "A" + text[1:]
						if err == nil {
							_, err = e.Seal()
						}
					}
				}
				if err == nil && i%3 == 0 {
					err = e.Remove()
				} else {
					want.Store(e.ID(), text)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	close(stop)
	check.Wait()
	look := func() {
		t.Helper()
		n := 0
		want.Range(func(id, text any) bool {
			n++
			e, ok := j.Entry(id.(string))
			if !ok {
				t.Fatalf("%s is lost", id)
			}
			if got := content(t, e); got != text.(string) {
				t.Fatalf("%s: %d bytes, want %d", id, len(got), len(text.(string)))
			}
			if err := e.Verify(); err != nil {
				t.Fatal(err)
			}
			return true
		})
		if len(j.Entries()) != n {
			t.Fatalf("%d entries, want %d", len(j.Entries()), n)
		}
	}
	look()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, o)
	look()
	j.Close()
}

// After a Close nothing is left to replay.
func TestCloseEmptiesTheLog(t *testing.T) {
	disk, o, j := loggedJournal(t, 128<<10)
	seal(t, create(t, j, "abc"))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	disk.cutAs(0)
	for _, name := range []string{"log-0", "log-1"} {
		delete(disk.dirs["/j"].now, name)
	}
	j = open(t, o)
	if e := only(t, j); content(t, e) != "abc" || e.Verify() != nil {
		t.Fatal(e.Record())
	}
}

// Where there is little space, none is made.
func TestNoLogOnASmallDisk(t *testing.T) {
	disk, _, j := loggedJournal(t, 1<<40)
	if len(j.wal.segments()) != 0 {
		t.Fatal("made")
	}
	seal(t, create(t, j, "abc"))
	if _, err := disk.Stat("/j/log-0"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// A seal that comes while a checkpoint frees what an earlier one is in waits for the next sync
// of the log; until then the earlier one must be found.
func TestLazySealDuringCheckpoint(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	list := []*Entry{create(t, j, "aaa"), create(t, j, "bbb")}
	for _, e := range list {
		seal(t, e)
	}
	var once sync.Once
	slow := &slowSync{crashFS: disk, at: func() {
		once.Do(func() {
			for _, e := range list {
				if !e.op.TryLock() {
					continue // it is the one that is being synced
				}
				e.op.Unlock()
				write(t, e, "+", 3)
				if _, err := e.SealLazy(); err != nil {
					t.Error(err)
				}
			}
		})
	}}
	j.fs, j.files.fs = slow, slow
	if err := j.wal.checkpoint(); err != nil {
		t.Fatal(err)
	}
	disk.cutAs(0)
	j = open(t, o)
	if len(j.Entries()) != 2 {
		t.Fatalf("%d entries of 2 sealed ones", len(j.Entries()))
	}
	for _, e := range j.Entries() {
		if e.State() != Sealed {
			t.Errorf("%s is %s", e.ID(), e.State())
		}
		if err := e.Verify(); err != nil {
			t.Error(err)
		}
		if got := content(t, e); len(got) < 3 || len(got) > 4 {
			t.Errorf("content %q", got)
		}
	}
}
