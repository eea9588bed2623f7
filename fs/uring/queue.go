package uring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The two commands of FUSE, and a notification: include/uapi/linux/fuse.h.
const (
	cmdRegister       = 1
	cmdCommitAndFetch = 2

	opInterrupt    = 36
	opNotifyReply  = 41
	notifyRetrieve = 5
)

const (
	inHeaderSize  = int(unsafe.Sizeof(fuse.InHeader{}))
	outHeaderSize = int(unsafe.Sizeof(fuse.OutHeader{}))

	// payloadSize is what the kernel asks of every entry: the largest request's data. It is
	// memory only where it was written to.
	payloadSize = 1 << 20
	headerSize  = 4096 // the page of the header, and of what the registration points at
	entrySize   = headerSize + payloadSize

	firstEntries = 16
	mostEntries  = 1 << 14 // of a queue

	// An entry that lies idle keeps so much memory; the first few may keep all.
	keepBytes   = 64 << 10
	keepEntries = 4
	trimAfter   = 2 * time.Second
)

// header is struct fuse_uring_req_header.
type header struct {
	inOut [128]byte // fuse.InHeader, then fuse.OutHeader
	opIn  [128]byte
	ent   struct {
		flags, commitID uint64
		payload, _      uint32
		_               uint64
	}
	iov [2]unix.Iovec // ours, for the registration
}

// entry carries one request at a time. It is the kernel's until a request is in it, and
// again from the commit of the answer on.
type entry struct {
	q       *queue
	h       *header
	payload []byte
	index   uint64 // in the ring's user data
	id      uint64 // of the commit
	unique  atomic.Uint64
	held    bool // by us; of the thread, as what follows
	node    uint64
	first   bool
	big     bool // more of it than keepBytes may have been written to
}

// queue is what the kernel has for one CPU: requests made there come by its entries, and
// wait while all of them are held.
type queue struct {
	cpu     int
	entries []*entry
	held    int
	lost    int // entries that the kernel did not take
	chunks  [][]byte
	kicks   uint64
}

// server is a thread with a ring, and the queues it serves: that of its own CPU, and those of
// CPUs that are not there.
type server struct {
	u       *Server
	cpu     int
	queues  []*queue
	ring    *ring
	entries []*entry // by user data, from 1 on
	event   int
	eventIn *uint64  // what is read from it, in the first chunk
	big     []*entry // to be trimmed

	mu    sync.Mutex
	done  []*entry // answered by other goroutines
	awake bool     // the event was written, or need not be
	due   bool     // it is time to trim
	gone  bool     // event is closed
	works sync.WaitGroup
}

// serve runs on a thread of its own. It tells ready when its ring is there, waits for the
// device, and tells started when its queues are registered.
func (s *server) serve(ready, started chan<- error, device <-chan int) {
	runtime.LockOSThread() // for ever: the thread is pinned, so it must end
	err := s.open()
	ready <- err
	if err != nil {
		return
	}
	defer s.close()
	fd, ok := <-device
	if !ok {
		return
	}
	err = s.start(fd)
	started <- err
	if err == nil {
		err = s.loop()
		if !ended(err) {
			// Nobody would answer what is asked on this CPU, nor end it.
			panic(fmt.Sprintf("the requests of CPU %d cannot be served any more: %v", s.cpu, err))
		}
	}
	s.u.stop()
	s.works.Wait()
}

func (s *server) open() (err error) {
	if err := pin(s.cpu); err != nil {
		return fmt.Errorf("pin a thread to CPU %d: %w", s.cpu, err)
	}
	if s.ring, err = newRing(); err != nil {
		return err
	}
	if s.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		s.ring.close()
		return os.NewSyscallError("eventfd", err)
	}
	return nil
}

func (s *server) close() {
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	s.ring.close()
	unix.Close(s.event)
	for _, q := range s.queues {
		for _, c := range q.chunks {
			unix.Munmap(c)
		}
	}
}

// ended tells whether the connection is over.
func ended(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ENODEV)
}

func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(0, &set)
}

func (s *server) start(fd int) error {
	for _, q := range s.queues {
		n := firstEntries
		if q.cpu != s.cpu {
			n = keepEntries // nothing comes from there
		}
		if err := s.grow(q, n, fd); err != nil {
			return err
		}
	}
	s.eventIn = (*uint64)(unsafe.Pointer(&s.queues[0].chunks[0][headerSize/2]))
	// What is refused completes at once.
	if err := s.listen(); err != nil {
		return err
	}
	if err := s.ring.enter(0); err != nil {
		return err
	}
	if c, ok := s.ring.completion(); ok {
		return fmt.Errorf("register with the kernel: %w", unix.Errno(-c.res))
	}
	return nil
}

// listen asks for the event.
func (s *server) listen() error {
	e, err := s.ring.next()
	if err != nil {
		return err
	}
	e.opcode, e.fd, e.addr, e.len = opRead, int32(s.event), uint64(uintptr(unsafe.Pointer(s.eventIn))), 8
	return nil
}

