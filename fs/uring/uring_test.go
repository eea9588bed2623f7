package uring

import (
	"slices"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func TestParseCPUs(t *testing.T) {
	for in, want := range map[string][]int{
		"0": {0}, "0-3": {0, 1, 2, 3}, "0-1,4,6-7": {0, 1, 4, 6, 7},
		"": nil, "3-1": nil, "a": nil, "1-": nil, "0,,1": nil, "-1": nil, "0-99999": nil,
	} {
		got, err := parseCPUs(in)
		if (err == nil) != (want != nil) || err == nil && !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
}

// The kernel's structures have these sizes and places.
func TestLayout(t *testing.T) {
	var s sqe
	var h header
	for what, x := range map[string][2]uintptr{
		"params":       {unsafe.Sizeof(params{}), 120},
		"sqe":          {unsafe.Sizeof(s), sqeSize},
		"sqe.userData": {unsafe.Offsetof(s.userData), 32},
		"sqe.commitID": {unsafe.Offsetof(s.commitID), 48 + 8},
		"sqe.qid":      {unsafe.Offsetof(s.qid), 48 + 16},
		"cqe":          {unsafe.Sizeof(cqe{}), 16},
		"header":       {unsafe.Offsetof(h.iov), 128 + 128 + 32},
		"header.ent":   {unsafe.Offsetof(h.ent), 256},
		"InHeader":     {uintptr(inHeaderSize), 40},
		"OutHeader":    {uintptr(outHeaderSize), 16},
	} {
		if x[0] != x[1] {
			t.Errorf("%s: %d, want %d", what, x[0], x[1])
		}
	}
}

// FuzzIn: whatever lengths stand in an entry, what is read of it lies in it.
func FuzzIn(f *testing.F) {
	f.Add(uint32(40), uint32(0))
	f.Add(uint32(40+8+4), uint32(4))
	f.Add(uint32(0), ^uint32(0))
	f.Add(^uint32(0), uint32(payloadSize))
	h := &header{}
	payload := make([]byte, payloadSize)
	f.Fuzz(func(t *testing.T, length, size uint32) {
		e := &entry{h: h, payload: payload}
		(*fuse.InHeader)(unsafe.Pointer(&h.inOut[0])).Length = length
		h.ent.payload = size
		_, op, data := e.in()
		if len(op) > len(h.opIn) || len(data) > len(payload) {
			t.Errorf("%d bytes in all, %d of data: %d special, %d of data", length, size, len(op), len(data))
		}
		if want := int(length) - inHeaderSize - int(size); size <= payloadSize && want >= 0 && want <= len(h.opIn) && (len(op) != want || len(data) != int(size)) {
			t.Errorf("%d bytes in all, %d of data: %d special, %d of data", length, size, len(op), len(data))
		}
	})
}

func TestInterrupted(t *testing.T) {
	in := fuse.InterruptIn{InHeader: fuse.InHeader{Opcode: opInterrupt}, Unique: 42}
	if id, ok := interrupted(bytesOf(&in)); !ok || id != 42 {
		t.Errorf("an interrupt of 42: %d, %v", id, ok)
	}
	in.Opcode = 2
	if _, ok := interrupted(bytesOf(&in)); ok {
		t.Error("a forget is taken for an interrupt")
	}
	if _, ok := interrupted(bytesOf(&in)[:40]); ok {
		t.Error("a header is taken for an interrupt")
	}
}
