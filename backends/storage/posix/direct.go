package posix

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Long reads of what is not in the kernel's page cache go past it, where the file system can do
// that: a file is read once into the hot cache, and from there afterwards. It saves half of a
// read's processor time, and leaves the pages to those who will want them again.
const (
	directMin   = 1 << 20
	directPiece = 512 << 10
	directAlign = 4096 // of address, offset and length: enough for any disk
)

// direct is a second way to an open file, past the page cache.
type direct struct {
	once sync.Once
	f    *os.File // nil: there is none
}

// open opens the file of f once more, if it can be read directly.
func (d *direct) open(f *os.File) *os.File {
	d.once.Do(func() {
		control(f, func(fd int) {
			var st unix.Statx_t
			if unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st) == nil && st.Mask&unix.STATX_DIOALIGN != 0 &&
				st.Dio_mem_align > 0 && max(st.Dio_mem_align, st.Dio_offset_align) <= directAlign {
				d.f, _ = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY|syscall.O_DIRECT, 0)
			}
		})
	})
	return d.f
}

// control lends the descriptor of f, unless it is closed.
func control(f *os.File, use func(fd int)) {
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { use(int(fd)) })
	}
}

func (d *direct) close() {
	d.once.Do(func() {})
	if d.f != nil {
		d.f.Close()
	}
}

// readDirect reads the beginning of p if that is better done past the page cache, and tells how
// much it read. What is left, and every error, is for an ordinary read.
//
// It asks for a piece at a time: a few long requests at once fill a disk's queue, and whoever then
// wants one block waits behind all of them, up to 200 ms where 5 ms are enough; the disk reads no
// faster for it.
func (o *object) readDirect(p []byte, off int64) int {
	n := len(p) &^ (directAlign - 1)
	if n < directMin || off%directAlign != 0 || uintptr(unsafe.Pointer(&p[0]))%directAlign != 0 || cached(o.f, off, n) {
		return 0
	}
	f := o.direct.open(o.f)
	if f == nil {
		return 0
	}
	for at := 0; at < n; {
		m, err := f.ReadAt(p[at:min(n, at+directPiece)], off+int64(at))
		at += max(m, 0)
		if err != nil {
			return at
		}
	}
	return n
}

// cached tells whether pages of a range are in the page cache, or that the kernel does not tell.
func cached(f *os.File, off int64, n int) bool {
	here := true
	control(f, func(fd int) {
		var st unix.Cachestat_t
		err := unix.Cachestat(uint(fd), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &st, 0)
		here = err != nil || st.Cache > 0
	})
	return here
}