// grow gives the kernel n more entries of q.
func (s *server) grow(q *queue, n, fd int) error {
	mem, err := unix.Mmap(-1, 0, n*entrySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE) // it costs memory only
	q.chunks = append(q.chunks, mem)
	for ; n > 0; n-- {
		e := &entry{q: q, h: (*header)(unsafe.Pointer(&mem[0])), payload: mem[headerSize:entrySize:entrySize], first: len(q.entries) < keepEntries}
		mem = mem[entrySize:]
		q.entries = append(q.entries, e)
		s.u.add(e)
		s.entries = append(s.entries, e)
		e.index = uint64(len(s.entries))
		e.h.iov[0] = unix.Iovec{Base: &e.h.inOut[0], Len: uint64(unsafe.Offsetof(e.h.iov))}
		e.h.iov[1] = unix.Iovec{Base: &e.payload[0], Len: payloadSize}
		c, err := s.ring.next()
		if err != nil {
			return err
		}
		c.opcode, c.fd, c.off, c.userData = opURingCmd, int32(fd), cmdRegister, e.index
		c.addr, c.len = uint64(uintptr(unsafe.Pointer(&e.h.iov[0]))), 2
		c.qid = uint16(q.cpu)
	}
	return nil
}

// loop serves until the kernel ends the connection.
func (s *server) loop() error {
	for {
		if err := s.ring.enter(1); err != nil {
			return err
		}
		for {
			c, ok := s.ring.completion()
			if !ok {
				break
			}
			if c.userData == 0 {
				if err := s.wake(); err != nil {
					return err
				}
				continue
			}
			e := s.entries[c.userData-1]
			if c.res < 0 {
				err := unix.Errno(-c.res)
				if ended(err) {
					return err
				}
				s.u.o.Log.Warn("the kernel does not take an answer, or an entry for requests", "cpu", e.q.cpu, "err", err)
				e.q.lost++
				continue
			}
			if err := s.take(e); err != nil {
				return err
			}
		}
		for _, q := range s.queues {
			if err := s.room(q); err != nil {
				return err
			}
		}
		if err := s.trimIdle(); err != nil {
			return err
		}
	}
}

// room keeps half of the entries free, so that requests which wait for hours leave room for
// others. While all are held requests may gather in the kernel, which gives them to entries
// that become free, and not to new ones; so these are kicked.
func (s *server) room(q *queue) error {
	n := len(q.entries) - q.lost
	if 2*q.held < n || len(q.entries) >= mostEntries {
		return nil
	}
	full := q.held == n
	if err := s.grow(q, len(q.entries), s.u.fd); err != nil {
		s.u.o.Log.Warn("no more requests can be held", "cpu", q.cpu, "held", q.held, "err", err)
		return nil
	}
	if !full {
		return nil
	}
	if err := s.ring.enter(0); err != nil {
		return err
	}
	s.kick(q)
	return nil
}

// kick makes the kernel send an empty NOTIFY_REPLY to the queue of the CPU this runs on. Its
// answer frees an entry for one request that waits in the kernel; see kicked. The kernel wants
// it to be about a regular file that it knows; what is held long are reads, writes and closes
// of such. Where none is held, the next request on this CPU does what the kick would.
func (s *server) kick(q *queue) {
	_ = pin(q.cpu)                 // again, if it was away
	var b [outHeaderSize + 32]byte // struct fuse_notify_retrieve_out: no byte of the file
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], notifyRetrieve)
	last := uint64(0)
	for _, e := range q.entries {
		if !e.held || e.node == last {
			continue
		}
		last = e.node
		q.kicks++
		binary.NativeEndian.PutUint64(b[outHeaderSize:], kickBit|q.kicks<<1)
		binary.NativeEndian.PutUint64(b[outHeaderSize+8:], e.node)
		if _, err := unix.Write(s.u.fd, b[:]); err == nil || ended(err) {
			return
		}
	}
}

// kickBit marks the ids of kicks; those of requests are counted from 0.
const kickBit = 1 << 62

// take handles the request in e: here if that is quick, else on a goroutine.
func (s *server) take(e *entry) error {
	h := (*fuse.InHeader)(unsafe.Pointer(&e.h.inOut[0]))
	e.id = e.h.ent.commitID
	e.unique.Store(h.Unique)
	e.q.held++
	e.held, e.node = true, h.NodeId
	if h.Opcode == opNotifyReply {
		return s.kicked(e)
	}
	if s.u.o.Quick(e.in()) {
		s.u.answer(e)
		return s.commit(e, true)
	}
	s.works.Add(1)
	go func() {
		defer s.works.Done()
		s.u.answer(e)
		s.mu.Lock()
		s.done = append(s.done, e)
		s.mu.Unlock()
		s.signal()
	}()
	return nil
}

