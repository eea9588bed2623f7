package uring

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What io_uring(7) has that package unix does not name: include/uapi/linux/io_uring.h.
const (
	setupSQE128       = 1 << 10
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13

	offSQRing = 0
	offSQEs   = 0x10000000

	enterGetEvents = 1 << 0

	opRead     = 22
	opURingCmd = 46
	sqeSize    = 128

	sqEntries = 64
)

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFd uint32
	_                                                                      [3]uint32
	sq                                                                     struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		userAddr                                                    uint64
	}
	cq struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		userAddr                                                    uint64
	}
}

// sqe is struct io_uring_sqe of 128 bytes, with struct fuse_uring_cmd_req in its end.
type sqe struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off           uint64 // of a command: its number
	addr          uint64
	len, cmdFlags uint32
	userData      uint64
	_             uint64
	cmdReqFlags   uint64
	commitID      uint64
	qid           uint16
	_             [62]byte
}

type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// ring is an io_uring of one thread: only that which made it may use it. What completes
// for it is written to memory while that thread is in enter and waits, and at no other time.
type ring struct {
	fd             int
	mem, sqMem     []byte // the indices and CQEs; the SQEs
	sqTail         *uint32
	cqHead, cqTail *uint32
	sqMask, cqMask uint32
	cqes           unsafe.Pointer
	tail           uint32 // of what is filled in
	toSubmit       uint32
}

func newRing() (*ring, error) {
	p := params{flags: setupSQE128 | setupSingleIssuer | setupDeferTaskrun}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, sqEntries, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r := &ring{fd: int(fd)}
	size := max(int(p.sq.array+4*p.sqEntries), int(p.cq.cqes)+int(p.cqEntries)*int(unsafe.Sizeof(cqe{})))
	var err error
	if r.mem, err = unix.Mmap(r.fd, offSQRing, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		unix.Close(r.fd)
		return nil, fmt.Errorf("map a ring: %w", err)
	}
	if r.sqMem, err = unix.Mmap(r.fd, offSQEs, int(p.sqEntries)*sqeSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		unix.Munmap(r.mem)
		unix.Close(r.fd)
		return nil, fmt.Errorf("map a ring: %w", err)
	}
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.mem[off])) }
	r.sqTail, r.cqHead, r.cqTail = at(p.sq.tail), at(p.cq.head), at(p.cq.tail)
	r.sqMask, r.cqMask = *at(p.sq.ringMask), *at(p.cq.ringMask)
	for i := range p.sqEntries {
		*at(p.sq.array + 4*i) = i
	}
	r.cqes = unsafe.Pointer(&r.mem[p.cq.cqes])
	return r, nil
}

// next is the SQE to fill in.
func (r *ring) next() (*sqe, error) {
	if r.toSubmit == sqEntries {
		if err := r.enter(0); err != nil {
			return nil, err
		}
	}
	s := (*sqe)(unsafe.Pointer(&r.sqMem[(r.tail&r.sqMask)*sqeSize]))
	*s = sqe{}
	r.tail++
	r.toSubmit++
	return s, nil
}

// enter submits, and waits for n completions.
func (r *ring) enter(n uintptr) error {
	atomic.StoreUint32(r.sqTail, r.tail)
	var flags uintptr
	if n > 0 {
		flags = enterGetEvents
	}
	for {
		done, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.toSubmit), n, flags, 0, 0)
		switch errno {
		case 0:
			if r.toSubmit -= uint32(done); r.toSubmit == 0 || n > 0 {
				return nil
			}
		case unix.EINTR:
		default:
			return os.NewSyscallError("io_uring_enter", errno)
		}
	}
}

// completion is the next CQE, if there is one.
func (r *ring) completion() (c cqe, ok bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return c, false
	}
	c = *(*cqe)(unsafe.Add(r.cqes, uintptr(head&r.cqMask)*unsafe.Sizeof(c)))
	atomic.StoreUint32(r.cqHead, head+1)
	return c, true
}

// pending tells whether there is a CQE.
func (r *ring) pending() bool { return *r.cqHead != atomic.LoadUint32(r.cqTail) }

// has tells whether there is a CQE with this user data.
func (r *ring) has(userData uint64) bool {
	for i := *r.cqHead; i != atomic.LoadUint32(r.cqTail); i++ {
		if (*cqe)(unsafe.Add(r.cqes, uintptr(i&r.cqMask)*unsafe.Sizeof(cqe{}))).userData == userData {
			return true
		}
	}
	return false
}

func (r *ring) close() {
	unix.Munmap(r.mem)
	unix.Munmap(r.sqMem)
	unix.Close(r.fd)
}
