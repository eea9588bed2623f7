// Package uring serves FUSE requests over io_uring (Linux 6.14): a queue for each CPU, whose
// thread runs on that CPU and takes a request, answers it and fetches the next one by one
// system call. What go-fuse has no server for is only the way of a request: what it says,
// and whom it calls, is go-fuse's ProtocolServer.
//
//	u, err := uring.New(uring.Options{...})     // before the mount: else the kernel would wait for it
//	srv, err := fuse.NewServer(...)             // with fuse.CAP_OVER_IO_URING
//	err = u.Start(fuse.NewProtocolServer(...))
//	u.Wait(); srv.Serve()                       // which sees the end
//
// An entry of a queue carries a request from its arrival to its answer. So what may wait runs
// on a goroutine, and each queue is given more entries while half of those it has are held: a
// thousand readers that wait for tape leave room for others. What is quick runs on the queue's
// thread, and must not wait for what another request does.
//
// FORGET and INTERRUPT still come by the device.
package uring

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ErrOff says that the owner of the machine has not allowed it, and how that is done.
var ErrOff = errors.New("FUSE over io_uring is off: it needs Linux 6.14, and echo 1 > " + parameter)

const parameter = "/sys/module/fuse/parameters/enable_uring"

// Allowed gives ErrOff where it is not.
func Allowed() error {
	if b, err := os.ReadFile(parameter); err != nil || !strings.HasPrefix(string(b), "Y") {
		return ErrOff
	}
	return nil
}

// Options are those of a Server.
type Options struct {
	// Quick tells whether a request is answered from memory. It gets what is special to the
	// operation beside the header, as the kernel sends it, and the names.
	Quick func(h *fuse.InHeader, op, data []byte) bool
	Log   *slog.Logger
}

// Server serves one connection.
type Server struct {
	o       Options
	ps      *fuse.ProtocolServer
	fd      int // the device
	before  []string
	servers []*server
	device  chan int
	started chan error
	all     sync.WaitGroup
	stopped atomic.Bool
	over    chan struct{}

	mu      sync.Mutex
	entries []*entry
}

// New makes rings and threads. Its error says why that cannot be done here.
func New(o Options) (*Server, error) {
	if err := Allowed(); err != nil {
		return nil, err
	}
	possible, err := cpus("possible")
	if err != nil {
		return nil, err
	}
	online, err := cpus("online")
	if err != nil {
		return nil, err
	}
	// A thread would get where the process may not run, or the kernel refuse it.
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return nil, os.NewSyscallError("sched_getaffinity", err)
	}
	for _, cpu := range online {
		if !may.IsSet(cpu) {
			return nil, fmt.Errorf("FUSE over io_uring needs a thread on every CPU, and the process may not run on CPU %d", cpu)
		}
	}
	u := &Server{o: o, device: make(chan int), over: make(chan struct{})}
	if u.before, _, err = connections(); err != nil {
		return nil, err
	}
	for _, cpu := range online {
		u.servers = append(u.servers, &server{u: u, cpu: cpu, queues: []*queue{{cpu: cpu}}})
	}
	for _, cpu := range possible { // the kernel wants a queue of each
		if !slices.Contains(online, cpu) {
			u.servers[0].queues = append(u.servers[0].queues, &queue{cpu: cpu})
		}
	}
	ready := make(chan error)
	u.started = make(chan error, len(u.servers))
	for _, s := range u.servers {
		u.all.Add(1)
		go func() {
			defer u.all.Done()
			s.serve(ready, u.started, u.device)
		}()
	}
	for range u.servers {
		err = errors.Join(err, <-ready)
	}
	if err != nil {
		u.Cancel()
		return nil, err
	}
	return u, nil
}

// Cancel ends a server that was not started.
func (u *Server) Cancel() {
	close(u.device)
	u.all.Wait()
}