// kicked answers a kick, and kicks again when the kernel had a request that waited.
func (s *server) kicked(e *entry) error {
	q := e.q
	s.u.answer(e)
	if err := s.commit(e, false); err != nil {
		return err
	}
	if err := s.ring.enter(0); err != nil || !s.ring.has(e.index) {
		return err
	}
	s.kick(q)
	return nil
}

// in gives the request's header, what is special to its operation, and the data.
func (e *entry) in() (h *fuse.InHeader, op, data []byte) {
	h = (*fuse.InHeader)(unsafe.Pointer(&e.h.inOut[0]))
	n := min(int(e.h.ent.payload), len(e.payload))
	size := max(0, min(int(h.Length)-inHeaderSize-n, len(e.h.opIn)))
	return h, e.h.opIn[:size], e.payload[:n]
}

// answer leaves the answer to the request of e in it.
func (u *Server) answer(e *entry) {
	h, op, data := e.in()
	unique, code := h.Unique, h.Opcode
	n, st := 0, fuse.OK
	if code != opNotifyReply {
		in := [3][]byte{e.h.inOut[:inHeaderSize], op, data}
		out := [2][]byte{e.h.inOut[:outHeaderSize], e.payload}
		n, st = u.ps.HandleRequest(in[:], out[:])
	}
	if n < outHeaderSize {
		*(*fuse.OutHeader)(unsafe.Pointer(&e.h.inOut[0])) = fuse.OutHeader{Length: uint32(outHeaderSize), Unique: unique, Status: -int32(st)}
		n = outHeaderSize
	}
	e.h.ent.payload = uint32(n - outHeaderSize)
	if max(len(data), n) > keepBytes {
		e.big = true
	}
	e.unique.Store(0)
}

// commit gives e back to the kernel with its answer.
func (s *server) commit(e *entry, now bool) error {
	c, err := s.ring.next()
	if err != nil {
		return err
	}
	e.q.held--
	e.held = false
	if e.big && !e.first {
		e.big = false
		if s.big = append(s.big, e); len(s.big) == 1 {
			time.AfterFunc(trimAfter, func() {
				s.mu.Lock()
				s.due = true
				s.mu.Unlock()
				s.signal()
			})
		}
	}
	c.opcode, c.fd, c.off = opURingCmd, int32(s.u.fd), cmdCommitAndFetch
	c.qid, c.commitID = uint16(e.q.cpu), e.id
	c.userData = e.index
	if now && s.ring.pending() {
		return s.ring.enter(0) // nobody waits for what else is here
	}
	return nil
}

// signal wakes the thread.
func (s *server) signal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.awake || s.gone {
		return
	}
	s.awake = true
	one := binary.NativeEndian.AppendUint64(nil, 1)
	_, _ = unix.Write(s.event, one) // a counter has room
}

// wake commits what was answered elsewhere.
func (s *server) wake() error {
	s.mu.Lock()
	done := s.done
	s.done, s.awake = nil, false
	s.mu.Unlock()
	if s.u.stopped.Load() {
		return unix.ENOTCONN
	}
	if err := s.listen(); err != nil {
		return err
	}
	for _, e := range done {
		if err := s.commit(e, false); err != nil {
			return err
		}
	}
	return nil
}

// trimIdle gives memory of entries back that had much in them a while ago. The kernel writes
// to an entry that it has only while this thread waits, or when it is given an answer.
func (s *server) trimIdle() error {
	s.mu.Lock()
	due := s.due
	s.mu.Unlock()
	if !due {
		return nil
	}
	if err := s.ring.enter(0); err != nil || s.ring.pending() {
		return err // what has come is taken first
	}
	s.mu.Lock()
	s.due = false
	s.mu.Unlock()
	for _, e := range s.big {
		if !e.held {
			_ = unix.Madvise(e.payload[keepBytes:], unix.MADV_DONTNEED) // it costs memory only
		}
	}
	s.big = nil // of one that is held the answer will tell
	return nil
}

// interrupt passes on that a request is to end; false when none of that id is being answered.
func (u *Server) interrupt(unique uint64) bool {
	in := fuse.InterruptIn{InHeader: fuse.InHeader{Length: uint32(unsafe.Sizeof(fuse.InterruptIn{})), Opcode: opInterrupt}, Unique: unique}
	var out [outHeaderSize]byte
	n, st := u.ps.HandleRequest([][]byte{bytesOf(&in)}, [][]byte{out[:]})
	return n == 0 && st.Ok()
}

// interrupted gives the id of the request that b, from the device, wants to end.
func interrupted(b []byte) (unique uint64, ok bool) {
	var in fuse.InterruptIn
	if len(b) != int(unsafe.Sizeof(in)) {
		return 0, false
	}
	copy(bytesOf(&in), b)
	return in.Unique, in.Opcode == opInterrupt
}

func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}
