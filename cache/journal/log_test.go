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