// Start serves the one connection that this process has made since New. After an error the
// connection is of no use: the kernel waits for this server.
func (u *Server) Start(ps *fuse.ProtocolServer) error {
	now, fds, err := connections()
	if err != nil {
		u.Cancel()
		return err
	}
	u.fd = -1
	for i, c := range now {
		if !slices.Contains(u.before, c) {
			u.fd, err = unix.FcntlInt(uintptr(fds[i]), unix.F_DUPFD_CLOEXEC, 0)
			break
		}
	}
	if u.fd < 0 {
		u.Cancel()
		return errors.Join(errors.New("the mount's descriptor of /dev/fuse was not found"), err)
	}
	u.ps = ps
	for range u.servers {
		u.device <- u.fd
	}
	for range u.servers {
		err = errors.Join(err, <-u.started)
	}
	if err != nil {
		u.stop()
		u.all.Wait()
		return errors.Join(err, unix.Close(u.fd))
	}
	u.all.Add(1)
	go func() {
		defer u.all.Done()
		u.read()
	}()
	return nil
}

// Wait returns when the connection is over, and all that came by it was answered.
func (u *Server) Wait() {
	u.all.Wait()
	_ = unix.Close(u.fd) // nobody else uses it
}

// stop ends the threads, and asks what is not answered to end.
func (u *Server) stop() {
	if u.stopped.Swap(true) {
		return
	}
	close(u.over)
	for _, s := range u.servers {
		s.signal()
	}
	u.mu.Lock()
	entries := slices.Clone(u.entries)
	u.mu.Unlock()
	for _, e := range entries {
		if unique := e.unique.Load(); unique != 0 {
			u.interrupts(unique)
		}
	}
}

func (u *Server) add(e *entry) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.entries = append(u.entries, e)
}

// read takes what still comes by the device.
func (u *Server) read() {
	defer u.stop()
	buf := make([]byte, payloadSize+headerSize)
	out := make([]byte, headerSize)
	for {
		n, err := unix.Read(u.fd, buf)
		switch {
		case err == unix.EINTR, err == unix.ENOENT, err == unix.EAGAIN:
			continue
		case err != nil:
			if !ended(err) {
				u.o.Log.Error("read /dev/fuse", "err", err)
			}
			return
		case n < inHeaderSize:
			continue
		}
		if unique, ok := interrupted(buf[:n]); ok {
			u.interrupts(unique)
			continue
		}
		if n, _ = u.ps.HandleRequest([][]byte{buf[:n]}, [][]byte{out}); n > 0 {
			_, _ = unix.Write(u.fd, out[:n]) // the connection may be over
		}
	}
}

// interrupts passes on that a request is to end. It may have been answered already; or be
// on its way to who answers it, which the kernel does not tell again.
func (u *Server) interrupts(unique uint64) {
	if u.interrupt(unique) {
		return
	}
	go func() {
		for wait := time.Millisecond; wait < 5*time.Second; wait *= 2 {
			time.Sleep(wait)
			if u.interrupt(unique) {
				return
			}
		}
	}()
}

// connections gives the FUSE connections of this process, and their descriptors.
func connections() (ids []string, fds []int, err error) {
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, nil, err
	}
	for _, d := range dir {
		if t, _ := os.Readlink("/proc/self/fd/" + d.Name()); t != "/dev/fuse" {
			continue // or gone
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + d.Name())
		if err != nil {
			return nil, nil, err
		}
		for line := range strings.Lines(string(info)) {
			if id, ok := strings.CutPrefix(line, "fuse_connection:"); ok {
				fd, err := strconv.Atoi(d.Name())
				if err != nil {
					return nil, nil, err
				}
				ids, fds = append(ids, strings.TrimSpace(id)), append(fds, fd)
			}
		}
	}
	return ids, fds, nil
}

// cpus reads a list of the kernel's: 0-3,8.
func cpus(which string) ([]int, error) {
	b, err := os.ReadFile("/sys/devices/system/cpu/" + which)
	if err != nil {
		return nil, err
	}
	return parseCPUs(strings.TrimSpace(string(b)))
}

func parseCPUs(list string) (out []int, err error) {
	for _, r := range strings.Split(list, ",") {
		from, to, ok := strings.Cut(r, "-")
		if !ok {
			to = from
		}
		a, err1 := strconv.ParseUint(from, 10, 15)
		b, err2 := strconv.ParseUint(to, 10, 15)
		if err1 != nil || err2 != nil || b < a {
			return nil, fmt.Errorf("a list of CPUs: %q", list)
		}
		for ; a <= b; a++ {
			out = append(out, int(a))
		}
	}
	return out, nil
}
