package journal

import (
	"bytes"
	"strings"
	"testing"
)

// usedBuffers leaves buffers of all sizes behind that are full of what somebody wrote.
func usedBuffers() {
	for range 64 {
		for n := 1 << leastBuffer; n <= 1<<mostBuffer; n *= 2 {
			giveBuffer(bytes.Repeat([]byte("x"), n))
		}
	}
}

func TestBuffers(t *testing.T) {
	for _, n := range []int{0, 1, 2048, 2049, 4096, 5000, 65536, 1 << mostBuffer, 1<<mostBuffer + 1} {
		b := takeBuffer(n)
		if len(b) != n {
			t.Errorf("%d bytes, asked for %d", len(b), n)
		}
		giveBuffer(b)
	}
	for _, n := range []int{0, 1, 3000, 4097} { // not of a pool: the next would be too short
		giveBuffer(make([]byte, n))
	}
	for _, n := range []int{2048, 4000, 4096, 8192} {
		if b := takeBuffer(n); len(b) != n {
			t.Errorf("%d bytes, asked for %d", len(b), n)
		}
	}
}

// What one file leaves in a buffer is not found in the log, the record or the content of
// another.
func TestBuffersTellNothing(t *testing.T) {
	usedBuffers()
	payload := []byte(`{"id":"a"}`)
	b := encodeLogged(logSeal, strings.Repeat("a", 24), 2, payload, []byte("abc"))
	if i := bytes.IndexByte(b, 'x'); i >= 0 {
		t.Errorf("record of the log: a used byte at %d", i)
	}

	disk, _, j := residentJournal(t, 256<<10)
	usedBuffers()
	e := create(t, j, "abc")
	if err := e.Truncate(6000); err != nil {
		t.Fatal(err)
	}
	if err := e.Truncate(1); err != nil {
		t.Fatal(err)
	}
	if err := e.Truncate(9000); err != nil {
		t.Fatal(err)
	}
	if got := content(t, e); got != "a"+strings.Repeat("\x00", 8999) {
		t.Errorf("a content that grew has bytes that nobody wrote: %q...", got[:20])
	}
	usedBuffers()
	if err := e.spillNow(); err != nil {
		t.Fatal(err)
	}
	rec := disk.dirs["/j"].now[e.ID()+".rec"]
	if rec == nil {
		t.Fatal(files(disk))
	}
	if n := len(rec.now) / 2; n == 0 || !bytes.Equal(rec.now[n:], make([]byte, n)) {
		t.Error("the second slot of a new record is not empty")
	}
	if bytes.Contains(rec.now, []byte("xxxx")) {
		t.Error("used bytes in a record")
	}
	usedBuffers()
	e.op.Lock()
	err := e.writeRecord(e.snapshot(), true)
	e.op.Unlock()
	if err != nil || bytes.Contains(rec.now, []byte("xxxx")) {
		t.Error("used bytes in a record", err)
	}
}
