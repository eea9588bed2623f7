package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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

// A checkpoint makes files for those that are still there, and then the log is not needed.
func TestCheckpointOfResidents(t *testing.T) {
	disk, o, j := residentJournal(t, 256<<10)
	for i := range 8 {
		e := create(t, j, fmt.Sprint("content ", i))
		seal(t, e)
		if i%2 == 0 {
			if err := e.Remove(); err != nil {
				t.Fatal(err)
			}
		}
	}
	m := counted(disk)
	if err := j.wal.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if len(files(disk)) != 8 || m["open data"] != 4 || j.without.Load() != 0 {
		t.Fatal(files(disk), m, j.without.Load())
	}
	disk.fail = nil
	for name := range disk.dirs["/j"].now {
		if strings.HasPrefix(name, "log-") {
			delete(disk.dirs["/j"].durable, name)
		}
	}
	disk.cutAs(0)
	j = open(t, o)
	if list := j.Entries(); len(list) != 4 {
		t.Fatalf("%d entries", len(list))
	}
	for _, e := range j.Entries() {
		if err := e.Verify(); err != nil || e.State() != Sealed {
			t.Error(err, e.State())
		}
	}
}

// A content that was sealed again later needs no files for the segment that has the older one.
func TestCheckpointLeavesWhatIsNewer(t *testing.T) {
	disk, o, j := residentJournal(t, 64<<10)
	j.wal.widen()
	e := create(t, j, "abc")
	seal(t, e)
	j.wal.mu.Lock()
	j.wal.rotateLocked()
	j.wal.mu.Unlock()
	if _, err := e.WriteAt([]byte("def"), 3); err != nil {
		t.Fatal(err)
	}
	seal(t, e)
	if err := j.wal.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if got := files(disk); len(got) != 0 {
		t.Fatal(got)
	}
	disk.cutAs(0)
	if e := only(t, open(t, o)); content(t, e) != "abcdef" || e.State() != Sealed {
		t.Fatalf("%+v", e.Record())
	}
}

// A full disk keeps a checkpoint from making files: the log stays, nothing is lost, and it
// is done when there is room.
func TestCheckpointOnAFullDisk(t *testing.T) {
	for _, at := range []string{"open rec", "fallocate rec", "write rec", "open data", "write data"} {
		for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EIO} {
			disk, o, j := residentJournal(t, 256<<10)
			e := create(t, j, "abc")
			r := seal(t, e)
			disk.fail = func(op, name string) error {
				if at == op+" "+name[strings.LastIndexAny(name, "./")+1:] {
					return errno
				}
				return nil
			}
			err := j.wal.checkpoint()
			if at == "fallocate rec" && errno == unix.EIO { // not every file system has it
				if err != nil {
					t.Fatal(err)
				}
				continue
			}
			if !errors.Is(err, errno) {
				t.Fatalf("%s: %v", at, err)
			}
			if got := files(disk); len(got) != 0 {
				t.Fatalf("%s: %v are left", at, got)
			}
			if err := e.Update(func(r *Record) { r.Base = "x" }); err != nil || content(t, e) != "abc" {
				t.Fatalf("%s: %v", at, err)
			}
			if err := j.wal.checkpoint(); !errors.Is(err, errno) {
				t.Fatalf("%s: %v", at, err)
			}
			disk.fail = nil
			if err := j.wal.checkpoint(); err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			if got := files(disk); len(got) != 2 {
				t.Fatalf("%s: %v", at, got)
			}
			disk.cutAs(0)
			e = only(t, open(t, o))
			if got := e.Record(); got.Seq != r.Seq || got.State != Sealed || got.Base != "x" || content(t, e) != "abc" {
				t.Fatalf("%s: %+v", at, got)
			}
		}
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

// Close leaves nothing in memory or in the log.
func TestCloseGivesFiles(t *testing.T) {
	disk, o, j := residentJournal(t, 64<<10)
	j.wal.widen()
	want := map[string]bool{"writing": true}
	create(t, j, "writing")
	for i := range 9 {
		text := fmt.Sprint("sealed ", i)
		seal(t, create(t, j, text))
		want[text] = true
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for name := range disk.dirs["/j"].now {
		if strings.HasPrefix(name, "log-") {
			delete(disk.dirs["/j"].now, name)
		}
	}
	for _, e := range open(t, o).Entries() {
		delete(want, content(t, e))
	}
	if len(want) != 0 {
		t.Fatal("lost:", want)
	}
}
