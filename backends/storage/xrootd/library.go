//go:build xrdcl && cgo

package xrootd

/*
#cgo CXXFLAGS: -std=c++17 -Wall -I/usr/include/xrootd
#cgo LDFLAGS: -lXrdCl -lXrdUtils
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"os"
	"runtime/cgo"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Library is the name and version of the library, "" in a build without it.
func Library() string {
	return "libXrdCl " + strings.TrimPrefix(C.GoString(C.tarn_xrd_version()), "v")
}

// pageSum is the CRC32C of a page, or of a part of it that follows others, as the library computes it.
func pageSum(crc uint32, p []byte) uint32 {
	return uint32(C.tarn_xrd_page_sum(C.uint32_t(crc), unsafe.Pointer(unsafe.SliceData(p)), C.size_t(len(p))))
}

// ownPageSum tells whether it does so by the function of crc.cc.
func ownPageSum() bool { return C.tarn_xrd_crc32c_is_ours() != 0 }

// Limits of the library, which has them once in a process. The first is how long a connection may take; there is a
// second attempt by who asks, so that one is enough here.
const (
	connectWindow  = 10 * time.Second
	connectRetry   = 1
	requestTimeout = 60 * time.Second
)

// begin sets the limits. Nothing of the library runs before it: threads come with the first request. What is set to nothing
// in the environment is not set: the library would look for a file without a name, and fail in TLS.
var begin = sync.OnceFunc(func() {
	for _, name := range []string{"X509_USER_PROXY", "X509_USER_CERT", "X509_USER_KEY", "X509_CERT_DIR", "BEARER_TOKEN_FILE"} {
		if v, set := os.LookupEnv(name); set && v == "" {
			os.Unsetenv(name)
		}
	}
	C.tarn_xrd_init(C.int(connectWindow/time.Second), connectRetry, C.int(requestTimeout/time.Second))
})

// answer is what a request ended with.
type answer struct {
	code  uint16 // of the library, 0 when it went well
	errno uint32 // of the server, or of the system
	text  string // of an error; or what a query or listing gave
	info  info   // of a stat; size also of a read
	host  string // host:port that an error is of, behind redirectors; may be empty
}

// info is what servers tell of a file.
type info struct {
	size  int64
	mtime time.Time
	flags uint32
	id    string // of the file behind the name
}

// same tells whether two are of one content.
func (i info) same(j info) bool { return i.id == j.id && i.size == j.size && i.mtime.Equal(j.mtime) }

// Flags of info (XProtocol.hh, kXR_stat).
const (
	isDir   = 2
	isOther = 4
	offline = 8
)

// done takes an answer, once, on a thread of the library: it must not block.
type done func(answer)

//export tarnXrdAnswer
func tarnXrdAnswer(call C.uintptr_t, a *C.tarn_xrd_answer) {
	h := cgo.Handle(call)
	f := h.Value().(done)
	h.Delete()
	f(answer{
		code: uint16(a.code), errno: uint32(a.error), host: C.GoString(&a.host[0]), text: C.GoStringN(a.text, C.int(a.length)),
		info: info{size: int64(a.size), mtime: time.Unix(int64(a.mtime), 0), flags: uint32(a.flags), id: C.GoString(&a.id[0])},
	})
}

func handle(f done) C.uintptr_t { return C.uintptr_t(cgo.NewHandle(f)) }

// object of the library that is freed when its owner and the last request on it are done.
type counted struct {
	p    unsafe.Pointer
	n    atomic.Int64 // the owner and requests that are out
	free func()       // may block
}

func (c *counted) take() { c.n.Add(1) }

// drop is for the owner.
func (c *counted) drop() {
	if c.n.Add(-1) == 0 {
		c.free()
	}
}

// answered is for requests, whose thread is the library's.
func (c *counted) answered() {
	if c.n.Add(-1) == 0 {
		go c.free()
	}
}

// newFileSystem is a server's name space. It connects with the first request.
func newFileSystem(url string) *counted {
	begin()
	u := C.CString(url)
	defer C.free(unsafe.Pointer(u))
	c := &counted{p: C.tarn_xrd_fs_new(u)}
	c.free = func() { C.tarn_xrd_fs_delete(c.p) }
	c.take()
	return c
}

// What a name space can be asked for.
const (
	fsStat     = C.tarn_xrd_stat
	fsRm       = C.tarn_xrd_rm
	fsRmdir    = C.tarn_xrd_rmdir
	fsMkdir    = C.tarn_xrd_mkdir
	fsMv       = C.tarn_xrd_mv
	fsList     = C.tarn_xrd_list
	fsChecksum = C.tarn_xrd_checksum
	fsSpace    = C.tarn_xrd_space
	fsConfig   = C.tarn_xrd_config
	fsLocate   = C.tarn_xrd_locate
)

func (c *counted) fs(what int, path, to string, d time.Duration, f done) {
	p, t := C.CString(path), C.CString(to)
	defer C.free(unsafe.Pointer(p))
	defer C.free(unsafe.Pointer(t))
	C.tarn_xrd_fs(c.p, C.int(what), p, t, seconds(d), handle(f))
}

// newFile is a file that is not open yet. It is closed before it is freed.
func newFile() *counted {
	begin()
	c := &counted{p: C.tarn_xrd_file_new()}
	c.free = func() {
		closed := make(chan struct{})
		C.tarn_xrd_close(c.p, seconds(closeTime), handle(func(answer) { close(closed) }))
		select {
		case <-closed:
			C.tarn_xrd_file_delete(c.p)
		case <-time.After(2 * closeTime): // the library may still use it
		}
	}
	c.take()
	return c
}

// closeTime is how long a server may take to close a file.
const closeTime = 3 * time.Second

// How a file is opened.
const (
	reading  = C.tarn_xrd_reading
	creating = C.tarn_xrd_creating // it is a new one
	updating = C.tarn_xrd_updating
)

func (c *counted) open(url string, how int, d time.Duration, f done) {
	u := C.CString(url)
	defer C.free(unsafe.Pointer(u))
	C.tarn_xrd_open(c.p, u, C.int(how), seconds(d), handle(f))
}

// where is the URL of an open file at the server that has it, behind redirectors, with what these added; "" when the
// library does not know.
func (c *counted) where() string {
	name := C.CString("LastURL")
	defer C.free(unsafe.Pointer(name))
	value := (*C.char)(C.calloc(1, 8192))
	defer C.free(unsafe.Pointer(value))
	C.tarn_xrd_file_property(c.p, name, value, 8192)
	return C.GoString(value)
}

// stat is of the moment of opening, as far as the server told it then.
func (c *counted) stat(d time.Duration, f done) { C.tarn_xrd_file_stat(c.p, 0, seconds(d), handle(f)) }

func (c *counted) statNow(d time.Duration, f done) {
	C.tarn_xrd_file_stat(c.p, 1, seconds(d), handle(f))
}

func (c *counted) read(off int64, b *buffer, d time.Duration, f done) {
	C.tarn_xrd_read(c.p, C.uint64_t(off), C.uint32_t(b.n), b.p, seconds(d), handle(f))
}

func (c *counted) write(off int64, b *buffer, d time.Duration, f done) {
	C.tarn_xrd_write(c.p, C.uint64_t(off), C.uint32_t(b.n), b.p, seconds(d), handle(f))
}

// control says a word to the server about an open file.
func (c *counted) control(word string, d time.Duration, f done) {
	w := C.CString(word)
	defer C.free(unsafe.Pointer(w))
	C.tarn_xrd_control(c.p, w, seconds(d), handle(f))
}

func (c *counted) sync(d time.Duration, f done) {
	C.tarn_xrd_sync(c.p, seconds(d), handle(f))
}

func (c *counted) close(d time.Duration, f done) {
	C.tarn_xrd_close(c.p, seconds(d), handle(f))
}

// seconds is what the library counts in.
func seconds(d time.Duration) C.uint16_t {
	return C.uint16_t(min(max((d+time.Second-1)/time.Second, 1), 1<<16-1))
}

// buffer is memory of C: the library writes to it until the answer is there, also when nobody waits any more.
type buffer struct {
	p    unsafe.Pointer
	n    int // bytes used
	size int
}

// spare keeps buffers of the largest size, which reads in a row use: fresh memory costs a page fault for each page.
var spare = make(chan *buffer, 8)

func newBuffer(n int) *buffer {
	if n > maxBuffer/2 {
		select {
		case b := <-spare:
			b.n = n
			return b
		default:
			return &buffer{p: C.malloc(maxBuffer), n: n, size: maxBuffer}
		}
	}
	return &buffer{p: C.malloc(C.size_t(max(n, 1))), n: n, size: n}
}

// maxBuffer is the most that one request carries.
const maxBuffer = 4 << 20

func (b *buffer) free() {
	if b.size == maxBuffer {
		select {
		case spare <- b:
			return
		default:
		}
	}
	C.free(b.p)
}

func (b *buffer) bytes() []byte { return unsafe.Slice((*byte)(b.p), b.n) }
